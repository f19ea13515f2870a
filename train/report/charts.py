"""What runs wrote down in training, as charts."""

import math
from collections.abc import Sequence

from flowcpc.train.report.figures import Chart, Line, line_chart
from flowcpc.train.report.runs import Run


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of what the runs wrote down; those of which nothing was written are left out."""
    classes = sorted({classes_of(run) for run in runs if run.metrics})
    pick = [(100 / count, f"guessing, 1 of {count}") for count in classes]
    lose = [(math.log(count), f"guessing, log {count}") for count in classes]
    found = [
        line_chart(
            "InfoNCE loss",
            "nats",
            [*_lines(runs, "loss"), *_dots(runs, "held_out_loss")],
            levels=lose,
        ),
        line_chart(
            "Right segment picked",
            "%",
            [*_lines(runs, "accuracy", 100), *_dots(runs, "held_out_accuracy", 100)],
            levels=pick,
        ),
        line_chart("Learning rate", "", _rates(runs), log=True),
        line_chart("Bound on mutual information", "nats", _lines(runs, "information_bound")),
        line_chart("Effective rank of the latents", "directions", _lines(runs, "effective_rank")),
        line_chart("Stride", "flows", _lines(runs, "stride")),
        line_chart("Time of a step", "ms", _lines(runs, "step_time", 1000)),
    ]
    return [chart for chart in found if chart is not None]


def _lines(runs: Sequence[Run], key: str, factor: float = 1) -> list[Line]:
    return [
        Line(
            run.name,
            number,
            [
                (line["step"], factor * line[key])
                for line in run.metrics
                if line.get(key) is not None
            ],
        )
        for number, run in enumerate(runs)
    ]


def _dots(runs: Sequence[Run], key: str, factor: float = 1) -> list[Line]:
    return [
        Line(f"{line.name}, held out", line.colour, line.points, dots=True)
        for line in _lines(runs, key, factor)
    ]


def _rates(runs: Sequence[Run]) -> list[Line]:
    """Return the learning rates as steps: a mean over neighbours would show rates that never were."""
    lines = []
    for line in _lines(runs, "learning_rate"):
        corners: list[tuple[float, float]] = []
        for x, y in line.points:
            if not corners or corners[-1][1] != y:
                corners += [(corners[-1][0], y)] if corners else []
                corners.append((x, y))
            elif len(corners) > 1 and corners[-2][1] == y:
                corners[-1] = (x, y)
            else:
                corners.append((x, y))
        lines.append(Line(line.name, line.colour, corners))
    return lines


def classes_of(run: Run) -> int:
    """Return how many candidates each prediction of a run was compared with; on several processes these may be those of one."""
    line = run.line("classes")
    return int(line["classes"]) if line else run.config.classes if run.config else 1
