"""``/v1/conversations`` through the official client, and responses that build on them; nobody sees another's."""

import asyncio
from typing import Any

import openai
import pytest


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


async def texts(listing: Any) -> list[str]:
    return [item.content[0].text async for item in listing]


async def test_a_conversation_is_made_changed_and_deleted(client: Any) -> None:
    made = await client.conversations.create(metadata={"topic": "a"}, items=[user("hi")])
    assert (made.object, made.metadata) == ("conversation", {"topic": "a"})
    assert (await client.conversations.retrieve(made.id)).to_dict() == made.to_dict()
    changed = await client.conversations.update(made.id, metadata={"topic": "b"})
    assert (changed.id, changed.metadata) == (made.id, {"topic": "b"})
    gone = await client.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    for call in (client.conversations.retrieve, client.conversations.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)


async def test_items_are_added_read_and_taken_out(client: Any) -> None:
    made = await client.conversations.create()
    added = await client.conversations.items.create(
        made.id,
        items=[
            user("a"),
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ],
    )
    assert [item.type for item in added.data] == ["message", "message", "function_call"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[2].id, False)
    found = await client.conversations.items.retrieve(added.data[1].id, conversation_id=made.id)
    assert (found.role, found.content[0].text, found.status) == ("assistant", "b", "completed")
    left = await client.conversations.items.delete(added.data[2].id, conversation_id=made.id)
    assert left.id == made.id
    listed = client.conversations.items.list(made.id, order="asc")
    assert await texts(listed) == ["a", "b"]


async def test_the_client_pages_through_a_long_list(client: Any) -> None:
    made = await client.conversations.create(items=[user(str(number)) for number in range(7)])
    assert await texts(client.conversations.items.list(made.id, limit=3)) == list("6543210")
    assert await texts(client.conversations.items.list(made.id, limit=3, order="asc")) == list("0123456")
    page = await client.conversations.items.list(made.id, limit=7)
    assert (len(page.data), page.has_more) == (7, False)


async def test_a_response_s_own_input_is_listed(client: Any) -> None:
    first = await client.responses.create(model="scripted", input="zero")
    answer = await client.responses.create(
        model="scripted", input=[user(str(number)) for number in range(5)], previous_response_id=first.id
    )
    assert await texts(client.responses.input_items.list(answer.id, limit=2)) == list("43210")
    assert await texts(client.responses.input_items.list(answer.id, order="asc")) == list("01234")


async def test_a_response_reads_its_conversation_and_adds_to_it(client: Any, speaker: Any) -> None:
    made = await client.conversations.create(items=[user("My name is Ada.")])
    answer = await client.responses.create(model="scripted", input="Who am I?", conversation=made.id)
    assert answer.conversation.id == made.id
    await client.responses.create(model="scripted", input="Sure?", conversation={"id": made.id})
    assert [message["content"] for message in speaker.requests[1]["messages"]] == [
        *("My name is Ada.", "Who am I?", "Hi", "Sure?"),
    ]
    assert await texts(client.conversations.items.list(made.id, order="asc")) == [
        *("My name is Ada.", "Who am I?", "Hi", "Sure?", "Hi"),
    ]


async def test_responses_at_once_add_each_its_turn_in_one_piece(client: Any) -> None:
    made = await client.conversations.create()
    asked = [client.responses.create(model="scripted", input=f"q{n}", conversation=made.id) for n in range(6)]
    await asyncio.gather(*asked)
    found = await texts(client.conversations.items.list(made.id, order="asc", limit=100))
    assert found[1::2] == ["Hi"] * 6
    assert sorted(found[::2]) == [f"q{n}" for n in range(6)]


async def test_calls_whose_turns_were_mixed_can_still_be_answered(client: Any, speaker: Any) -> None:
    made = await client.conversations.create(
        items=[
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            user("Meanwhile"),
        ]
    )
    output: Any = {"type": "function_call_output", "call_id": "c", "output": "1"}
    await client.responses.create(model="scripted", input=[output], conversation=made.id)
    assert [message["role"] for message in speaker.requests[0]["messages"]] == ["assistant", "tool", "user"]


async def test_an_item_is_referred_to_by_its_id(client: Any, speaker: Any) -> None:
    first = await client.responses.create(model="scripted", input="a")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    second = await client.responses.create(model="scripted", input=[user("x"), reference, user("y")])
    assert [message["content"] for message in speaker.requests[1]["messages"]] == ["x", "Hi", "y"]
    assert await texts(client.responses.input_items.list(second.id, order="asc")) == ["x", "Hi", "y"]


BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("", {"metadata": []}, "metadata"),
    ("", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
    ("", {"items": [user(str(n)) for n in range(21)]}, "items"),
    ("", {"name": "x"}, "name"),
    ("/conv_1", {}, "metadata"),
    ("/conv_1/items", {}, "items"),
    ("/conv_1/items", {"items": []}, "items"),
    ("/conv_1/items", {"items": [{"role": "user", "content": []}]}, "items[0].content"),
]


async def test_a_bad_body_is_named(post: Any) -> None:
    for path, body, param in BODIES:
        answer = await post(f"/v1/conversations{path}", **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body


@pytest.mark.parametrize("whose", ["another organisation", "another project"])
async def test_nothing_of_another_tenant_is_there(client: Any, stage: Any, state: Any, acme: Any, whose: str) -> None:
    conversation = await client.conversations.create(items=[user("secret")])
    answer = await client.responses.create(model="scripted", input="secret")
    running = await client.responses.create(model="scripted", input="secret", background=True)
    key = (await state.tenant("Rival"))["key"] if "organisation" in whose else await state.project(acme, "Other")
    other = stage.client(key)
    (item,) = (await client.conversations.items.list(conversation.id)).data
    own = await other.conversations.create()
    attempts = [
        lambda: other.conversations.retrieve(conversation.id),
        lambda: other.conversations.update(conversation.id, metadata={}),
        lambda: other.conversations.delete(conversation.id),
        lambda: other.conversations.items.create(conversation.id, items=[user("intruder")]),
        lambda: other.conversations.items.list(conversation.id),
        lambda: other.conversations.items.retrieve(item.id, conversation_id=conversation.id),
        lambda: other.conversations.items.retrieve(item.id, conversation_id=own.id),
        lambda: other.conversations.items.delete(item.id, conversation_id=conversation.id),
        lambda: other.responses.create(model="scripted", input="x", conversation=conversation.id),
        lambda: other.responses.create(model="scripted", input=[{"type": "item_reference", "id": item.id}]),
        lambda: other.responses.retrieve(answer.id),
        lambda: other.responses.delete(answer.id),
        lambda: other.responses.cancel(running.id),
        lambda: other.responses.input_items.list(answer.id),
    ]
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError) as error:
            await attempt()
        assert error.value.body["type"] == "invalid_request_error"
        assert "secret" not in str(error.value.body)
    with pytest.raises(openai.BadRequestError) as previous:
        await other.responses.create(model="scripted", input="x", previous_response_id=answer.id)
    assert previous.value.code == "previous_response_not_found"
    assert await texts(client.conversations.items.list(conversation.id)) == ["secret"]
    assert (await client.responses.retrieve(answer.id)).status == "completed"
