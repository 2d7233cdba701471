"""The pictures of what is seen inside: what stands in them, how much, and that no text becomes part of the page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import gpt2
from gpt2.errors import GenerationError
from gpt2.inspect import Attention, Lens, Neurons, Patching
from gpt2.inspect.pictures import MOST_CELLS, MOST_COLUMNS, by_part, small
from gpt2.language_model import LanguageModel
from gpt2.tokenizer.labels import label, unfinished

TEXT = 'The <b>cat</b> & "dog"\n\x1b[31m\u202eéa'


@pytest.fixture(scope="module")
def model(tiny_folder) -> LanguageModel:
    return gpt2.load(tiny_folder, backend="reference")


class Cells(HTMLParser):
    """The text of each cell, row by row; other tags than a table's, a paragraph's and a division's are refused."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("table", "caption", "tr", "th", "td", "div", "p"), tag
        assert all(name in ("style", "title") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_lens_shows_its_guesses(model: LanguageModel) -> None:
    lens = model.logit_lens(TEXT, best=2)
    head, *rows = Cells(lens.html()).rows
    assert len(head) - 1 == len(lens.ids)
    assert [row[0] for row in rows] == ["embedding", *(f"block {depth}" for depth in lens.depths[1:])]
    assert lens.guesses_LT[1][0] == model.tokenizer.decode([int(lens.best_ids_LTK[1, 0, 0])])
    assert lens._repr_html_() == lens.html()
    assert "the last" not in lens.html()
    plain = model.logit_lens(TEXT, best=0)
    assert plain._repr_html_() is None
    with pytest.raises(GenerationError, match="best=1"):
        plain.html()


def test_a_character_of_several_tokens_is_a_label_of_the_last(model: LanguageModel) -> None:
    text = "a今 é"
    wanted = ["a", r"\xe4\xbb", "今", " é"]
    lens = model.logit_lens(text, best=1)
    before = unfinished(model.tokenizer, lens.ids)
    assert before == [b"", b"\xe4\xbb", b"", b""]
    for guesses, ids in zip(lens.guesses_LT, lens.best_ids_LTK[:, :, 0].tolist(), strict=True):
        assert guesses == tuple(label(model.tokenizer, i, after=b) for i, b in zip(ids, before, strict=True))
    looks = model.attention(text, layer=0, head=0)
    for page in (lens.html(), looks.html(), model.neurons(text).html()):
        assert Cells(page).rows[0][1:] == wanted
        assert "\ufffd" not in page
    assert [row[0] for row in Cells(looks.html()).rows[1:]] == wanted


def test_one_head_is_a_table_of_its_weights(model: LanguageModel) -> None:
    looks = model.attention(TEXT, layer=1, head=0, last=2)
    _, *rows = Cells(looks.html()).rows
    expected = [[f"{x:.2f}".lstrip("0") if x >= 0.05 else "" for x in row] for row in looks.of(1, 0).tolist()]
    assert [row[1:] for row in rows] == expected
    assert f'title="{looks.of(1, 0)[0, 0]:.4g}"' in looks.html()


def test_of_much_a_part_is_shown_and_it_says_so(model: LanguageModel) -> None:
    n_tokens = model.config.n_positions
    ids = np.arange(n_tokens) % 200
    for page in (model.attention(ids, layer=0, head=0).html(), model.logit_lens(ids, best=1).html()):
        assert len(Cells(page).rows[1]) == 1 + min(n_tokens, MOST_COLUMNS)
        assert (f"the last {MOST_COLUMNS} of {n_tokens} tokens" in page) == (n_tokens > MOST_COLUMNS)
    every = model.attention(ids).html()
    assert every.count("<td") <= MOST_CELLS + MOST_COLUMNS**2


def titles(page: str) -> list[str]:
    return re.findall('title="([^"]*)"', page)


@pytest.mark.parametrize("n_rows", [5, MOST_COLUMNS + 1, MOST_COLUMNS + 3])
def test_of_a_long_texts_heads_the_last_tokens_are_shown(n_rows: int) -> None:
    n_tokens = MOST_COLUMNS + 3
    pieces = tuple(map(str, range(n_tokens)))
    weights_LHRT = np.random.default_rng(0).random((2, 1, n_rows, n_tokens), np.float32)
    rows, last = range(n_tokens - n_rows, n_tokens), pieces[-MOST_COLUMNS:]
    one = Attention(
        ids=(1,) * n_tokens, pieces=pieces, layers=(3,), heads=(1,), rows=rows, weights_LHRT=weights_LHRT[1:]
    )
    head, *lines = Cells(one.html()).rows
    assert head[1:] == list(last)
    assert [line[0] for line in lines] == list(last[-n_rows:])
    shown_HRT = weights_LHRT[:, 0, -MOST_COLUMNS:, -MOST_COLUMNS:]
    assert titles(one.html()) == [f"{x:.4g}" for x in shown_HRT[1].ravel()]
    both = Attention(
        ids=(1,) * n_tokens, pieces=pieces, layers=(2, 3), heads=(1,), rows=rows, weights_LHRT=weights_LHRT
    )
    for layer, shown_RT in zip((2, 3), shown_HRT, strict=True):
        assert small(shown_RT, caption=f"{layer}.1") in both.html()


def test_of_a_long_texts_lens_and_patches_the_last_tokens_are_shown() -> None:
    n_tokens = MOST_COLUMNS + 3
    pieces, ids = tuple(map(str, range(n_tokens))), (1,) * n_tokens
    logprobs_LTK = np.log(np.random.default_rng(0).random((1, n_tokens, 2), np.float32))
    lens = Lens(
        ids=ids,
        pieces=pieces,
        depths=(4,),
        best_ids_LTK=np.ones((1, n_tokens, 2), np.int32),
        best_logprobs_LTK=logprobs_LTK,
        guesses_LT=(tuple(f"g{n}" for n in range(n_tokens)),),
        ranks_LR=np.zeros((1, n_tokens - 1), np.int32),
        logprobs_LR=np.zeros((1, n_tokens - 1), np.float32),
        entropies_LT=np.zeros((1, n_tokens), np.float32),
    )
    last = range(3, n_tokens)
    assert Cells(lens.html()).rows == [["", *pieces[3:]], ["block 4", *(f"g{n}" for n in last)]]
    assert titles(lens.html()) == [f"{x:.4g}" for x in np.exp(logprobs_LTK[0, 3:, 0])]
    patched = Patching(
        pieces=("never", *pieces),
        source_pieces=("never", *pieces),
        answer=1,
        depths=(0,),
        positions=tuple(range(1, n_tokens + 1)),
        before=-2.0,
        source=-1.5,  # darkest is what takes the text to its source
        after_LP=np.arange(n_tokens, dtype=np.float32)[None] / 100 - 2,
    )
    assert Cells(patched.html()).rows == [["", *pieces[3:]], ["embedding", *(f"{n / 100:.2f}" for n in last)]]
    assert patched.html().count("rgba(40,110,200,0.80)") == 13  # from 0.50 on


def test_patching_is_a_table_of_effects(model: LanguageModel) -> None:
    patched = model.patch("The boy was", source="The girl was", answer=" she")
    _, *rows = Cells(patched.html()).rows
    assert [row[1:] for row in rows] == [
        [f"{x:.2f}" if abs(x) >= 0.005 else "" for x in row] for row in patched.effect.tolist()
    ]


def test_what_parts_do_is_a_table_of_layers(model: LanguageModel) -> None:
    spoken = model.attribute("The boy was", answer=" she", against=" he")
    for found in (spoken, model.ablate("The boy was", answer=" she")):
        head, *rows = Cells(found.html()).rows
        assert head == ["", "head 0", "head 1", "MLP"]
        values_RC = np.column_stack([found.heads_LH, found.mlps_L]).tolist()
        wanted = [[f"{x:.2f}" if abs(x) >= 0.05 else "" for x in row] for row in values_RC]
        assert rows == [[f"layer {layer}", *texts] for layer, texts in enumerate(wanted)]
    assert f"{spoken.total:.2f} in all" in spoken._repr_html_()
    assert "where one part is silent" in found.html()
    assert "where one part is exchanged" in model.ablate("The boy was", answer=" she", source="The girl was").html()


def test_what_is_taken_away_is_orange_and_the_largest_the_darkest() -> None:
    page = by_part(np.array([[-2.0, 1.0]]), np.array([0.05]), caption="")
    assert re.findall(r"rgba\(.*?\)", page) == [
        "rgba(214,120,20,0.80)",
        "rgba(40,110,200,0.40)",
        "rgba(40,110,200,0.02)",
    ]


def test_the_most_active_neurons_are_rows(model: LanguageModel) -> None:
    found = model.neurons(TEXT)
    head, *rows = Cells(found.html()).rows
    assert len(head) - 1 == len(found.ids)
    assert [row[0] for row in rows] == [f"{layer}.{neuron}" for layer, neuron in found.strongest(12)]
    assert rows[0][1:] == [f"{x:.1f}" if x >= 0.5 else "" for x in found.of(*found.strongest(1)[0]).tolist()]


def test_neurons_of_the_first_token_and_of_tokens_not_shown_are_no_rows() -> None:
    n_tokens = MOST_COLUMNS + 3
    neurons_LTF = np.zeros((1, n_tokens, 20), np.float32)
    neurons_LTF[0, 0, 3], neurons_LTF[0, 1, 4], neurons_LTF[0, -1, 5] = 20, 10, 5
    found = Neurons(ids=(1,) * n_tokens, pieces=("a",) * n_tokens, layers=(2,), neurons_LTF=neurons_LTF)
    assert found.strongest(2) == [(2, 4), (2, 5)]
    assert Cells(found.html()).rows[1][0] == "2.5"
    alone = Neurons(ids=(1,), pieces=("a",), layers=(2,), neurons_LTF=neurons_LTF[:, :1])
    assert alone.strongest(1) == [(2, 3)]
    assert Cells(alone.html()).rows[1][0] == "2.3"


def test_no_text_becomes_part_of_the_page(model: LanguageModel) -> None:
    page = model.logit_lens(TEXT, best=1).html() + model.attention(TEXT, layer=0, head=0).html()
    page += model.neurons(TEXT).html()
    assert not re.search("[\x00-\x1f\u202a-\u202e]", page)
    assert "&lt;" in page
