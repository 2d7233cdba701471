"""All of GPT-2: run it, score with it, train it and look inside, on the hardware you have.

    import gpt2
    model = gpt2.load("gpt2-mini")
    print(model.generate("Once upon a time", max_tokens=50, seed=1).text)

The public names are below. Each is imported on first use, so `import gpt2` takes a few milliseconds, and only
training imports PyTorch.
"""

TYPE_CHECKING = False  # type checkers know the name; importing typing would be half the cost of this module

if TYPE_CHECKING:
    from gpt2.config import ModelConfig as ModelConfig
    from gpt2.errors import BackendError as BackendError
    from gpt2.errors import CheckpointError as CheckpointError
    from gpt2.errors import ConfigError as ConfigError
    from gpt2.errors import ContextError as ContextError
    from gpt2.errors import GenerationError as GenerationError
    from gpt2.errors import Gpt2Error as Gpt2Error
    from gpt2.errors import ModelNotFoundError as ModelNotFoundError
    from gpt2.generation import Sampling as Sampling
    from gpt2.language_model import LanguageModel as LanguageModel
    from gpt2.language_model import load as load
    from gpt2.tokenizer import Tokenizer as Tokenizer
    from gpt2.train.finetune import finetune as finetune  # of gpt2.train, mypy would take the modules of these names
    from gpt2.train.pretrain import pretrain as pretrain

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "GenerationError",
    "Gpt2Error",
    "LanguageModel",
    "ModelConfig",
    "ModelNotFoundError",
    "Sampling",
    "Tokenizer",
    "finetune",
    "load",
    "pretrain",
]

_HOMES = {
    "LanguageModel": "gpt2.language_model",
    "ModelConfig": "gpt2.config",
    "Sampling": "gpt2.generation",
    "Tokenizer": "gpt2.tokenizer",
    "finetune": "gpt2.train",
    "load": "gpt2.language_model",
    "pretrain": "gpt2.train",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gpt2' has no attribute {name!r}")
    from importlib import import_module

    home = _HOMES.get(name, "gpt2.errors")
    try:
        value: object = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if home != "gpt2.train":
            raise
        return _absent(name, str(error.name))
    globals()[name] = value  # found once
    return value


def _absent(name: str, package: str) -> object:
    """What stands for a function whose extra is not installed, so that `help(gpt2)` and `from gpt2 import *` work."""

    def absent(*arguments: object, **settings: object) -> object:
        from gpt2.errors import MissingExtraError

        raise MissingExtraError.of(f"gpt2.{name} cannot start", package=package, extra="train")

    absent.__name__ = absent.__qualname__ = name
    absent.__doc__ = f"Not to be had here: it needs {package}, which the extra `train` brings."
    return absent


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
