"""Bytes of a page to characters, whatever the page and its server claim.

Servers and pages often declare a wrong charset. Valid UTF-8 with characters beyond ASCII is UTF-8, and invalid UTF-8 is
not, whatever is declared; a declared charset counts only if it is possible.
"""

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*(?:["']\s*)?([\w.:-]+)""", re.IGNORECASE
)
_HEAD_BYTES = 4096
# What these names mean on the web (WHATWG Encoding): supersets, which browsers use.
_MEANT = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_NOT_OF_PAGES = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
_SPOILT = 0.1  # ratio of broken to sound sequences up to which a text is damaged UTF-8


def decode_page(data: bytes, declared: str = "") -> tuple[str, str]:
    """The characters of a page and the charset used; `declared` is the server's.

    Every input yields a text: meaningless bytes become U+FFFD.
    """
    for mark, charset in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(charset, "replace"), charset
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    sound = sum(1 for byte in data if byte >= 0xC0) if broken < 1000 else 0
    if broken <= _SPOILT * sound:
        return text, "utf-8"
    found = _DECLARED.search(data[:_HEAD_BYTES])
    for name in (declared, found[1].decode("ascii", "replace") if found else "", _detect(data)):
        charset = _known(name)
        if charset and charset != "utf-8":
            decoded = _decode(data, charset)
            if decoded.count("\ufffd") <= max(2, len(data) // 1000):
                return decoded, charset
    return _decode(data, "cp1252"), "cp1252"


def _known(name: str) -> str:
    name = name.strip().strip("\"'").lower()
    for known in (name, _of_the_web(name)):
        try:
            b"x".decode(known or "utf-8")  # any codec decodes empty bytes, so decode one
            charset = codecs.lookup(known).name if known else ""
        except (LookupError, ValueError):  # unknown, or not a text codec
            continue
        return "" if charset in _NOT_OF_PAGES else _MEANT.get(charset, charset)
    return ""


def _of_the_web(name: str) -> str:
    """Python's codec for a name that only the web uses, such as x-sjis; empty for any other."""
    from resiliparse.parse.encoding import map_encoding_to_html5  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    return str(map_encoding_to_html5(name, fallback_utf8=False) or "")


def _decode(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace")
    except ValueError:  # some codecs do not support "replace"
        return data.decode("cp1252", "replace")


def _detect(data: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    return str(detect_encoding(data) or "")
