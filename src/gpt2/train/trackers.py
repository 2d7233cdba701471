"""Other people's pages for a run's numbers, where somebody wants them: TensorBoard, Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2.errors import MissingExtraError
from gpt2.files import make_folder

_AXES = ("step", "tokens", "seconds")


class TensorBoard:
    """Writes event files that `tensorboard --logdir` shows.

    Args:
        folder: for the files.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise _missing("TensorBoard", "tensorboard", error) from error
        self._writer: Any = SummaryWriter(str(folder))

    def tell(self, values: Mapping[str, Any]) -> None:
        """Add a point to every curve."""
        for name, value in values.items():
            if name not in _AXES and value is not None:
                self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """Logs a run to Weights & Biases, by the settings and the login of its own program (`wandb login`, WANDB_MODE).

    Args:
        project: its name there.
        folder: for its local files.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("Weights & Biases", "wandb", error) from error
        make_folder(folder)
        library: Any = wandb
        self._run: Any = library.init(project=project, dir=str(folder))

    def tell(self, values: Mapping[str, Any]) -> None:
        """Add a point to every curve."""
        self._run.log({name: value for name, value in values.items() if value is not None}, step=values["step"])

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


def _missing(what: str, extra: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"{what} cannot be told of the run: {error.name or extra} is not installed. Install the extra that brings it: "
        f"pip install 'gpt2kit[{extra}]', or '.[{extra}]' in a checkout."
    )
