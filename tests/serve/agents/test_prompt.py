"""The prompt of a grounded answer."""

from models.documents import Passage
from serve.agents.prompt import fit, grounded, label, system


def passage(text: str, heading: tuple[str, ...] = ("A", "B")) -> Passage:
    return Passage(
        chunk_id=text,
        document="d.md",
        heading=heading,
        page=None,
        start=50,
        end=50 + len(text),
        text=text,
        score=0.5,
        rank_score=0.1,
    )


def test_passages_are_numbered_under_document_and_heading() -> None:
    assert grounded("Why?", [passage(" one\n"), passage("two", ())]) == (
        "Answer the question from these passages.\n\n[1] d.md, A > B\none\n\n[2] d.md\ntwo\n\nQuestion: Why?"
    )
    assert label(passage("x")) == "d.md, A > B"


def test_the_budget_cuts_a_passage_with_its_offsets_or_leaves_it_out() -> None:
    def fitted(*lengths: int) -> list[tuple[int, int, int]]:
        return [(p.start, p.end, len(p.text)) for p in fit([passage("x" * n) for n in lengths], 100)]

    assert fitted(30, 40) == [(50, 80, 30), (50, 90, 40)]
    assert fitted(400, 10) == [(50, 150, 100)]
    assert fitted(40, 100, 10) == [(50, 90, 40), (50, 110, 60)]
    assert fitted(80, 100) == [(50, 130, 80)]
    assert fitted() == []


def test_the_caller_s_system_messages_follow_the_instructions() -> None:
    assert system("Be terse.", ["  ", "In French."]) == "Be terse.\n\nIn French."
