"""Usage out of bytes."""

from typing import Any

import pytest

from models.usage import TokenUsage
from serve.usage import cost, estimated_prompt, find_usage, parse_usage


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}', TokenUsage(prompt=3, completion=4)),
        (b'{"usage" : {"prompt_tokens": 3, "total_tokens": 3}, "data": []}', TokenUsage(prompt=3)),
        (
            b'{"usage":{"prompt_tokens":10,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":4,"x":null},'
            b'"service_tier":"a","completion_tokens_details":{"reasoning_tokens":5}}}',
            TokenUsage(prompt=6, cached=4, completion=3, reasoning=5),
        ),
        # A provider's details that exceed the whole, or are no numbers, are not believed.
        (
            b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":9},'
            b'"completion_tokens_details":{"reasoning_tokens":-1}}}',
            TokenUsage(cached=1, completion=1),
        ),
        (b'{"usage":{"prompt_tokens":1},"choices":[{"usage":null}]}', TokenUsage(prompt=1)),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":99}"}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{}}', None),
        (b'{"usage":{"prompt_tokens":true,"completion_tokens":-4}}', None),
        (b'{"usage":{"prompt_tokens":1,}}', None),
        (b"", None),
    ],
)
def test_the_last_usage_object_is_found_and_its_buckets_are_disjoint(body: bytes, expected: Any) -> None:
    assert find_usage(body) == expected


def test_what_is_no_object_is_no_usage() -> None:
    assert parse_usage(b"[1]") is None


def test_a_prompt_nobody_counted_is_four_bytes_a_token_within_the_context() -> None:
    assert [estimated_prompt(9, None), estimated_prompt(9, 8_192), estimated_prompt(99_999, 8_192)] == [3, 3, 8_192]


def test_a_call_without_a_price_costs_nothing() -> None:
    assert cost(None, TokenUsage(prompt=5)) == 0
