"""The paper's tables and findings as data (Lorre et al. 2019): which presets are rows, which accuracies are columns, what beats what."""

from dataclasses import dataclass
from typing import NamedTuple

from flowcpc.train.settings.presets import PRESETS

UNSUPERVISED, LINEAR, FINETUNE = "unsupervised", "linear", "finetune"
_LABELS = ("all", "18", "5")


class Column(NamedTuple):
    """An accuracy that a table shows: unsupervised, or of a mode of evaluation with so many labels per class."""

    mode: str
    labels: str = "all"

    @property
    def title(self) -> str:
        """What stands above it."""
        if self.mode == UNSUPERVISED:
            return "unsupervised"
        return f"{self.mode}, {'all labels' if self.labels == 'all' else f'{self.labels} labels per class'}"


class Side(NamedTuple):
    """One of the two accuracies that a finding compares: of a preset's encoder, pretrained or with its initial weights."""

    preset: str
    column: Column
    untrained: bool = False


@dataclass(frozen=True)
class Finding:
    """What the paper found: `higher` is at least `points` points above `lower`, and above it at all unless `or_equal`."""

    claim: str
    higher: Side
    lower: Side
    points: float = 0.0
    or_equal: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper (Lorre et al. 2019), or its findings: a name, what it is about, its rows and its columns.

    Where `findings` are given, only the cells that they compare are filled.
    """

    name: str
    title: str
    presets: tuple[str, ...]
    columns: tuple[Column, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def stem(self) -> str:
        """What its files are called."""
        return f"table{self.name}" if self.name.isdecimal() else self.name

    @property
    def heading(self) -> str:
        """What it is called in a sentence."""
        return f"table {self.name}" if self.name.isdecimal() else self.name

    def compares(self, preset: str, column: Column) -> bool:
        """Return whether the cell is one that counts here."""
        sides = [side for one in self.findings for side in (one.higher, one.lower)]
        return not sides or any(side[:2] == (preset, column) for side in sides)


_FEW = Column(FINETUNE, "5")
FINDINGS = (
    Finding(
        "pretraining beats initial weights",
        Side("table1-flow", Column(LINEAR)),
        Side("table1-flow", Column(LINEAR), untrained=True),
        points=10.0,
    ),
    Finding(
        "flow beats images",
        Side("table1-flow", Column(LINEAR)),
        Side("table1-image", Column(LINEAR)),
    ),
    Finding(
        "variable spacing is no worse than none",
        Side("table2-spacing-variable", Column(LINEAR)),
        Side("table2-spacing-0", Column(LINEAR)),
        or_equal=True,
    ),
    Finding(
        "difficult negatives lower unsupervised accuracy",
        Side("table4-easy", Column(UNSUPERVISED)),
        Side("table4-difficult", Column(UNSUPERVISED)),
    ),
    Finding(
        "finetuning with 5 labels per class beats scratch",
        Side("table5-conv3d", _FEW),
        Side("table5-random", _FEW),
    ),
)

TABLES = {
    table.name: table
    for table in (
        Table(
            "1",
            "images and optical flow (model 1, Conv3D, ten frames per segment, variable spacing)",
            ("table1-image", "table1-flow"),
            (Column(UNSUPERVISED), Column(LINEAR)),
        ),
        Table(
            "2",
            "selection of segments, and flows per segment (model 1, TCAM)",
            tuple(name for name in PRESETS if name.startswith("table2-")),
            (Column(LINEAR),),
        ),
        Table(
            "3",
            "model 1 and model 2 (ten flows per segment, variable spacing)",
            tuple(name for name in PRESETS if name.startswith("table3-")),
            (Column(LINEAR),),
        ),
        Table(
            "4",
            "difficult negatives (model 2, LSTM, ten segments of ten flows, overlap of five)",
            ("table4-easy", "table4-difficult"),
            (Column(UNSUPERVISED), Column(LINEAR)),
        ),
        Table(
            "5",
            "labels per class (ten flows per segment, variable spacing)",
            ("table5-random", "table5-tcam", "table5-conv3d"),
            tuple(Column(mode, labels) for mode in (LINEAR, FINETUNE) for labels in _LABELS),
        ),
        Table(
            "findings",
            "pairs of rows",
            tuple(
                dict.fromkeys(side.preset for one in FINDINGS for side in (one.higher, one.lower))
            ),
            (Column(UNSUPERVISED), Column(LINEAR), _FEW),
            FINDINGS,
        ),
    )
}
