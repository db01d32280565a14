"""``objecta chat``: a conversation in the terminal, through the official SDK."""

import sys
from typing import Any

from openai import APIError, OpenAI
from rich.markup import escape

from cluster.errors import ClusterError
from cluster.home import Home
from deployments.cli.show import console, errors
from deployments.local import DEMO, config_of, state_of


def talk(home: Home, model: str | None, key: str | None) -> None:
    """Read lines, stream answers. Raises ClusterError where there is no platform or no key."""
    state, demo = state_of(home), home.read_json(DEMO) or {}
    key = key or demo.get("api_key")
    if key is None:
        raise ClusterError("no API key: --key, OPENAI_API_KEY, or objecta keys create")
    model = model or next(entry.id for entry in config_of(home).served() if entry.kind == "chat")
    client = OpenAI(base_url=f"{state['gateway_url']}/v1", api_key=key)
    messages: list[Any] = []
    while line := _read(f"{model}> "):
        messages.append({"role": "user", "content": line})
        try:
            answer = _stream(client, model, messages)
        except APIError as error:
            errors.print(f"[red]{escape(error.message)}[/red]")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": answer})


def _read(prompt: str) -> str:
    """One line; empty at the end of the input."""
    if sys.stdin.isatty():
        console.print(prompt, end="", markup=False)
    return sys.stdin.readline().strip()


def _stream(client: OpenAI, model: str, messages: list[Any]) -> str:
    parts: list[str] = []
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text:
            parts.append(text)
            console.out(text, end="", highlight=False)
    console.out("")
    return "".join(parts)
