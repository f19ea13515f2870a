"""Where the marks of a figure go: charts, maps of points, matrices and thumbnails, which page.html draws as SVG."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.inspection.pictures import Pixels

# Of a chart, in units of its view box: near CSS pixels where three stand in a row.
WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 14.0, 14.0, 44.0
_MOST_POINTS = 400  # of a line; more cannot be told apart
LABEL_ROOM = 22  # letters of a class name beside a matrix
_LETTER = 0.64  # width of a letter by its height, on average
_FEW_CLASSES = 26  # of a matrix that leaves room for numbers, and for a table beside it

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """What a chart is to show: (x, y) in units of the data, joined or as dots; `colour` is the number of the run."""

    name: str
    colour: int
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class Drawn:
    """A line of a chart as SVG: a path or dots (x, y), all in units of the view box."""

    name: str
    colour: int
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Mark:
    """A place on an axis, in units of the view box, and what is written there."""

    place: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Lines over steps; `summary` says the figure in words, `levels` are horizontal lines such as the one of guessing."""

    title: str
    unit: str
    summary: str
    x_marks: tuple[Mark, ...]
    y_marks: tuple[Mark, ...]
    levels: tuple[Mark, ...]
    drawn: tuple[Drawn, ...]


def line_chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    *,
    levels: Sequence[tuple[float, str]] = (),
    log: bool = False,
) -> Chart | None:
    """Return a chart of `lines` over steps, from zero unless `log`; None where no line has a point with a finite value."""
    lines = [_finite(line, positive=log) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [value for value, _ in levels]
    left, right = min(0.0, *xs), max(xs)
    right = right if right > left else left + 1
    if log:
        low, high = _decades(min(ys), max(ys))
        places = [
            10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)
        ]
    else:
        places = nice_places(min(0.0, *ys), max(ys))
        low, high = places[0], max(places[-1], max(ys))
    scale = math.log10 if log else float

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for line in lines:
        spots = [(round(across(x), 1), round(down(y), 1)) for x, y in line.points]
        path = "" if line.dots else "M" + "L".join(f"{x:g} {y:g}" for x, y in spots)
        lone = line.dots or len(spots) == 1
        drawn.append(Drawn(line.name, line.colour, path, tuple(spots) if lone else ()))
    return Chart(
        title=title,
        unit=unit,
        summary=f"{title} over steps. " + " ".join(_in_words(line, unit) for line in lines),
        x_marks=tuple(
            Mark(across(x), short(x)) for x in nice_places(left, right, 4) if left <= x <= right
        ),
        y_marks=tuple(Mark(down(y), short(y)) for y in places),
        levels=tuple(Mark(down(value), text) for value, text in levels),
        drawn=tuple(drawn),
    )


def nice_places(low: float, high: float, about: int = 5) -> list[float]:
    """Return round places from at or below `low` to at or above `high`, about so many.

    >>> nice_places(0, 4.4), nice_places(0, 57)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    """
    span = (high - low) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min(
        (factor * power for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / rough))
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """Return a number as an axis says it.

    >>> short(60_000), short(1_500_000), short(0.0005), short(0)
    ('60k', '1.5M', '0.0005', '0')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """Return `points`, or where they are more than `most` the means of as many neighbours each; the last x stays."""
    if len(points) <= most:
        return [(float(x), float(y)) for x, y in points]
    parts = np.array_split(np.asarray(points, float), most)
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


@dataclass(frozen=True)
class Cell:
    """A field of a matrix that is not empty: column and row, its share of the row in 0..1, and what it says."""

    column: int
    row: int
    share: float
    text: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: rows are the right classes, columns the predicted ones; `size` px a field, `room` px for the names."""

    classes: tuple[str, ...]
    cells: tuple[Cell, ...]
    size: int
    letters: int
    room: int
    summary: str

    @property
    def is_large(self) -> bool:
        """Whether it needs the width of the page, and has no room for numbers."""
        return len(self.classes) > _FEW_CLASSES

    @property
    def width(self) -> int:
        """Width and height of the whole, px."""
        return self.room + self.size * len(self.classes) + 4


def matrix(classes: Sequence[str], counts: NDArray[np.int64]) -> Matrix:
    """Return the figure of `counts`, (right, predicted)."""
    totals = counts.sum(axis=1)
    cells = [
        Cell(
            int(column),
            int(row),
            float(counts[row, column] / totals[row]),
            str(counts[row, column]),
        )
        for row, column in zip(*np.nonzero(counts), strict=True)
    ]
    size = (
        34
        if len(classes) <= 8
        else 24
        if len(classes) <= _FEW_CLASSES
        else 16
        if len(classes) <= 64
        else 10
    )
    letters = min(12, size)
    longest = min(max(map(len, classes), default=0), LABEL_ROOM)
    right = int(np.trace(counts))
    return Matrix(
        classes=tuple(classes),
        cells=tuple(cells),
        size=size,
        letters=letters,
        room=round(longest * letters * _LETTER) + 10,
        summary=f"Confusion matrix of {len(classes)} classes: {right} of {int(totals.sum())} predictions are right.",
    )


@dataclass(frozen=True)
class Cloud:
    """Points on a plane: x and y in 0..1 by class."""

    classes: tuple[str, ...]
    points: tuple[tuple[float, float, int], ...]
    summary: str


def cloud(
    classes: Sequence[str], members: NDArray[np.int64], places: NDArray[np.float64], summary: str
) -> Cloud:
    """Return the figure of `places` (n, 2), stretched to the unit square with their shape kept; `members` (n,) index `classes`."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    unit = (places - (low + high) / 2) / span + 0.5
    points = [
        (round(float(x), 4), round(float(y), 4), int(member))
        for (x, y), member in zip(unit, members, strict=True)
    ]
    return Cloud(tuple(classes), tuple(points), summary)


def picture_uri(rgb: Pixels, width: int) -> str:
    """Return `rgb`, uint8 (H, W, 3), about `width` px wide as the address of a picture that holds its own data."""
    picture = Image.fromarray(rgb)
    height = max(1, round(width * picture.height / picture.width))
    larger = picture.width < width
    picture = picture.resize(
        (width, height), Image.Resampling.NEAREST if larger else Image.Resampling.BOX
    )
    data = io.BytesIO()
    if larger:
        picture.save(data, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    picture.save(data, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _finite(line: Line, *, positive: bool) -> Line:
    kept = [(x, y) for x, y in line.points if math.isfinite(y) and (y > 0 or not positive)]
    return Line(line.name, line.colour, thinned(kept), line.dots)


def _decades(low: float, high: float) -> tuple[float, float]:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return (10.0**first, 10.0**last) if first < last else (10.0 ** (first - 1), 10.0 ** (last + 1))


def _in_words(line: Line, unit: str) -> str:
    (_, first), (x, last) = line.points[0], line.points[-1]
    return f"{line.name}: {first:.3g} at first, {last:.3g} {unit} at step {x:,.0f}."
