"""A policy applied to a request: every text looked through, and masked, or the place of the first finding told."""

import time
from collections.abc import Callable, Sequence

from models.errors import InvalidRequest
from models.privacy import PiiPolicy
from serve.privacy.body import changed, texts
from serve.privacy.config import PrivacyConfig
from serve.privacy.scanner import Finding, TooSlow, scanner_of
from serve.privacy.vault import Vault
from serve.validation import Body


def mask(body: Body, policy: PiiPolicy, bounds: PrivacyConfig) -> tuple[Body, Vault]:
    """The request with placeholders (the same object where there are none), and what they stand for.

    Raises InvalidRequest where that takes too long: the request might hold what must not leave.
    """
    vault, look = Vault(texts(body)), _look(policy, bounds)

    def change(text: str, path: str) -> str:
        findings = look(text, path)
        return vault.mask(text, findings) if findings else text

    return changed(body, change), vault


def refuse(body: Body, policy: PiiPolicy, bounds: PrivacyConfig) -> None:
    """Raises InvalidRequest that names the place of the first personal data, and its kind, never what it is."""
    look = _look(policy, bounds)

    def change(text: str, path: str) -> str:
        findings = look(text, path)
        if findings:
            raise InvalidRequest(
                f"'{path}' holds personal data ({findings[0].name}), which this project does not send to models.",
                param=path,
                code="pii_detected",
            )
        return text

    changed(body, change)


def _look(policy: PiiPolicy, bounds: PrivacyConfig) -> Callable[[str, str], Sequence[Finding]]:
    scanner = scanner_of(policy, bounds.pattern_seconds_max)
    until = time.monotonic() + bounds.scan_seconds_max

    def look(text: str, path: str) -> Sequence[Finding]:
        try:
            return scanner.find(text, until)
        except TooSlow as error:
            raise InvalidRequest(
                f"'{path}' cannot be looked through for personal data: '{error.name}' takes too long.",
                param=path,
                code="pii_not_checkable",
            ) from None

    return look
