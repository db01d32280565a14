"""The circuit of an upstream that cannot be asked: what opens it, who may try, and what closes it."""

import pytest

from models.errors import Unavailable
from serve.circuit import Circuit
from serve.config import CircuitPolicy

POLICY = CircuitPolicy(failures=3, rest_seconds=1, rest_seconds_max=4)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(POLICY, clock)


def call(circuit: Circuit, *, answered: bool) -> None:
    circuit.ended(answered=answered, probe=circuit.enter("m"))


def broken(circuit: Circuit) -> None:
    for _ in range(POLICY.failures):
        call(circuit, answered=False)


def test_failures_in_a_row_open_it_and_callers_learn_when_to_come_again(circuit: Circuit) -> None:
    broken(circuit)
    assert (circuit.state, circuit.shut) == ("open", True)
    with pytest.raises(Unavailable) as refused:
        circuit.enter("m")
    assert refused.value.retry_after_seconds == POLICY.rest_seconds


def test_an_answer_ends_the_row(circuit: Circuit) -> None:
    for _ in range(3):
        call(circuit, answered=False)
        call(circuit, answered=False)
        call(circuit, answered=True)
    assert circuit.state == "closed"


def test_after_the_rest_one_call_alone_may_try_and_its_answer_closes(circuit: Circuit, clock: Clock) -> None:
    broken(circuit)
    clock.now += 1
    assert (circuit.state, circuit.shut) == ("half_open", False)
    probe = circuit.enter("m")
    assert probe
    assert circuit.shut
    with pytest.raises(Unavailable):
        circuit.enter("m")
    circuit.ended(answered=True, probe=probe)
    assert (circuit.state, circuit.shut) == ("closed", False)
    call(circuit, answered=False)
    assert circuit.state == "closed"


def test_a_failed_try_doubles_the_rest_up_to_a_bound_and_success_makes_it_short_again(
    circuit: Circuit, clock: Clock
) -> None:
    broken(circuit)
    for rest in (1, 2, 4, 4):
        clock.now += rest - 0.01
        assert circuit.state == "open"
        clock.now += 0.01
        call(circuit, answered=False)
        assert circuit.state == "open"
    clock.now += 4
    call(circuit, answered=True)
    broken(circuit)
    clock.now += 1
    assert not circuit.shut


def test_a_try_whose_client_leaves_decides_nothing(circuit: Circuit, clock: Clock) -> None:
    broken(circuit)
    clock.now += 1
    circuit.left(probe=circuit.enter("m"))
    assert (circuit.state, circuit.shut) == ("half_open", False)
    call(circuit, answered=True)
    assert circuit.state == "closed"


def test_calls_that_wait_too_long_count_also_as_a_try(circuit: Circuit, clock: Clock) -> None:
    for _ in range(POLICY.failures):
        circuit.left(probe=circuit.enter("m"))
        circuit.late()
    assert circuit.state == "open"
    clock.now += 1
    circuit.left(probe=circuit.enter("m"))
    circuit.late()
    clock.now += 1
    assert circuit.state == "open"
    clock.now += 1
    assert circuit.state == "half_open"


def test_what_old_calls_come_to_changes_nothing_while_it_is_open(circuit: Circuit, clock: Clock) -> None:
    old = [circuit.enter("m") for _ in range(4)]
    broken(circuit)
    for probe, answered in zip(old, (True, False, True, False), strict=True):
        circuit.ended(answered=answered, probe=probe)
    circuit.late()
    assert circuit.state == "open"
    clock.now += 1
    assert circuit.state == "half_open"
