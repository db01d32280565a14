"""The queue before a saturated upstream, by itself: whose turn it is, whatever comes, leaves and gives up."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.queueing import FairQueue, Rank, Rules, Ticket, Where

LIVE, FLEX, BATCH = Rank
COSTS = st.integers(1, 5_000)
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0])


class Bench:
    """A queue, and every ticket that it ever let through, in order."""

    def __init__(self, concurrency: int = 1, **rules: Any) -> None:
        self.queue = FairQueue(Rules(concurrency, **rules))
        self.passed: list[Ticket] = []
        self.told: Counter[Ticket] = Counter()
        self._ended = 0

    def enter(self, tenant: str = "a", rank: Rank = LIVE, cost: float = 1, weight: float = 1) -> Ticket:
        ticket = Ticket(tenant, weight, rank, cost)
        self.queue.enter(ticket)
        if ticket.where is Where.THROUGH:
            self.passed.append(ticket)

        def told() -> None:
            self.told[ticket] += 1
            if ticket.where is Where.THROUGH:
                self.passed.append(ticket)

        ticket.told = told
        return ticket

    def end_oldest(self) -> None:
        """The call that has been through for longest ends."""
        while self.passed[self._ended].where is not Where.THROUGH:
            self._ended += 1
        self.queue.leave(self.passed[self._ended])

    def tenants(self) -> str:
        return "".join(ticket.tenant for ticket in self.passed)


@settings(max_examples=150, deadline=None)
@given(
    concurrency=st.integers(1, 6),
    waiting_max=st.integers(1, 12),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.sampled_from("abc"), st.sampled_from(list(Rank)), COSTS, WEIGHTS),
            st.tuples(st.just("end"), st.integers(0, 50), st.one_of(st.none(), COSTS)),
            st.tuples(st.just("give up"), st.integers(0, 50)),
            st.tuples(st.just("again"), st.integers(0, 50)),
        ),
        max_size=80,
    ),
)
def test_no_place_is_lost_or_given_twice(concurrency: int, waiting_max: int, steps: list[Any]) -> None:
    bench = Bench(concurrency, waiting_max=waiting_max)
    tickets: list[Ticket] = []

    def those(where: Where) -> list[Ticket]:
        return [ticket for ticket in tickets if ticket.where is where]

    for what, *details in steps:
        if what == "enter":
            tickets.append(bench.enter(*details))
        else:
            among = {"end": Where.THROUGH, "give up": Where.WAITING, "again": Where.GONE}[what]
            found = those(among)
            if found:
                bench.queue.leave(found[details[0] % len(found)], *details[1:])
        through, waiting = those(Where.THROUGH), those(Where.WAITING)
        assert (len(through), len(waiting)) == (bench.queue.through, bench.queue.waiting)
        assert [bench.queue.waiting_of(rank) for rank in Rank] == [
            sum(ticket.rank is rank for ticket in waiting) for rank in Rank
        ]
        assert len(through) <= concurrency
        assert all(bench.queue.waiting_of(rank) <= waiting_max for rank in Rank)
        # Work-conserving: batch lines alone may wait beside a free place, and only for one another.
        if len(through) < concurrency and waiting:
            assert {ticket.rank for ticket in waiting} == {BATCH}
            assert any(ticket.rank is BATCH for ticket in through)
    for _ in range(len(tickets)):
        for ticket in those(Where.THROUGH):
            bench.queue.leave(ticket)
    assert not those(Where.WAITING)
    assert (bench.queue.through, bench.queue.waiting) == (0, 0)
    assert all(bench.told[ticket] <= 1 for ticket in tickets)
    assert all(bench.enter(str(number)).where is Where.THROUGH for number in range(concurrency))


@settings(max_examples=80, deadline=None)
@given(
    concurrency=st.integers(1, 8),
    tenants=st.lists(st.tuples(WEIGHTS, st.lists(COSTS, min_size=5, max_size=30)), min_size=2, max_size=4),
    rank=st.sampled_from([LIVE, FLEX]),
    gone=st.sets(st.integers(0, 120), max_size=40),
)
def test_while_tenants_wait_their_shares_follow_their_weights(
    concurrency: int, tenants: list[Any], rank: Rank, gone: set[int]
) -> None:
    bench = Bench(concurrency)
    for number in range(concurrency):
        bench.enter(f"others {number}", rank)
    queued = [
        bench.enter(str(who), rank, cost, weight) for who, (weight, costs) in enumerate(tenants) for cost in costs
    ]
    for number in gone:
        if number < len(queued):
            bench.queue.leave(queued[number])
    waiting = Counter(ticket.tenant for ticket in queued if ticket.where is Where.WAITING)
    served: Counter[str] = Counter()
    ahead: dict[tuple[str, str], list[float]] = {}
    while len(waiting) > 1 and all(waiting.values()):
        before = len(bench.passed)
        bench.end_oldest()
        for ticket in bench.passed[before:]:
            served[ticket.tenant] += ticket.cost
            waiting[ticket.tenant] -= 1
        shares = {str(who): served[str(who)] / weight for who, (weight, _) in enumerate(tenants)}
        for one in waiting:
            for other in waiting:
                ahead.setdefault((one, other), [0.0]).append(shares[one] - shares[other])
    for (one, other), differences in ahead.items():
        bound = sum(max(tenants[int(who)][1]) / tenants[int(who)][0] for who in (one, other))
        assert max(differences) - min(differences) <= bound * (1 + 1e-9)


@settings(max_examples=80, deadline=None)
@given(
    concurrency=st.integers(1, 4),
    rank=st.sampled_from([FLEX, BATCH]),
    above=st.lists(COSTS, min_size=1, max_size=20),
    below=st.lists(COSTS, min_size=1, max_size=8),
    share=st.sampled_from([0.02, 0.05, 0.2]),
)
def test_what_waits_below_gets_its_share_and_no_more(
    concurrency: int, rank: Rank, above: list[int], below: list[int], share: float
) -> None:
    bench = Bench(concurrency, low_share=share)
    turns = iter(range(10**9))

    def live() -> None:
        bench.enter("live", LIVE, above[next(turns) % len(above)])

    for _ in range(concurrency + 2):
        live()
    low = [bench.enter("low", rank, cost) for cost in below]
    first = len(bench.passed)
    while any(ticket.where is Where.WAITING for ticket in low):
        bench.end_oldest()
        while bench.queue.waiting_of(LIVE) < 2:
            live()
        since = bench.passed[first:]
        lows = sum(ticket.cost for ticket in since if ticket.rank is rank)
        lives = sum(ticket.cost for ticket in since if ticket.rank is LIVE)
        assert lows <= share * lives * (1 + 1e-9)
        # What it may wait for: its own tokens by its share, and a call above for each place and each call below.
        slack = max(above) * (len(below) + 1) * (concurrency + 1)
        assert lives <= sum(below) / share + slack


def test_classes_go_in_order_and_within_one_the_tenant_that_had_least() -> None:
    bench = Bench(low_share=0)
    bench.enter("a", cost=10)
    for tenant, rank in (("x", BATCH), ("y", FLEX), ("a", LIVE), ("b", LIVE)):
        bench.enter(tenant, rank, cost=10)
    for _ in range(5):
        bench.end_oldest()
    assert bench.tenants() == "abayx"


def test_a_tenant_that_comes_late_owes_nothing_and_is_owed_nothing() -> None:
    bench = Bench()
    for _ in range(6):
        bench.enter("a", cost=100)
    for _ in range(3):
        bench.end_oldest()
    for _ in range(3):
        bench.enter("b", cost=100)
    for _ in range(5):
        bench.end_oldest()
    assert bench.tenants() == "aaaa" + "baba" + "b"


def test_what_a_call_truly_cost_counts() -> None:
    bench = Bench()
    for tenant in ("x", "a", "b", "a", "b", "a", "b"):
        bench.enter(tenant, cost=1_000)
    for ticket in bench.passed:
        # Each of a's calls ends after a tenth of what it was thought to cost.
        bench.queue.leave(ticket, 100 if ticket.tenant == "a" else None)
        if len(bench.passed) == 5:
            break
    assert bench.tenants() == "xabaa"


def test_a_full_class_refuses_the_newest_of_the_longest_line() -> None:
    bench = Bench(waiting_max=4)
    bench.enter("x")
    flood = [bench.enter("a") for _ in range(4)]
    one_more = bench.enter("a")
    assert one_more.where is Where.REFUSED
    assert bench.told[one_more] == 0
    late = bench.enter("b")
    assert (late.where, flood[-1].where) == (Where.WAITING, Where.REFUSED)
    assert (bench.told[flood[-1]], bench.told[late]) == (1, 0)
    heavy = bench.enter("c", weight=0.1)
    assert heavy.where is Where.REFUSED
    assert bench.enter("a", FLEX).where is Where.WAITING
    assert [ticket.where for ticket in flood[:3]] == [Where.WAITING] * 3


def test_beside_other_calls_few_batch_lines_run() -> None:
    bench = Bench(40, batch_beside=8)
    live = [bench.enter() for _ in range(7)]
    lines = [bench.enter("b", BATCH) for _ in range(4)]
    assert [line.where for line in lines] == [Where.THROUGH, *[Where.WAITING] * 3]
    live += [bench.enter() for _ in range(9)]
    # Nobody waits for the lines: a call that comes is let through past them.
    assert {ticket.where for ticket in live} == {Where.THROUGH}
    assert [line.where for line in lines] == [Where.THROUGH, Where.THROUGH, Where.WAITING, Where.WAITING]


def test_alone_batch_lines_become_more_until_a_call_comes() -> None:
    bench = Bench(8, batch_alone=0.5)

    def running() -> int:
        return sum(ticket.where is Where.THROUGH for ticket in bench.passed)

    for _ in range(60):
        bench.enter("b", BATCH)
    most = []
    for _ in range(30):
        most.append(running())
        bench.end_oldest()
    assert most[:5] == [1, 2, 3, 3, 4]
    assert max(most) == 4
    call = bench.enter()
    assert call.where is Where.THROUGH
    bench.queue.leave(call)
    while running() > 1:
        bench.end_oldest()
    # A line that ran beside the call was not alone for its whole time; the next one is.
    bench.end_oldest()
    assert running() == 1
    bench.end_oldest()
    assert running() == 2


def test_tenants_of_the_past_are_forgotten() -> None:
    bench = Bench(2)
    bench.enter("for ever")
    for number in range(1_000):
        bench.queue.leave(bench.enter(f"tenant {number}", cost=10))
        bench.queue.leave(bench.enter("a regular", cost=10))
    assert len(bench.queue._lanes[LIVE]._flows) < 200
