"""Who answers a call, and who else may when the first does not: the chain of a model and its fallbacks.

Invariants
1. Another target is tried only while nothing was sent to the client, and only for a failure that is not the caller's.
2. A call is admitted once, for the dearest of its targets; it is billed at the price of the one that answered.
3. What a caller sees is the model it asked for, whoever answered; the headers say who did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import ContextTooLong, PlatformError, RateLimited, UpstreamError
from serve.routing import Endpoint, Target, prepared
from serve.streams import StreamShape
from serve.validation import Body

# The caller's request may be right all the same: a target failed, was away, busy, or has too small a window.
OTHERS_MAY_ANSWER = (UpstreamError, RateLimited, ContextTooLong)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A target, the request in its words, and how its stream is to be shaped (None: the answer is whole)."""

    target: Target
    raw: bytes
    shape: StreamShape | None


def attempts(endpoint: Endpoint, chain: Sequence[Target], body: Body, raw: bytes) -> list[Attempt]:
    """The targets that can take the request, in order. Raises the first one's refusal where none can."""
    found: list[Attempt] = []
    refusal: PlatformError | None = None
    for target in chain:
        try:
            found.append(Attempt(target, *prepared(endpoint, target, body, raw)))
        except PlatformError as error:
            refusal = refusal or error
    if refusal is not None and (not found or not isinstance(refusal, OTHERS_MAY_ANSWER)):
        raise refusal
    return found
