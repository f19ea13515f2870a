"""The parts of a report, and the HTML page that shows them: page.html with every text escaped."""

import importlib.metadata
from collections.abc import Mapping, Sequence
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


class Table(NamedTuple):
    """A table; `columns` maps every heading to the kind of its cells.

    Kinds are `text`, `run` (after the colour of the row), `n` (a number) and `bar` (a `Bar`).
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    style: str = ""


def render(**parts: object) -> str:
    """Return the page as HTML; `parts` are what page.html shows. A missing part is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flowcpc.train.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    version = importlib.metadata.version("flowcpc")
    template = environment.get_template("page.html")
    return template.render(page=parts, version=version, colours=COLOURS).lstrip()
