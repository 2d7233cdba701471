"""EPUB books, Gutenberg texts and MediaWiki dumps."""

import bz2
import gzip
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.data.corpus.sources.epub import read_epub
from gpt2.data.corpus.sources.mediawiki import plain_text, read_mediawiki
from gpt2.data.corpus.sources.texts import read_parquet, read_text, without_gutenberg
from gpt2.data.documents import read_documents

CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OPS/book.opf"/></rootfiles></container>"""
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:rights>Public domain</dc:rights></metadata>
<manifest><item id="b" href="two.xhtml"/><item id="a" href="one%20.xhtml"/><item id="c" href="lost.xhtml"/></manifest>
<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="c"/><itemref idref="nowhere"/></spine></package>"""


def write_book(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OPS/book.opf", PACKAGE)
        book.writestr("OPS/two.xhtml", "<html><body><h1>Two</h1><p>The end.</p></body></html>")
        book.writestr("OPS/one .xhtml", "<html><body><h1>One</h1><p>The beginning.</p></body></html>")
    return path


def read(reader: Any, path: Path) -> tuple[list[Any], list[str]]:
    damage: list[str] = []
    return list(reader(path, lambda one: damage.append(str(one)), lambda n_bytes: None)), damage


def test_a_book_in_reading_order(tmp_path: Path) -> None:
    pages, damage = read(read_epub, write_book(tmp_path / "a.epub"))
    assert [(page.text, page.licence) for page in pages] == [("One\nThe beginning.\n\nTwo\nThe end.", "Public domain")]
    assert len(damage) == 1
    assert "the chapter OPS/lost.xhtml cannot be read" in damage[0]


def test_a_book_that_swells_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.corpus.sources.epub._MAX_BOOK_BYTES", 80)  # more than a chapter, less than two
    pages, damage = read(read_epub, write_book(tmp_path / "a.epub"))
    assert pages == []
    assert "the book is larger than" in damage[-1]


def test_what_is_encrypted_is_told_and_left_out(tmp_path: Path) -> None:
    path = write_book(tmp_path / "a.epub")
    with zipfile.ZipFile(path, "a") as book:
        book.writestr(
            "META-INF/encryption.xml",
            """<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:e="http://www.w3.org/2001/04/xmlenc#">
            <e:EncryptedData><e:CipherData><e:CipherReference URI="OPS/one%20.xhtml"/></e:CipherData></e:EncryptedData>
            <e:EncryptedData><e:CipherData><e:CipherReference URI="OPS/font.otf"/></e:CipherData></e:EncryptedData>
            </encryption>""",
        )
    pages, damage = read(read_epub, path)
    assert [page.text for page in pages] == ["Two\nThe end."]
    assert "1 of 3 chapters are encrypted" in damage[0]


def test_what_is_no_text_is_told_and_left_out(tmp_path: Path) -> None:
    path = write_book(tmp_path / "a.epub").rename(tmp_path / "a.txt")
    pages, damage = read(read_text, path)
    assert pages == []
    assert "no text" in damage[0]


@settings(max_examples=40)
@given(st.integers(0, 900), st.binary(max_size=8))
def test_any_spoilt_book_is_told(tmp_path_factory: pytest.TempPathFactory, at: int, spoil: bytes) -> None:
    path = write_book(tmp_path_factory.getbasetemp() / "spoilt.epub")
    data = bytearray(path.read_bytes())
    data[at : at + len(spoil)] = spoil
    path.write_bytes(data)
    pages, damage = read(read_epub, path)
    assert pages or damage


@pytest.mark.parametrize("empty", ["<title/>", '<script src="x.js" />', "<style/>", "<iframe/>", "<textarea/>"])
def test_an_empty_element_of_a_chapter_swallows_nothing(tmp_path: Path, empty: str) -> None:
    path = write_book(tmp_path / "a.epub")
    with zipfile.ZipFile(path, "a") as book:
        book.writestr(
            "OPS/lost.xhtml", f"<html><head>{empty}</head><body><p>Be<br/>fore.</p>{empty}<p>After.</p></body></html>"
        )
    assert read(read_epub, path)[0][0].text.endswith("The end.\n\nBe\nfore.\nAfter.")


def test_gutenberg_notices_are_left_out(tmp_path: Path) -> None:
    text = "The Project Gutenberg eBook\nlicence\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\r\n\r\nIt was.\r\n"
    (tmp_path / "a.txt").write_bytes((text + "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence").encode("utf-8"))
    assert read(read_text, tmp_path / "a.txt")[0][0].text == "It was."
    assert without_gutenberg("*** START OF nothing") == "*** START OF nothing"


ARTICLE = """{{Infobox|a={{b}}}}
'''Moss''' is a [[plant|small plant]].<ref name="x">A book</ref> It has [[leaf|leaves]].

{| class="wikitable"
| a || b
|}
== Where ==
* In [[forest]]s
[[File:Moss.jpg|thumb|A picture]]
[[Category:Plants]]"""


def dump(*articles: tuple[str, str, str]) -> bytes:
    def page(title: str, ns: str, text: str) -> str:
        moved = "<redirect title='x'/>" if text.startswith("#") else ""
        return (
            f"<page><title>{title}</title><ns>{ns}</ns>{moved}<revision><text>{escaped(text)}</text></revision></page>"
        )

    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><base>https://x.example/wiki/Main</base>'
    return (head + "</siteinfo>" + "".join(page(*one) for one in articles) + "</mediawiki>").encode()


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def test_articles_without_their_markup(tmp_path: Path) -> None:
    data = dump(("Moss and fern", "0", ARTICLE), ("Talk:Moss", "1", "hello"), ("Mos", "0", "#REDIRECT [[Moss]]"))
    for name, packed in (("a.xml", data), ("a.xml.bz2", bz2.compress(data))):
        (tmp_path / name).write_bytes(packed)
        pages, damage = read(read_mediawiki, tmp_path / name)
        assert not damage
        assert [page.address for page in pages] == ["https://x.example/wiki/Moss_and_fern"]
        text = pages[0].text
        assert text.startswith("Moss is a small plant. It has leaves.")
        assert "In forests" in text
        for gone in ("Infobox", "wikitable", "A book", "thumb", "Category", "{{", "[[", "''"):
            assert gone not in text


def test_files_and_categories_by_the_wikis_own_names(tmp_path: Path) -> None:
    names = '<namespaces><namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>'
    article = """[[Datei:Moos.jpg|mini|Ein [[Moos|kleines]] Bild]]
'''Moos''' ist klein. [[File:a.png|20px]]Hier auch.
[[Kategorie:Pflanzen]] [[Kategoriegesetz|Anders]]"""
    data = dump(("Moos", "0", article)).replace(b"</siteinfo>", names.encode() + b"</siteinfo>")
    (tmp_path / "a.xml").write_bytes(data)
    assert read(read_mediawiki, tmp_path / "a.xml")[0][0].text == "Moos ist klein. Hier auch.\n Anders"


def test_a_dump_that_was_cut_off_keeps_what_is_before(tmp_path: Path) -> None:
    data = dump(*((f"Number {n}", "0", f"Article {n} of many.") for n in range(20)))
    (tmp_path / "a.xml").write_bytes(data[: len(data) // 2])
    pages, damage = read(read_mediawiki, tmp_path / "a.xml")
    assert 5 < len(pages) < 12
    assert "the dump cannot be read further" in damage[0]
    (tmp_path / "b.xml.bz2").write_bytes(bz2.compress(data)[:-30])
    assert "cannot be read further" in read(read_mediawiki, tmp_path / "b.xml.bz2")[1][0]


def test_a_page_that_swells_without_end_is_told_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.corpus.sources.mediawiki._MAX_PAGE_BYTES", 100_000)
    whole = dump(("Cat", "0", "A cat."), *((f"Cat {i}", "0", "A cat sat. " * 5000) for i in range(5)))
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(whole))
    assert len(read(read_mediawiki, tmp_path / "a.xml.gz")[0]) == 6  # each page is counted anew
    for filler in (b" ", b"<a/>"):
        bomb = whole.removesuffix(b"</mediawiki>") + b"<page><revision><text>" + filler * (4 << 20)
        (tmp_path / "b.xml.gz").write_bytes(gzip.compress(bomb))
        pages, damage = read(read_mediawiki, tmp_path / "b.xml.gz")
        assert len(pages) == 6
        assert "more than 100,000 bytes, and no page ends" in damage[0]


def test_of_an_endless_page_little_is_held(tmp_path: Path) -> None:
    bomb = b"<mediawiki>" + b"<a b='' c=''/>" * (1 << 18) + b"<page><text>" + b"a\n" * (16 << 20)
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(bomb))
    tracemalloc.start()
    damage = read(read_mediawiki, tmp_path / "a.xml.gz")[1]
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "cannot be read further" in damage[0]
    assert held < 32 << 20


def test_elements_within_elements_without_end_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(dump(("Cat", "0", "A cat.")).removesuffix(b"</mediawiki>") + b"<a>" * 1000)
    pages, damage = read(read_mediawiki, tmp_path / "a.xml")
    assert len(pages) == 1
    assert "nested more than 100 deep" in damage[0]


def test_of_an_article_with_many_revisions_the_last_is_read(tmp_path: Path) -> None:
    revisions = b"<revision><text>Old.</text></revision><revision><text>A new one.</text></revision>"
    data = dump(("Cat", "0", "")).replace(b"<revision><text></text></revision>", revisions)
    (tmp_path / "a.xml").write_bytes(data)
    assert [page.text for page in read(read_mediawiki, tmp_path / "a.xml")[0]] == ["A new one."]


@pytest.mark.parametrize(
    "markup",
    [
        "<p>Some words." * 1000,
        "{{a|" * 30 + "}}" * 30 + "Some words.",
        "<math>[0, {{a}</math><!-- {{ --><nowiki>[[</nowiki> Some words. " * 500,
        "<small>[[a]] < {{b}} > <br> [http://a b] Some words.{{{c|{{d}}}}}</small>\n" * 500,
        "Some words. {{a [[b <ref>c " * 20 + "Some words. " * 20,
    ],
)
def test_careless_markup_is_read(markup: str) -> None:
    import mwparserfromhell

    assert "Some words." in plain_text(markup, mwparserfromhell)


def test_an_article_takes_as_long_as_it_has_references_and_not_as_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    import mwparserfromhell

    monkeypatch.delattr(mwparserfromhell.wikicode.Wikicode, "remove")  # which looks through all for each
    assert (
        plain_text("A cat.<ref>a</ref>[[File:a|<ref>b</ref>]] " * 3 + "[[b|c<ref>d</ref>]]", mwparserfromhell)
        == "A cat. A cat. A cat. c"
    )


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {"text": ["one", None, "two"], "url": ["http://a.example", None, "ftp://b"], "license": ["MIT", None, None]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    pages, damage = read(read_parquet, tmp_path / "a.parquet")
    assert [(page.text, page.address, page.licence) for page in pages] == [
        ("one", "http://a.example", "MIT"),
        ("two", "", ""),
    ]
    assert not damage
    pyarrow.parquet.write_table(pyarrow.table({"text": [{"en": "one"}, None, {"en": "two"}]}), tmp_path / "c.parquet")
    pages, damage = read(read_parquet, tmp_path / "c.parquet")
    assert not pages
    assert [one.partition(": ")[2] for one in damage] == [
        f"row {row} has no text in the column 'text', but dict" for row in (1, 3)
    ]
    (tmp_path / "b.parquet").write_bytes(b"PAR1nonsense")
    assert "the file is broken" in read(read_parquet, tmp_path / "b.parquet")[1][0]


@pytest.mark.parametrize("reader", [read_parquet, lambda path, *_: read_documents(path)], ids=["corpus", "prepare"])
def test_a_text_that_every_row_of_parquet_repeats_is_held_a_few_times(tmp_path: Path, reader: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": pyarrow.array(["a" * (1 << 20)] * 256).dictionary_encode()})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        table, path, compression="brotli", dictionary_pagesize_limit=4 << 20, store_schema=False
    )
    assert path.stat().st_size < 1000
    pool, before = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool()), pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    tracemalloc.start()
    try:
        n_rows = sum(1 for _ in reader(path, None, lambda n_bytes: None))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(before)
    assert n_rows == 256
    assert pool.max_memory() < 48 << 20
    assert held < 48 << 20
