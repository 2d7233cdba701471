"""Every error this package raises on purpose.

    Gpt2Error
    ├── ConfigError          (ValueError)    a model or training setting that cannot be
    │   └── SettingError                     a setting of a run that is not one, or has a value that it cannot have
    ├── TokenizerError       (ValueError)    a vocabulary or text that cannot be read or written
    ├── DataError            (ValueError)    a document or corpus that cannot be used
    │   └── ShardError                       a token shard that is not what its manifest says
    ├── CheckpointError      (ValueError)    weights that cannot be read or written
    │   ├── FormatError                      the file breaks its own format
    │   └── MismatchError                    sound, but not a GPT-2 or not this GPT-2
    ├── ModelNotFoundError   (LookupError)   no model of that name here
    ├── DownloadError        (RuntimeError)  a download that cannot be made or finished
    ├── BackendError         (RuntimeError)  a device, backend or weight form that cannot be had
    ├── GenerationError      (ValueError)    a request that cannot be generated or scored
    │   └── ContextError                     longer than the model's context
    ├── DeadlineError        (TimeoutError)  a request that was not begun or finished in time
    ├── TrainingError        (RuntimeError)  a run that cannot start or go on
    ├── FolderInUseError     (RuntimeError)  another process holds the folder's lock
    └── MissingExtraError    (ImportError)   an optional dependency is not installed

A message reads: what was asked cannot be done: what was seen. What to do.
Mistakes of our own are assertions, never these.
"""


class Gpt2Error(Exception):
    """The root: `except gpt2.Gpt2Error` catches everything raised on purpose."""


class ConfigError(Gpt2Error, ValueError):
    """A model or training setting that cannot be."""


class SettingError(ConfigError):
    """A setting of a run that is not one, or has a value that it cannot have: whoever gave it can put it right."""


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
    """A sound file that is not a GPT-2, or not the GPT-2 its configuration describes."""


class ModelNotFoundError(Gpt2Error, LookupError):
    """No model of that name on this machine."""


class DownloadError(Gpt2Error, RuntimeError):
    """A download that cannot be made or finished."""


class BackendError(Gpt2Error, RuntimeError):
    """A device, backend or weight form that cannot be had here."""


class GenerationError(Gpt2Error, ValueError):
    """A request that cannot be generated or scored."""


class ContextError(GenerationError):
    """A text longer than the model's context, where sliding was not asked for."""


class DeadlineError(Gpt2Error, TimeoutError):
    """A request that was not begun, or not finished, by the time that it named."""


class TrainingError(Gpt2Error, RuntimeError):
    """A training run that cannot start or go on."""


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
