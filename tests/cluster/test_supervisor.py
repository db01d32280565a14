"""The supervisor with real PostgreSQL and Redis: deaths, restarts, and nothing left behind."""

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import psycopg
import pytest
import redis

from cluster.errors import AlreadyRunning, ClusterError, PartFailed
from cluster.home import Home
from cluster.parts import Part, PartEvent, PartStatus
from cluster.postgres import postgres_part
from cluster.redis_server import redis_part
from cluster.status import read_status
from cluster.supervisor import Supervisor, bring_down

SECONDS_MAX = 60.0


def ignore(_: PartEvent) -> None:
    pass


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@asynccontextmanager
async def supervised(home: Home, parts: list[Part], **options: object) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(home, parts, **{"report": ignore, **options})
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def status_of(supervisor: Supervisor, name: str) -> PartStatus:
    return next(status for status in supervisor.snapshot() if status.name == name)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def test_parts_start_in_order_of_need_and_stop_in_reverse_leaving_nothing(home: Home, running, stubborn) -> None:
    events: list[PartEvent] = []
    with home.held():
        parts = [stubborn, postgres_part(home)[0], redis_part(home)[0]]
        async with supervised(home, parts, report=events.append) as supervisor:
            assert {status.state for status in supervisor.snapshot()} == {"ready"}
            assert all(status.pid and psutil.pid_exists(status.pid) for status in supervisor.snapshot())
            assert status_of(supervisor, "postgres").version.startswith("18.")
            assert len(running()) >= 4
        assert running() == []
    order = [(event.name, event.state) for event in events]
    assert order.index(("redis", "ready")) < order.index(("stubborn", "starting"))
    assert order.index(("stubborn", "stopped")) < order.index(("redis", "stopping"))
    assert {status.state for status in supervisor.snapshot()} == {"stopped"}


async def test_a_killed_redis_comes_back_with_every_acknowledged_write(home: Home) -> None:
    with home.held():
        part, url = redis_part(home)
        async with supervised(home, [part]) as supervisor:
            pid = status_of(supervisor, "redis").pid
            assert pid is not None
            acknowledged = 0
            with redis.Redis.from_url(url) as client:
                try:
                    while True:
                        client.xadd("events", {"event": "x" * 300})
                        acknowledged += 1
                        if acknowledged == 500:
                            os.kill(pid, signal.SIGKILL)
                except redis.ConnectionError:
                    pass
            await until(lambda: status_of(supervisor, "redis").restarts == 1)
            await until(lambda: status_of(supervisor, "redis").state == "ready")
            assert status_of(supervisor, "redis").pid != pid
            with redis.Redis.from_url(url) as client:
                # One more may have been written and not acknowledged.
                assert client.xlen("events") - acknowledged in (0, 1)


async def test_a_killed_postgres_comes_back_with_what_was_committed(home: Home) -> None:
    with home.held():
        part, url = postgres_part(home)
        async with supervised(home, [part]) as supervisor:
            with psycopg.connect(url, autocommit=True) as connection:
                assert connection.execute("SHOW fsync").fetchone() == ("on",)
                connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
            pid = status_of(supervisor, "postgres").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: status_of(supervisor, "postgres").restarts == 1)
            await until(lambda: status_of(supervisor, "postgres").state == "ready")
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)


async def test_data_outlives_the_cluster(home: Home) -> None:
    with home.held():
        for expected in (1, 2):
            part, url = postgres_part(home)
            async with supervised(home, [part]):
                with psycopg.connect(url) as connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS runs (n serial)")
                    connection.execute("INSERT INTO runs DEFAULT VALUES")
                    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (expected,)


async def test_postgres_and_redis_listen_on_no_port(home: Home) -> None:
    with home.held():
        async with supervised(home, [postgres_part(home)[0], redis_part(home)[0]]) as supervisor:
            for status in supervisor.snapshot():
                listening = psutil.Process(status.pid).net_connections(kind="inet")
                assert [entry for entry in listening if entry.status == psutil.CONN_LISTEN] == []


async def test_a_hook_runs_after_a_restart_and_a_failing_one_starts_the_part_over(home: Home) -> None:
    calls: list[int] = []

    async def hook() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise ClusterError("the first deployment fails")

    with home.held():
        part, url = redis_part(home)
        async with supervised(home, [part], restarted={"redis": hook}) as supervisor:
            assert calls == []
            os.kill(status_of(supervisor, "redis").pid or 0, signal.SIGKILL)
            await until(lambda: len(calls) == 2 and status_of(supervisor, "redis").state == "ready")
            assert status_of(supervisor, "redis").restarts == 2
            with redis.Redis.from_url(url) as client:
                assert client.ping()


async def test_a_hook_that_breaks_ends_the_supervision_openly(home: Home, running) -> None:
    async def hook() -> None:
        raise LookupError("a bug")

    with home.held():
        supervisor = Supervisor(home, [redis_part(home)[0]], ignore, {"redis": hook})
        await supervisor.start()
        os.kill(status_of(supervisor, "redis").pid or 0, signal.SIGKILL)
        with pytest.raises(LookupError, match="a bug"):
            await supervisor.run_until_stopped()
        assert running() == []


async def test_a_part_that_keeps_dying_is_shown_as_failed_and_tried_again(home: Home) -> None:
    home.prepare()
    healed = home.folder / "healed"
    first = home.folder / "first"
    script = f"test -e {first} && test ! -e {healed} && exit 3; touch {first}; exec sleep 600"

    async def ready() -> bool:
        return first.exists()

    events: list[PartEvent] = []
    part = Part("flaky", ("sh", "-c", script), ready, "1", home.folder)
    with home.held():
        async with supervised(home, [part], report=events.append) as supervisor:
            os.kill(status_of(supervisor, "flaky").pid or 0, signal.SIGKILL)
            await until(lambda: status_of(supervisor, "flaky").state == "failed")
            assert "exit code 3" in (status_of(supervisor, "flaky").message or "")
            healed.touch()
            await until(lambda: status_of(supervisor, "flaky").state == "ready")
    assert [event.state for event in events][:3] == ["starting", "ready", "restarting"]


async def test_a_part_that_does_not_come_up_stops_everything_and_shows_its_log(home: Home, running) -> None:
    async def never() -> bool:
        return False

    command = (sys.executable, "-c", "raise SystemExit('the disk is on fire')")
    broken = Part("broken", command, never, "1", home.folder, needs=("redis",))
    with home.held():
        supervisor = Supervisor(home, [redis_part(home)[0], broken], ignore)
        with pytest.raises(PartFailed, match=r"(?s)broken ended with exit code 1.*broken\.log.*the disk is on fire"):
            await supervisor.start()
        assert running() == []


async def test_a_part_that_is_never_ready_fails_after_its_time(home: Home, running) -> None:
    async def never() -> bool:
        return False

    with home.held():
        part = Part("slow", ("sleep", "600"), never, "1", home.folder, start_seconds_max=0.3)
        with pytest.raises(PartFailed, match="slow was not ready within"):
            await Supervisor(home, [part], ignore).start()
        assert running() == []


async def test_a_signal_while_starting_stops_what_has_started(home: Home, running) -> None:
    async def never() -> bool:
        return False

    with home.held():
        slow = Part("slow", ("sleep", "600"), never, "1", home.folder, needs=("redis",))

        def interrupt(event: PartEvent) -> None:
            if (event.name, event.state) == ("slow", "starting"):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(PartFailed, match="stopped by a signal"):
            await Supervisor(home, [redis_part(home)[0], slow], interrupt).start()
        assert running() == []


@pytest.mark.parametrize(("needs", "other"), [(("nobody",), ()), (("b",), ("a",))])
def test_needs_that_cannot_be_met_are_refused(home: Home, needs: tuple[str, ...], other: tuple[str, ...]) -> None:
    async def ready() -> bool:
        return True

    parts = [Part("a", ("true",), ready, "1", home.folder, needs=needs)]
    parts.append(Part("b", ("true",), ready, "1", home.folder, needs=other))
    with pytest.raises(ValueError, match="nobody meets, or a cycle"):
        Supervisor(home, parts, ignore)


def test_a_supervisor_killed_by_sigkill_leaves_nothing(start_supervised, running) -> None:
    supervisor = start_supervised()
    assert len(running()) >= 4
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not running())


def test_up_again_after_a_sigkill_ends_what_is_left_first(home: Home, start_supervised, running) -> None:
    first = start_supervised()
    before = set(running())
    first.kill()
    first.wait()
    start_supervised()
    assert before.isdisjoint(running())
    status = read_status(home)
    assert status is not None
    assert status.alive


def test_down_ends_a_running_supervisor_from_another_process(home: Home, start_supervised, running) -> None:
    supervisor = start_supervised()
    with pytest.raises(AlreadyRunning, match=f"supervisor pid {supervisor.pid}"), home.held():
        pass
    status = read_status(home)
    assert status is not None
    assert stat.S_IMODE(home.status_path.stat().st_mode) == 0o600
    assert {part.name: part.state for part in status.parts} == dict.fromkeys(("postgres", "redis", "stubborn"), "ready")
    began = time.monotonic()
    # Its parent must ask for it, or it stays a zombie; ``bring_down`` takes a zombie for ended.
    assert bring_down(home)
    assert time.monotonic() - began < SECONDS_MAX
    assert supervisor.wait() == 0
    assert running() == []
    assert not bring_down(home)
