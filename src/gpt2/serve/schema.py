"""The requests: OpenAI's fields with OpenAI's ranges, and further fields under vLLM's names.

Types are strict: "1" and true are not 1. An unknown field is ignored, and the answer's header `x-ignored-fields` names
it. A known field that would change the result but is not supported is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

MAX_INT = 2**31 - 1
MAX_CONTINUATION = 131_072  # characters: 1,024 tokens of 128, the longest there are

Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
_ONE_ERROR = Field(fail_fast=True)  # one error is enough: a list may hold half a million
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT)]], _ONE_ERROR]
Strings = Annotated[list[str], _ONE_ERROR]
Prompt = str | list[int]


def _prompts(value: object) -> list[Prompt]:
    """One prompt or several, as text or ids; None is one empty prompt."""
    if value is None:
        return [""]
    if value == []:
        raise ValueError('an empty list holds no prompt; null or "" starts from the end-of-text token')
    return _one_or_several(value)


def _texts(value: object) -> list[Prompt]:
    """One text or several, as text or ids."""
    if value == []:
        raise ValueError("an empty list holds no text; give at least one")
    return _one_or_several(value)


def _one_or_several(value: object) -> list[Prompt]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        items: list[object] = value
        if all(isinstance(item, str) for item in items):
            return [str(item) for item in items]
        if all(map(_is_id, items)):
            return [items]  # type: ignore[list-item]
        if all(isinstance(item, list) and all(map(_is_id, item)) for item in items):
            return items  # type: ignore[return-value]
    raise ValueError("it must be a string, a list of strings, a list of token ids, or a list of lists of token ids")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INT


def _stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("it must be a string or a list of strings")
    if not all(stops):
        raise ValueError("a stop string has at least one character")
    return tuple(stops)


def _bias(value: object) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError('it must be an object of token ids and biases, as in {"50256": -100}')
    biases: dict[int, float] = {}
    for token, bias in value.items():
        if not (isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 10):
            raise ValueError(f"{token!r:.40} is not a token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be a number from -100 to 100")
        biases[int(token)] = float(bias)
    return biases


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT}}
_FORMS = (
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}, "minItems": 1},
    {**_IDS, "minItems": 1},
    {"type": "array", "items": _IDS, "minItems": 1},
)
_PROMPT_SCHEMA = {"anyOf": [*_FORMS, {"type": "null"}]}
_TEXT_SCHEMA = {"anyOf": list(_FORMS)}
_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}
_BIAS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        },
        {"type": "null"},
    ]
}

Prompts = Annotated[list[Prompt], PlainValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
Texts = Annotated[list[Prompt], PlainValidator(_texts), WithJsonSchema(_TEXT_SCHEMA)]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops), WithJsonSchema(_STOP_SCHEMA)]
Bias = Annotated[dict[int, float], PlainValidator(_bias), WithJsonSchema(_BIAS_SCHEMA)]


class Strict(BaseModel):
    """A request: strict in its types, and remembering what it did not know."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    @property
    def ignored(self) -> list[str]:
        """Unknown fields, nested ones too; a name that a header cannot carry becomes a question mark."""
        unknown = [name if name.isascii() and name.isidentifier() else "?" for name in sorted(self.model_extra or {})]
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Strict):
                unknown += [f"{name}.{each}" for each in value.ignored]
        return unknown


class StreamOptions(Strict):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="one more chunk with the usage, before [DONE]")
    continuous_usage_stats: bool | None = Field(None, description="the usage so far in every chunk")


class JsonSchema(Strict):
    """A named JSON schema."""

    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """OpenAI's way to ask for structured output."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Strict):
    """vLLM's way to ask for structured output: exactly one of these."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, description="a regular expression that the whole continuation matches")
    choice: Strings | None = Field(None, description="texts, one of which the continuation is")
    json_object: bool | None = Field(None, description="any JSON object")
    grammar: str | None = Field(None, description="a grammar in Lark's syntax")


class CompletionRequest(Strict):
    """`POST /v1/completions`."""

    model: str | None = Field(None, description="name of a model; without it, the server's first")
    prompt: Prompts = Field(
        default_factory=lambda: [""], description="what to continue; null starts from the end-of-text token"
    )
    suffix: str | None = Field(None, description="not for GPT-2, which cannot fill in: refused")
    max_tokens: Count | None = Field(None, description="16; 0 with echo scores the prompt")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="1; 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="1")
    n: Positive | None = Field(None, description="continuations of each prompt; 1")
    best_of: Positive | None = Field(
        None, description="generate this many, return the n with the highest mean log-probability per token"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Count | None = Field(None, description="log-probabilities of the tokens and of this many likeliest ones")
    echo: bool | None = Field(None, description="the prompt before the continuation, with logprobs its tokens' too")
    stop: Stops = Field((), description="end before these texts")
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Bias = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = Field(
        None, description="the same seed gives the same text, whatever else runs"
    )
    user: str | None = None

    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(None, description="0 or -1 keeps all")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    no_repeat_ngram: Count | None = Field(None, description="never repeat a sequence of this many tokens")
    length_penalty: float | None = Field(None, description="of beam search, which the server does not offer: refused")
    use_beam_search: bool | None = Field(None, description="not offered: refused")
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    skip_special_tokens: bool | None = Field(None, description="true")
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = Field(
        None, description="keep this many last tokens of a prompt; -1: as many as leave room for max_tokens"
    )
    allowed_token_ids: TokenIds | None = Field(None, description="nothing else is generated")
    bad_words: Strings | None = Field(None, description="texts that are not generated")
    prompt_logprobs: Count | None = None
    add_special_tokens: bool | None = Field(None, description="GPT-2 adds none; accepted")
    parse_special: bool | None = Field(None, description="read <|endoftext|> in a prompt as that token; true")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = Field(None, description="lower begins first; 0")
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="only requests of one salt share computed prompts"
    )


class ScoreRequest(Strict):
    """`POST /v1/score`: how likely texts are, token by token, past the context by a sliding window."""

    model: str | None = None
    text: Texts = Field(description="one text or several, as text or ids")
    stride: Positive | None = Field(None, description="tokens by which the window moves on; half the context")
    top_logprobs: Count | None = Field(None, description="this many likeliest tokens at each place")
    score_first: bool | None = Field(None, description="put the end-of-text token before the text; true")
    parse_special: bool | None = Field(None, description="read <|endoftext|> in the text as that token; true")


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`: texts as vectors."""

    model: str | None = None
    input: Texts = Field(description="one text or several, as text or ids, each within the context")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="float; base64 is of float32")
    dimensions: Positive | None = Field(None, description="the model's own width; any other is refused")
    pooling: Literal["mean", "last"] | None = Field(None, description="mean over the tokens, or the last one's")
    user: str | None = None
    parse_special: bool | None = Field(None, description="read <|endoftext|> in the text as that token; true")


class TokenizeRequest(Strict):
    """`POST /tokenize`; `content` is llama.cpp's name for `prompt`."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = Field(None, description="GPT-2 adds none; accepted")
    parse_special: bool | None = Field(None, description="read <|endoftext|> as that token; true")
    return_token_strs: bool | None = Field(None, description="the text of each token too")
    with_pieces: bool | None = Field(None, description="each token as an object with its piece, as llama.cpp has it")


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: TokenIds


class InspectRequest(Strict):
    """`POST /v1/inspect`: the rank of every token of a text; or one place of it from every side."""

    model: str | None = None
    prompt: Prompts = Field(description="one text, as text or ids")
    top_logprobs: Count | None = Field(None, description="this many likeliest tokens at each place; 10")
    position: Positive | None = Field(
        None, description="look at this token, counted from 0; the number of tokens is the place after the last"
    )
    layer: Count | None = Field(None, description="with position: the attention of every head of this layer, from 0")
    parse_special: bool | None = Field(None, description="read <|endoftext|> in the text as that token; true")

    # the filters behind each alternative's second probability
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    no_repeat_ngram: Count | None = None
    logit_bias: Bias = Field(default_factory=dict)


class DetectRequest(Strict):
    """`POST /v1/detect`: was a text generated? With an error rate, and the right to be inconclusive."""

    model: str | None = None
    text: str = Field(description="what to judge, from about 25 tokens on")
    false_positive_rate: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.01, description="how often human text of the calibration's kind may be called generated"
    )
    window: Annotated[int, Field(ge=25, le=MAX_INT)] = Field(200, description="tokens of a part of a long text")


class TaskRequest(Strict):
    """`POST /v1/tasks/{task}`: what the model is asked for a summary, a translation or an answer."""

    model: str | None = None
    text: str = Field(description="the article, the sentence or the question")
    source: str | None = Field(None, description="of a translation; french")
    target: str | None = Field(None, description="of a translation; english")
    context: str | None = Field(None, description="the passage that a question is about")
    continuation: Annotated[str, Field(max_length=MAX_CONTINUATION)] | None = Field(
        None, description="what the model wrote: the answer says what of it counts"
    )
