"""The endpoint guide's snippets run as they are printed on the running platform, by the real models."""

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "endpoint.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SNIPPETS = {
    title: code for title, text in SECTIONS.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
}
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
FIRST, *REST = SNIPPETS
# The default catalogue has no model of this kind; ``tests/serve/contract/test_guide.py`` runs the snippet.
NOT_SERVED = "ms-marco-minilm"


@pytest.fixture
def environment(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for client, suffix in (("OPENAI", "/v1"), ("ANTHROPIC", "")):
        monkeypatch.setenv(f"{client}_BASE_URL", f"{platform.gateway_url}{suffix}")
        monkeypatch.setenv(f"{client}_API_KEY", platform.api_key)


def run(title: str, program: str) -> str:
    """What the program prints."""
    names: dict[str, Any] = {"__name__": "guide"}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(program, f"docs/endpoint.md, {title}", "exec"), names)
    finally:
        for value in [value for value in names.values() if isinstance(value, OpenAI | Anthropic)]:
            value.close()
    return printed.getvalue()


@pytest.mark.usefixtures("environment")
def test_the_first_snippet_lists_the_models_that_the_others_name() -> None:
    models = set(run(FIRST, SNIPPETS[FIRST]).split())
    named = set(re.findall(r'(?:model="|"model": ")([\w./-]+)"', "".join(SNIPPETS.values())))
    assert {name for name in named if name not in models} == {NOT_SERVED, "nothing"}


@pytest.mark.parametrize("title", [title for title in REST if NOT_SERVED not in SNIPPETS[title]])
@pytest.mark.usefixtures("environment")
def test_a_snippet_runs(title: str) -> None:
    first = run(FIRST, SNIPPETS[FIRST])
    assert len(run(title, f"{SNIPPETS[FIRST]}\n{SNIPPETS[title]}")) > len(first)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("environment")
def test_a_command_runs(command: str) -> None:
    done = subprocess.run(
        command, shell=True, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"finish_reason"' in done.stdout
