"""Which place takes a call: the quicker and the freer one; or the one that has the conversation's beginning."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidRequest, RateLimited, UpstreamError
from serve.balance import DECAY_SECONDS, LOAD_FACTOR, Balance, Load
from serve.ring import Ring, hashed

ITS_OWN = (UpstreamError, RateLimited)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def places(clock: Clock, *weights: float) -> list[Load]:
    return [Load(f"place-{number}", weight, clock) for number, weight in enumerate(weights)]


def served(clock: Clock, load: Load, seconds: float, *, streamed: bool = True) -> None:
    with load.taken(), load.first_byte(ITS_OWN, streamed=streamed) as came:
        clock.now += seconds
        came()


def shares(balance: Balance, loads: Sequence[Load], calls: int) -> Counter[str]:
    """Of calls that all run at once."""
    for _ in range(calls):
        balance.choose(loads, None, streamed=True).in_flight += 1
    return Counter({load.name: load.in_flight for load in loads})


def test_the_quicker_of_two_takes_the_call_until_it_is_busier(clock: Clock) -> None:
    quick, slow = loads = places(clock, 1, 1)
    balance = Balance(loads, by_prefix=False)
    served(clock, quick, 0.1)
    served(clock, slow, 0.4)
    served(clock, quick, 0.1)
    assert {balance.choose(loads, None, streamed=True) for _ in range(20)} == {quick}
    counts = shares(balance, loads, 50)
    assert 35 <= counts[quick.name] <= 45


def test_weights_decide_between_places_that_are_equally_quick(clock: Clock) -> None:
    loads = places(clock, 1, 3)
    with ExitStack() as calls:
        came = [calls.enter_context(load.first_byte(ITS_OWN, streamed=True)) for load in loads]
        clock.now += 0.2
        for tell in came:
            tell()
    counts = shares(Balance(loads, by_prefix=False), loads, 80)
    assert abs(counts["place-1"] - 60) <= 3


def test_many_places_share_evenly(clock: Clock) -> None:
    loads = places(clock, *([1] * 8))
    with ExitStack() as calls:
        came = [calls.enter_context(load.first_byte(ITS_OWN, streamed=True)) for load in loads]
        clock.now += 0.2
        for tell in came:
            tell()
    counts = shares(Balance(loads, by_prefix=False, chance=random.Random(7)), loads, 800)
    assert max(counts.values()) - min(counts.values()) <= 0.1 * 800 / 8


def test_a_new_place_is_measured_by_one_call_before_it_gets_more(clock: Clock) -> None:
    known, new = loads = places(clock, 1, 1)
    served(clock, known, 0.2)
    balance = Balance(loads, by_prefix=False)
    assert balance.choose(loads, None, streamed=True) is new
    with new.taken():
        assert {balance.choose(loads, None, streamed=True) for _ in range(20)} == {known}


def test_a_place_that_was_slow_once_is_avoided_and_then_tried_again(clock: Clock) -> None:
    one, other = loads = places(clock, 1, 1)
    balance = Balance(loads, by_prefix=False)
    for _ in range(20):
        served(clock, one, 0.1)
        served(clock, other, 0.1)
    served(clock, one, 5.0)
    served(clock, other, 0.1)
    assert balance.choose(loads, None, streamed=True) is other
    for _ in range(int(6 * DECAY_SECONDS)):
        clock.now += 1
        served(clock, other, 0.1)
    assert balance.choose(loads, None, streamed=True) is one


def test_one_long_answer_says_little_of_a_place(clock: Clock) -> None:
    one, other = places(clock, 1, 1)
    for load in (one, other):
        for _ in range(20):
            served(clock, load, 1.0, streamed=False)
    with one.first_byte(ITS_OWN, streamed=False) as came:
        clock.now += 3
        came()
    assert one.cost(streamed=False) < 2


def test_a_place_that_fails_quickly_looks_slow(clock: Clock) -> None:
    failing, well = loads = places(clock, 1, 1)
    for load in loads:
        served(clock, load, 0.5)
    with pytest.raises(UpstreamError), failing.first_byte(ITS_OWN, streamed=True):
        raise UpstreamError("no")
    assert Balance(loads, by_prefix=False).choose(loads, None, streamed=True) is well
    before = well.cost(streamed=True)
    with pytest.raises(InvalidRequest), well.first_byte(ITS_OWN, streamed=True):
        raise InvalidRequest("the caller's mistake")
    assert well.cost(streamed=True) == before


def test_a_call_that_was_given_up_waited_at_least_so_long(clock: Clock) -> None:
    (load,) = places(clock, 1)
    served(clock, load, 0.1)

    def given_up() -> None:
        with load.first_byte(ITS_OWN, streamed=True):
            clock.now += 30
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        given_up()
    assert load.cost(streamed=True) == pytest.approx(30)


def test_what_comes_after_the_first_byte_is_not_counted(clock: Clock) -> None:
    (load,) = places(clock, 1)
    with load.first_byte(ITS_OWN, streamed=True) as came:
        clock.now += 0.2
        came()
        clock.now += 60
        came()
    clock.now -= 60
    assert load.cost(streamed=True) == pytest.approx(0.2)


def test_a_place_counts_what_runs_there_whatever_becomes_of_it(clock: Clock) -> None:
    (load,) = places(clock, 1)
    taken = load.taken()
    taken.__enter__()
    assert load.in_flight == 1
    assert not taken.__exit__(UpstreamError, UpstreamError("no"), None)
    assert load.in_flight == 0


# -- by prefix


def keys(count: int) -> list[int]:
    return [hashed(f"conversation {number}".encode()) for number in range(count)]


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 3), (0.5, 2, 1, 1)])
def test_the_ring_shares_keys_by_weight(weights: tuple[float, ...]) -> None:
    ring = Ring({f"place-{number}": weight for number, weight in enumerate(weights)})
    counts = Counter(next(ring.walk(key)) for key in keys(20_000))
    for number, weight in enumerate(weights):
        assert counts[f"place-{number}"] / 20_000 == pytest.approx(weight / sum(weights), rel=0.25)


def test_a_place_that_leaves_moves_its_own_keys_alone_and_to_all_others() -> None:
    names = {f"place-{number}": 1.0 for number in range(5)}
    before, after = Ring(names), Ring({name: 1.0 for name in names if name != "place-3"})
    moved: Counter[str] = Counter()
    for key in keys(5_000):
        was, now = next(before.walk(key)), next(after.walk(key))
        if was != now:
            assert was == "place-3"
            moved[now] += 1
    assert sum(moved.values()) == sum(next(before.walk(key)) == "place-3" for key in keys(5_000))
    assert set(moved) == set(names) - {"place-3"}


def test_a_walk_names_every_place_once() -> None:
    ring = Ring({"a": 1, "b": 0.01, "c": 5})
    for key in keys(50):
        assert sorted(ring.walk(key)) == ["a", "b", "c"]


def test_a_conversation_stays_where_it_is_and_a_shut_place_s_own_move_on(clock: Clock) -> None:
    loads = places(clock, 1, 1, 1)
    balance = Balance(loads, by_prefix=True)
    homes = {key: balance.choose(loads, key, streamed=True) for key in keys(300)}
    assert set(homes.values()) == set(loads)
    assert homes == {key: balance.choose(loads, key, streamed=True) for key in homes}
    for key, home in homes.items():
        now = balance.choose(loads[1:], key, streamed=True)
        assert (now is home) == (home is not loads[0])


def test_a_call_without_a_beginning_goes_by_latency(clock: Clock) -> None:
    quick, slow = loads = places(clock, 1, 1)
    served(clock, quick, 0.1)
    served(clock, slow, 3)
    served(clock, quick, 0.1)
    assert Balance(loads, by_prefix=True).choose(loads, None, streamed=True) is quick


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=300),
)
def test_no_place_is_ever_above_its_bound(weights: list[float], steps: list[tuple[int, bool]]) -> None:
    """A few conversations, all of them hot: a call that comes finds its bound kept by whoever takes it."""
    loads = places(Clock(), *weights)
    balance = Balance(loads, by_prefix=True)
    running: list[Load] = []
    for number, ends in steps:
        if ends and running:
            running.pop(number % len(running)).in_flight -= 1
            continue
        chosen = balance.choose(loads, hashed(bytes([number])), streamed=True)
        chosen.in_flight += 1
        running.append(chosen)
        bound = math.ceil(LOAD_FACTOR * len(running) * chosen.weight / sum(weights))
        assert chosen.in_flight <= bound
