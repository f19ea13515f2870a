"""Motion programmes: how the objects of a synthetic clip move, and nothing else about it.

A programme turns a clip's nuisance (speed, tilt, period, sign) into a `Travel`. All travels are
zero at frame 0, so the first frame of a clip is the same in every programme. Travels are
root-mean-square displacements over an object, in px: a clip of speed s moves by s px per frame
(root mean square over object and time) in every class, so that speed does not tell classes apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.errors import nearest_name

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MotionNuisance:
    """What varies between clips of one class: depends on (seed, group, clip), not on the class."""

    speed: float  # root mean square over objects, px per frame
    tilt: float = 0.0  # of the axes of translations, radians
    period: float = 12.0  # frames of one oscillation
    sign: float = 1.0  # +1 or -1: the way that an oscillation starts


@dataclass(frozen=True)
class Travel:
    """How far the objects have moved at every frame since frame 0; float64 (frames,), px.

    The last three are displacements at the object's root-mean-square radius, whatever its size.
    """

    x: Array
    y: Array  # downwards
    turn: Array  # clockwise as seen
    grow: Array
    shear: Array  # lower parts to the right


@dataclass(frozen=True)
class Programme:
    """One class of motion: a course in time, of unit speed, along one of the travels."""

    course: Callable[[int, MotionNuisance], Array]
    x: float = 0.0
    y: float = 0.0
    turn: float = 0.0
    grow: float = 0.0
    shear: float = 0.0

    def travel(self, frames: int, nuisance: MotionNuisance) -> Travel:
        """Return where the objects are at each of `frames` frames; all zero at frame 0."""
        course = nuisance.speed * self.course(frames, nuisance)
        cos, sin = np.cos(nuisance.tilt), np.sin(nuisance.tilt)
        x, y = self.x * cos - self.y * sin, self.x * sin + self.y * cos
        return Travel(*(way * course for way in (x, y, self.turn, self.grow, self.shear)))


def _steady(frames: int, nuisance: MotionNuisance) -> Array:
    return np.arange(frames, dtype=np.float64)


def _there_and_back(frames: int, nuisance: MotionNuisance) -> Array:
    frame = np.arange(frames, dtype=np.float64)
    return np.minimum(frame, frames - 1 - frame)


def _oscillation(frames: int, nuisance: MotionNuisance) -> Array:
    pulsation = 2 * np.pi / nuisance.period
    return nuisance.sign * np.sqrt(2) / pulsation * np.sin(pulsation * np.arange(frames))


PROGRAMMES: dict[str, Programme] = {
    "LeftThenRight": Programme(_there_and_back, x=-1),
    "OscillateHorizontal": Programme(_oscillation, x=1),
    "OscillateVertical": Programme(_oscillation, y=1),
    "RightThenLeft": Programme(_there_and_back, x=1),
    "RotateClockwise": Programme(_steady, turn=1),
    "RotateCounterClockwise": Programme(_steady, turn=-1),
    "Shear": Programme(_oscillation, shear=1),
    "TranslateDown": Programme(_steady, y=1),
    "TranslateLeft": Programme(_steady, x=-1),
    "TranslateRight": Programme(_steady, x=1),
    "TranslateUp": Programme(_steady, y=-1),
    "ZoomIn": Programme(_steady, grow=1),
    "ZoomOut": Programme(_steady, grow=-1),
}
"""Every class by name. Only the order in time tells RightThenLeft from LeftThenRight."""


def check_classes(names: Sequence[str]) -> None:
    """Raise ValueError unless `names` are at least two motion programmes, each named once."""
    for name in names:
        if name not in PROGRAMMES:
            nearest = nearest_name(name, PROGRAMMES)
            hint = f"did you mean {nearest}?" if nearest else f"choose from {', '.join(PROGRAMMES)}"
            raise ValueError(f"class {name!r} is no motion programme; {hint}")
        if names.count(name) > 1:
            raise ValueError(f"class {name!r} is named {names.count(name)} times; name it once")
    if len(names) < 2:
        raise ValueError(f"number of classes is {len(names)}, but must be at least 2")
