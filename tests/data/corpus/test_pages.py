"""From bytes of a page to its main text: charsets, extraction, hostile pages, and the published benchmarks."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trafilatura
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data.corpus.charset import decode_page
from gpt2.data.corpus.extract import decode_html, extract_text, skim
from gpt2.data.corpus.page import Dropped, Page

Rows = Callable[[str], list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("data", "declared", "charset"),
    [
        ("Müller".encode(), "iso-8859-1", "utf-8"),
        ("Müller – “so”".encode("cp1252"), "utf-8", "cp1252"),
        (b"\xef\xbb\xbf<p>x", "latin-1", "utf-8"),
        ("<meta charset=windows-1251>Привет, мир и все люди".encode("cp1251"), "", "cp1251"),
        ("一些中文的文字在這裡".encode("big5"), "big5", "big5hkscs"),
        ("Grüße ".encode() * 50 + b"\xff", "", "utf-8"),
        (b"<p>x", "no-such-charset", "utf-8"),
        ("Le café près de la mairie était fermé.".encode("cp1252"), "base64", "cp1252"),
        ("„Größe“ – und €".encode("cp1252"), "l1", "cp1252"),
        ("뷁쀍".encode("cp949") * 9, "ksc5601", "cp949"),
        ("뷁쀍".encode("cp949") * 9, "windows-949", "cp949"),
        ("①②".encode("cp932") * 9, "x-sjis", "cp932"),
        ("Это предложение".encode("cp1251"), "x-cp1251", "cp1251"),
    ],
)
def test_charsets(data: bytes, declared: str, charset: str) -> None:
    assert decode_page(data, declared)[1] == charset


@given(st.binary(max_size=200), st.sampled_from(["", "utf-8", "gb2312", "utf-16", "base64", "idna", "x y", "rot13"]))
def test_any_bytes_become_text(data: bytes, declared: str) -> None:
    text, _ = decode_page(data, declared)
    assert isinstance(text, str)


@settings(max_examples=25)
@given(st.text(max_size=300))
def test_any_text_is_a_page(text: str) -> None:
    skim(text)
    page = decode_html(Page(where="", html=text.encode("utf-8", "replace")))
    if isinstance(page, Page):
        extract_text(page.text)


def test_an_empty_element_of_xhtml_swallows_nothing() -> None:
    xhtml = (
        b'<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><p>All the words.</p></body></html>'
    )
    page = decode_html(Page(where="", html=xhtml))
    assert isinstance(page, Page)
    assert skim(page.text) == "All the words."


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        (b"<div>" * 1_000_000, "html.too_large"),
        (b"<b>" * 1_000_000, "html.too_many_tags"),
        (b"<i>" * 30_000 + b"x" + b"</i>" * 20_000, "html.too_deep"),
        (b"<p>" + b"x" * (5 << 20), "html.too_large"),
    ],
)
def test_hostile_pages_are_dropped_by_name(html: bytes, reason: str) -> None:
    dropped = decode_html(Page(where="", html=html))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


def test_a_flat_page_of_many_tags_is_read() -> None:
    page = decode_html(Page(where="", html=b"<p>A sentence, and another one.</p>" * 3000))
    assert isinstance(page, Page)


def test_a_short_sound_page_is_extracted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object) -> str:
        raise AssertionError("the whole page was measured for a second try")

    monkeypatch.setattr("trafilatura.core.html2txt", measure)
    sentences = "".join(f"<p>This is sentence number {at} of a short and sound article.</p>" for at in range(20))
    page = f"<html><body><nav>{'<a href=x>Menu</a> ' * 900}</nav><article>{sentences}</article></body></html>"
    assert extract_text(page).count("sound article.") == 20


def shingles(text: str) -> "Counter[tuple[str, ...]]":
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3))) if words else Counter()


def article_score(found: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of scrapinghub's article-extraction-benchmark."""
    precisions: list[float] = []
    recalls: list[float] = []
    for one, other in zip(found, gold, strict=True):
        ours, theirs = shingles(one), shingles(other)
        right, wrong, missed = (sum(each.values()) for each in (ours & theirs, ours - theirs, theirs - ours))
        if right + wrong:
            precisions.append(right / (right + wrong))
        if right + missed:
            recalls.append(right / (right + missed))
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 2 * precision * recall / (precision + recall)


def string_score(found: Sequence[str], rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Right and all judgements of trafilatura's evaluation: strings that must and must not be there."""
    right = total = 0
    for text, row in zip(found, rows, strict=True):
        text = " ".join(text.split())
        right += sum(" ".join(part.split()) in text for part in row["with"])
        right += sum(" ".join(part.split()) not in text for part in row["without"])
        total += len(row["with"]) + len(row["without"])
    return right, total


def html_of(row: dict[str, Any]) -> bytes:
    return row["html"].encode() if "html" in row else base64.b64decode(row["html_b64"])


@pytest.mark.long
def test_the_scorer_gives_the_published_figures(rows_of: Rows) -> None:
    gold = {row["id"]: row["text"] for row in rows_of("extraction/scrapinghub-aeb.jsonl.zst")}
    rows = rows_of("extraction/scrapinghub-aeb.outputs.jsonl.zst")
    for name, published in (("trafilatura", 0.958), ("dragnet", 0.907), ("html-text", 0.665)):
        score = article_score([row["outputs"][name] for row in rows], [gold[row["id"]] for row in rows])
        assert round(score, 3) == published


@pytest.mark.long
def test_articles_are_extracted(rows_of: Rows) -> None:
    rows = rows_of("extraction/scrapinghub-aeb.jsonl.zst")
    found = [extract_text(decode_page(html_of(row))[0]) for row in rows]
    assert article_score(found, [row["text"] for row in rows]) >= 0.955


@pytest.mark.long
def test_no_worse_than_trafilatura_alone(rows_of: Rows) -> None:
    rows = rows_of("extraction/trafilatura-eval.jsonl.zst")
    ours = [extract_text(decode_page(html_of(row))[0]) for row in rows]
    theirs = [trafilatura.extract(html_of(row), include_comments=False) or "" for row in rows]
    for sample in ("random", "charset"):
        some = [at for at, row in enumerate(rows) if row["sample"] == sample]
        chosen = [rows[at] for at in some]
        right, total = string_score([ours[at] for at in some], chosen)
        assert right >= string_score([theirs[at] for at in some], chosen)[0], (sample, right, total)


def test_pages_that_lie_about_their_charset(rows_of: Rows) -> None:
    liars = ("xinhuanet", "maescot.de", "tierschutzpartei.de", "der-erfolg-gibt-recht.de", "altern", "radiomaryja.pl")
    rows = [
        row
        for row in rows_of("extraction/trafilatura-eval.jsonl.zst")
        if row["sample"] == "charset" and "html_b64" in row and any(name in row["url"] for name in liars)
    ]
    assert len(rows) == 6
    for row in rows:
        text = " ".join(extract_text(decode_page(html_of(row), "utf-8")[0]).split())
        for part in row["with"]:
            assert " ".join(part.split()) in text, row["url"]
