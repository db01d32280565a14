"""What the command shows while something takes its time: a line when a step ends, a spinner until then."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cluster.parts import PartEvent
from cluster.serve_api import ApplicationEvent

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

MIB = 1024**2


class Starting:
    """Shows parts and applications as they come up."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def part(self, event: PartEvent) -> None:
        """One part's change of state."""
        if event.state == "ready":
            self._line("green", event.name, f"ready after {event.seconds:.1f} s")
        elif event.state in {"restarting", "failed"}:
            self._line("yellow", event.name, f"{event.state}: {event.message or ''}")

    def application(self, event: ApplicationEvent) -> None:
        """One Serve application's change of state."""
        if event.state == "RUNNING":
            self._line("green", event.name, f"running after {event.seconds:.1f} s")
        elif event.state in {"UNHEALTHY", "DEPLOY_FAILED"}:
            self._line("yellow", event.name, event.state.lower())

    def _line(self, colour: str, name: str, text: str) -> None:
        console.print(f"  [{colour}]●[/{colour}] {escape(name):<36} {escape(text)}")

    @property
    def seconds(self) -> float:
        """Since this display was made."""
        return time.monotonic() - self._began


@contextmanager
def step(title: str) -> Generator[None]:
    """A titled step with a spinner where there is a terminal."""
    console.print(f"[bold]{escape(title)}[/bold]")
    with console.status("working …"):
        yield


def pulling() -> Progress:
    """Progress of a download whose size may be unknown."""
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True)


def ingesting() -> Progress:
    """Progress of an ingestion: documents of documents, chunks, their rate, time left."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(
            "{task.completed:.0f}/{task.total} documents · {task.fields[chunks]} chunks · {task.fields[rate]}/s"
        ),
        TimeRemainingColumn(),
        console=console,
    )
