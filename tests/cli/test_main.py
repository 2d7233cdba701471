"""The frame of the command line: help, wrong usage, errors, exit codes, and what is imported when."""

import errno
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest

from gpt2.cli import main as frame
from gpt2.errors import ModelNotFoundError

SOURCE = Path(frame.__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}
VERBS = [verb for verbs in frame.VERBS.values() for verb in verbs]


def gpt2(*arguments: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gpt2", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=300, check=False, **settings)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Make `gpt2 score` do what the test wants."""

    def install(action) -> None:
        command = click.Command("score", callback=action)
        monkeypatch.setattr(frame.Verbs, "get_command", lambda self, ctx, name: command)

    return install


def test_help_lists_every_verb_in_its_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for section, verbs in frame.VERBS.items():
        assert f"{section}:" in shown
        for name, does in verbs.items():
            assert f"  {name.ljust(max(map(len, VERBS)))}  {does}" in shown


def test_no_arguments_is_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run([]) == 0
    assert "Usage: gpt2" in capsys.readouterr().out


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_its_module_and_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = getattr(import_module(f"gpt2.cli.{name.replace('-', '_')}"), name.replace("-", "_"))
    assert command.name == name
    assert frame.run([name, "--help"]) == 0
    assert f"Usage: gpt2 {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", VERBS)
def test_every_option_says_what_it_does(name: str) -> None:
    commands = [getattr(import_module(f"gpt2.cli.{name.replace('-', '_')}"), name.replace("-", "_"))]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        assert "\\b" not in (command.help or ""), f"{command.name}: the mark of an example is not obeyed but shown"
        silent = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
        assert not silent, f"{command.name} has options without help"


def test_help_imports_no_verb_and_no_numpy() -> None:
    program = (
        "import sys; from gpt2.cli.main import run; code = run(['--help']);"
        "heavy = {'numpy', 'rich', 'tiktoken', 'torch'} & set(sys.modules);"
        "rooms = [m for m in sys.modules if m.startswith('gpt2.')];"
        "print(code, sorted(heavy), sorted(rooms), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=True)
    rooms = ["gpt2.cli", "gpt2.cli.main", "gpt2.cli.options", "gpt2.cli.output", "gpt2.errors"]
    assert done.stderr.decode().strip() == f"0 [] {rooms}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["genrate"], "there is no verb 'genrate'. Did you mean generate?"),
        (["chat"], "there is no verb 'chat'. Did you mean gpt2 generate --interactive?"),
        (["help"], "there is no verb 'help'. Did you mean gpt2 --help?"),
        (["version"], "Did you mean gpt2 --version?"),
        (["attention"], "In Python it is gpt2.load().attention(text), and the page of `gpt2 serve` shows it: docs/"),
        (["logit-lens", "Once"], "In Python it is gpt2.load().logit_lens(text), and the page"),
        (["inspect"], "In Python it is gpt2.load().attention(text), .logit_lens(text) and more, and the page"),
        (["embed"], "In Python it is gpt2.load().embed(text): docs/inspect.md.\n"),
        (["zzz"], "there is no verb 'zzz'. `gpt2 --help` lists the verbs."),
        (["--vresion"], "--version"),
        (["generate", "--temprature", "1"], "Did you mean --temperature?\n"),
        (["generate", "--max-token", "1"], "Did you mean --max-tokens?\n"),
        (["generate", "--num-samples", "3"], "Did you mean --n?\n"),
        (["score", "--num-samples", "3"], "no such option '--num-samples'.\n"),
        (["train", "tiny-cpu", "--resume"], "The same command, given again, goes on where it stopped.\n"),
        (["corpus", "build", "x", "--resume"], "The same command, given again, goes on where it stopped.\n"),
        (["score", "--resume"], "no such option '--resume'."),
        (["generate", "--prompt", "Once"], "The prompt stands by itself, in quotes."),
        (["generate", "Once", "upon", "a", "time"], 'Put quotes around what has blanks: "Once upon a time".'),
        (
            ["finetune", "one.txt", "two.txt", "--out", "x"],
            "(two.txt). Put several files into a folder and name that; put",
        ),
        (["train", "tiny-cpu", "--report", "out.html"], "unexpected extra argument (out.html)\n"),
        (["generate", "--seed", "1.5"], "'1.5' is not a whole number."),
        (["generate", "--top-p", "half"], "'half' is not a number."),
        (["generate", "--device", "tpu"], "there is no device 'tpu': it is auto, cpu, cuda or mps."),
        (["detect", "--rate", "nan"], "nan is not a finite number."),
        (["evaluate", "lambda"], "Did you mean lambada?"),
        (["generate", "--threads", "0"], "0 is not in the range"),
        (["score", "--weights", "fp8"], "'fp8' is not one of"),
    ],
)
def test_wrong_usage_is_2_and_offers_the_nearest(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.run(arguments) == frame.WRONG_USAGE
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.startswith("Usage: gpt2")
    assert not captured.out


def test_an_error_of_ours_is_one_line(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ModelNotFoundError("there is no model 'x'.")

    verb(fail)
    assert frame.run(["score"]) == frame.FAILED
    assert capsys.readouterr().err == "error: there is no model 'x'.\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/model"), "error: out/model: No space left on device.\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "error: Broken pipe.\n"),  # a socket's: standard output is whole
        (MemoryError(), "error: there is not enough memory. Choose a smaller model, or --weights int8.\n"),
        (KeyError("x"), "error: a fault in gpt2 itself: KeyError: 'x'. Run again with --debug"),
    ],
)
def test_other_errors_show_no_traceback(
    verb, error: Exception, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    verb(fail)
    assert frame.run(["score"]) == frame.FAILED
    captured = capsys.readouterr().err
    assert captured.startswith(expected)
    assert "Traceback" not in captured


def test_debug_shows_the_traceback(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ModelNotFoundError("no model")

    verb(fail)
    assert frame.run(["--debug", "score"]) == frame.FAILED
    captured = capsys.readouterr().err
    assert captured.startswith("Traceback")
    assert "ModelNotFoundError: no model" in captured


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_is_130_and_a_clean_line(
    verb, interruption: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise interruption

    verb(stop)
    assert frame.run(["score"]) == frame.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("module", ["click", "gpt2.cli.options"])
@pytest.mark.parametrize("started", ["script", "module"])
def test_an_interrupt_while_modules_are_imported_is_no_traceback(started: str, module: str) -> None:
    entry = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["gpt2"]
    start = {
        "script": "from {0} import {1}; {1}()".format(*entry.split(":")),
        "module": "import runpy; runpy.run_module('gpt2', run_name='__main__', alter_sys=True)",
    }[started]
    interrupted = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{interrupted}{start}", "--help"], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (frame.INTERRUPTED, b"", b"interrupted\n")


@pytest.mark.parametrize("code", [0, 75])
def test_a_verb_may_choose_its_exit_code(verb, code: int) -> None:
    verb(lambda: sys.exit(code))
    assert frame.run(["score"]) == code
    verb(lambda: click.get_current_context().exit(code))
    assert frame.run(["score"]) == code


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
def test_a_reader_that_leaves_is_no_complaint() -> None:
    command = [sys.executable, "-m", "gpt2", "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, env=ENVIRONMENT, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert done.stderr == b""
    assert done.returncode == frame.NO_READER == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "gpt2", "--help"], env=ENVIRONMENT, stdout=full, stderr=-1)
    assert done.stderr == b"error: No space left on device.\n"
    assert done.returncode == frame.FAILED


def test_a_disk_that_becomes_full_is_said_where_python_does_not_buffer(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits of a process are POSIX's")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))"
    with (tmp_path / "ids").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", f"{limit}; from gpt2.cli.main import main; main()", "tokenize", "--json"],
            env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
            input=b"a b c " * 5_000,
            stdout=file,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"error: ")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of its own")
@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_a_closed_stream_is_an_empty_one(closed: str) -> None:
    command = f'"{sys.executable}" -m gpt2 tokenize {closed} {"" if closed == "<&-" else "word"}'
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of its own")
@pytest.mark.parametrize("arguments", ["tokenize word", "--help", "tokenize --json word"])
def test_a_result_that_cannot_be_written_is_a_failure(arguments: str) -> None:
    command = f'"{sys.executable}" -m gpt2 {arguments} >&-'
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, stdin=subprocess.DEVNULL)
    expected = b"error: the result cannot be written: standard output is closed.\n"
    assert (done.returncode, done.stderr) == (frame.FAILED, expected)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT"])
@pytest.mark.parametrize("own", [None, "7"])
def test_threads_of_libraries_do_not_turn_in_place_unless_told_to(
    name: str, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame.gc, "freeze", lambda: None)
    monkeypatch.setattr(frame, "run", lambda arguments: 0)
    monkeypatch.setattr(frame.os, "environ", {} if own is None else {name: own})
    with pytest.raises(SystemExit):
        frame.main()
    assert frame.os.environ[name] == (own or {"GOMP_SPINCOUNT": "10000", "OPENBLAS_THREAD_TIMEOUT": "4"}[name])


def test_output_is_utf_8_on_any_locale() -> None:
    program = "from gpt2.cli import output; output.prepare_streams(); output.write('étoile 😀')"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == "étoile 😀".encode()
