"""Every bound of a server, with its default and one line of help.

The command line has a flag for each: `--max-` and the name, so `body_bytes` is `--max-body-bytes`.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from gpt2.errors import SettingError


def _limit(default: float, help: str, *, least: float = 1) -> Any:
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The bounds of a server.

    Raises:
        SettingError: a bound is below its minimum.
    """

    body_bytes: int = _limit(1_000_000, "bytes in a request body")
    header_bytes: int = _limit(65_536, "bytes in a request line and its headers", least=1024)
    receive_seconds: float = _limit(30.0, "seconds in which a request must arrive", least=0.01)
    send_seconds: float = _limit(30.0, "seconds a client may leave a response unread", least=0.01)
    connections: int = _limit(4096, "simultaneous connections")
    prompts: int = _limit(64, "prompts per request")
    n: int = _limit(16, "n and best_of, per prompt")
    sequences: int = _limit(128, "sequences per request: prompts times the larger of n and best_of")
    logprobs: int = _limit(20, "top tokens reported at each position", least=0)
    stops: int = _limit(16, "stop strings, and stop token ids, per request", least=0)
    stop_characters: int = _limit(256, "characters in a stop string or a bad_words entry")
    bias_entries: int = _limit(1024, "entries in logit_bias, allowed_token_ids and bad_words", least=0)
    grammar_bytes: int = _limit(65_536, "bytes in a JSON schema or regular expression", least=0)
    grammar_seconds: float = _limit(1.0, "seconds to compile a grammar, or to take one step of it", least=0.001)
    score_tokens: int = _limit(32_768, "tokens in a text to score")
    queue_requests: int = _limit(256, "requests waiting in the queue")
    queue_tokens: int = _limit(1_000_000, "tokens of all queued requests, prompts and continuations")
    queue_seconds: float = _limit(30.0, "seconds a request may wait in the queue", least=0.01)
    stall_seconds: float = _limit(
        120.0, "seconds one step may take before /health/live says that only a restart helps", least=0.01
    )
    drain_seconds: float = _limit(30.0, "seconds running requests have to finish when the server stops", least=0)

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, least = getattr(self, limit.name), limit.metadata["least"]
            if not least <= value < float("inf"):
                raise SettingError(f"The limit {limit.name} must be finite and at least {least:g}: got {value:g}.")
