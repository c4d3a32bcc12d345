"""The text of a document as an EHR can hold it: so many characters, and letters of ASCII alone where it has no others.

Nothing is left out without saying so, and nothing becomes "?": who reads the copy sees that it is one of less, what it
lacks, and where the whole is.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

_TITLE = re.compile(r"[A-Z][A-Z ]+( \([^()]*\))?")
# What an own line of the copy begins with; our notices begin with the same.
_STARS = "***"
_FIRST = ("RECOMMENDATIONS", "ITEM BY ITEM", "OPTIONS")
"""What goes in before the rest, after the head and the first section."""


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    text: str


def fitted(text: str, *, limit: int = 0, ascii_only: bool = False, whole: str = "") -> str:
    """The text, or its summary, in at most `limit` characters (0: any number); "" when not even that would fit.

    The head with its notices and the first section (the conclusion) are never cut. `whole` says where the whole is.
    """
    if ascii_only and not text.isascii():
        text = _in_ascii(text, whole)
    if not limit or len(text) <= limit:
        return text
    head, *parts = _parts(text)
    if not parts:
        return ""
    kept = parts[:1]
    order = sorted(parts[1:], key=lambda part: _rank(part.title))
    for part in order:
        tried = [p for p in parts if p in kept or p is part]
        if len(_summary(head, tried, parts, limit, whole)) <= limit:
            kept = tried
    summary = _summary(head, kept, parts, limit, whole)
    return summary if len(summary) <= limit else ""


def _rank(title: str) -> int:
    return next((place for place, first in enumerate(_FIRST) if title.startswith(first)), len(_FIRST))


def _summary(head: _Part, kept: list[_Part], parts: list[_Part], limit: int, whole: str) -> str:
    left_out = [part.title.partition(" (")[0] for part in parts if part not in kept]
    note = [
        f"{_STARS} SUMMARY: this system takes {limit} characters. {_STARS}",
        *(["NOT IN THIS COPY:", *(f"- {title}" for title in left_out)] if left_out else []),
        *([f"The whole: {whole}"] if whole else []),
    ]
    # Before what is kept: who reads on must know it by then.
    return "\n".join([head.text.rstrip("\n"), *note, "", *(part.text.rstrip("\n") + "\n" for part in kept)])


def _parts(text: str) -> list[_Part]:
    """The head, then each section with its title."""
    lines = text.split("\n")
    starts = [
        place
        for place, (line, below) in enumerate(pairwise(lines))
        if _TITLE.fullmatch(line) and below == "-" * len(line) and (place == 0 or not lines[place - 1])
    ]
    ends = [*starts[1:], len(lines)]
    head = _Part("", "\n".join(lines[: starts[0]] if starts else lines))
    return [head, *(_Part(lines[s], "\n".join(lines[s:e])) for s, e in zip(starts, ends, strict=True))]


# By what they mean: an accent may go, a power or a half may not (10⁹ is not 109, 1½ is not 11/2), nor may µg be ug.
_SIGNS = {
    "µ": "micro", "±": "+/-", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "×": "x", "÷": "/", "°": " deg ",
    "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "‰": " per mille", "∞": "infinity", "→": "->", "←": "<-", "↑": "(up)",
    "↓": "(down)", "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"',
    "‚": "'", "«": '"', "»": '"', "…": "...", "•": "-", "·": ".", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
    "ß": "ss", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l", "Đ": "D", "đ": "d",
    "Þ": "Th", "þ": "th", "Ð": "D", "ð": "d", "ı": "i", "Å": "A", "å": "a", "€": "EUR", "£": "GBP", "§": "section ",
    **{sign: f"^{digit}" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True)},
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
}  # fmt: skip
_POWER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
# A Greek letter that stands alone is a sign of medicine; in a word it is somebody's name.
_GREEK_SIGN = re.compile(r"(?<![Ͱ-Ͽἀ-῿])[Ͱ-Ͽ](?![Ͱ-Ͽἀ-῿])")


def _in_ascii(text: str, whole: str) -> str:
    lines = text.split("\n")
    # Below the title and its rule: an own line, so that the sections stay where they are.
    note = [
        f"{_STARS} This system takes no letters but ASCII: accents are left out, other",
        f"letters are named by number, [U+0416]. {_STARS}",
        *([f"As it was written: {whole}"] if whole else []),
    ]
    return "\n".join(map(_line_in_ascii, [*lines[:2], *note, *lines[2:]]))


def _line_in_ascii(line: str) -> str:
    line = _POWER.sub(lambda match: "^" + "".join(_SIGNS[c][1:] for c in match[0]), line)
    line = _GREEK_SIGN.sub(lambda match: _greek(match[0]), unicodedata.normalize("NFC", line))
    return "".join(character if character.isascii() else _spelled(character) for character in line)


def _greek(letter: str) -> str:
    if letter == "μ":
        return "micro"
    name = unicodedata.name(letter, "").removeprefix("GREEK ")
    case, _, said = name.partition(" LETTER ")
    return letter if not said or " " in said else said.lower() if case == "SMALL" else said.capitalize()


def _spelled(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    base = unicodedata.normalize("NFD", character)[0]
    return base if base.isascii() and base.isalpha() else f"[U+{ord(character):04X}]"
