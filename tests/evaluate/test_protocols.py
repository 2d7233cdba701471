"""Each protocol on a few made-up examples, against a straightforward computation with Hugging Face's model."""

import json
import math
from collections.abc import Callable

import pytest

from gpt2.errors import DataError
from gpt2.evaluate import (
    Continued,
    Plan,
    Setting,
    answering,
    lambada,
    natural_questions,
    ptb,
    uncertainty,
    wikitext,
    wsc273,
)
from gpt2.generation.targets import TargetScore, score_targets
from gpt2.language_model import LanguageModel

EOT = 50256
NEAR = 1e-4

WIKITEXT = """
 = Lighthouse =

 The lighthouse , a well @-@ known <unk> , was built in 1 @,@ 840 ( or so " they " say ) .
 It 's 21 @.@ 5 metres tall , and costs $ 5 to see ; the keeper 's house is closed .

 = = History = =

 No one knows who built the U.S. lighthouse on St. <unk> .
"""
PTB = r""" the company 's shares did n't fall <unk> N N to $ N
 mr. <unk> said it was a \/ b and they 'll pay
 no more than that he said
"""
PASSAGES = [
    "The keeper climbed the stairs of the lighthouse, and looked out over the sea from the barnacles",
    "“Where is the boat?” she asked. He did not know where she had put the boat",
    "word " * 80 + "end",
]
LAMBADA = "".join(json.dumps({"text": text}) + "\n" for text in PASSAGES)
WSC = "".join(
    json.dumps({"context_options": options, "continuation": rest, "gold": gold}) + "\n"
    for options, rest, gold in [
        (["The cup broke because the cup", "The cup broke because the stone"], "was thin.", 0),
        (["Ann thanked Eve because Ann", "Ann thanked Eve because Eve"], "had helped her.", 1),
        (["She lost the key to the door of the key", "She lost the key to the door of the door"], ".", 1),
    ]
)


def measured(plan: Plan, model: LanguageModel) -> dict[str, float]:
    return plan.measure(score_targets(model.backend, plan.requests))


def loss_by_windows(ids: list[int], hf_logprobs, n_positions: int, stride: int) -> float:
    """The definition: every token from the first window that reaches it."""
    text, total, done = [EOT, *ids], 0.0, 0
    for start in range(0, len(ids), stride):
        rows = hf_logprobs(text[start : start + n_positions])
        for i in range(max(start, done), min(start + n_positions, len(ids))):
            total -= rows[i - start][text[i + 1]].item()
            done = i + 1
    assert done == len(ids)
    return total


@pytest.mark.parametrize("stride", [16, 64, 7])
@pytest.mark.parametrize("detokenize", ["yes", "no"])
def test_wikitext2(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting], stride: int, detokenize: str):
    choices = {"detokenize": detokenize, "newlines": "counted", "documents": "whole"}
    found = measured(wikitext.plan([WIKITEXT], setting(stride=stride, choices=choices)), model)
    natural = (
        "\n= Lighthouse =\n\n"
        'The lighthouse, a well-known <unk>, was built in 1,840 (or so "they" say).\n'
        "It's 21.5 metres tall, and costs $5 to see; the keeper's house is closed.\n\n"
        "== History ==\n\nNo one knows who built the U.S. lighthouse on St. <unk>.\n"
    )
    as_it_is = "".join(line.strip(" ") + "\n" for line in WIKITEXT.split("\n")[:-1])
    ids = model.tokenizer.encode(natural if detokenize == "yes" else as_it_is)
    loss = loss_by_windows(ids, hf_logprobs, 64, stride)
    n_words = len(WIKITEXT.split()) + WIKITEXT.count("\n")
    assert math.log(found["perplexity_per_word"]) == pytest.approx(loss / n_words, abs=NEAR)
    assert math.log(found["perplexity_per_token"]) == pytest.approx(loss / len(ids), abs=NEAR)
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) / len(as_it_is.encode()), abs=NEAR)
    assert (found["words"], found["tokens"]) == (n_words, len(ids))


def test_ptb(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting]):
    choices = {"detokenize": "yes", "newlines": "ignored"}
    found = measured(ptb.plan([PTB], setting(limit=2, choices=choices)), model)
    ids = model.tokenizer.encode(
        "the company's shares didn't fall <unk> N N to $N\nmr. <unk> said it was a / b and they'll pay\n"
    )
    loss = loss_by_windows(ids, hf_logprobs, 64, 16)
    assert found["words"] == 25
    assert math.log(found["perplexity_per_word"]) == pytest.approx(loss / 25, abs=NEAR)


@pytest.mark.parametrize("text", ["openai", "normalised"])
@pytest.mark.parametrize("start", ["nothing", "endoftext"])
def test_lambada(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting], text: str, start: str):
    found = measured(lambada.plan([LAMBADA], setting(choices={"text": text, "start": start})), model)
    total = 0.0
    for passage in PASSAGES:
        if text == "normalised":
            passage = "\n" + passage.replace("“", '"').replace("”", '"').strip()
        words = passage.split(" ")
        before = [EOT] * (start == "endoftext") + model.tokenizer.encode(" ".join(words[:-1]))
        target = model.tokenizer.encode(" " + words[-1])
        before = before[len(before) + len(target) - 65 :] if len(before) + len(target) > 65 else before
        rows = hf_logprobs([*before, *target[:-1]])[len(before) - 1 :]
        total += sum(row[token].item() for row, token in zip(rows, target, strict=True))
    assert math.log(found["perplexity"]) == pytest.approx(-total / 3, abs=NEAR)


def test_a_passage_of_one_word_follows_the_end_of_text_token(setting: Callable[..., Setting]):
    choices = {"text": "openai", "start": "nothing"}
    [request] = lambada.plan(['{"text": "word"}'], setting(choices=choices)).requests
    assert request.context == (EOT,)


def test_lambada_counts_what_is_right(setting: Callable[..., Setting]):
    plan = lambada.plan([LAMBADA], setting(choices={"text": "openai", "start": "nothing"}))
    the, boat = setting().encode(" the")[0], plan.requests[1].targets[0]
    assert len(plan.requests[0].targets) == 2  # " barn" and "acles"
    answers = [
        TargetScore(logprobs=(-1.0, -0.5), ranks=(1, 0), best=(the, plan.requests[0].targets[0])),
        TargetScore(logprobs=(-2.0,), ranks=(0,), best=(boat, the)),
        TargetScore(logprobs=(-3.0,), ranks=(1,), best=(boat, plan.requests[2].targets[0])),
    ]
    assert plan.measure(answers) == pytest.approx(
        {
            "perplexity": math.exp(6.5 / 3),
            "accuracy_last_word": 100 / 3,
            "accuracy_last_word_filtered": 200 / 3,
            "accuracy_last_token": 200 / 3,
        }
    )
    answers[0] = TargetScore(logprobs=(-1.0, -0.5), ranks=(1, 1), best=answers[0].best)  # " barn" alone is not the word
    assert plan.measure(answers)["accuracy_last_word_filtered"] == pytest.approx(100 / 3)


def test_wsc273(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting]):
    plan = wsc273.plan([WSC], setting(choices={"start": "endoftext"}))
    answers = score_targets(model.backend, plan.requests)
    full = partial = 0
    for i, line in enumerate(WSC.splitlines()):
        schema = json.loads(line)
        sums: list[tuple[float, float]] = []
        for k, option in enumerate(schema["context_options"]):
            space = "" if schema["continuation"] == "." else " "
            start = model.tokenizer.encode(option)
            ids = start + model.tokenizer.encode(space + schema["continuation"])
            rows = hf_logprobs([EOT, *ids])
            each = [rows[j][token].item() for j, token in enumerate(ids)]
            sums.append((sum(each), sum(each[len(start) :])))
            assert sum(answers[4 * i + 2 * k].logprobs) == pytest.approx(sums[-1][0], abs=NEAR)
            assert sum(answers[4 * i + 2 * k + 1].logprobs) == pytest.approx(sums[-1][1], abs=NEAR)
        right, wrong = sums[schema["gold"]], sums[1 - schema["gold"]]
        full, partial = full + (right[0] > wrong[0]), partial + (right[1] > wrong[1])
    figures = plan.measure(answers)
    assert figures == pytest.approx({"accuracy_full": 100 * full / 3, "accuracy_partial": 100 * partial / 3})
    flipped = [answers[i ^ 2] for i in range(len(answers))]
    assert plan.measure(flipped) == pytest.approx({name: 100 - value for name, value in figures.items()})


def test_an_example_of_wsc273_is_a_sentence_in_its_order(setting: Callable[..., Setting]):
    plan = wsc273.plan([WSC], setting(choices={"start": "nothing"}))
    answers = [TargetScore(logprobs=(-1.0 * (i % 4),), ranks=(1,), best=(0,)) for i in range(len(plan.requests))]
    assert plan.judge
    read = [(each.given, each.answered, each.then, each.expected) for each in plan.judge(answers)]
    assert read == [
        ("The cup broke because the", "cup", " was thin.", "cup"),
        ("Ann thanked Eve because", "Ann", " had helped her.", "Eve"),
        ("She lost the key to the door of the", "key", ".", "door"),
    ]


def test_a_name_of_wsc273_may_begin_with_the_other(setting: Callable[..., Setting]):
    schema = {"context_options": ["It was Emma's", "It was Emma's mother's"], "continuation": "idea.", "gold": 1}
    plan = wsc273.plan([json.dumps(schema)], setting(choices={"start": "nothing"}))
    assert plan.judge
    [each] = plan.judge([TargetScore(logprobs=(-1.0,), ranks=(1,))] * 4)
    assert (each.given, each.answered, each.expected) == ("It was", "Emma's", "Emma's mother's")


def test_limits(setting: Callable[..., Setting]):
    assert len(wsc273.plan([WSC], setting(limit=2, choices={"start": "nothing"})).requests) == 8
    assert wsc273.plan([WSC], setting(limit=9, choices={"start": "nothing"})).n_examples == 3
    choices = {"text": "openai", "start": "nothing"}
    assert len(lambada.plan([LAMBADA], setting(limit=1, choices=choices)).requests) == 1


NQ = "".join(
    json.dumps({"question": question, "answer": answers}) + "\n"
    for question, answers in [("who wrote it", ["Ann Lee", "A. Lee"]), ("when was that", ["1989"])]
)


def test_natural_questions_are_asked_and_compared(setting: Callable[..., Setting]):
    plan = natural_questions.plan([NQ], setting(n_positions=1024, choices={"question": "written", "examples": "5"}))
    assert plan.requests[0].prompt.endswith("\nA: Mercury\nQ: Who wrote it?\nA:")
    typed = natural_questions.plan([NQ], setting(n_positions=1024, choices={"question": "typed", "examples": "1"}))
    assert typed.requests[1].prompt.endswith("\nQ: when was that\nA:")
    right, wrong = Continued(text=" The a. lee!\nQ: Why?", logprob=-5.0), Continued(text=" in 1989", logprob=-1.0)
    assert plan.measure([right, wrong]) == {"exact_match": 50.0, "exact_match_of_the_surest_1_percent": 0.0}
    surer = Continued(text="Ann Lee", logprob=-0.5)
    assert plan.measure([surer, wrong]) == {"exact_match": 50.0, "exact_match_of_the_surest_1_percent": 100.0}


def test_the_surest_of_200_questions_are_two(setting: Callable[..., Setting]):
    plan = natural_questions.plan([NQ * 100], setting(n_positions=1024, choices={"question": "typed", "examples": "1"}))
    right, wrong = Continued(text="Ann Lee", logprob=-1.0), Continued(text="no", logprob=-2.0)
    figure, surest = "exact_match_of_the_surest_1_percent", Continued(text="no", logprob=-0.5)
    answers = [right, wrong] * 99 + [right, surest]
    assert plan.measure(answers) == {"exact_match": 50.0, figure: 50.0}
    assert plan.errors and plan.errors(answers) == {figure: uncertainty.of_percent(50.0, 2)}


def test_a_greedy_answer_and_how_sure_it_is(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting]):
    plan = natural_questions.plan([NQ], setting(choices={"question": "typed", "examples": "5"}))
    for asked, (found, _) in zip(
        plan.requests, [answering.answers_of(model, [request]) for request in plan.requests], strict=True
    ):
        ids = model.tokenizer.encode(asked.prompt)
        text, total = "", 0.0
        for _ in range(40):
            row = hf_logprobs(ids)[-1]
            ids.append(int(row.argmax()))
            total += row.max().item()
            text = model.tokenizer.decode(ids)[len(asked.prompt) :]
            if ids[-1] == EOT or "\n" in text:
                break
        assert found[0].text == text.removesuffix("<|endoftext|>").partition("\n")[0]
        assert found[0].logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("benchmark", [lambada, wsc273, natural_questions])
def test_a_line_that_is_not_an_example(benchmark, setting: Callable[..., Setting]):
    choices = {"text": "openai", "start": "nothing", "question": "typed", "examples": "5"}
    with pytest.raises(DataError, match=r"line 1 of .* begins 'nonsense'"):
        benchmark.plan(["nonsense\n"], setting(choices=choices))
