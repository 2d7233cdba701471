"""What `gpt2.load` returns: a model with its tokenizer, ready to continue, score and be saved.

Each method is a few lines over the room that does the work; here they meet, and only here.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias, Unpack, overload

from gpt2 import backends, checkpoint, generation, hub
from gpt2.backends import Backend
from gpt2.backends.opened import Opened
from gpt2.checkpoint import Checkpoint
from gpt2.config import ModelConfig
from gpt2.generation import Event, Request, Sampling, Scheduler
from gpt2.generation.completion import Completion, complete, events_of, prompts_of, requests_of
from gpt2.generation.drafter_choice import choose_drafter
from gpt2.generation.noise import POSITION, Noise
from gpt2.generation.scoring import ids_of_logits
from gpt2.generation.settings import Settings, check_function, sampling_of
from gpt2.tokenizer import Tokenizer

if TYPE_CHECKING:  # the first token waits for none of these
    from gpt2.backends.definition import At
    from gpt2.backends.head import Head
    from gpt2.backends.seam import Floats
    from gpt2.detect import Calibration, Verdict
    from gpt2.generation import Beam, Drafter, Score
    from gpt2.inspect import Ablation, Activations, Attention, Attribution, Lens, Neurons, Patching
    from gpt2.tasks import Prompts, Room
    from gpt2.tasks.asked import Write

Prompt = str | Sequence[int]
SeveralPrompts = list[str] | list[list[int]] | list[Prompt] | tuple[Prompt, ...]
Numbers = Sequence[int] | int | None  # some, one, or all
Progress = Callable[[int, int], None]  # told how many are done, of how many
Draft: TypeAlias = "str | os.PathLike[str] | LanguageModel"
_SHARED_BYTES = 256 << 20  # of keys and values, kept while the prompts of one call are continued


class LanguageModel:
    """A GPT-2 with its tokenizer, on a backend. Models are independent of each other.

    On the native engine, threads may share a model and take turns, except in `patch`. On other backends, make one
    call at a time.

    Attributes:
        checkpoint: the files it was read from.
        backend: the engine that runs it.
        tokenizer: converts text to ids and back.
        noise: the key of its draws. Assign a `generation.ContextNoise` to watermark all later text.

    Args:
        exact: opens the fp32 backend for scores and logits, which otherwise come from `backend`.
        smaller: opens a draft model by name on a backend like `backend`; by default as `load` does on its device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        *,
        name: str,
        exact: Callable[[], Backend] | None = None,
        smaller: "Callable[[str], LanguageModel] | None" = None,
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.backend = backend
        self.tokenizer: Tokenizer = checkpoint.tokenizer()
        self.noise: Noise = POSITION
        self._opened = Opened(backend, checkpoint.weights, name=name, open_exact=exact)
        self._open_smaller = smaller or (lambda name: load(name, device=backend.device))
        self._opened_drafts: dict[str, LanguageModel] = {}
        self._warned_drafts: set[str] = set()
        self._opening_drafts = threading.Lock()
        self._fingerprint = ""

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        return self.backend.config

    @property
    def device(self) -> str:
        """The device it runs on: "cpu", "cuda:0", "mps"."""
        return self.backend.device

    @overload
    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, *, draft: Draft = "auto", **settings: Unpack[Settings]
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: SeveralPrompts,
        sampling: Sampling | None = None,
        *,
        draft: Draft = "auto",
        **settings: Unpack[Settings],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | SeveralPrompts,
        sampling: Sampling | None = None,
        *,
        draft: Draft = "auto",
        **settings: Unpack[Settings],
    ) -> Completion | list[Completion]:
        """Continue a text, or each text of a list as if it were alone.

        Args:
            prompt: a text or a list of token ids, or a list of such prompts. An empty text starts from the
                end-of-text token.
            sampling: the sampling settings; by default, the model's own distribution.
            draft: speculative decoding, which never changes the text. The guesses come from "ngram" (the text so far,
                for texts that repeat themselves) or a smaller model of the same vocabulary, by name or loaded; "none"
                turns it off. "auto" is "ngram" on the native engine, where the text is the same to the byte.
            settings: fields of `Sampling` by name, which override `sampling`: `max_tokens=50, top_k=40, seed=1`.

        Raises:
            ContextError: a prompt is longer than the context.
            GenerationError: a setting out of range, or a draft model of another vocabulary.
        """
        (prompts, is_one), sampling = prompts_of(prompt), sampling_of(sampling, settings)
        completions = complete(self._scheduler(draft, shares=len(prompts) > 1), prompts, sampling)
        return completions[0] if is_one else completions

    def generate_each(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling | None = None,
        *,
        draft: Draft = "auto",
        **settings: Unpack[Settings],
    ) -> Generator[Completion]:
        """Continue any number of texts: reads them as there is room, and yields each as soon as it is ready, in order.

        If you stop before the end, close the generator to free its memory at once.

        Args:
            prompts: texts, or lists of token ids; each gets the continuation it would get alone.
            sampling: as for `generate`.
            draft: as for `generate`.
            settings: as for `generate`.

        Raises:
            ContextError, GenerationError: as for `generate`, after the continuations of the texts before.
            Exception: whatever `prompts` raises, after the continuations of the texts before.
        """
        requests = requests_of(prompts, sampling_of(sampling, settings))
        return generation.complete_each(self._scheduler(draft, shares=True), requests)

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, *, draft: Draft = "auto", **settings: Unpack[Settings]
    ) -> Generator[Event]:
        """Continue a text and yield each piece (`event.text`) as soon as it is final; the last has `finish_reason`.

        If you stop before the end, close the generator to free its memory at once.

        Args:
            prompt: a text, or token ids.
            sampling: as for `generate`.
            draft: as for `generate`.
            settings: as for `generate`.

        Raises:
            ContextError: the prompt is longer than the context; raised at once, before the first piece.
            GenerationError: a setting out of range, or a draft model of another vocabulary.
        """
        scheduler = self._scheduler(draft)
        scheduler.submit(Request(prompt=prompt, sampling=sampling_of(sampling, settings)))
        return events_of(scheduler)

    def drafter(self, draft: Draft) -> "Drafter | None":
        """The source of draft tokens for one `Scheduler` over this model's backend.

        Args:
            draft: as for `generate`.

        Raises:
            GenerationError: a draft model of another vocabulary.
            ModelNotFoundError: no model of that name.
        """
        return choose_drafter(draft, self, opened=self._smaller, warned=self._warned_drafts)

    def beam_search(
        self,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        beams: int = 4,
        length_penalty: float = 1.0,
        **settings: Unpack[Settings],
    ) -> "list[Beam]":
        """Find the `n` likeliest continuations by beam search, best first.

        Args:
            prompt: a text, or token ids.
            sampling: as for `generate`; temperature and the filters after it are ignored.
            beams: width of the search.
            length_penalty: above 0 favours longer texts; -30 to 30.
            settings: as for `generate`.

        Raises:
            ContextError: the prompt is longer than the context.
            GenerationError: fewer beams than continuations, stop strings (stop ids work), or log-probabilities.
        """
        request = Request(prompt=prompt, sampling=sampling_of(sampling, settings))
        self._opened.refuse_if_closed()
        return generation.beam_search(self.backend, self.tokenizer, request, beams=beams, length_penalty=length_penalty)

    def score(
        self, text: Prompt, *, stride: int | None = None, best: int = 0, progress: Progress = lambda done, of: None
    ) -> "Score":
        """Compute how likely a text is: log-probability, rank and entropy by token, perplexity, bits per byte.

        Args:
            text: a text, or token ids, of one token or more; beyond the context, a window slides over it.
            stride: tokens by which the window slides; half the context by default.
            best: how many of the most likely tokens to report at each position.
            progress: called now and then with the number of tokens scored, and of how many.

        Raises:
            GenerationError: an empty text, an id outside the vocabulary, or a stride outside the context.
        """
        backend = self.exact_backend()
        return generation.score(backend, self.tokenizer, text, stride=stride, best=best, progress=progress)

    def detect(
        self,
        text: str,
        *,
        calibration: "Calibration | None" = None,
        false_positive_rate: float = 0.01,
        window: int = 200,
        progress: Progress = lambda done, of: None,
    ) -> "Verdict":
        """Judge whether a text was generated, at an error rate; may be inconclusive. See `gpt2.detect.judge`.

        Args:
            text: about 25 tokens or more, of any length; a long text is judged by windows, with its parts marked.
            calibration: what to compare with; by default the one beside the model's files, if there is one.
            false_positive_rate: how often human text of the calibration's kind may be called generated.
            window: tokens per part, if the text is longer than the texts of the calibration.
            progress: called with the number of parts of a long text read, and of how many.

        Raises:
            GenerationError: an empty text, no text, or a number out of range.
            MismatchError: the calibration was made with another model.
        """
        from gpt2.detect.with_model import detect

        rate = false_positive_rate
        return detect(self, text, calibration, false_positive_rate=rate, window=window, progress=progress)

    def calibration(self) -> "Calibration | None":
        """The calibration beside the model's files, if there is one.

        Raises:
            FormatError: it cannot be read.
        """
        from gpt2.detect import Calibration

        return Calibration.beside(self.checkpoint.folder)

    def calibrate(
        self,
        texts: Iterable[str],
        *,
        source: str,
        samples: int = 300,
        trained: bool = False,
        seed: int = 0,
        progress: Callable[[int, str], None] = lambda done, of: None,
    ) -> "Calibration":
        """Make a calibration from human texts, for `detect` to compare with.

        Args:
            texts: at least 99 texts by people, of the kind you will judge; only the beginning of each is used.
            source: what the texts are, for readers of the verdict.
            samples: number of texts the model writes for comparison, with three settings in turn.
            trained: train a detector on half of the texts, at least 198 (the extra `detect`), instead of using the
                curvature; the model then writes one text for each.
            seed: seed of the samples.
            progress: called with the number of texts read, and their kind.

        Raises:
            DataError: too few texts.
            MissingExtraError: a detector is to be trained without scikit-learn.
        """
        from gpt2.detect.with_model import calibrate_with

        return calibrate_with(
            self, texts, source=source, samples=samples, trained=trained, seed=seed, progress=progress
        )

    def fingerprint(self) -> str:
        """A SHA-256 that identifies the weights, whatever file holds them; computed on first use."""
        self._fingerprint = self._fingerprint or checkpoint.fingerprint(self.checkpoint.weights)
        return self._fingerprint

    def translate(
        self,
        text: str,
        *,
        source: str = "french",
        target: str = "english",
        prompts: "Prompts | None" = None,
        draft: Draft = "auto",
    ) -> str:
        """Translate a sentence greedily, with the paper's prompt of example pairs.

        Args:
            text: a sentence in the language `source`.
            source: a language of the examples.
            target: another language of the examples.
            prompts: prompts to use instead of the package's; `gpt2.tasks.Prompts.read` reads a file of them.
            draft: as for `generate`.

        Raises:
            ContextError: the text does not fit the context.
            GenerationError: no text, or a language without examples.
        """
        from gpt2.tasks.translate import translate

        write = self._writer(draft=draft)
        return translate(text, source=source, target=target, prompts=prompts, room=self.room, write=write)

    def summarize(
        self, text: str, *, seed: int | None = None, prompts: "Prompts | None" = None, draft: Draft = "auto"
    ) -> str:
        """Summarize an article in a few sentences, with the paper's `TL;DR:`, sampled with top-k 2.

        Args:
            text: the article. Text beyond the context is left out, and a warning logged.
            seed: the same seed gives the same summary.
            prompts: as for `translate`.
            draft: as for `generate`; "ngram" suits it.

        Raises:
            GenerationError: no text.
        """
        from gpt2.tasks.summarize import summarize

        return summarize(text, prompts=prompts, room=self.room, write=self._writer(seed=seed, draft=draft))

    def answer(
        self,
        question: str,
        *,
        context: str | None = None,
        history: Sequence[tuple[str, str]] = (),
        prompts: "Prompts | None" = None,
        draft: Draft = "auto",
    ) -> str:
        """Answer a question greedily, from a passage or the model's own knowledge, with the paper's prompts.

        Args:
            question: one line.
            context: the passage. Text beyond the model's context is left out, and a warning logged.
            history: earlier questions about the passage, with their answers.
            prompts: as for `translate`.
            draft: as for `generate`.

        Raises:
            ContextError: the question does not fit the context.
            GenerationError: no question.
        """
        from gpt2.tasks.answer import answer

        write = self._writer(draft=draft)
        return answer(question, context=context, history=history, prompts=prompts, room=self.room, write=write)

    @property
    def room(self) -> "Room":
        """How long a task's prompt may be."""
        from gpt2.tasks import Room

        return Room(n_positions=self.config.n_positions, count=lambda text: len(self.tokenizer.encode(text)))

    def logits(self, ids: Iterable[int], *, at: "At | None" = None) -> "Floats":
        """The logits of the token after each of `ids`: [T, V].

        Args:
            ids: the text's token ids.
            at: a hook, called with each inner value as soon as it is known; its result is used instead. With it,
                `gpt2.model.reference` does the computing; it lists the sites.

        Raises:
            ContextError: more ids than the context.
            GenerationError: an id outside the vocabulary, no ids, or `at` returned no array of the same shape.
        """
        if at is None:
            return generation.logits(self.exact_backend(), ids)
        check_function("at", at)
        return self._opened.definition.logits(ids_of_logits(ids, self.config), at)

    def activations(self, text: Prompt, *, depths: Numbers = None) -> "Activations":
        """The residual stream of a text, from the embedding through every block; see `gpt2.inspect.activations`.

        Args:
            text: a text or token ids, within the context.
            depths: 0 is the embedding, i the output of block i; one, some, or all by default.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, or no such depth.
        """
        from gpt2.inspect import activations

        return activations(self.exact_backend(), self.tokenizer, text, depths=depths)

    def attention(
        self, text: Prompt, layer: Numbers = None, head: Numbers = None, *, last: int | None = None
    ) -> "Attention":
        """How much each token attends to those before it, by layer and head; see `gpt2.inspect.attention`.

        Args:
            text: a text or token ids, within the context.
            layer: from 0; one, some, or all by default.
            head: as for `layer`.
            last: only the rows of this many last tokens; all by default.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, no such layer, head or row, or more than 1 GB of weights.
        """
        from gpt2.inspect import attention

        return attention(self.exact_backend(), self.tokenizer, text, layer=layer, head=head, last=last)

    def logit_lens(self, text: Prompt, *, depths: Numbers = None, best: int = 10) -> "Lens":
        """The next token the model would predict if it stopped after each layer; see `gpt2.inspect.logit_lens`.

        Args:
            text: a text or token ids, within the context.
            depths: as for `activations`.
            best: number of the likeliest tokens to keep.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, no such depth, or `best` below 0.
        """
        from gpt2.inspect import logit_lens

        return logit_lens(self.exact_backend(), self.head, self.tokenizer, text, depths=depths, best=best)

    def embed(self, texts: str | Iterable[Prompt], *, pooling: str = "mean") -> "Floats":
        """Embed a text as a vector, [D], or several as rows, [N, D]; see `gpt2.inspect.embed`.

        Args:
            texts: one text, or several texts or lists of token ids, each within the context.
            pooling: "mean" over the tokens, or the state of the "last" token.

        Raises:
            ContextError: a text is longer than the context.
            GenerationError: an empty text, or no such pooling.
        """
        from gpt2.inspect import embed

        return embed(self.exact_backend(), self.head, self.tokenizer, texts, pooling=pooling)

    def patch(
        self, text: Prompt, *, source: Prompt, answer: str | int, depths: Numbers = None, positions: Numbers = None
    ) -> "Patching":
        """Run a text with single vectors of another text patched in; see `gpt2.inspect.patch`.

        If the model's backend cannot patch, the reference backend is opened, and the log says so.

        Args:
            text: the text to run, or its token ids.
            source: the text to take vectors from, with as many tokens.
            answer: one token, as its text (mostly with a space before it) or id.
            depths: as for `activations`.
            positions: positions of tokens, from 0; one, some, or all by default.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: texts of different lengths, an answer that is not one token, no such depth or position.
        """
        from gpt2.inspect import patch

        backend = self._opened.intervening
        return patch(backend, self.tokenizer, text, source=source, answer=answer, depths=depths, positions=positions)

    def neurons(self, text: Prompt, layer: Numbers = None) -> "Neurons":
        """How active each hidden unit of the MLPs is at each token; see `gpt2.inspect.neurons`.

        Args:
            text: a text or token ids, within the context.
            layer: from 0; one, some, or all by default.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, no such layer, or more than 1 GB of neurons.
        """
        from gpt2.inspect import neurons

        return neurons(self._opened.definition, self.tokenizer, text, layer=layer)

    def attribute(self, text: Prompt, *, answer: str | int, against: str | int | None = None) -> "Attribution":
        """What each head and each MLP adds to the logit of an answer; see `gpt2.inspect.attribute`.

        Args:
            text: a text or token ids, within the context.
            answer: one token, as its text (mostly with a space before it) or id.
            against: another token, to split the difference of the two logits; by default the answer's logit is split.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, or an answer that is not one token.
        """
        from gpt2.inspect import attribute

        return attribute(self._opened.definition, self.tokenizer, text, answer=answer, against=against)

    def ablate(self, text: Prompt, *, answer: str | int, source: Prompt | None = None) -> "Ablation":
        """How much an answer loses without each head and each MLP; see `gpt2.inspect.ablate`.

        Args:
            text: a text or token ids, within the context.
            answer: one token, as its text (mostly with a space before it) or id.
            source: a text of as many tokens, whose output replaces each part's; by default the part adds nothing.

        Raises:
            ContextError: the text is longer than the context.
            GenerationError: an empty text, texts of different lengths, or an answer that is not one token.
        """
        from gpt2.inspect import ablate

        return ablate(self._opened.definition, self.tokenizer, text, answer=answer, source=source)

    @property
    def head(self) -> "Head":
        """The last layer norm and the tied embedding, in fp32; read on first use."""
        return self._opened.definition.head

    def exact_backend(self) -> Backend:
        """The backend for scores and for looking inside: fp32 unless `load` was given a form."""
        return self._opened.exact

    def save(
        self, folder: str | os.PathLike[str], *, format: str = "hf", weights: str = "fp32", overwrite: bool = False
    ) -> None:
        """Write the model atomically to a folder or, in the format gguf, to a file.

        Args:
            folder: where to write; it appears only when complete.
            format: "hf", a Hugging Face folder; or "openai", "nanogpt", "llmc", "gguf", "onnx".
            weights: precision to store them in, if the format has it: fp32, fp16, bf16, int8, int4, q8_0, q4_0.
            overwrite: replace an existing model.

        Raises:
            CheckpointError: unknown format or precision, or the folder exists or cannot be written; what was there
                before stays.
        """
        checkpoint.write(
            folder,
            self.checkpoint.weights,
            self.tokenizer,
            format=format,
            form=weights,
            card=self.checkpoint.card(),
            overwrite=overwrite,
        )

    def close(self) -> None:
        """Free its memory and threads; `with gpt2.load(…) as model:` does so at the end."""
        with self._opening_drafts:
            for draft in self._opened_drafts.values():
                draft.close()
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scheduler(self, draft: Draft, *, shares: bool = False) -> Scheduler:
        """A scheduler for one call; prompts share beginnings where what follows is the same to the byte."""
        self._opened.refuse_if_closed()
        shared_bytes = _SHARED_BYTES if shares and self.backend.name == "native" else 0
        return Scheduler(
            self.backend, self.tokenizer, prefix_bytes=shared_bytes, noise=self.noise, drafter=self.drafter(draft)
        )

    def _smaller(self, name: str) -> "LanguageModel":
        """The draft model of a name, opened once."""
        with self._opening_drafts:
            self._opened.refuse_if_closed()
            if name not in self._opened_drafts:
                self._opened_drafts[name] = self._open_smaller(name)
            return self._opened_drafts[name]

    def _writer(self, **settings: Any) -> "Write":
        """What continues the prompt of a task."""
        return lambda prompt, sampling: self.generate(prompt, sampling, **settings).text

    def __reduce__(self) -> NoReturn:  # what pickle, copy and deepcopy ask
        raise TypeError(
            f"A LanguageModel cannot be pickled or copied: {self.name} holds memory and threads of this process. "
            f"Call gpt2.load where it is to be used, or pass the model itself to threads."
        )

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.backend.weights} by {self.backend.name} on {self.device})"


def load(
    model: str | os.PathLike[str] = "gpt2-mini",
    *,
    device: str = "auto",
    backend: str = "auto",
    weights: str = "auto",
    threads: int | None = None,
    download: bool = False,
) -> LanguageModel:
    """Open a model.

    Args:
        model: the name of the embedded or a published model, a folder, a file, or a hub id already downloaded.
        device: "auto", "cpu", "cuda" or "mps".
        backend: "auto", "native", "torch" or "reference".
        weights: precision in memory: "auto", "fp32", "bf16", "int8" or "int4". If "auto" chooses less than fp32,
            `score` and `logits` open the weights a second time, in fp32, on first use.
        threads: CPU threads; by default the physical cores.
        download: download the model first if it is not here: a published name or a hub id.

    Raises:
        ModelNotFoundError: the model is not here; the message lists those that are.
        DownloadError: the download failed.
        CheckpointError: its files are broken, or not a GPT-2.
        BackendError: the device, backend or precision is not available here.
    """
    files = checkpoint.read(hub.locate_or_download(model, download=download))

    def opened(form: str) -> Backend:
        return backends.open(files.weights, device=device, backend=backend, form=form, threads=threads)

    chosen = opened(weights)
    exact = None if chosen.weights == "fp32" or weights != "auto" else lambda: opened("fp32")

    def smaller(name: str) -> LanguageModel:
        return load(name, device=device, backend=backend, threads=threads)

    try:
        return LanguageModel(files, chosen, name=os.fspath(model), exact=exact, smaller=smaller)
    except BaseException:  # its tokenizer cannot be read
        chosen.close()
        raise
