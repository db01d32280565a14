"""What the machine must have before anything starts: memory, disk, open files, and shared memory for Ray."""

import resource
import shutil
from pathlib import Path

import psutil

from cluster.errors import NotEnough
from cluster.ray_head import OBJECT_STORE_BYTES

GIB = 1024**3
# Seen with the default models: 6.6 GiB resident in all.
MEMORY_BYTES_MIN = 7 * GIB
DISK_BYTES_MIN = 2 * GIB
OPEN_FILES_MIN = 4_096
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")


def check_machine(home: Path, memory_bytes_min: int = MEMORY_BYTES_MIN) -> list[str]:
    """Raises NotEnough that names every lack at once; returns warnings to show.

    The soft limit of open files is raised to the hard one, for this process and what it starts.
    """
    lacks: list[str] = []
    available = available_memory_bytes()
    if available < memory_bytes_min:
        lacks.append(
            f"{available / GIB:.1f} GiB of memory are available, {memory_bytes_min / GIB:.0f} are needed: end other "
            "programs, or serve fewer or smaller models"
        )
    free = shutil.disk_usage(home).free
    if free < DISK_BYTES_MIN:
        lacks.append(
            f"{free / GIB:.1f} GiB are free on the disk of {home}, {DISK_BYTES_MIN / GIB:.0f} are needed: free some, "
            "or set OBJECTA_HOME to a folder on another disk"
        )
    limit = _raise_open_files()
    if limit < OPEN_FILES_MIN:
        lacks.append(f"{limit} open files are allowed, {OPEN_FILES_MIN} are needed: raise the limit (ulimit -Hn)")
    if lacks:
        raise NotEnough("this machine does not suffice:\n" + "\n".join(f"  {lack}" for lack in lacks))
    return _warnings()


def available_memory_bytes() -> int:
    """What this process may still take: of the machine, and of its container where that has a limit."""
    available = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return min(available, int(limit) - used) if limit.isdecimal() else available


def _raise_open_files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES_MIN
    if soft < OPEN_FILES_MIN:
        soft = OPEN_FILES_MIN if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MIN, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _warnings() -> list[str]:
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < OBJECT_STORE_BYTES:
        return [
            f"{SHARED_MEMORY} has less than {OBJECT_STORE_BYTES // 1024**2} MiB free: Ray keeps its objects on disk, "
            "which is slower (in Docker: --shm-size=1g)"
        ]
    return []
