"""A model's vocabulary in the forms that the server needs: a name for each token, and what llguidance compiles."""

from llguidance import LLTokenizer, TokenizerWrapper

from gpt2.language_model import LanguageModel


class Vocabulary:
    """What llguidance needs to know of a tokenizer; takes a moment to make, so it is made once.

    Args:
        model: whose tokenizer it is; it has an end-of-text token.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.size = model.tokenizer.vocab_size
        self.compiled = LLTokenizer(TokenizerWrapper(_Described(model)))


def token_names(model: LanguageModel) -> list[str]:
    """The text of each id; of one that is part of a character its bytes, as OpenAI writes them: no two are the same."""
    return [_name(piece) for piece in model.tokenizer.vocabulary.tokens]


def _name(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class _Described:
    """What llguidance asks a tokenizer."""

    def __init__(self, model: LanguageModel) -> None:
        assert model.tokenizer.eot is not None
        self._tokenizer = model.tokenizer
        self.eos_token_id = model.tokenizer.eot
        self.bos_token_id = None
        self.tokens = list(model.tokenizer.vocabulary.tokens)
        self.special_token_ids = sorted(model.tokenizer.vocabulary.special.values())

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))
