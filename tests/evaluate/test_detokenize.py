"""De-tokenizers: as the text is written, and back."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.evaluate.detokenize import detokenize, ptb_back, ptb_there, wikitext_back, wikitext_there

PTB_WORDS = ["the", "years", "s'", "mr.", "<unk>", "N", "$", "#", "n't", "'s", "'", "a\\/b", "c$", "did", "&", "'re"]
WIKITEXT_WORDS = [
    "the",
    "<unk>",
    "1",
    "000",
    ",",
    ".",
    "@-@",
    "@,@",
    "@.@",
    '"',
    "(",
    ")",
    "'s",
    "U.S.",
    "=",
    "...",
    ";",
    "'",
    "years",
    "as",
    "–",
    ":",
    "/",
    "km",
]


@pytest.mark.parametrize(
    ("line", "natural"),
    [
        ("it was n't $ N but # N", "it wasn't $N but #N"),
        ("mgm\\/ua 's", "mgm/ua's"),
        ("the girls ' club 's years '", "the girls' club's years'"),
        ("<unk> ' man", "<unk> ' man"),
    ],
)
def test_ptb(line: str, natural: str) -> None:
    assert ptb_there(line) == natural
    assert ptb_back(natural) == line


@pytest.mark.parametrize(
    ("line", "natural"),
    [
        ("= Title =", "= Title ="),
        ("= = = A , B = = =", "=== A, B ==="),
        ('He said , " yes " and ( " no " ) .', 'He said, "yes" and ("no").'),
        ("1 @,@ 000 @.@ 5 @-@ fold", "1,000.5-fold"),
        ("<unk> @,@ 300 in the U.S. on St. James", "<unk>,300 in the U.S. on St. James"),
        ("It does n 't , he 's", "It does n't, he's"),
        ("100 % : yes ! no ?", "100%: yes! no?"),
        ("in the U.S .", "in the U.S ."),
        ("so on ...", "so on..."),
        ("the artists ' work , the Jews '", "the artists' work, the Jews'"),
        ("as ' new ' , his ' 70s , he 's ' in '", "as ' new ', his ' 70s, he's ' in '"),
        ("2000 – 2005 – 3 , Wade – Giles : 3 : 04", "2000–2005–3, Wade – Giles: 3:04"),
        ("km / h , Burn / Out , 1 / 2", "km/h, Burn / Out, 1 / 2"),
    ],
)
def test_wikitext(line: str, natural: str) -> None:
    assert wikitext_there(line) == natural
    assert wikitext_back(natural) == line


@given(st.lists(st.sampled_from(PTB_WORDS), min_size=1, max_size=8).map(" ".join))
def test_what_is_counted_as_lossless_is(line: str) -> None:
    for there, back in ((ptb_there, ptb_back), (wikitext_there, wikitext_back)):
        found = detokenize([line], there, back)
        [written] = found.lines
        assert (back(written) == line) == (not found.lost)


@given(st.lists(st.sampled_from(WIKITEXT_WORDS), min_size=1, max_size=8).map(" ".join))
def test_a_line_is_written_naturally_or_left(line: str) -> None:
    found = detokenize([line, line], wikitext_there, wikitext_back)
    assert found.as_they_were in (0, 2)
    assert found.lost <= found.as_they_were
    natural = line if found.as_they_were else wikitext_there(line)
    assert found.lines == [natural] * 2


@pytest.mark.skipif("GPT2_DATA" not in os.environ, reason="GPT2_DATA is not set")
def test_the_real_files_come_back() -> None:
    data = Path(os.environ["GPT2_DATA"])

    def lines(path: str) -> list[str]:
        return [line.strip(" ") for line in (data / path).read_text(encoding="utf-8").split("\n")]

    for path in ("ptb/ptb.test.txt", "ptb/ptb.valid.txt"):
        assert detokenize(lines(path), ptb_there, ptb_back).as_they_were == 0
    for path in ("wikitext-2/test.txt", "wikitext-2/valid.txt"):
        assert detokenize(lines(path), wikitext_there, wikitext_back).as_they_were <= 12
