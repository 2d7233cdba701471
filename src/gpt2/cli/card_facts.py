"""What `gpt2 card` finds out about a model: from its files, from given records, and by generating samples."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2 import files
from gpt2.cli.options import ModelChoice
from gpt2.config import PUBLISHED
from gpt2.errors import DataError, MismatchError
from gpt2.report.card import PROMPTS, Described

if TYPE_CHECKING:
    from gpt2.checkpoint import Checkpoint
    from gpt2.detect import Calibration

_LIMIT_BYTES = 256 << 20  # of a record; an evaluation holds a score of every example

_FOLDERS = re.compile(r"(?<!\S)(?:[A-Za-z]:)?[/\\].*[/\\]")  # of a whole path, spaces and all


def described(name: str, found: "Checkpoint") -> Described:
    """The facts in the model's own files."""
    from gpt2.checkpoint import COMPACT, fingerprint

    form = found.weights.form
    transformers = found.format == "hf" and form not in COMPACT
    return Described(
        name=_short(name),
        config=found.config,
        format=found.format,
        form=form,
        bytes=found.weights.nbytes if len(found.weights.forms) == 1 else 4 * found.config.parameters,
        sha256=fingerprint(found.weights),
        library="transformers" if transformers else {"lora": "peft", "gguf": "gguf"}.get(found.format, "gpt2kit"),
        tokenizer=_tokenizer(found),
        notes=[_FOLDERS.sub("", note) for note in found.notes],
    )


def with_records(
    known: Described, found: "Checkpoint", *, runs: Sequence[Path], corpus: Path | None, evaluation: Path | None
) -> Described:
    """The same with facts from runs, a corpus, an evaluation, and a calibration beside the model.

    Raises:
        DataError: one of them is not such a record, or is of another model.
    """
    from gpt2 import hub
    from gpt2.report import card_sections as sections

    shape: dict[str, Any] = {**asdict(known.config), "parameters": known.config.parameters}
    if runs:
        folders = [run if (run / "config.toml").is_file() else run / "run" for run in runs]
        records = [(_toml(each / "config.toml"), files.read_journal(each / "metrics.jsonl")) for each in folders]
        known = replace(known, training=sections.training(records, model=shape))
        base = records[0][0].get("start", {}).get("model", "").removeprefix(f"{hub.PUBLISHER}/")
        known = replace(known, base_model=f"{hub.PUBLISHER}/{base}" if base in PUBLISHED else None)
    if corpus is not None:
        known = replace(known, data=_data(corpus, None if known.tokenizer is None else found.tokenizer().hash))
    if evaluation is not None:
        result = files.read_json(evaluation, _LIMIT_BYTES)
        known = replace(known, evaluation=sections.evaluation(result, model=shape, files_sha256=found.files_sha256()))
    calibration = _calibration(found)
    if calibration is not None:
        from gpt2.cli.calibrating import table_of

        known = replace(known, detection=sections.detection(calibration.made_from, table_of(calibration)))
    return known


def with_samples(known: Described, model: str, count: int, *, threads: int | None) -> Described:
    """The same with the model's continuations of the first `count` fixed prompts."""
    tokens = min(80, known.config.n_positions // 2)
    choice = ModelChoice(model=model, device="auto", backend="auto", weights="fp32", threads=threads)
    with choice.load() as opened:
        made = opened.generate(list(PROMPTS[:count]), max_tokens=tokens, temperature=0.8, top_k=40, seed=1)
        how = f"--max-tokens {tokens} --temperature 0.8 --top-k 40 --seed 1 --weights fp32"
        how += f" --backend {opened.backend.name}"
    return replace(known, samples=[(each.prompt, each.text) for each in made], settings=how)


def _tokenizer(found: "Checkpoint") -> dict[str, object] | None:
    from gpt2.checkpoint.checkpoint import has_vocabulary
    from gpt2.tokenizer import Tokenizer

    try:
        tokenizer = found.tokenizer()
    except MismatchError:
        return None
    own = tokenizer.hash != Tokenizer.published().hash
    kind = "a vocabulary of its own" if own else "GPT-2's published vocabulary"
    if found.vocabulary is None and not has_vocabulary(found.folder):
        kind += ", taken for granted: the size fits, and no vocabulary is with the weights"
    return {
        "Kind": f"byte-level BPE, {kind}",
        "Tokens": tokenizer.vocab_size,
        "SHA-256": tokenizer.hash,
    }


def _calibration(found: "Checkpoint") -> "Calibration | None":
    """The calibration in the model's folder, if it was made with these weights."""
    from gpt2.checkpoint import fingerprint
    from gpt2.detect import Calibration

    made = Calibration.beside(found.folder)
    return made if made is not None and made.fingerprint == fingerprint(found.weights) else None


def _data(folder: Path, tokenizer: str | None) -> str:
    from gpt2.report import card_sections as sections

    if (folder / "stats.json").is_file():
        return sections.corpus(files.read_json(folder / "stats.json", _LIMIT_BYTES))
    if (folder / "manifest.json").is_file():
        return sections.shards(files.read_json(folder / "manifest.json", _LIMIT_BYTES), tokenizer=tokenizer)
    raise DataError(
        f"The card cannot tell of {folder}: it has neither stats.json nor manifest.json. Give a finished folder of "
        f"`gpt2 corpus build` or `gpt2 prepare`."
    )


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"The card cannot tell of the run: {path} is not there. Give the folder of a run.")
    return files.parse_toml(
        files.read_bounded(path, _LIMIT_BYTES), f"The card cannot tell of the run: {path}", DataError
    )


def _short(name: str) -> str:
    """A name, or only the last part of a path, whose folders are private."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
