"""What the page about providers says, held against the code: the table of parameters, the examples, the fields."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from deployments.config import HostedUpstream
from models.catalogue import CatalogueEntry
from serve.hosted.classes import ModelClass
from serve.hosted.config import HostedConfig
from serve.hosted.parameters import FIELDS, LABELS, NEUTRAL, supported
from serve.hosted.request import ChatRequest
from serve.routing import ENDPOINTS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "providers.md").read_text(encoding="utf-8")
ROWS = {
    name: (anthropic, openai, other)
    for name, anthropic, openai, other in re.findall(
        r"^\| `(\w+)` \| (\w+) \| (\w+) \| (.+) \|$", PAGE.partition("## Which parameters")[2], re.MULTILINE
    )
}


def told(kind: ModelClass, name: str) -> str:
    if name in LABELS:
        return "label"
    if name in NEUTRAL:
        return "neutral"
    return "yes" if supported(kind, name) else "no"


@pytest.mark.parametrize(
    ("path", "column"), [("langchain_anthropic:ChatAnthropic", 0), ("langchain_openai:ChatOpenAI", 1)]
)
def test_the_table_says_what_the_code_does(path: str, column: int) -> None:
    config = HostedConfig(name="x", model_class=path, base_url="http://x", api_key=SecretStr("k"))
    kind = ModelClass(config)
    assert {name: row[column] for name, row in ROWS.items()} == {name: told(kind, name) for name in ROWS}


def test_the_table_names_every_parameter() -> None:
    assert set(ROWS) == ENDPOINTS["/v1/chat/completions"].known
    assert set(ChatRequest.model_fields) <= set(ROWS)
    assert {name for name, row in ROWS.items() if row[2].startswith("if it declares")} == set(FIELDS)


def examples() -> list[dict[str, Any]]:
    """Every indented block of the page, as YAML; lists are one example each item."""
    found: list[dict[str, Any]] = []
    for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE):
        parsed = yaml.safe_load(block)
        found += parsed if isinstance(parsed, list) else parsed["upstreams"]
    return found


def test_the_examples_are_valid_and_belong_together() -> None:
    entries = [CatalogueEntry.model_validate(item) for item in examples() if "sources" in item]
    upstreams = {item["name"]: HostedUpstream.model_validate(item) for item in examples() if "sources" not in item}
    assert {source.location for entry in entries for source in entry.sources} == set(upstreams)
    assert len(entries) == 3


def test_the_page_names_every_field_of_an_upstream() -> None:
    assert set(HostedUpstream.model_fields) <= set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE))
