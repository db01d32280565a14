"""The prompt of a grounded answer: short, for the smallest model served has 135M parameters.

The passages stand beside the question, in the user's turn: small models hold on to what is near the end.
"""

from collections.abc import Sequence

from models.documents import Passage

LEAD = "Answer the question from these passages."


def fit(passages: Sequence[Passage], characters_max: int) -> list[Passage]:
    """The leading passages that fit; the one that does not is cut, with its offsets, where at least half remains.

    The first is always there, cut if need be.
    """
    given: list[Passage] = []
    left = characters_max
    for passage in passages:
        length = len(passage.text)
        if length > left and given and left * 2 < length:
            break
        text = passage.text[:left]
        given.append(passage.model_copy(update={"text": text, "end": passage.start + len(text)}))
        left -= len(text)
        if left <= 0:
            break
    return given


def grounded(question: str, passages: Sequence[Passage]) -> str:
    """The user's turn: numbered passages under their document and heading, then the question."""
    blocks = [f"[{number}] {label(passage)}\n{passage.text.strip()}" for number, passage in enumerate(passages, 1)]
    return "\n\n".join((LEAD, *blocks, f"Question: {question}"))


def label(passage: Passage) -> str:
    """``document, Heading > Heading``."""
    return ", ".join(part for part in (passage.document, " > ".join(passage.heading)) if part)


def system(instructions: str, caller: Sequence[str]) -> str:
    """One system message: the version's instructions, then what the caller's system messages add."""
    return "\n\n".join((instructions, *(text for text in caller if text.strip())))
