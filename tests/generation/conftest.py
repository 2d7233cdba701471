"""A backend and a tokenizer small enough to reason about, and real models in miniature."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gpt2.backends.readout import read_out
from gpt2.backends.reference import ReferenceBackend
from gpt2.backends.seam import Backend, Result, Work, undrawn
from gpt2.config import ModelConfig
from gpt2.generation import Event, Request, Sampling, Scheduler

EOT = 256
NOISE = np.random.default_rng(0).standard_normal((1 << 16) + 4096).astype(np.float32) * 3


class ByteTokenizer:
    """Every byte is a token; 256 is the end-of-text token; ids from 257 on are `pieces`."""

    eot: int | None = EOT

    def __init__(self, pieces: Sequence[bytes] = (), *, eot: int | None = EOT) -> None:
        self.eot = eot
        self._bytes = [bytes([i]) for i in range(256)] + [b"<|endoftext|>", *pieces]
        self.vocab_size = len(self._bytes)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[token] for token in ids)

    def decode(self, ids: Sequence[int], errors: str = "replace") -> str:
        return self.decode_bytes(ids).decode("utf-8", errors)


class FakeBackend:
    """Logits are noise chosen by every token in the slot: any slip in what a slot holds shows.

    `script` forces the text: the token after position i is script[i + 1].
    """

    name, device, weights, reason = "fake", "cpu", "fp32", "asked for"
    intervenes = False

    def __init__(self, *, vocab_size: int = 257, n_positions: int = 32, script: Sequence[int] = ()) -> None:
        self.config = ModelConfig(n_layer=1, n_head=1, n_embd=1, n_positions=n_positions, vocab_size=vocab_size)
        self.slots: dict[int, list[int]] = {}
        self.script = script
        self.steps: list[list[Work]] = []
        self.most_slots = 0
        self.before_step: Callable[[Sequence[Work]], None] = lambda work: None
        self._next = 0

    def new(self) -> int:
        self._next += 1
        self.slots[self._next] = []
        self.most_slots = max(self.most_slots, len(self.slots))
        return self._next

    def length(self, slot: int) -> int:
        return len(self.slots[slot])

    def truncate(self, slot: int, length: int) -> None:
        assert length <= len(self.slots[slot])
        del self.slots[slot][length:]

    def fork(self, slot: int) -> int:
        twin = self.new()
        self.slots[twin] = list(self.slots[slot])
        return twin

    def free(self, slot: int) -> None:
        del self.slots[slot]

    def bytes(self) -> int:
        return sum(len(tokens) for tokens in self.slots.values())

    def slot_bytes(self, tokens: int) -> int:
        return tokens

    def step(self, work: Sequence[Work]) -> list[Result]:
        assert len({piece.slot for piece in work}) == len(work)
        self.steps.append(list(work))
        self.before_step(work)
        return [self._run(piece) for piece in undrawn(work)]

    def close(self) -> None:
        self.slots.clear()

    def _run(self, work: Work) -> Result:
        tokens = self.slots[work.slot]
        assert work.tokens
        rows: list[np.ndarray[Any, Any]] = []
        for token in work.tokens:
            assert 0 <= token < self.config.vocab_size
            tokens.append(token)
            assert len(tokens) <= self.config.n_positions
            rows.append(self.logits(tokens))
        wanted = np.array(rows[len(rows) - work.want.rows :]).reshape(work.want.rows, self.config.vocab_size)
        return read_out(work.want, wanted, lambda logits: logits, self.config.vocab_size)

    def logits(self, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        start = zlib.crc32(np.array(tokens, np.int32).tobytes()) % (1 << 16)
        logits = NOISE[start : start + self.config.vocab_size].copy()
        if len(tokens) < len(self.script):
            logits[self.script[len(tokens)]] = 100
        return logits


def run(scheduler: Scheduler) -> list[Event]:
    """Step until nothing is left to do."""
    events: list[Event] = []
    for _ in range(10_000):
        if not scheduler.busy:
            return events
        events += scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


def continue_text(backend: Backend, tokenizer: Any, prompt: str | Sequence[int], **settings: Any) -> list[Event]:
    """All events of one request alone."""
    scheduler = Scheduler(backend, tokenizer)
    scheduler.submit(Request(prompt=prompt, sampling=Sampling(**settings)))
    return run(scheduler)


def tokens_of(events: Sequence[Event], request: int = 0, sample: int = 0) -> list[int]:
    return [e.token for e in events if (e.request, e.sample) == (request, sample) and e.token is not None]


def text_of(events: Sequence[Event], request: int = 0, sample: int = 0) -> str:
    return "".join(e.text for e in events if (e.request, e.sample) == (request, sample))


class Arrays:
    """Weights of a Hugging Face model under OpenAI's names."""

    def __init__(self, config: ModelConfig, hf: transformers.GPT2LMHeadModel) -> None:
        self.config = config
        self._arrays = {name: value.numpy() for name, value in hf.transformer.state_dict().items()}

    def float32(self, name: str) -> np.ndarray[Any, Any]:
        layer, _, kind = name.rpartition(".")
        long = {"g": "weight", "w": "weight", "b": "bias"}
        return self._arrays[f"{layer}.{long[kind]}" if layer else f"{name}.weight"]


def miniature(
    seed: int, *, n_layer: int = 2, n_head: int = 2, n_embd: int = 16, n_positions: int = 48
) -> tuple[transformers.GPT2LMHeadModel, ReferenceBackend]:
    """A random model, as Hugging Face computes it and as we do; its weights are large, so that its text varies."""
    config = ModelConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, n_positions=n_positions, vocab_size=257)
    torch.manual_seed(seed)
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=n_layer,
            n_head=n_head,
            n_embd=n_embd,
            n_positions=n_positions,
            vocab_size=257,
            initializer_range=0.4,
            bos_token_id=EOT,
            eos_token_id=EOT,
            pad_token_id=EOT,
        )
    ).eval()
    return hf, ReferenceBackend(Arrays(config, hf))


@pytest.fixture
def toy() -> Iterator[SimpleNamespace]:
    """The names above, for test modules cannot import this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
    yield SimpleNamespace(
        EOT=EOT,
        miniature=miniature,
        Backend=FakeBackend,
        Tokenizer=ByteTokenizer,
        run=run,
        continue_text=continue_text,
        tokens_of=tokens_of,
        text_of=text_of,
    )
    torch.set_num_threads(threads)
