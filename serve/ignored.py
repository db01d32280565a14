"""Which of OpenAI's parameters an engine of ours would read over in silence: they are refused by name.

vLLM 0.32 takes any field and ignores those that it does not know. What is here is what it ignores or cannot do, with
the values that ask for nothing and may stay. ``LABELS`` are for the caller's own books: they ask nothing of a model.
``docs/endpoint.md`` shows the table of all parameters; a test holds it to this file and to vLLM's own request.
"""

from collections.abc import Mapping
from typing import Any

from models.errors import InvalidRequest
from serve.validation import Body

LABELS = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata"})
IGNORED: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "best_of": (1,),
    "suffix": ("",),
}
NAMES = frozenset(IGNORED)


def refuse_ignored(body: Body) -> None:
    """For our engines, of a checked body. Raises InvalidRequest for the first parameter that would be ignored."""
    options = body.get("stream_options")
    if options and options.get("include_obfuscation"):
        raise _unsupported("stream_options.include_obfuscation")
    if NAMES.isdisjoint(body):
        return
    for name, neutral in IGNORED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise _unsupported(name)


def _unsupported(name: str) -> InvalidRequest:
    return InvalidRequest(f"The model does not support '{name}'.", param=name, code="unsupported_parameter")
