"""A report as one HTML page that needs nothing else: page.html filled in, with every text escaped."""

import functools
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from flowcpc.train.evaluation.classifiers.retrieval import RANKS
from flowcpc.train.report import figures
from flowcpc.train.report.accuracies import Accuracies, Recall
from flowcpc.train.report.figures import Chart, Cloud, Matrix
from flowcpc.train.report.store_health import THUMBNAIL, Health, Search


@dataclass(frozen=True)
class Headline:
    """A number of a card, what it is, and what stands beside it."""

    what: str
    value: str
    beside: str


@dataclass(frozen=True)
class Card:
    """A run in a few numbers; `steps` is 0 for a folder of results."""

    name: str
    colour: int
    what: str
    step: int
    steps: int
    numbers: tuple[Headline, ...]
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Runs as rows; the first `texts` columns behind the name are words, the others numbers."""

    columns: tuple[str, ...]
    texts: int
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ClassRow:
    """A class: share of its test videos that were recognised, of how many, and the class that it was most often taken for."""

    label: str
    share: float
    videos: int
    mistaken: str


@dataclass(frozen=True)
class Confusion:
    """A run's predictions, class by class."""

    name: str
    colour: int
    where: str
    figure: Matrix
    rows: tuple[ClassRow, ...]


@dataclass(frozen=True)
class RunMap:
    """A run's embeddings on a plane."""

    name: str
    colour: int
    figure: Cloud


@dataclass(frozen=True)
class RunSearch:
    """Nearest neighbours by a run's embeddings."""

    name: str
    colour: int
    search: Search


@dataclass(frozen=True)
class Strides:
    """Distance of segments in training, flows: what was asked for, and what the lines of the metrics say."""

    name: str
    colour: int
    asked: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """A setting, its value in every run, and whether they differ."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True)
class Commands:
    """What makes the parts of a report that are absent."""

    pretrain: str
    evaluate: str
    retrieval: str
    report: str


@dataclass(frozen=True)
class Page:
    """Everything that a report shows; a part that is empty is replaced by a sentence that says which command makes it."""

    heading: str
    lead: str
    cards: Sequence[Card]
    comparison: Comparison | None
    charts: Sequence[Chart]
    held_out: str
    accuracies: Sequence[Accuracies]
    remarks: Sequence[str]
    recalls: Sequence[Recall]
    confusions: Sequence[Confusion]
    maps: Sequence[RunMap]
    no_maps: Sequence[tuple[str, str]]
    searches: Sequence[RunSearch]
    no_searches: Sequence[tuple[str, str]]
    health: Health | None
    strides: Sequence[Strides]
    settings_runs: Sequence[str]
    settings: Sequence[Setting]
    differences: Sequence[str]
    numerics: Sequence[tuple[str, str]]
    commands: Commands

    @property
    def title(self) -> str:
        """What a browser's tab says."""
        return f"{self.heading} - flowcpc"

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Anchor and title of every section."""
        return (
            ("glance", "At a glance"),
            ("curves", "Curves"),
            ("accuracy", "Accuracy"),
            ("classes", "Classes"),
            ("map", "Map"),
            ("neighbours", "Neighbours"),
            ("health", "Data"),
            ("configuration", "Configuration"),
        )

    @property
    def version(self) -> str:
        """Of flowcpc."""
        return importlib.metadata.version("flowcpc")


def render(page: Page) -> str:
    """Return the page as HTML."""
    geometry = {
        "width": figures.WIDTH,
        "height": figures.HEIGHT,
        "left": figures.LEFT,
        "right": figures.WIDTH - figures.RIGHT,
        "bottom": figures.HEIGHT - figures.BOTTOM,
    }
    template = _environment().get_template("page.html")
    return template.render(
        page=page,
        geometry=geometry,
        recall_at=RANKS,
        letters=figures.LABEL_ROOM,
        thumbnail=THUMBNAIL,
    ).lstrip()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("flowcpc.train.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
