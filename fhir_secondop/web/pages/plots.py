"""Bars as SVG files: no script, no style, every number also in a table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_WIDTH, _LEFT, _BAR, _ROW = 860, 320, 380, 26
# Told apart without colour by their order, their labels and the gaps between; AA contrast to white.
COLOURS = ("#0b5574", "#4f8fae", "#9b1c1c", "#7a4b00", "#47525c")
_INK, _REST = "#16222d", "#e9edf0"


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: its name, the whole, the parts that are shown (place of the colour, name, length), what stands behind."""

    name: str
    whole: int
    parts: tuple[tuple[int, str, int], ...]
    said: str


def stacked(title: str, bars: Sequence[Bar], legend: Sequence[str]) -> str:
    """Horizontal bars, each as long as its whole is to the longest; what is withheld stays grey."""
    longest = max((bar.whole for bar in bars), default=1) or 1
    lines = [_legend(legend)]
    for place, bar in enumerate(bars):
        top = 40 + place * _ROW
        lines.append(_text(_LEFT - 8, top + 15, bar.name[:46], "end"))
        width = _BAR * bar.whole / longest
        lines.append(_rect(_LEFT, top, width, _REST))
        left = float(_LEFT)
        for colour, name, number in bar.parts:
            part = _BAR * number / longest
            hint = f"<title>{escape(f'{bar.name}: {name} {number}')}</title>"
            lines.append(f"<g>{hint}{_rect(left, top, max(part - 1, 0), COLOURS[colour])}</g>")
            left += part
        lines.append(_text(_LEFT + width + 6, top + 15, bar.said, "start"))
    height = 48 + len(bars) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label={quoteattr(title)} font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>{"".join(lines)}</svg>'
    )


def _legend(names: Sequence[str]) -> str:
    left, found = 12.0, []
    for colour, name in enumerate(names):
        found += [_rect(left, 10, 12, COLOURS[colour], 12), _text(left + 17, 20, name, "start")]
        left += 34 + 7 * len(name)
    return "".join(found)


def _rect(left: float, top: float, width: float, colour: str, height: int = 18) -> str:
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(left: float, top: float, text: str, anchor: str) -> str:
    return f'<text x="{left:.1f}" y="{top}" text-anchor="{anchor}" fill="{_INK}">{escape(text)}</text>'
