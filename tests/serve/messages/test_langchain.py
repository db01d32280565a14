"""LangChain's Anthropic chat model, which writes requests in its own way."""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from models.doubles.scripted_engine import Script

Platform = Callable[..., Awaitable[Any]]


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


async def test_an_agent_s_turn_with_a_tool(platform: Platform) -> None:
    stage = await platform()
    model = ChatAnthropic(model="scripted", base_url=stage.url, api_key="good", max_tokens=64, max_retries=0)
    stage.engine.script = Script(chunks=1, calls=(("weather", '{"city": "Paris"}'),), finish="tool_calls")
    messages: list[Any] = [SystemMessage("Be brief."), HumanMessage("Weather in Paris?")]
    called = await model.bind_tools([weather], tool_choice="any").ainvoke(messages)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Paris"})]
    stage.engine.script = Script()
    messages += [called, ToolMessage(weather.invoke(called.tool_calls[0]["args"]), tool_call_id="call_0")]
    pieces = [piece async for piece in model.bind_tools([weather]).astream(messages)]
    assert "".join(piece.text for piece in pieces) == "w0 w1 w2 w3 "
    total = sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces)
    assert total == 4
    sent = stage.engine.requests[1][2]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[-1]["content"] == "sunny in Paris"
    assert len(await stage.events(2)) == 2
