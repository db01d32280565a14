"""What each parameter of an inference call is for. A test holds that none lacks its words."""

from collections.abc import Mapping

SAMPLING: Mapping[str, str] = {
    "stream": "Answer as server-sent events while the model writes",
    "stream_options": "`include_usage`: one last event holds the usage. Only together with `stream`",
    "temperature": "0 takes the likeliest token each time; the higher, the more varied",
    "top_p": "Consider only the likeliest tokens that together have this probability",
    "n": "How many answers to the one prompt; each is charged",
    "max_tokens": "At most this many tokens are written",
    "stop": "Writing ends before any of these strings",
    "presence_penalty": "Above 0: tokens that occurred are less likely",
    "frequency_penalty": "Above 0: tokens are less likely the more often they occurred",
    "logit_bias": "By token id: what is added to the token's logit",
    "seed": "The same seed and request give the same answer, as far as the model can",
    "user": "Who is behind the call, in the caller's own words",
}
CHAT: Mapping[str, str] = {
    **SAMPLING,
    "max_tokens": "The old name of `max_completion_tokens`",
    "max_completion_tokens": "At most this many tokens are written, those of reasoning included",
    "logprobs": "Tell the log probabilities of the tokens written",
    "top_logprobs": "Tell those of so many alternatives at each place. Only together with `logprobs`",
    "tools": "Functions that the model may call",
    "tool_choice": "`none`, `auto`, `required`, one function by name, or a choice of allowed ones",
    "parallel_tool_calls": "Whether one turn may make several calls",
    "response_format": "The form of the answer: `text`, `json_object`, or `json_schema` that is held to the letter",
    "reasoning_effort": "How long a reasoning model may think",
    "verbosity": "How much the model is to say",
    "prediction": "What much of the answer will be; for models that make use of it",
    "store": "Whether the provider is to keep the answer",
    "metadata": "The caller's own pairs of words",
    "modalities": "Which kinds of output are wanted; for models that have several",
    "audio": "How the model is to speak; for models that do",
    "service_tier": "With which priority the call is served",
    "safety_identifier": "A stable name of the end user, for the provider's abuse checks",
    "prompt_cache_key": "Calls with the same key are likely to share their prompt's beginning",
}
COMPLETION: Mapping[str, str] = {
    **SAMPLING,
    "logprobs": "Tell the log probabilities of so many tokens at each place",
    "best_of": "Write so many answers and give the best `n` of them; all are charged",
    "echo": "Give the prompt back before the completion",
    "suffix": "What comes after the text to write; for models that can fill in",
}
RERANK: Mapping[str, str] = {
    "top_n": "Give only so many documents, the best ones",
    "return_documents": "Give the documents' text back beside their scores",
}
EMBEDDING: Mapping[str, str] = {
    "encoding_format": "`base64`: each vector as little-endian float32",
    "dimensions": "The vectors' length; for models that offer several",
    "user": "Who is behind the call, in the caller's own words",
}
