"""`gpt2 evaluate`: the table, JSON, and every way to be told that it cannot be."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from gpt2.cli import evaluate_shown


@pytest.fixture
def evaluate(gpt2, tiny_folder: Path):
    def run(*arguments: str):
        return gpt2("evaluate", *arguments, "--model", str(tiny_folder), "--backend", "reference", "--no-cache")

    return run


def test_what_there_is(evaluate) -> None:
    listed = evaluate("--list").out
    assert "lambada: LAMBADA" in listed
    assert "--set wikitext2.detokenize=yes|no|harness" in listed
    assert "hellaswag: HellaSwag" in listed
    assert evaluate("ptb", "--list").out in listed


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_where_the_result_cannot_be_written_nothing_is_computed(evaluate, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    ran = evaluate("lambada", "--examples", option, str(tmp_path / "file" / "result"))
    assert ran.code == 1
    assert str(tmp_path / "file") in ran.err
    assert ran.out == ""


def test_a_report_that_could_not_be_drawn_is_refused_before_the_work(
    evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = evaluate("lambada", "--examples", "--report", str(tmp_path / "page.html"))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert "matplotlib is not installed" in ran.err and "gpt2kit[report]" in ran.err


@pytest.mark.skipif("GPT2_DATA" not in os.environ, reason="GPT2_DATA is not set")
def test_the_table_and_json(evaluate, tmp_path: Path) -> None:
    data = os.environ["GPT2_DATA"]
    file = tmp_path / "figures.json"
    ran = evaluate("wsc273", "ptb", "--data", data, "--limit", "2", "--set", "ptb.newlines=ignored", "--out", str(file))
    assert ran.code == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["benchmark", "and", "figure", "here", "±", "95", "%", "124M", "355M", "774M", "1.5B"]
    assert any(line[-4:] == ["65.85", "47.33", "40.31", "35.76"] for line in lines)
    assert "the first 2 examples only" in ran.err
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["benchmarks"]["ptb"]["choices"] == {
        "detokenize": "yes",
        "last_window": "short",
        "newlines": "ignored",
    }
    assert report["settings"] == {"stride": 32, "limit": 2, "limits": {}, "data": "files"}
    printed = json.loads(evaluate("wsc273", "--data", data, "--limit", "2", "--json").out)
    assert printed["benchmarks"]["wsc273"]["figures"] == report["benchmarks"]["wsc273"]["figures"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_what_is_not_here_is_a_line_and_the_rest_is_run(evaluate, results: Path) -> None:
    folder = results / "data"
    for name in ("wsc273", "cnn_dailymail"):
        (folder / name).mkdir(parents=True)
    article = json.dumps({"article": "A cat sat.", "highlights": "It sat."})
    (folder / "cnn_dailymail" / "test.jsonl").write_text(f"{article}\n{article}\n", encoding="utf-8")
    ran = evaluate("--suite", "paper", "--data", str(folder), "--limit", "cnndm=1")
    assert ran.code == 0, ran.err
    assert sum("not here" in line for line in ran.out.splitlines()) == 14
    assert "\nCNN/Daily Mail (the first 1)\n  rouge 1 " in ran.out
    assert "cbt-cn: cbt/CBTest.tgz is not here. It is the Children's Book Test" in ran.err
    (folder / "wsc273" / "llmfoundry_winograd_wsc.jsonl").write_text("{}", encoding="utf-8")
    ran = evaluate("--suite", "paper", "--data", str(folder))
    assert (ran.code, ran.out) == (1, "")
    assert "winograd_wsc.jsonl is not the file that is meant: its SHA-256 is 44136fa3" in ran.err


def test_the_made_up_examples_the_page_and_a_comparison(evaluate, results: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    one, other, page = (str(results / name) for name in ("one.json", "other.json", "page.html"))
    tasks = ("lambada", "cbt-cn", "ptb", "coqa", "hellaswag", "wsc273")
    ran = evaluate(*tasks, "--examples", "--out", one, "--report", page)
    assert ran.code == 0, ran.err
    assert "CBT, common nouns" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    html = Path(page).read_text(encoding="utf-8")
    for text in (
        "Over model size",
        "35.13",
        "cybertronai/bflm",
        "On made-up examples: not to be compared.",
        "<td>accuracy last word filtered, %</td>",
        ">accuracy last word filtered, %</text>",
        "<td>perplexity</td>",
        '<td class="n">26.00</td>',
        "LAMBADA, wrong; expected:",
        "not in the paper",
    ):
        assert text.lower() in html.lower(), text
    result = json.loads(Path(one).read_text(encoding="utf-8"))
    schema = result["benchmarks"]["wsc273"]["shown"][0]
    assert f"<b>{schema['given']} {schema['answered']}</b>{schema['then']}</blockquote>" in html.replace("&#x27;", "'")
    assert result["settings"]["data"] == "made-up examples"
    assert len(result["benchmarks"]["lambada"]["scores"]) == 4
    evaluate(*tasks, "--examples", "--out", other, "--stride", "16", "--set", "hellaswag.text=harness")
    compared = evaluate("--compare", one, other)
    assert compared.code == 0, compared.err
    assert "settings: stride is 32 in the first and 16 in the second" in compared.err
    assert "hellaswag: choices differ" in compared.err
    [line] = re.findall(r"^CBT, common nouns\n  accuracy +(.*)$", compared.out, re.MULTILINE)
    assert line.split()[-2:] == ["+0.00", "0.00"]
    as_json = json.loads(evaluate("--compare", one, other, "--json").out)
    assert as_json["figures"][0]["benchmark"] == "LAMBADA"


def test_what_is_no_result_is_not_compared(evaluate, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"benchmarks": {}}', encoding="utf-8")
    ran = evaluate("--compare", str(file), str(file))
    assert (ran.code, ran.out) == (1, "")
    assert "not what `gpt2 evaluate --out` writes" in ran.err


@pytest.mark.parametrize(("signals", "code"), [((), 130), ((signal.SIGTERM,), 75)])
def test_what_is_interrupted_says_that_it_goes_on(
    gpt2, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signals, code: int
) -> None:
    def stop(*_: object, **__: object) -> None:
        for number in signals:
            signal.raise_signal(number)
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("gpt2.evaluate.evaluate", stop)
    ran = gpt2("evaluate", "lambada", "--examples", "--model", str(tiny_folder), "--backend", "reference")
    assert ran.code == code
    assert "The answers so far are kept; the same command resumes from there." in ran.err


def test_a_cache_that_cannot_be_written_is_named(
    gpt2, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").write_text("a file in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = ("evaluate", "lambada", "--examples", "--model", str(tiny_folder), "--backend", "reference")
    ran = gpt2(*run)
    assert ran.code == 1
    assert f"error: The answers cannot be kept in {tmp_path / 'gpt2' / 'evaluate'}: " in ran.err
    assert "or keep none (--no-cache)." in ran.err and "are kept" not in ran.err
    assert gpt2(*run, "--no-cache").code == 0


def test_data_to_fetch(gpt2, tmp_path: Path) -> None:
    ran = gpt2("download-data", "ptb", "--data", str(tmp_path))
    assert ran.code == 0, ran.err
    assert "by hand" in ran.out and "the LDC's" in ran.out
    assert "Did you mean lambada?" in gpt2("download-data", "lambda", "--data", str(tmp_path)).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lambada", "--data", "."), "lambada_test.jsonl is missing"),
        (("--suite", "paper", "--data", "."), "of the files of 15 benchmarks none is in ."),
        (("lambada", "--examples", "--set", "lambada.text=original"), "has no made-up examples"),
    ],
)
def test_data_that_is_not_there_is_said_before_a_model_is_opened(
    gpt2, arguments: tuple[str, ...], message: str
) -> None:
    ran = gpt2("evaluate", *arguments, "--model", "no such model")
    assert (ran.code, ran.out) == (1, "")
    assert message in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("lambda",), 2, "Did you mean lambada?"),
        (("lambada",), 2, "Give --data DIR"),
        (("lambada", "--data", "nowhere"), 2, "'nowhere' does not exist"),
        (("lambada", "--data", "."), 1, "lambada_test.jsonl is missing. It is OpenAI's edition"),
        (("--suite", "paper", "--data", "."), 1, "of the files of 15 benchmarks none is in ."),
        (("lambada", "--suite", "paper"), 2, "exclude each other"),
        (("lambada", "--limit", "0"), 2, "--limit must look like 200 or lambada=200, 1 or more: got '0'"),
        (("lambada", "--limit", "=4"), 2, "--limit must look like 200"),
        (("lambada", "--limit", "ptb=4"), 2, "'ptb' is not among what is run"),
        (("lambada", "--examples", "--set", "lambada.text=original"), 1, "has no made-up examples"),
        (("--compare", __file__, __file__), 1, "is not readable JSON"),
        (("lambada", "--set", "text=openai"), 2, "must look like"),
        (("my.jsonl",), 2, "A file of your own is scored by `gpt2 score --file FILE --totals`, and texts one by one"),
        (("texts/mine",), 2, "there is no benchmark 'texts/mine'. A benchmark has a name"),
        (("lambada", "--examples", "--set", "lambada.text=odd"), 2, "lambada.text cannot be 'odd'. It can be: openai"),
        (("lambada", "--examples", "--set", "lambada.odd=1"), 2, "lambada has no choice 'odd'. Its choices: text"),
        (("lambada", "--set", "ptb.newlines=ignored"), 2, "'ptb' is not among what is run"),
    ],
)
def test_what_cannot_be_run(
    evaluate, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.delenv("GPT2_DATA", raising=False)
    ran = evaluate(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err


def test_what_a_weak_model_is_measured_at_is_told_in_powers_of_ten(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"perplexity": 7.6306981024e28, "per_token": 999_999.0}
    found = {"title": "PTB", "figures": figures, "standard_errors": {"perplexity": 1e27}, "paper": {}}
    result = {"benchmarks": {"ptb": found}, "settings": {"limit": None}}
    evaluate_shown.put(result, out=None, report=None, as_json=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["PTB"], ["perplexity", "7.63e+28", "1.96e+27"], ["per", "token", "999,999.00"]]
