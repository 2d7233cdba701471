"""Opening a model in any format.

A format is a module with `matches(path) -> bool`, which only looks, and `read(path) -> Checkpoint`. To add one, write
the module and name it in `FORMATS`. The first that matches reads the model; those after it are not even imported.
"""

import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from gpt2.checkpoint.checkpoint import Checkpoint
from gpt2.errors import CheckpointError, FormatError

FORMATS = ("lora", "huggingface", "openai", "llmc", "gguf")

# Formats that read only files at the path, so caches of computed weights may be keyed by those files.
_WHOLE = ("huggingface", "openai", "llmc", "gguf")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read(path: str | Path, *, allow_pickle: bool = False, tanh_gelu: bool = False) -> Checkpoint:
    """Open the model in a folder or file; its arrays stay in the file until they are used.

    Args:
        path: the folder or file.
        allow_pickle: also read files of `torch.save` (nanoGPT, minGPT, Megatron, pytorch_model.bin). Nothing in them is
            run, and a separate process parses them.
        tanh_gelu: accept a model whose own code computes GELU exactly, or may (nanoGPT, some of Megatron's); its
            logits differ a little here.

    Raises:
        FormatError: the format is not supported, or a file is damaged, truncated or hostile.
        MismatchError: the files are sound, but not a GPT-2.
        CheckpointError: the files cannot be opened.
    """
    path = Path(path)
    try:
        for name in FORMATS:
            format = import_module(f"gpt2.checkpoint.{name}")
            if format.matches(path):
                found = format.read(path)
                if name in _WHOLE:
                    found.weights.files = tuple(sorted(path.iterdir())) if path.is_dir() else (path,)
                return _with_sources(found)
        from gpt2.checkpoint import pickled

        if allow_pickle and pickled.matches(path):
            return _with_sources(pickled.read(path, tanh_gelu=tanh_gelu))
        raise _no_format(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _with_sources(found: Checkpoint) -> Checkpoint:
    """The same with the files at its path added to its sources."""
    path = found.path
    here = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return replace(found, sources=(*here, *found.sources))


def _no_format(path: Path) -> CheckpointError:
    from gpt2.checkpoint import megatron
    from gpt2.checkpoint.folder import ONNX_FOLDER

    if not path.exists():
        return CheckpointError(f"{path} cannot be read: there is nothing there.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if megatron.file_in(path) is not None:
        files = [path / megatron.FILE]
    if (path / "latest").is_file() and (steps := sorted(path.glob("checkpoints/step-*"))):
        return FormatError(f"{path} cannot be read: it is a training run. Its newest model is {steps[-1]}.")
    if path.suffix == ".onnx" or (path / ONNX_FOLDER).is_dir() or any(path.glob("*.onnx")):  # the last is Optimum's
        return FormatError(f"{path} cannot be read: it is ONNX, which is written here and not read. Name its source.")
    if path.suffix == ".zip":
        return FormatError(f"{path} cannot be read: archives are not opened. Unpack it, and name the folder.")
    if pickles := [file.name for file in files if file.suffix in _PICKLES]:
        return FormatError(
            f"{path} cannot be read: {pickles[0]} is a pickle, a kind of file that others run programs from. "
            f"Take the same model as safetensors, or rewrite it: `gpt2 convert {shlex.quote(str(path))} DST --to hf "
            f"--allow-pickle` reads the numbers and runs nothing."
        )
    return FormatError(
        f"{path} cannot be read: it is no model in a format known here. Known are a Hugging Face folder (config.json "
        f"with model.safetensors), OpenAI's (hparams.json with checkpoint), llm.c's .bin, .gguf, and an adapter of "
        f"one of these (adapter_config.json)."
    )
