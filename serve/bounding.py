"""What a call may use at most, whoever of its chain answers."""

from collections.abc import Sequence

import orjson

from models.usage import CallKind, Price
from serve.attempts import Attempt
from serve.claims import Demand, demand, with_a_maximum
from serve.config import Bounds
from serve.routing import Target
from serve.validation import Body


def bounded(kind: CallKind, chain: Sequence[Target], body: Body, raw: bytes, bounds: Bounds) -> tuple[Body, bytes]:
    """The request with a maximum where it names none: a hard budget holds what a call can cost at most."""
    for target in chain:
        given = with_a_maximum(kind, body, len(raw), target.context_window, bounds)
        if given is not None:
            return given, orjson.dumps(given)
    return body, raw


def dearest(kind: CallKind, body: Body, plan: Sequence[Attempt], bounds: Bounds) -> tuple[Demand, Price | None]:
    """What the call asks at most, whichever of its targets answers."""
    asks = [(demand(kind, body, len(one.raw), one.target.context_window, bounds), one.target.price()) for one in plan]
    return max(asks, key=lambda ask: ask[0].cost_micro(ask[1]))
