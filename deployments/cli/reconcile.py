"""``objecta usage reconcile``: the ledger beside a provider's invoice, by day, model and figure."""

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.errors import ClusterError
from control_plane.usage.invoices import InvoiceError, Lines, parse
from control_plane.usage.reconciliation import Difference, compare, named_as_ours, ours_of
from deployments.cli.client import ControlPlane
from deployments.cli.show import console

PAGE = 100
MICRO = 1_000_000


def reconcile(
    control_plane: ControlPlane,
    file: Path,
    *,
    organisation: str | None,
    upstreams: Sequence[str],
    aliases: Sequence[str],
    tolerance: str,
    as_json: bool,
) -> bool:
    """Print both sides; whether all differences are within the tolerance.

    Raises ClusterError where the file, an option or the control plane is at fault.
    """
    percent = _percent(tolerance)
    theirs = _invoice(file)
    since, until = min(day for day, _ in theirs), max(day for day, _ in theirs)
    rows = _ledger(control_plane, organisation, since, until)
    theirs = named_as_ours(theirs, {row["model"] for row in rows}, _aliases(aliases))
    ours, compared = ours_of(rows, {model for _, model in theirs}, upstreams)
    differences = compare(ours, theirs, percent)
    within = all(difference.within for difference in differences)
    if as_json:
        found = {
            "since": since,
            "until": until,
            "upstreams": compared,
            "tolerance_percent": str(percent),
            "within": within,
            "differences": [difference.body() for difference in differences],
        }
        console.out(json.dumps(found, indent=2), highlight=False)
    else:
        _show(differences, since, until, compared)
    return within


def _percent(text: str) -> Decimal:
    try:
        percent = Decimal(text)
    except InvalidOperation:
        percent = Decimal(-1)
    if not (percent.is_finite() and percent >= 0):
        raise ClusterError(f"--tolerance must be a number of per cent, not {text!r}")
    return percent


def _invoice(file: Path) -> Lines:
    try:
        lines = parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{file} cannot be read: {error}") from error
    except InvoiceError as error:
        raise ClusterError("\n  ".join([f"{file} is not read, nothing was compared:", *error.problems])) from error
    if not lines:
        raise ClusterError(f"{file} has no line with any use")
    return lines


def _aliases(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for alias in given:
        theirs, equals, ours = alias.partition("=")
        if not (theirs and equals and ours):
            raise ClusterError(f"--alias takes THEIRS=OURS, not {alias!r}")
        found[theirs] = ours
    return found


def _ledger(control_plane: ControlPlane, organisation: str | None, since: str, until: str) -> list[dict[str, Any]]:
    """An organisation's calls under its own keys, or all that went under the platform's."""
    path = f"/organisations/{organisation}/usage/upstreams" if organisation else "/usage/upstreams"
    query: dict[str, str | int] = {"since": since, "until": until, "limit": PAGE}
    query["own_key"] = "true" if organisation else "false"
    rows: list[dict[str, Any]] = []
    while True:
        page = control_plane.get(path, **query)
        rows += page["data"]
        if not page["has_more"]:
            return rows
        query["after"] = page["last_id"]


def _show(differences: Sequence[Difference], since: str, until: str, upstreams: Sequence[str]) -> None:
    console.print(f"{since} to {until}, upstreams: {', '.join(upstreams) or 'none with a model of the invoice'}")
    table = Table("day", "model", "figure", "ours", "theirs", "difference", "", box=None, pad_edge=False)
    for one in differences:
        figures = (_figure(one.figure, number) for number in (one.ours, one.theirs, one.by))
        name = "cost" if one.figure == "cost_micro" else f"{one.figure} tokens"
        table.add_row(one.day, one.model, name, *figures, "" if one.within else "[red]differs[/red]")
    console.print(table)
    wrong = sum(not one.within for one in differences)
    console.print(f"{wrong} of {len(differences)} figures differ by more than the tolerance")


def _figure(name: str, number: int) -> str:
    """Money in units, to the micro-unit."""
    if name != "cost_micro":
        return f"{number:,}"
    whole, part = divmod(abs(number), MICRO)
    return f"{'-' if number < 0 else ''}{whole:,}.{part:06}"
