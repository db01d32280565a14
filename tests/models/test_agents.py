import pytest
from pydantic import ValidationError

from models import channels
from models.agents import AgentSpec, PublishedAgent
from models.doubles.hash_embedder import HashEmbedder
from models.protocols import Encoder

SPEC = {"instructions": "Answer from the handbook.", "model": "smollm2-135m-instruct"}


def test_a_version_is_immutable() -> None:
    spec = AgentSpec.model_validate(SPEC)
    agent = PublishedAgent(agent_id="a", organisation_id="o", slug="handbook", version=1, spec=spec)
    with pytest.raises(ValidationError, match="frozen"):
        agent.version = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [{"instructions": ""}, {"retrieve_limit": 0}, {"score_threshold": 1.5}, {"temperature": -1}, {"tools": []}],
)
def test_a_bad_specification_is_refused_with_the_field_named(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        AgentSpec.model_validate({**SPEC, **change})


def test_the_hash_embedder_is_an_encoder() -> None:
    encoder: Encoder = HashEmbedder(dimensions=8)
    assert encoder.encode(["a"]).shape == (1, encoder.dimensions)


def test_internal_paths_lie_apart_from_the_public_ones() -> None:
    prefixes = (channels.ENGINE_PREFIX, channels.EMBEDDER_PREFIX, channels.RETRIEVAL_PREFIX, channels.AGENTS_PREFIX)
    assert len(set(prefixes)) == 4
    assert all(prefix.startswith("/internal/") for prefix in prefixes)
