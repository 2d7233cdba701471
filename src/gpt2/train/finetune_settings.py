"""The settings of a fine-tuning, from the size of the text, the shape of the model and the device.

The optimizer is AdamW: in trials Muon gained little (docs/finetune.md).
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.checkpoint.lora import check_targets
from gpt2.config import ModelConfig
from gpt2.train.config import LoraConfig, ScheduleConfig, TrainConfig
from gpt2.train.config_files import build, config_from, overridden
from gpt2.train.finetune_data import Prepared
from gpt2.train.precision import choose_precision

RUN = "run"  # the run's folder, inside the model's

# (tokens up to which, epochs at most); a run ends earlier if its validation loss rises again.
_EPOCHS = ((50_000, 12), (500_000, 6), (5_000_000, 3), (50_000_000, 2))
# Peak rates at a width of 768; wider models want smaller ones. Four times the first undid in two steps what the model
# knew, which then took a whole run to win back (docs/notes/2026-11-26-fine-tuning.md).
_FULL_LR, _LORA_LR = 5e-5, 1e-3
_LR_WIDTH = 768
_STEPS_AN_EPOCH = 40  # at least, as long as a batch holds one sequence
_MOST_BATCH_TOKENS = {"cpu": 8192, "mps": 16_384, "cuda": 65_536}
_PATIENCE = 3


def choose_config(
    model: ModelConfig,
    prepared: Prepared | None,
    *,
    name: str,
    out: Path,
    lora: LoraConfig,
    epochs: float | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """The settings for a text of this size and a model of this shape; pure except for looking at the device.

    With None for a text not read yet, they are only checked, with a made-up length.

    Raises:
        SettingError: an override is invalid.
        MismatchError: adapters are asked for on maps that a GPT-2 does not have.
        BackendError: the device is not here.
    """
    base_lr = (_LORA_LR if lora.rank else _FULL_LR) * (_LR_WIDTH / model.n_embd) ** 0.5
    tree: dict[str, Any] = {
        "model": dataclasses.asdict(model),
        "start": {"model": name},
        "lora": dataclasses.asdict(lora),
        "data": {"folder": str(out / RUN / "data"), "tokenizer": str(out / RUN / "vocabulary")},
        "optim": {"matrices": "adamw", "lr": float(f"{base_lr:.2g}"), "betas": [0.9, 0.98], "weight_decay": 0.01},
        "run": {"folder": str(out / RUN), "keep": 1},
    }
    said = overridden({"schedule": {}}, overrides)["schedule"]
    lengths = [n for _, n in build(ScheduleConfig, said, "schedule.").sequence] if "sequence" in said else []
    any_length = {"tokens": 1, "batch_tokens": max(1, math.lcm(*lengths)), "sequence": [[0.0, 1]]}
    asked = config_from(tree | {"schedule": any_length}, overrides)
    if asked.lora.rank:
        check_targets(asked.lora.targets)
    device = choose_precision(asked.run).device.type
    if prepared is None:
        return asked
    return config_from(_with_length(tree, model, prepared, device, epochs, lengths), overrides)


def _with_length(
    tree: dict[str, Any],
    model: ModelConfig,
    prepared: Prepared,
    device: str,
    epochs: float | None,
    lengths: Sequence[int],
) -> dict[str, Any]:
    """The settings that follow from the length of the text and, if the user chose them, of the sequences."""
    context = lengths[-1] if lengths else model.n_positions
    while context > 16 and 4 * context > prepared.tokens:  # for at least four different sequences
        context //= 2
    whole = math.lcm(*lengths) if lengths else context  # a batch is a multiple of every sequence
    batch_tokens = whole * max(
        1, min(prepared.tokens // (_STEPS_AN_EPOCH * whole), _MOST_BATCH_TOKENS[device] // whole)
    )
    times = epochs or next((n for limit, n in _EPOCHS if prepared.tokens <= limit), 1)
    steps = max(1, round(times * prepared.tokens / batch_tokens))
    a_few_an_epoch = max(1, min(prepared.tokens // batch_tokens // 3, 200))
    schedule = {
        "tokens": steps * batch_tokens,
        "batch_tokens": batch_tokens,
        "sequence": [[0.0, context]],
        "shape": "trapezoid",
        "warmup_fraction": 0.05,
        "decay_fraction": 0.95,
    }
    run = {
        "validate_every_steps": a_few_an_epoch,
        "validation_tokens": 65_536,
        "checkpoint_every_steps": a_few_an_epoch,
        "sample_every_steps": max(1, steps // 5),
        "patience": _PATIENCE if prepared.validation_tokens else 0,
    }
    return {**tree, "schedule": schedule, "run": tree["run"] | run}
