"""The status file: what a supervisor says about its parts, for other processes to read."""

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.home import Home, write_private
from cluster.parts import PartStatus
from cluster.processes import ProcessId


class ClusterStatus(BaseModel):
    """One supervisor's last word. ``processes`` are all it started and their descendants, for the sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    supervisor: ProcessId
    parts: tuple[PartStatus, ...]
    processes: tuple[ProcessId, ...]

    @property
    def alive(self) -> bool:
        """Whether the supervisor still runs; otherwise the parts' states are history."""
        return self.supervisor.find() is not None


def read_status(home: Home) -> ClusterStatus | None:
    """None where this home was never up, or the file is from another version."""
    try:
        return ClusterStatus.model_validate_json(home.status_path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_status(home: Home, status: ClusterStatus) -> None:
    """Replace the file in one step, mode 0600."""
    write_private(home.status_path, status.model_dump_json(indent=2) + "\n")
