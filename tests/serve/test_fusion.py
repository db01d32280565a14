"""Reciprocal rank fusion."""

import pytest

from serve.fusion import fuse


def test_an_item_found_twice_beats_one_found_first_once() -> None:
    scores = fuse([["a", "b"], ["c", "b"]])
    assert scores == {"a": pytest.approx(1 / 61), "b": pytest.approx(2 / 62), "c": pytest.approx(1 / 61)}
    assert max(scores, key=scores.__getitem__) == "b"


def test_nothing_fuses_to_nothing() -> None:
    assert fuse([]) == fuse([[]]) == {}
