"""The compiled core that splits and merges: tiktoken's, built from our own ranks, without its downloading loader."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Protocol, cast

# GPT-2's pattern (cuts.py) in an equivalent form that never backtracks far: letters and numbers are possessive.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Core(Protocol):
    """The part of tiktoken's `CoreBPE` used here. It releases the GIL while it works."""

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text; special tokens are treated as text."""
        ...

    def encode_to_tiktoken_buffer(self, text: str, allowed_special: set[str]) -> bytes:
        """The same ids as uint32 in native byte order."""
        ...


def build_core(ranks: dict[bytes, int]) -> Core:
    """The core of a vocabulary's ranks; takes some 40 ms for the published one, so build it once."""
    return cast("Core", _compiled_module().CoreBPE(ranks, {}, _PATTERN))


def _compiled_module() -> ModuleType:
    """tiktoken's compiled module without its Python package, whose imports take longer than the module's."""
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
