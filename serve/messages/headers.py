"""An answer's headers under Anthropic's names."""

import re
from datetime import UTC, datetime, timedelta

from serve.asgi import Headers

REQUEST_ID = b"x-request-id"
LIMIT = re.compile(rb"x-ratelimit-(limit|remaining|reset)-(requests|tokens)")
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?")
ORGANISATION = b"openai-organization"
# Of the whole answer that was translated, and of the other wire.
LEFT_OUT = frozenset({b"content-length", b"content-type", b"openai-version", b"openai-processing-ms"})


def translated(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without content type and length, which are the new answer's own."""
    named: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        limit = LIMIT.fullmatch(name)
        if limit:
            what, unit = limit.groups()
            named.append((b"anthropic-ratelimit-" + unit + b"-" + what, _moment(value) if what == b"reset" else value))
        elif name == ORGANISATION:
            named.append((b"anthropic-organization-id", value))
        elif name == REQUEST_ID:
            named += [(name, value), (b"request-id", value)]
        elif name not in LEFT_OUT:
            named.append((name, value))
    return named


def _moment(duration: bytes) -> bytes:
    """OpenAI's ``6m0s`` or ``12ms`` from now as the moment itself."""
    found = DURATION.fullmatch(duration.decode())
    hours, minutes, seconds, milliseconds = found.groups(default="0") if found else ("0",) * 4
    wait = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds), milliseconds=int(milliseconds))
    return (datetime.now(UTC) + wait).isoformat(timespec="seconds").replace("+00:00", "Z").encode()
