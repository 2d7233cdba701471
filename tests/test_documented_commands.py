"""Every `gpt2 …` that the README and the pages of docs/ show is a command line that this version takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gpt2.cli.main import program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(gpt2 [^`]+)`(?!`)")
SHELL = {"", "sh", "console", "bash"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_shown_is_taken(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {reason}" for words in commands(page) if (reason := refusal(words[1:]))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "words",
    [
        "genrate Once",
        "generate Once --temprature 1",
        "generate Once upon",
        "generate Once --top-k many",
        "generate Once --weights int3",
        "tokenizer learn text.txt",
        "score --stride",
    ],
)
def test_what_would_be_refused_is_found(words: str) -> None:
    assert refusal(words.split())


def test_commands_are_found_in_every_form(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `gpt2 doctor`.\n```console\n$ cat a | gpt2 score --quiet > b && gpt2 models  # all\n"
        "$ gpt2 genrate\nerror: there is no verb\n"
        "$ X=1 torchrun -m gpt2 train tiny-cpu \\\n    --out run\nout of gpt2 it\n```\n"
        "```sh\ngpt2 convert a \\\n  b --to hf\n```\n```python\ngpt2 = 1\n```\n",
        encoding="utf-8",
    )
    assert [" ".join(words) for words in commands(page)] == [
        "gpt2 score --quiet",
        "gpt2 models",
        "gpt2 train tiny-cpu --out run",
        "gpt2 convert a b --to hf",
        "gpt2 doctor",
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command line that begins with gpt2, those shown with an error left out."""
    text = page.read_text(encoding="utf-8")
    for kind, block in FENCE.findall(text):
        if kind in SHELL:
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            for line, after in zip(lines, [*lines[1:], ""], strict=True):
                is_typed = line.startswith("$ ") or (kind != "console" and "$ " not in block)
                if is_typed and not after.startswith(("error:", "Usage:")):
                    yield from in_line(line.removeprefix("$ "))
    for line in INLINE.findall(FENCE.sub("", text)):
        yield from in_line(line)


def in_line(line: str) -> Iterator[list[str]]:
    """What gpt2 is given in a line of a shell: by each of the commands that | and && and ; part."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;<>()"):
            command.append(word)
            continue
        if "gpt2" in command and (
            command[0] == "gpt2" or command[command.index("gpt2") - 1] == "-m" or "=" in command[0]
        ):
            yield command[command.index("gpt2") :]
        command = ["to a file"] if ">" in word or "<" in word else []


def refusal(words: list[str]) -> str:
    """Why the command line refuses these words, without running anything or looking for files; "" if it does not."""
    command: click.Command = program
    context = click.Context(command, info_name="gpt2")
    try:
        while isinstance(command, click.Group):
            if not words or words[0] in ("--help", "--version", "VERB", "…"):
                return ""
            name, words = words[0], words[1:]
            found = command.get_command(context, name)
            if found is None:
                return f"there is no {name}"
            command, context = found, click.Context(found, info_name=name, parent=context)
        values, rest, _ = command.make_parser(context).parse_args(words)
        if rest:
            return f"nothing takes {rest}"
        for parameter in command.params:
            value = values.get(parameter.name or "")
            if isinstance(value, str | list | tuple) and not isinstance(parameter.type, click.Path):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        return error.format_message()
    return ""
