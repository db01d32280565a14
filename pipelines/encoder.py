"""The sentence encoder: a sentence-transformers folder on the hardware that is there.

Texts are sorted by length and cut into batches of a bounded number of tokens, so little is padded. The weights are bf16
where the processor multiplies it in hardware (twice as fast as fp32 there, far slower elsewhere), else fp32.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.protocols import Text
from pipelines.bert import Bert, is_bert, read_json

CPU_INFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
BATCH_TOKENS_MAX_CPU = 8_192
BATCH_TOKENS_MAX_GPU = 131_072
BATCH_ROWS_MAX_CPU = 32
BATCH_ROWS_MAX_GPU = 1_024


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware. Source: the flags Linux lists; elsewhere no."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not BF16_FLAGS.isdisjoint(flags.split())


def usable_cpus() -> int:
    """CPUs this process may use, by affinity and container quota; at least one.

    Ray gives a worker OMP_NUM_THREADS by its logical CPUs, so a fraction of one means a single thread; an encoder that
    shares a machine by fractions wants what is idle.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):
        return affinity
    return affinity if quota == "max" else max(1, min(affinity, int(quota) // int(period)))


class _Network(Protocol):
    dimensions: int

    def encode(self, batch: Sequence[Sequence[int]]) -> NDArray[np.float32]: ...


class _OtherNetwork:
    """Any architecture sentence-transformers knows."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        # Imported where it is needed: eleven CPU seconds that BERT models do without.
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs={"dtype": dtype}
        ).eval()
        self._device = device
        self._padding: int = self._model.tokenizer.pad_token_id or 0
        dimensions = self._model.get_embedding_dimension()
        if dimensions is None:
            raise ValueError(f"{folder.name} does not say how long its vectors are")
        self.dimensions = dimensions

    @torch.inference_mode()
    def encode(self, batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Token ids, marks included → unit vectors."""
        longest = max(len(row) for row in batch)
        ids = torch.tensor([[*row, *(self._padding,) * (longest - len(row))] for row in batch])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        features: dict[str, Any] = {"input_ids": ids.to(self._device), "attention_mask": seen.to(self._device)}
        vectors = self._model(features)["sentence_embedding"].float()
        return torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()


class SentenceEncoder:
    """Implements ``models.protocols.Encoder``. One thread may use it at a time."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Loads the weights. Raises OSError, ValueError where the folder is not a sentence encoder's."""
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder} holds no sentence encoder: it has no tokenizer.json")
        torch.set_num_threads(threads or usable_cpus())
        gpu = torch.cuda.is_available()
        dtype = torch.bfloat16 if gpu or cpu_has_bf16() else torch.float32
        network = Bert if is_bert(folder) else _OtherNetwork
        self._network: _Network = network(folder, "cuda" if gpu else "cpu", dtype)
        self._tokens_max = BATCH_TOKENS_MAX_GPU if gpu else BATCH_TOKENS_MAX_CPU
        self._rows_max = BATCH_ROWS_MAX_GPU if gpu else BATCH_ROWS_MAX_CPU
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_tokens = _max_tokens(folder)
        self._before, self._after = _marks(self._tokenizer)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._network.dimensions

    @property
    def max_tokens(self) -> int:
        """What the model was made to read; it ignores what lies beyond."""
        return self._max_tokens

    @property
    def vocabulary(self) -> int:
        """How many ids of tokens there are."""
        return self._tokenizer.get_vocab_size()

    def count_tokens(self, texts: Sequence[Text]) -> list[int]:
        """Tokens of each text as the model sees it, its marks included, untruncated."""
        return [len(ids) for ids in self._ids(texts)]

    def encode(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Float32 array of shape (len(texts), dimensions), rows of length one, in the order given."""
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        rows = [self._whole(ids) for ids in self._ids(texts)]
        for batch in self._batches(rows):
            vectors[batch] = self._network.encode([rows[index] for index in batch])
        return vectors

    def _ids(self, texts: Sequence[Text]) -> list[list[int]]:
        written = self._tokenizer.encode_batch_fast([text for text in texts if isinstance(text, str)])
        encodings = iter(written)
        return [next(encodings).ids if isinstance(text, str) else self._marked(list(text)) for text in texts]

    def _marked(self, ids: list[int]) -> list[int]:
        before, after = self._before, self._after
        there = ids[: len(before)] == before and ids[len(ids) - len(after) :] == after
        return ids if there and len(ids) >= len(before) + len(after) else [*before, *ids, *after]

    def _whole(self, ids: list[int]) -> list[int]:
        """What the model reads of a text: too long a one is cut before its closing mark."""
        return ids if len(ids) <= self._max_tokens else [*ids[: self._max_tokens - 1], ids[-1]]

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices in batches, the longest first: the first batch is the one that could exhaust memory."""
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
            longest = len(rows[batch[0]]) if batch else len(rows[index])
            if len(batch) == self._rows_max or (batch and (len(batch) + 1) * longest > self._tokens_max):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


def _marks(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the model sets before and after a text."""
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.encode("a").ids
    at = whole.index(bare[0])
    return whole[:at], whole[at + len(bare) :]


def _max_tokens(folder: Path) -> int:
    """Longest input: what the folder says, within the network's positions."""
    config = read_json(folder / "config.json")
    own = folder / "sentence_bert_config.json"
    said = read_json(own).get("max_seq_length") if own.is_file() else None
    positions = int(config.get("max_position_embeddings", 512))
    return min(int(said), positions) if said else positions
