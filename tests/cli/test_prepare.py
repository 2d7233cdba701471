"""`gpt2 prepare`: what it answers, to whom, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2
from gpt2.cli import main as frame
from gpt2.data import TokenStream, blocks, verify
from gpt2.errors import ShardError
from gpt2.tokenizer import Tokenizer

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(gpt2.__file__).parents[1])}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"Document {n}."}) + "\n" for n in range(200)), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return frame.run(["prepare", *map(str, arguments), "--workers", "1"])


def documents(folder: Path) -> list[str]:
    stream = TokenStream.open(folder)
    text = Tokenizer.published().decode(stream.read(0, stream.n_tokens).tolist())
    return text.removeprefix("<|endoftext|>").split("<|endoftext|>")


def test_shards_and_a_word_about_them(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--out", tmp_path / "out", "--validation", "0.1") == 0
    assert list(verify(tmp_path / "out")) == []
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("train: ")
    assert "\nvalidation: " in shown.err
    assert shown.err.endswith(" documents\n")


def test_json_is_the_manifest(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--out", tmp_path / "out", "--json", "--quiet") == 0
    shown = capsys.readouterr()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(shown.out) == {"out": str(tmp_path / "out"), **manifest}
    assert manifest["documents"] == 200
    assert shown.err == ""


def test_escapes_in_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\tthree\n\n", encoding="utf-8")
    assert run(tmp_path / "a.txt", "--out", tmp_path / "lines", "--split-on", r"\n\n") == 0
    assert run(tmp_path / "a.txt", "--out", tmp_path / "tabs", "--split-on", r"\t") == 0
    for name, wanted in (("lines", ["one", "two\tthree"]), ("tabs", ["one\n\ntwo", "three\n\n"])):
        assert documents(tmp_path / name) == wanted


def test_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpt2", "prepare", "-", "--out", str(tmp_path / "out"), "--format", "jsonl"]
    ended = subprocess.run(
        [*command, "--workers", "1", "--json"],
        env=ENVIRONMENT,
        input=b'{"text": "a"}\n{"text": "b"}\n',
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["documents"] == 2


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("missing.txt", None, "there is no such file or folder"),
        ("photo.jpg", b"x", "its kind is not known"),
        ("empty.txt", b"", "no document that is not empty"),
        ("bad.txt", b"caf\xe9", "the byte 0xe9 at offset 3"),
        ("bad.jsonl", b"{", "line 1, is not JSON"),
        ("bad.jsonl.zst", b"{", "is broken"),
    ],
)
def test_what_cannot_be_prepared_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None, said: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert run(tmp_path / name, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_errors_replace_reads_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert run(tmp_path / "a.txt", "--out", tmp_path / "out", "--errors", "replace") == 0


def test_errors_replace_reads_on_where_the_first_try_stopped(tmp_path: Path) -> None:
    """As its message advises: whether nothing was written before, or all that lies before the byte."""
    for name, good in (("first", ""), ("later", '{"text": "A story. "}\n' * 4200)):
        (tmp_path / f"{name}.jsonl").write_bytes(good.encode() + b'{"text": "caf\xe9"}\n')
        assert run(tmp_path / f"{name}.jsonl", "--out", tmp_path / name) == 1
        for out in (name, f"{name} at once"):
            assert run(tmp_path / f"{name}.jsonl", "--out", tmp_path / out, "--errors", "replace") == 0
        manifests = [(tmp_path / out / "manifest.json").read_bytes() for out in (name, f"{name} at once")]
        assert manifests[0] == manifests[1]
        assert documents(tmp_path / name)[-1] == "caf\ufffd"


def test_where_nothing_was_written_another_configuration_may_begin(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_text("One.\n\nTwo.", encoding="utf-8")
    assert run(tmp_path / "bad.txt", "--out", tmp_path / "out") == 1
    assert run(tmp_path / "good.txt", "--out", tmp_path / "out", "--split-on", r"\n\n") == 0
    assert documents(tmp_path / "out") == ["One.", "Two."]


def test_one_document_leaves_nothing_to_validate_on_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("A whole novel.", encoding="utf-8")
    assert run(tmp_path / "a.txt", "--out", tmp_path / "out", "--validation", "0.001") == 0
    assert "warning: no document fell to validation: there is 1 document in all" in capsys.readouterr().err


def test_one_document_that_is_held_out_leaves_nothing_to_train_on_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("A whole novel.", encoding="utf-8")
    assert run(tmp_path / "a.txt", "--out", tmp_path / "out", "--validation", "1") == 0
    said = capsys.readouterr().err
    assert "warning: no document fell to train: there is 1 document in all." in said
    assert "lower --validation" in said
    with pytest.raises(ShardError, match="no train split: prepare it with more documents"):
        TokenStream.open(tmp_path / "out", "train")


def test_another_configuration_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--out", tmp_path / "out") == 0
    assert run(source, "--out", tmp_path / "out", "--validation", "0.5") == 1
    assert "validation was 0.0 and is now 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["a.txt"], *(["a.txt", "--out", "x", "--validation", share] for share in ("2", "nan"))]
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_stopped_by_a_signal_it_says_how_to_go_on(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 10)
    encode = blocks.encode_block
    turns = iter(range(5))

    def encode_and_be_stopped(*arguments):
        if next(turns, None) is None:
            signal.raise_signal(number)
        return encode(*arguments)

    monkeypatch.setattr(blocks, "encode_block", encode_and_be_stopped)
    assert run(source, "--out", tmp_path / "out") == code
    assert f"{tmp_path / 'out'} keeps what is done; the same command resumes from there." in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "progress.json").read_text(encoding="utf-8"))["state"]["blocks"] == 5
    monkeypatch.setattr(blocks, "encode_block", encode)
    assert run(source, "--out", tmp_path / "out") == 0
    assert "resuming after 50 documents" in capsys.readouterr().err
    assert run(source, "--out", tmp_path / "straight") == 0
    for path in (tmp_path / "straight").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_neither_torch_nor_pyarrow_is_imported(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from gpt2.cli.main import run; "
        f"assert run(['prepare', {str(source)!r}, '--out', {str(tmp_path / 'out')!r}, '--workers', '1']) == 0; "
        "assert not {'torch', 'pyarrow', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, timeout=300, check=True)
