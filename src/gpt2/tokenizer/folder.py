"""Vocabulary files in a model folder: reads the three usual forms, writes all files that other readers expect.

| form | files |
|---|---|
| Hugging Face | `vocab.json`, `merges.txt`, perhaps `added_tokens.json` |
| OpenAI 2019 | `encoder.json`, `vocab.bpe`: the same content under other names |
| Hugging Face, one file | `tokenizer.json` |
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2 import files
from gpt2.errors import FormatError, TokenizerError
from gpt2.tokenizer.alphabet import letters
from gpt2.tokenizer.assembly import MOST_TOKENS, assemble
from gpt2.tokenizer.vocabulary import END_OF_TEXT, Vocabulary, looks_special, published_vocabulary

ADDED = "added_tokens.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
WHOLE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_HEADER = "#version: 0.2"
# The published vocabulary takes 1 MB; 1.4 to 3.6 MB as tokenizer.json.
_LIMIT_BYTES = 4 << 20
_WHOLE_LIMIT_BYTES = 8 << 20

_PUBLISHED_SHA256 = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",  # encoder.json, vocab.json
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",  # vocab.bpe, merges.txt
)


def read_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder, from the first form found.

    Raises:
        TokenizerError: there is none, or its files are damaged, hostile or for another kind of tokenizer.
        OSError: a file cannot be read.
    """
    pair = next(((folder / a, folder / b) for a, b in PAIRS if (folder / a).is_file() and (folder / b).is_file()), None)
    try:
        _check_settings(folder / SETTINGS)
        if pair is not None:
            found = _read_pair(*pair)
            if found.words and (folder / WHOLE).is_file():
                _added_in(files.read_json(folder / WHOLE, _WHOLE_LIMIT_BYTES), folder / WHOLE)
            return found
        if (folder / WHOLE).is_file():
            return _read_whole(folder / WHOLE)
    except (TokenizerError, FormatError) as error:
        raise TokenizerError(f"The vocabulary in {folder} cannot be read: {str(error).rstrip('.')}.") from error
    one = f"A folder with one has {', '.join(f'{a} with {b}' for a, b in PAIRS)}, or {WHOLE}."
    if not folder.exists():
        raise TokenizerError(f"There is no vocabulary {folder}: no file or folder of that name is there. {one}")
    raise TokenizerError(f"{folder} holds no vocabulary. {one}")


def write_folder(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `vocab.json`, `merges.txt`, `tokenizer.json` and `tokenizer_config.json`, each atomically.

    A vocabulary with added words also gets `added_tokens.json`: `vocab.json` cannot tell them from merged tokens.

    For the published vocabulary, the first two equal the published files byte for byte.

    Raises:
        TokenizerError: a file would exceed the limit for reading; nothing is written.
        OSError: the folder cannot be written.
    """
    names = _names(vocabulary)
    ids = {name: i for i, name in enumerate(names)}
    merges = [f"{letters(left)} {letters(right)}" for left, right in vocabulary.merges()]
    table = json.dumps(ids)
    if len(table) > _LIMIT_BYTES:  # letters for bytes above 0x7F take 6 bytes as escapes, 2 as UTF-8
        table = json.dumps(ids, ensure_ascii=False)
    contents = {
        PAIRS[0][0]: (table, _LIMIT_BYTES),
        PAIRS[0][1]: ("\n".join([_HEADER, *merges, ""]), _LIMIT_BYTES),
        WHOLE: (json.dumps(_whole(ids, merges, vocabulary), ensure_ascii=False), _WHOLE_LIMIT_BYTES),
    }
    for name, (text, limit) in contents.items():
        if (size := len(text.encode("utf-8"))) > limit:
            raise TokenizerError(
                f"A vocabulary of {len(ids):,} ids cannot be written: its {name} would have {size:,} bytes, and at "
                f"most {limit:,} are read. Learn a smaller one."
            )
    for name, (text, _) in contents.items():
        files.write_text(folder / name, text)
    files.write_json(folder / SETTINGS, _config(vocabulary.special))
    if vocabulary.words:
        files.write_json(folder / ADDED, dict(vocabulary.words))
    else:
        (folder / ADDED).unlink(missing_ok=True)


def _read_pair(ids_path: Path, merges_path: Path) -> Vocabulary:
    contents = [files.read_bounded(path, _LIMIT_BYTES) for path in (ids_path, merges_path)]
    added_path = ids_path.with_name(ADDED)
    added = _ids_in(files.read_json(added_path), added_path) if added_path.is_file() else {}
    if tuple(hashlib.sha256(content).hexdigest() for content in contents) == _PUBLISHED_SHA256 and not added:
        return published_vocabulary()
    ids = _ids_in(files.parse_json(contents[0], str(ids_path)), ids_path)
    return assemble(ids, _merges_in(contents[1], merges_path), added)


def _merges_in(content: bytes, path: Path) -> list[tuple[str, str]]:
    try:
        lines = content.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path.name} is not UTF-8: {error}") from None
    if lines[0].startswith("#version"):
        del lines[0]
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) > MOST_TOKENS:
        raise TokenizerError(f"{path.name} has {len(lines):,} merges, more than the {MOST_TOKENS:,} that are read")
    return _pairs([line.split(" ") for line in lines], path)


def _pairs(merges: list[Any], path: Path) -> list[tuple[str, str]]:
    for merge in merges:
        if type(merge) is not list or len(merge) != 2 or type(merge[0]) is not str or type(merge[1]) is not str:
            raise TokenizerError(f"{path.name} has {merge!r:.100} where a merge of two tokens was to come")
    return [(left, right) for left, right in merges]


def _read_whole(path: Path) -> Vocabulary:
    whole = files.read_json(path, _WHOLE_LIMIT_BYTES)
    _check_kind(whole)
    added = _added_in(whole, path)
    model = whole["model"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in _list_in(model, "merges", path)]
    return assemble(_ids_in(model.get("vocab"), path), _pairs(pairs, path), added)


def _added_in(whole: Any, path: Path) -> dict[str, int]:
    added: dict[str, int] = {}
    for token in _list_in(whole, "added_tokens", path) if isinstance(whole, dict) else ():
        match token:
            case {"content": str(name), "id": int(token_id)}:
                _check_word(token, path)
                added[name] = token_id
            case _:
                raise TokenizerError(f"{path.name} has {token!r:.100} where an added token was to come")
    return added


def _check_word(token: Any, path: Path) -> None:
    """Refuse an added word that absorbs surrounding spaces or matches only whole words: its texts have other ids."""
    match token:
        case {"content": str(name), **options} if not options.get("special") and not looks_special(name):
            for option in ("single_word", "lstrip", "rstrip"):
                if options.get(option):
                    raise TokenizerError(
                        f"its {path.name} sets {option} of the added word {name!r:.100}, which is not done here. To "
                        f"read it without, set that to false there"
                    )
        case _:
            pass


def _list_in(table: dict[str, Any], name: str, path: Path) -> list[Any]:
    value = table.get(name) or []
    if not isinstance(value, list):
        raise TokenizerError(f"{path.name} has {value!r:.100} where the list of {name} was to come")
    return value


def _check_settings(path: Path) -> None:
    """Refuse settings of Hugging Face's libraries that give texts ids other than GPT-2's."""
    settings: Any = files.read_json(path, _LIMIT_BYTES) if path.is_file() else {}
    for name in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if isinstance(settings, dict) and settings.get(name):
            raise TokenizerError(
                f"its {path.name} sets {name}, which GPT-2's does not. To read it without, set that to false there"
            )
    added = settings.get("added_tokens_decoder") if isinstance(settings, dict) else None
    for token in added.values() if isinstance(added, dict) else ():
        _check_word(token, path)


def _check_kind(whole: Any) -> None:
    """Refuse other ways of splitting and merging than GPT-2's, by name, rather than give wrong ids."""
    match whole:
        case {"model": {"type": "BPE"} as model}:
            pass
        case {"model": {"vocab": dict(), "merges": list()} as model} if "type" not in model:
            pass  # as written by libraries of 2020, e.g. in the published models' file
        case {"model": {"type": kind}}:
            raise TokenizerError(f"its model is {kind!r:.100}, not BPE")
        case _:
            raise TokenizerError(f"{WHOLE} describes no model")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise TokenizerError(f"its model sets {name} to {model[name]!r:.100}, which GPT-2's has not")
    if whole.get("normalizer"):
        raise TokenizerError(f"it changes text before encoding ({whole['normalizer']!r:.100}), which GPT-2's does not")
    match whole.get("post_processor"):
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}]} | {"type": "ByteLevel"} | None:
            pass
        case other:
            raise TokenizerError(f"it adds to the ids of a text by {other!r:.200}, which GPT-2's does not")
    match whole.get("pre_tokenizer"):
        case {"type": "ByteLevel", "add_prefix_space": False, **options} if options.get("use_regex", True):
            pass
        case other:
            raise TokenizerError(f"it splits text by {other!r:.100}, not by GPT-2's pattern")


def _ids_in(value: Any, path: Path) -> dict[str, int]:
    if not isinstance(value, dict):
        raise TokenizerError(f"{path.name} holds no table from token to id")
    return value


def _names(vocabulary: Vocabulary) -> list[str]:
    names = [letters(token) for token in vocabulary.tokens]
    for name, special_id in vocabulary.special.items():
        names[special_id] = name
    return names


def _whole(ids: Mapping[str, int], merges: list[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of `tokenizer.json`, as the `tokenizers` library reads it."""
    bytes_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": special_id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": name not in vocabulary.words,
            }
            for name, special_id in sorted(vocabulary.special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": bytes_level,
        "post_processor": {**bytes_level, "trim_offsets": False},
        "decoder": bytes_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": ids,
            "merges": merges,
        },
    }


def _config(special: Mapping[str, int]) -> dict[str, Any]:
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT) if END_OF_TEXT in special else {}
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 1024,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **ends,
    }
