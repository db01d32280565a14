"""The parent's side of the parsing process: starts it, asks it, and starts it anew when a document has ended it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pipelines.parser_child import ParserAnswer, ParserLimits, read_frame, write_frame

SOURCES = Path(__file__).resolve().parent.parent
END_SECONDS_MAX = 5.0


class ParserProcess:
    """One child process, for one thread."""

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._child = self._start()

    def parse(self, path: bytes) -> ParserAnswer:
        """One file's answer; a child that it ended (time, memory, a crash) is an answer too."""
        if self._child.poll() is not None:
            self.close()
            self._child = self._start()
        stdin, stdout = self._child.stdin, self._child.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the parser was started without pipes")
        try:
            write_frame(stdin, path)  # pyright: ignore[reportArgumentType] - Popen types a pipe as IO[bytes]
            reply = read_frame(stdout)  # pyright: ignore[reportArgumentType] - the same
        except BrokenPipeError:
            reply = None
        return self._ended() if reply is None else ParserAnswer.model_validate_json(reply)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        if self._child.stdin is not None:
            # What the child did not read is lost with it.
            with suppress(BrokenPipeError):
                self._child.stdin.close()
        self._child.wait(END_SECONDS_MAX)
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.parser_child", self._limits.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    def _ended(self) -> ParserAnswer:
        self._child.wait(END_SECONDS_MAX)
        code = self._child.returncode
        self.close()
        self._child = self._start()
        if code == -signal.SIGALRM:
            seconds = self._limits.parse_seconds_max
            return ParserAnswer(code="timeout", reason=f"Parsing took more than {seconds:g} seconds.")
        return ParserAnswer(code="broken", reason="The file is broken: it ended its parser.")
