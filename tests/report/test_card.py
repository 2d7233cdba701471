"""A card says what is known and what is not, and nothing in it can become more than text."""

from dataclasses import replace
from typing import Any

import pytest

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import DataError
from gpt2.report import card_sections as sections
from gpt2.report import card_training as training
from gpt2.report.card import Described, card
from gpt2.report.markdown import line, quoted, table, verbatim

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=16, n_positions=64)
SHAPE = {"n_layer": 2, "n_embd": 16, "parameters": CONFIG.parameters}
BARE = Described(name="tiny", config=CONFIG, format="hf", form="fp32", bytes=1234, sha256="ab", library="transformers")
HOSTILE = [
    "a\n---\nlicense: stolen\n# New",
    "![x](http://evil/x.png) [y](javascript:1) <script>alert(1)</script> <img src=x onerror=1>",
    'name": "x" # \' \\ {a: [b]} &amp; *alias !!python/object',
    "``` ~~~ | a | b \\| c \\\\| www.evil.example https://evil.example me@evil.example $x$",
    "\x1b[31m\u202e\ud800\u2028\x85\x00\ufeff",
    "- [ ] > 1. =",
    "x" * 100_000,
]
RUN: dict[str, Any] = {
    "model": {"n_layer": 2, "n_embd": 16},
    "start": {"model": "/home/someone/gpt2"},
    "lora": {"rank": 0, "alpha": 16.0},
    "optim": {"matrices": "adamw", "lr": 0.001, "betas": [0.9, 0.95], "weight_decay": 0.1},
    "schedule": {"shape": "cosine", "tokens": 5000, "batch_tokens": 500, "sequence": [[0.0, 32], [0.5, 64]]},
    "rounding": {"form": "none"},
    "run": {"seed": 7},
}
STEPS = [{"step": 0, "validation_loss": 10.8}] + [
    {"step": n, "tokens": 500 * n, "seconds": n / 10, "loss": 11 - n / 10, "validation_loss": 10 + (n - 30) ** 2 / 1e3}
    for n in range(1, 41)
]


def result(title: str = "LAMBADA") -> dict[str, Any]:
    return {
        "model": {"name": "tiny", "sha256": "aa", "weights": "fp32", "n_positions": 32, **SHAPE},
        "settings": {"limit": 20, "data": "files"},
        "benchmarks": {
            "lambada": {
                "title": title,
                "figures": {"perplexity": 99.5, "accuracy_last_word": None, "tokens": 12},
                "paper": {"perplexity": [35.13, 15.6, 10.87, 8.63]},
            },
            "ptb": {"title": "Penn Treebank", "missing": "ptb.txt"},
        },
    }


def rendered(text: str) -> tuple[dict[str, Any], list[Any]]:
    """The front matter as the hub reads it, and the tokens that a Markdown reader makes of the rest."""
    hub = pytest.importorskip("huggingface_hub")
    markdown = pytest.importorskip("markdown_it")
    loaded = hub.ModelCard(text)
    reader = markdown.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    flat = [child for token in reader.parse(loaded.text) for child in (token, *(token.children or ()))]
    return loaded.data.to_dict(), flat


def test_what_is_not_known_is_said() -> None:
    text = card(BARE)
    for said in (
        "no record of its training was",
        "sources and licences",
        "Not measured here",
        "No samples",
        "no vocab",
    ):
        assert said in text
    assert f"- Parameters: {CONFIG.parameters:,}\n" in text
    assert "- Weights: fp32, 1,234 bytes, read from hf\n" in text
    front, _ = rendered(text)
    assert front == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gpt2"]}


def test_the_shape_of_a_published_model() -> None:
    assert "the shape of gpt2-xl" in card(replace(BARE, config=PUBLISHED["gpt2-xl"]))
    front, _ = rendered(card(replace(BARE, base_model="openai-community/gpt2")))
    assert front["base_model"] == "openai-community/gpt2"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_given_becomes_more_than_text(hostile: str) -> None:
    run = {**RUN, "start": {"model": hostile}}
    manifest = {
        "tokenizer_hash": "t",
        "documents": 1,
        "tokens": 2,
        "text_bytes": 3,
        "splits": {hostile: {"tokens": 2}},
        "settings": {"sources": [{"name": hostile, "bytes": None}]},
    }
    contents = {"documents": 1, "bytes": 2, "tokens": 3, "sources": {hostile: [1, 2]}, "licences": {hostile: [1, 2]}}
    data = sections.corpus({"contents": contents}) + "\n\n" + sections.shards(manifest, tokenizer="t")
    told = replace(
        BARE,
        name=hostile,
        library=hostile,
        base_model=hostile,
        notes=[hostile],
        tokenizer={"Kind": hostile},
        training=sections.training([(run, STEPS)], model=SHAPE),
        data=data,
        evaluation=sections.evaluation(result(hostile), model=SHAPE, files_sha256="aa"),
        samples=[("Once", hostile)],
        licence=hostile,
        language=hostile,
        repeated=training.repeated(
            n=8,
            samples=9,
            tokens=100,
            touched=1,
            share=0.1,
            longest=[(9, 1, 0, hostile)],
            frequent=[(1, 2, hostile)],
        ),
        groups=training.groups({"man": (1, {})}, {}, window=20, settings="of each"),
    )
    text = card(told)
    text.encode("utf-8")
    front, tokens = rendered(text)
    assert set(front) == {"library_name", "pipeline_tag", "tags", "base_model", "license", "language"}
    assert all(isinstance(front[name], str) for name in ("library_name", "base_model"))
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "em_open", "strong_open", "s_open", "hr"}
    _, plain = rendered(card(replace(told, name="tiny", library="x", base_model="x", notes=["x"])))
    headings = [token.content for token in tokens if token.type == "inline" and token.map and token.level == 1]
    assert sum(token.type == "heading_open" for token in tokens) == 12, headings
    for kind in ("table_open", "tr_open", "th_open", "td_open", "fence", "list_item_open"):
        assert sum(token.type == kind for token in tokens) == sum(token.type == kind for token in plain)
    assert sum(token.type == "fence" for token in tokens) == 1
    assert not any(char in text for char in "\x00\x1b\x85\u202e\u2028\ud800\ufeff")


@pytest.mark.parametrize("given", [text for text in HOSTILE if text.isprintable() and len(text) < 200])
def test_escaped_text_reads_as_it_was(given: str) -> None:
    markdown = pytest.importorskip("markdown_it")
    reader = markdown.MarkdownIt("commonmark").enable("table")
    cells = [token for token in reader.parse(table(["a", "b"], [(given, 1)])) if token.type == "inline"]
    assert "".join(child.content for child in cells[2].children) == given
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(f"a: {quoted(given)}") == {"a": given}


def test_a_sample_stays_as_it_is_in_a_fence_it_cannot_close() -> None:
    assert verbatim("a\n````\n# b\t") == "`````text\na\n````\n# b\t\n`````"
    assert verbatim("\x1b[0m") == "```text\n\\u001b[0m\n```"
    assert len(line("x" * 1000)) == 200


def test_a_run_is_told_by_its_figures() -> None:
    text = sections.training([(RUN, STEPS)], model=SHAPE)
    muon = RUN["optim"] | {"matrices": "muon", "muon_lr": 0.02, "muon_weight_decay": 0.2}
    optimizer = "Muon for the matrices, peak learning rate 0.02, weight decay 0.2; AdamW, peak learning rate 0.001, "
    assert optimizer in sections.training([(RUN | {"optim": muon}, STEPS)], model=SHAPE)
    for said in (
        "Began from: gpt2\n",
        "AdamW, peak learning rate 0.001, betas 0.9 and 0.95, weight decay 0.1\n",
        "Steps taken: 40\n",
        "Tokens seen: 20,000\n",
        "held-out loss: 10.0000 at step 30",
    ):
        assert said in text
    assert "someone" not in text
    assert text.count("\n| ") == 12  # heading, rule, and ten of forty measurements
    assert "| 1 | 500 |" in text
    assert "| 40 | 20,000 |" in text
    assert "how well it learned is not known" in sections.training(
        [(RUN, [{"step": 1, "tokens": 1, "seconds": 1, "loss": 2.0}])], model=SHAPE
    )
    assert "no step of the run is recorded" in sections.training([(RUN, [])], model=SHAPE)


def test_several_runs_are_told_in_their_order() -> None:
    text = sections.training([(RUN, STEPS), (RUN | {"start": {"model": "first"}}, STEPS)], model=SHAPE)
    assert text.index("### Run 1 of 2") < text.index("Began from: gpt2\n") < text.index("### Run 2 of 2")
    assert text.index("### Run 2 of 2") < text.index("Began from: first\n")
    operations = 6 * CONFIG.parameters * 20_000
    assert text.count(f"a parameter and token: {operations:.2g}\n") == 2


def test_a_calibration_says_what_it_tells() -> None:
    made_from = {"human": "essays", "human_texts": 120, "generated_texts": 30}
    text = sections.detection(made_from, [("tokens", "human texts", "detected: top-k 40"), ("25", "120", "7%")])
    assert "120 human texts (essays)" in text
    assert "| 25 | 120 | 7% |" in text
    assert "| tokens | human texts | detected\\: top-k 40 |" in text


def test_an_evaluation_stands_beside_the_paper() -> None:
    text = sections.evaluation(result(), model=SHAPE, files_sha256="aa")
    assert "| LAMBADA | perplexity | 99.5 | 35.13 | 15.6 | 10.87 | 8.63 |" in text
    assert "accuracy last word" not in text  # neither in the paper nor what it is known by
    headed = result()
    headed["benchmarks"]["lambada"]["headline"] = "accuracy_last_word"
    assert "| LAMBADA | accuracy last word | – | – | – | – | – |" in sections.evaluation(
        headed, model=SHAPE, files_sha256="aa"
    )
    assert "the first 20 examples of each only" in text
    assert "for want of data: Penn Treebank" in text
    assert "very files" in text
    with_error = result()
    with_error["benchmarks"]["lambada"]["standard_errors"] = {"perplexity": 10.0}
    assert "| 99.5 ± 20 |" in sections.evaluation(with_error, model=SHAPE, files_sha256="aa")
    assert "on other files" in sections.evaluation(result(), model=SHAPE, files_sha256="bb")


def test_records_of_another_model_or_kind_are_refused() -> None:
    other = {**SHAPE, "n_embd": 32}
    with pytest.raises(DataError, match="another model, whose n_embd is 16 and not 32"):
        sections.training([(RUN, STEPS)], model=other)
    with pytest.raises(DataError, match="another model"):
        sections.evaluation(result(), model=other, files_sha256="")
    for wrong in ({}, {"model": 3}, {"model": {}, "settings": []}, [], None, "text"):
        with pytest.raises(DataError, match="not what this package writes"):
            sections.evaluation(wrong, model=SHAPE, files_sha256="")  # pyright: ignore[reportArgumentType]
        with pytest.raises(DataError, match="not what this package writes"):
            sections.training([(wrong, STEPS)], model=SHAPE)  # pyright: ignore[reportArgumentType]
        with pytest.raises(DataError, match="not what this package writes"):
            sections.corpus(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="another vocabulary"):
        sections.shards({"tokenizer_hash": "a"}, tokenizer="b")


def test_of_its_training_text() -> None:
    counts = {(f"github.com/books/{i}", "CC0"): (1, 100) for i in range(5)}
    counts |= {("github.com/a/b", "CC0"): (2, 900), ("", ""): (1, 10), ("github.com/books/5", "MIT"): (1, 5)}
    text = training.sources(9, 1415, counts)
    assert "| github.com/books/\\* (5) | CC0 | 5 | 500 |" in text
    assert "| github.com/books/5 | MIT | 1 | 5 |" in text
    assert "| not stated | not stated | 1 | 10 |" in text
    assert "| CC0 | 7 | 1,400 |" in text
    near = training.groups({"man": (4, {"home": 1})}, {"man": (50, {"home": 20})}, window=20, settings="so")
    assert "| man | 4 / 50 | 0% / 0% |" in near
    assert "| 25% / 40% |" in near
    assert set(training.CATEGORIES) <= set(near.replace(":", " ").split())
