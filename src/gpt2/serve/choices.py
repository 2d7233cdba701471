"""From the scheduler's events to OpenAI's choices: the same pieces, joined for an answer, one by one for a stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2.generation import Event, TokenLogprob
from gpt2.generation.text import TextStream
from gpt2.serve.models import ServedModel
from gpt2.serve.plan import Plan

_NO_CHANCE = -9999.0  # JSON has no infinity; vLLM's number for it


@dataclass(kw_only=True, slots=True)
class Piece:
    """A part of one choice.

    Attributes:
        logprobs: OpenAI's four parallel lists, for the tokens of this part; None if not requested.
        token_ids: generated in this part.
        finish_reason: set in the last part.
    """

    text: str = ""
    logprobs: dict[str, list[Any]] | None = None
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class Choice:
    """One continuation of one prompt, in progress.

    Args:
        plan: of the request.
        served: the model.
        index: of sample j of prompt i: i * n + j.
    """

    def __init__(self, plan: Plan, served: ServedModel, index: int) -> None:
        self.index = index
        self.n_generated = 0
        self.is_open = True
        self.prompt_number = index // plan.n
        self.prompt_entries: tuple[TokenLogprob, ...] = ()
        self._asked = plan.asked
        self._served = served
        self._prompt = plan.prompts[self.prompt_number]
        self._shown = plan.shown[self.prompt_number]
        self._logprobs = None if plan.asked.logprobs is None else _LogprobWriter(plan, served)
        self._has_begun = not plan.asked.echo

    def begin(self) -> Piece:
        """The piece before the first generated token: with `echo` the prompt, else empty."""
        piece = Piece(logprobs=None if self._logprobs is None else _empty())
        if not self._has_begun and self._shown:
            ids = self._prompt[len(self._prompt) - self._shown :]
            piece.text = self._served.model.tokenizer.decode(ids)
            if self._logprobs is not None:
                piece.logprobs = self._logprobs.write(self.prompt_entries)
                self._logprobs.end_prompt()
        self._has_begun = True
        return piece

    def add(self, event: Event) -> Piece:
        """The piece that an event of this sample makes."""
        before = None if self._has_begun else self.begin()
        text = self._with_special(event)
        piece = Piece(text=text, finish_reason=event.finish_reason, stop_reason=event.stop_reason)
        if event.token is not None:
            self.n_generated += 1
            piece.token_ids.append(event.token)
        if self._logprobs is not None:
            entries = [] if event.token is None else [TokenLogprob(event.token, event.logprob, event.top)]
            piece.logprobs = self._logprobs.write(entries)
        if event.finish_reason is not None:
            self.is_open = False
        return piece if before is None else joined([before, piece])

    def _with_special(self, event: Event) -> str:
        asked, tokenizer, text = self._asked, self._served.model.tokenizer, event.text
        if asked.ignore_eos and asked.skip_special_tokens is not False and event.token == tokenizer.eot:
            return text.removesuffix(tokenizer.decode([event.token])) if event.token is not None else text
        if asked.include_stop_str_in_output and isinstance(event.stop_reason, str):
            return text + event.stop_reason
        if asked.include_stop_str_in_output and event.stop_reason in (asked.stop_token_ids or ()):
            return text + tokenizer.decode([int(event.stop_reason or 0)])
        return text


def as_json(choice: Choice, piece: Piece, plan: Plan, served: ServedModel, *, is_first: bool) -> dict[str, Any]:
    """A choice, or a piece of one, in OpenAI's form with vLLM's additions."""
    shown: dict[str, Any] = {
        "index": choice.index,
        "text": piece.text,
        "logprobs": piece.logprobs,
        "finish_reason": piece.finish_reason,
        "stop_reason": piece.stop_reason,
    }
    if plan.asked.return_token_ids:
        shown["token_ids"] = piece.token_ids
        shown["prompt_token_ids"] = plan.prompts[choice.prompt_number] if is_first else None
    if plan.asked.prompt_logprobs is not None and is_first:
        shown["prompt_logprobs"] = _prompt_logprobs(choice.prompt_entries, plan.asked.prompt_logprobs, served)
    return shown


def joined(pieces: Iterable[Piece]) -> Piece:
    """Several pieces as one; changes the first."""
    whole: Piece | None = None
    texts: list[str] = []
    for piece in pieces:
        texts.append(piece.text)
        if whole is None:
            whole = piece
        else:
            whole.token_ids += piece.token_ids
            whole.finish_reason = piece.finish_reason or whole.finish_reason
            whole.stop_reason = piece.stop_reason if piece.stop_reason is not None else whole.stop_reason
            if whole.logprobs is not None and piece.logprobs is not None:
                for name, entries in piece.logprobs.items():
                    whole.logprobs[name] += entries
    assert whole is not None
    whole.text = "".join(texts)
    return whole


class _LogprobWriter:
    """OpenAI's `logprobs`, token by token.

    A token's offset is where it begins in the decoded text, in characters. Tokens that share a character begin where
    it begins.
    """

    def __init__(self, plan: Plan, served: ServedModel) -> None:
        self._n_top = plan.asked.logprobs or 0
        self._as_ids = bool(plan.asked.return_tokens_as_token_ids)
        self._served = served
        self._text = TextStream(served.model.tokenizer)
        self._n_characters = 0

    def write(self, entries: Sequence[TokenLogprob]) -> dict[str, list[Any]]:
        """The four lists for these tokens."""
        lists = _empty()
        for entry in entries:
            top = dict(entry.top[: self._n_top])
            # If the token is among the best, both places must show the same number: clients compare them.
            logprob = top.get(entry.token, entry.logprob)
            lists["tokens"].append(self._name(entry.token))
            lists["token_logprobs"].append(None if logprob is None else _finite(logprob))
            shown = None
            if logprob is not None:
                shown = {self._name(token): _finite(value) for token, value in top.items()}
                shown.setdefault(self._name(entry.token), _finite(logprob))
            lists["top_logprobs"].append(shown)
            lists["text_offset"].append(self._n_characters)
            self._n_characters += len(self._text.push(entry.token)[0])
        return lists

    def end_prompt(self) -> None:
        """End the prompt's text here, even within a character."""
        self._n_characters += len(self._text.finish()[0])

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else self._served.token_names[token]


def _empty() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _finite(logprob: float) -> float:
    return max(logprob, _NO_CHANCE)


def _prompt_logprobs(entries: Sequence[TokenLogprob], n: int, served: ServedModel) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: at each place an object by token id, of the n likeliest tokens and the token itself."""
    shown: list[dict[str, Any] | None] = []
    for entry in entries:
        if entry.logprob is None:
            shown.append(None)
            continue
        found: dict[int, tuple[float, int | None]] = {
            token: (logprob, rank) for rank, (token, logprob) in enumerate(entry.top[:n], start=1)
        }
        found.setdefault(entry.token, (entry.logprob, None))
        shown.append(
            {
                str(token): {"logprob": _finite(logprob), "rank": rank, "decoded_token": served.token_names[token]}
                for token, (logprob, rank) in found.items()
            }
        )
    return shown
