"""Set-up leaves bytecode: without it a process that imports an engine starts in twice the time."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["ray", "torch", "transformers", "vllm"])
def test_what_set_up_installs_is_compiled(package: str) -> None:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.cached is not None
    assert Path(found.cached).exists()
