"""What no file, host or name can be is answered in words: a wrong setting as wrong usage, all else as a failure."""

import json
import socket
from pathlib import Path

import pytest
from tests.cli.conftest import Run

HALF = "\udcff"  # what Python makes of a byte of the command line that is not UTF-8


def test_a_licence_that_is_not_utf8(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("corpus", "build", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--licence", HALF)
    assert (ran.code, ran.out) == (2, "")
    assert "text.txt cannot be said to be" in ran.err and "is not UTF-8" in ran.err


@pytest.mark.parametrize("option", ["--field", "--split-on"])
def test_a_field_or_separator_that_is_not_utf8(gpt2: Run, tmp_path: Path, option: str) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("prepare", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), option, HALF)
    assert (ran.code, ran.out) == (2, "")
    assert "no text can be read by" in ran.err and "is not UTF-8" in ran.err


@pytest.mark.parametrize("verb", [("prepare",), ("overlap", "b.txt"), ("corpus", "build")])
def test_more_processes_than_a_machine_can_have(gpt2: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    out = () if verb[0] == "overlap" else ("--out", str(tmp_path / "out"))
    ran = gpt2(*verb, "a.txt", *out, "--workers", "9" * 20)
    assert (ran.code, ran.out) == (2, "")
    assert "1<=x<=256" in ran.err


def test_ngrams_longer_than_any_text(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("overlap", str(tmp_path / "text.txt"), str(tmp_path / "text.txt"), "--n", "9" * 23, "--workers", "1")
    assert (ran.code, ran.out) == (1, "")
    assert "error: " in ran.err and "a fault in gpt2" not in ran.err


def test_a_host_that_no_name_can_be(gpt2: Run) -> None:
    pytest.importorskip("starlette")
    ran = gpt2("serve", "--host", HALF, "--port", "0")
    assert (ran.code, ran.out) == (1, "")
    assert "cannot listen on" in ran.err


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(gpt2: Run) -> None:
    pytest.importorskip("starlette")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = gpt2("serve", "--model", "no such model", "--port", str(taken.getsockname()[1]))
    assert (ran.code, ran.out) == (1, "")
    assert "cannot listen on 127.0.0.1" in ran.err


def test_keys_that_are_no_text(gpt2: Run, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    (tmp_path / "keys").write_bytes(b"sixteen letters or more\n\xff")
    ran = gpt2("serve", "--api-keys", str(tmp_path / "keys"), "--port", "0")
    assert (ran.code, ran.out) == (2, "")
    assert "keys: byte 24 is not UTF-8" in ran.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (f"--fetch-cache={HALF}", "cache of fetching cannot be '\\udcff': that is not UTF-8"),
        ("--decontaminate=", "an empty text says nothing"),
        (f"--decontaminate={HALF}.txt", "it would hold '\\udcff.txt', which is not UTF-8"),
        ("--rules=binary", "the rule set binary is not readable TOML"),
    ],
)
def test_names_and_rules_of_a_corpus(
    gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\xff")
    for name in ("text.txt", f"{HALF}.txt"):
        Path(name).write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("corpus", "build", "text.txt", "--out", "out", "--workers", "1", option)
    assert (ran.code, ran.out) == (1 if option.endswith("txt") else 2, "")
    assert said in ran.err
    assert not [left for left in tmp_path.glob("out/*") if left.name != ".lock"]


def test_a_file_to_prepare_whose_name_is_not_utf8(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / f"{HALF}.txt").write_text("Once upon a time.", encoding="utf-8")
    ran = gpt2("prepare", str(tmp_path / f"{HALF}.txt"), "--out", str(tmp_path / "out"), "--workers", "1")
    assert (ran.code, ran.out) == (1, "")
    assert "\\udcff.txt', which is not UTF-8. Choose another name, or rename" in ran.err


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"account": 3}', '{"account": {"samples": 1}, "contents": {}}']
)
def test_statistics_of_something_else(gpt2: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "stats.json").write_text(content, encoding="utf-8")
    for verb in (("stats",), ("show", "a reason")):
        ran = gpt2("corpus", *verb, str(tmp_path))
        assert (ran.code, ran.out) == (1, "")
        assert f"{tmp_path} cannot be shown: its statistics are not what" in ran.err


def test_a_vocabulary_larger_than_a_model_can_have(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time.", encoding="utf-8")
    for size in (str((1 << 24) + 1), "9" * 30):
        ran = gpt2(
            "tokenizer", "train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--vocab-size", size
        )
        assert (ran.code, ran.out) == (2, "")
        assert "257<=x<=16777216" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--certificate", "empty"), "cannot speak TLS by empty: no certificate with its key is in there. Give"),
        (("--host", ""), "cannot listen on a host without a name"),
        (("--certificate", "binary", "--private-key", "empty"), "cannot speak TLS by binary and empty: "),
        (("--certificate", "."), "cannot speak TLS by .: Is a directory. Give the certificate and its key"),
        (("--private-key", "empty"), "the key empty is of no certificate"),
        (("--allow-host", ""), "cannot answer to the name ''"),
        (("--allow-host", HALF), "cannot answer to the name '\\udcff'"),
        (("--allow-host", "example.org:80"), "say it without a port"),
        (("--allow-host", "http://example.org"), "cannot answer to the name"),
        (("--cors-origin", ""), "pages of '' cannot be let in"),
        (("--cors-origin", "*"), "as a browser sends it, https://example.org"),
        (("--cors-origin", "https://example.org/"), "with nothing after it"),
        (("--cors-origin", f"https://{HALF}"), "cannot be let in"),
        (("--model", f"{HALF}=gpt2-mini"), "can ask for a model called '\\udcff'"),
        (("--also", "a\nb=gpt2-mini"), "can ask for a model called 'a\\nb'"),
    ],
)
def test_what_no_server_can_do(
    gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    pytest.importorskip("starlette")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\x80\xff")
    ran = gpt2("serve", "--port", "0", *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "listening" not in ran.err


@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_limits_of_a_server_that_are_no_numbers(gpt2: Run, value: str) -> None:
    pytest.importorskip("starlette")
    ran = gpt2("serve", "--port", "0", "--max-queue-seconds", value)
    assert (ran.code, ran.out) == (2, "")
    assert "is not a finite number" in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", "9" * 30), "schedule.tokens must lie between 1 and"),
        (("--set", "optim.clip_norm=inf"), "optim.clip_norm must lie between 0.0 and"),
        (("--out", HALF), "run.folder cannot be '\\udcff': that is not UTF-8"),
        (("--data", HALF), "data.folder cannot be '\\udcff'"),
        (("--set", "run.seed=" + "9" * 5000), "run.seed cannot be set to '999"),
        (("--set", "run.seed=" + "[" * 100_000), "run.seed cannot be set to '[[["),
        (("--set", "run.seed=0x" + "f" * 5000), "run.seed is out of every range: it has 20,000 bits"),
        (("--set", "optim.lr=1" + "0" * 400), "optim.lr is out of every range"),
        (("--set", f"start.model={HALF}"), "start.model cannot be '\\udcff'"),
        (("--set", f"data.mixture={{'{HALF}'=1.0}}"), "data.mixture cannot be '\\udcff'"),
    ],
)
def test_settings_that_no_run_can_keep(gpt2: Run, options: tuple[str, ...], said: str) -> None:
    pytest.importorskip("torch")
    ran = gpt2("train", "tiny-cpu", "--dry-run", *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_a_folder_for_a_new_model_that_is_not_utf8(gpt2: Run, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 200, encoding="utf-8")
    ran = gpt2("finetune", str(tmp_path / "text.txt"), "--out", str(tmp_path / HALF), "--model", str(tiny_folder))
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be" in ran.err and "not UTF-8. Choose another" in ran.err


@pytest.mark.parametrize("content", [b"x = " + b"[" * 100_000, b"x = " + b"9" * 5000, b"x = '\xff'"])
@pytest.mark.parametrize(
    "verb",
    [
        ("train", "odd.toml", "--dry-run"),
        ("corpus", "build", "odd.toml", "--out", "out", "--rules", "odd.toml"),
        ("corpus", "build", "odd.toml", "--out", "out", "--config", "odd.toml"),
        ("translate", "a", "--prompts", "odd.toml"),
    ],
)
def test_toml_that_cannot_be_read(
    gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], content: bytes
) -> None:
    if verb[0] == "train":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.toml").write_bytes(content)
    ran = gpt2(*verb, *(("--kind", "text") if verb[0] == "corpus" else ()))
    assert (ran.code, ran.out) == (1 if verb[0] == "translate" else 2, "")
    assert "odd.toml is not" in ran.err or "odd.toml cannot be read as UTF-8" in ran.err


@pytest.mark.parametrize(
    ("place", "odd"),
    [("title", None), ("title", 1), ("figures", {"accuracy": "x"}), ("figures", {"accuracy": []}), ("figures", 3)],
)
def test_results_to_compare_that_are_none(gpt2: Run, tmp_path: Path, place: str, odd: object) -> None:
    found = {"title": "LAMBADA", "headline": "accuracy", "figures": {"accuracy": 50.0}}
    for name, one in (("a.json", found), ("b.json", {**found, place: odd})):
        result = {"benchmarks": {"lambada": one}, "model": {}, "settings": {}, "versions": {}}
        (tmp_path / name).write_text(json.dumps(result), encoding="utf-8")
    ran = gpt2("evaluate", "--compare", str(tmp_path / "b.json"), str(tmp_path / "a.json"))
    assert (ran.code, ran.out) == (1, "")
    assert "The results cannot be compared: one is not what" in ran.err


def test_statistics_with_a_number_beyond_all_others(gpt2: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat on the mat and saw an old dog. " * 20, encoding="utf-8")
    out = tmp_path / "out"
    assert gpt2("corpus", "build", str(tmp_path / "text.txt"), "--out", str(out), "--workers", "1").code == 0
    stats = json.loads((out / "stats.json").read_text(encoding="utf-8"))
    stats["contents"]["counted_tokens"] = 1e308
    (out / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    ran = gpt2("corpus", "stats", str(out))
    assert (ran.code, ran.out) == (1, "")
    assert "cannot be shown: its statistics are not what" in ran.err


@pytest.mark.parametrize("below", ["x", "y/x"])
@pytest.mark.parametrize(
    "verb",
    [
        ("corpus", "build", "TEXT", "--out"),
        ("prepare", "TEXT", "--out"),
        ("train", "tiny-cpu", "--data", "TEXT", "--out"),
        ("finetune", "TEXT", "--model", "MODEL", "--out"),
        ("tokenizer", "train", "TEXT", "--vocab-size", "300", "--out"),
        ("convert", "MODEL", "--to=hf"),
        ("convert", "MODEL", "--to=gguf"),
        ("evaluate", "lambada", "--examples", "--model", "MODEL", "--out"),
        ("evaluate", "lambada", "--examples", "--model", "MODEL", "--report"),
        ("card", "MODEL", "--out"),
        ("detect", "--new-key"),
        ("detect", "--calibrate", "TEXT", "--model", "MODEL", "--out"),
        ("download-data", "--data"),
    ],
    ids=" ".join,
)
def test_a_goal_below_a_file(gpt2: Run, tiny_folder: Path, tmp_path: Path, verb: tuple[str, ...], below: str) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time. " * 100, encoding="utf-8")
    known = {"TEXT": str(text), "MODEL": str(tiny_folder)}
    ran = gpt2(*(known.get(word, word) for word in verb), f"{text}/{below}")
    assert (ran.code, ran.out) == (1, "")
    assert f"nothing can be written below {text.resolve()}, which is a file. Choose another place." in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def test_the_root_is_no_place_for_a_new_model(gpt2: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 200, encoding="utf-8")
    given = ("--out", Path(tmp_path.anchor).as_posix(), "--model", str(tiny_folder))
    ran = gpt2("finetune", str(tmp_path / "text.txt"), *given)
    assert (ran.code, ran.out) == (1, "")
    assert "is the root, and nothing can take its place" in ran.err or "cannot be filled: it holds" in ran.err


@pytest.mark.parametrize(
    "verb",
    [
        ("corpus", "build", "TEXT", "--out="),
        ("prepare", "TEXT", "--out="),
        ("train", "tiny-cpu", "--data=TEXT", "--out="),
        ("train", "tiny-cpu", "--data=", "--out=x"),
        ("finetune", "TEXT", "--out="),
        ("finetune", "", "--out=x"),
        ("tokenizer", "train", "TEXT", "--vocab-size=300", "--out="),
        ("convert", "gpt2-mini", "", "--to=hf"),
        ("download-data", "--data="),
        ("overlap", "TEXT", ""),
    ],
    ids=" ".join,
)
def test_a_path_without_a_name(
    gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time. " * 100, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = gpt2(*(word.replace("TEXT", "text.txt") for word in verb))
    assert (ran.code, ran.out) == (2, "")
    assert "a path without a name" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("corpus build text.txt --out x --kind foo", "unknown kind 'foo'"),
        ("corpus build text.txt --out x --language xx", "language 'xx' cannot be told apart"),
        ("corpus build text.txt --out x --part 9/3", "no part 9 of 3"),
        ("corpus build text.txt --out x --fetch-delay=-1", "delay_seconds of fetching must lie between"),
        ("train tiny-cpu", "Say --out DIR"),
        ("train tiny-cpu --dry-run --set optim.lr=-1", "optim.lr must lie between"),
        ("train tiny-cpu --out x --data y --device tpu", "there is no device 'tpu'"),
        (
            "train tiny-cpu --dry-run --set start.model=gpt2-mini --set optim.matrices=adamw --set lora.rank=4 "
            "--set lora.targets=['c_atn']",
            "LoRA cannot change 'c_atn'",
        ),
        ("finetune text.txt --out x --device tpu", "there is no device 'tpu'"),
        ("verify gpt2-mini --device tpu", "there is no device 'tpu'"),
        ("evaluate lambada --examples --stride 99999", "stride must lie between 1 and the context of 1,024"),
        ("download-data lambda --data x", "Did you mean lambada?"),
        ("evaluate lambda --examples", "Did you mean lambada?"),
        ("evaluate lambada --examples --set lambada.text=odd", "lambada.text cannot be 'odd'"),
        ("translate Bonjour --from klingon", "the examples have no 'klingon'"),
        ("convert gpt2-mini x --to openai --weights int8", "cannot be written as 'openai' in 'int8'"),
    ],
)
def test_a_wrong_setting_is_wrong_usage_in_every_verb(
    gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, said: str
) -> None:
    if verb.startswith(("train", "finetune")):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time. " * 100, encoding="utf-8")
    ran = gpt2(*verb.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err and f"Usage: gpt2 {verb.split()[0]}" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    "verb",
    [
        ("train", "tiny-cpu", "--dry-run", "--wandb="),
        ("train", "tiny-cpu", "--dry-run", "--device="),
        ("finetune", "text.txt", "--out=x", "--wandb="),
        ("finetune", "text.txt", "--out=x", "--field="),
        ("prepare", "", "--out=x"),
        ("prepare", "text.txt", "--out=x", "--field="),
        ("prepare", "text.txt", "--out=x", "--split-on="),
        ("overlap", "", "text.txt"),
        ("overlap", "text.txt", "text.txt", "--field="),
        ("corpus", "build", "", "--out=x"),
        ("corpus", "build", "text.txt", "--out=x", "--licence="),
        ("corpus", "build", "text.txt", "--out=x", "--fetch-cache="),
        ("card", "gpt2-mini", "--samples=0", "--licence="),
        ("card", "gpt2-mini", "--samples=0", "--language="),
    ],
    ids=" ".join,
)
def test_an_empty_name(gpt2: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time. " * 100, encoding="utf-8")
    ran = gpt2(*verb)
    assert (ran.code, ran.out) == (2, "")
    assert "an empty text says nothing" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]
