"""The cross-encoder: a sentence-transformers folder that reads a query and a text together, on the hardware there is.

The weights are bf16 where the processor multiplies it in hardware, else fp32, as the sentence encoder's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipelines.bert import read_json
from pipelines.encoder import cpu_has_bf16, usable_cpus

BATCH_ROWS_MAX_CPU = 32
BATCH_ROWS_MAX_GPU = 1_024


class CrossEncoder:
    """Implements ``models.protocols.Scorer``. One thread may use it at a time."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Loads the weights. Raises OSError, ValueError where the folder is not a cross-encoder's."""
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder} holds no cross-encoder: it has no tokenizer.json")
        # Imported where it is needed: eleven CPU seconds that whoever only builds the graph does without.
        from sentence_transformers import CrossEncoder as Network

        torch.set_num_threads(threads or usable_cpus())
        gpu = torch.cuda.is_available()
        dtype = torch.bfloat16 if gpu or cpu_has_bf16() else torch.float32
        self._network: Any = Network(
            str(folder), device="cuda" if gpu else "cpu", local_files_only=True, model_kwargs={"dtype": dtype}
        ).eval()
        if self._network.num_labels != 1:
            raise ValueError(f"{folder.name} does not score: it has {self._network.num_labels} labels")
        self._rows_max = BATCH_ROWS_MAX_GPU if gpu else BATCH_ROWS_MAX_CPU
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        positions = int(read_json(folder / "config.json").get("max_position_embeddings", 512))
        self._max_tokens = min(int(self._network.max_seq_length or positions), positions)

    @property
    def max_tokens(self) -> int:
        """What the model was made to read; it ignores what lies beyond."""
        return self._max_tokens

    def count_tokens(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of each pair as the model sees it, its marks included, untruncated."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(pairs))]

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Float32 array of shape (len(pairs),): the sigmoid of what the model says, in the order given."""
        if not pairs:
            return np.zeros(0, dtype=np.float32)
        with torch.inference_mode():
            logits = self._network.predict(
                list(pairs),
                batch_size=self._rows_max,
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
                convert_to_tensor=True,
            )
            return torch.sigmoid(logits.float()).cpu().numpy().reshape(len(pairs))
