"""The figures of the house: how the source is divided, how its rooms hang together, how long its parts are. A table in Markdown.

python tests/house.py [src/penjing]              of this source
python tests/house.py [src/penjing] --calls      also, by a run: the calls from `compress` down to the loss of a training step
"""

import argparse
import ast
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
MANY = 8
"""Parameters beyond which a function has many."""
LOOSE = "dict[str, Any]"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """A file of the source: its path in the source, lines and tree."""

    path: str
    lines: Sequence[str]
    tree: ast.Module

    @property
    def functions(self) -> Iterator[tuple[str, Function]]:
        """Every function with its full name, those within others too."""
        yield from _within(self.tree, "")

    @property
    def comments(self) -> int:
        """Lines that are a comment and nothing else."""
        tokens = tokenize.generate_tokens(io.StringIO("\n".join(self.lines) + "\n").readline)
        return sum(token.type == tokenize.COMMENT and self.lines[token.start[0] - 1].lstrip().startswith("#") for token in tokens)

    @property
    def docstrings(self) -> int:
        """Lines of strings that stand alone: of modules, classes, functions, and below what they describe."""
        alone = (
            node.value
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in alone)

    def imported(self, package: str) -> set[str]:
        """The names that it takes from the package, wherever in the file."""
        names = set[str]()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
                names |= {f"{node.module}.{each.name}" for each in node.names}
            elif isinstance(node, ast.Import):
                names |= {each.name for each in node.names if each.name.split(".")[0] == package}
        return names


def _within(node: ast.AST, above: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        name = above
        if isinstance(child, Function | ast.ClassDef):
            name = f"{above}.{child.name}" if above else child.name
        if isinstance(child, Function):
            yield name, child
        yield from _within(child, name)


def files_of(root: Path) -> list[File]:
    """Every Python file below the root."""
    found = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(File(str(path.relative_to(root)), text.splitlines(), ast.parse(text)))
    return found


def parameters(function: Function) -> int:
    """Positional and keyword-only ones, without self."""
    given = function.args
    positional = [each.arg for each in (*given.posonlyargs, *given.args)]
    return len(positional) - (positional[:1] in (["self"], ["cls"])) + len(given.kwonlyargs)


def is_loose(function: Function) -> bool:
    """Whether an annotation says Any."""
    given = function.args
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg)))
    annotations = [*(each.annotation for each in every), function.returns]
    return any(isinstance(node, ast.Name) and node.id == "Any" for each in annotations if each for node in ast.walk(each))


def length(function: Function) -> int:
    """Lines, without decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


# -- rooms ---------------------------------------------------------------------------------------------------------


def imports_of(root: Path) -> dict[str, set[str]]:
    """Of each module those of the package that it imports, wherever in the file."""
    import grimp

    sys.path.insert(0, str(root.resolve().parent))
    graph = grimp.build_graph(root.name, cache_dir=None, exclude_type_checking_imports=True)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}


def between(imports: Mapping[str, set[str]]) -> dict[tuple[str, str], int]:
    """How many imports go from one room to another; the root's own __init__ is no room."""
    pairs: dict[tuple[str, str], int] = {}
    for module, others in imports.items():
        for other in others:
            rooms = tuple(name.split(".")[1] if "." in name else "" for name in (module, other))
            if all(rooms) and rooms[0] != rooms[1]:
                pairs[rooms[0], rooms[1]] = pairs.get((rooms[0], rooms[1]), 0) + 1
    return pairs


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of more than one from each of which every other can be reached."""

    def reached(start: str) -> set[str]:
        seen, left = set[str](), [start]
        while left:
            for other in edges.get(left.pop(), set()) - seen:
                seen.add(other)
                left.append(other)
        return seen

    below = {name: reached(name) for name in edges}
    found = {tuple(sorted(other for other in below[name] if name in below.get(other, set()))) for name in edges if name in below[name]}
    return [list(each) for each in sorted(found) if len(each) > 1]


# -- the table -----------------------------------------------------------------------------------------------------


def figures(root: Path) -> list[tuple[str, str]]:
    """Name and value of every figure of the source."""
    files, imports = files_of(root), imports_of(root)
    rooms = sorted({name.split(".")[1] for name in imports if "." in name})
    pairs = between(imports)
    edges = {room: {b for a, b in pairs if a == room} for room in rooms}
    mutual = sorted(f"{a} and {b}" for a, b in pairs if a < b and (b, a) in pairs)
    round_rooms, round_modules = circles(edges), circles(imports)
    functions = [(file, name, each) for file in files for name, each in file.functions]
    sizes, total = [len(file.lines) for file in files], sum(len(file.lines) for file in files)
    longest = max(files, key=lambda file: len(file.lines))
    place, name, function = max(functions, key=lambda each: length(each[2]))
    many = sorted(((parameters(each), f"{file.path}:{name}") for file, name, each in functions if parameters(each) > MANY), reverse=True)
    loose = sum(is_loose(each) for _, _, each in functions)
    texts = sum("\n".join(file.lines).count(LOOSE) for file in files)
    busiest = max(files, key=lambda file: len(file.imported(root.name)))
    modules = {name.rsplit(".", 1)[0] for name in busiest.imported(root.name)}
    comments, docstrings = (sum(getattr(file, kind) for file in files) for kind in ("comments", "docstrings"))
    return [
        ("files, lines", f"{len(files)}, {total}"),
        ("rooms in the root", f"{len(rooms)}: {', '.join(rooms)}"),
        ("pairs of rooms of which one imports the other", f"{len(pairs)}, by {sum(pairs.values())} imports of modules"),
        ("rooms that import each other", f"{len(mutual)}{': ' if mutual else ''}{'; '.join(mutual)}"),
        ("circles of rooms", _said(round_rooms)),
        ("circles of modules", _said(round_modules)),
        ("longest file", f"{len(longest.lines)} lines, {longest.path}"),
        ("longest function", f"{length(function)} lines, {place.path}:{name}"),
        (f"functions of more than {MANY} parameters", f"{len(many)} of {len(functions)}"),
        ("which", "; ".join(f"{name} {count}" for count, name in many)),
        (f"`{LOOSE}` in the source", str(texts)),
        ("functions with an `Any` in their annotations", f"{100 * loose / len(functions):.1f} % ({loose} of {len(functions)})"),
        (
            f"names of {root.name} that the busiest module imports",
            f"{len(busiest.imported(root.name))}, of {len(modules)} modules, {busiest.path}",
        ),
        ("median file", f"{statistics.median(sizes):.0f} lines"),
        ("lines that are comments", f"{100 * comments / total:.1f} % ({comments}); docstrings {100 * docstrings / total:.1f} %"),
    ]


def _said(found: Sequence[Sequence[str]]) -> str:
    each = [f"{len(names)} ({', '.join(names)})" for names in found]
    return f"{len(found)}{': ' if found else ''}{'; '.join(each)}"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """In Markdown."""
    return "\n".join(["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


# -- calls ---------------------------------------------------------------------------------------------------------


def calls(root: Path) -> tuple[str, str]:
    """The figure of `traced`, by a process of its own that runs this source in the golden runs' environment."""
    sys.path.insert(0, str(HERE / "golden"))
    from golden import FIXED

    given = [str(root.resolve().parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **FIXED, "PYTHONPATH": os.pathsep.join(filter(None, given))}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), str(root), "--traced"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    name, value = done.stdout.splitlines()[-1].split("\t")
    return name, value


def traced(root: Path) -> tuple[str, str]:
    """Run a tiny `compress`, and look who has called whom whenever a training step asks for `soft_kl`: the deepest it was."""
    sys.path.insert(0, str(HERE / "golden"))
    from penjing.maths import losses

    own, deepest = losses.soft_kl, list[str]()

    def soft_kl(z: Any, t: Any, *given: Any, **options: Any) -> Any:
        nonlocal deepest
        if z.requires_grad:
            deepest = max(deepest, [*stack(sys._getframe(1), root), "maths/losses.py:soft_kl"], key=len)
        return own(z, t, *given, **options)

    losses.soft_kl = soft_kl  # before anything takes it by name
    import worker
    from material import Material

    worker.tell_the_clock()
    with tempfile.TemporaryDirectory() as folder:
        made = Material(Path(folder), "classification")
        given = ["--model", made["teacher"], "--task", "classification", "--train", made["train"], "--eval", made["eval"]]
        asked = ["--max-drop", "100", "--epochs", "1", "--engine", "onnxruntime", "--threads", "1", "--max-length", "24"]
        status, _, error = worker.command(["compress", *given, "--out", str(Path(folder) / "out"), *asked])
    if status or not deepest:
        raise SystemExit(error or "soft_kl was not called in training")
    return "calls from compress to soft_kl in training", f"{len(deepest)}: {' > '.join(deepest)}"


def stack(frame: FrameType | None, root: Path) -> list[str]:
    """The functions of the source on the stack, outermost first, each once, below the outermost `compress` that is no command."""
    found: list[str] = []
    while frame:
        path = Path(frame.f_code.co_filename)
        if root.resolve() in path.parents and not re.fullmatch(r"<(list|dict|set)comp>|<genexpr>", frame.f_code.co_name):
            found.append(f"{path.relative_to(root.resolve())}:{frame.f_code.co_qualname.replace('.<locals>', '')}")
        frame = frame.f_back
    found = [*dict.fromkeys(each for each in found[::-1] if not each.startswith("cli/"))]
    entry = next((i for i, each in enumerate(found) if each.endswith(":compress")), -1)
    return found[entry + 1 :]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path("src/penjing"))
    parser.add_argument("--calls", action="store_true", help="run a tiny compress too, and count calls")
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.traced:
        print("\t".join(traced(given.root)))
        return
    print(table([*figures(given.root), *([calls(given.root)] if given.calls else [])]))


if __name__ == "__main__":
    main()
