"""The endpoint guide's snippets run as they are printed, with official clients, against everything but Ray and vLLM.

``tests/e2e/test_endpoint_guide.py`` runs the same snippets on the running platform.
"""

import asyncio
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "endpoint.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SNIPPETS = {
    title: code for title, text in SECTIONS.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
}
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
START = SNIPPETS["How do I start?"]
SAID = {
    "How do I chat?": "w0 w1 w2 w3  stop",
    "How do I stream?": "w0 w1 w2 w3 4\n",
    "What if a stream breaks?": "w0 w1 w2 w3 \n",
    "How do I let a call wait behind others?": "flex w0 w1 w2 w3",
    "How do I have an answer kept?": "miss w0 w1 w2 w3",
    "How do I call tools?": "get_weather Turin\n",
    "How do I get strict JSON?": "Turin\n",
    "How do I embed texts?": "2 64 ",
    "How do I rerank documents?": "1 {'text': 'Salaries are paid monthly.'}",
    "How do I use responses?": "['message']\ncompleted\n",
    "How do I stream a response?": "response.completed\n",
    "How do I run a response in the background?": "completed\n",
    "How do I keep a conversation?": "user\nassistant\n",
    "How do I keep files?": "21 b'Rain falls in autumn.'\nTrue\n",
    "How do I run a batch?": "completed 2\ntext-0 200\ntext-1 200\n",
    "How do I use Anthropic's client?": "w0 w1 w2 w3 4\n",
    "What do errors look like?": "404 model_not_found model req_",
    "Who answered, and what is left?": "x-request-id guide-1\nx-objecta-model smollm2-135m-instruct\n",
}


@pytest.fixture
def environment(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for client, suffix in (("OPENAI", "/v1"), ("ANTHROPIC", "")):
        monkeypatch.setenv(f"{client}_BASE_URL", f"{endpoint.url}{suffix}")
        monkeypatch.setenv(f"{client}_API_KEY", endpoint.key)


def test_every_feature_has_one_snippet() -> None:
    assert PAGE.count("```python") == len(SNIPPETS)
    assert set(SAID) <= set(SNIPPETS)


@pytest.mark.parametrize("title", SNIPPETS)
@pytest.mark.usefixtures("environment")
async def test_a_snippet_runs(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = SNIPPETS[title] if title == "How do I start?" else f"{START}\n{SNIPPETS[title]}"
    names: dict[str, Any] = {"__name__": "guide"}
    try:
        await asyncio.to_thread(exec, compile(program, f"docs/endpoint.md, {title}", "exec"), names)
    finally:
        for value in [value for value in names.values() if isinstance(value, OpenAI | Anthropic)]:
            value.close()
    models = "smollm2-135m-instruct\nall-minilm-l6-v2\nms-marco-minilm\nagent/handbook\n"
    said = capsys.readouterr().out
    assert said.startswith(models)
    assert SAID.get(title, "") in said
    assert title == "How do I start?" or len(said) > len(models)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("environment")
async def test_a_command_runs(command: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        shell=True,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"finish_reason"' in done.stdout
