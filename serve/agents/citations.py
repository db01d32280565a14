"""Citations: which of the passages the model was given support which part of its answer.

A sentence is supported by the passage it names (``[2]``), else by the one that shares most of its content words, at
least ``SHARE_MIN`` of them. Neighbouring sentences of one passage are one citation. An answer that no sentence ties to
a passage cites, as a whole, the one it shares most words with, or the best ranked: it was written from them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.documents import Passage

SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?!\s)[^.!?\n]*)*[.!?\n]*")
WORD = re.compile(r"\w{3,}")
MARK = re.compile(r"\[(\d{1,3})\]")
SHARE_MIN = 0.5
WORDS_MIN = 2
STOP_WORDS = frozenset(
    {
        *("the", "and", "for", "are", "was", "were", "has", "have", "had", "not", "but", "you", "your", "can", "will"),
        *("with", "this", "that", "from", "they", "them", "their", "there", "which", "what", "when", "where", "who"),
        *("how", "its", "our", "all", "any", "one", "may", "also", "into", "than", "then", "these", "those", "such"),
        *("each", "been", "being", "does"),
    }
)


@dataclass(frozen=True, slots=True)
class Citation:
    """``answer[start:end]`` rests on ``passage``."""

    passage: Passage
    start: int
    end: int


def cite(answer: str, passages: Sequence[Passage]) -> list[Citation]:
    """In the order of the answer; empty only where there is no answer or nothing to cite."""
    if not passages or not answer.strip():
        return []
    vocabularies = [_words(passage.text) for passage in passages]
    citations: list[Citation] = []
    for match in SENTENCE.finditer(answer):
        index = _support(match.group(), vocabularies)
        if index is None:
            continue
        start, end = _trimmed(answer, match.start(), match.end())
        if citations and citations[-1].passage is passages[index]:
            citations[-1] = Citation(passages[index], citations[-1].start, end)
        else:
            citations.append(Citation(passages[index], start, end))
    if citations:
        return citations
    shared = [len(vocabulary & _words(answer)) for vocabulary in vocabularies]
    start, end = _trimmed(answer, 0, len(answer))
    return [Citation(passages[shared.index(max(shared))], start, end)]


def _support(sentence: str, vocabularies: Sequence[frozenset[str]]) -> int | None:
    """The index of the passage behind one sentence."""
    for mark in MARK.finditer(sentence):
        if 1 <= int(mark.group(1)) <= len(vocabularies):
            return int(mark.group(1)) - 1
    words = _words(sentence)
    if len(words) < WORDS_MIN:
        return None
    shared = [len(vocabulary & words) for vocabulary in vocabularies]
    most = max(shared)
    return shared.index(most) if most >= max(WORDS_MIN, SHARE_MIN * len(words)) else None


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower())) - STOP_WORDS


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))
