"""`gpt2 detect`: texts from anywhere, calibrations made and refused."""

import json
import sys
from pathlib import Path

import pytest

import gpt2 as package
from gpt2.cli import output, status_line
from gpt2.detect import Calibration

TEXT = "the cat sat on the mat and the dog slept by the fire while the rain fell on the roof " * 2


@pytest.fixture
def detect(gpt2, tiny_folder: Path):
    def run(*arguments: str, stdin: bytes = b""):
        return gpt2("detect", "--model", str(tiny_folder), "--backend", "reference", *arguments, stdin=stdin)

    return run


def test_without_a_calibration_it_says_how_to_make_one(detect) -> None:
    ran = detect(TEXT)
    assert ran.code == 0
    assert ran.out.startswith("uncalibrated: no calibration for this model")
    assert "--calibrate FOLDER --out FILE" in ran.out
    assert "curvature" in ran.out


def test_of_many_parts_only_those_that_were_told_have_a_line(detect) -> None:
    few, many = detect(TEXT * 6, "--window", "40").out, detect(TEXT * 14, "--window", "25").out
    assert few.count("  characters ") > 1
    assert "  characters " not in many
    assert many.rstrip().endswith("uncalibrated; --json has the numbers of each")


def test_a_long_text_tells_a_terminal_how_far_it_is(detect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, key = tmp_path / "a.txt", tmp_path / "key"
    file.write_text(TEXT * 6, encoding="utf-8")
    assert detect("--new-key", str(key)).code == 0
    asked = [("--window", "40"), ("--window", "40", "--watermark", str(key))]
    assert all("characters" not in detect(str(file), *more).err for more in asked)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr(status_line, "_LIVE_SECONDS", 0.0)
    monkeypatch.setattr(output, "is_terminal", lambda stream: stream is sys.stderr)
    for more in asked:
        before, *parts = detect(str(file), *more).err.split("\r\x1b[K")[1:]
        assert before == f"{file} {len(TEXT * 6):,} characters"
        assert parts[:2] == [f"{file} part 1 of 6", f"{file} part 2 of 6"], more


def test_text_may_come_from_anywhere(detect, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.md").write_text(TEXT, encoding="utf-8")
    found = json.loads(detect(TEXT, "--json").out)
    assert found.pop("file") is None
    assert found["verdict"] == "uncalibrated"
    for arguments, stdin in [((str(tmp_path / "a.txt"),), b""), (("-",), TEXT.encode()), ((), TEXT.encode())]:
        again = json.loads(detect(*arguments, "--json", stdin=stdin).out)
        again.pop("file")
        assert again == found
    lines = [json.loads(line) for line in detect(str(tmp_path), "--json").out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.txt", "b.md"]


def test_a_text_of_more_bytes_than_a_name_may_have_is_a_text(detect) -> None:
    ran = detect("Это правда, и это тоже правда. " * 8)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("uncalibrated")


def test_of_several_files_empty_ones_are_left_out(detect, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text(TEXT, encoding="utf-8")
    ran = detect(str(tmp_path))
    assert ran.code == 0
    assert "a.txt is empty and left out" in ran.err
    assert [line.partition(": ")[0] for line in ran.out.splitlines() if line[0] != " "] == [str(tmp_path / "b.txt")]
    assert "the text is empty" in detect(str(tmp_path / "a.txt")).err


def test_a_folder_of_empty_files_has_nothing_to_judge(detect, tmp_path: Path) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("\n", encoding="utf-8")
    ran = detect(str(tmp_path))
    assert ran.code == 2
    assert ran.out == ""
    assert "is empty: there is nothing to judge" in ran.err


def test_a_number_that_would_be_ignored_is_refused(detect, tmp_path: Path) -> None:
    training = ("--train", str(tmp_path), "--out", str(tmp_path / "out.json"))
    for arguments, expected in [
        ((*training, "--samples", "200"), "--samples belongs to --calibrate"),
        ((TEXT, "--samples", "200"), "--samples belongs to --calibrate"),
        ((TEXT, "--limit", "1000"), "--limit belongs to --calibrate or --train"),
    ]:
        ran = detect(*arguments)
        assert ran.code == 2
        assert expected in ran.err


@pytest.fixture(scope="module")
def calibration(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of repetitive texts: the tiny model knows none, so only that it is made and read is tested here."""
    folder = tmp_path_factory.mktemp("human")
    words = TEXT.split()
    lines = [{"text": " ".join(words[(i * j) % len(words)] for j in range(28))} for i in range(1, 101)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = folder / "calibration.json"
    with package.load(tiny_folder, backend="native") as model:
        made = model.calibrate((line["text"] for line in lines), source="drawn", samples=5)
    made.write(out)
    return out


def test_a_calibration_gives_a_verdict(detect, calibration: Path) -> None:
    found = json.loads(detect(TEXT, "--json", "--calibration", str(calibration)).out)
    assert found["verdict"] in ("generated", "human", "inconclusive")
    assert found["parts"][0]["n_compared"] == 25
    made = Calibration.read(calibration)
    assert list(made.generated) == ["temperature 1", "top-k 40", "temperature 0.8, top-k 40"]
    assert [len(own[25]) for own in made.generated.values()] == [2, 2, 1]


def test_it_says_what_it_compared_with_and_which_file_is_missing(detect, calibration: Path) -> None:
    ran = detect(TEXT, "--calibration", str(calibration))
    assert "compared with 100 human texts: drawn" in ran.err
    found = json.loads(detect(TEXT, "--json", "--calibration", str(calibration)).out)
    assert found["calibration"]["human"] == "drawn"
    ran = detect("no-such-essay.txt")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no file no-such-essay.txt" in ran.err


def test_a_calibration_of_another_model_is_refused(detect, calibration: Path, tmp_path: Path) -> None:
    other = json.loads(calibration.read_text(encoding="utf-8")) | {"fingerprint": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    ran = detect(TEXT, "--calibration", str(tmp_path / "other.json"))
    assert (ran.code, ran.out) == (1, "")
    assert "of other weights" in ran.err


def test_what_cannot_be_done(detect, tmp_path: Path) -> None:
    for arguments, code, expected in [
        (("",), 1, "the text is empty"),
        ((str(tmp_path),), 2, "no .txt or .md file"),
        (("--calibrate", str(tmp_path)), 2, "belong together"),
        ((TEXT, "--calibrate", str(tmp_path), "--out", str(tmp_path / "c")), 2, "only --watermark takes a TEXT"),
        (("--calibrate", str(tmp_path), "--out", str(tmp_path / "c")), 1, "holds no file that can be read"),
        ((TEXT, "--rate", "0.7"), 2, "0.7"),
    ]:
        ran = detect(*arguments)
        assert ran.code == code, arguments
        assert expected in ran.err
    assert not (tmp_path / "c").exists()
