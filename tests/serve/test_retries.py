"""The retry budget: bounded for an upstream that fails, without end for one that answers."""

from hypothesis import given
from hypothesis import strategies as st

from serve.config import RetryPolicy
from serve.retries import RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_failing_upstream_gets_its_floor_and_a_share_of_its_calls() -> None:
    clock = Clock()
    budget = RetryBudget(RetryPolicy(share=0.2, per_second=1, seconds=10), clock)
    assert sum(budget.withdraw() for _ in range(100)) == 10
    budget.calls += 50
    assert sum(budget.withdraw() for _ in range(100)) == 10
    clock.now += 3
    assert sum(budget.withdraw() for _ in range(100)) == 3
    assert (budget.sent, budget.refused) == (23, 277)


def test_what_is_not_used_is_not_saved_up() -> None:
    clock = Clock()
    budget = RetryBudget(RetryPolicy(share=0.2, per_second=1, seconds=10), clock)
    budget.calls += 1_000
    budget.withdraw()
    clock.now += 3_600
    assert sum(budget.withdraw() for _ in range(1_000)) == 10


def test_an_upstream_that_answers_may_stand_in_for_another_without_end() -> None:
    budget = RetryBudget(RetryPolicy(share=0, per_second=0.1, seconds=10), Clock())
    for _ in range(1_000):
        assert budget.withdraw()
        budget.answered()


def test_nothing_may_be_set_aside() -> None:
    assert not RetryBudget(RetryPolicy(share=0, per_second=0), Clock()).withdraw()


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30), st.integers(0, 60)), max_size=40),
    st.floats(0, 1),
    st.floats(0, 5),
)
def test_retries_that_fail_stay_within_the_bound(
    steps: list[tuple[float, int, int]], share: float, per_second: float
) -> None:
    clock = Clock()
    policy = RetryPolicy(share=share, per_second=per_second, seconds=10)
    budget = RetryBudget(policy, clock)
    began = clock.now
    for elapsed, calls, tries in steps:
        clock.now += elapsed
        budget.calls += calls
        for _ in range(tries):
            budget.withdraw()
    most = per_second * (policy.seconds + clock.now - began) + share * budget.calls
    assert budget.sent <= most + 1e-6
