"""Figures as SVG in the colours of the page, drawn by matplotlib; pictures as data URIs."""

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.inspection.pictures import Pixels

# Functions import matplotlib: loading it takes most of a second.
COLOURS = 10  # of runs and classes: the CSS variables --s0 to --s9
_MOST_POINTS = 400  # of a line; more cannot be told apart
_MOST_LETTERS = 24  # of a class name in a legend
_MARKERS = "os^vDPX*_d"  # ten that differ without colour, too
# Colours that are drawn, and the CSS variables that replace them: the page is light or dark.
_SERIES = [f"#0001{number:02x}" for number in range(COLOURS)]
_SOFT, _RULE, _PAPER = "#000200", "#000201", "#000202"
_VARIABLES = {colour: f"var(--s{number})" for number, colour in enumerate(_SERIES)}
_VARIABLES |= {_SOFT: "var(--soft)", _RULE: "var(--rule)", _PAPER: "var(--paper)"}
# Of a tag: identifiers of groups, clipping, matplotlib's fonts, the size in points.
_UNUSED = r'(?<=^<g) id=".*?"| clip-path=".*?"|font-family: .*?; |\b(width|height)="\S*pt" '
_STYLE: Any = {
    "svg.fonttype": "none",  # the page's fonts
    "svg.hashsalt": "flowcpc",  # the same figure gives the same bytes
    "text.parse_math": False,  # a $ in the name of a class is a $
    "axes.axisbelow": True,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("ytick.major.size", "ytick.minor.size"), 0),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), _RULE),
    **dict.fromkeys(("text.color", "axes.labelcolor"), _SOFT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), _SOFT),
}


class Line(NamedTuple):
    """Values `y` over the steps `x`, joined by a line or as dots, in the colour of a run."""

    name: str
    colour: int
    x: Any
    y: Any
    dots: bool = False


class Chart(NamedTuple):
    """A drawn figure, and the colour of its run where it shows only one."""

    title: str
    unit: str
    svg: Markup
    colour: int | None = None


def line_chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    *,
    levels: Mapping[float, str] | None = None,
    log: bool = False,
) -> Chart | None:
    """Return a chart of `lines` over steps, or None where no line has a value to show.

    The vertical axis begins at zero. With `log` it is logarithmic and the values are constant
    between their steps, as learning rates are. `levels` are dashed lines and their names.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    lines = [line for line in (_shown(line, log) for line in lines) if len(line.x)]
    if not lines:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y")
        for number, line in enumerate(lines):
            style = "-" if line.colour < COLOURS else "--"
            axes.plot(
                line.x,
                line.y,
                color=_SERIES[line.colour % COLOURS],
                linestyle="none" if line.dots else style,
                drawstyle="steps-pre" if log else "default",
                marker="o" if line.dots or len(line.x) == 1 else "",
                markersize=5,
                gid=f"title{number}",
            )
        for value, name in (levels or {}).items():
            axes.axhline(value, color=_SOFT, linestyle="--", linewidth=1)
            box = {"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}
            end = axes.get_yaxis_transform()  # x is a share of the axes
            axes.text(0.99, value, name, ha="right", va="bottom", bbox=box, transform=end)
        axes.set(yscale="log" if log else "linear", xlabel="step")
        if not log:
            axes.set_ylim(bottom=min(0.0, *(np.min(line.y) for line in lines)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.locator_params(axis="x", nbins=4)
        summary = " ".join([f"{title} over steps.", *(_in_words(line, unit) for line in lines)])
        return Chart(title, unit, _svg(figure, title, summary, [line.name for line in lines]))


def class_cloud(
    name: str, classes: Sequence[str], members: NDArray[np.int64], positions: NDArray[np.float64]
) -> Markup:
    """Return points on a plane at `positions` (n, 2), with a mark for each class.

    `members` (n,) are places in `classes`, ten at most. `name` tells the figure from others.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(5, 5.6), layout="constrained")
        axes = figure.subplots()
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for number, marker in zip(range(len(classes)), _MARKERS, strict=False):
            look: Any = {"marker": marker, "color": _SERIES[number], "gid": f"title{number}"}
            axes.scatter(*positions[members == number].T, label="class", **look)
        legend = figure.legend(loc="outside lower center", ncols=2, frameon=False)
        for text, label in zip(legend.get_texts(), classes, strict=True):
            long = len(label) > _MOST_LETTERS
            text.set_text(f"{label[: _MOST_LETTERS - 1]}…" if long else label)
        summary = f"Map of {len(positions)} videos of {len(classes)} classes"
        return _svg(figure, name, summary, classes)


def picture_uri(rgb: Pixels, width: int) -> str:
    """Return a picture, uint8 (H, W, 3), resized to `width` px as a data URI."""
    picture = Image.fromarray(rgb)
    larger = picture.width < width
    size = (width, max(1, round(width * picture.height / picture.width)))
    picture = picture.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.BOX)
    data = io.BytesIO()
    kind = "png" if larger else "webp"
    picture.save(data, kind, **({"optimize": True} if larger else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = _MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (x, y) as at most `most` points: the means of neighbours, at the x of their last."""
    if len(x) <= most:
        return x, y
    means = np.array([part.mean() for part in np.array_split(y, most)])
    return np.array([part[-1] for part in np.array_split(x, most)]), means


def _shown(line: Line, log: bool) -> Line:
    """Return what is drawn of a line. Learning rates (`log`) are not averaged."""
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    shown = np.isfinite(y) & ((y > 0) | (not log))
    x, y = x[shown], y[shown]
    x, y = (x, y) if log else thinned(x, y)
    return line._replace(x=x, y=y)


def _in_words(line: Line, unit: str) -> str:
    first, last = line.y[0], line.y[-1]
    return f"{line.name}: {first:.3g} at first, {last:.3g} {unit} at step {line.x[-1]:,.0f}."


def _svg(figure: Any, name: str, summary: str, titles: Sequence[str]) -> Markup:
    """Return a figure as an element of the page: its colours, no identifier that others have.

    Artists with the group id `title<N>` get titles[N] as hover text. matplotlib escapes texts.
    """
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a browser has them
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style|clipPath).*?</\1>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)

    def titled(tag: re.Match[str]) -> str:
        return f"<g><title>{escape(titles[int(tag[1])])}</title>"

    def restyled(tag: re.Match[str]) -> str:
        words = re.sub(_UNUSED, "", " ".join(tag[0].split()))
        words = re.sub(r'(\bid="|href="#)', rf"\g<1>{prefix}-", words)
        return re.sub("#000[12][0-9a-f]{2}", lambda colour: _VARIABLES[colour[0]], words)

    text = re.sub(r'<g id="title(\d+)">', titled, text)
    text = re.sub("<[^>]*>", restyled, text)
    head = f'<svg class="figure" role="img" aria-label="{escape(summary)}"'
    return Markup(head + text.removeprefix("<svg"))
