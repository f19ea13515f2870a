"""The tables and findings of the paper (Lorre et al. 2019) as data."""

from dataclasses import dataclass
from typing import NamedTuple

from flowcpc.train.evaluation.modes import labels_in_words
from flowcpc.train.settings.presets import PRESETS

UNSUPERVISED, LINEAR, FINETUNE = "unsupervised", "linear", "finetune"
_LABELS = ("all", "18", "5")


class Column(NamedTuple):
    """An accuracy of a table: unsupervised, or of an evaluation with so many labels per class."""

    mode: str
    labels: str = "all"

    @property
    def title(self) -> str:
        """The heading of the column."""
        is_alone = self.mode == UNSUPERVISED
        return self.mode if is_alone else f"{self.mode}, {labels_in_words(self.labels)}"


class Side(NamedTuple):
    """An accuracy in a finding: of the encoder of a preset, pretrained or with initial weights."""

    preset: str
    column: Column = Column(LINEAR)
    untrained: bool = False


class PaperFinding(NamedTuple):
    """A finding of the paper: `higher` is at least `points` points above `lower`.

    With 0 `points` any difference above 0 counts and, with `or_equal`, an equal value too.
    """

    claim: str
    higher: Side
    lower: Side
    points: float = 0.0
    or_equal: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or its findings, with only the cells that they compare."""

    name: str
    title: str
    columns: tuple[Column, ...]
    findings: tuple[PaperFinding, ...] = ()

    @property
    def heading(self) -> str:
        """What sentences call the table."""
        return f"table {self.name}" if self.name.isdecimal() else self.name

    @property
    def stem(self) -> str:
        """The beginning of the names of its files and presets."""
        return self.heading.replace(" ", "")

    @property
    def sides(self) -> tuple[Side, ...]:
        """The accuracies that the findings compare."""
        return tuple(side for one in self.findings for side in (one.higher, one.lower))

    @property
    def presets(self) -> tuple[str, ...]:
        """The presets in the rows of the table."""
        if self.findings:
            return tuple(dict.fromkeys(side.preset for side in self.sides))
        return tuple(name for name in PRESETS if name.startswith(f"{self.stem}-"))


_UNSUPERVISED, _LINEAR, _FEW = Column(UNSUPERVISED), Column(LINEAR), Column(FINETUNE, "5")
_FLOW, _UNTRAINED = Side("table1-flow"), Side("table1-flow", untrained=True)
_VARIABLE, _NONE = Side("table2-spacing-variable"), Side("table2-spacing-0")
_EASY, _DIFFICULT = (Side(f"table4-{name}", _UNSUPERVISED) for name in ("easy", "difficult"))
_FEW_TUNED, _FEW_SCRATCH = Side("table5-conv3d", _FEW), Side("table5-random", _FEW)
FINDINGS = (
    PaperFinding("pretraining beats initial weights", _FLOW, _UNTRAINED, points=10.0),
    PaperFinding("flow beats images", _FLOW, Side("table1-image")),
    PaperFinding("variable spacing is no worse than none", _VARIABLE, _NONE, or_equal=True),
    PaperFinding("difficult negatives lower unsupervised accuracy", _EASY, _DIFFICULT),
    PaperFinding("finetuning with 5 labels per class beats scratch", _FEW_TUNED, _FEW_SCRATCH),
)
_BY_LABELS = tuple(Column(mode, labels) for mode in (LINEAR, FINETUNE) for labels in _LABELS)
_TITLES = {
    "1": "images and optical flow (model 1, Conv3D, ten frames per segment, variable spacing)",
    "2": "selection of segments, and flows per segment (model 1, TCAM)",
    "3": "model 1 and model 2 (ten flows per segment, variable spacing)",
    "4": "difficult negatives (model 2, LSTM, ten segments of ten flows, overlap of five)",
    "5": "labels per class (ten flows per segment, variable spacing)",
}
_COLUMNS = {"1": (_UNSUPERVISED, _LINEAR), "4": (_UNSUPERVISED, _LINEAR), "5": _BY_LABELS}
TABLES = {
    name: PaperTable(name, title, _COLUMNS.get(name, (_LINEAR,))) for name, title in _TITLES.items()
}
_CELLS = (_UNSUPERVISED, _LINEAR, _FEW)
TABLES["findings"] = PaperTable("findings", "pairs of rows", _CELLS, FINDINGS)
