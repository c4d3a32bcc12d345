"""Bars as SVG files: no script, no style, every number also in a table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

# Narrow, each name above its bar: on a phone the letters are hardly smaller than those of the page.
_WIDTH, _LEFT, _BAR, _ROW, _FONT = 400, 4, 270, 46, 14
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
    drawn, begins = _legend(legend)
    lines = [drawn]
    for place, bar in enumerate(bars):
        top = begins + place * _ROW + 20
        lines.append(_text(_LEFT, top - 5, bar.name[:48]))
        width = _BAR * bar.whole / longest
        lines.append(_rect(_LEFT, top, width, _REST))
        left = float(_LEFT)
        for colour, name, number in bar.parts:
            part = _BAR * number / longest
            hint = f"<title>{escape(f'{bar.name}: {name} {number}')}</title>"
            lines.append(f"<g>{hint}{_rect(left, top, max(part - 1, 0), COLOURS[colour])}</g>")
            left += part
        lines.append(_text(_LEFT + width + 6, top + 14, bar.said))
    height = begins + len(bars) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label={quoteattr(title)} font-family="system-ui, sans-serif" font-size="{_FONT}">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>{"".join(lines)}</svg>'
    )


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """The names with their colours, in as many lines as they need; where what is below them begins."""
    left, top, found = float(_LEFT), 6, []
    for colour, name in enumerate(names):
        needs = 34 + 7.5 * len(name)
        if left + needs > _WIDTH and left > _LEFT:
            left, top = float(_LEFT), top + 22
        found += [_rect(left, top, 12, COLOURS[colour], 12), _text(left + 17, top + 11, name)]
        left += needs
    return "".join(found), top + 24


def _rect(left: float, top: float, width: float, colour: str, height: int = 18) -> str:
    return f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(left: float, top: float, text: str) -> str:
    return f'<text x="{left:.1f}" y="{top}" fill="{_INK}">{escape(text)}</text>'
