"""The public surface as it stands: adding a name or a flag is a deliberate change of the lists beside this file.

`GPT2_WRITE_GOLDEN=1 pytest tests/golden` writes them anew; read the difference before you commit it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import click

import gpt2
from gpt2.cli.main import program

FOLDER = Path(__file__).parent


def check(name: str, lines: list[str]) -> None:
    path = FOLDER / name
    if os.environ.get("GPT2_WRITE_GOLDEN"):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8").splitlines()


def test_public_names() -> None:
    check("public_names.txt", sorted(gpt2.__all__))


def test_public_names_exist() -> None:
    for name in gpt2.__all__:
        assert getattr(gpt2, name) is not None
    assert set(gpt2.__all__) <= set(dir(gpt2))


def test_no_public_name_is_the_name_of_a_room() -> None:
    rooms = {path.name.removesuffix(".py") for path in Path(gpt2.__file__).parent.iterdir()}
    assert not rooms & set(gpt2.__all__)


def test_command_line() -> None:
    check("command_line.txt", list(flags(program, "gpt2")))


def flags(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{path} {' '.join(sorted((*parameter.opts, *parameter.secondary_opts)))}"
        else:
            yield f"{path} {parameter.make_metavar(context)}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            assert verb is not None, f"{path} {name} is listed and does not exist"
            yield from flags(verb, f"{path} {name}")
