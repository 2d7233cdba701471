"""A model's card: README.md with the front matter for Hugging Face's hub, from what is known of the model.

Nothing is guessed. For what was not given, a line says that it is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.report.markdown import facts, line, quoted, verbatim

PROMPTS = (
    "Once upon a time",
    "The old man",
    "In the year 1914",
    '"What is that?" said',
    "The most important thing about",
    "She opened the letter and",
    "Scientists have found that",
    "My name is",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What is known of a model.

    Attributes:
        name: of the model.
        config: its shape.
        format, form, bytes, sha256: of its weights; the hash is over their values, whatever file holds them.
        library: that loads it, by the hub's name.
        base_model: the hub id of the published model it started from, if any.
        tokenizer: facts of its vocabulary by name; None if it has none.
        notes: what reading it changed or left out.
        training, data, evaluation, repeated, groups, detection: Markdown of those sections; None if nothing is known.
        notes_of_maker: Markdown in the maker's own words, unchanged.
        licence, language: of the weights and the text, as the maker states them.
        samples: prompts with their unedited continuations.
        settings: of the samples, as options of `gpt2 generate`.
    """

    name: str
    config: ModelConfig
    format: str
    form: str
    bytes: int
    sha256: str
    library: str
    base_model: str | None = None
    tokenizer: Mapping[str, object] | None = None
    notes: Sequence[str] = ()
    training: str | None = None
    data: str | None = None
    evaluation: str | None = None
    repeated: str | None = None
    groups: str | None = None
    detection: str | None = None
    notes_of_maker: str = ""
    licence: str | None = None
    language: str | None = None
    samples: Sequence[tuple[str, str]] = ()
    settings: str = ""


def card(model: Described) -> str:
    """The text of README.md."""
    sections = {
        "What it is": _shape(model),
        "Tokenizer": "Not known: no vocabulary is with the weights." if not model.tokenizer else facts(model.tokenizer),
        "How it was made": model.training or "Not known: no record of its training was at hand.",
        "What it was trained on": model.data
        or "Not known: no record of its training text was at hand, so neither are that text's sources and licences.",
        "How good it is": model.evaluation or "Not measured here.",
        "What it writes": _samples(model),
        "What it repeats of its training text": model.repeated or "How much it repeats word for word: not measured.",
        "How it writes about groups of people": model.groups
        or "Not measured. Language models repeat the prejudices of their training text.",
        "Uses": _USES,
        "Was a text written by it?": "\n\n".join(filter(None, [_DETECTING, model.detection])),
        "Licence": f"The weights: {line(model.licence)}, as their maker states. {_OTHER_LICENCES}"
        if model.licence
        else f"The licence of the weights is not recorded in them; whoever passes them on should write it here. "
        f"{_OTHER_LICENCES}",
    }
    if model.notes_of_maker:
        sections = {"From its makers": model.notes_of_maker.strip(), **sections}
    return f"{_front(model)}\n# {line(model.name)}\n\n" + "\n".join(
        f"## {title}\n\n{text}\n" for title, text in sections.items()
    )


def _front(model: Described) -> str:
    lines = [f"license: {quoted(model.licence)}"] if model.licence else []
    lines += [f"language: {quoted(model.language)}"] if model.language else []
    lines += [f"library_name: {quoted(model.library)}", "pipeline_tag: text-generation", "tags: [gpt2]"]
    if model.base_model:
        lines.append(f"base_model: {quoted(model.base_model)}")
    return "\n".join(["---", *lines, "---", ""])


def _shape(model: Described) -> str:
    config = model.config
    same = [name for name, published in PUBLISHED.items() if published == config]
    return facts(
        {
            "Architecture": "GPT-2 (Radford et al. 2019)" + (f", the shape of {same[0]}" if same else ""),
            "Parameters": config.parameters,
            "Layers": config.n_layer,
            "Heads": config.n_head,
            "Width": config.n_embd,
            "Width of the MLP": config.n_inner,
            "Context in tokens": config.n_positions,
            "Vocabulary": config.vocab_size,
            "Weights": f"{model.form}, {model.bytes:,} bytes, read from {model.format}",
            "SHA-256 of the values": model.sha256,
        }
        | {f"Note {number}": note for number, note in enumerate(model.notes, start=1)}
    )


def _samples(model: Described) -> str:
    if not model.samples:
        return "No samples were drawn."
    parts = [
        f"Unedited and not chosen: the first continuation of each fixed prompt, by `gpt2 generate PROMPT "
        f"{model.settings}`. Whatever control characters are in them are shown as their codes. "
        f"What they say may be false.",
        *(verbatim(prompt + text) for prompt, text in model.samples),
    ]
    return "\n\n".join(parts)


_OTHER_LICENCES = "The licences of the base model, if there is one, and of the training text bear on it."

_USES = """\
Suitable: research on language models, teaching, experiments, drafting text that a person reads and corrects, a base
for fine-tuning.

Unsuitable: to inform, advise or decide; for anything where a false or unpleasant sentence does harm; to pass its text
off as a person's. What it writes may be false, and sounds no different when it is."""

_DETECTING = """\
`gpt2 detect FILE --model MODEL` compares a text with what this model would write, and gives a verdict with an error
rate, or says that it cannot tell. It needs a calibration on human text of the same kind; where none is in the model's
folder, `gpt2 detect --calibrate FOLDER --out FILE --model MODEL` makes one. Text that was drawn with `--watermark
KEYFILE` is told by `gpt2 detect FILE --watermark KEYFILE` from a few dozen tokens on. Short, edited and paraphrased
text is not recognised; a verdict is no ground to accuse anyone."""
