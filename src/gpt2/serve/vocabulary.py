"""A model's vocabulary in llguidance's form, to compile grammars against."""

from llguidance import LLTokenizer, TokenizerWrapper

from gpt2.language_model import LanguageModel
from gpt2.serve.trial import Trial


class Vocabulary:
    """A tokenizer described for llguidance. Slow to make, so it is made once.

    Args:
        model: whose tokenizer it is; it must have an end-of-text token.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.size = model.tokenizer.vocab_size
        described = _Described(model)
        self.compiled = LLTokenizer(TokenizerWrapper(described))
        self.trial = Trial(described.tokens, eot=described.eos_token_id, special=described.special_token_ids)


class _Described:
    """The interface that llguidance expects of a tokenizer."""

    def __init__(self, model: LanguageModel) -> None:
        assert model.tokenizer.eot is not None
        self._tokenizer = model.tokenizer
        self.eos_token_id = model.tokenizer.eot
        self.bos_token_id = None
        self.tokens = list(model.tokenizer.vocabulary.tokens)
        vocabulary = model.tokenizer.vocabulary
        self.special_token_ids = sorted(set(vocabulary.special.values()) - set(vocabulary.words.values()))

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))
