"""Optional trackers of a run's numbers: TensorBoard, Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2.errors import MissingExtraError
from gpt2.files import make_folder

_AXES = ("step", "tokens", "seconds")


class TensorBoard:
    """Writes event files that `tensorboard --logdir` shows.

    Args:
        folder: for the files; made when the run begins.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise _missing("TensorBoard", "tensorboard", error) from error
        self._open: Callable[[str], Any] = SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def begin(self) -> None:
        """Open the files; a run does so just before its first step."""
        if self._writer is None:
            self._writer = self._open(str(self._folder))

    def tell(self, values: Mapping[str, Any]) -> None:
        """Add a point to every curve."""
        self.begin()
        for name, value in values.items():
            if name not in _AXES and value is not None:
                self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """Logs a run to Weights & Biases, with the settings and login of its own program (`wandb login`, WANDB_MODE).

    Args:
        project: its name there.
        folder: for its local files; made when the run begins.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("Weights & Biases", "wandb", error) from error
        self._library: Any = wandb
        self._project, self._folder = project, folder
        self._run: Any = None

    def begin(self) -> None:
        """Begin the run at W&B, just before our first step; without a login our run ends at once."""
        if self._run is None:
            make_folder(self._folder)
            self._run = self._library.init(project=self._project, dir=str(self._folder))

    def tell(self, values: Mapping[str, Any]) -> None:
        """Add a point to every curve."""
        self.begin()
        self._run.log({name: value for name, value in values.items() if value is not None}, step=values["step"])

    def close(self) -> None:
        """Finish the run at W&B."""
        if self._run is not None:
            self._run.finish()


def _missing(what: str, extra: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError.of(f"{what} cannot be told of the run", package=error.name or extra, extra=extra)
