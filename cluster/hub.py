"""Download a hub repository's model files into a folder: ``python -m cluster.hub OWNER/NAME FOLDER``."""

import importlib
import sys
from typing import Any

TAKEN = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
LEFT = ["onnx/*", "openvino/*", "runs/*"]


def snapshot(repository: str, folder: str) -> None:
    """Raises what huggingface_hub raises."""
    # The library is untyped where it matters here.
    hub: Any = importlib.import_module("huggingface_hub")
    hub.snapshot_download(repository, local_dir=folder, allow_patterns=TAKEN, ignore_patterns=LEFT)


if __name__ == "__main__":
    snapshot(sys.argv[1], sys.argv[2])
