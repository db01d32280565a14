from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from models.catalogue import SHIPPED_CATALOGUE, Catalogue, CatalogueEntry, Source, load_catalogue
from models.errors import ModelNotFound


def entry(**changes: object) -> dict[str, object]:
    return {
        "id": "tiny",
        "kind": "chat",
        "sources": ["path:/tmp/tiny"],
        "context_window": 128,
        "prices": [
            {"since": "2026-06-01", "prompt_micro": 2, "cached_micro": 1, "completion_micro": 4},
            {"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 2},
        ],
        **changes,
    }


def test_the_shipped_catalogue_holds_both_defaults() -> None:
    catalogue = load_catalogue()
    assert catalogue.find("smollm2-135m-instruct").kind == "chat"
    assert catalogue.find("all-minilm-l6-v2").dimensions == 384


def test_an_unknown_model_is_not_found_by_name() -> None:
    with pytest.raises(ModelNotFound, match="'gpt-9'") as caught:
        load_catalogue().find("gpt-9")
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sources": ["ftp:x"]}, "scheme"),
        ({"sources": ["nothing"]}, "sources"),
        ({"sources": []}, "sources"),
        ({"sources": "path:/x"}, "sources"),
        ({"prices": []}, "prices"),
        ({"colour": "red"}, "colour"),
        ({"id": "-x"}, "id"),
        ({"context_window": 0}, "context_window"),
        ({"scaling": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas"),
    ],
)
def test_a_bad_entry_is_refused_with_the_field_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        CatalogueEntry.model_validate(entry(**changes))


def test_ids_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump({"models": [entry(), entry()]}))
    with pytest.raises(ValidationError, match="occur twice: tiny"):
        load_catalogue(path)


def test_a_source_may_come_typed() -> None:
    source = Source.parse("hub:owner/name")
    assert CatalogueEntry.model_validate(entry(sources=[source])).sources == (source,)


@pytest.mark.parametrize(
    ("day", "prompt_micro"), [(datetime(2026, 3, 1, tzinfo=UTC), 1), (datetime(2026, 6, 1, tzinfo=UTC), 2)]
)
def test_the_price_in_force_depends_on_the_day(day: datetime, prompt_micro: int) -> None:
    assert CatalogueEntry.model_validate(entry()).price_at(day).prompt_micro == prompt_micro


def test_before_the_first_price_the_first_holds() -> None:
    assert CatalogueEntry.model_validate(entry()).price_at(datetime(2020, 1, 1, tzinfo=UTC)).prompt_micro == 1


def test_engine_arguments_follow_the_hardware() -> None:
    chat = load_catalogue().find("smollm2-135m-instruct")
    assert chat.engine(gpus=0).enforce_eager
    assert not chat.engine(gpus=1).enforce_eager
    with pytest.raises(ValueError, match="no engine arguments for CPU"):
        CatalogueEntry.model_validate(entry()).engine(gpus=0)


def test_the_shipped_file_is_what_the_package_data_names() -> None:
    assert SHIPPED_CATALOGUE.name == "catalogue.yaml"
    assert Catalogue.model_validate(yaml.safe_load(SHIPPED_CATALOGUE.read_text())).currency == "USD"
