"""Where a served model answers: its own engines or upstream, and further places that the configuration names."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.catalogue import CatalogueEntry


class OtherPlace(BaseModel):
    """An entry of ``upstreams`` that answers for the model as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upstream: str = Field(min_length=1, description="Its name in upstreams")
    model: str | None = Field(default=None, min_length=1, description="The model's name there, where it differs")
    weight: float = Field(default=1.0, ge=0.01, le=100, description="Against the model's own upstream, which has 1")


class ModelPlaces(BaseModel):
    """The further places of one model, and how one is chosen; see ``docs/routing.md``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    others: tuple[OtherPlace, ...] = ()
    choose: Literal["latency", "prefix"] | None = Field(default=None, description="None: prefix among own engines")


def own_places(entry: CatalogueEntry) -> list[str]:
    """What the applications of a model are called, one for each of its engines apart: each has its own address.

    No model's id holds an ``@``.
    """
    return [entry.id, *(f"{entry.id}@{number}" for number in range(2, entry.scaling.apart + 1))]
