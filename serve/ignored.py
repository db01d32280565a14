"""What an engine of ours would read over in silence: it is refused by name.

vLLM 0.32 takes any field and ignores those that it does not know. ``IGNORED`` are OpenAI's parameters that it ignores
or cannot do, with the values that ask for nothing and may stay. ``LABELS`` are for the caller's own books: they ask
nothing of a model. ``EXTRAS`` are vLLM's own parameters: whatever is neither here nor OpenAI's is a mistake, or was
removed from vLLM, and its caller would wait for it in vain.
``docs/endpoint.md`` shows the tables; tests hold them to this file, and this file to vLLM's own requests.
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
SAMPLING = frozenset(
    {
        *("top_k", "min_p", "repetition_penalty", "length_penalty", "repetition_detection", "use_beam_search"),
        *("min_tokens", "ignore_eos", "stop_token_ids", "include_stop_str_in_output", "thinking_token_budget"),
        *("allowed_token_ids", "bad_words", "structured_outputs", "watermarking", "vllm_xargs"),
        *("skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens"),
        *("truncate_prompt_tokens", "truncation_side", "cache_salt", "session_id", "stream_interval"),
        *("prompt_logprobs", "logprob_token_ids", "return_token_ids", "return_tokens_as_token_ids"),
    }
)
EXTRAS: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": SAMPLING
    | {
        *("echo", "add_generation_prompt", "continue_final_message", "documents", "include_reasoning"),
        *("chat_template", "chat_template_kwargs", "media_io_kwargs", "mm_processor_kwargs", "return_prompt_text"),
    },
    "/v1/completions": SAMPLING | {"prompt_embeds", "response_format"},
}
# vLLM has them, and callers do not: they speak to the cluster's inside, or go before other callers.
INSIDE = frozenset(
    {"request_id", "priority", "kv_transfer_params", "ec_transfer_params", "routed_experts_prompt_start"}
)


def refuse_ignored(path: str, known: frozenset[str], body: Body) -> None:
    """For our engines, of a checked body; ``known``: the endpoint's own parameters. A null asks for nothing.

    Raises InvalidRequest for the first parameter that would be ignored.
    """
    extras = EXTRAS.get(path)
    if extras is None:
        return
    options = body.get("stream_options")
    if options and options.get("include_obfuscation"):
        raise _unsupported("stream_options.include_obfuscation")
    if not body.keys() <= known:
        for name, value in body.items():
            if value is not None and name not in known and name not in extras:
                raise _unsupported(name)
    if NAMES.isdisjoint(body):
        return
    for name, neutral in IGNORED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise _unsupported(name)


def _unsupported(name: str) -> InvalidRequest:
    return InvalidRequest(f"The model does not support '{name}'.", param=name, code="unsupported_parameter")
