"""Classes by import path: OpenAI's own, one that LangChain ships without a provider, and what is no class at all."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tracers.langchain import wait_for_all_tracers
from pydantic import SecretStr

from models.channels import UPSTREAM_KEY_HEADER
from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.asgi import Receive, Scope, Send, send_json
from serve.hosted.classes import ModelClass
from serve.hosted.config import HostedConfig

OPENAI = "langchain_openai:ChatOpenAI"


@pytest.fixture
async def openai_stage(adapter: Any, serving: Any) -> AsyncIterator[tuple[Any, ScriptedEngine]]:
    engine = ScriptedEngine()
    async with serving(engine) as url:
        yield await adapter(model_class=OPENAI, base_url=f"{url}/v1"), engine


async def test_openais_class_is_told_everything_in_its_own_words(openai_stage: tuple[Any, ScriptedEngine]) -> None:
    stage, engine = openai_stage
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    tools = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    messages = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "system", "content": "In its place."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://e.com/a", "detail": "low"}}]},
    ]
    answer = await stage.chat(
        messages=messages, stop=["END"], max_completion_tokens=3, logit_bias={"5": 1}, **sampling, **tools
    )
    assert answer.choices[0].message.content == "w0 w1 w2 "
    (_, headers, asked) = engine.requests[0]
    assert headers["authorization"] == "Bearer sk-ant-secret"
    assert {name: asked[name] for name in sampling} == sampling
    assert (asked["stop"], asked["max_completion_tokens"], asked["logit_bias"]) == (["END"], 3, {"5": 1})
    assert asked["messages"] == messages
    assert (asked["tools"], asked["tool_choice"], asked["parallel_tool_calls"]) == ([tool], "required", False)


async def test_openais_class_streams_and_is_billed_by_its_own_figures(
    openai_stage: tuple[Any, ScriptedEngine],
) -> None:
    stage, engine = openai_stage
    frames = await stage.frames(stream_options={"include_usage": True})
    texts = [frame["choices"][0]["delta"].get("content") for frame in frames[:5]]
    assert texts == ["", "w0 ", "w1 ", "w2 ", "w3 "]
    assert frames[-2]["usage"]["completion_tokens"] == 4
    engine.script = Script(status=429)
    error = await stage.refused()
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")


async def test_openais_class_gives_an_answer_that_breaks_its_schema_as_a_failure(
    openai_stage: tuple[Any, ScriptedEngine],
) -> None:
    stage, engine = openai_stage
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    error = await stage.refused(response_format={"type": "json_schema", "json_schema": schema})
    assert error.status_code == 502
    assert engine.requests[0][2]["response_format"]["json_schema"]["schema"] == {"type": "object"}


class Parrot(BaseChatModel):
    """A chat model of somebody's own: no tools, no address, no key, one field that we know."""

    model: str
    temperature: float | None = None
    word: str = "polly"

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _answer(self, messages: list[BaseMessage]) -> list[str]:
        return [f"{self.word} ", f"{self.temperature} ", str(messages[-1].text)]

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = AIMessage("".join(self._answer(messages)), response_metadata={"finish_reason": "STOP"})
        return ChatResult(generations=[ChatGeneration(message=answer)])


class StreamingParrot(Parrot):
    """The same, by pieces; it never says why it ends."""

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for piece in self._answer(messages):
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name that this module can be imported by; pytest gives it none that is a path."""
    monkeypatch.setitem(sys.modules, "somebodys", sys.modules[__name__])
    return "somebodys"


@pytest.fixture
def bare(adapter: Any, importable: str) -> Any:
    async def start(name: str, **options: Any) -> Any:
        return await adapter(
            model_class=f"{importable}:{name}", base_url=None, api_key=None, options={"word": "coco", **options}
        )

    return start


async def test_any_chat_model_answers(bare: Any) -> None:
    stage = await bare("Parrot")
    answer = await stage.chat("Hi", temperature=0.5)
    assert answer.choices[0].message.content == "coco 0.5 Hi"
    assert (answer.choices[0].finish_reason, answer.usage) == ("stop", None)
    frames = await stage.frames()
    assert frames[1]["choices"][0]["delta"] == {"content": "coco None Hi"}
    assert frames[-1] == {"done": True}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"top_p": 0.5}, "top_p"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_a_class_does_not_declare_is_refused(bare: Any, body: Any, param: str) -> None:
    error = await (await bare("Parrot")).refused(**body)
    assert (error.status_code, error.param, error.code) == (400, param, "unsupported_parameter")


async def test_a_class_that_would_fetch_an_image_itself_gets_no_address(bare: Any) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]
    error = await (await bare("Parrot")).refused(parts)
    assert error.param == "messages[0].content[0].image_url.url"


async def test_a_class_that_has_no_place_for_an_organisations_key_says_so(bare: Any) -> None:
    error = await (await bare("Parrot")).refused(extra_headers={UPSTREAM_KEY_HEADER: "sk-of-an-organisation"})
    assert (error.status_code, error.code) == (403, "upstream_credential_unusable")


async def test_a_class_that_does_not_say_why_it_stopped_was_cut_off(bare: Any) -> None:
    assert (await (await bare("StreamingParrot")).refused()).status_code == 502


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_class": "langchain_nowhere:Chat"}, "there is no"),
        ({"model_class": "langchain_anthropic:Nothing"}, "there is no"),
        ({"model_class": "collections:OrderedDict"}, "not a LangChain chat model"),
        ({"model_class": "langchain_anthropic:ChatAnthropic"}, "needs base_url"),
        ({"model_class": "langchain_anthropic:ChatAnthropic", "api_key": SecretStr("k")}, "needs base_url"),
        ({"model_class": "somebodys:Parrot", "api_key": SecretStr("k")}, "takes no api_key"),
        ({"model_class": "langchain_core.language_models:ParrotFakeChatModel"}, "takes no model's name"),
    ],
)
@pytest.mark.usefixtures("importable")
def test_a_class_that_cannot_be_used_is_refused_at_the_start(changes: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ModelClass(HostedConfig(name="x", **changes))


def test_instances_are_kept_for_each_set_of_parameters_and_only_so_many(importable: str) -> None:
    kind = ModelClass(HostedConfig(name="x", model_class=f"{importable}:Parrot", models_max=2))
    first = kind.model("a", {"temperature": 0.5})
    assert kind.model("a", {"temperature": 0.5}) is first
    assert kind.model("b", {}) is not kind.model("a", {})
    assert kind.model("a", {"temperature": 0.5}) is not first


async def test_no_tracer_and_no_detour_whatever_the_environment_says(
    adapter: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def eavesdropper(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        told.append(scope["path"])
        await send_json(send, 200, {})

    async with serving(eavesdropper) as url:
        for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
            monkeypatch.setenv(name, "true")
        for name in ("LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT", "LANGSMITH_GATEWAY", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, url)
        monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_key")
        stage = await adapter()
        await stage.chat()
        await stage.frames()
        await asyncio.to_thread(wait_for_all_tracers)
    assert told == []
    assert len(stage.provider.requests) == 2
    assert stage.provider.requests[0][0]["authorization"] == "Bearer sk-ant-secret"
