"""HTTP: OpenAI's completions and what belongs to them, over one engine thread a model; the playground page.

Everything here but `Limits` needs the extra `serve`. Importing `gpt2.serve` needs nothing: the command line reads the
limits alone.
"""

from typing import TYPE_CHECKING, Any

from gpt2.serve.limits import Limits

if TYPE_CHECKING:
    from gpt2.serve.app import build_app
    from gpt2.serve.keys import read_keys
    from gpt2.serve.models import ServedModel
    from gpt2.serve.server import Options, Server
    from gpt2.serve.service import Service, build_service

__all__ = ["Limits", "Options", "ServedModel", "Server", "Service", "build_app", "build_service", "read_keys"]

_HOMES = {
    "Options": "server",
    "ServedModel": "models",
    "Server": "server",
    "Service": "service",
    "build_app": "app",
    "build_service": "service",
    "read_keys": "keys",
}
_EXTRA = ("starlette", "uvicorn", "pydantic", "prometheus_client", "llguidance")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from gpt2.errors import MissingExtraError

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError.of("The server cannot run", package=error.name, extra="serve") from error
