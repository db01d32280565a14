"""Chunks: exact slices, within the encoder's reach, nothing lost."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.doubles.hash_embedder import HashEmbedder
from pipelines.chunk import Chunker, ChunkSettings, Passage
from pipelines.parse_text import parse_markdown, parse_text

SETTINGS = ChunkSettings(tokens_max=16, overlap_tokens=4)


class Letters:
    """A tokenizer whose pieces do not add up: a token a letter, and one for every run of words beyond the first."""

    max_tokens = 16

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) + 2 + text.count("  ") * 3 for text in texts]


def cut(text: str, settings: ChunkSettings = SETTINGS, name: str = "a.md") -> list[Passage]:
    return Chunker(HashEmbedder(), settings).cut(name, "hash", parse_markdown(text))


words = st.text(alphabet="abc dé.!\n#-", max_size=600)


@given(words)
def test_every_chunk_is_a_slice_within_the_limit_and_every_letter_is_in_one(text: str) -> None:
    for counter in (HashEmbedder(), Letters()):
        parsed = parse_text(text)
        passages = Chunker(counter, SETTINGS).cut("a", "hash", parsed)
        covered: set[int] = set()
        for number, passage in enumerate(passages):
            chunk = passage.chunk
            assert chunk.ordinal == number
            assert chunk.text == parsed.text[chunk.start : chunk.end] != ""
            assert passage.tokens == counter.count_tokens([passage.embedded])[0] <= SETTINGS.tokens_max
            covered.update(range(chunk.start, chunk.end))
        assert {index for index, letter in enumerate(text) if not letter.isspace()} <= covered


@given(words)
def test_cutting_markdown_is_deterministic_and_keeps_the_slices(text: str) -> None:
    passages = cut(text)
    assert passages == cut(text)
    assert len({passage.chunk.chunk_id for passage in passages}) == len(passages)
    assert all(passage.chunk.text == text[passage.chunk.start : passage.chunk.end] for passage in passages)


def test_a_chunk_never_crosses_a_heading_and_the_encoder_reads_the_headings_above() -> None:
    passages = cut("# Pay\n\nSalaries.\n\n## When\n\nMonthly.\n")
    assert [(passage.chunk.heading, passage.chunk.text) for passage in passages] == [
        (("Pay",), "# Pay\n\nSalaries."),
        (("Pay", "When"), "## When\n\nMonthly."),
    ]
    assert passages[1].embedded == "Pay > When\n## When\n\nMonthly."


def test_a_heading_without_a_body_is_no_chunk_unless_there_is_nothing_else() -> None:
    assert [passage.chunk.text for passage in cut("# A\n\n## B\n\nbody")] == ["## B\n\nbody"]
    assert [passage.chunk.text for passage in cut("# A\n\n## B\n")] == ["# A", "## B"]


def test_neighbours_share_whole_sentences() -> None:
    text = " ".join(f"Number {number} here." for number in range(12))
    passages = cut(text)
    assert len(passages) > 2
    for left, right in itertools.pairwise(passages):
        shared = text[right.chunk.start : left.chunk.end]
        assert shared.startswith("Number")
        assert shared.endswith("here.")


def test_without_overlap_nothing_is_shared() -> None:
    passages = cut("One two three. " * 20, ChunkSettings(tokens_max=16, overlap_tokens=0))
    assert all(a.chunk.end < b.chunk.start for a, b in itertools.pairwise(passages))


def test_a_word_without_end_is_cut_not_lost() -> None:
    text = "x" * 5_000
    passages = Chunker(Letters(), SETTINGS).cut("a", "hash", parse_text(text))
    assert {index for p in passages for index in range(p.chunk.start, p.chunk.end)} == set(range(5_000))


@pytest.mark.parametrize(
    "other",
    [
        ("b.md", "hash", SETTINGS),
        ("a.md", "other", SETTINGS),
        ("a.md", "hash", ChunkSettings(tokens_max=17, overlap_tokens=4)),
    ],
)
def test_ids_change_with_name_content_and_settings(other: tuple[str, str, ChunkSettings]) -> None:
    name, content_hash, settings = other
    parsed = parse_text("words")
    ours = Chunker(HashEmbedder(), SETTINGS).cut("a.md", "hash", parsed)
    theirs = Chunker(HashEmbedder(), settings).cut(name, content_hash, parsed)
    assert ours[0].chunk.chunk_id != theirs[0].chunk.chunk_id


def test_headings_too_long_for_the_limit_are_left_to_the_row() -> None:
    (passage,) = cut("# " + "word " * 30 + "\n\nbody")[-1:]
    assert passage.tokens <= SETTINGS.tokens_max
    assert passage.chunk.heading[0].startswith("word word")
