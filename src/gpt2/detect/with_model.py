"""Detection with a user's model: its readings, its calibration, its own texts for comparison."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from gpt2.backends import Backend
from gpt2.config import truth_of
from gpt2.detect.calibrating import Author, beginnings_of, calibrate_model
from gpt2.detect.calibration import Calibration
from gpt2.detect.normalise import normalise
from gpt2.detect.reading import read
from gpt2.detect.verdict import Verdict, judge
from gpt2.errors import GenerationError
from gpt2.generation.completion import Completion
from gpt2.generation.prompts import check_text
from gpt2.generation.settings import MAX_SEED, check_function, checked_number
from gpt2.tokenizer import Tokenizer


class Model(Protocol):
    """The part of `LanguageModel` that detection needs."""

    name: str
    tokenizer: Tokenizer

    def fingerprint(self) -> str:
        """Of its weights."""
        ...

    def calibration(self) -> Calibration | None:
        """The calibration beside its files, if any."""
        ...

    def exact_backend(self) -> Backend:
        """The backend that reads texts."""
        ...

    def generate(self, prompt: list[str], /, **settings: Any) -> list[Completion]:
        """Continue texts."""
        ...


def detect(
    model: Model,
    text: str,
    calibration: Calibration | None,
    *,
    false_positive_rate: float,
    window: int,
    progress: Callable[[int, int], None],
) -> Verdict:
    """Judge a text with a calibration of this model: the given one, or the model's own if it has one.

    Raises:
        GenerationError: not a text, not a calibration, or as `judge` does.
        MismatchError: the calibration was made with another model.
    """
    check_text(text, "judged")
    if not isinstance(calibration, Calibration | None):  # pyright: ignore[reportUnnecessaryIsInstance] -- or a path
        raise GenerationError(
            f"A calibration is what gpt2.detect.Calibration.read makes of a file: got {calibration!r:.60}."
        )
    check_function("progress", progress)
    calibration = calibration or model.calibration()
    if calibration is not None:
        calibration.check(model.fingerprint(), model.name)
    plain, n_normalised = normalise(text)
    return judge(
        plain,
        tokenizer=model.tokenizer,
        read=lambda ids: read(model.exact_backend(), model.tokenizer, ids),
        calibration=calibration,
        false_positive_rate=false_positive_rate,
        window=window,
        n_normalised=n_normalised,
        progress=progress,
    )


def calibrate_with(
    model: Model,
    texts: Iterable[str],
    *,
    source: str,
    samples: int,
    trained: bool,
    seed: int,
    progress: Callable[[int, str], None],
) -> Calibration:
    """A calibration that scores by curvature or by a newly trained detector.

    Raises:
        DataError: too few texts.
        GenerationError: a text or setting is invalid.
        MissingExtraError: training a detector needs scikit-learn, which is not installed.
    """
    if not isinstance(texts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] -- anybody calls this
        raise GenerationError(f"A calibration is made of texts, at least 99 of them: got {texts!r:.60}.")
    if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- likewise
        raise GenerationError(f"source says in words what the texts of a calibration are: got {source!r:.60}.")
    samples = checked_number("samples", samples, whole=True, limits={"least": 1})
    seed = checked_number("seed", seed, whole=True, limits={"least": 0, "most": MAX_SEED})
    trained = truth_of("trained", trained, GenerationError)
    check_function("progress", progress)

    def write(prompts: Sequence[str], **settings: Any) -> list[str]:
        return [each.text for each in model.generate(list(prompts), **settings)]

    author = Author(
        name=model.name,
        fingerprint=model.fingerprint(),
        tokenizer=model.tokenizer,
        read=lambda ids: read(model.exact_backend(), model.tokenizer, ids),
        write=write,
    )
    human = beginnings_of(texts, model.tokenizer)
    if trained:
        from gpt2.detect.training import train_detector

        return train_detector(human, author, source=source, seed=seed, progress=progress)
    return calibrate_model(human, author, source=source, samples=samples, seed=seed, progress=progress)
