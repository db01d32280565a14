import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.documents import chunk_id, table_name
from models.doubles.hash_embedder import HashEmbedder
from models.identity import AgentRoute, Principal
from models.usage import Price, TokenUsage

PRICE = Price(since="2026-01-01", prompt_micro=10_000, cached_micro=5_000, completion_micro=40_000)
TOKENS = st.integers(min_value=0, max_value=10**9)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_a_cost_is_the_exact_sum_rounded_up_once(prompt: int, cached: int, completion: int, reasoning: int) -> None:
    usage = TokenUsage(prompt=prompt, cached=cached, completion=completion, reasoning=reasoning)
    exact_scaled = prompt * 10_000 + cached * 5_000 + (completion + reasoning) * 40_000
    cost = PRICE.cost_micro(usage)
    assert cost * 1_000_000 >= exact_scaled > (cost - 1) * 1_000_000
    assert usage.total == prompt + cached + completion + reasoning


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
