"""The beginning of a conversation: the same in each of its turns, another one for another tenant."""

from typing import Any

import pytest

from serve.prefixes import CHARACTERS, prefix_key

SYSTEM = {"role": "system", "content": "You answer for the handbook."}
FIRST = {"role": "user", "content": "How many days off?"}
ANSWER = {"role": "assistant", "content": "Thirty."}
SECOND = {"role": "user", "content": "And in the first year?"}


def key(*messages: dict[str, Any], organisation: str = "org_a", **more: Any) -> int | None:
    return prefix_key(organisation, {"model": "m", "messages": list(messages), **more})


def test_each_turn_of_a_conversation_begins_like_the_one_before() -> None:
    assert key(SYSTEM, FIRST) == key(SYSTEM, FIRST, ANSWER, SECOND)
    assert key(SYSTEM, FIRST) != key(SYSTEM, SECOND)
    assert key(SYSTEM, FIRST) != key(FIRST)


def test_another_tenant_s_is_another() -> None:
    assert key(SYSTEM, FIRST) != key(SYSTEM, FIRST, organisation="org_b")
    assert key(FIRST, prompt_cache_key="k") != key(FIRST, organisation="org_b", prompt_cache_key="k")


def test_the_caller_s_own_key_decides_where_it_gives_one() -> None:
    assert key(FIRST, prompt_cache_key="k") == key(SYSTEM, SECOND, prompt_cache_key="k")
    assert key(FIRST, prompt_cache_key="k") != key(FIRST, prompt_cache_key="l")


def test_parts_are_read_like_text_and_images_tell_apart() -> None:
    def asked(url: str) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": url}}
        return {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}

    assert key(asked("data:a")) == key(asked("data:a"), ANSWER)
    assert key(asked("data:a")) != key(asked("data:b"))


def test_only_so_much_of_a_long_beginning_counts() -> None:
    long = "x" * CHARACTERS
    system = {"role": "system", "content": long + "one"}
    assert key(system, FIRST) == key({**system, "content": long + "two"}, SECOND)
    assert key({**system, "content": "y" + long}, FIRST) != key(system, FIRST)


@pytest.mark.parametrize("prompt", ["Once upon a time", ["Once upon", "a time"], [1, 2, 3], [[1, 2], [3]]])
def test_a_prompt_has_a_beginning_in_each_of_its_forms(prompt: Any) -> None:
    found = prefix_key("org_a", {"model": "m", "prompt": prompt})
    assert found is not None
    assert found != prefix_key("org_a", {"model": "m", "prompt": "Another"})


@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "prompt": ""}, {"model": "m", "prompt": []}])
def test_a_request_may_have_none(body: dict[str, Any]) -> None:
    assert prefix_key("org_a", body) is None
