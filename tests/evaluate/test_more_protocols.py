"""The protocols that choose or write, on the made-up examples, against a straightforward computation."""

import json
import math
import re
from collections.abc import Callable

import pytest

from gpt2.errors import DataError
from gpt2.evaluate import (
    Continued,
    Plan,
    Setting,
    cbt,
    cnn_dailymail,
    coqa,
    enwik8,
    hellaswag,
    lambada,
    language_modelling,
    multiple_choice,
    one_billion_word,
    rouge,
    squad,
    wikitext,
    wmt14,
)
from gpt2.evaluate.files_of_data import EXAMPLES
from gpt2.generation.targets import TargetScore, score_targets
from gpt2.language_model import LanguageModel

EOT = 50256
NEAR = 1e-4


def made_up(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def logprob(hf_logprobs, before: list[int], after: list[int]) -> float:
    rows = hf_logprobs([*before, *after[:-1]])[len(before) - 1 :]
    return sum(row[token].item() for row, token in zip(rows, after, strict=True))


def windows_loss(ids: list[int], hf_logprobs, *, stride: int, full: bool = False) -> float:
    """Each token from the first window that reaches it; the last window as long as the others where `full`."""
    text, total, done = [EOT, *ids], 0.0, 0
    for start in range(0, len(ids), stride):
        end = min(start + 64, len(ids))
        first = max(0, len(ids) - 64) if full and end == len(ids) else start
        rows = hf_logprobs(text[first:end])
        total -= sum(rows[i - first][text[i + 1]].item() for i in range(done, end))
        done = end
        if end == len(ids):
            return total
    raise AssertionError


@pytest.mark.parametrize("short", ["cn", "ne"])
def test_cbt(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting], short: str):
    plan = cbt.plan([made_up(f"cbt-{short}.txt")], setting(choices={"detokenize": "no"}))
    answers = score_targets(model.backend, plan.requests)
    right = 0
    blocks = made_up(f"cbt-{short}.txt").strip().split("\n\n")
    for number, block in enumerate(blocks):
        lines = [re.sub(r"^\d+ ", "", line) for line in block.split("\n")]
        query, answer, _, candidates = lines.pop().split("\t")
        before, after = " ".join([*lines, query]).split(" XXXXX")
        ids = [EOT, *model.tokenizer.encode(before)]
        continuations = [model.tokenizer.encode(f" {word}{after}") for word in candidates.split("|")]
        ids = ids[-(65 - max(map(len, continuations))) :]
        sums = [logprob(hf_logprobs, ids, each) for each in continuations]
        found = [sum(each.logprobs) for each in answers[10 * number : 10 * number + 10]]
        assert found == pytest.approx(sums, abs=NEAR)
        right += candidates.split("|")[sums.index(max(sums))] == answer
    assert plan.n_examples == len(blocks)
    assert plan.measure(answers) == {"accuracy": 100 * right / len(blocks)}
    assert plan.judge is not None
    judged = plan.judge(answers)
    assert sum(each.score for each in judged) == right
    assert all(0.1 <= (each.confidence or 0) <= 1 for each in judged)


def test_cbt_is_written_as_a_book_is(setting: Callable[..., Setting]):
    [*_, query] = cbt.plan([made_up("cbt-cn.txt")], setting(n_positions=1024, choices={"detokenize": "yes"})).requests
    text = setting().decode(query.context[1:]) + setting().decode(query.targets)
    assert '"Who would leave a basket here?" she wondered. She sniffed' in text
    assert text.endswith("He put the river down under the oak, and the fox didn't wait for him to leave.")


def test_a_word_that_follows_a_quotation_mark_has_no_space_before_it(setting: Callable[..., Setting]):
    lines = ['1 He said " so .', *(f"{number} He said so ." for number in range(2, 21))]
    block = "\n".join([*lines, "21 `` XXXXX there , '' she said .\tWho\t\tWho|Cat\n\n"])
    plan = cbt.plan([block * 3], setting(n_positions=1024, limit=2, choices={"detokenize": "yes"}))
    assert plan.n_examples == 2 and len(plan.requests) == 4
    assert plan.notes == ("2 of 42 lines have no inverse and were left as they are",)
    decode = setting().decode
    assert decode(plan.requests[0].context).endswith(' He said so. "')
    assert [decode(each.targets) for each in plan.requests[:2]] == ['Who there," she said.', 'Cat there," she said.']


def test_hellaswag(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting]):
    for text, length, start in (("plain", "tokens", "endoftext"), ("harness", "characters", "nothing")):
        plan = hellaswag.plan(
            [made_up("hellaswag.jsonl")], setting(choices={"text": text, "length": length, "start": start})
        )
        answers = score_targets(model.backend, plan.requests)
        plain = by_length = 0
        for number, line in enumerate(made_up("hellaswag.jsonl").splitlines()):
            item = json.loads(line)
            before, endings = item["ctx"], item["endings"]
            if text == "harness":
                before = f"{item['activity_label']}: {item['ctx_a']} {item['ctx_b'].capitalize()}"
                endings = [ending.replace(" [title]", ". ").replace("  ", " ") for ending in endings]
            ids = [EOT] * (start == "endoftext") + model.tokenizer.encode(before)
            each = [model.tokenizer.encode(f" {ending}") for ending in endings]
            sums = [logprob(hf_logprobs, ids, ending) for ending in each]
            assert [sum(a.logprobs) for a in answers[4 * number : 4 * number + 4]] == pytest.approx(sums, abs=NEAR)
            per = [s / (len(e) if length == "tokens" else len(t)) for s, e, t in zip(sums, each, endings, strict=True)]
            plain += sums.index(max(sums)) == item["label"]
            by_length += per.index(max(per)) == item["label"]
        assert plan.measure(answers) == {"accuracy": 50 * plain, "accuracy_length_normalised": 50 * by_length}


def test_hellaswag_is_cleaned_as_the_harness_does(setting: Callable[..., Setting]):
    item = {
        "activity_label": "Baking",
        "ctx_a": " [header] How to bake [title] Mix [step] the flour [substeps] well.",
        "ctx_b": "then",
        "ctx": "as it is [title]",
        "endings": [" bake [title] it. [substeps] Cool it. ", "b", "c", "d"],
        "label": "0",
    }
    text = f"{json.dumps(item)}\n" * 3
    choices = {"text": "harness", "length": "characters", "start": "nothing"}
    plan = hellaswag.plan([text], setting(n_positions=1024, limit=2, choices=choices))
    assert plan.n_examples == 2 and len(plan.requests) == 8
    decode = setting().decode
    assert decode(plan.requests[0].context) == "Baking:  How to bake. Mix the flour well. Then"
    assert decode(plan.requests[0].targets) == " bake. it. Cool it."
    plain = hellaswag.plan([text], setting(n_positions=1024, choices=choices | {"text": "plain"}))
    assert decode(plain.requests[0].context) == "as it is [title]"


def test_the_space_before_an_ending_is_none_of_its_characters(setting: Callable[..., Setting]):
    item = json.dumps({"ctx": "So", "endings": ["a", "bcd", "e" * 9, "f" * 9], "label": 1})
    plan = hellaswag.plan([item], setting(choices={"text": "plain", "length": "characters", "start": "nothing"}))
    sums = [-1.5, -4.2, -90.0, -90.0]  # 1.5 and 1.4 a character; of one more each it would be 0.75 and 1.05
    answers = [TargetScore(logprobs=(each,), ranks=(0,)) for each in sums]
    assert plan.measure(answers) == {"accuracy": 0.0, "accuracy_length_normalised": 100.0}


def test_a_continuation_longer_than_the_context_is_cut_to_it(setting: Callable[..., Setting]):
    item = json.dumps({"ctx": "So he said", "endings": ["word " * 99, "b", "c", "d"], "label": 0})
    plan = hellaswag.plan([item], setting(choices={"text": "plain", "length": "tokens", "start": "nothing"}))
    assert [len(each.context) for each in plan.requests] == [1] * 4
    assert [len(each.targets) for each in plan.requests] == [64, 1, 1, 1]


def test_the_first_of_equals_is_the_answer():
    assert multiple_choice.best([-2.0, -1.0, -1.0]) == 1


def test_what_stands_before_is_cut_to_the_context(setting: Callable[..., Setting]):
    long = json.dumps({"ctx": "word " * 99 + "end", "endings": ["a", "b c d", "e", "f"], "label": "1"})
    plan = hellaswag.plan([long], setting(choices={"text": "plain", "length": "tokens", "start": "nothing"}))
    assert {request.context for request in plan.requests} == {plan.requests[0].context}
    assert max(request.n_tokens for request in plan.requests) == 64


@pytest.mark.parametrize("sentences", ["apart", "together"])
def test_one_billion_word(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting], sentences: str):
    choices = {"sentences": sentences, "detokenize": "yes", "newlines": "counted", "last_window": "short"}
    plan = one_billion_word.plan([made_up("1bw.txt")], setting(choices=choices))
    natural = [
        "The ferry, which is 40 years old, didn't leave the harbour on Tuesday.\n",
        '"We\'ll try again tomorrow," said the captain (a man of few words).\n',
        "It costs $12.50, or 5% more than in 2009.\n",
    ]
    texts = natural if sentences == "apart" else ["".join(natural)]
    ids = [model.tokenizer.encode(text) for text in texts]
    loss = sum(windows_loss(each, hf_logprobs, stride=16) for each in ids)
    found = plan.measure(score_targets(model.backend, plan.requests))
    n_words = len(made_up("1bw.txt").split()) + 3
    assert math.log(found["perplexity_per_word"]) == pytest.approx(loss / n_words, abs=NEAR)
    assert plan.notes == ()


def test_empty_lines_between_sentences_count_for_nothing(setting: Callable[..., Setting]):
    choices = {"sentences": "together", "detokenize": "yes", "newlines": "counted", "last_window": "short"}
    with_one, without = (
        one_billion_word.plan([text], setting(choices=choices)) for text in ("a b\n\nc d\n", "a b\nc d\n")
    )
    assert with_one.requests == without.requests
    answers = [TargetScore(logprobs=(-1.0,) * 6, ranks=(0,) * 6)]
    assert with_one.measure(answers) == without.measure(answers)
    assert with_one.measure(answers)["words"] == 6  # two of them <eos>


def test_enwik8_and_text8(model: LanguageModel, hf_logprobs, setting: Callable[..., Setting]):
    for name in ("enwik8", "text8"):
        text = made_up(f"{name}.txt")
        loss = windows_loss(model.tokenizer.encode(text), hf_logprobs, stride=16)
        plan = enwik8.plan([text], setting(choices={"last_window": "short"}))
        found = plan.measure(score_targets(model.backend, plan.requests))
        assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) / len(text.encode()), abs=NEAR)
        assert found["bits_per_character"] == pytest.approx(loss / math.log(2) / len(text), abs=NEAR)
    plan = enwik8.plan(["é" * 200], setting(choices={"last_window": "short"}))
    answers = [
        TargetScore(logprobs=(-1.0 - i,) * len(each.targets), ranks=(0,) * len(each.targets))
        for i, each in enumerate(plan.requests)
    ]
    errors = plan.errors(answers) if plan.errors else {}
    assert errors["bits_per_character"] == pytest.approx(2 * errors["bits_per_byte"])  # of two bytes each


@pytest.mark.parametrize("detokenize", ["yes", "harness"])
def test_articles_one_by_one_with_full_windows(
    model: LanguageModel, hf_logprobs, setting: Callable[..., Setting], detokenize: str
):
    text = made_up("wikitext.txt")
    choices = {"detokenize": detokenize, "newlines": "counted", "documents": "pages", "last_window": "full"}
    plan = wikitext.plan([text], setting(stride=64, choices=choices))
    pages = wikitext.pages(text)
    assert [page.split("\n")[0] for page in pages] == [" = Lighthouse of Skarv = ", " = The Skarv ferry = "]
    if detokenize == "yes":
        natural = ["".join(wikitext.wikitext_there(line.strip(" ")) + "\n" for line in p.split("\n")) for p in pages]
        natural = [page.removesuffix("\n") for page in natural]
        natural[0] = "\n" + natural[0]  # the empty line before the first heading
    else:
        natural = [wikitext.harness_there(page) for page in pages]
        assert "well-known <unk>, was built in 1,840 (or so" in natural[0]
    loss = sum(windows_loss(model.tokenizer.encode(page), hf_logprobs, stride=64, full=True) for page in natural)
    found = plan.measure(score_targets(model.backend, plan.requests))
    assert math.log(found["perplexity_per_token"]) == pytest.approx(loss / found["tokens"], abs=NEAR)


def test_the_two_texts_of_lambada(setting: Callable[..., Setting]):
    text = "he did n't see the boat\n`` come , '' she said\n"
    plain, natural = (
        lambada.plan([text], setting(choices={"text": name, "start": "nothing"}))
        for name in ("original", "original-detokenized")
    )
    decode = setting().decode
    assert [decode(each.context) for each in plain.requests] == ["he did n't see the", "`` come , '' she"]
    assert [decode(each.context) for each in natural.requests] == ["he didn't see the", '"come," she']
    assert decode(natural.requests[0].targets) == " boat"


def test_lambada_says_what_the_model_would_have_said(setting: Callable[..., Setting]):
    plan = lambada.plan(
        ['{"text": "a b c"}\n{"text": "d e f"}'], setting(choices={"text": "openai", "start": "nothing"})
    )
    of, f = setting().encode(" of")[0], plan.requests[1].targets[0]
    answers = [
        TargetScore(logprobs=(-3.0,), ranks=(9,), best=(of,), best_logprob=-0.5),
        TargetScore(logprobs=(-0.25,), ranks=(0,), best=(f,), best_logprob=-0.25),
    ]
    assert plan.judge is not None
    wrong, right = plan.judge(answers)
    assert (wrong.answered, wrong.expected, wrong.score) == (" of", "c", 0.0)
    assert wrong.confidence == pytest.approx(math.exp(-0.5))
    assert (right.answered, right.score, right.confidence) == ("f", 1.0, pytest.approx(math.exp(-0.25)))


def said(*texts: str) -> list[Continued]:
    return [Continued(text=text, logprob=-1.0) for text in texts]


def test_coqa(setting: Callable[..., Setting]):
    plan = coqa.plan([made_up("coqa.json")], setting(n_positions=1024, choices={"set": "dev"}))
    assert plan.requests[2].prompt.endswith(
        "called it Gull.\n\nQ: What did Ola find?\nA: A boat\nQ: Where?\nA: on the beach\n"
        "Q: What colour was it in the end?\nA:"
    )
    figures = plan.measure(said(" the old boat\nQ: Why?", " at the beach.", " green"))
    boat = (1 / 2 + 2 / 3) / 2  # against one person's answer and against the other's; so too of the beach
    assert figures["f1"] == pytest.approx(100 * (boat + boat + 0) / 3)
    assert plan.judge is not None
    judged = plan.judge(said(" the old boat", " at the beach.", " green"))
    assert [each.score for each in judged] == pytest.approx([boat, boat, 0])
    assert judged[0].expected == "A boat / a blue boat"


@pytest.mark.parametrize(
    ("answer", "right", "precision", "recall"),
    [
        ("the cat sat", "A cat", 1 / 2, 1),
        ("cat cat dog", "cat dog dog", 2 / 3, 2 / 3),
        ("1,989.", "1989", 1, 1),
        ("a red boat and an oar", "the boat!", 1 / 4, 1),
        ("x", "y", 0, 0),
        ("", "", 1, 1),
        ("the", "cat", 0, 0),
    ],
)
def test_f1_is_squads(answer: str, right: str, precision: float, recall: float):
    mean = 2 * precision * recall / (precision + recall) if precision else 0.0
    assert squad.f1(answer, right) == squad.f1(right, answer) == pytest.approx(mean)


ROUGE_PAIRS = [
    ("The cat sat on the mat. It was grey.", "A grey cat was sitting on the mat. The mat was red."),
    ("Nothing in common.", "xyz"),
    ("", "a b"),
    ("a b a b a", "b a b a b"),
    (
        "It's 40 years old; the bridge, too. And then? Nothing.",
        "The bridge is 40 years old. Then nothing. And then it.",
    ),
]


@pytest.mark.parametrize(("summary", "reference"), ROUGE_PAIRS)
def test_rouge_is_that_of_the_well_kept_library(summary: str, reference: str):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    sentences = cnn_dailymail.sentences
    given, wanted = sentences(summary), sentences(reference)
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"]).score("\n".join(wanted), "\n".join(given))
    assert rouge.rouge_n(summary, reference, 1) == pytest.approx(theirs["rouge1"].fmeasure)
    assert rouge.rouge_n(summary, reference, 2) == pytest.approx(theirs["rouge2"].fmeasure)
    assert rouge.rouge_l(given, wanted) == pytest.approx(theirs["rougeLsum"].fmeasure)


def test_cnn_dailymail(setting: Callable[..., Setting]):
    choices = {"set": "test", "hint": "tldr", "stemming": "no"}
    text = made_up("cnndm.jsonl")
    plan = cnn_dailymail.plan([text], setting(n_positions=1024, choices=choices))
    assert plan.requests[0].prompt.endswith("a dark day.\nTL;DR:")
    assert (plan.requests[0].sampling.top_k, plan.requests[0].sampling.max_tokens) == (2, 100)
    without = cnn_dailymail.plan([text], setting(n_positions=1024, choices=choices | {"hint": "none"}))
    assert without.requests[0].prompt.endswith("a dark day.\n")
    perfect = [" " + " ".join(json.loads(line)["highlights"].split("\n")) for line in text.splitlines()]
    found = plan.measure(said(*perfect))
    assert [found[f"rouge_{kind}"] for kind in ("1", "2", "l", "average")] == pytest.approx([100] * 4)
    assert 20 < found["lead_3_rouge_average"] < 60
    assert plan.measure(said("One. Two. Three. " + perfect[0], ""))["rouge_1"] == 0.0  # three sentences are kept


def test_a_line_ends_at_its_newline_alone(setting: Callable[..., Setting]):
    line = json.dumps({"article": "One.\u2028Two.", "highlights": "Three\x85four."}, ensure_ascii=False)
    choices = {"set": "test", "hint": "tldr", "stemming": "no"}
    assert cnn_dailymail.plan([f"{line}\n{line}\n"], setting(n_positions=1024, choices=choices)).n_examples == 2


def test_rouge_of_stems(setting: Callable[..., Setting]):
    pytest.importorskip("nltk", reason="nltk is not installed")
    line = json.dumps({"article": "Ferries stopped. Nobody cared much.", "reference": "The ferry stops."})
    choices = {"set": "realsumm", "hint": "tldr"}
    plain, stemmed = (
        cnn_dailymail.plan([line], setting(n_positions=1024, choices=choices | {"stemming": value})).measure(
            said("ferries stopped")
        )["rouge_1"]
        for value in ("no", "yes")
    )
    assert (plain, stemmed) == (0.0, pytest.approx(80.0))


def test_wmt14(setting: Callable[..., Setting]):
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    texts = [made_up("wmt14.en"), made_up("wmt14.fr")]
    into, out_of = (
        plan(texts, setting(n_positions=1024, choices={"examples": "3"}))
        for plan in (wmt14.plan_fr_en, wmt14.plan_en_fr)
    )
    assert into.requests[0].prompt.endswith("\nLe ferry ne part pas avant midi. =")
    assert into.requests[0].prompt.count("\n") == 3
    assert out_of.requests[1].prompt.endswith("\nWho has seen my grey hat? =")
    english = texts[0].splitlines()
    assert into.measure(said(*english))["bleu"] == pytest.approx(100)
    half = ["The ferry does not leave at noon. More.", "Who saw my hat?", "She bought books and a map of the island."]
    kept = ["The ferry does not leave at noon.", *half[1:]]
    assert into.measure(said(*half))["bleu"] == pytest.approx(sacrebleu.corpus_bleu(kept, [english]).score)
    with pytest.raises(DataError, match="3 lines of English and 2 of French"):
        wmt14.plan_fr_en([texts[0], "Un.\nDeux.\n"], setting(choices={"examples": "3"}))


@pytest.mark.parametrize(
    ("plan", "choices", "message"),
    [
        (cbt.plan, {"detokenize": "yes"}, "question 1 of CBT is not lines .* begins 'nonsense'"),
        (
            hellaswag.plan,
            {"text": "plain", "length": "tokens", "start": "nothing"},
            "line 1 of HellaSwag is not an item: it begins 'nonsense'",
        ),
        (coqa.plan, {"set": "dev"}, "CoQA's file is not stories"),
        (cnn_dailymail.plan, {"hint": "tldr", "stemming": "no"}, "line 1 of CNN/Daily Mail is not"),
    ],
)
def test_what_is_not_an_example(setting: Callable[..., Setting], plan: Callable[..., Plan], choices, message: str):
    with pytest.raises(DataError, match=message):
        plan(["nonsense"], setting(choices=choices))


def test_every_benchmark_has_made_up_examples_and_a_headline(setting: Callable[..., Setting]):
    from gpt2.evaluate import SUITE

    for benchmark in SUITE:
        if benchmark.name.startswith("wmt14"):
            pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
        texts = [made_up(name) for name in benchmark.made_up]
        plan = benchmark.plan(texts, setting(n_positions=1024, choices=benchmark.defaults()))
        assert plan.n_examples >= 1
        assert len(benchmark.made_up) == len(benchmark.files_for(benchmark.defaults()))
        assert benchmark.paper == {} or benchmark.headline in benchmark.paper
        assert all(known.size in ("124M", "355M", "774M", "1.5B") for known in benchmark.known)


def test_full_windows_are_full():
    ids = list(range(150))
    for stride in (64, 20):
        found = list(language_modelling.windows(ids, eot=EOT, n_positions=64, stride=stride, full=True))
        assert [token for each in found for token in each.targets] == ids
        assert all(each.n_tokens == 64 for each in found)
