"""What the benchmarks print: the keys that scripts rely on, and figures that follow from the rounds."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import engine_parity, gateway_overhead
from benchmarks.answers import Expectation, LoadResult, Timing, address, check_answer, has_token
from benchmarks.gateway_overhead import Contender, Scenario, load
from benchmarks.processes import BenchmarkError, free_port, running, wait_for
from benchmarks.report import main, ratio

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def result(per_second: float, p50_ms: float = 1.0, ttft_ms: float = 0.5, tokens: float = 0.0) -> LoadResult:
    timings = [Timing(p50_ms / 1_000, ttft_ms / 1_000, 0, 0)]
    return LoadResult.of(timings, 1 / per_second).model_copy(update={"tokens_per_second": tokens})


def test_gateway_overhead_reports_its_keys_from_medians_over_the_rounds() -> None:
    results = {}
    for name, rates, p50_ms in (
        ("direct", (9_000, 9_000, 9_000), 0.5),
        ("bare", (2_000, 2_000, 2_000), 1.0),
        ("objecta", (900, 1_000, 5_000), 2.5),
        ("litellm", (50, 40, 60), 20.5),
    ):
        for scenario in gateway_overhead.SCENARIOS:
            results[name, scenario] = [result(rate, p50_ms, p50_ms / 2) for rate in rates]
    assert gateway_overhead.figures(results) == pytest.approx(
        {
            "unary_rps": 1_000,
            "litellm_unary_rps": 50,
            "unary_vs_litellm": 20,
            "streams_per_s": 1_000,
            "litellm_streams_per_s": 50,
            "streams_vs_litellm": 20,
            "unary_vs_bare": 0.5,
            "streams_vs_bare": 0.5,
            "added_p50_ms": 2,
            "added_ttft_p50_ms": 1,
            "litellm_added_p50_ms": 20,
        }
    )


def test_engine_parity_reports_the_least_share_over_the_numbers_of_clients() -> None:
    results = {}
    for clients, ours in ((1, 99.0), (8, 93.0), (32, 97.0)):
        results["objecta", clients] = [result(1, ttft_ms=70.0, tokens=ours)]
        results["vllm", clients] = [result(1, ttft_ms=65.0, tokens=100.0)]
    assert engine_parity.figures(results) == pytest.approx({"throughput_vs_vllm": 0.93, "ttft_added_ms": 5})


def test_engine_parity_gives_both_servers_the_same_prompts_and_new_ones_in_each_round() -> None:
    servers = engine_parity.Server("vllm", "http://127.0.0.1:1", None), engine_parity.Server("o", "http://[::1]:2", "k")
    first, second = (engine_parity.load(server, 8, 1).bodies for server in servers)
    assert first == second
    assert len(set(first)) == len(first) == engine_parity.ANSWERS[8] + 8
    assert not set(first) & set(engine_parity.load(servers[0], 8, 2).bodies)


def test_a_load_carries_the_contenders_path_and_key() -> None:
    made = load(Contender("bare", "http://127.0.0.1:8000/bench-bare", "sk-1"), Scenario(stream=True, clients=32))
    assert (made.host, made.port, made.path) == ("127.0.0.1", 8000, "/bench-bare/v1/chat/completions")
    assert made.headers == {"authorization": "Bearer sk-1"}
    assert json.loads(made.bodies[0])["stream"] is True


def test_the_report_is_one_json_object_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(lambda: {"unary_rps": 1234.5678, "share": 0.91239}) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"unary_rps": 1235.0, "share": 0.9124}


def test_a_benchmark_without_a_figure_prints_none_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, float]:
        raise BenchmarkError("an answer was wrong")

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(broken) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "an answer was wrong" in shown.err


def test_nothing_is_compared_with_nothing() -> None:
    with pytest.raises(BenchmarkError):
        ratio(1.0, 0.0)


def test_no_answer_is_no_result() -> None:
    with pytest.raises(ValueError, match="no answer"):
        LoadResult.of([], 1.0)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://127.0.0.1", "127.0.0.1:80"])
def test_an_address_names_host_and_port(url: str) -> None:
    with pytest.raises(ValueError, match="is not http"):
        address(url)


def test_a_role_a_comment_and_half_an_event_are_no_token() -> None:
    assert not has_token(b": ping\n\n" + ROLE)
    assert not has_token(ROLE + TOKEN[:-1])
    assert has_token(ROLE + TOKEN)


def test_text_after_done_is_a_wrong_answer() -> None:
    verdict = check_answer(Expectation(stream=True), 200, TOKEN + b"data: [DONE]\n\n" + b"data: more")
    assert verdict.error is not None


def test_a_process_ends_with_its_descendants(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys\n"
        "stubborn = 'import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); s.pause()'\n"
        "child = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    log = tmp_path / "log"
    with running([sys.executable, "-c", script], log) as process:
        ready = psutil.Process(process.pid)
        while not log.read_text().endswith("\n"):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.02)
        child = psutil.Process(int(log.read_text()))
        assert child in ready.children()
    assert process.returncode == -signal.SIGTERM
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_server_that_ends_before_it_answers_fails_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    expected = pytest.raises(BenchmarkError, match="ended with code 0:\nno such model")
    with running([sys.executable, "-c", "print('no such model')"], log) as process, expected:
        wait_for(f"http://127.0.0.1:{free_port()}/health", process, log, 30)
