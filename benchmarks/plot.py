"""Bars of how many a second each server answers, a group for each measurement: an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

COLOURS = {"ours": "#0b6e6e", "sekmet": "#c98a1b", "hapi": "#8a8a8a"}
LEFT, WIDTH, BAR, GAP = 210, 470, 13, 14


def bars(found: dict[str, Any], names: Sequence[str], title: str) -> str:
    """Each group is drawn relative to its fastest: what counts is the ratio, and the numbers stand beside."""
    y, lines = 56, []
    for what, by in found.items():
        fastest = max(by[name]["per_s"] for name in names)
        middle = y + BAR * len(names) / 2 + 4
        lines.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(what)}</text>')
        for name in names:
            length = max(1.0, WIDTH * by[name]["per_s"] / fastest)
            lines.append(f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>')
            lines.append(f'<text x="{LEFT + length + 6:.0f}" y="{y + BAR - 3}">{by[name]["per_s"]:,.0f}</text>')
            y += BAR
        y += GAP
    legend = "".join(
        f'<rect x="{LEFT + 90 * n}" y="32" width="11" height="11" fill="{COLOURS[name]}"/>'
        f'<text x="{LEFT + 90 * n + 16}" y="42">{name}</text>'
        for n, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 80} {y}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/><title>{escape(title)}</title>'
        f'<text x="{LEFT}" y="20" font-size="13">{escape(title)}</text>{legend}{"".join(lines)}</svg>\n'
    )
