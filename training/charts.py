"""Charts as inline SVG, coloured by the style sheet that comes with them: curves over the step, and one bar in parts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 480, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 10, 26
_MOST_POINTS = 400
_TICKS = 6

STYLE = """
:root { --c0: #2f6f9f; --c1: #c2571a; --c2: #4b8b3b; --c3: #8a5fb0; --c4: #b03a55; --c5: #b8901f; --c6: #4f9a9a; --c7: #8a949e;
--grid: #e3e8ee; --faint: #5b6977; }
@media (prefers-color-scheme: dark) { :root { --c0: #6cb0e0; --c1: #f0975e; --c2: #86c774; --c3: #bd98e2; --c4: #e77d95; --c5: #e0bd58;
--c6: #7fcaca; --c7: #8d98a4; --grid: #2a323b; --faint: #9aa7b4; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem 2rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .9rem; }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
svg .grid { stroke: var(--grid); } svg .restart { stroke: var(--c4); stroke-dasharray: 3 3; }
svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.parts { display: flex; height: 1.6rem; border-radius: 3px; overflow: hidden; margin: .6rem 0; } .parts div { min-width: 1px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .88rem; } .legend i { display: inline-block; width: .75rem;
height: .75rem; border-radius: 2px; margin-right: .35rem; }
"""


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points: means of equal stretches, first and last point as they are. What is no finite number is left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) <= most:
        return finite
    size = math.ceil(len(finite) / (most - 2))
    means = []
    for start in range(0, len(finite), size):
        part = finite[start : start + size]
        means.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return [finite[0], *means[1:], finite[-1]]


def ticks(low: float, high: float, wanted: int = _TICKS) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``wanted`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def curves(title: str, series: Mapping[str, Points], *, marks: Sequence[float] = (), from_zero: bool = False) -> str:
    """A figure with one curve for each of ``series`` over the step; empty when there is nothing to draw.

    Args:
        title: Above it.
        series: Name to (step, value).
        marks: Steps that get an upright dashed line: restarts.
        from_zero: Whether the axis of values begins at 0.
    """
    drawn = {name: thinned(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), 0.0 if from_zero else min(ys), max(ys)
    if high <= low:
        low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_grid(at, ticks(low, high), ticks(left, right, 5), left, right)]
    for x in (at(mark, low)[0] for mark in marks if left <= mark <= right):
        parts.append(f'<line class=restart x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" />')
    for colour, points in enumerate(drawn.values()):
        corners = [at(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polyline style="stroke: var(--c{colour})" points="{path}" />')
        if len(points) <= 30:
            parts += [f'<circle style="fill: var(--c{colour})" cx="{x:.1f}" cy="{y:.1f}" r="2.4" />' for x, y in corners]
    names = legend({name: f"var(--c{colour})" for colour, name in enumerate(drawn)}) if len(drawn) > 1 else ""
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{names}</figure>"


def bar(parts: Mapping[str, float]) -> str:
    """One bar in parts, each as wide as its share; the names are in ``legend``'s order of colours."""
    total = sum(parts.values()) or 1.0
    drawn = []
    for colour, (name, value) in enumerate(parts.items()):
        if value > 0:
            share = 100 * value / total
            style = f"width: {share:.3f}%; background: var(--c{colour})"
            drawn.append(f'<div style="{style}" title="{escape(name)}: {share:.1f} %"></div>')
    return f"<div class=parts>{''.join(drawn)}</div>"


def legend(colours: Mapping[str, str]) -> str:
    """Names with a spot of their colour."""
    spots = "".join(f'<span><i style="background: {colour}"></i>{escape(name)}</span>' for name, colour in colours.items())
    return f"<div class=legend>{spots}</div>"


def number(value: float) -> str:
    """A value beside an axis: ``12k``, ``0.05``, ``2e-05``."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    if abs(value) >= 1:
        return f"{value:,g}"
    return f"{value:.3g}"


def _grid(at: object, values: Sequence[float], steps: Sequence[float], left: float, right: float) -> str:
    assert callable(at)
    parts = []
    for value in values:
        y = at(left, value)[1]
        parts.append(f'<line class=grid x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" />')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for step in steps:
        if step == int(step):
            parts.append(f'<text x="{at(step, values[0])[0]:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{number(step)}</text>')
    return "".join(parts)
