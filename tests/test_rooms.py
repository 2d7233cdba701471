"""The house rules that a machine can check: who imports whom, what nobody imports, and who prints."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpt2

SOURCE = Path(gpt2.__file__).parent

# room -> rooms it may import; every room may also import errors, config and itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "report": set(),
    "files": set(),
    "native": set(),
    "machine": set(),
    "tokenizer": {"files"},
    "hub": {"files"},
    "checkpoint": {"files", "hub", "tokenizer"},
    "model": set(),
    "optim": set(),
    "data": {"files", "tokenizer", "report"},
    "backends": {"model", "checkpoint", "native", "machine", "files"},
    "generation": {"backends", "tokenizer"},
    "tasks": {"generation"},
    "inspect": {"generation", "backends", "tokenizer"},
    "detect": {"generation", "backends", "tokenizer", "files"},
    "language_model": {"generation", "tasks", "inspect", "detect", "backends", "checkpoint", "hub", "tokenizer"},
    "train": {"data", "hub", "model", "optim", "checkpoint", "tokenizer", "files", "machine", "report"},
    "recipes": set(),
    "evaluate": {"language_model", "tasks", "generation", "hub", "files", "report"},
    "serve": {"language_model", "generation", "tasks", "inspect", "detect", "backends"},
}
EVERY_ROOM = {"bench", "cli", "__main__", "__init__"}
MAY_IMPORT_TORCH = {
    "model/gpt.py",
    "model/init.py",
    *(
        f"backends/torch/{name}.py"
        for name in ("__init__", "backend", "pool", "readout", "draws", "decoding", "kernels")
    ),
}
ROOMS_WITH_TORCH = {"optim", "train"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> Iterator[tuple[str, bool]]:
    """Every dotted name a file imports, and whether at import time (not inside a function or for types only)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def walk(node: ast.AST, *, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute"
                if child.module != "gpt2":  # `from gpt2 import files` names a room, and only the room counts
                    yield child.module or "", at_import
                yield from ((f"{child.module}.{alias.name}", at_import) for alias in child.names)
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                yield from walk(child, at_import=False)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_import=at_import and not inside)

    return walk(tree, at_import=True)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    if room in EVERY_ROOM:
        return
    allowed = MAY_IMPORT[room] | {"errors", "config", room}
    for name, _ in imported_names(path):
        parts = name.split(".")
        if parts[0] == "gpt2" and len(parts) > 1:
            assert parts[1] in allowed, f"{room} may not import {parts[1]}"
        assert name != "gpt2", "import the room, not the facade"


def test_every_import_that_is_allowed_is_there() -> None:
    names = [(room_of(path), name) for path in modules() for name, _ in imported_names(path)]
    there = {(room, name.split(".")[1]) for room, name in names if name.startswith("gpt2.")}
    assert not [(room, other) for room, others in MAY_IMPORT.items() for other in others if (room, other) not in there]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_is_imported_only_where_it_is_needed(path: Path) -> None:
    place = path.relative_to(SOURCE).as_posix()
    if place in MAY_IMPORT_TORCH or room_of(path) in ROOMS_WITH_TORCH:
        return
    assert not [name for name, at_import in imported_names(path) if at_import and name.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_every_folder_is_a_known_room() -> None:
    assert {room_of(path) for path in modules()} <= MAY_IMPORT.keys() | EVERY_ROOM


def test_only_the_command_line_prints() -> None:
    for path in modules():
        if room_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            spoken = isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "input"}
            streams = isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}
            assert not spoken, f"{path}:{node.lineno} speaks"
            assert not streams, f"{path}:{node.lineno} touches the terminal"


# What an environment for other rooms may lack; `make test` brings it.
EXTRAS = ("starlette", "uvicorn", "pydantic", "prometheus_client", "llguidance", "triton")

IMPORT_EVERYTHING = """
import importlib, logging, os, pkgutil, sys, threading
import gpt2
light = [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy", "tiktoken", "click", "rich")]
assert not light, f"import gpt2 brings {light}"
environment, folder = dict(os.environ), os.getcwd()
for module in pkgutil.walk_packages(gpt2.__path__, "gpt2."):
    if module.name not in ("gpt2.__main__", "gpt2.native.libgpt2_native"):  # a program, and not a Python module
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name in EXTRAS, error
            continue
    heavy = module.name.split(".")[1] in ("optim", "train") or module.name in sys.argv
    assert heavy or "torch" not in sys.modules or seen_torch, f"{module.name} imports torch"
    seen_torch = "torch" in sys.modules
assert os.environ == environment and os.getcwd() == folder
assert threading.active_count() == 1
assert not logging.getLogger().handlers and not logging.getLogger("gpt2").handlers
"""


def test_importing_has_no_side_effect() -> None:
    allowed = [
        f"gpt2.{place.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for place in MAY_IMPORT_TORCH
    ]
    code = f"seen_torch, EXTRAS = False, {EXTRAS}\n" + IMPORT_EVERYTHING
    done = subprocess.run([sys.executable, "-c", code, *allowed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
