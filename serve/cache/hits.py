"""The record of a call that a stored answer answers: metered like any other, at the price of a hit."""

from collections.abc import Mapping
from typing import Any, cast

from models.identity import Principal
from models.usage import CallKind
from serve.cache.answer import StoredAnswer
from serve.cache.replay import Replay
from serve.claims import Demand, claim
from serve.records import Call
from serve.routing import Target
from serve.streams import StreamShape
from serve.validation import Body


def hit_of(
    stored: StoredAnswer,
    share: int,
    principal: Principal,
    request_id: str,
    parent: str | None,
    started: float,
    kind: CallKind,
    target: Target,
    body: Body,
) -> Call:
    """Its usage is what the answer took when it was made; its price is the ``share`` (millionths) of today's.

    Requests a minute and concurrency count it, tokens a minute do not; budgets hold what it costs.
    """
    usage = stored.usage()
    price = target.price()
    price = price.part(share) if price is not None else None
    shape = _shape(body)
    call = Call(
        request_id=request_id,
        parent_request_id=parent,
        principal=principal,
        kind=kind,
        asked=body["model"],
        model=stored.origin.model,
        upstream=stored.origin.upstream,
        upstream_model=stored.origin.upstream_model,
        streamed=shape is not None,
        price=price,
        body_bytes=0,
        context_window=target.context_window,
        started=started,
        attempts=0,
        reported=usage,
        replay=Replay(stored, body["model"], shape, price.cost_micro(usage) if price is not None else 0),
    )
    if principal.limited:
        asked = Demand(usage.sent, usage.made, 0)
        call.claim = claim(principal, asked, price, call.started_at_ms, inner=parent is not None)
    return call


def _shape(body: Body) -> StreamShape | None:
    """How the answer is streamed; None: it is not."""
    if not body.get("stream"):
        return None
    options = cast("Mapping[str, Any]", body.get("stream_options") or {})
    usage = bool(options.get("include_usage"))
    return StreamShape(body["model"], usage=usage, continuous=usage and bool(options.get("continuous_usage_stats")))
