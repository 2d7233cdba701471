"""Marking and reading from the command line."""

import json
from pathlib import Path

import pytest

WRITE = ("--max-tokens", "80", "--ignore-eot", "--temperature", "1", "--top-k", "0", "--seed", "3", "--quiet")


@pytest.fixture
def key(gpt2, tmp_path: Path) -> Path:
    path = tmp_path / "mine.key"
    ran = gpt2("detect", "--new-key", str(path))
    assert (ran.code, ran.out) == (0, "")
    assert "Keep it secret" in ran.err
    return path


def secret_of(path: Path) -> str:
    return path.read_text(encoding="ascii").split()[-1]


def test_there_and_back(gpt2, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    assert gpt2("detect", "--new-key", str(other)).code == 0
    marked = gpt2("generate", "The harbour", *WRITE, "--watermark", str(key))
    plain = gpt2("generate", "The harbour", *WRITE)
    assert marked.code == plain.code == 0
    assert marked.out != plain.out

    def read(text: str, by: Path) -> dict[str, object]:
        ran = gpt2("detect", "--watermark", str(by), "--rate", "0.0001", "--json", stdin=text.encode())
        assert ran.code == 0
        assert secret_of(by)[:8] not in ran.out + ran.err
        return json.loads(ran.out)

    found = read(marked.out, key)
    assert found["marked"] is True
    assert found["n_scored"] > 40
    assert not read(marked.out, other)["marked"]
    assert not read(plain.out, key)["marked"]
    file = tmp_path / "text.txt"
    file.write_text(marked.out, encoding="utf-8")
    ran = gpt2("detect", str(file), "--watermark", str(key))
    assert ran.out.startswith(f"{file}: marked with this key (p = ")


def test_reading_needs_no_weights(gpt2, key: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    ran = gpt2("detect", "A text without a mark, of about ten tokens.", "--watermark", str(key), "--model", str(folder))
    assert ran.code == 0
    assert "mark" in ran.out
    ran = gpt2("detect", "Two words", "--watermark", str(key), "--model", "gpt2")
    assert ran.out == "no mark: the text is too short to carry one (2 of at least 5 tokens).\n"


def test_what_cannot_be_done(gpt2, key: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.key"
    bad.write_text(secret_of(key), encoding="ascii")
    for arguments, code, expected in [
        (("detect", "--new-key", str(key)), 1, "there already"),
        (("detect", "--new-key", str(tmp_path / "no" / "a.key")), 1, "No such file"),
        (("detect", "text", "--new-key", str(tmp_path / "a.key")), 2, "only --watermark takes a TEXT"),
        (("detect", "--new-key", str(tmp_path / "a.key"), "--watermark", str(key)), 2, "different tasks"),
        (("detect", "text", "--watermark", str(bad)), 1, "cannot be used as a watermark key"),
        (("detect", "text", "--watermark", str(tmp_path / "a.key")), 2, "does not exist"),
        (("generate", "text", "--watermark", str(bad)), 1, "cannot be used as a watermark key"),
        (("generate", "text", "--watermark", str(key), "--temperature", "0"), 2, "greedy text is not"),
        (("serve", "--watermark", str(bad), "--port", "0"), 1, "cannot be used as a watermark key"),
    ]:
        ran = gpt2(*arguments)
        assert ran.code == code, (arguments, ran.err)
        assert expected in ran.err
        assert secret_of(key)[:8] not in ran.out + ran.err
    assert not (tmp_path / "a.key").exists()


def test_a_key_that_an_editor_saved_with_its_mark(gpt2, key: Path, tmp_path: Path) -> None:
    green = tmp_path / "green.json"
    assert gpt2("detect", "--new-key", str(green), "--green", "lefthash").code == 0
    for file in (key, green):
        before = gpt2("detect", "A text without a mark, of ten tokens.", "--watermark", str(file), "--json")
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        after = gpt2("detect", "A text without a mark, of ten tokens.", "--watermark", str(file), "--json")
        assert (after.code, after.out) == (0, before.out)


def test_a_green_list_there_and_back(gpt2, tmp_path: Path) -> None:
    key = tmp_path / "green.json"
    assert gpt2("detect", "--new-key", str(key), "--green", "lefthash").code == 0
    settings = {**json.loads(key.read_text(encoding="ascii")), "hashing_key": 15485863}  # the same text in every run
    key.write_text(json.dumps(settings), encoding="ascii")
    number = str(settings["hashing_key"])
    marked = gpt2("generate", "The harbour", *WRITE, "--watermark", str(key))
    greedy = gpt2("generate", "The harbour", "--max-tokens", "40", "--ignore-eot", "--temperature", "0", "--quiet",
                  "--no-repeat-ngram", "2", "--watermark", str(key))  # fmt: skip  # a text that goes round says little
    for text in (marked.out, greedy.out):
        ran = gpt2("detect", "--watermark", str(key), "--rate", "0.001", stdin=text.encode())
        assert ran.out.startswith("marked with this key (p = ")
        assert "tokens are green, z = " in ran.out
        assert number not in ran.out + ran.err
    ran = gpt2("detect", "--watermark", str(key), "--rate", "0.001", "--json", stdin=marked.out.encode())
    found = json.loads(ran.out)
    assert found["marked"] is True
    assert found["z_score"] > 3
    assert gpt2("detect", "--new-key", str(key), "--green", "lefthash").code == 1
    assert gpt2("detect", "a text", "--green", "lefthash").code == 2


def test_words_by_strength(gpt2, key: Path) -> None:
    key.write_text(f"gpt2 watermark key 1\nwidth 4\nsecret {'5' * 64}\n", encoding="ascii")  # the same in every run
    text = "The train left at 3 past 0, and nobody saw it go."  # of some hundred unmarked texts one is at a hundredth
    told = json.loads(gpt2("detect", text, "--watermark", str(key), "--json").out)
    assert (told["verdict"], told["marked"]) == ("possibly marked", True)
    assert 1e-4 < told["p_value"] <= 0.01
    ran = gpt2("detect", text, "--watermark", str(key))
    one_in = f"one unmarked text in {round(1 / told['p_value']):,} looks like this"
    assert ran.out.startswith(f"possibly marked with this key (p = {told['p_value']:.3g}; {one_in}): score ")
    told = json.loads(gpt2("detect", text, "--watermark", str(key), "--json", "--rate", "0.001").out)
    assert (told["verdict"], told["marked"]) == ("no mark found", False)


def test_an_empty_text_is_told_what_a_mark_needs(gpt2, key: Path) -> None:
    ran = gpt2("detect", "--watermark", str(key), stdin=b"")
    assert (ran.code, "Give one of at least 5 tokens." in ran.err) == (1, True)
