"""The manifest of promises, held against the tests both ways, and against the contract where that is at hand."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from serve.routing import ENDPOINTS

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT.parent / "shared" / "openai-contract.md"
SECTIONS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("manifest.yaml").read_text())
PROMISES = {name: promise for section in SECTIONS.values() for name, promise in section.items()}
LISTED = [(name, test) for name, promise in PROMISES.items() for test in promise["tests"]]
# Words of a wire: paths, headers, statuses, names with an underscore, and whatever stands in back-ticks alone.
WIRE = re.compile(
    r"/v1/\w+|\bx-[a-z-]+|\bopenai-[a-z-]+|\bretry-after[a-z-]*|\b[1-5]\d\d\b|\b[a-z]+(?:_[a-z0-9]+)+\b|`[a-z]\w*`"
)
HEADERS = re.compile(r"\bx-[a-z-]+-\{[\w,{}-]+\}")


class Found(NamedTuple):
    """A test function: the promises it carries, and whether it is run at all."""

    promises: tuple[str, ...]
    runs: bool


def marks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, list[ast.expr]]]:
    for decorator in function.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
        name = ast.unparse(call.func)
        if name.startswith("pytest.mark."):
            yield name.removeprefix("pytest.mark."), call.args


def functions_of(path: Path) -> dict[str, Found]:
    """Every test function of a file that pytest collects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = [function for function in functions if function.name.startswith("test")]
    assert [name for name, times in Counter(one.name for one in named).items() if times > 1] == [], path
    found: dict[str, Found] = {}
    for function in named:
        carried = list(marks(function))
        promises = tuple(ast.literal_eval(args[0]) for name, args in carried if name == "contract")
        found[function.name] = Found(promises, not {"skip", "xfail"} & {name for name, _ in carried})
    return found


@pytest.fixture(scope="module")
def tests() -> dict[str, Found]:
    """Every test by its node id, without parameters."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {
        f"{path.relative_to(ROOT).as_posix()}::{name}": found
        for path in files
        for name, found in functions_of(path).items()
    }


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_is_said_and_has_a_test(name: str) -> None:
    promise = PROMISES[name]
    assert set(promise) - {"later"} == {"promise", "tests"}
    assert promise["promise"].strip()
    assert promise["tests"]
    assert promise.get("later", "a reason").strip()
    assert re.fullmatch(r"[a-z]+(?:[.-][a-z0-9]+)*", name)


def test_no_id_is_given_twice_and_no_test_listed_twice() -> None:
    assert len(PROMISES) == sum(len(section) for section in SECTIONS.values())
    assert [one for one, times in Counter(LISTED).items() if times > 1] == []


@pytest.mark.parametrize(("name", "test"), LISTED)
def test_a_listed_test_exists_and_is_run(
    request: pytest.FixtureRequest, tests: dict[str, Found], name: str, test: str
) -> None:
    function, bracket, _ = test.partition("[")
    assert function in tests, f"{name} names a test that does not exist"
    assert tests[function].runs, f"{name} names a test that is skipped or may fail"
    collected = [item.nodeid for item in request.session.items if item.nodeid.partition("[")[0] == function]
    # A run of some tests alone need not have collected this one.
    assert not (bracket and collected) or any(node.startswith(test) for node in collected)


def test_a_test_that_carries_a_promise_is_listed_under_it(tests: dict[str, Found]) -> None:
    carried = {(promise, test) for test, found in tests.items() for promise in found.promises}
    listed = {(name, test.partition("[")[0]) for name, test in LISTED}
    assert carried - listed == set()
    assert carried


def test_a_marker_is_read_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        '@pytest.mark.parametrize("a", [1])\n@pytest.mark.contract("b.c")\nasync def test_a(a): ...\n'
        "@pytest.mark.skip\ndef test_b(): ...\ndef helper(): ...\n"
    )
    assert functions_of(path) == {"test_a": Found(("b.c",), True), "test_b": Found((), False)}


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def each(word: str) -> str:
    """``a-{b,c}-d`` is ``a-b-d a-c-d``."""
    parts = [part.split(",") for part in re.split(r"[{}]", word)]
    return " ".join("".join(choice) for choice in product(*parts))


def wire_words(text: str) -> set[str]:
    """The technical words of a text."""
    text = HEADERS.sub(lambda found: each(found[0]), text)
    words = {word.strip("`") for word in WIRE.findall(text)}
    known = {name for endpoint in ENDPOINTS.values() for name in endpoint.known}
    return words | (known & set(re.findall(r"[a-z]+", text)))


def test_braces_of_the_contract_are_read() -> None:
    assert wire_words("`x-a-{limit,reset}-{requests,tokens}` and b_c{d_e}") == {
        "x-a-limit-requests",
        "x-a-limit-tokens",
        "x-a-reset-requests",
        "x-a-reset-tokens",
        "b_c",
        "d_e",
    }


@pytest.mark.skipif(not CONTRACT.exists(), reason="the contract's own text is not part of this repository")
def test_every_word_of_the_contract_is_promised() -> None:
    contract = sections(CONTRACT.read_text(encoding="utf-8"))
    assert set(contract) == set(SECTIONS)
    missing: dict[str, set[str]] = {}
    for section, text in contract.items():
        said = " ".join(promise["promise"] for promise in SECTIONS[section].values())
        told = wire_words(said) | set(re.findall(r"\w+", said))
        missing[section] = wire_words(text) - told
    assert {section: words for section, words in missing.items() if words} == {}


@pytest.mark.skipif(not CONTRACT.exists(), reason="the contract's own text is not part of this repository")
def test_every_endpoint_of_the_contract_has_a_promise() -> None:
    bullets = re.findall(r"^- (.+)$", sections(CONTRACT.read_text(encoding="utf-8"))["Others"], re.MULTILINE)
    said = " ".join(promise["promise"] for promise in SECTIONS["Others"].values())
    paths = {path for bullet in bullets for path in re.findall(r"/v1/\w+", bullet)}
    assert len(bullets) >= 9
    assert {path for path in paths if path not in said} == set()
