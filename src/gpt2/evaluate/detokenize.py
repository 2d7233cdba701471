"""De-tokenizers: texts with spaces between all words to ordinary writing, and their inverses.

Section 3.1 reports results with "invertible de-tokenizers which remove as many of these tokenization /
pre-processing artifacts as possible": being invertible, they leave the probability of the data set well defined. The
paper prints none of them. Here each function has its inverse after it; both take one line without surrounding space. A
line that the inverse would not restore is left unchanged.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Detokenized:
    """Attributes:
    lines: in ordinary writing.
    as_they_were: lines left unchanged because the inverse would not restore them.
    lost: how many of those the inverse changes, so that strictly they are ambiguous.
    """

    lines: list[str]
    as_they_were: int
    lost: int


def detokenize(lines: Sequence[str], there: Callable[[str], str], back: Callable[[str], str]) -> Detokenized:
    """Apply `there` to every line that `back` restores."""
    written: list[str] = []
    as_they_were = lost = 0
    for line in lines:
        natural = there(line)
        if back(natural) != line:
            natural = line
            as_they_were += 1
            lost += back(line) != line
        written.append(natural)
    return Detokenized(lines=written, as_they_were=as_they_were, lost=lost)


_Word = tuple[str, bool, bool]  # text, whether it joins the word before it, whether it joins the word after it


def _joined(words: Iterable[_Word]) -> str:
    """Join words, with a space between any two that do not join."""
    out: list[str] = []
    joins = True
    for written, before, after in words:
        out += [written] if joins or before else [" ", written]
        joins = after
    return "".join(out)


_CLITICS = r"'(?:s|t|re|ve|m|d|ll)"
_WIKITEXT_LEFT = frozenset(", ; : ! ? ) ] %".split())  # noqa: SIM905 -- as they stand in the text
_WIKITEXT_RIGHT = frozenset("( [ $ £ ¥ #".split())  # noqa: SIM905
# Words in s that are no plurals: an apostrophe after them opens a quotation.
_NO_PLURALS = frozenset("as does has his is its s this thus us was yes".split())  # noqa: SIM905
# Words that keep their full stop; initials too.
_ABBREVIATION = re.compile(
    r"(?:(?:[A-Z]\.)*[A-Z]|No|Nos|Col|St|vs|Gen|Dr|Mr|Mrs|Ms|Sr|Jr|Lt|Inc|Co|Bros|v|e\.g|i\.e|al|pp|Capt|Sgt|Rev|"
    r"Prof|Ltd|etc|Maj|Cmdr|Adm|Hon|a\.m|p\.m|var|\.|\.\.)\."
)


def wikitext_there(line: str) -> str:
    """A line of WikiText without the spaces around its punctuation, and `@-@`, `@,@`, `@.@` as -, and . are written."""
    heading = re.fullmatch(r"((?:= )+)(.+?)((?: =)+)", line)
    if heading:
        return f"{heading[1].replace(' ', '')} {wikitext_there(heading[2])} {heading[3].replace(' ', '')}"
    return _joined(_wikitext_words(line))


def _wikitext_words(line: str) -> Iterator[_Word]:
    quoted, before, tokens = False, "", line.split(" ")
    for token, after in zip(tokens, [*tokens[1:], ""], strict=True):
        left, right = token in _WIKITEXT_LEFT, token in _WIKITEXT_RIGHT
        around = before[-1:] + after[:1]
        if token in ("@-@", "@,@", "@.@"):
            token, left, right = token[1], True, True
        elif (token in ("–", ":") and re.fullmatch(r"\d\d", around)) or (
            token == "/" and re.fullmatch("[a-z]{2}", around)
        ):
            left = right = True
        elif token == "'":
            left = before.endswith("s") and before.strip("'").lower() not in _NO_PLURALS
        elif token == ".":
            left = not _ABBREVIATION.fullmatch(f"{before}.")
        elif token == "...":
            left = not before.endswith(".")
        elif token == '"':
            left, right = quoted, not quoted
            quoted = not quoted
        elif re.fullmatch(_CLITICS, token):
            left = True
        yield token, left, right
        before = token


def wikitext_back(line: str) -> str:
    """The inverse of `wikitext_there`."""
    heading = re.fullmatch(r"(=+) (.+) (=+)", line)
    if heading:
        return f"{' '.join(heading[1])} {wikitext_back(heading[2])} {' '.join(heading[3])}"
    line = re.sub(r"(?<=\S)-(?=\S)", " @-@ ", line)
    line = re.sub(r"(?<=[\d>]),(?=[\d<])", " @\0@ ", line)  # hides this comma from the next line but one
    line = re.sub(r"(?<=[\d>])\.(?=[\d<])", " @.@ ", line)
    line = re.sub(r"(?<=\d)–(?=\d)|(?<=[a-z])/(?=[a-z])|(?<=s)'(?=[\s.,;:!?)\"]|$)", r" \g<0> ", line)
    line = re.sub(r'([,;:!?)\]%(\[$£¥#"])', r" \1 ", line).replace("\0", ",")
    line = re.sub(rf"(?<=\S)({_CLITICS})(?=[\s.]|$)", r" \1 ", line)
    tokens: list[str] = []
    for word in line.split():
        if word.endswith("...") and word != "...":
            tokens += [word[:-3], "..."]
        elif word.endswith(".") and word not in (".", "...") and not _ABBREVIATION.fullmatch(word):
            tokens += [word[:-1], "."]
        else:
            tokens.append(word)
    return " ".join(tokens)


_PTB_CLITICS = r"n't|'s|'re|'ve|'ll|'m|'d"


def ptb_there(line: str) -> str:
    r"""A line of the Penn Treebank with `do n't`, `years '`, `$ 5`, `# 5` and `1\/2` as they are written."""
    line = re.sub(rf" ({_PTB_CLITICS}|(?<=s )')(?= |$)", r"\1", line)
    line = re.sub(r"(^| )([$#]) (?=\S)", r"\1\2", line)
    return line.replace("\\/", "/")


def ptb_back(line: str) -> str:
    """The inverse of `ptb_there`."""
    line = re.sub(rf"(?<=\S)({_PTB_CLITICS}|(?<=s)')(?= |$)", r" \1", line)
    line = re.sub(r"(^| )([$#])(?=\S)", r"\1\2 ", line)
    return line.replace("/", "\\/")


_CBT_CLITICS = r"n't|'(?:s|re|ve|m|d|ll)"
_PROSE_LEFT = frozenset(", ; : ! ? . ) ] } %".split())  # noqa: SIM905
_PROSE_RIGHT = frozenset("( [ { $ £ €".split())  # noqa: SIM905
_CLOSING = frozenset(("''", "'", '"', ")", "]", "}", "-RRB-", "-RSB-", "-RCB-"))
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}


def cbt_there(line: str) -> str:
    """A sentence of the Children's Book Test, which has the treebank's marks: `` '' ` ' for quotes, -LRB- for (."""
    return _joined(map(_cbt_word, line.split(" ")))


def _cbt_word(token: str) -> _Word:
    written = _BRACKETS.get(token, token)
    left = written in _PROSE_LEFT or token in ("''", "'") or re.fullmatch(_CBT_CLITICS, token) is not None
    right = written in _PROSE_RIGHT or token in ("``", "`")
    return {"``": '"', "''": '"', "`": "'"}.get(token, written), left, right


def cbt_back(line: str) -> str:
    """The inverse of `cbt_there`: a quote before a word opens, one after a word closes."""
    line = re.sub(r"(?<![^\s(\[])\"(?=\S)", " `` ", line).replace('"', " '' ")
    line = re.sub(r"(?<![^\s(\[])'(?=[^\s'])", " ` ", line)
    line = re.sub(r"(?<=[^\s'])'(?=[\s)\]]|$)", " ' ", line)
    for name, mark in _BRACKETS.items():
        line = line.replace(mark, f" {name} ")
    return _marks_apart(line, clitics=_CBT_CLITICS)


def news_there(line: str) -> str:
    """A sentence of One Billion Word, in which quotes are \" on both sides and clitics and marks are set apart."""
    return _joined(_news_words(line))


def _news_words(line: str) -> Iterator[_Word]:
    quoted = False
    for token in line.split(" "):
        left, right = token in _PROSE_LEFT, token in _PROSE_RIGHT
        if token == '"':
            left, right = quoted, not quoted
            quoted = not quoted
        yield token, left or re.fullmatch(_CLITICS, token) is not None, right


def news_back(line: str) -> str:
    """The inverse of `news_there`."""
    return _marks_apart(re.sub(r'(["(){}\[\]])', r" \1 ", line), clitics=_CLITICS)


def _marks_apart(line: str, *, clitics: str) -> str:
    """Put a space before clitics and marks at the end of a word; a comma, colon or stop inside a number stays."""
    line = re.sub(r"([;!?%])", r" \1 ", line)
    line = re.sub(r"([$£€])", r" \1 ", line)
    line = re.sub(r"[,:](?!\S)|[,:](?=\D)", lambda found: f" {found[0]} ", line)
    tokens: list[str] = []
    words = line.split()
    for i, word in enumerate(words):
        last = all(after in _CLOSING for after in words[i + 1 :])
        stop = word.endswith(".") and word.strip(".") and (last or not _ABBREVIATION.fullmatch(word))
        word = word[:-1] if stop else word
        clitic = re.search(rf"(?<=\S)(?:{clitics})$", word)
        tokens += [word[: clitic.start()], clitic[0]] if clitic else [word]
        tokens += ["."] if stop else []
    return " ".join(tokens)
