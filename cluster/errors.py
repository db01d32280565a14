"""What can stop the local cluster. Each message says what to do; whoever runs the command reads it.

    ClusterError
    ├── AlreadyRunning    another supervisor holds this home
    ├── NotEnough         memory, disk, shared memory or open files do not suffice
    ├── PortTaken         somebody listens where a part should
    ├── PartFailed        a part did not become ready, or is needed and not installed
    ├── PullFailed        no source of a model could be had
    └── DeployFailed      Serve refused an application or it did not come up

A tree of its own beside ``models.errors``: no caller of the API ever sees one of these, so they have no status and may
name paths, processes and ports. Secrets they may not.
"""


class ClusterError(Exception):
    """Base of what stops the local cluster; ``message`` is for whoever runs the command."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class AlreadyRunning(ClusterError):
    """Another supervisor holds this home."""


class NotEnough(ClusterError):
    """The machine lacks something the platform needs."""


class PortTaken(ClusterError):
    """Another process listens on a port that a part needs."""


class PartFailed(ClusterError):
    """A part did not become ready."""


class PullFailed(ClusterError):
    """No source of a model could be had."""


class DeployFailed(ClusterError):
    """An application of Serve was refused or did not come up."""
