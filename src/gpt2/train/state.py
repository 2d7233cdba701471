"""What must survive a crash, and how it is kept: each saved `TrainState` is a folder.

`checkpoints/step-N/` is a model folder (`model.safetensors`, `config.json`, ...; or an adapter's) with
`training_state.safetensors` (the optimizer's arrays and the random state), `training_state.json` (all that is not an
array) and a manifest of SHA-256. It is written under a temporary name, flushed and renamed; `latest` is written last.
So whenever the process dies, the folder that `latest` names is whole.
"""

import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2 import files
from gpt2.data import Cursor
from gpt2.errors import CheckpointError, FormatError, TrainingError
from gpt2.model.gpt import whole
from gpt2.tokenizer import Tokenizer
from gpt2.train import weights as weight_files
from gpt2.train.parallel import like
from gpt2.train.scaling import LossScale
from gpt2.train.step import Learner

_log = logging.getLogger("gpt2")
_ARRAYS, _FACTS = "training_state.safetensors", "training_state.json"
_RNG = "rng"
_VERSION = 2  # of these two files; version 1 kept the loss scale beside `progress`, in it, or nowhere
_NO_SCALE = {"factor": 1.0, "good_steps": 0}  # a float32 or bfloat16 run's, from before `fixed` was saved


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is: everything that changes from step to step besides weights, moments and random state.

    Attributes:
        step: optimizer steps done, including skipped ones.
        tokens: read so far.
        seconds: spent in steps, over all starts of the run.
        cursor: where the data continue.
        best_loss: the lowest validation loss so far.
        best_step: where it was measured.
        validations_since_best: in a row, none of them a new best.
        skipped: steps skipped because loss or gradient was not finite.
        skipped_in_a_row: skipped steps since the last good one.
        returns: how often the run went back to a saved state.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cursor: Cursor
    best_loss: float | None = None
    best_step: int | None = None
    validations_since_best: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    returns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """Exactly what must survive a crash.

    Attributes:
        weights: every parameter by OpenAI's name.
        optimizer: every array of every optimizer, as `parameter name/array name`.
        rng: PyTorch's random state on the CPU, uint8. (Data order and sampled rows are functions of the seed and
            of the cursor or step, so they have no state.)
        progress: how far the run is.
        loss_scale: the factor of gradients in float16; `fixed` if it was not in use.
        config: the resolved configuration, as a tree.
        tokenizer_hash: of the vocabulary that the data were written with.
        data_hash: of the data; empty in what earlier versions wrote.
        start_hash: of the weights of `start.model`, wherever they lie; empty without one, and in what earlier versions
            wrote.
    """

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rng: Tensor
    progress: Progress
    loss_scale: LossScale
    config: Mapping[str, Any]
    tokenizer_hash: str
    data_hash: str
    start_hash: str


def optimizer_arrays(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """The optimizers' arrays, by parameter; sharded arrays are gathered one at a time."""
    names: dict[Tensor, str] = {p: name for name, p in learner.model.named_parameters()}
    for optimizer in learner.optimizers:
        for p, values in optimizer.state.items():
            for key, value in values.items():
                yield f"{names[p]}/{key}", whole(value)


def restore(learner: Learner, state: TrainState) -> None:
    """Restore saved weights and optimizers; the number of processes may differ from the saved run's.

    Raises:
        MismatchError: the weights are not those of this model.
        CheckpointError: the arrays are not those of its optimizers.
    """
    weight_files.put_arrays(learner.model, state.weights)
    parameters = dict(learner.model.named_parameters())
    owner: dict[Tensor, torch.optim.Optimizer] = {
        p: optimizer for optimizer in learner.optimizers for g in optimizer.param_groups for p in g["params"]
    }
    for optimizer in learner.optimizers:
        optimizer.state.clear()
    for name, value in state.optimizer.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters.get(parameter_name)
        if parameter is None or parameter not in owner:
            raise CheckpointError(f"The saved state has {name!r}, which no optimizer here has.")
        is_cut = value.shape == parameter.shape  # sharded like its parameter; a count of steps is not
        own = like(parameter, value) if is_cut else value.to(parameter.device, copy=True)
        owner[parameter].state[parameter][key] = own


def save(run_folder: Path, state: TrainState, tokenizer: Tokenizer, *, keep: int) -> Path:
    """Write a checkpoint, then `latest`; then remove old checkpoints.

    Raises:
        TrainingError: the weights are not finite.
        OSError: the disk is full or cannot be written; what was there before stays.
    """
    for name, weight in state.weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"The weights at step {state.progress.step} cannot be saved: {name} is not finite.")
    folder = checkpoint_folder(run_folder, state.progress.step)
    with files.atomic_folder(folder) as partial:
        weight_files.write(partial, state.weights, state.config, tokenizer)
        weight_files.write_arrays(partial / _ARRAYS, {**state.optimizer, _RNG: state.rng})
        files.write_json(
            partial / _FACTS,
            {
                "progress": asdict(state.progress) | {"cursor": state.progress.cursor.to_json()},
                "loss_scale": asdict(state.loss_scale),
                "config": state.config,
                "tokenizer_hash": state.tokenizer_hash,
                "data_hash": state.data_hash,
                "start_hash": state.start_hash,
            },
        )
        files.write_manifest(partial, {"format": "training state", "version": _VERSION})
    files.write_text(run_folder / "latest", folder.name + "\n")
    _remove_old(run_folder, keep=keep, best_step=state.progress.best_step)
    return folder


def load(folder: Path) -> TrainState:
    """Read a checkpoint of this version or the one before; its manifest must have been checked.

    Raises:
        CheckpointError: it cannot be read as a checkpoint.
    """
    version = files.read_json(folder / files.MANIFEST_NAME).get("version")
    if version not in (1, _VERSION):
        raise CheckpointError(
            f"{folder} cannot be gone on from: its training state has version {version!r}, and versions 1 and "
            f"{_VERSION} are read here. Go on with the gpt2 that wrote it; its weights can be used all the same."
        )
    facts = files.read_json(folder / _FACTS)
    arrays = weight_files.read_arrays(folder / _ARRAYS)
    try:
        progress: dict[str, Any] = {**facts["progress"], "cursor": Cursor.from_json(facts["progress"]["cursor"])}
        if "validations_since_best" not in progress and progress["best_step"] is not None:  # of an earlier package
            every = facts["config"]["run"]["validate_every_steps"]
            progress["validations_since_best"] = every and (progress["step"] - progress["best_step"]) // every
        scale = _scale_of_version_1(facts, progress) if version == 1 else facts["loss_scale"]
        return TrainState(
            weights=weight_files.read(folder),
            rng=arrays.pop(_RNG),
            optimizer=arrays,
            progress=Progress(**progress),
            loss_scale=LossScale(**{"fixed": scale == _NO_SCALE, **scale}),
            config=facts["config"],
            tokenizer_hash=facts["tokenizer_hash"],
            data_hash=facts.get("data_hash", ""),
            start_hash=facts.get("start_hash", ""),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} cannot be read as a training checkpoint: {error!r} is amiss.") from error


def _scale_of_version_1(facts: Mapping[str, Any], progress: dict[str, Any]) -> Mapping[str, Any]:
    """The loss scale, wherever it was kept; its entries are removed from `progress`."""
    kept = {"factor": progress.pop("loss_scale", None), "good_steps": progress.pop("loss_scale_steps", None)}
    return facts.get("loss_scale", {**_NO_SCALE, **{name: value for name, value in kept.items() if value is not None}})


def latest(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None. Broken ones are skipped with a warning."""
    name = _named(run_folder)
    if name is None:
        return None
    found = [folder for folder in reversed(checkpoints(run_folder)) if not name or folder.name < name]
    for folder in [run_folder / "checkpoints" / name, *found] if name else found:
        try:
            problems = files.broken_files(folder)
        except FormatError as error:
            problems = [str(error)]
        if not problems:
            return folder
        _log.warning("%s is broken (%s); going back to the one before it", folder, problems[0])
    raise TrainingError(f"{run_folder} has no whole checkpoint left. Remove the folder to start again.")


def has_learned(run_folder: Path) -> bool:
    """Whether a run saved any step; a run stopped before its first step saved only its initial state."""
    return _named(run_folder) not in (None, checkpoint_folder(run_folder, 0).name)


def _named(run_folder: Path) -> str | None:
    """The checkpoint that `latest` names: "" if the file is damaged or lost, None if nothing was saved."""
    marker = run_folder / "latest"
    if not marker.is_file():
        return "" if any(folder != checkpoint_folder(run_folder, 0) for folder in checkpoints(run_folder)) else None
    name = marker.read_text(encoding="utf-8", errors="replace").strip()
    return name if re.fullmatch("step-[0-9]+", name) else ""


def drop_beginning(run_folder: Path) -> None:
    """Remove the state of a run that was stopped before its first step; the next start may then be another run."""
    if not has_learned(run_folder):
        (run_folder / "latest").unlink(missing_ok=True)
        shutil.rmtree(checkpoint_folder(run_folder, 0), ignore_errors=True)


def checkpoints(run_folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"))


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """The folder of the state after a step, if it is kept."""
    return run_folder / "checkpoints" / f"step-{step:08d}"


def _remove_old(run_folder: Path, *, keep: int, best_step: int | None) -> None:
    folders: Iterable[Path] = checkpoints(run_folder)[:-keep]
    for folder in folders:
        if best_step is None or folder != checkpoint_folder(run_folder, best_step):
            shutil.rmtree(folder, ignore_errors=True)
    for left in (run_folder / "checkpoints").glob(".partial-*"):  # left by a process killed while saving
        shutil.rmtree(left, ignore_errors=True)
