"""Models on this machine: finding them in the package, our cache, Hugging Face's or at a path; and fetching them.

Only `plan` and `download` open a connection. They are imported on first use: opening a model does not need them.
"""

from typing import TYPE_CHECKING, Any

from gpt2.files import cache_folder
from gpt2.hub.local import LocalModel, local_models, locate, locate_or_download, removable, remove
from gpt2.hub.places import PUBLISHER, huggingface_cache

if TYPE_CHECKING:
    from gpt2.hub.fetching import SOURCES, Plan, download, plan
    from gpt2.hub.integrity import Hashed, check_hashes

__all__ = [
    "PUBLISHER",
    "SOURCES",
    "Hashed",
    "LocalModel",
    "Plan",
    "cache_folder",
    "check_hashes",
    "download",
    "huggingface_cache",
    "local_models",
    "locate",
    "locate_or_download",
    "plan",
    "removable",
    "remove",
]


_HOMES = {
    "SOURCES": "fetching",
    "Hashed": "integrity",
    "Plan": "fetching",
    "check_hashes": "integrity",
    "download": "fetching",
    "plan": "fetching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
