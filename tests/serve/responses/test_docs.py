"""The page's snippets, run as they stand against a gateway; and its table of parameters, held against the code."""

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import openai

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "responses.md").read_text(encoding="utf-8")


def snippets() -> list[str]:
    return [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE, re.MULTILINE) if block.strip()]


async def test_every_snippet_runs(stage: Any, acme: Any, speaker: Any, chunk: Any, call: Any) -> None:
    hi = [chunk(content="Red"), chunk("stop")]
    calls = [chunk(**call(0, '{"city":"Ulm"}', "call_1", "weather")), chunk("tool_calls")]
    speaker.answers = [
        *([hi] * 5),
        *(calls, hi),
        [chunk(content='{"name":"Ada","age":36}'), chunk("stop")],
        hi,
    ]
    program = "\n".join(snippets()).replace("smollm2-135m-instruct", "scripted")
    program = program.replace("http://127.0.0.1:8000", stage.url).replace("sk-obj-…", acme["key"])
    assert program.count("client.") >= 12
    made: list[openai.OpenAI] = []

    class Client(openai.OpenAI):
        def __init__(self, **options: Any) -> None:
            super().__init__(max_retries=0, **options)
            made.append(self)

    program = program.replace("from openai import OpenAI\n", "")
    names: dict[str, Any] = {"OpenAI": Client, "__name__": "snippets"}
    await asyncio.to_thread(exec, compile(program, "docs/responses.md", "exec"), names)
    assert names["person"].output_parsed.age == 36
    assert names["response"].status == "completed"
    assert len(speaker.requests) == 9
    for client in made:
        client.close()


async def test_the_parameters_that_the_page_names_are_those_that_are_taken(post: Any) -> None:
    (section,) = re.findall(r"## Which parameters are supported\?\n\n(.*?)Everything else", PAGE, re.DOTALL)
    named = re.findall(r"`(\w+)`", section)
    assert len(named) == 26
    for name in named:
        # A value of no known type: a parameter that is taken has something to say about it, by its own name.
        answer = await post(**{name: 3.5})
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["code"] != "unsupported_parameter", error
        else:
            assert name in {"temperature", "top_p"}
