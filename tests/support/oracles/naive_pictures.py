"""Oracle of flowcpc.stores.inspection.pictures: the published colour coding, pixel by pixel."""

import math

import numpy as np
from numpy.typing import NDArray

ARCS = {"RY": 15, "YG": 6, "GC": 4, "CB": 11, "BM": 13, "MR": 6}


def wheel_entries() -> list[tuple[int, int, int]]:
    entries = []
    for name, number in ARCS.items():
        for step in range(number):
            up = 255 * step // number
            down = 255 - up
            entries.append(
                {
                    "RY": (255, up, 0),
                    "YG": (down, 255, 0),
                    "GC": (0, 255, up),
                    "CB": (0, down, 255),
                    "BM": (up, 0, 255),
                    "MR": (255, 0, down),
                }[name]
            )
    return entries


def flow_to_rgb(flow: NDArray[np.float32], max_magnitude: float) -> NDArray[np.uint8]:
    entries = wheel_entries()
    _, height, width = flow.shape
    picture = np.zeros((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            u, v = float(flow[0, row, column]), float(flow[1, row, column])
            speed = math.hypot(u, v) / max_magnitude
            position = (math.atan2(-v, -u) / math.pi + 1) / 2 * (len(entries) - 1)
            before = int(position)
            after = (before + 1) % len(entries)
            share = position - before
            for channel in range(3):
                colour = (1 - share) * entries[before][channel] / 255 + share * entries[after][
                    channel
                ] / 255
                colour = 1 - speed * (1 - colour) if speed <= 1 else 0.75 * colour
                picture[row, column, channel] = int(255 * colour)
    return picture
