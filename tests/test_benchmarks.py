"""Benchmarks take hours and run seldom: each compiles, and finds what it takes of Penjing, in its functions too."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))


def taken(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of every import of Penjing, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "penjing":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "penjing")


def test_benchmarks_are_found() -> None:
    assert {"main_job.py", "pruning.py", "quantization.py", "distillation.py"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_finds_what_it_takes(name: str) -> None:
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    compile(tree, name, "exec")
    missing = [f"{module}.{name}" for module, name in taken(tree) if name and not hasattr(import_module(module), name)]
    assert not missing
