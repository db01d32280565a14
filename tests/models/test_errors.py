import pickle
from collections.abc import Iterator

import pytest

from models import errors
from models.errors import PlatformError


def tree(root: type[PlatformError] = PlatformError) -> Iterator[type[PlatformError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("kind", [*tree()])
def test_an_error_survives_pickling_with_every_field(kind: type[PlatformError]) -> None:
    error = kind("no", param="model", code="odd", retry_after_seconds=1.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "no"


@pytest.mark.parametrize("kind", [*tree()])
def test_an_error_renders_openais_object(kind: type[PlatformError]) -> None:
    body = kind("no", param="model").body()["error"]
    assert body == {"message": "no", "type": kind.type, "param": "model", "code": kind.default_code}


def test_no_error_answers_422() -> None:
    assert 422 not in {kind.status for kind in tree()}


def test_the_docstring_draws_every_error() -> None:
    drawing = errors.__doc__ or ""
    assert [kind.__name__ for kind in tree() if kind.__name__ not in drawing] == []
