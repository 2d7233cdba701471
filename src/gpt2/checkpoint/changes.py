"""What a conversion changes, in words."""

from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.checkpoint.forms import COMPACT


def describe_changes(found: Checkpoint, *, format: str, form: str) -> list[str]:
    """What reading a model left out and what writing it in a format and form changes, one line each."""
    return [*found.notes, *_of_layout(found, format), *_of_precision(found.weights.form, format, form)]


def _of_layout(found: Checkpoint, format: str) -> list[str]:
    changes: list[str] = []
    if format in ("nanogpt", "llmc", "gguf"):
        changes.append("matrices transposed from [in, out] to [out, in]")
    if format == "nanogpt":
        changes.append("nanoGPT computes GELU exactly, GPT-2 by its tanh form: its logits will differ a little")
    if format == "llmc" and (rest := -found.config.vocab_size % 128):
        changes.append(f"vocabulary padded with {rest} rows of zeros, to a multiple of 128")
    return changes


def _of_precision(before: str, format: str, after: str) -> list[str]:
    if before == after:
        return []
    exact = after == "fp32" and before not in COMPACT
    rounded = "matrices rounded, vectors and positions in fp32" if format in ("gguf", "onnx") else "every value rounded"
    kept = "no value changed" if exact else rounded if after != "fp32" else f"the rounding of {before} stays"
    return [f"precision from {before} to {after}: {kept}"]
