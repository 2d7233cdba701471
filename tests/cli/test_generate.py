"""`gpt2 generate`: what goes where, from every source of prompts, and how it ends."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2 as package
from gpt2.cli import output
from gpt2.errors import GenerationError
from gpt2.language_model import LanguageModel

QUICK = ("--max-tokens", "8", "--seed", "3", "--backend", "reference")
SETTINGS = {"max_tokens": 8, "seed": 3, "temperature": 0.8, "top_k": 40}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return package.load(tiny_folder, backend="reference")


@pytest.fixture
def generate(gpt2, tiny_folder: Path):
    def run(*arguments: str, stdin: bytes = b"", encoding: str = "utf-8"):
        return gpt2("generate", "--model", str(tiny_folder), *QUICK, *arguments, stdin=stdin, encoding=encoding)

    return run


def test_the_continuation_alone_goes_to_standard_output(generate, model: LanguageModel) -> None:
    ran = generate("Once upon")
    assert ran.code == 0
    assert ran.out == model.generate("Once upon", **SETTINGS).text + "\n"
    assert "reference backend" in ran.err
    assert "8 tokens in " in ran.err


def test_drafts_change_nothing_but_what_is_said_of_them(generate) -> None:
    plain, drafted = (
        generate("a a a a a a a a", "--temperature", "0.01", "--draft", draft) for draft in ("none", "ngram")
    )
    assert plain.out == drafted.out
    assert "drafted tokens were right" in drafted.err
    assert "drafted" not in plain.err
    usage = json.loads(generate("a a a a a a a a", "--temperature", "0.01", "--draft", "ngram", "--json").out)["usage"]
    assert usage["prompt_tokens"] == usage["generated_tokens"] == 8
    assert usage["drafted_tokens"] >= usage["accepted_tokens"]
    unknown = generate("a", "--draft", "nothing")
    assert unknown.code == 1
    assert "nothing" in unknown.err


def test_quiet_leaves_only_the_text(generate) -> None:
    assert generate("Once upon", "--quiet").err == ""


@pytest.mark.parametrize("arguments", [("-",), ()])
def test_standard_input_is_a_prompt_without_its_last_newline(generate, arguments: tuple[str, ...]) -> None:
    expected = generate("Once\nupon").out
    assert generate(*arguments, stdin=b"Once\nupon\n").out == expected
    assert generate(*arguments, stdin=b"Once\r\nupon\r\n").out == generate("Once\r\nupon").out


@pytest.mark.parametrize("arguments", [("",), ("-",)])
def test_an_empty_prompt_starts_from_end_of_text_and_says_so(
    generate, model: LanguageModel, arguments: tuple[str, ...]
) -> None:
    ran = generate(*arguments)
    assert ran.out == model.generate("", **SETTINGS).text + "\n"
    assert "starting from the end-of-text token" in ran.err


def test_bytes_that_are_not_utf_8_are_named_and_the_way_on_offered(generate) -> None:
    ran = generate("-", stdin="étoile ".encode() + b"\xff more")
    assert (ran.code, ran.out) == (1, "")
    assert "byte 0xff at offset 8" in ran.err
    assert "--errors replace" in ran.err
    ran = generate("-", "--errors", "replace", stdin="étoile ".encode() + b"\xff more")
    assert ran.code == 0


def test_what_repeats_a_text_is_said(generate, gpt2, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = gpt2("generate", "--model", str(tiny_folder), "Once upon", "--max-tokens", "5", "--backend", "reference")
    [again] = [line for line in ran.err.splitlines() if line.startswith("to repeat: gpt2 ")]
    assert gpt2(*shlex.split(again.removeprefix("to repeat: gpt2 "))).out == ran.out
    assert "to repeat:" not in generate("Once").err  # a seed was given
    piped = gpt2("generate", "--model", str(tiny_folder), "--max-tokens", "5", stdin=b"Once")
    assert "to repeat, with the same input: gpt2 generate" in piped.err
    for found, called in (("/usr/bin/gpt2", "to repeat: gpt2 generate"), (None, "to repeat: .venv/bin/gpt2 generate")):
        monkeypatch.setattr("shutil.which", lambda name, found=found: found)
        arguments = ("generate", "--model", str(tiny_folder), "Once upon", "--max-tokens", "5")
        assert called in gpt2(*arguments, command=".venv/bin/gpt2").err
    greedy = ("--temperature", "0", "--max-tokens", "2", "--backend", "reference")
    assert "to repeat:" not in gpt2("generate", "--model", str(tiny_folder), "Once", *greedy).err


def test_json_holds_everything(generate, model: LanguageModel) -> None:
    ran = generate("Once", "--json", "--n", "2", "--logprobs", "1", "--prompt-logprobs", "0")
    found = json.loads(ran.out)
    expected = model.generate("Once", **SETTINGS, n=2, logprobs=1, prompt_logprobs=0)
    assert found["prompt"] == "Once"
    assert found["seed"] == 3
    assert [sample["text"] for sample in found["samples"]] == [sample.text for sample in expected.samples]
    first = found["samples"][0]
    assert first["finish_reason"] == "length"
    assert [each["token"] for each in first["logprobs"]] == first["tokens"]
    assert all(len(each["top"]) == 1 for each in first["logprobs"])
    assert [each["token"] for each in found["prompt_logprobs"]] == model.tokenizer.encode("Once")


def test_several_continuations_are_told_apart(generate, model: LanguageModel) -> None:
    expected = model.generate("Once", **SETTINGS, n=3).samples
    assert generate("Once", "--n", "3").out == "\n---\n".join(sample.text for sample in expected) + "\n"


def test_log_probabilities_as_a_table(generate) -> None:
    lines = generate("Once", "--logprobs", "0").out.splitlines()
    assert any(line.split() == ["piece", "logprob"] for line in lines)
    lines = generate("Once", "--logprobs", "2").out.splitlines()
    [heading] = [n for n, line in enumerate(lines) if line.startswith("piece")]
    assert lines[heading].split("  ")[0] == "piece"
    assert lines[heading].split() == ["piece", "logprob", "likeliest", "1", "logprob", "likeliest", "2", "logprob"]
    found = json.loads(generate("Once", "--logprobs", "2", "--json").out)["samples"][0]["logprobs"]
    for line, each in zip(lines[heading + 1 :], found, strict=True):
        for one in (each, *each["top"]):
            assert f"{one['logprob']:.3f}" in line


def test_a_file_of_prompts_gives_results_in_order(generate, model: LanguageModel, tmp_path: Path) -> None:
    prompts = [f"number {i}" for i in range(5)]
    expected = [model.generate(prompt, **SETTINGS, top_p=0.9).text for prompt in prompts]
    plain, lines = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    plain.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    lines.write_text("".join(json.dumps({"prompt": prompt}) + "\n\n" for prompt in prompts), encoding="utf-8")
    assert generate("--file", str(plain), "--top-p", "0.9").out == "\n---\n".join(expected) + "\n"
    found = [json.loads(line) for line in generate("--file", str(lines), "--top-p", "0.9", "--json").out.splitlines()]
    assert [each["prompt"] for each in found] == prompts
    assert [each["samples"][0]["text"] for each in found] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"prompt": "a"}\n{"text": "b"}\n', "line 2 has no prompt"),
        (b'{"prompt": "a"}\n\n{"prompt": "b\\ud83d"}\n', "line 3, holds half a surrogate pair at character 1"),
        (b"not json\n", "line 1 is not JSON"),
        (b'{"prompt": "a"}\n"\xff"\n', "byte 0xff at offset 17"),
        (b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_file_that_is_wrong_is_named_by_line(generate, tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    ran = generate("--file", str(file))
    assert ran.code == 1
    assert expected in ran.err


def test_json_lines_are_known_by_a_name_in_capitals_and_halves_of_a_pair_are_replaced(generate, tmp_path: Path) -> None:
    file = tmp_path / "P.JSONL"
    file.write_text('{"prompt": "Once"}\n{"prompt": "b\\ud83d"}\n', encoding="utf-8")
    lines = generate("--file", str(file), "--json", "--errors", "replace").out.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["Once", "b\ufffd"]


def test_a_prompt_of_a_file_that_cannot_be_continued_is_placed_and_earlier_ones_are_kept(
    generate, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\nc\n" + "word " * 100, encoding="utf-8")
    ran = generate("--file", str(file))
    assert ran.code == 1
    assert "prompt 4: The prompt cannot be continued" in ran.err
    assert ran.out.count("---") == 2


def test_what_failed_is_not_said_to_have_been_generated(generate) -> None:
    ran = generate("--logit-bias", "99999=1", "Once")
    assert ran.code == 1
    assert "tokens/s" not in ran.err and "to repeat:" not in ran.err


def test_the_command_that_repeats_a_text_keeps_its_options_before_the_dashes(gpt2, tiny_folder: Path) -> None:
    ran = gpt2("generate", "--model", str(tiny_folder), "--max-tokens", "2", "--backend", "reference", "--", "-x")
    [again] = [line for line in ran.err.splitlines() if line.startswith("to repeat: gpt2 ")]
    assert gpt2(*shlex.split(again.removeprefix("to repeat: gpt2 "))).out == ran.out


def test_an_argument_keeps_its_name_in_an_error(generate) -> None:
    assert "error: PROMPT, --file and --interactive exclude each other" in generate("--interactive", "Once").err


@pytest.mark.parametrize(
    "arguments",
    [
        ("Once", "--interactive"),
        ("Once", "--file", __file__),
        ("--file", "nowhere"),
        ("--min-tokens", "9", "Once"),
        ("Once", "--prompt-logprobs", "0"),
        ("Once", "--logprobs", "50258"),
        ("Once", "--json", "--prompt-logprobs", "99999999"),
    ],
)
def test_wrong_usage(generate, arguments: tuple[str, ...]) -> None:
    ran = generate(*arguments)
    assert ran.code == 2
    assert "error: " in ran.err


def test_a_prompt_beyond_the_context_names_limit_length_and_ways_on(generate) -> None:
    ran = generate("word " * 100)
    assert ran.code == 1
    assert "100 tokens" in ran.err or "101 tokens" in ran.err
    assert "64" in ran.err
    assert generate("word " * 100, "--truncate-prompt").code == 0


def test_a_generation_longer_than_the_context_goes_on(generate) -> None:
    assert "100 tokens in" in generate("Once", "--max-tokens", "100", "--ignore-eot").err


def test_an_unknown_model_lists_what_is_here(gpt2) -> None:
    ran = gpt2("generate", "Once", "--model", "gpt5")
    assert ran.code == 1
    assert "gpt2-xl" in ran.err


def test_the_loop_continues_lines_and_obeys_commands(generate, model: LanguageModel) -> None:
    too_large = f":seed {2**64}\n:seed {'9' * 5000}"
    turns = (
        f":seed\nOnce\n\n:seed\n:seed 3\nOnce\n:help\n:seed ²\n{too_large}\n:seed {2**64 - 1}\nOnce\n\n:quit\nnever\n"
    )
    ran = generate("--interactive", stdin=turns.encode())
    first = model.generate("Once", **SETTINGS).text
    second = model.generate("Once" + first, **(SETTINGS | {"seed": 4})).text
    last = model.generate("Once", **(SETTINGS | {"seed": 2**64 - 1})).text
    after = model.generate("Once" + last, **(SETTINGS | {"seed": 0})).text
    assert ran.out == f"{first}\n{second}\n{first}\n{last}\n{after}\n"
    assert ran.code == 0
    assert ran.err.count(":quit") == 6  # at the beginning, when asked, before any text, and where a seed is none
    assert ran.err.count("used seed 4") == 1


def test_the_loop_goes_on_from_what_was_written_when_it_was_stopped(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def stopped(self, prompt, sampling=None, **settings):
        asked.append((prompt, sampling.seed))
        yield package.generation.Event(request=0, text=" upon")
        if len(asked) < 3:
            raise KeyboardInterrupt  # as Ctrl-C does
        yield package.generation.Event(request=0, text=" a time")

    monkeypatch.setattr(LanguageModel, "stream", stopped)
    typed = iter(["Once", "", "", "Twice"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))  # its StopIteration ends the loop, as Ctrl-D does
    monkeypatch.setattr(output, "is_terminal", lambda stream: stream is sys.stdin)
    ran = generate("--interactive", "--seed", "5")
    assert asked == [("Once", 5), ("Once upon", 6), ("Once upon upon", 7), ("Twice", 8)]
    assert ran.out == " upon\n upon\n upon a time\n upon a time\n\n"
    monkeypatch.setattr(output, "is_terminal", lambda stream: False)
    asked.clear()
    ran = generate("--interactive", stdin=b"Once\nTwice\n")  # nobody is there to go on
    assert (ran.code, len(asked)) == (130, 1)


def test_the_loop_reads_utf_8_whatever_the_locale(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = generate("--interactive", "--json", stdin="é\n".encode(), encoding="cp1252")
    assert json.loads(ran.out)["prompt"] == "é"
    ran = generate("--interactive", stdin=b"Once\n\xff\n")
    assert ran.code == 1
    assert "standard input cannot be read as UTF-8: byte 0xff at offset 5" in ran.err
    assert "iconv -f cp1252 -t utf-8" in ran.err


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"%PDF-1.4\n", b"\xd0\xcf\x11\xe0"])
def test_a_file_of_a_word_processor_is_no_text(generate, tmp_path: Path, start: bytes) -> None:
    (tmp_path / "novel.docx").write_bytes(start + b"\xff\n")
    ran = generate("--file", str(tmp_path / "novel.docx"))
    assert ran.code == 1
    assert "novel.docx is not text: it is " in ran.err
    assert "Save the document as plain text" in ran.err
    assert "--errors" not in ran.err


def test_a_stop_with_a_backslash_is_said_to_be_no_line_end(generate) -> None:
    assert r"--stop '\n' looks for a backslash; a line end is $'\n'" in generate("Once", "--stop", r"\n").err
    assert "backslash" not in generate("Once", "--stop", "\n").err


@pytest.mark.parametrize("option", ["--tokens", "--num-tokens", "--length", "--max_new_tokens"])
def test_the_length_by_other_names_is_the_most_tokens(generate, option: str) -> None:
    assert "Did you mean --max-tokens?" in generate("Once", option, "3").err


def test_other_options_by_other_names_and_a_comma_for_the_point(generate) -> None:
    assert "Did you mean --n?" in generate("Once", "--num_samples", "3").err
    assert "Did you mean --n?" in generate("Once", "-n", "3").err
    assert "The prompt stands by itself, in quotes." in generate("--prefix", "Once").err
    assert "'0,8' is not a number. Write it with a point: 0.8." in generate("Once", "--temperature", "0,8").err


def test_the_loop_reads_a_pipe_as_other_input_is_read(generate) -> None:
    ran = generate("--interactive", "--json", stdin="\ufeffOnce\r\n\r\nTwice\r\n\n:quit\r\nnever\r\n".encode())
    first, again, second, last = map(json.loads, ran.out.splitlines())
    assert (first["prompt"], second["prompt"]) == ("Once", "Twice")
    assert again["prompt"] == "Once" + first["samples"][0]["text"]
    assert last["prompt"] == "Twice" + second["samples"][0]["text"]
    ran = generate("--interactive", "--json", "--errors", "replace", stdin=b"caf\xe9 \n")
    assert json.loads(ran.out)["prompt"] == "caf\ufffd "


def test_the_loop_is_interrupted_while_it_waits_for_a_pipe(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting(file, source, *, errors):
        yield "Once"
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt2.cli.reading.lines_of", waiting)
    assert generate("--interactive", stdin=b"").code == 130


def test_escape_sequences_of_a_model_are_shown_on_a_terminal(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(self, prompt, sampling=None, **settings):
        yield package.generation.Event(request=0, text="\x1b]0;gotcha\x07")

    monkeypatch.setattr(LanguageModel, "stream", hostile)
    assert generate("Once").out == "\x1b]0;gotcha\x07\n"
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    assert generate("Once").out == "␛]0;gotcha␇\n"


def test_the_loop_writes_several_samples_one_after_another(generate, model: LanguageModel) -> None:
    expected = model.generate("Once", **SETTINGS, n=2).samples
    ran = generate("--interactive", "--n", "2", stdin=b"Once\n")
    assert ran.out == "\n---\n".join(sample.text for sample in expected) + "\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
def test_ctrl_c_keeps_what_was_written_and_ends_with_130(tiny_folder: Path) -> None:
    command = [sys.executable, "-m", "gpt2", "generate", "Once", "--model", str(tiny_folder), "--ignore-eot"]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    running = subprocess.Popen(
        [*command, "--max-tokens", "1000000"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    first = running.stdout.read(20)
    running.send_signal(signal.SIGINT)
    rest, messages = running.communicate(timeout=300)
    assert running.returncode == 130
    assert len(first) == 20
    assert rest.endswith(b"\n")
    lines = messages.decode().splitlines()
    assert lines[-1] == "interrupted"
    assert any(" tokens in " in line for line in lines)
    assert "Traceback" not in messages.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
@pytest.mark.parametrize("source", ["argument", "file"])
def test_a_reader_that_leaves_ends_the_generation_quietly(tiny_folder: Path, tmp_path: Path, source: str) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "Once upon a time there was a king who, once upon a time, was a king who was\n" * 20_000, encoding="utf-8"
    )
    asked = (
        ["Once", "--max-tokens", "1000000"] if source == "argument" else ["--file", str(prompts), "--max-tokens", "4"]
    )
    command = [sys.executable, "-m", "gpt2", "generate", *asked, "--model", str(tiny_folder), "--ignore-eot"]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(20)
        running.stdout.close()
        messages = running.stderr.read().decode()
    assert running.returncode == 141
    assert "error" not in messages
    assert "Traceback" not in messages


def test_one_token_is_no_plural(generate) -> None:
    assert "\n1 token in " in generate("Once", "--max-tokens", "1").err


def test_a_file_without_prompts_is_said(generate, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    ran = generate("--file", str(tmp_path / "empty.txt"))
    assert (ran.code, ran.out) == (0, "")
    assert "nothing was written: the file holds no prompt" in ran.err


def test_typed_bytes_that_are_not_utf_8(generate) -> None:
    assert generate("--interactive", stdin=b"caf\xe9\n").code == 1
    assert generate("--interactive", "--errors", "replace", stdin=b"caf\xe9\n").code == 0


def test_a_prompt_of_another_type_is_named(model: LanguageModel) -> None:
    with pytest.raises(GenerationError, match="a text or a list of texts: got 5"):
        model.generate(5)
    with pytest.raises(GenerationError, match="A text or token ids can be continued: got None"):
        model.generate([None])
