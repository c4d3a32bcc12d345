"""The text of index rows and of what is searched for: folded, bounded, without escapes."""

from __future__ import annotations

import hashlib
import re
import unicodedata

# PostgreSQL's btree takes 2,704 bytes a row, all columns of an index together.
KEY_BYTES = 1000
TEXT_BYTES = 2000


def fold(text: str) -> str:
    """Text without case, accents and extra space: what string search compares."""
    if text.isascii():
        return " ".join(text.lower().split())
    # Decomposed before the case goes, too: "℡" comes apart into capitals.
    small = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(c for c in small if not unicodedata.combining(c)).split())


def key(text: str, limit: int = KEY_BYTES) -> str:
    """Text to be compared as a whole: itself, or, beyond `limit` bytes, its beginning and its SHA-256.

    Cutting alone would let two long identifiers match each other.
    """
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text
    return f"{cut(text, limit - 65)}~{hashlib.sha256(data).hexdigest()}"


def cut(text: str, limit: int) -> str:
    """The beginning of a text, at most `limit` bytes of UTF-8."""
    return text if len(text) * 4 <= limit else text.encode()[:limit].decode("utf-8", "ignore")


def at_bar(text: str) -> tuple[str, bool, str]:
    """What stands before and after the first bar that has no backslash before it, both without escapes."""
    match = re.fullmatch(r"((?:[^\\|]|\\.)*)(\|?)(.*)", text, re.DOTALL)
    if match is None:  # a backslash at the end
        return unescape(text), False, ""
    return unescape(match[1]), bool(match[2]), unescape(match[3])


def parted(text: str, sign: str) -> list[str]:
    """The parts between signs (| or $) that have no backslash before them; escapes stay as they are."""
    parts, part, escaped = [], "", False
    for character in text:
        if character == sign and not escaped:
            parts.append(part)
            part = ""
        else:
            part += character
        escaped = character == "\\" and not escaped
    return [*parts, part]


def unescape(text: str) -> str:
    """The text without the backslashes of a search: before a backslash, comma, dollar or bar."""
    return re.sub(r"\\([\\,$|])", r"\1", text)
