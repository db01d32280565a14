"""The benchmark of admission in small: real processes, one of them killed; no budget is overspent, leaked or shut."""

from benchmarks.admission import Load, measured


async def test_a_killed_replica_and_clients_that_leave_cost_no_budget_anything() -> None:
    much = Load(replicas=2, calls=150, worth=20, kills=1)
    figures = await measured(much)
    assert {name: figures[name] for name in ("overspend_micro", "phantom_holds", "refused_wrongly")} == {
        "overspend_micro": 0,
        "phantom_holds": 0,
        "refused_wrongly": 0,
    }
    ends = sum(int(figures[name]) for name in ("served", "left", "cut_off", "refused"))
    assert (ends, figures["refused"] > 0, figures["served"] > 0) == (much.calls, True, True)
    assert 0.5 < figures["spent_share"] <= 1
