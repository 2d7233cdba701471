"""Vocabulary files: written as published, read in every form, refused with a reason when they are not sound."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gpt2.errors import TokenizerError
from gpt2.tokenizer import Tokenizer
from gpt2.tokenizer.alphabet import BYTE_ORDER, letters
from gpt2.tokenizer.assembly import assemble
from gpt2.tokenizer.vocabulary import Vocabulary

ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
TEXT = "the other  thé<|endoftext|> 'there"


def small() -> Vocabulary:
    """The bytes, six merges, one special token: 263 ids."""
    merged = [b"th", b"the", b" the", b"re", b"there", b"\n\n"]
    tokens = [*(bytes((byte,)) for byte in BYTE_ORDER), *merged, b"<|endoftext|>"]
    return Vocabulary(tokens=tokens, lefts=[1, 2, 1, 1, 3, 1], special={"<|endoftext|>": 262})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Tokenizer(small()).save(tmp_path)
    return tmp_path


def only(folder: Path, *names: str) -> Path:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
    return folder


def test_the_published_files_come_out_byte_for_byte(saved: Path) -> None:
    assert hashlib.sha256((saved / "vocab.json").read_bytes()).hexdigest() == ENCODER_SHA256
    assert hashlib.sha256((saved / "merges.txt").read_bytes()).hexdigest() == VOCAB_BPE_SHA256
    assert {path.name for path in saved.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_published_vocabulary_is_read_from_every_form(saved: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for names in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("tokenizer.json",)]:
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            source = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}.get(name, name)
            shutil.copy(saved / source, folder / name)
        found = Tokenizer.from_folder(folder)
        assert found.hash == tokenizer.hash
        assert list(found.vocabulary.lefts) == list(tokenizer.vocabulary.lefts)


def test_the_published_vocabulary_with_one_more_token_is_checked_whole(saved: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(saved / name, tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 50257}', encoding="utf-8")
    found = Tokenizer.from_folder(str(tmp_path))
    assert found.vocabulary.special == {"<|endoftext|>": 50256, "<pad>": 50257}
    assert found.encode("Hello<pad>", allow_special=True) == [15496, 50257]
    assert found.encode("Hello world") == [15496, 995]


WORDS = ("newword", " two words", "Ünï🙂")


@pytest.fixture
def with_words(saved: Path, tmp_path: Path) -> Path:
    """The published vocabulary and what `add_tokens` of Hugging Face's libraries adds to one."""
    theirs = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    theirs.add_tokens(list(WORDS))
    theirs.add_special_tokens(["<|pad|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_words_added_to_a_vocabulary_are_read_where_they_stand(with_words: Path) -> None:
    found = Tokenizer.from_folder(with_words)
    theirs = tokenizers.Tokenizer.from_file(str(with_words / "tokenizer.json"))
    for text in ("a newword", "xnewwordx two words Ünï🙂!", " two newword", "new word Ünï", "newwordnewword<|pad|>"):
        assert found.encode(text, allow_special=True) == theirs.encode(text).ids
        assert found.decode(found.encode(text)) == text
    assert found.encode("newword<|pad|>")[0] == 50257
    assert 50260 not in found.encode("newword<|pad|>")  # it looks special: nobody's input means it
    assert list(found.encode_array("newword")) == [50257]


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt", "added_tokens.json"), ("tokenizer.json",)])
def test_words_added_to_a_vocabulary_are_saved_as_such(
    with_words: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    found = Tokenizer.from_folder(with_words)
    found.save(tmp_path / "again")
    again = Tokenizer.from_folder(only(tmp_path / "again", *names))
    assert again.hash == found.hash
    assert again.encode("a newword") == found.encode("a newword")
    if names == ("tokenizer.json",):
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
        assert theirs.decode(found.encode("a newword<|pad|>", allow_special=True)) == "a newword"


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer.json beside a pair", "tokenizer_config.json"])
def test_a_word_that_takes_the_spaces_around_it_is_refused_by_name(with_words: Path, flag: str, where: str) -> None:
    def set_flags(name: str, value: bool) -> None:
        tokens = json.loads((with_words / "tokenizer.json").read_text(encoding="utf-8"))
        for token in tokens["added_tokens"]:
            if token["content"] == name:
                token[flag] = value
        (with_words / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
        if where == "tokenizer_config.json":
            decoder = {str(token["id"]): token for token in tokens["added_tokens"]}
            config = json.dumps({"added_tokens_decoder": decoder})
            (with_words / "tokenizer_config.json").write_text(config, encoding="utf-8")

    if where != "tokenizer.json":
        Tokenizer.from_folder(with_words).save(with_words)
    if where == "tokenizer_config.json":
        set_flags("newword", False)
    set_flags("<|pad|>", True)  # a text means it only when that is asked for
    expected = Tokenizer.from_folder(with_words).hash
    set_flags("newword", True)
    with pytest.raises(TokenizerError, match=rf"its tokenizer\S*\.json sets {flag} of the added word 'newword'"):
        Tokenizer.from_folder(with_words)
    set_flags("newword", False)
    assert Tokenizer.from_folder(with_words).hash == expected


def test_the_words_of_another_vocabulary_do_not_stay(with_words: Path) -> None:
    Tokenizer.from_folder(with_words).save(with_words)
    Tokenizer(small()).save(with_words)
    assert Tokenizer.from_folder(with_words).hash == small().hash


def test_what_would_be_too_large_to_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vocabulary of Chinese has six times the bytes in escapes: those are left out before anything is refused."""
    Tokenizer(small()).save(tmp_path / "small")
    size = (tmp_path / "small" / "vocab.json").stat().st_size
    monkeypatch.setattr("gpt2.tokenizer.folder._LIMIT_BYTES", size - 1)
    Tokenizer(small()).save(tmp_path / "unescaped")
    assert (tmp_path / "unescaped" / "vocab.json").stat().st_size < size / 1.2
    assert Tokenizer.from_folder(tmp_path / "unescaped").hash == small().hash
    monkeypatch.setattr("gpt2.tokenizer.folder._LIMIT_BYTES", 1000)
    with pytest.raises(TokenizerError, match=r"263 ids cannot be written: its vocab\.json would have [\d,]+ bytes"):
        Tokenizer(small()).save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_what_is_saved_is_read_again(folder: Path, names: tuple[str, ...]) -> None:
    found = Tokenizer.from_folder(only(folder, *names))
    assert found.hash == small().hash
    assert list(found.vocabulary.merges()) == list(small().merges())
    assert found.encode(TEXT) == Tokenizer(small()).encode(TEXT)
    assert found.eot == 262


def test_a_whole_file_of_an_old_library_names_no_type(folder: Path) -> None:
    """The published models' own tokenizer.json is such a one."""
    only(folder, "tokenizer.json")
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    del whole["model"]["type"]
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    assert Tokenizer.from_folder(folder).hash == small().hash
    del whole["model"]["merges"]  # then it may be anything
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(TokenizerError, match="describes no model"):
        Tokenizer.from_folder(folder)


def test_special_tokens_may_come_first(folder: Path) -> None:
    """As the tokenizers library numbers them when it learns: special tokens, bytes, merges."""
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    moved = {name: (i + 1) % 263 for name, i in ids.items()}
    (folder / "vocab.json").write_text(json.dumps(moved), encoding="utf-8")
    found = Tokenizer.from_folder(folder)
    assert found.eot == 0
    assert found.encode(TEXT) == [i + 1 for i in Tokenizer(small()).encode(TEXT)]
    found.save(folder)
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8")) == moved


def test_windows_line_ends_and_no_header_are_understood(folder: Path) -> None:
    merges = (folder / "merges.txt").read_text(encoding="utf-8")
    (folder / "merges.txt").write_bytes(merges.replace("\n", "\r\n").encode())
    assert Tokenizer.from_folder(folder).hash == small().hash
    (folder / "merges.txt").write_bytes(merges.split("\n", 1)[1].rstrip("\n").encode())
    assert Tokenizer.from_folder(folder).hash == small().hash


def test_a_folder_without_a_vocabulary_says_what_one_has(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "holds no vocabulary"), (tmp_path / "absent", "no file or folder of that name")):
        with pytest.raises(TokenizerError, match=rf"{said}.*vocab\.json with merges\.txt"):
            Tokenizer.from_folder(folder)
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="holds no vocabulary"):
        Tokenizer.from_folder(tmp_path)


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        change(value)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")

    return apply


def ids(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return changed("vocab.json", change)


def merges(change: Callable[[list[str]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        change(lines)
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")

    return apply


def content(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an empty file": (content("vocab.json", b""), "not readable JSON"),
    "not JSON": (content("vocab.json", b"{'a': 1}"), "not readable JSON"),
    "cut short": (lambda f: content("vocab.json", (f / "vocab.json").read_bytes()[:900])(f), "not readable JSON"),
    "not UTF-8": (content("vocab.json", b'{"\xff": 1}'), "not readable JSON"),
    "too large": (content("vocab.json", b" " * (9 << 20)), "larger than"),
    "merges too large": (content("merges.txt", b"a b\n" * (3 << 20)), "larger than"),
    "nested without end": (content("vocab.json", b"[" * 1_000_000), "not readable JSON"),
    "a list": (content("vocab.json", b"[1]"), "no table from token to id"),
    "no tokens": (content("vocab.json", b"{}"), "no token stands for the byte"),
    "a key twice": (content("vocab.json", b'{"a": 1, "a": 2}'), "given twice"),
    "an id in quotes": (ids(lambda v: v.update(th="256")), "id of 'th' is not a whole number"),
    "half an id": (ids(lambda v: v.update(th=256.0)), "id of 'th' is not a whole number"),
    "true as an id": (ids(lambda v: v.update(th=True)), "id of 'th' is not a whole number"),
    "no id": (ids(lambda v: v.update(th=None)), "id of 'th' is not a whole number"),
    "a negative id": (ids(lambda v: v.update(th=-1)), "'th' has -1 where 0 was to come"),
    "an immense id": (ids(lambda v: v.update({"<|endoftext|>": 10**300})), "where 262 was to come"),
    "an id twice": (ids(lambda v: v.update(th=257)), "each once"),
    "an id missing": (ids(lambda v: v.pop("there")), "each once"),
    "a byte missing": (ids(lambda v: v.update(bogus=v.pop("q"))), "no token stands for the byte 0x71"),
    "an empty name": (ids(lambda v: v.update({"": 263})), "name of a token is empty"),
    "a name with a space": (ids(lambda v: v.update({"a b": 263})), "'a b' is not written in GPT-2's letters"),
    "a name in Chinese": (ids(lambda v: v.update({"世": 263})), "'世' is not written in GPT-2's letters"),
    "half a surrogate": (ids(lambda v: v.update({"\ud800": 263})), "is not written in GPT-2's letters"),
    "a token no merge makes": (ids(lambda v: v.update(extra=263)), "no merge makes the token 'extra'"),
    "merges in another order": (merges(lambda m: m.insert(6, m.pop(1))), "out of order"),
    "ids in another order": (ids(lambda v: v.update(th=259, re=256)), "merge 2 uses 'th', which no earlier"),
    "a merge twice": (merges(lambda m: m.insert(2, m[1])), "merge 2 makes id 256 after id 256"),
    "a merge of the unknown": (merges(lambda m: m.insert(1, "zz z")), "merge 1 makes 'zzz', which has no id"),
    "a merge into the unknown": (merges(lambda m: m.insert(1, "z z")), "merge 1 makes 'zz', which has no id"),
    "a merge with a special token": (
        merges(lambda m: m.insert(1, "<|endoftext|> a")),
        "merge 1 makes '<|endoftext|>a', which has no id",
    ),
    "a merge of three": (merges(lambda m: m.insert(1, "a b c")), "where a merge of two"),
    "a merge of one": (merges(lambda m: m.insert(1, "a")), "where a merge of two"),
    "an empty line": (merges(lambda m: m.insert(3, "")), "where a merge of two"),
    "merges cut short": (merges(lambda m: m.__delitem__(slice(4, None))), "no merge makes the token 're'"),
    "no merges": (content("merges.txt", b""), "no merge makes the token 'th'"),
    "merges not UTF-8": (content("merges.txt", b"a \xff\n"), "not UTF-8"),
    "added tokens that are none": (content("added_tokens.json", b'{"<x>": []}'), "id of '<x>' is not a whole number"),
    "added what is there": (content("added_tokens.json", b'{"the": 257}'), "a special token and an ordinary one"),
    "added bytes that are there": (content("added_tokens.json", b'{" the": 263}'), "the bytes of another token"),
    "too many merges": (content("merges.txt", b"a b\n" * (1 << 18 | 1)), "more than the 262,144"),
    "added surrogate": (content("added_tokens.json", b'{"<\\ud800>": 263}'), "surrogate"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_or_hostile_files_are_refused_with_a_reason(folder: Path, case: str) -> None:
    only(folder, "vocab.json", "merges.txt")
    damage, reason = BROKEN[case]
    damage(folder)
    with pytest.raises(TokenizerError) as refused:
        Tokenizer.from_folder(folder)
    assert str(refused.value).startswith(f"The vocabulary in {folder} cannot be read: ")
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


def whole(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return changed("tokenizer.json", change)


OTHER_KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a list": (content("tokenizer.json", b"[]"), "describes no model"),
    "another model": (whole(lambda v: v["model"].update(type="WordPiece")), "'WordPiece', not BPE"),
    "byte fallback": (whole(lambda v: v["model"].update(byte_fallback=True)), "byte_fallback"),
    "a word's end": (whole(lambda v: v["model"].update(end_of_word_suffix="</w>")), "end_of_word_suffix"),
    "dropout": (whole(lambda v: v["model"].update(dropout=0.1)), "dropout"),
    "a normalizer": (whole(lambda v: v.update(normalizer={"type": "NFC"})), "changes text before encoding"),
    "no splitting": (whole(lambda v: v.update(pre_tokenizer=None)), "not by GPT-2's pattern"),
    "another splitting": (whole(lambda v: v["pre_tokenizer"].update(use_regex=False)), "not by GPT-2's pattern"),
    "a space before": (whole(lambda v: v["pre_tokenizer"].update(add_prefix_space=True)), "not by GPT-2's pattern"),
    "a token before each text": (
        whole(
            lambda v: v.update(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                }
            )
        ),
        "adds to the ids of a text",
    ),
    "another kind of ending": (
        whole(lambda v: v.update(post_processor={"type": "BertProcessing"})),
        "adds to the ids of a text",
    ),
    "no vocabulary": (whole(lambda v: v["model"].pop("vocab")), "no table from token to id"),
    "merges in a table": (whole(lambda v: v["model"].update(merges={"a": 1})), "where the list of merges"),
    "merges of numbers": (whole(lambda v: v["model"].update(merges=[[1, 2]])), "where a merge of two"),
    "a merge that is a number": (whole(lambda v: v["model"].update(merges=[7])), "where a merge of two"),
    "added tokens in a number": (whole(lambda v: v.update(added_tokens=7)), "where the list of added_tokens"),
    "an added token that is none": (whole(lambda v: v.update(added_tokens=["x"])), "where an added token"),
    "an added id that is none": (whole(lambda v: v["added_tokens"][0].update(id="x")), "where an added token"),
}


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_other_kinds_of_tokenizer_are_refused_by_name(folder: Path, case: str) -> None:
    only(folder, "tokenizer.json")
    damage, reason = OTHER_KINDS[case]
    damage(folder)
    with pytest.raises(TokenizerError) as refused:
        Tokenizer.from_folder(folder)
    assert reason in str(refused.value)


@pytest.mark.parametrize("setting", ["add_prefix_space", "add_bos_token", "add_eos_token"])
@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_settings_that_give_other_ids_are_refused_by_name(folder: Path, setting: str, names: tuple[str, ...]) -> None:
    only(folder, *names, "tokenizer_config.json")
    changed("tokenizer_config.json", lambda v: v.update({setting: False}))(folder)
    assert Tokenizer.from_folder(folder).hash == small().hash
    changed("tokenizer_config.json", lambda v: v.update({setting: True}))(folder)
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json sets {setting}, which GPT-2's does not"):
        Tokenizer.from_folder(folder)


def test_what_newer_libraries_put_after_a_text_adds_nothing(folder: Path) -> None:
    """transformers 5 writes a template of the text alone."""
    only(folder, "tokenizer.json")
    alone = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}
    for way in (alone, None):
        whole(lambda v, way=way: v.update(post_processor=way))(folder)
        assert Tokenizer.from_folder(folder).hash == small().hash


def test_merges_may_be_pairs_or_text(folder: Path) -> None:
    only(folder, "tokenizer.json")
    whole(lambda v: v["model"].update(merges=[merge.split(" ") for merge in v["model"]["merges"]]))(folder)
    assert Tokenizer.from_folder(folder).hash == small().hash


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json"])
def test_random_damage_is_refused_or_read_as_a_sound_vocabulary(folder: Path, name: str) -> None:
    if name == "tokenizer.json":
        only(folder, name)
    original = (folder / name).read_bytes()
    draw = random.Random(name)
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(draw.randint(1, 3)):
            start = draw.randrange(len(data))
            data[start : start + draw.choice((0, 1, 1, 5))] = draw.choice((b"", b"0", b'"', b"\xff", b"{", b" ", b"a"))
        (folder / name).write_bytes(data)
        try:
            found = Tokenizer.from_folder(folder)
        except TokenizerError:
            refused += 1
        else:
            assert found.decode(found.encode(TEXT)) == TEXT
    assert refused > 150


def test_an_accepted_vocabulary_merges_as_its_list_of_merges_says() -> None:
    """The core merges by ids alone. Random merges over two letters: what is accepted must give the library's ids,
    and what is refused must hold a merge whose product the merges before it never bring about."""
    draw = random.Random(0)
    accepted = refused = 0
    for _ in range(150):
        names = [letters(bytes((byte,))) for byte in BYTE_ORDER]
        parts, pairs = ["a", "b"], []
        for _ in range(draw.randint(2, 6)):
            left, right = draw.choice(parts), draw.choice(parts)
            if left + right not in parts:
                parts.append(left + right)
                pairs.append((left, right))
        all_names = {name: i for i, name in enumerate([*names, *parts[2:]])}
        texts = ["".join(draw.choice("ab") for _ in range(draw.randint(1, 14))) for _ in range(20)]
        sound = all(
            tokenizers.models.BPE(all_names, pairs[: n + 1]).tokenize(left + right)[0].value == left + right
            for n, (left, right) in enumerate(pairs)
        )
        if not sound:
            with pytest.raises(TokenizerError, match="can never happen"):
                assemble(all_names, pairs, {})
            refused += 1
            continue
        ours = Tokenizer(assemble(all_names, pairs, {}))
        accepted += 1
        theirs = tokenizers.models.BPE(all_names, pairs)
        for text in texts:
            assert ours.encode(text) == [token.id for token in theirs.tokenize(text)], (pairs, text)
    assert accepted > 30
    assert refused > 30


def test_a_folder_that_cannot_be_written_keeps_what_it_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "vocab.json").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        Tokenizer.published().save(folder)
    assert (folder / "vocab.json").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".partial")]
