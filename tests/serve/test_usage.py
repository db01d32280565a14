"""Usage out of bytes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.usage import BUCKETS, TokenUsage
from serve.usage import (
    FIGURE_MAX,
    PROMPT_DETAILS,
    buckets,
    cost,
    estimated_prompt,
    find_usage,
    parse_usage,
    usage_object,
)


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
            TokenUsage(cached=1, completion=1, doubtful=True),
        ),
        # Written to a cache, heard and spoken are parts, too.
        (
            b'{"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{'
            b'"cached_tokens":40,"cache_write_tokens":20,"audio_tokens":10},"completion_tokens_details":{'
            b'"reasoning_tokens":4,"audio_tokens":6,"accepted_prediction_tokens":3}}}',
            TokenUsage(
                prompt=30, cached=40, cache_write=20, audio_prompt=10, completion=10, reasoning=4, audio_completion=6
            ),
        ),
        # Some providers tell the reasoning beside the completion; only then is their total right.
        (
            b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":110,'
            b'"completion_tokens_details":{"reasoning_tokens":100}}}',
            TokenUsage(prompt=9, completion=1, reasoning=100),
        ),
        # A total that nothing gives.
        (
            b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":11}}',
            TokenUsage(prompt=9, completion=1, doubtful=True),
        ),
        (
            b'{"usage":{"prompt_tokens":-9,"completion_tokens":1,"total_tokens":1}}',
            TokenUsage(completion=1, doubtful=True),
        ),
        (b'{"usage":{"prompt_tokens":9000000000000000000,"total_tokens":9000000000000000000}}', None),
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


COUNTS = st.integers(0, FIGURE_MAX)
FIGURES = st.one_of(COUNTS, st.integers(0, 40), st.none(), st.integers(), st.booleans(), st.text(), st.floats())
DETAILS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens", "x"]), FIGURES
    ),
    FIGURES,
)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), FIGURES),
        **dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), DETAILS),
    },
)


@given(USAGES)
def test_whatever_a_provider_says_its_buckets_sum_to_its_total_or_are_doubted(usage: dict[str, Any]) -> None:
    found = buckets(usage)
    if found is None:
        return
    assert all(0 <= getattr(found, name) <= 2 * FIGURE_MAX for name in BUCKETS)
    assert sum(getattr(found, name) for name in BUCKETS) == found.total
    if not found.doubtful:
        sums = (usage.get("prompt_tokens") or 0) + (usage.get("completion_tokens") or 0)
        assert found.total == (sums if usage.get("total_tokens") is None else usage["total_tokens"])
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            named = (found.cached, found.cache_write, found.audio_prompt)
            assert named == tuple(details.get(name) or 0 for name in PROMPT_DETAILS)


@given(st.builds(TokenUsage, **dict.fromkeys(BUCKETS, st.integers(0, FIGURE_MAX // 8))))
def test_buckets_survive_the_wire(usage: TokenUsage) -> None:
    assert find_usage(orjson.dumps({"id": "a", "usage": usage_object(usage)})) == usage


def test_what_is_no_object_is_no_usage() -> None:
    assert parse_usage(b"[1]") is None


def test_a_prompt_nobody_counted_is_four_bytes_a_token_within_the_context() -> None:
    assert [estimated_prompt(9, None), estimated_prompt(9, 8_192), estimated_prompt(99_999, 8_192)] == [3, 3, 8_192]


def test_a_call_without_a_price_costs_nothing() -> None:
    assert cost(None, TokenUsage(prompt=5)) == 0
