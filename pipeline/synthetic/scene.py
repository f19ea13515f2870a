"""A synthetic scene: textured objects over a textured background, at any frame.

The look of a scene depends on (seed, group); where its objects start and how fast they move depends
on (seed, group, clip). The class enters only through the `Travel` of its motion programme. No
single frame gives the class away:

- objects live on a torus of the frame's size, so a translating object never leaves the frame and is
  equally likely everywhere at all times;
- zoom is endless: octaves of one noise fade in and out (as in a Shepard tone), so the texture
  inside an outline of fixed size never gets coarse;
- shear slides the texture back and forth inside an outline of fixed shape, and textures are
  stretched at random in all classes.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.synthetic.motions import MotionNuisance, Travel

Array = NDArray[np.float64]
Image = NDArray[np.float32]

REFERENCE_SIZE = (48, 64)  # speeds and wavelengths below are px at this size
_LARGEST_RADIUS = 0.34  # of the short side; an object with its bulges stays within half of it
_TILE = 256
_TILE_WAVELENGTH = 16.0  # px of the tile: linear interpolation is then accurate to 2 %
_OCTAVE_SHIFTS = 8
_LUMINANCE = np.array([0.114, 0.587, 0.299])  # BGR


def frame_scale(height: int, width: int) -> float:
    """Return how many px of a `height` x `width` frame are one px at REFERENCE_SIZE."""
    return min(height / REFERENCE_SIZE[0], width / REFERENCE_SIZE[1])


@dataclass(frozen=True)
class Texture:
    """Endless band-limited noise in colour that looks alike at every magnification."""

    tile: Image  # periodic noise of unit variance, float32 (256, 256)
    stretch: Array  # (2, 2): px of the object to px of the tile
    shifts: Array  # (8, 2): they keep octaves from repeating each other
    base: Array  # (3,): mean BGR levels, 0..255
    tint: Array  # (3,): their standard deviation

    def draw(self, x: Image, y: Image, magnification: float) -> Image:
        """Return BGR levels, float32 (h, w, 3), at points (x, y) px; `magnification` in octaves."""
        along, across = _apply(self.stretch, x, y)
        total = np.zeros(x.shape, np.float32)
        first = int(np.floor(magnification)) - 1
        for octave in range(first, first + 4):
            # cos^2 windows an octave apart: their squares sum to 3/2, so contrast is constant.
            weight = np.float32(np.cos(np.pi / 4 * (magnification - octave)) ** 2 / np.sqrt(1.5))
            if weight < 1e-6:
                continue
            shift_along, shift_across = self.shifts[octave % _OCTAVE_SHIFTS].astype(np.float32)
            factor = np.float32(2.0 ** (octave - magnification))
            at = factor * along + shift_along, factor * across + shift_across
            wrap = cv2.BORDER_WRAP
            total += weight * cv2.remap(self.tile, *at, cv2.INTER_LINEAR, borderMode=wrap)
        np.clip(total, -2.0, 2.0, out=total)
        return self.base.astype(np.float32) + self.tint.astype(np.float32) * total[..., None]


@dataclass(frozen=True)
class Thing:
    """One object, a texture in r(a) = radius (1 + sum of bulge cos(k a + phase)), k = 2, 3, 4."""

    radius: float
    bulges: Array
    phases: Array
    texture: Texture

    def opacity(self, x: Image, y: Image) -> Image:
        """Return how much of a px at (x, y) from the centre the object covers, float32 0..1."""
        angle = np.arctan2(y, x)
        outline = np.ones_like(angle)
        for order, bulge, phase in zip((2, 3, 4), self.bulges, self.phases, strict=True):
            outline += np.float32(bulge) * np.cos(np.float32(order) * angle + np.float32(phase))
        inside = np.float32(self.radius) * outline - np.hypot(x, y) + np.float32(0.5)
        return np.clip(inside, 0.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """One clip before its class is known: draw a frame of any programme with `draw_frame`."""

    height: int
    width: int
    background: Texture
    things: list[Thing]
    starts: Array  # (objects, 2): centres (x, y) at frame 0, px
    nuisance: MotionNuisance
    camera: Array  # (frames, 2): drift (x, y) of the picture since frame 0, px


def draw_scene(seed: int, group: int, clip: int, frames: int, height: int, width: int) -> Scene:
    """Return the scene of a clip: its look from (seed, group), the rest from the clip too."""
    look = _draw_look(np.random.default_rng([seed, 1, group]), height, width)
    rng = np.random.default_rng([seed, 2, group, clip])
    scale = frame_scale(height, width)
    speed = _log_uniform(rng, 0.4, 1.6) * scale
    tilt = rng.uniform(-np.deg2rad(15), np.deg2rad(15))
    period, sign = _log_uniform(rng, 9.0, 15.0), rng.choice([-1.0, 1.0])
    nuisance = MotionNuisance(speed, tilt, period, sign)
    starts = _spread(rng, len(look[1]), height, width)
    return Scene(height, width, *look, starts, nuisance, _drift(rng, frames) * scale)


def draw_frame(scene: Scene, travel: Travel, frame: int) -> NDArray[np.uint8]:
    """Return one frame of a scene, uint8 (height, width, 3), BGR."""
    y, x = np.mgrid[: scene.height, : scene.width].astype(np.float32)
    camera_x, camera_y = scene.camera[frame].astype(np.float32)
    picture = scene.background.draw(x - camera_x, y - camera_y, 0.0)
    for thing, start in zip(scene.things, scene.starts, strict=True):
        centre = start + (travel.x[frame], travel.y[frame]) + scene.camera[frame]
        turn, grow, shear = travel.turn[frame], travel.grow[frame], travel.shear[frame]
        _draw_thing(picture, thing, centre, (turn, grow, shear))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _draw_thing(
    picture: Image, thing: Thing, centre: Array, travel: tuple[float, float, float]
) -> None:
    """Draw an object over a picture, a torus; `centre` (x, y) in px, `travel` turn, grow, shear."""
    reach = int(np.ceil(thing.radius * (1.0 + float(np.abs(thing.bulges).sum())))) + 1
    span = np.arange(-reach, reach + 2)
    columns, rows = np.floor(centre).astype(np.int64)[:, None] + span
    x, y = np.meshgrid(columns - centre[0], rows - centre[1])
    x, y = x.astype(np.float32), y.astype(np.float32)
    rms_radius = thing.radius / np.sqrt(2.0)  # of a disc
    angle, growth = travel[0] / rms_radius, travel[1] / rms_radius
    # A shear moves points by their y alone: its root mean square is the radius' over sqrt(2).
    slide = travel[2] * np.sqrt(2.0) / rms_radius
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sheared = rotation @ np.array([[1.0, slide], [0.0, 1.0]])
    opacity = thing.opacity(*_apply(np.linalg.inv(rotation), x, y))[..., None]
    skin = _apply(np.linalg.inv(sheared), x, y)
    colour = thing.texture.draw(*skin, growth / np.log(2.0))
    place = np.ix_(rows % picture.shape[0], columns % picture.shape[1])
    picture[place] += opacity * (colour - picture[place])


def _apply(matrix: Array, x: Image, y: Image) -> tuple[Image, Image]:
    (a, b), (c, d) = matrix.astype(np.float32)
    return a * x + b * y, c * x + d * y


def _draw_look(rng: np.random.Generator, height: int, width: int) -> tuple[Texture, list[Thing]]:
    """Return the background and the objects, which cover 30 to 46 % of a frame."""
    scale = frame_scale(height, width)
    largest = np.pi * (_LARGEST_RADIUS * min(height, width)) ** 2
    area = rng.uniform(0.3, 0.46) * height * width
    number = max(int(rng.integers(2, 3, endpoint=True)), int(np.ceil(area / largest)))
    background = _draw_texture(rng, _log_uniform(rng, 8.0, 16.0) * scale, (15.0, 30.0))
    shares = rng.uniform(0.8, 1.2, number)
    things = []
    for share in shares / shares.sum():
        bulges = rng.uniform(-1.0, 1.0, 3) * (0.15, 0.08, 0.05)
        mean_square = 1.0 + float((bulges**2).sum()) / 2  # the outline's area over pi * radius^2
        radius = float(np.sqrt(min(area * share, largest) / np.pi / mean_square))
        texture = _draw_texture(rng, _log_uniform(rng, 7.0, 12.0) * scale, (30.0, 45.0))
        things.append(Thing(radius, bulges, rng.uniform(0, 2 * np.pi, 3), texture))
    return background, things


def _draw_texture(
    rng: np.random.Generator, wavelength: float, contrast: tuple[float, float]
) -> Texture:
    """Return a texture of a mean wavelength in px and a range of contrast in gray levels."""
    direction, aspect = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    cos, sin = np.cos(direction), np.sin(direction)
    scales = np.diag([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    stretch = scales @ np.array([[cos, sin], [-sin, cos]]) * (_TILE_WAVELENGTH / wavelength)
    tint = rng.uniform(0.4, 1.0, 3)
    base = rng.uniform(-35.0, 35.0, 3)
    return Texture(
        tile=_draw_tile(rng),
        stretch=stretch,
        shifts=rng.uniform(0, _TILE, (_OCTAVE_SHIFTS, 2)),
        base=base - base @ _LUMINANCE + rng.uniform(95.0, 160.0),
        tint=tint / (tint @ _LUMINANCE) * rng.uniform(*contrast),
    )


def _draw_tile(rng: np.random.Generator) -> Image:
    """Return periodic noise of one octave about the tile's wavelength, of unit variance."""
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)) * _TILE_WAVELENGTH
    octaves = np.log2(np.maximum(frequency, 1e-6))
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    noise = np.fft.irfft2(spectrum * np.exp(-0.5 * (octaves / 0.35) ** 2), s=(_TILE, _TILE))
    return (noise / noise.std()).astype(np.float32)


def _spread(rng: np.random.Generator, number: int, height: int, width: int) -> Array:
    """Return centres (number, 2), each the candidate that is farthest from the earlier ones."""
    size = np.array([width, height], np.float64)
    centres = rng.uniform(0, size, (1, 2))
    while len(centres) < number:
        candidates = rng.uniform(0, size, (40, 2))
        apart = np.abs(candidates[:, None] - centres[None])
        distance = np.hypot(*np.moveaxis(np.minimum(apart, size - apart), -1, 0)).min(axis=1)
        centres = np.concatenate([centres, candidates[[distance.argmax()]]])
    return centres


def _drift(rng: np.random.Generator, frames: int) -> Array:
    """Return a small smooth random walk from 0, float64 (frames, 2), px at REFERENCE_SIZE."""
    pushes = rng.standard_normal((frames, 2))
    step, walk = np.zeros(2), np.zeros((frames, 2))
    for frame in range(1, frames):
        step = 0.8 * step + 0.6 * 0.12 * pushes[frame] - 0.02 * walk[frame - 1]
        walk[frame] = walk[frame - 1] + step
    return walk


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(*np.log([low, high]))))
