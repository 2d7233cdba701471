"""Masking personal data: mail and IP addresses, phone and card numbers become words in angle brackets.

The patterns are plain and conservative: a number is taken for a card number only if its check digit (Luhn) is right,
and for a phone number only if it is written like one. Names and street addresses are not touched.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import replace

from gpt2.data.corpus.page import Page

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_CARD = re.compile(r"(?<![\w.-])(?:\d{4}[ -]?){3}\d{1,7}(?![\w-]|\.\d)|(?<![\w.-])3\d{3}[ -]?\d{6}[ -]?\d{5}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"  # (555) 555-0199
    r"|\d{3}[.-]\d{3}[.-]\d{4}"  # 555-555-0199
    r")(?![\w-]|[.]\d)"
)


def mask_personal(page: Page) -> Page:
    """The page with what looks like personal data masked; a measure counts how often."""
    text, count = mask_text(page.text)
    return replace(page, text=text).measured(masked=count) if count else page


def mask_text(text: str) -> tuple[str, int]:
    """A text with personal data masked, and how many were."""
    total = 0
    for pattern, mask, is_meant in (
        (_MAIL, "<mail>", lambda found: True),
        (_CARD, "<card>", _is_card),
        (_IPV4, "<ip>", _is_ip),
        (_IPV6, "<ip>", _is_ip),
        (_PHONE, "<phone>", _is_phone),
    ):

        def put(found: "re.Match[str]", mask: str = mask, is_meant: Callable[[str], bool] = is_meant) -> str:
            nonlocal total
            if not is_meant(found[0]):
                return found[0]
            total += 1
            return mask

        text = pattern.sub(put, text)
    return text, total


def _is_card(found: str) -> bool:
    digits = [int(digit) for digit in found if digit.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_ip(found: str) -> bool:
    if "." not in found and found.count(":") < 4 and "::" not in found:  # a time of day
        return False
    try:
        return ipaddress.ip_address(found) != ipaddress.ip_address("::")
    except ValueError:
        return False


def _is_phone(found: str) -> bool:
    return 7 <= sum(map(str.isdigit, found)) <= 15
