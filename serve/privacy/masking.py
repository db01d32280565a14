"""A policy applied to a request: every text looked through, and masked, or the place of the first finding told."""

from collections.abc import Mapping
from typing import Any

from models.errors import InvalidRequest
from models.privacy import PiiPolicy
from serve.privacy.body import changed, texts
from serve.privacy.scanner import PatternTooSlow, scanner_of
from serve.privacy.vault import Vault
from serve.validation import Body


def mask(body: Body, policy: PiiPolicy, pattern_seconds_max: float) -> tuple[Body, Vault]:
    """The request with placeholders (the same object where there are none), and what they stand for.

    Raises InvalidRequest where a pattern of the project's own takes too long for one of the texts.
    """
    scanner = scanner_of(policy, pattern_seconds_max)
    vault = Vault(texts(body))

    def change(text: str, path: str) -> str:
        try:
            findings = scanner.find(text)
        except PatternTooSlow as error:
            raise too_slow(error.name, path) from None
        return vault.mask(text, findings) if findings else text

    return changed(body, change), vault


def refuse(body: Body, policy: PiiPolicy, pattern_seconds_max: float) -> None:
    """Raises InvalidRequest that names the place of the first personal data, and its kind, never what it is."""
    scanner = scanner_of(policy, pattern_seconds_max)

    def change(text: str, path: str) -> str:
        try:
            findings = scanner.find(text)
        except PatternTooSlow as error:
            raise too_slow(error.name, path) from None
        if findings:
            raise InvalidRequest(
                f"'{path}' holds personal data ({findings[0].name}), which this project does not send to models.",
                param=path,
                code="pii_detected",
            )
        return text

    changed(body, change)


def masked(said: Mapping[str, Any], policy: PiiPolicy, pattern_seconds_max: float) -> Body:
    """A request and its answer as they are kept. Raises PatternTooSlow."""
    scanner = scanner_of(policy, pattern_seconds_max)
    vault = Vault(texts(dict(said)))
    return changed(dict(said), lambda text, _: vault.mask(text, scanner.find(text)))


def too_slow(name: str, path: str) -> InvalidRequest:
    """The refusal of a text that cannot be looked through in time: it might hold what must not leave."""
    return InvalidRequest(
        f"'{path}' cannot be looked through: the project's pattern '{name}' takes too long for it.",
        param=path,
        code="pii_not_checkable",
    )
