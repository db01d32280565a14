"""Whose turn it is at a saturated upstream: tenants fairly, classes in order, batch lines where nobody is kept waiting.

One queue for an upstream in a gateway replica. It knows no clock and no loop: calls ``enter``, are told, and ``leave``.

Invariants
1. At most ``concurrency`` calls are through at once. Work-conserving: while a call waits, all places are taken; a batch
   line may also wait for other batch lines (5).
2. Within a class, tenants share by weight what is let through, counted in tokens: start-time fair queueing with many
   places. A call's start tag is the later of the class's virtual time at its arrival and its tenant's last finish tag;
   its finish tag lies cost / weight behind. The least start tag is next, and becomes the virtual time. While two
   tenants wait, what each was let through by its weight differs by at most one largest call of each, by its weight.
   When a call's true cost is known, its tenant's finish tag is put right.
3. Classes in order: live, flex, batch. While a class waits, each token let through above it earns it ``low_share``
   tokens; a call that these pay for goes first. So none waits for ever, and what is above loses no more than that.
4. A class that is full refuses the newest call of the tenant whose line is longest by weight, which may be the comer.
5. Batch lines fill in: beside other calls at most one for each ``batch_beside`` of them, at least one. Alone they
   become one more with each line during whose whole time no other call came, up to ``batch_alone`` of the places; the
   first other call ends that.

Sources: Goyal, Vin, Cheng, Start-time Fair Queueing (SIGCOMM 1996), for 2; with many places: Jin, Chase, Kaur,
Interposed Proportional Sharing for a Storage Service Utility (SIGMETRICS 2004). Demers, Keshav, Shenker, Analysis and
Simulation of a Fair Queueing Algorithm (SIGCOMM 1989), for 4. Chiu, Jain, Analysis of the Increase and Decrease
Algorithms for Congestion Avoidance (1989), for 5.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

FLOWS_MIN = 64


class Rank(IntEnum):
    """The classes, the first before the others; also vLLM's ``priority``."""

    LIVE = 0
    FLEX = 1
    BATCH = 2


class Where(IntEnum):
    """Where a call is."""

    OUTSIDE = 0
    WAITING = 1
    THROUGH = 2
    REFUSED = 3
    GONE = 4


@dataclass(frozen=True, slots=True)
class Rules:
    """``waiting_max``: calls of one class. The shares are told above."""

    concurrency: int
    waiting_max: int = 1_000
    low_share: float = 0.05
    batch_beside: int = 8
    batch_alone: float = 0.5


@dataclass(slots=True, eq=False)
class Ticket:
    """One call's; used once. ``told`` is called when a waiting call is let through or refused by another's coming."""

    tenant: str
    weight: float
    rank: Rank
    cost: float
    told: Callable[[], None] | None = None
    where: Where = Where.OUTSIDE
    since: tuple[int, int] = (0, 0)


@dataclass(slots=True, eq=False)
class Flow:
    """One tenant's calls of a class. ``floor``: the virtual time when it began to wait."""

    weight: float = 1.0
    floor: float = 0.0
    finish: float = 0.0
    through: int = 0
    waiting: OrderedDict[Ticket, None] = field(default_factory=OrderedDict[Ticket, None])

    @property
    def start(self) -> float:
        """The start tag of its next call."""
        return max(self.floor, self.finish)

    @property
    def head(self) -> Ticket:
        """Its next call."""
        return next(iter(self.waiting))


class Lane:
    """One class: its tenants and its virtual time. ``earned``: tokens, see invariant 3."""

    def __init__(self) -> None:
        self.waiting = 0
        self.through = 0
        self.earned = 0.0
        self._virtual = 0.0
        self._flows: dict[str, Flow] = {}
        self._backlogged: dict[str, Flow] = {}
        self._sweep_at = FLOWS_MIN

    def add(self, ticket: Ticket) -> None:
        """Put a call at the end of its tenant's line."""
        flow = self._flow(ticket)
        if not flow.waiting:
            flow.floor = self._virtual
            self._backlogged[ticket.tenant] = flow
        flow.waiting[ticket] = None
        self.waiting += 1
        ticket.where = Where.WAITING

    def remove(self, ticket: Ticket) -> None:
        """Take a waiting call out of its line."""
        flow = self._flows[ticket.tenant]
        del flow.waiting[ticket]
        self.waiting -= 1
        if not flow.waiting:
            del self._backlogged[ticket.tenant]
        self._rest()

    def next(self) -> Ticket:
        """Whose turn it is; of equal tags, whose tenant has waited longer."""
        return min(self._backlogged.values(), key=_start).head

    def longest(self, comer: Ticket) -> Ticket:
        """Who has to go for ``comer``; the comer itself where its tenant's line would be the longest."""
        flow = max(self._backlogged.values(), key=_length)
        own = self._backlogged.get(comer.tenant)
        length = (1 + (len(own.waiting) if own else 0)) / comer.weight
        return comer if flow is own or length >= _length(flow) else next(reversed(flow.waiting))

    def pass_one(self, ticket: Ticket) -> None:
        """Let a call through, from its line or past it."""
        flow = self._flow(ticket)
        flow.through += 1
        self.through += 1
        if ticket.where is Where.WAITING:
            start = flow.start
            self.remove(ticket)
        else:
            start = max(self._virtual, flow.finish)
        self._virtual = max(self._virtual, start)
        flow.finish = start + ticket.cost / ticket.weight
        self.earned = 0.0
        ticket.where = Where.THROUGH

    def settle(self, ticket: Ticket, used: float | None) -> None:
        """A call that was through has ended, having cost ``used``; None: as it was thought."""
        flow = self._flows[ticket.tenant]
        flow.through -= 1
        self.through -= 1
        if used is not None:
            flow.finish += (used - ticket.cost) / ticket.weight
        self._rest()

    def _flow(self, ticket: Ticket) -> Flow:
        flow = self._flows.get(ticket.tenant)
        if flow is None:
            if len(self._flows) >= self._sweep_at:
                self._sweep()
            flow = self._flows[ticket.tenant] = Flow()
        flow.weight = ticket.weight
        return flow

    def _sweep(self) -> None:
        """Forget tenants whose last tag is past: they begin like new ones."""
        kept = {name: flow for name, flow in self._flows.items() if flow.waiting or flow.through or self._owes(flow)}
        self._flows = kept
        self._sweep_at = max(FLOWS_MIN, 2 * len(kept))

    def _owes(self, flow: Flow) -> bool:
        return flow.finish > self._virtual

    def _rest(self) -> None:
        """A busy period ends with its last call, and with it what anybody was ahead."""
        if not self.waiting:
            self.earned = 0.0
            if not self.through:
                self._flows.clear()
                self._virtual = 0.0


def _start(flow: Flow) -> float:
    return flow.start


def _length(flow: Flow) -> float:
    return len(flow.waiting) / flow.weight


class FairQueue:
    """The queue of one upstream."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lanes = tuple(Lane() for _ in Rank)
        self._batch = self._lanes[Rank.BATCH]
        self._batch_room_max = max(1, int(rules.concurrency * rules.batch_alone))
        self._batch_room = 1
        self._others = 0
        self._came = 0
        self.through = 0
        self.waiting = 0

    def waiting_of(self, rank: Rank) -> int:
        """Calls of a class that wait."""
        return self._lanes[rank].waiting

    def enter(self, ticket: Ticket) -> None:
        """``ticket.where`` says at once: through, waiting, or refused."""
        lane = self._lanes[ticket.rank]
        if not self.waiting and self.through < self._rules.concurrency and self._has_room(lane):
            self._pass(lane, ticket)
            return
        if lane.waiting >= self._rules.waiting_max:
            goes = lane.longest(ticket)
            if goes is not ticket:
                self._remove(lane, goes)
            goes.where = Where.REFUSED
            if goes is ticket:
                return
            _tell(goes)
        lane.add(ticket)
        self.waiting += 1
        self._fill()

    def leave(self, ticket: Ticket, used: float | None = None) -> None:
        """The call has ended, or its caller waits no longer. Again does nothing."""
        where, ticket.where = ticket.where, Where.GONE
        lane = self._lanes[ticket.rank]
        if where is Where.WAITING:
            self._remove(lane, ticket)
        elif where is Where.THROUGH:
            self.through -= 1
            if lane is not self._batch:
                self._others -= 1
            elif ticket.since == (self._came, self._batch_room) and not self._others:
                self._batch_room = min(self._batch_room + 1, self._batch_room_max)
            lane.settle(ticket, used)
            self._fill()

    def _remove(self, lane: Lane, ticket: Ticket) -> None:
        lane.remove(ticket)
        self.waiting -= 1

    def _fill(self) -> None:
        while self.waiting and self.through < self._rules.concurrency and (lane := self._turn()) is not None:
            ticket = lane.next()
            self.waiting -= 1
            self._pass(lane, ticket)
            _tell(ticket)

    def _turn(self) -> Lane | None:
        """The class whose turn it is; None where nobody may be let through."""
        for lane in reversed(self._lanes):
            if lane.waiting and lane.earned and lane.earned >= lane.next().cost and self._has_room(lane):
                return lane
        return next((lane for lane in self._lanes if lane.waiting and self._has_room(lane)), None)

    def _has_room(self, lane: Lane) -> bool:
        if lane is not self._batch:
            return True
        return lane.through < max(self._batch_room, self._others // self._rules.batch_beside)

    def _pass(self, lane: Lane, ticket: Ticket) -> None:
        lane.pass_one(ticket)
        self.through += 1
        if lane is self._batch:
            ticket.since = (self._came, self._batch_room)
        else:
            self._others += 1
            self._came += 1
            self._batch_room = 1
        if self.waiting:
            for below in self._lanes[ticket.rank + 1 :]:
                if below.waiting:
                    below.earned += ticket.cost * self._rules.low_share


def _tell(ticket: Ticket) -> None:
    if ticket.told is not None:
        ticket.told()
