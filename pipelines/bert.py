"""The BERT encoder as PyTorch operations, from a sentence-transformers folder.

Most small sentence encoders are this network. Reading it directly starts in the time that importing torch takes; going
through transformers adds eleven CPU seconds of imports to every process that embeds. Any other architecture takes that
way (pipelines/encoder.py), and a test holds the two to the same vectors.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its own annotation is partial
from torch import Tensor

MODULES = ("Transformer", "Pooling", "Normalize")


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))


def is_bert(folder: Path) -> bool:
    """Whether the folder holds exactly what ``Bert`` computes: no other architecture, pooling or module."""
    if not (folder / "model.safetensors").exists() or not (folder / "tokenizer.json").exists():
        return False
    config = read_json(folder / "config.json")
    modules = [module["type"].rsplit(".", 1)[-1] for module in read_json(folder / "modules.json")]
    pooling = read_json(folder / "1_Pooling" / "config.json")
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True}
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and modules in (list(MODULES), list(MODULES[:2]))
        and modes in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"})
    )


class Bert:
    """Token ids in, unit vectors out."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        config = read_json(folder / "config.json")
        self.dimensions = int(config["hidden_size"])
        self.positions_max = int(config["max_position_embeddings"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._mean = bool(read_json(folder / "1_Pooling" / "config.json").get("pooling_mode_mean_tokens"))
        self._device = device
        weights = load_file(folder / "model.safetensors", device=device)
        self._weights = {
            name.removeprefix("bert."): tensor.to(dtype)
            for name, tensor in weights.items()
            if tensor.is_floating_point()
        }
        self._layers = [f"encoder.layer.{index}." for index in range(int(config["num_hidden_layers"]))]
        for layer in self._layers:
            self._fuse(layer)

    def _fuse(self, layer: str) -> None:
        """One matrix product for query, key and value in place of three."""
        for kind in ("weight", "bias"):
            parts = [self._weights.pop(f"{layer}attention.self.{name}.{kind}") for name in ("query", "key", "value")]
            self._weights[f"{layer}qkv.{kind}"] = torch.cat(parts)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Rows of token ids, marks included, each at most ``positions_max`` long → (len(batch), dimensions)."""
        lengths = torch.tensor([len(row) for row in batch])
        longest = int(lengths.max())
        ids = torch.tensor([[*row, *(0,) * (longest - len(row))] for row in batch]).to(self._device)
        seen = (torch.arange(longest)[None, :] < lengths[:, None]).to(self._device)
        # Rows of one length need no mask, and attention without one is the fast kernel.
        mask = None if bool(seen.all()) else seen[:, None, None, :]
        hidden = self._embed(ids)
        for layer in self._layers:
            hidden = self._layer(layer, hidden, mask)
        hidden = hidden.float()
        pooled = (hidden * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True) if self._mean else hidden[:, 0]
        return F.normalize(pooled, dim=1).cpu().numpy()

    def _embed(self, ids: Tensor) -> Tensor:
        weights = self._weights
        words = F.embedding(ids, weights["embeddings.word_embeddings.weight"])
        positions = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        kinds = weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + positions + kinds)

    def _layer(self, layer: str, hidden: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = hidden.shape
        qkv = self._linear(f"{layer}qkv", hidden)
        query, key, value = qkv.view(batch, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        attended = self._linear(f"{layer}attention.output.dense", attended)
        hidden = self._norm(f"{layer}attention.output.LayerNorm", attended + hidden)
        inner = F.gelu(self._linear(f"{layer}intermediate.dense", hidden))
        return self._norm(f"{layer}output.LayerNorm", self._linear(f"{layer}output.dense", inner) + hidden)

    def _linear(self, name: str, value: Tensor) -> Tensor:
        return F.linear(value, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, value: Tensor) -> Tensor:
        shape = (self.dimensions,)
        return F.layer_norm(value, shape, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], self._epsilon)
