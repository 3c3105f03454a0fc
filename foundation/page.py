"""One self-contained HTML page: the frame and the style that all reports share. Nothing is fetched; light or dark as the system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid #dde3ea; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: #e8edf3; height: .7rem; min-width: 8rem; } .bar div { background: #2f6f9f; height: 100%; }
details { margin: .3rem 0; } summary { cursor: pointer; }
blockquote { margin: .3rem 0 .3rem 1rem; padding-left: .7rem; border-left: 3px solid #dde3ea; color: #44515e; overflow-wrap: anywhere; }
pre { background: #f3f6f9; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; border-radius: 4px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { border: 1px solid #dde3ea; border-radius: 5px; padding: .5rem .8rem; } .tiles b { display: block; font-size: 1.15rem; }
.tiles span { font-size: .82rem; opacity: .75; } .state { font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #dfe6ee; background: #15191e; } .bar { background: #2a323b; }
td, th { border-color: #333c46; } blockquote { color: #aab6c2; border-color: #333c46; }
pre { background: #1d232a; } .tiles div { border-color: #333c46; } }
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """The page.

    Args:
        title: Plain text; becomes the heading too.
        body: HTML.
        style: CSS beside the shared one.
    """
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style>"
        f"<h1>{escape(title)}</h1>{body}</html>\n"
    )


def tiles(figures: Mapping[str, str]) -> str:
    """Figures by name, large, side by side."""
    told = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures.items())
    return f"<div class=tiles>{told}</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """A table of plain texts; the columns ``numbers`` are set flush right."""
    right = set(numbers)

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if place in right else ''}>{escape(text)}</{tag}>" for place, text in enumerate(texts))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', heads)}</tr>{body}</table>"
