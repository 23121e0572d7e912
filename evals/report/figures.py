"""Drawings as inline SVG: small line panels and forest plots.

matplotlib lays them out; what it writes is then made fit for a page. Colours become the page's CSS
variables, so one drawing serves light, dark and print; text stays text in the page's own font;
everything that names another resource (namespaces, metadata, the document type) is taken out; ids
are made unique to the figure. Equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"ink": "#0a0b01", "muted": "#0a0b02", "line": "#0a0b03", "bad": "#0a0b04"}
_SERIES = tuple(f"#0a0b1{i}" for i in range(6))
MARKERS = ("o", "s", "D", "^", "v", "P")
"""Shape of each stage's mark, so that colour is never the only difference."""
GLYPHS = (
    "\N{BLACK CIRCLE}",
    "\N{BLACK SQUARE}",
    "\N{BLACK DIAMOND}",
    "\N{BLACK UP-POINTING TRIANGLE}",
    "\N{BLACK DOWN-POINTING TRIANGLE}",
    "\N{HEAVY GREEK CROSS}",
)
"""The same marks as text, for legends."""
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "alignkit",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.5,
}
POINTS = 300
"""Most points of a line; longer series are shown as means of equal blocks."""


Rule = Literal["zero", "diagonal"]
"""What a panel of curves holds its marks against: 0, or equality of both axes."""


class Line(NamedTuple):
    """One series of a panel."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int
    """Index into the series' colours."""
    dots: bool = False
    """Single measurements: marks joined by a thin line."""


class Mark(NamedTuple):
    """A measurement at x with its interval."""

    x: float
    y: float
    low: float
    high: float
    colour: int
    """Index into the series' colours and marks."""


class ForestRow(NamedTuple):
    """One measurement in a forest plot, with one mark a stage."""

    label: str
    control: bool
    points: Sequence[tuple[int, float, float, float]]
    """(index of the stage, value, low, high)"""


def line_panel(name: str, lines: Sequence[Line], xlabel: str, limit: float | None = None) -> str:
    """A small panel of lines; `limit` is drawn as a dashed rule across it."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for line in lines:
            x, y = _thin(line)
            marker = MARKERS[line.colour] if line.dots or len(x) == 1 else ""
            width = 0.8 if line.dots else 1.5
            colour = _SERIES[line.colour % len(_SERIES)]
            axes.plot(x, y, color=colour, linewidth=width, marker=marker, markersize=4)
        if limit is not None:
            axes.axhline(limit, color=_COLOURS["bad"], linewidth=1, linestyle=(0, (4, 3)))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel(xlabel)

    return _draw(name, (3.3, 1.9), 0.6, draw)


def curve_panel(
    name: str, marks: Sequence[Mark], curves: Sequence[Line], xlabel: str, rule: Rule
) -> str:
    """Measurements with their intervals, smooth curves, and what they are to be held against."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        if rule == "diagonal":
            axes.axline((0.5, 0.5), slope=1, color=_COLOURS["muted"], linewidth=1)
        else:
            axes.axhline(0, color=_COLOURS["muted"], linewidth=1)
        for line in curves:
            axes.plot(line.x, line.y, color=_SERIES[line.colour], linewidth=1.2)
        for mark in marks:
            colour = _SERIES[mark.colour]
            axes.vlines(mark.x, mark.low, mark.high, color=colour, linewidth=0.8)
            axes.plot([mark.x], [mark.y], MARKERS[mark.colour], color=colour, markersize=4)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(xlabel)

    return _draw(name, (4.4, 2.6), 0.5, draw)


def bar_panel(name: str, edges: Sequence[float], counts: Sequence[int], xlabel: str) -> str:
    """A histogram; what lies below 0 is drawn in the colour of what is bad."""

    def draw(axes: Axes) -> None:
        colours = [_COLOURS["bad"] if edge < 0 else _SERIES[0] for edge in edges[:-1]]
        widths = [b - a for a, b in itertools.pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=colours)
        axes.axvline(0, color=_COLOURS["muted"], linewidth=1)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel(xlabel)

    return _draw(name, (4.4, 2.6), 0.5, draw)


def forest_panel(name: str, rows: Sequence[ForestRow], xlabel: str) -> str:
    """Intervals against the line of no difference, one block a measurement, controls shaded."""
    marks = max((len(row.points) for row in rows), default=1)
    block = marks + 1.4

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=_COLOURS["muted"], linewidth=1)
        for index, row in enumerate(rows):
            _forest_block(axes, row, -index * block)
            if row.control:
                top = -index * block + 0.8
                axes.axhspan(top - block, top, color=_COLOURS["line"], alpha=0.35, linewidth=0)
        axes.set_ylim(-len(rows) * block + 0.8, 0.9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(xlabel)

    return _draw(name, (4.4, 0.55 + 0.16 * block * len(rows)), 0.06, draw)


def _forest_block(axes: Axes, row: ForestRow, top: float) -> None:
    """The label and, below it, one interval and mark a stage."""
    axes.text(
        0.0,
        top,
        row.label,
        transform=axes.get_yaxis_transform(),
        color=_COLOURS["muted" if row.control else "ink"],
        va="center",
    )
    for line, (stage, value, low, high) in enumerate(row.points, start=1):
        colour = _SERIES[stage % len(_SERIES)]
        axes.plot([low, high], [top - line] * 2, color=colour, linewidth=1.4)
        marker = MARKERS[stage % len(MARKERS)]
        axes.plot([value], [top - line], color=colour, marker=marker, markersize=4.5)


def _thin(line: Line) -> tuple[list[float], list[float]]:
    """The series as it is, or the means of at most `POINTS` blocks of equal length."""
    size = -(-len(line.x) // POINTS)
    starts = range(0, len(line.x), size) if size else ()
    blocks = [(line.x[i : i + size], line.y[i : i + size]) for i in starts]
    return [sum(x) / len(x) for x, _ in blocks], [sum(y) / len(y) for _, y in blocks]


def _draw(name: str, size: tuple[float, float], left: float, draw: Callable[[Axes], None]) -> str:
    """Run `draw` on fresh axes and return the page's SVG; `size` and left margin in inches."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a user's own style must not change the report
        matplotlib.rcParams.update(_SETTINGS)
        # A label may hold any character; the browser has fonts that the layout has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        # Fixed margins: an automatic layout would draw everything twice.
        x, y = left / size[0], 0.43 / size[1]
        axes = figure.add_axes((x, y, 0.98 - x, 1 - 0.06 / size[1] - y))
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Matplotlib's file as a fragment for the page (see the module's docstring)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style\b.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for key, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{key})")
    for index, colour in enumerate(_SERIES):
        svg = svg.replace(colour, f"var(--s{index})")
    return re.sub(r"\n\s*", "\n", svg).strip()
