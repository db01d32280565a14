"""What is found in texts, and what only looks like it."""

import time

import pytest

from models.privacy import ENTITIES, CustomPattern, PiiPolicy
from serve.privacy.scanner import Scanner, TooSlow

UNITS = ["1 ", "1-", "11111", "+1", "a@", "@a.", "@a", "aa11", "a:", ":", "1.", "(", "A1A", "<", "123-45-", "DE89 "]
REGIONS = ("US", "DE")


def soon() -> float:
    return time.monotonic() + 60


def found(text: str, *entities: str, regions: tuple[str, ...] = REGIONS) -> list[tuple[str, str]]:
    policy = PiiPolicy.model_validate({"action": "refuse", "entities": entities or ENTITIES, "phone_regions": regions})
    return [(one.name, text[one.start : one.end]) for one in Scanner(policy, 1.0).find(text, soon())]


@pytest.mark.parametrize(
    ("entity", "value"),
    [
        *(("email", value) for value in ("ada@acme.example", "a.b+c@sub.acme.co.uk", "jörg@müller.de", "x_1%y@d-e.io")),
        ("email", "o'hara@acme.xn--p1ai"),
        *(("credit_card", value) for value in ("4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444")),
        *(
            ("credit_card", value)
            for value in ("378282246310005", "3782 822463 10005", "6011111111111117", "4222222222222")
        ),
        *(("credit_card", value) for value in ("30569309025904", "3530111333300000", "6200 0000 0000 0005")),
        *(
            ("iban", value)
            for value in ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb29nwbk60161331926819")
        ),
        *(
            ("iban", value)
            for value in ("FR14 2004 1010 0505 0001 3M02 606", "NO93 8601 1117 947", "MT84MALT011000012345MTLCAST001S")
        ),
        *(
            ("ip_address", value)
            for value in ("203.0.113.7", "2001:db8::1", "fe80::1ff:fe23:4567:890a", "::ffff:203.0.113.7")
        ),
        *(
            ("phone", value)
            for value in ("+49 30 901820", "+1 (415) 555-2671", "(415) 555-2671", "415-555-2671", "030 901820")
        ),
        *(("phone", value) for value in ("+442079460958", "+33 1 42 68 53 00", "4155552671")),
        *(("us_ssn", value) for value in ("123-45-6789", "123 45 6789")),
        ("uk_nhs_number", "943 476 5870"),
        ("de_tax_id", "36 574 261 809"),
        ("fr_nir", "2 95 10 99 126 111 93"),
        ("es_nif", "54362315K"),
        ("it_fiscal_code", "RCCMNL83S18D969H"),
        ("br_cpf", "390.533.447-05"),
        ("in_aadhaar", "2341 2341 2346"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "It is {}.", "({})", "a: {}, b", "x\n{}\ny", '{{"v":"{}"}}'])
def test_it_is_found_as_a_whole(entity: str, value: str, around: str) -> None:
    assert found(around.format(value), entity) == [(entity, value)]


@pytest.mark.parametrize(
    "text",
    [
        *("4111111111111112", "1234 5678 9012 3456", "41111111111111111111111", "order 2026-11-24 17:30:00 12345678"),
        *(
            "DE89370400440532013001",
            "DE99 words that go on and on",
            "user@localhost",
            "@mention",
            "a@b",
            "v1.2.3",
            "1.2.3.4.5",
        ),
        *(
            "127.0.0.1",
            "::1",
            "std::vector<int>",
            "10:30:15",
            "12:34",
            "000-12-3456",
            "666-12-3456",
            "2026-11-24",
            "2026-11-24 17:05",
        ),
        *(
            "3.14159265358979",
            "page 12 of 345",
            "123456789",
            "0x7fffffff",
            "1,234,567.89",
            "550e8400-e29b-41d4-a716-446655440000",
        ),
        *("+49", "+1 23", "ISBN 978-3-16-148410-0", "2026111017", "[1, 2, 3, 4, 5, 6, 7, 8]"),
    ],
)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert found(text, "email", "credit_card", "iban", "ip_address", "us_ssn", "phone", regions=("DE",)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12345-4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("99 4111111111111111 378282246310005 11", ["4111111111111111", "378282246310005"]),
        ("KD12 please pay DE89 3704 0044 0532 0130 00 and more", ["DE89 3704 0044 0532 0130 00"]),
        ("a@b.example,c@d.example;e@f.example", ["a@b.example", "c@d.example", "e@f.example"]),
        ("+49 30 901820 +1 415 555 2671", ["+49 30 901820", "+1 415 555 2671"]),
        ("ssn: 123456789 or 123456788", ["123456789"]),
    ],
)
def test_several_in_a_row_are_told_apart(text: str, expected: list[str]) -> None:
    assert [
        value for _, value in found(text, "email", "credit_card", "iban", "us_ssn", "phone", regions=())
    ] == expected


def test_numbers_without_a_country_code_are_found_in_the_regions_named() -> None:
    assert found("(415) 555-2671", "phone", regions=()) == []
    assert found("(415) 555-2671", "phone", regions=("DE",)) == []
    assert found("(415) 555-2671", "phone", regions=("DE", "US")) == [("phone", "(415) 555-2671")]


def test_overlapping_places_are_one_that_covers_both() -> None:
    patterns = (CustomPattern(name="left", pattern="abcd"), CustomPattern(name="right", pattern="cdefgh"))
    scanner = Scanner(PiiPolicy(action="refuse", patterns=patterns), 1.0)
    assert scanner.find("xabcdefghx", soon()) == [(1, 9, "right")]


def test_a_pattern_of_the_projects_own_is_stopped() -> None:
    slow = CustomPattern(name="slow", pattern=r"[a-z]+[a-z]+[a-z]+[a-z]+\d")
    scanner = Scanner(PiiPolicy(action="refuse", patterns=(slow,)), 0.02)
    with pytest.raises(TooSlow) as caught:
        scanner.find("a" * 5_000, soon())
    assert caught.value.name == "slow"


@pytest.mark.parametrize("unit", UNITS)
def test_no_text_makes_it_run_for_long(unit: str) -> None:
    """20,000 letters: what took quadratic time would take minutes, and the test's limit is far below."""
    found(unit * (20_000 // len(unit)))


def test_looking_ends_when_its_time_is_over() -> None:
    policy = PiiPolicy(action="refuse", entities=("iban",))
    with pytest.raises(TooSlow) as caught:
        Scanner(policy, 1.0).find("DE89 " * 1_000, time.monotonic() - 1)
    assert caught.value.name == "iban"
