"""Text in fields: escaped when it is written, and read back as it was meant.

Source: HL7 v2.5.1, chapter 2.7
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEX = re.compile(r"X(?:[0-9A-Fa-f]{2})+")
_BREAK = re.compile(r"\.(?:br|sp\+?\d*)", re.IGNORECASE)
_SILENT = ("H", "N")  # highlighting, begun and ended


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What parts a message: as its own first segment says."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @property
    def parting(self) -> tuple[str, str, str, str]:
        """Those that make one part two."""
        return self.field, self.component, self.repetition, self.subcomponent


OURS = Delimiters()


def escape(text: str) -> str:
    r"""The text as it stands in a field of ours: `a|b` is `a\F\b`. A control character, which can't stand in one,
    is a blank.
    """
    named = {OURS.field: "F", OURS.component: "S", OURS.subcomponent: "T", OURS.repetition: "R", OURS.escape: "E"}
    return "".join(f"\\{named[c]}\\" if c in named else c for c in _CONTROL.sub(" ", text))


def unescape(text: str, delimiters: Delimiters = OURS) -> str:
    """What a field says. A sequence that we don't know is kept as it stands: nothing is lost."""
    mark = delimiters.escape
    if not mark or mark not in text:
        return text
    meant = {
        "F": delimiters.field, "S": delimiters.component, "T": delimiters.subcomponent, "R": delimiters.repetition,
        "E": mark,
    }  # fmt: skip
    found, at = [], 0
    while (begin := text.find(mark, at)) >= 0:
        end = text.find(mark, begin + 1)
        if end < 0:
            break
        said = _meant(text[begin + 1 : end], meant)
        found.append(text[at:begin])
        if said is None:  # no sequence: the second mark may begin one
            found.append(text[begin:end])
            at = end
        else:
            found.append(said)
            at = end + 1
    return "".join([*found, text[at:]])


def _meant(sequence: str, meant: dict[str, str]) -> str | None:
    if sequence in meant:
        return meant[sequence]
    if sequence in _SILENT:
        return ""
    if _BREAK.fullmatch(sequence):
        return "\n"
    if _HEX.fullmatch(sequence):
        try:
            return bytes.fromhex(sequence[1:]).decode("utf-8")
        except UnicodeDecodeError:
            return None
    return None


def joined(*components: str) -> str:
    """Components, each escaped, as one field: trailing empty ones are left out."""
    return "^".join(map(escape, components)).rstrip("^")
