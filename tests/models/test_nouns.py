import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.documents import chunk_id, table_name
from models.doubles.hash_embedder import HashEmbedder
from models.identity import AgentRoute, Principal
from models.usage import BUCKETS, Parts, Price, TokenUsage, disjoint

PRICE = Price(since="2026-01-01", prompt_micro=10_000, cached_micro=5_000, completion_micro=40_000)
TOKENS = st.integers(min_value=0, max_value=10**9)
SUMS = st.integers(0, 12)
PRICES = {"since": st.just("2026-01-01")} | {
    name: st.integers(0, 10**9) for name in Price.model_fields if name.endswith("_micro")
}


@given(st.builds(TokenUsage, **dict.fromkeys(BUCKETS, TOKENS)), st.builds(Price, **PRICES))
def test_a_cost_is_the_exact_sum_rounded_up_once_and_never_above_the_most(usage: TokenUsage, price: Price) -> None:
    named = {"prompt": "prompt_micro", "cached": "cached_micro", "completion": "completion_micro"}
    exact_scaled = sum(getattr(usage, name) * getattr(price, named.get(name, f"{name}_micro")) for name in BUCKETS)
    cost = price.cost_micro(usage)
    assert cost * 1_000_000 >= exact_scaled > (cost - 1) * 1_000_000
    assert usage.total == sum(getattr(usage, name) for name in BUCKETS) == usage.sent + usage.made
    assert cost <= price.most_micro(usage.sent, usage.made)


def test_what_a_price_does_not_name_costs_what_its_like_costs() -> None:
    assert (PRICE.cache_write_micro, PRICE.audio_prompt_micro) == (10_000, 10_000)
    assert (PRICE.reasoning_micro, PRICE.audio_completion_micro) == (40_000, 40_000)
    dear = PRICE.model_copy(update={"cache_write_micro": 12_500})
    assert dear.cost_micro(TokenUsage(cache_write=1_000_000)) == 12_500


@given(SUMS, SUMS, st.builds(Parts, *[SUMS] * 5), st.none() | SUMS)
def test_a_provider_s_sums_become_buckets_that_are_theirs(
    prompt: int, completion: int, parts: Parts, total: int | None
) -> None:
    found = disjoint(prompt, completion, parts, total)
    assert found.sent == prompt
    beside = total is not None and total == prompt + completion + parts.reasoning
    assert found.made in ({completion, completion + parts.reasoning} if beside else {completion})
    if not found.doubtful:
        assert (found.cached, found.cache_write, found.audio_prompt, found.reasoning, found.audio_completion) == parts
        assert total in {None, found.total}


def test_a_key_without_a_list_may_use_every_model() -> None:
    principal = Principal(organisation_id="o", project_id="p", api_key_id="k")
    assert principal.may_use("anything")
    assert not principal.model_copy(update={"allowed_models": ("one",)}).may_use("two")


def test_an_agent_is_found_by_its_model_id() -> None:
    route = AgentRoute(agent_id="a1", slug="handbook", version=3, published_at=1)
    principal = Principal(organisation_id="o", project_id="p", api_key_id="k", agents=(route,))
    assert principal.agent("agent/handbook") is route
    assert principal.agent("handbook") is None


def test_a_chunk_id_depends_on_every_part_of_its_identity() -> None:
    base = ("a.md", "00", 1, "s")
    others = [("b.md", "00", 1, "s"), ("a.md", "01", 1, "s"), ("a.md", "00", 2, "s"), ("a.md", "00", 1, "t")]
    assert chunk_id(*base) == chunk_id(*base)
    assert len({chunk_id(*identity) for identity in (base, *others)}) == 5


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "a.b", "a b"])
def test_a_table_is_named_by_plain_ids_only(bad: str) -> None:
    assert table_name("org_1", "kb-2") == "org_1.kb-2"
    with pytest.raises(ValueError, match="letters"):
        table_name("org", bad)


def test_the_hash_embedder_puts_like_texts_close() -> None:
    encoder = HashEmbedder()
    rows = encoder.encode(["parental leave policy", "the leave policy", "gpu cluster upgrade", ""])
    assert rows.shape == (4, encoder.dimensions)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert encoder.count_tokens(["a b"]) == [4]


def test_a_principal_travels_in_a_header() -> None:
    route = AgentRoute(agent_id="a1", slug="handbook", version=3, published_at=1)
    principal = Principal(organisation_id="o", project_id="p", api_key_id="k", allowed_models=("m",), agents=(route,))
    assert Principal.from_header(principal.to_header()) == principal
    with pytest.raises(ValueError, match=r"\w"):
        Principal.from_header("not a header")
