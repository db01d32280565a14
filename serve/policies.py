"""What a route's calls are treated by, resolved once at the start: its own figures over the gateway's.

A broken stream's policy is that of the model that was asked for; timeouts and the policy for a client that leaves are
those of the model that answers.
"""

from dataclasses import dataclass

from models.errors import InvalidRequest
from serve.asgi import Scope, header
from serve.config import MID_STREAM, RoutePolicy, Timeouts

MID_STREAM_HEADER = b"x-objecta-mid-stream"


@dataclass(frozen=True, slots=True)
class Stance:
    """What becomes of a stream that breaks: it ``continues`` where that is sound, else ``restarts``, else it fails.

    ``times``: how often in one call.
    """

    continues: bool
    restarts: bool
    times: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One served model's. ``drain_seconds`` 0: a client that leaves cuts the upstream off.

    ``resumes_max`` 0: no stream is ever resumed, whatever its caller wishes.
    """

    connect_seconds: float
    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float
    drain_seconds: float = 0.0
    continues: bool = False
    restarts: bool = False
    resumes_max: int = 0

    def stance(self, scope: Scope | None, *, inner: bool) -> Stance | None:
        """Of a stream's call; None: a stream that breaks fails. The caller's header comes before the route.

        ``scope`` None: the client cannot be told that what it has read is replaced. ``inner`` calls can, but their
        callers ask for it by the header only. Raises InvalidRequest.
        """
        wish = header(scope, MID_STREAM_HEADER) if scope is not None else None
        continues, restarts = self.continues, self.restarts and scope is not None and not inner
        if wish is not None:
            named = wish.decode("latin-1")
            if named not in MID_STREAM:
                name = MID_STREAM_HEADER.decode()
                message = f"Invalid value for the header '{name}': it must be one of {', '.join(MID_STREAM)}."
                raise InvalidRequest(message, param=name, code="invalid_value")
            continues = named == "continue"
            restarts = named == "restart" or (continues and restarts)
        if not self.resumes_max or not (continues or restarts):
            return None
        return Stance(continues, restarts, self.resumes_max)


def policy_of(route: RoutePolicy, defaults: Timeouts, *, resumable: bool = True) -> Policy:
    """A route's policy. ``resumable`` False: what answers has acted by the time it speaks, and must not do so twice."""
    own = route.timeouts
    total = own.total_seconds or defaults.total_seconds
    return Policy(
        connect_seconds=own.connect_seconds or defaults.connect_seconds,
        first_byte_seconds=min(own.first_byte_seconds or defaults.first_byte_seconds, total),
        idle_seconds=own.idle_seconds or defaults.idle_seconds,
        total_seconds=total,
        drain_seconds=route.drain_seconds_max if route.client_gone == "drain" else 0.0,
        continues=route.mid_stream == "continue",
        restarts="restart" in {route.mid_stream, route.mid_stream_else},
        resumes_max=route.resumes_max if resumable else 0,
    )


DEFAULT = policy_of(RoutePolicy(), Timeouts())
