"""Anthropic's official client for a stage's gateway."""

from collections.abc import Callable
from typing import Any

import anthropic
import pytest


@pytest.fixture
def asking() -> Callable[..., anthropic.AsyncAnthropic]:
    def client(stage: Any, key: str = "good", **options: Any) -> anthropic.AsyncAnthropic:
        made = anthropic.AsyncAnthropic(base_url=stage.url, api_key=key, **{"max_retries": 0, **options})
        stage.stack.push_async_callback(made.close)
        return made

    return client
