"""The public names: all there, none heavy, none in the way of a room."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gpt2
from gpt2 import errors


@pytest.mark.parametrize("name", gpt2.__all__)
def test_every_public_name_exists(name: str) -> None:
    if name in ("finetune", "pretrain"):
        pytest.importorskip("torch")
    value = getattr(gpt2, name)
    assert value is getattr(gpt2, name)
    assert value.__doc__


def test_no_public_name_is_the_name_of_a_room() -> None:
    rooms = {path.stem for path in Path(gpt2.__file__).parent.iterdir() if not path.name.startswith("_")}
    assert not rooms & set(gpt2.__all__)


def test_names_are_listed_once_in_order() -> None:
    assert gpt2.__all__ == sorted(set(gpt2.__all__))
    assert set(gpt2.__all__) < set(dir(gpt2))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = gpt2.lode


def test_the_errors_are_those_of_the_tree() -> None:
    for name in gpt2.__all__:
        if name.endswith("Error"):
            assert getattr(gpt2, name) is getattr(errors, name)
            assert issubclass(getattr(gpt2, name), gpt2.Gpt2Error)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import gpt2, sys; print(sorted(m for m in sys.modules if m.startswith('gpt2') or m in ('numpy', 'torch')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(gpt2.__file__).parents[1])},
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout.strip() == "['gpt2']"


WITHOUT_TORCH = """
import pydoc, sys
sys.modules["torch"] = None
from gpt2 import *
import gpt2
assert "finetune(" in pydoc.render_doc(gpt2, renderer=pydoc.plaintext)
for train in (lambda: finetune("novel.txt", out="mine"), lambda: gpt2.pretrain(None)):
    try:
        train()
    except gpt2.Gpt2Error as error:
        print(type(error).__name__, error)
"""


def test_without_pytorch_the_names_that_train_are_there_and_say_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        capture_output=True,
        check=False,
        encoding="utf-8",
        cwd=Path(__file__).parent,
    )
    assert done.stderr == ""
    told = done.stdout.splitlines()
    for name, line in zip(("finetune", "pretrain"), told, strict=True):
        assert line.startswith(f"MissingExtraError gpt2.{name} cannot start: torch is not installed. "), told
        assert "gpt2kit[train]" in line


def test_type_checkers_read_the_types_of_this_package() -> None:
    source = Path(gpt2.__file__).parent
    assert (source / "py.typed").is_file()
    imported = [
        node for node in ast.walk(ast.parse(Path(gpt2.__file__).read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    named = {alias.name: str(node.module) for node in imported for alias in node.names}
    assert named.keys() >= set(gpt2.__all__)
    for name, module in named.items():  # of a package that has a module of that name, mypy takes the module
        assert not (source.parent / module.replace(".", "/") / f"{name}.py").exists(), f"{module} has a module {name}"


def test_the_version_is_that_of_the_distribution() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] == gpt2.__version__
