import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2.data import Loader, Source, prepare
from gpt2.errors import ConfigError, DataError, ShardError
from gpt2.model.gpt import GPT
from gpt2.tokenizer import Tokenizer
from gpt2.train import TrainConfig
from gpt2.train.callbacks import validation_loss
from gpt2.train.feed import MARKS, Ahead, Feed
from gpt2.train.finetune_data import prepare_text
from gpt2.train.loop import Run
from gpt2.train.precision import choose_precision
from gpt2.train.step import Learner

Make = Callable[..., TrainConfig]


def test_stages_change_the_length_of_a_sequence_and_never_the_batch(make_config: Make) -> None:
    feed = Feed(make_config())
    cursor = feed.start()
    for progress, shape in ((0.0, (8, 16)), (0.49, (8, 16)), (0.5, (4, 32)), (0.99, (4, 32))):
        batch, _ = feed.batch(cursor, progress)
        assert batch.inputs.shape == batch.targets.shape == shape
        assert (batch.inputs[:, 1:] == batch.targets[:, :-1]).all()
        cursor = batch.cursor


def test_a_loop_of_ones_own_reads_the_batches_of_a_run(make_config: Make) -> None:
    config = make_config()
    feed = Feed(config)
    source = Source(folder=config.data.folder, weight=1, name="all")
    cursor = feed.start()
    for progress, length in ((0.0, 16), (0.49, 16), (0.5, 32), (0.99, 32)):
        loader = Loader(
            [source], seq_tokens=length, batch_sequences=128 // length, seed=config.run.seed, chunk_tokens=32
        )
        expected, (batch, _) = loader.batch(cursor), feed.batch(cursor, progress)
        assert (batch.inputs == expected.inputs).all() and (batch.targets == expected.targets).all()
        cursor = batch.cursor


def test_frequencies_are_those_of_the_data(make_config: Make) -> None:
    feed = Feed(make_config())
    frequency = feed.frequencies()
    assert frequency.sum() == pytest.approx(1.0)
    cursor, seen = feed.start(), np.zeros(frequency.size)
    for _ in range(100):
        batch, _ = feed.batch(cursor, 0.0)
        seen += np.bincount(batch.inputs.ravel(), minlength=seen.size)
        cursor = batch.cursor
    assert not seen[frequency == 0.0].any()
    assert np.abs(seen / seen.sum() - frequency).sum() < 0.05


def test_a_mixture_weighs_frequencies_and_batches(make_config: Make, data: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(data / "vocabulary")
    for name, text in (("a", "cat " * 2000), ("b", "dog " * 500)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        prepare([tmp_path / f"{name}.txt"], tmp_path / "mix" / name, tokenizer=tokenizer)
    mixture = {"folder": str(tmp_path / "mix"), "mixture": {"a": 3.0, "b": 1.0}}
    feed = Feed(make_config(data=mixture))
    cat, dog = (tokenizer.encode(f" {word} {word}")[-1] for word in ("cat", "dog"))
    frequency = feed.frequencies()
    assert frequency[cat] / frequency[dog] == pytest.approx(3.0, rel=0.05)
    cursor = feed.start()
    for _ in range(20):
        cursor = feed.batch(cursor, 0.0)[0].cursor
    assert cursor.tokens["a"] / cursor.tokens["b"] == pytest.approx(3.0, rel=0.05)
    assert feed.validation is None


@pytest.mark.parametrize("names", [("web", "chats"), ("chats", "web")])
def test_prompts_are_not_mixed_with_other_data(
    make_config: Make, data: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    tokenizer = Tokenizer.from_folder(data / "vocabulary")
    (tmp_path / "web.txt").write_text("cat " * 2000, encoding="utf-8")
    prepare([tmp_path / "web.txt"], tmp_path / "mix" / "web", tokenizer=tokenizer)
    with_prompts(tmp_path / "mix" / "chats", tokenizer)
    with pytest.raises(DataError, match="Data with prompts cannot be mixed with others"):
        Feed(make_config(data={"folder": str(tmp_path / "mix"), "mixture": dict.fromkeys(names, 1.0)}))


def test_prompts_are_not_learned_because_what_marks_them_is_broken(
    make_config: Make, data: Path, tmp_path: Path
) -> None:
    chats = with_prompts(tmp_path / "chats", Tokenizer.from_folder(data / "vocabulary"))
    Feed(make_config(data={"folder": str(chats), "tokenizer": str(data / "vocabulary")}))
    for file in chats.glob(f"train{MARKS}*"):
        file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ShardError):
        Feed(make_config(data={"folder": str(chats), "tokenizer": str(data / "vocabulary")}))


def with_prompts(folder: Path, tokenizer: Tokenizer) -> Path:
    """Shards of examples whose prompts are only read."""
    file = folder.with_suffix(".jsonl")
    pair = {"prompt": "Question?", "completion": " Answer it is."}
    file.write_text(f"{json.dumps(pair)}\n" * 200, encoding="utf-8")
    prepare_text(file, folder, tokenizer, field="", validation=0.1)
    return folder


def test_validation_is_cut_at_a_batch(make_config: Make) -> None:
    feed = Feed(make_config())
    assert feed.validation is not None
    for asked, got in ((100, 128), (128, 128)):
        some = list(feed.validation_batches(seq_tokens=16, n_tokens=asked, batch_tokens=64))
        assert sum(batch.inputs.size for batch, _ in some) == got
    everything = list(feed.validation_batches(seq_tokens=16, n_tokens=0, batch_tokens=64))
    assert sum(batch.inputs.size for batch, _ in everything) == feed.validation.n_tokens - 1


def run_of(config: TrainConfig, dropout: float = 0.0) -> Run:
    """A run whose model gives every token the same probability."""
    model = GPT(config.model, dropout=dropout)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return Run(config, Learner(model, config, choose_precision(config.run)), Feed(config), Path())


def test_the_held_out_loss_is_the_mean_over_what_is_to_be_learned(
    make_config: Make, data: Path, tmp_path: Path
) -> None:
    chats = with_prompts(tmp_path / "chats", Tokenizer.from_folder(data / "vocabulary"))
    run = run_of(make_config(data={"folder": str(chats)}, loss={"rows": 0}))
    loss, n_tokens = validation_loss(run, seq_tokens=16, n_tokens=0)
    assert loss == pytest.approx(math.log(300))
    assert run.feed.validation is not None and 0 < n_tokens < run.feed.validation.n_tokens - 1


def test_nothing_is_dropped_where_the_held_out_loss_is_measured(make_config: Make) -> None:
    run = run_of(make_config(loss={"rows": 0}), dropout=0.5)
    with torch.no_grad():
        run.learner.model.wte.weight.normal_(generator=torch.Generator().manual_seed(0))
        run.learner.model.ln_f.weight.fill_(1.0)
    losses = {validation_loss(run, seq_tokens=16, n_tokens=64) for _ in range(2)}
    assert len(losses) == 1
    assert run.learner.model.training


def test_a_folder_may_be_held_out_as_a_whole(make_config: Make, data: Path) -> None:
    shards = {"folder": str(data), "mixture": {"shards": 1.0}}
    held_out = Feed(make_config(data=shards | {"validation": "shards"}))
    assert held_out.validation is not None
    assert held_out.data_hash != Feed(make_config(data=shards)).data_hash, "it is read too"
    with pytest.raises(DataError, match="nothing to validate with"):
        Feed(make_config(data=shards | {"validation": "elsewhere"}))


def test_a_vocabulary_larger_than_the_model_is_refused(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"Set model\.vocab_size"):
        Feed(make_config(model={"vocab_size": 256}, loss={"rows": 0}))


def test_read_ahead_gives_what_the_feed_gives(make_config: Make) -> None:
    feed = Feed(make_config())
    ahead, cursor = Ahead(feed), feed.start()
    for progress in (0.0, 0.1, 0.2):
        expected, _ = feed.batch(cursor, progress)
        batch, _ = ahead.batch(cursor, progress)
        np.testing.assert_array_equal(batch.inputs, expected.inputs)
        np.testing.assert_array_equal(batch.targets, expected.targets)
        ahead.read(batch.cursor, progress + 0.1)
        cursor = batch.cursor
    restarted, _ = ahead.batch(feed.start(), 0.0)  # not what was read ahead
    np.testing.assert_array_equal(restarted.inputs, feed.batch(feed.start(), 0.0)[0].inputs)
