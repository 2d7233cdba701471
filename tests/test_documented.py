"""What the README and the pages of docs/ show is there: commands, names in Python, and where links lead."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import gpt2
from gpt2.cli.main import program
from gpt2.language_model import LanguageModel

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *sorted((ROOT / "docs/notes").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(gpt2 [^`]+)`(?!`)")
LINK = re.compile(r"(?:\]\(|src(?:set)?=\")(?!\w+:)([^)#\s\"]*)#?([^)\s\"]*)[)\"]")
SHELL = {"", "sh", "console", "bash"}
SOURCE = Path(gpt2.__file__).parent
OF_A_MODEL = {*dir(LanguageModel), "backend", "checkpoint", "name", "noise", "tokenizer"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_shown_is_taken(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {reason}" for words in commands(page) if (reason := refusal(words[1:]))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_of_ours_in_python_exists(page: Path) -> None:
    wrong: list[str] = []
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind != "python":
            continue
        typed = re.findall(r"^>>> (.*)$", block, re.MULTILINE)
        for node in ast.walk(ast.parse("\n".join(typed) or block.replace("…", "..."))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "gpt2":
                wrong += [
                    f"{node.module}.{name.name}" for name in node.names if not is_in(node.module or "", name.name)
                ]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                known = {"model": OF_A_MODEL, "gpt2": set(gpt2.__all__)}.get(node.value.id, {node.attr})
                if node.attr not in known and not is_in("gpt2", node.attr):
                    wrong.append(f"{node.value.id}.{node.attr}")
    assert not wrong, wrong


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_link_leads_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{name}#{anchor}"


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


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_bench_runs_only_what_needs_nothing_given() -> None:
    shown = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    scripts = re.findall(r"benchmarks/\w+\.py", shown)
    assert len(scripts) > 10
    for script in scripts:
        text = (ROOT / script).read_text(encoding="utf-8")
        given = re.findall(r'add_argument\(\s*"\w((?:(?!nargs="\*").)*?)\)$', text, re.MULTILINE)
        assert "def main()" in text and not given and "required=True" not in text, script


def test_what_is_nowhere_is_found() -> None:
    assert is_in("gpt2", "load") and is_in("gpt2.model", "reference") and is_in("gpt2.optim", "cosine")
    assert not is_in("gpt2.optim", "cosine_of") and not is_in("gpt2.nothing", "load")


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


def anchors(page: Path) -> set[str]:
    """What its headings are called in a link."""
    headings = re.findall(r"^#+ (.*)", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def is_in(module: str, name: str) -> bool:
    """Whether a module names this, or has a module of this name; without importing it, for some import PyTorch."""
    folder = SOURCE.joinpath(*module.split(".")[1:])
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if any((folder / place).exists() for place in (f"{name}.py", f"{name}/__init__.py")):
        return True
    return file.exists() and re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None


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
