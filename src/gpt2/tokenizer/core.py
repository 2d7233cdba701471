"""The compiled core that splits and merges: tiktoken's, built from our own ranks, never its downloading loader."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Protocol, cast

# GPT-2's pattern (cuts.py) in an equivalent form that never backtracks far: letters and numbers are possessive.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Core(Protocol):
    """What is used of tiktoken's `CoreBPE`. It releases the interpreter's lock while it works."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text, special tokens not looked for."""
        ...

    def encode_to_tiktoken_buffer(self, text: str, allowed_special: set[str]) -> bytes:
        """The same ids as uint32 of the machine's byte order."""
        ...


def build_core(ranks: dict[bytes, int]) -> Core:
    """The core of a vocabulary's ranks; takes some 40 ms for the published one, so build it once."""
    return cast("Core", _compiled_module().CoreBPE(ranks, {}, _PATTERN))


def _compiled_module() -> ModuleType:
    """tiktoken's compiled module without the Python package around it, whose imports take longer than its own."""
    name = "tiktoken._tiktoken"
    if name not in sys.modules:
        package = PathFinder.find_spec("tiktoken")
        spec = package and PathFinder.find_spec(name, package.submodule_search_locations)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError("tiktoken's compiled module is not installed.", name=name)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
