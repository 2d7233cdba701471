"""Adapters in PEFT's format: a folder with the low-rank changes of some matrices, and the name of their base model.

An adapted matrix is `W + scale * (B A)^T` where W is stored as [in, out] (Hu et al. 2021, LoRA, section 4.1); A is
[rank, in], B is [out, rank], and the scale is alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023).
`read` opens the base and merges the adapter: the result is a GPT-2 like any other.

PEFT supports more than that (DoRA, trained biases, whole modules, ...). Such a folder is refused, naming the setting.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gpt2 import hub
from gpt2.checkpoint.checkpoint import Checkpoint, has_vocabulary
from gpt2.checkpoint.folder_files import inside
from gpt2.checkpoint.safetensors import read_safetensors, write_safetensors
from gpt2.checkpoint.weights import MadeArray, StoredArray, Weights
from gpt2.config import ModelConfig
from gpt2.errors import FormatError, MismatchError, ModelNotFoundError
from gpt2.files import read_json, write_json

NAME = "lora"
SETTINGS = "adapter_config.json"
ARRAYS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MAPS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")

_PREFIXED = "transformer."
_PREFIX = f"base_model.model.{_PREFIXED}"
_KEY = re.compile(
    r"(?:base_model\.model\.)?(transformer\.)?h\.([0-9]{1,8})\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.lora_([AB])\.weight"
)
_PLAIN_PATTERN = re.compile(r"\^?(\w|\.|\\\.|\||\\d\+?|\.\*)*")
_PART = re.compile(r"\\\.|\\d\+?|\.\*|.")  # of such a pattern, between two bars
# Settings that would change the function above, and the values that turn them off.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    # Initialisations that leave the base unchanged; others (PiSSA, OLoRA, CorDA, LoftQ, …) change it.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None, {}),
    "velora_config": (None, {}),
    "monteclora_config": (None, {}),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "megatron_config": (None, {}),
    "arrow_config": (None, {}),
    "kasa_config": (None, {}),
}

_PATTERNS_LIMIT = 1 << 22  # characters of all patterns times the maps that they are compared with: some seconds
_MOST = float(np.finfo(np.float32).max)

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Low-rank changes of a model's matrices.

    Attributes:
        base: the model they change, by a name, a path or a hub id.
        arrays: A and B by name, such as `h.0.attn.c_attn.lora_A` [rank, in] and `h.0.attn.c_attn.lora_B` [out, rank].
        scales: the factor of each map's change, by the map's name, such as `h.0.attn.c_attn`.
    """

    base: str
    arrays: Mapping[str, Floats]
    scales: Mapping[str, float]

    def shape(self, name: str) -> tuple[int, int]:
        """The shape of a changed map's matrix, [in, out]."""
        return self.arrays[f"{name}.lora_A"].shape[1], self.arrays[f"{name}.lora_B"].shape[0]

    def change(self, name: str) -> Floats:
        """The change of a map's matrix, [in, out]."""
        a, b = self.arrays[f"{name}.lora_A"], self.arrays[f"{name}.lora_B"]
        return np.float32(self.scales[name]) * (b @ a).T


class MergedArray(MadeArray):
    """A matrix of the base plus its change, computed on each access and not kept.

    Args:
        base: the matrix, [in, out].
        change: returns the change.
    """

    __slots__ = ("_base", "_change")

    def __init__(self, base: StoredArray, change: Callable[[], Floats]) -> None:
        super().__init__(dtype="F32", _base=base, _change=change)

    @property
    def data(self) -> Floats:  # pyright: ignore[reportIncompatibleVariableOverride] - made anew each time it is read
        """The sum."""
        return self._base.float32() + self._change()

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's shape."""
        return self._base.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values in float32."""
        return 4 * math.prod(self.shape)

    def release(self) -> None:
        """Let the system forget the mapped pages behind the base."""
        self._base.release()


def matches(path: Path) -> bool:
    """Whether a folder holds an adapter."""
    return path.is_dir() and (path / SETTINGS).is_file()


def read(path: Path) -> Checkpoint:
    """Open an adapter's base and merge the adapter into it.

    Raises:
        FormatError: a file is damaged or missing.
        MismatchError: the adapter is of another kind, or not of this base.
        ModelNotFoundError: the base is not on this machine.
    """
    adapter = read_adapter(path)
    base = _base(adapter.base, path)
    merged = merge(base.weights, adapter)
    vocabulary = None if has_vocabulary(path) else base.tokenizer
    note = f"the adapter's changes of {len(adapter.scales)} matrices were merged into {adapter.base}"
    notes = (*base.notes, note)
    return replace(base, weights=merged, path=path, format=NAME, notes=notes, vocabulary=vocabulary)


def merge(weights: Weights, adapter: Adapter) -> Weights:
    """The base with the changes added on access, in float32.

    Raises:
        MismatchError: the adapter changes a map that this model does not have, or has other shapes.
    """
    arrays = {name: weights.stored(name) for name in weights.names}
    for name in adapter.scales:
        stored, shape = arrays.get(f"{name}.w"), adapter.shape(name)
        if stored is None or stored.shape != shape:
            seen = "no such matrix" if stored is None else f"one of {list(stored.shape)}"
            raise MismatchError(
                f"The adapter is not one of this model: it changes {name} with {list(shape)}, and the model "
                f"has {seen}. Name the base it was trained on ({adapter.base[:200]})."
            )
        arrays[f"{name}.w"] = MergedArray(stored, partial(adapter.change, name))
    return Weights(weights.config, arrays)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder, its arrays in float32.

    Raises:
        FormatError: a file is damaged or missing.
        MismatchError: the adapter is of an unsupported kind.
    """
    settings: Any = read_json(inside(folder, SETTINGS))
    if not isinstance(settings, dict):
        raise FormatError(f"{folder / SETTINGS} is not an adapter's configuration: it holds no object.")
    _refuse_other_kinds(settings, folder)
    if not (folder / ARRAYS).is_file():
        if (folder / PICKLE).is_file():
            raise FormatError(
                f"{folder} cannot be read: {PICKLE} is a pickle, a kind of file that others run programs from. Load it "
                f"with PEFT and save it again: PEFT now writes {ARRAYS}."
            )
        raise FormatError(f"{folder} is not complete: it has {SETTINGS} and no {ARRAYS}. Copy it again.")
    arrays: dict[str, Floats] = {}
    prefixes: dict[str, str] = {}  # what precedes a map's name in PEFT's model; nothing for GPT2Model
    for stored_name, array in read_safetensors(inside(folder, ARRAYS)).items():
        found = _KEY.fullmatch(stored_name)
        if found is None or len(array.shape) != 2 or array.dtype not in ("F64", "F32", "F16", "BF16"):
            raise MismatchError(
                f"{folder} cannot be merged: it holds {stored_name[:120]!r}, which changes no linear map of a GPT-2."
            )
        name = f"h.{found[2]}.{found[3]}.lora_{found[4]}"
        prefixes[f"h.{found[2]}.{found[3]}"] = found[1] or ""
        if name in arrays:
            raise FormatError(f"{folder / ARRAYS} is broken: {stored_name[:120]!r} is there under another name too.")
        arrays[name] = array.float32()
    patterns = settings.get("alpha_pattern")
    if isinstance(patterns, dict) and len(arrays) * sum(map(len, cast("dict[str, Any]", patterns))) > _PATTERNS_LIMIT:
        raise FormatError(f"{folder / SETTINGS} is refused: its alpha_pattern is too long for {len(arrays):,} arrays.")
    scales: dict[str, float] = {}
    for name in sorted({name.rpartition(".")[0] for name in arrays}):
        a, b = arrays.get(f"{name}.lora_A"), arrays.get(f"{name}.lora_B")
        if a is None or b is None or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise FormatError(f"{folder / ARRAYS} is broken: {name} needs lora_A and lora_B of one rank, 1 or more.")
        scales[name] = _scale(settings, name, a.shape[0], folder, prefixes[name])
    if not scales:
        raise FormatError(f"{folder / ARRAYS} holds no arrays: there is nothing to merge.")
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise FormatError(
            f"{folder / SETTINGS} does not name the adapter's base. Put the base's name or path there, as "
            f"base_model_name_or_path."
        )
    return Adapter(base=base, arrays=arrays, scales=scales)


def write_adapter(
    folder: Path,
    arrays: Mapping[str, NDArray[Any]],
    *,
    base: str,
    alpha: float,
    dropout: float,
    targets: tuple[str, ...],
) -> None:
    """Write an adapter's two files into an existing folder, as PEFT writes and reads them.

    Args:
        folder: to fill.
        arrays: A and B, named as in `Adapter.arrays`; all of one rank.
        base: the model it changes, by a name, a path or a hub id.
        alpha: a change is scaled by alpha / rank.
        dropout: that it was trained with.
        targets: the maps it changes, of `MAPS`.
    """
    rank = next(a.shape[0] for name, a in arrays.items() if name.endswith("lora_A"))
    write_json(
        folder / SETTINGS,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": sorted(targets),
            "fan_in_fan_out": True,  # GPT-2's files store a map as [in, out]
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "modules_to_save": None,
            "init_lora_weights": True,
            "inference_mode": True,
        },
    )
    stored = {
        f"{_PREFIX}{name}.weight": StoredArray(data=np.ascontiguousarray(array, dtype=np.float32), dtype="F32")
        for name, array in sorted(arrays.items())
    }
    write_safetensors(folder / ARRAYS, stored, metadata={"format": "pt"})


def map_names(config: ModelConfig, targets: tuple[str, ...]) -> list[str]:
    """The maps that `targets` select, in the order of the computation.

    As in PEFT, a target is the end of a map's name: `c_proj` selects the attention's and the MLP's.

    Raises:
        MismatchError: no map's name ends in a target.
    """
    check_targets(targets)
    chosen = [name for name in MAPS if any(name == t or name.endswith(f".{t}") for t in targets)]
    return [f"h.{layer}.{name}" for layer in range(config.n_layer) for name in chosen]


def check_targets(targets: tuple[str, ...]) -> None:
    """Refuse targets that adapters cannot change.

    Raises:
        MismatchError: no map's name ends in a target.
    """
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in MAPS):
            raise MismatchError(f"LoRA cannot change {target!r}: a GPT-2 has the maps {', '.join(MAPS)}. Name some.")


def _refuse_other_kinds(settings: Mapping[str, Any], folder: Path) -> None:
    if settings.get("peft_type") != "LORA":
        raise MismatchError(
            f"{folder} cannot be merged: it is an adapter of the kind {settings.get('peft_type')!r:.60}; LORA is read "
            f"here."
        )
    for key, without in _UNSUPPORTED.items():
        if settings.get(key, without[0]) not in without:
            raise MismatchError(
                f"{folder} cannot be merged: it uses {key} = {settings[key]!r:.60}, which is not plain LoRA. "
                f"Merge it with PEFT (merge_and_unload) and save that."
            )


def _scale(settings: Mapping[str, Any], name: str, rank: int, folder: Path, prefix: str) -> float:
    alpha = _pattern(settings.get("alpha_pattern"), name, settings.get("lora_alpha"), prefix)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= _MOST:
        raise FormatError(f"{folder / SETTINGS} has no number lora_alpha: got {alpha!r:.60}.")
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank


def _pattern(patterns: object, name: str, otherwise: Any, prefix: str = _PREFIXED) -> Any:
    """PEFT's rule: the value of the first pattern that a module's name ends in. Rank patterns show in the shapes.

    Raises:
        MismatchError: a pattern is more than names and numbers.
    """
    for pattern, value in cast("dict[str, Any]", patterns).items() if isinstance(patterns, dict) else ():
        if len(pattern) > 400 or not _PLAIN_PATTERN.fullmatch(pattern):
            raise MismatchError(
                f"The adapter cannot be merged: its alpha_pattern {pattern[:80]!r} is not a plain name."
            )
        begins, *others = (_PART.findall(one) for one in pattern.removeprefix("^").split("|"))
        whole = f"{prefix}{name}"
        if _fits(begins, whole, is_end=pattern[:1] != "^") or any(_fits(one, whole, is_end=True) for one in others):
            return value
    return otherwise


def _fits(parts: list[str], name: str, *, is_end: bool) -> bool:
    """Whether the parts of a pattern match the whole name or, with `is_end`, all that follows some dot in it.

    `re` backtracks, and would never finish with twenty `.*`; here all ways are followed at once.
    """
    reached = {0}
    for character in name:
        after: set[int] = {0} if is_end and character == "." else set()
        for at, part in enumerate(parts):
            if at not in reached:
                continue
            if part == ".*":
                reached.add(at + 1)
                after.add(at)
            elif part.startswith(r"\d"):
                if character.isdecimal():
                    after.update((at, at + 1) if part.endswith("+") else (at + 1,))
            elif part in (".", character, f"\\{character}"):
                after.add(at + 1)
        reached = after
    return any(set(parts[at:]) <= {".*"} for at in reached)


def _base(name: str, folder: Path) -> Checkpoint:
    from gpt2.checkpoint.reading import read as read_any

    try:
        found = hub.locate(name)
    except ModelNotFoundError:
        beside = folder / name  # an adapter may come together with its base
        if not beside.exists():
            raise ModelNotFoundError(
                f"{folder} is an adapter, and its base {name[:200]!r} is not on this machine. Download that, or put "
                f"its place into {SETTINGS} as base_model_name_or_path."
            ) from None
        found = beside
    if matches(found):
        raise MismatchError(f"{folder} is an adapter of another adapter, {found}. Merge that one first (gpt2 convert).")
    return read_any(found)
