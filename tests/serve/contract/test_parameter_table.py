"""The endpoint guide's tables of parameters, held against the code, and the code against vLLM's own request."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import InvalidRequest
from serve.agents.request import ChatRequest as AgentRequest
from serve.embedder import EmbeddingsRequest
from serve.hosted.parameters import FIELDS, NEUTRAL, TOOL_OPTIONS, TOOLS, TRANSLATED
from serve.hosted.parameters import LABELS as HOSTED_LABELS
from serve.ignored import EXTRAS, IGNORED, INSIDE, LABELS, refuse_ignored
from serve.reranker import RerankRequest
from serve.routing import ENDPOINTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "endpoint.md").read_text(encoding="utf-8").partition("## Which parameters does each kind")[2]
CHAT, COMPLETIONS, EMBEDDINGS, RERANK = ENDPOINTS
CHAT_ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
OTHER_ROWS = re.findall(r"^\| `(/v1/\w+)` \| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
# ``serve.tools`` refuses them in front of vLLM.
REPLACED_BY_TOOLS = frozenset({"functions", "function_call"})
# The gateway's own to honour: an engine does not hear of it.
GATEWAY = frozenset({"service_tier"})
# vLLM has them for its routes that only render a prompt.
RENDERING = frozenset({"mm_payload", "return_mm_kwargs", "return_token_offsets"})
ASKING: dict[str, Any] = {
    "n": 2,
    "logprobs": True,
    "store": True,
    "response_format": {"type": "json_object"},
    "modalities": ["audio"],
    "service_tier": "flex",
}
ASK = {"model": "m", "messages": ({"role": "user", "content": "x"},)}


@cache
def vllm_fields(place: str, name: str) -> frozenset[str]:
    """The fields that a request of vLLM declares, read from its source: importing it takes long."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "entrypoints" / "openai" / place / "protocol.py"
    classes = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    (request,) = (node for node in classes if node.name == name)
    return frozenset(
        node.target.id for node in request.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )


def of_an_engine(name: str) -> str:
    if name in LABELS:
        return "label"
    if name in IGNORED:
        return "neutral" if IGNORED[name] else "no"
    return "no" if name in REPLACED_BY_TOOLS else "yes"


def of_a_class(name: str) -> str:
    if name in HOSTED_LABELS:
        return "label"
    if name in NEUTRAL:
        return "neutral"
    if name in TRANSLATED:
        return "yes"
    return "class" if name in {*FIELDS, *TOOLS, *TOOL_OPTIONS, "response_format"} else "no"


def of_an_agent(name: str) -> str:
    if name not in AgentRequest.model_fields:
        return "no"
    if name in LABELS:
        return "label"
    try:
        AgentRequest.model_validate({**ASK, **({name: ASKING[name]} if name in ASKING else {})})
    except ValidationError:
        return "neutral"
    return "yes"


def test_the_table_of_chat_names_every_parameter_once() -> None:
    names = [row[0] for row in CHAT_ROWS]
    assert set(names) == ENDPOINTS[CHAT].known
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", CHAT_ROWS, ids=lambda row: row[0])
def test_the_table_of_chat_says_what_the_code_does(row: tuple[str, ...]) -> None:
    name = row[0]
    assert row[1:] == (of_an_engine(name), "yes", of_a_class(name), of_an_agent(name))


@pytest.mark.contract("chat.never-dropped")
@pytest.mark.parametrize(
    ("path", "place", "request_class"),
    [
        (CHAT, "chat_completion", "ChatCompletionRequest"),
        (COMPLETIONS, "completion", "CompletionRequest"),
    ],
)
def test_what_is_given_to_an_engine_is_a_field_of_vllm_s_request(path: str, place: str, request_class: str) -> None:
    fields = vllm_fields(place, request_class)
    given = {name for name in ENDPOINTS[path].known if of_an_engine(name) == "yes"} - GATEWAY
    assert given - fields == set()
    # vLLM declares a suffix and refuses it; whatever else is refused here is nothing that it could honour.
    assert ENDPOINTS[path].known & set(IGNORED) & fields <= {"suffix"}
    own = {name for name in fields if not name.startswith("_")} - ENDPOINTS[path].known
    assert own - INSIDE - RENDERING == EXTRAS[path]
    assert not INSIDE & (EXTRAS[path] | ENDPOINTS[path].known)


def test_labels_are_the_same_for_every_upstream() -> None:
    assert LABELS == HOSTED_LABELS
    assert set(AgentRequest.model_fields) >= LABELS


@pytest.mark.parametrize("name", IGNORED)
def test_neutral_values_and_no_others_pass_to_an_engine(name: str) -> None:
    path = next(path for path in (CHAT, COMPLETIONS) if name in ENDPOINTS[path].known)
    for value in (None, *IGNORED[name]):
        refuse_ignored(path, ENDPOINTS[path].known, {name: value})
    with pytest.raises(InvalidRequest) as refused:
        refuse_ignored(path, ENDPOINTS[path].known, {name: "other"})
    assert refused.value.param == name


def test_the_page_names_vllm_s_own_parameters() -> None:
    (told,) = re.findall(r"vLLM's own parameters are (.*?)\. Of", " ".join(PAGE.split()))
    chat, completions = (re.findall(r"`(\w+)`", part) for part in told.split("for `/v1/completions`"))
    assert set(chat) == EXTRAS[CHAT]
    assert set(completions) == EXTRAS[COMPLETIONS] - EXTRAS[CHAT]


def test_the_table_of_the_other_endpoints_names_every_parameter() -> None:
    told = {path: {name for of, name, *_ in OTHER_ROWS if of == path} for path in (COMPLETIONS, EMBEDDINGS, RERANK)}
    assert told == {path: ENDPOINTS[path].known for path in told}


@pytest.mark.parametrize("row", OTHER_ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_table_of_the_other_endpoints_says_what_the_code_does(row: tuple[str, ...]) -> None:
    path, name, ours, dialect = row
    models: dict[str, Any] = {EMBEDDINGS: EmbeddingsRequest, RERANK: RerankRequest}
    expected = of_an_engine(name) if path == COMPLETIONS else "yes" if name in models[path].model_fields else "no"
    if path != COMPLETIONS and name in LABELS:
        expected = "label"
    assert (ours, dialect) == (expected, "yes")
