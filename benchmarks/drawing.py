"""A chart as an SVG document of its own, from the figures that run reports have inline. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from training.charts import Points, curves

_COLOURS = ("#2f6f9f", "#c2571a", "#4b8b3b", "#8a5fb0", "#b03a55", "#b8901f", "#4f9a9a", "#8a949e")
_WIDTH, _HEIGHT, _LINE, _TITLE = 480, 210, 16, 22
_STYLE = "text { font: 11px system-ui, sans-serif; fill: #5b6977; } .grid { stroke: #e3e8ee; } polyline { fill: none; stroke-width: 1.6; }"


def svg_document(title: str, series: Mapping[str, Points], across: str = "") -> str:
    """One curve for each of ``series``, at most eight, with title, legend and what the axis across is; empty without points."""
    figure = curves(title, series)
    found = re.search(r"<svg[^>]*>(.*)</svg>", figure, re.DOTALL)
    if not found:
        return ""
    # What HTML bears, a document of its own does not.
    body = re.sub(r"class=(\w+)", r'class="\1"', found[1])
    body = re.sub(r"var\(--c(\d)\)", lambda match: _COLOURS[int(match[1])], body)
    names = [name for name, points in series.items() if points]
    height = _TITLE + _HEIGHT + _LINE * (len(names) + bool(across))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#ffffff" />',
        f'<text x="8" y="15" style="font-weight: 600">{escape(title)}</text><g transform="translate(0 {_TITLE})">{body}</g>',
    ]
    down = _TITLE + _HEIGHT + 10
    if across:
        parts.append(f'<text x="{_WIDTH / 2:g}" y="{down}" text-anchor="middle">{escape(across)}</text>')
        down += _LINE
    for colour, name in enumerate(names):
        spot = f'<rect x="56" y="{down - 9 + _LINE * colour}" width="10" height="10" fill="{_COLOURS[colour]}" />'
        parts.append(f'{spot}<text x="72" y="{down + _LINE * colour}">{escape(name)}</text>')
    return "".join(parts) + "</svg>\n"
