"""Which paths may be ingested: those below a root that the operator named, symbolic links resolved first.

Whether a path outside the roots exists is not told: the answer is the same.
"""

from pathlib import Path

from models.errors import InvalidRequest

OUTSIDE = "'path' must lie below one of the folders that this platform may ingest."


def resolve_path(text: str, roots: tuple[Path, ...], *, anywhere: bool) -> Path:
    """The real path of a folder or file below one of ``roots`` (anywhere, for the operator). Reads the file system.

    Raises InvalidRequest that names ``path``.
    """
    path = Path(text)
    if not path.is_absolute():
        raise _refused("'path' must be absolute.")
    try:
        real = path.resolve()
        if not anywhere and not any(real.is_relative_to(root.resolve()) for root in roots):
            raise _refused(OUTSIDE)
        if not real.exists():
            raise _refused("'path' does not exist where the platform runs.")
        if not real.is_dir() and not real.is_file():
            raise _refused("'path' must be a folder or a file.")
    except (OSError, RuntimeError) as error:
        # RuntimeError: a loop of symbolic links (pathlib of Python 3.11).
        raise _refused("'path' cannot be followed." if anywhere else OUTSIDE) from error
    return real


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="path")
