"""Every error this package raises on purpose.

    Gpt2Error
    ├── ConfigError          (ValueError)    an invalid model or training setting
    │   └── SettingError                     an unknown setting of a run, or a value that it cannot have
    ├── TokenizerError       (ValueError)    a vocabulary or text that cannot be read or written
    ├── DataError            (ValueError)    a document or corpus that cannot be used
    │   └── ShardError                       a token shard that is not what its manifest says
    ├── CheckpointError      (ValueError)    weights that cannot be read or written
    │   ├── FormatError                      the file breaks its own format
    │   └── MismatchError                    intact, but not a GPT-2 or not this GPT-2
    ├── ModelNotFoundError   (LookupError)   no model of that name here
    ├── DownloadError        (RuntimeError)  a download that cannot start or finish
    ├── BackendError         (RuntimeError)  a device, backend or weight form that is not available
    ├── GenerationError      (ValueError)    a request that cannot be generated or scored
    │   └── ContextError                     a text longer than the model's context
    ├── DeadlineError        (TimeoutError)  a request not started or finished in time
    ├── TrainingError        (RuntimeError)  a run that cannot start or continue
    ├── FolderInUseError     (RuntimeError)  another process holds the folder's lock
    └── MissingExtraError    (ImportError)   an optional dependency is not installed

A message reads: what was asked cannot be done: what was seen. What to do.
Our own mistakes are assertions, never these.
"""


class Gpt2Error(Exception):
    """The base class: `except gpt2.Gpt2Error` catches every error this package raises on purpose."""


class ConfigError(Gpt2Error, ValueError):
    """An invalid model or training setting."""


class SettingError(ConfigError):
    """An unknown setting of a run, or a value that it cannot have; the user can correct it."""


class TokenizerError(Gpt2Error, ValueError):
    """A vocabulary or text that cannot be read or written."""


class DataError(Gpt2Error, ValueError):
    """A document or corpus that cannot be used."""


class ShardError(DataError):
    """A token shard that is not what its header or manifest says."""


class CheckpointError(Gpt2Error, ValueError):
    """Weights that cannot be read or written."""


class FormatError(CheckpointError):
    """A weight or configuration file that breaks its own format."""


class MismatchError(CheckpointError):
    """An intact file that is not a GPT-2, or not the GPT-2 its configuration describes."""


class ModelNotFoundError(Gpt2Error, LookupError):
    """No model of that name on this machine."""


class DownloadError(Gpt2Error, RuntimeError):
    """A download that cannot start or finish."""


class BackendError(Gpt2Error, RuntimeError):
    """A device, backend or weight form that is not available here."""


class GenerationError(Gpt2Error, ValueError):
    """A request that cannot be generated or scored."""


class ContextError(GenerationError):
    """A text longer than the model's context, without a request to slide."""


class DeadlineError(Gpt2Error, TimeoutError):
    """A request not started or not finished by its deadline."""


class TrainingError(Gpt2Error, RuntimeError):
    """A training run that cannot start or continue."""


class FolderInUseError(Gpt2Error, RuntimeError):
    """Another process holds the lock of this folder."""


class MissingExtraError(Gpt2Error, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    @classmethod
    def of(cls, what: str, *, package: str, extra: str) -> "MissingExtraError":
        """The error of `what`, said as in "The report cannot be drawn", for want of a package that an extra brings."""
        return cls(
            f"{what}: {package} is not installed. Install the extra that brings it: pip install 'gpt2kit[{extra}]', or "
            f"'.[{extra}]' in a checkout."
        )


def did_you_mean(word: str, *known: str, otherwise: str = "", cutoff: float = 0.6) -> str:
    """What to do about a word that is none of the known ones: take the nearest; where none is near, `otherwise`."""
    from difflib import get_close_matches  # here: every verb imports this module, and few words are wrong

    if near := get_close_matches(word, known, n=1, cutoff=cutoff):
        return f"Did you mean {near[0]!r}?"
    return otherwise or f"Known are {', '.join(known)}."
