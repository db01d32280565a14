"""Which passages an answer rests on."""

from models.documents import Passage
from serve.agents.citations import cite


def passage(document: str, text: str) -> Passage:
    return Passage(
        chunk_id=document,
        document=document,
        heading=(),
        page=None,
        start=0,
        end=len(text),
        text=text,
        score=0.9,
        rank_score=0.1,
    )


REFUNDS = passage("refunds", "Refunds are paid within fourteen days after the parcel arrives.")
GARDEN = passage("garden", "The office garden opens at nine and dogs are welcome.")


def cited(answer: str) -> list[tuple[str, str]]:
    found = cite(answer, [REFUNDS, GARDEN])
    return [(citation.passage.document, answer[citation.start : citation.end]) for citation in found]


def test_each_sentence_is_cited_to_what_it_shares_words_with() -> None:
    assert cited("The garden opens at nine.  Refunds are paid in fourteen days. ") == [
        ("garden", "The garden opens at nine."),
        ("refunds", "Refunds are paid in fourteen days."),
    ]


def test_neighbouring_sentences_of_one_passage_are_one_citation() -> None:
    assert cited("Refunds are paid. Within fourteen days.\nParcel arrives.") == [
        ("refunds", "Refunds are paid. Within fourteen days.\nParcel arrives.")
    ]


def test_a_number_in_brackets_decides() -> None:
    assert cited("Refunds are paid within fourteen days [2].") == [
        ("garden", "Refunds are paid within fourteen days [2].")
    ]
    assert cited("Refunds are paid within fourteen days [7].") == [
        ("refunds", "Refunds are paid within fourteen days [7].")
    ]


def test_an_unsupported_sentence_is_not_cited_beside_a_supported_one() -> None:
    assert cited("Penguins inhabit cold southern islands. The garden opens at nine.") == [
        ("garden", "The garden opens at nine.")
    ]


def test_an_answer_tied_to_nothing_cites_the_best_passage_as_a_whole() -> None:
    assert cited(" Yes. ") == [("refunds", "Yes.")]
    assert cited("Something about dogs perhaps unrelated otherwise entirely.") == [
        ("garden", "Something about dogs perhaps unrelated otherwise entirely.")
    ]


def test_version_numbers_and_paths_do_not_end_a_sentence() -> None:
    assert cited("The office garden (v1.2.3 of a.b) opens at nine.") == [
        ("garden", "The office garden (v1.2.3 of a.b) opens at nine.")
    ]


def test_nothing_to_cite_is_no_citation() -> None:
    assert cite("  \n", [REFUNDS]) == []
    assert cite("Refunds are paid.", []) == []
    assert cited("...") == [("refunds", "...")]
