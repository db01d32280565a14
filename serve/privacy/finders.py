"""Where in a text personal data of one kind stands: a pattern finds candidates, their own arithmetic confirms them.

Checksums are python-stdnum's, phone numbers Google's libphonenumber's (phonenumbers). What has neither checksum nor
structure (names, addresses) is not found here.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Protocol

import phonenumbers
import regex
from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import nif
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.us import ssn

from models.privacy import Entity

Place = tuple[int, int]
"""Start and end of a stretch of text."""

Find = Callable[[str], Iterator[Place | None]]
"""None: a candidate that was none. Whoever asks may stop between any two."""


class Validator(Protocol):
    """A module of python-stdnum."""

    def is_valid(self, number: str) -> bool:
        """Whether the number's own check holds."""
        ...


DOMAIN = regex.compile(
    r"@(?:[\p{L}\d](?:[\p{L}\d-]{0,61}[\p{L}\d])?\.)+(?:xn--[a-z\d-]{1,59}|\p{L}{2,63})", regex.IGNORECASE
)
LOCAL = regex.compile(r"[\w.%+'-]")
LOCAL_LENGTH_MAX = 64
LOCAL_ENDS = "'.-+%"

# Groups as cards bear them.
DIGITS = regex.compile(r"(?<!\d)\d{3,}+(?:[ -]\d{3,}+)*+")
GROUP = regex.compile(r"\d+")
CARD_LENGTH_MIN, CARD_LENGTH_MAX = 13, 19
# Networks by the number's beginning, and the lengths they use.
CARDS = regex.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14,17}|6\d{15,18}"
)
IBAN_START = regex.compile(r"(?<![\p{L}\d])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z\d]){11,30}")
IPV4 = regex.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IPV6 = regex.compile(r"(?<![\w:.])(?=[\da-fA-F:]*:[\da-fA-F:]*:)[\da-fA-F:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])")
SSN = regex.compile(r"(?<![\d-])\d{3}[- ]\d{2}[- ]\d{4}(?![\d-])|(?i:ssn|social security)\D{0,20}+\K(?<!\d)\d{9}(?!\d)")
# Seven digits at least, as people write them.
PHONE = regex.compile(r"(?<![\w@])[+(]?\+?\d(?:[\s().\-/\u2010-\u2015]{0,3}\d){6,24}(?![\p{L}_@])")
INTERNATIONAL = "ZZ"
VALID, STRICT_GROUPING = phonenumbers.Leniency.VALID, phonenumbers.Leniency.STRICT_GROUPING


def emails(text: str) -> Iterator[Place | None]:
    """Addresses whose domain has a name; found by their at sign, so that a text without one costs a look."""
    for match in DOMAIN.finditer(text):
        start = match.start()
        first = max(0, start - LOCAL_LENGTH_MAX)
        while start > first and LOCAL.match(text, start - 1):
            start -= 1
        while start < match.start() and text[start] in LOCAL_ENDS:
            start += 1
        yield (start, match.end()) if start < match.start() else None


def credit_cards(text: str) -> Iterator[Place | None]:
    """Numbers of a known network with Luhn's digit, also among other digits, as long as they are whole groups."""
    for run in DIGITS.finditer(text):
        if run.end() - run.start() < CARD_LENGTH_MIN:
            yield None
            continue
        groups = [match.span() for match in GROUP.finditer(text, pos=run.start(), endpos=run.end())]
        end = -1
        for index, (start, _) in enumerate(groups):
            if start < end:
                continue
            found = _card(text, groups[index : index + CARD_LENGTH_MAX])
            end = found or end
            yield (start, found) if found else None


def _card(text: str, groups: list[Place]) -> int | None:
    """Where a card ends that begins with the first group; its groups are parted by separators of one kind."""
    number, end, separators = "", None, set[str]()
    for index, (first, last) in enumerate(groups):
        number += text[first:last]
        if index:
            separators.add(text[first - 1])
        if len(number) > CARD_LENGTH_MAX or len(separators) > 1:
            break
        if CARDS.fullmatch(number) and luhn.is_valid(number):
            end = last
    return end


def ibans(text: str) -> Iterator[Place | None]:
    """Account numbers with the check digits and the structure of their country."""
    done = 0
    # Overlapping, for what begins like an account number may be a word before one.
    for match in IBAN_START.finditer(text, overlapped=True):
        yield None
        if match.start() < done:
            continue
        found = match.group()
        ends = [
            at + 1 for at, (one, next_one) in enumerate(pairwise(found)) if one.isalnum() and not next_one.isalnum()
        ]
        for end in (len(found), *reversed(ends)):
            following = text[match.start() + end : match.start() + end + 1]
            if not following.isalnum() and iban.is_valid(found[:end]):
                done = match.start() + end
                yield match.start(), done
                break


def ip_addresses(text: str) -> Iterator[Place | None]:
    """Addresses of either version, but for a machine's own."""
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                yield None
                continue
            yield None if address.is_loopback or address.is_unspecified else match.span()


def phones(regions: tuple[str, ...]) -> Find:
    """Numbers with a country code, and those of ``regions`` as they are dialled there."""

    def find(text: str) -> Iterator[Place | None]:
        for run in PHONE.finditer(text):
            yield None
            candidate = run.group()
            for region in (INTERNATIONAL, *regions) if "+" in candidate else regions:
                how = VALID if region is INTERNATIONAL else STRICT_GROUPING
                for match in phonenumbers.PhoneNumberMatcher(candidate, region, how):
                    # A bracket that closes behind the number is not the number's.
                    loose = match.raw_string.startswith("(") and match.raw_string.count("(") > match.raw_string.count(
                        ")"
                    )
                    yield run.start() + match.start + loose, run.start() + match.end

    return find


def confirmed(pattern: str, validator: Validator) -> Find:
    """Candidates of ``pattern`` whose check holds."""
    compiled = regex.compile(pattern)

    def find(text: str) -> Iterator[Place | None]:
        for match in compiled.finditer(text):
            yield match.span() if validator.is_valid(match.group()) else None

    return find


def social_security(text: str) -> Iterator[Place | None]:
    """Numbers with their dashes, or named as what they are."""
    for match in SSN.finditer(text):
        yield match.span() if ssn.is_valid(match.group().replace(" ", "-")) else None


FINDERS: Mapping[Entity, Find] = {
    "email": emails,
    "credit_card": credit_cards,
    "iban": ibans,
    "ip_address": ip_addresses,
    "us_ssn": social_security,
    "uk_nhs_number": confirmed(r"(?<![\d-])\d{3}[ -]?\d{3}[ -]?\d{4}(?![\d-])", nhs),
    "de_tax_id": confirmed(r"(?<!\d)\d{2} ?\d{3} ?\d{3} ?\d{3}(?!\d)", idnr),
    "fr_nir": confirmed(r"(?<!\d)[1-478] ?\d{2} ?\d{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}(?!\d)", nir),
    "es_nif": confirmed(r"(?<!\w)[XYZKLMxyzklm\d]-?\d{7}-?\p{L}(?!\w)", nif),
    "it_fiscal_code": confirmed(
        r"(?<!\w)(?i:[A-Z]{6}[\dA-Z]{2}[A-Z][\dA-Z]{2}[A-Z][\dA-Z]{3}[A-Z])(?!\w)", codicefiscale
    ),
    "br_cpf": confirmed(r"(?<!\d)\d{3}\.?\d{3}\.?\d{3}-?\d{2}(?!\d)", cpf),
    "in_aadhaar": confirmed(r"(?<!\d)[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}(?!\d)", aadhaar),
}
"""All but phone numbers, whose finder depends on the policy."""
