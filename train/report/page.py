"""The parts of a report, and the HTML page that shows them: page.html with every text escaped."""

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jinja2

from flowcpc.train.report.figures import COLOURS


class Bar(NamedTuple):
    """A cell of a table that is drawn as a bar, too."""

    text: str
    percent: float


class Row(NamedTuple):
    """A row of a table; the last of too few `cells` fills the rest. `colour` is that of a run."""

    cells: Sequence[object]
    colour: int | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    `columns` maps every heading to the kind of its cells: `text`, `run` (after the colour of the
    row), `n` (a number) or `bar` (a `Bar`).
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    style: str = ""


@dataclass(frozen=True)
class Card:
    """A run in a few numbers: (what, value, values to compare it with). `steps` 0: no training."""

    name: str
    colour: int
    description: str
    step: int
    steps: int
    numbers: Sequence[tuple[str, str, str]]
    verdict: str


@dataclass(frozen=True)
class Confusion:
    """The predictions of a run: `counts` of each class (rows) by predicted class (columns)."""

    name: str
    colour: int
    origin: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    table: Table

    @property
    def is_large(self) -> bool:
        """Whether the matrix needs the width of the page and has no space for numbers."""
        return len(self.classes) > 26


@dataclass(frozen=True)
class Thumbnail:
    """A video and its flow as a picture; `right`: a neighbour is of the class of the query."""

    video_id: str
    label: str
    picture: str
    similarity: float = 1.0
    right: bool = True


@dataclass(frozen=True)
class Search:
    """Test videos, each followed by its nearest training videos.

    `first_right` and `chance` are shares of all `tests` videos whose nearest video, or a random
    one, has their class; full colour is a flow of `speed` px per frame.
    """

    name: str
    colour: int
    queries: Sequence[Sequence[Thumbnail]]
    speed: float
    wheel: str
    first_right: float
    chance: float
    tests: int
    gallery: int


@dataclass(frozen=True)
class Listing:
    """A finding about `count` videos, of which `names` are some, each with a remark."""

    summary: str
    count: int
    names: Sequence[tuple[str, str]] = ()
    note: str = ""


@dataclass(frozen=True)
class Health:
    """The state of a store; `tiles` are (what, value, style)."""

    tiles: Sequence[tuple[str, str, str]]
    failures: Table | None
    miscounted: Listing
    short: Sequence[Listing]


def render(**parts: object) -> str:
    """Return the page as HTML; `parts` are what page.html shows. A missing part is an error."""
    version = importlib.metadata.version("flowcpc")
    template = _environment().get_template("page.html")
    return template.render(page=parts, version=version, colours=COLOURS).lstrip()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("flowcpc.train.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
