"""Who answers a call, and who else may when the first does not: the chain of a model and its fallbacks.

Invariants
1. Another target is tried only while nothing was sent to the client, and only for a failure that is not the caller's.
2. A call is admitted once, for the dearest of its targets; it is billed at the price of the one that answered.
3. What a caller sees is the model it asked for, whoever answered; the headers say who did.
4. The places of a model come before its fallbacks. Each is tried once; one that would refuse the call is passed over.
5. A target that is tried because another failed has a budget for such calls.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from models.errors import ContentFiltered, ContextTooLong, PlatformError, RateLimited, UpstreamError
from serve.asgi import Message, Send
from serve.breaker import away
from serve.prefixes import prefix_key
from serve.records import Call
from serve.routing import Endpoint, Target, prepared
from serve.streams import StreamShape
from serve.validation import Body

# The caller's request may be right all the same: a target failed, was away, busy, has too small a window or a filter.
OTHERS_MAY_ANSWER = (UpstreamError, RateLimited, ContextTooLong, ContentFiltered)
# Of these, what says something of the target.
ITS_OWN = (UpstreamError, RateLimited)


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A target, the request in its words, and how its stream is to be shaped (None: the answer is whole).

    ``key`` is the request's beginning as a number, where the target's model goes by it.
    """

    target: Target
    raw: bytes
    shape: StreamShape | None
    key: int | None = None


Run = Callable[[Attempt, Send], Awaitable[None]]


def attempts(
    endpoint: Endpoint, chain: Sequence[Target], body: Body, raw: bytes, organisation_id: str
) -> list[Attempt]:
    """The targets that can take the request, in order. Raises the first one's refusal where none can."""
    found: list[Attempt] = []
    refusal: PlatformError | None = None
    for target in chain:
        if found and _alike(found[-1].target, target, body):
            found.append(replace(found[-1], target=target))
            continue
        try:
            words, shape = prepared(endpoint, target, body, raw)
        except PlatformError as error:
            refusal = refusal or error
            continue
        by_prefix = target.balance is not None and target.balance.by_prefix
        found.append(Attempt(target, words, shape, prefix_key(organisation_id, body) if by_prefix else None))
    if refusal is not None and (not found or not isinstance(refusal, OTHERS_MAY_ANSWER)):
        raise refusal
    return found


def _alike(one: Target, other: Target, body: Body) -> bool:
    """Whether both are places of one model that take the same words."""
    return (
        other.balance is not None
        and other.balance is one.balance
        and (other.upstream.internal, other.upstream.own) == (one.upstream.internal, one.upstream.own)
        and other.model_there(body["model"]) == one.model_there(body["model"])
    )


def own_places(chain: Sequence[Target]) -> tuple[Target, ...]:
    """The chain without the fallbacks."""
    return tuple(target for target in chain if target.entry is chain[0].entry)


async def in_turn(call: Call, plan: Sequence[Attempt], run: Run, send: Send) -> None:
    """One target after the other, until one answers or fails in a way that is the caller's to know.

    ``run`` makes one attempt; it raises one of ``OTHERS_MAY_ANSWER`` only where the client got nothing yet.
    """
    left = list(plan)
    failure: PlatformError = away(call.asked)
    number = 0
    while left:
        attempt = _chosen(left)
        if attempt is None:
            continue
        retries = attempt.target.upstream.retries
        again = number > 0 and isinstance(failure, ITS_OWN)
        if not again:
            retries.calls += 1
        elif not retries.withdraw():
            continue
        number += 1
        if number > 1 or attempt is not plan[0]:
            call.attempt(number, attempt.target, len(attempt.raw))
        try:
            await _measured(attempt, run, send)
        except OTHERS_MAY_ANSWER as error:
            failure = error
            if isinstance(error, ContextTooLong):
                # The other places of the model have no larger window.
                left = [other for other in left if other.target.entry is not attempt.target.entry]
        else:
            if again:
                retries.answered()
            return
    raise failure


def _chosen(left: list[Attempt]) -> Attempt | None:
    """Taken from ``left``: one at the next model, or None where all its places would refuse it."""
    first = left[0]
    balance = first.target.balance
    if balance is None:
        left.remove(first)
        return None if first.target.upstream.shut else first
    places = {one.target.load: one for one in left if one.target.balance is balance}
    free = [load for load, one in places.items() if load is not None and not one.target.upstream.shut]
    if not free:
        left[:] = [one for one in left if one.target.balance is not balance]
        return None
    chosen = places[balance.choose(free, first.key, streamed=first.shape is not None)]
    left.remove(chosen)
    return chosen


async def _measured(attempt: Attempt, run: Run, send: Send) -> None:
    """One attempt; a place learns how long the client waits there. A server may send a stream's headers long before."""
    load = attempt.target.load
    if load is None:
        await run(attempt, send)
        return
    with load.taken(), load.first_byte(ITS_OWN, streamed=attempt.shape is not None) as came:

        async def told(message: Message) -> None:
            came()
            await send(message)

        await run(attempt, told)
