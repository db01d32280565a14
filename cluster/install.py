"""Set-up with nothing but Python 3.11: makes ``.venv`` and installs what ``requirements.lock`` pins.

Standard library only, for it runs before anything is installed. A second run compares one fingerprint and ends.
Exit code 0 when the environment is ready; 1 with a line that says what to do.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
ENGINE_NEEDS = ROOT / "requirements" / "engine-cpu.in"
ENGINE = ROOT / "requirements" / "engine-cpu.txt"
FINGERPRINT = VENV / "installed.sha256"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DISK_BYTES_MIN = 8 * 1024**3
INSTALLER = "uv==0.13.9"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def fingerprint() -> str:
    """A digest of everything that decides what is installed."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (Path(__file__), LOCK, ENGINE, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def require_machine() -> None:
    """Raise SetupError where the interpreter or the disk will not do."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f"Python 3.11 is needed, this is {sys.version.split()[0]}: make install PYTHON=python3.11")
    free_bytes = shutil.disk_usage(ROOT).free
    if free_bytes < DISK_BYTES_MIN:
        raise SetupError(
            f"{free_bytes / 1024**3:.1f} GiB are free on the disk of {ROOT}, {DISK_BYTES_MIN / 1024**3:.0f} are needed"
        )


def say(step: str) -> None:
    """One progress line."""
    sys.stdout.write(f"install: {step}\n")
    sys.stdout.flush()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run in the project's folder, output kept."""
    environment = os.environ | {"VIRTUAL_ENV": str(VENV)}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


def find_links() -> list[str]:
    """Local wheel folders named for pip: uv does not read that variable."""
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    return [part for link in links for part in ("--find-links", link)]


def uv(*arguments: str) -> None:
    """Run uv; PyTorch's own CPU index is asked only where the first attempt does not find its wheels."""
    command = (str(VENV / "bin" / "uv"), *arguments, *find_links())
    first = run(*command)
    if first.returncode == 0:
        return
    second = run(*command, "--extra-index-url", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match")
    if second.returncode != 0:
        raise SetupError(
            f"a package could not be had; is a package registry within reach? uv said:\n{first.stderr.strip()[-3000:]}"
        )


def prepare_environment() -> None:
    """Make ``.venv`` with uv inside."""
    if not (VENV / "bin" / "python").exists():
        say("creating .venv")
        venv.EnvBuilder(with_pip=True).create(VENV)
    done = run(str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", INSTALLER)
    if done.returncode != 0:
        raise SetupError(f"uv could not be installed; is a package registry within reach?\n{done.stderr.strip()}")


def install() -> None:
    """Bring ``.venv`` to what the lock says."""
    wanted = fingerprint()
    if FINGERPRINT.exists() and FINGERPRINT.read_text() == wanted:
        return
    require_machine()
    prepare_environment()
    say("installing the pinned dependencies (about 5 GB, some minutes)")
    # A process imports up to 7,000 modules: bytecode, made once, halves the time to the first answer, and it cannot be
    # left to the first import, which an environment may forbid to write. uv compiles what it installs, no more.
    uv("pip", "install", "--compile-bytecode", "-r", str(LOCK))
    say("installing the inference engine")
    uv("pip", "install", "--no-deps", "--compile-bytecode", "-r", str(ENGINE))
    say("installing objecta")
    uv("pip", "install", "--no-deps", "--no-build-isolation", "-e", ".")
    FINGERPRINT.write_text(wanted)
    say("done")


def lock() -> None:
    """Resolve ``requirements.lock`` from pyproject.toml and the engine's needs, keeping present pins where it can."""
    prepare_environment()
    uv(
        *("pip", "compile", "pyproject.toml", "--extra", "dev", str(ENGINE_NEEDS.relative_to(ROOT))),
        *("--generate-hashes", "--no-annotate", "--no-header", "-o", str(LOCK.relative_to(ROOT))),
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="resolve requirements.lock anew instead of installing")
    try:
        lock() if parser.parse_args().lock else install()
    except SetupError as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
