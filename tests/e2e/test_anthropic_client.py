"""Anthropic's official client against the running platform: vLLM answers, through the gateway's translation."""

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHAT = "smollm2-135m-instruct"
HELLO: list = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(platform) -> Iterator[Anthropic]:
    with Anthropic(base_url=platform.gateway_url, api_key=platform.api_key, max_retries=0) as client:
        yield client


def test_a_message_whole_and_streamed_with_the_tokens_that_were_counted(client: Anthropic) -> None:
    asked = {"model": CHAT, "system": "Answer in one word.", "messages": HELLO}
    counted = client.messages.count_tokens(**asked).input_tokens
    whole = client.messages.create(**asked, max_tokens=8, extra_body={"temperature": 0, "top_k": 1})
    with client.messages.stream(**asked, max_tokens=8, extra_body={"temperature": 0, "top_k": 1}) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == streamed.content[0].text
    assert text
    for message in (whole, streamed):
        assert message.stop_reason in {"end_turn", "max_tokens"}
        assert 0 < message.usage.output_tokens <= 8
        assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == counted


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    asked = {"model": CHAT, "messages": [{"role": "user", "content": "Count: one two three four five six."}]}
    free = client.messages.create(**asked, max_tokens=16, extra_body={"temperature": 0})
    words = free.content[0].text.split()
    stop = words[len(words) // 2]
    stopped = client.messages.create(**asked, max_tokens=16, stop_sequences=[stop], extra_body={"temperature": 0})
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)


def test_the_model_continues_what_was_begun_for_it(client: Anthropic) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hello, my name"}]
    message = client.messages.create(model=CHAT, messages=begun, max_tokens=4)
    assert message.usage.output_tokens > 0


def test_a_prompt_above_the_window_is_the_caller_s_mistake(client: Anthropic) -> None:
    long = [{"role": "user", "content": "word " * 9_000}]
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(model=CHAT, messages=long, max_tokens=4)
    assert error.value.body["error"]["type"] == "invalid_request_error"
    assert "maximum context length" in error.value.body["error"]["message"]
