"""Turn a GGUF file into a folder of safetensors: ``python -m cluster.gguf FILE FOLDER``.

A process of its own, for it needs torch, transformers and gigabytes of memory for half a minute. The weights are
unpacked to bfloat16: what the engine computes in. Exit code 0 when ``FOLDER`` holds model and tokenizer and the chat
template renders.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

PROBE = [{"role": "user", "content": "a question"}]


def convert(source: Path, folder: Path) -> None:
    """Raises ValueError where the result would not serve chat."""
    # Neither library is typed, and both take seconds to import.
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    place: dict[str, Any] = {"gguf_file": source.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.parent), **place)
    dense = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(source.parent), **place, quantization_config=dense, dtype=torch.bfloat16
    )
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    saved = transformers.AutoTokenizer.from_pretrained(str(folder))
    text = saved.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    if PROBE[0]["content"] not in text:
        raise ValueError(f"the chat template of {source.name} does not render a message")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
