"""The snippet of the documentation runs as it is printed, but for the address, the key and the model."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

Platform = Callable[..., Awaitable[Any]]
PAGE = Path(__file__).resolve().parents[3] / "docs" / "api.md"


async def test_the_guide_s_snippet_runs(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(
        r"\n\n((?:    .*\n|\n)*    from anthropic .*\n(?:    .*\n|\n)*)", PAGE.read_text(encoding="utf-8")
    )
    stage = await platform()
    code = dedent(block)
    for printed, here in (
        ("http://127.0.0.1:8000", stage.url),
        ("sk-obj-…", "good"),
        ("smollm2-135m-instruct", "scripted"),
    ):
        assert code.count(printed) == 1
        code = code.replace(printed, here)
    await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("w0 \nw1 \nw2 \nw3 \n")
    assert "output_tokens=4" in printed
