"""Windows of a long text, and the correction for testing several of them."""

from collections.abc import Sequence

from gpt2.tokenizer import Tokenizer


def holm(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses to reject so that the chance of any false rejection is at most `rate`: Holm 1979."""
    rejected = [False] * len(p_values)
    for n_before, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > rate / (len(p_values) - n_before):
            break
        rejected[index] = True
    return rejected


def windows(n_tokens: int, window: int) -> list[tuple[int, int]]:
    """Stretches of equal length; a remainder shorter than half a window joins the last."""
    n = max(1, round(n_tokens / window))
    ends = [window * (i + 1) for i in range(n - 1)] + [n_tokens]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def character_offsets(tokenizer: Tokenizer, ids: Sequence[int], text: str, ends: Sequence[int]) -> list[int]:
    """Where in the text the token before each of `ends` ends; if inside a character, after that character."""
    data, offsets, n_bytes, n_characters, token = text.encode("utf-8", "surrogatepass"), list[int](), 0, 0, 0
    for end in ends:
        begin = n_bytes
        n_bytes += sum(len(tokenizer.token_bytes(ids[i])) for i in range(token, end))
        n_characters += sum((byte & 0xC0) != 0x80 for byte in data[begin:n_bytes])  # first bytes of characters
        offsets.append(n_characters)
        token = end
    return offsets
