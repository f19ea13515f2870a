"""A synthetic scene: textured objects over a textured background, at any frame, with its true flow.

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

# Speeds and wavelengths below are px at this size; they grow with the frame.
REFERENCE_SIZE = (48, 64)
SPEED_RANGE = (0.4, 1.6)
TILT_LIMIT = np.deg2rad(15)
PERIOD_RANGE = (9.0, 15.0)
NUMBER_RANGE = (2, 3)
COVERAGE_RANGE = (0.3, 0.46)
WAVELENGTH_RANGE = (7.0, 12.0)
BACKGROUND_WAVELENGTH_RANGE = (8.0, 16.0)
CAMERA_STEP = 0.12
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
    """Endless band-limited noise in colour that looks alike at every magnification.

    `tile` is periodic noise of unit variance, float32 (256, 256). `stretch` (2, 2) maps px of the
    object to px of the tile. `shifts` (8, 2) keep octaves from repeating each other. `base` and
    `tint` (3,) are BGR levels 0..255: the mean and one standard deviation.
    """

    tile: Image
    stretch: Array
    shifts: Array
    base: Array
    tint: Array

    def draw(self, x: Image, y: Image, magnification: float) -> Image:
        """Return the BGR levels at points (x, y) px of the texture, float32 (h, w, 3).

        `magnification`, in octaves, picks the octaves shown.
        """
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
    """One object: a texture inside a smooth outline.

    The outline is r(a) = radius * (1 + sum of bulge * cos(order * a + phase)) for orders 2, 3, 4.
    """

    radius: float
    bulges: Array
    phases: Array
    texture: Texture

    @property
    def reach(self) -> float:
        """Distance in px from the centre that the outline never passes."""
        return self.radius * (1.0 + float(np.abs(self.bulges).sum()))

    @property
    def rms_radius(self) -> float:
        """Root-mean-square distance of a disc's points from its centre, px."""
        return self.radius / np.sqrt(2.0)

    def opacity(self, x: Image, y: Image) -> Image:
        """Return how much of a px at (x, y) from the centre the object covers, float32 0..1."""
        angle = np.arctan2(y, x)
        outline = np.ones_like(angle)
        for order, bulge, phase in zip((2, 3, 4), self.bulges, self.phases, strict=True):
            outline += np.float32(bulge) * np.cos(np.float32(order) * angle + np.float32(phase))
        inside = np.float32(self.radius) * outline - np.hypot(x, y) + np.float32(0.5)
        return np.clip(inside, 0.0, 1.0)


@dataclass(frozen=True)
class Appearance:
    """What all clips of a group share: the background and the objects."""

    background: Texture
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Scene:
    """One clip before its class is known: draw a frame of any programme with `draw_frame`.

    `starts` (objects, 2) are centres (x, y) at frame 0; `camera` (frames, 2) is how far the picture
    has drifted since frame 0; both in px.
    """

    height: int
    width: int
    appearance: Appearance
    starts: Array
    nuisance: MotionNuisance
    camera: Array


def draw_scene(seed: int, group: int, clip: int, frames: int, height: int, width: int) -> Scene:
    """Return the scene of a clip: its look from (seed, group), the rest from the clip too."""
    appearance = _draw_appearance(np.random.default_rng([seed, 1, group]), height, width)
    rng = np.random.default_rng([seed, 2, group, clip])
    scale = frame_scale(height, width)
    nuisance = MotionNuisance(
        speed=_log_uniform(rng, SPEED_RANGE) * scale,
        tilt=rng.uniform(-TILT_LIMIT, TILT_LIMIT),
        period=_log_uniform(rng, PERIOD_RANGE),
        sign=rng.choice([-1.0, 1.0]),
    )
    starts = _spread(rng, len(appearance.things), height, width)
    return Scene(height, width, appearance, starts, nuisance, _drift(rng, frames) * scale)


def draw_frame(scene: Scene, travel: Travel, frame: int) -> NDArray[np.uint8]:
    """Return one frame of a scene, uint8 (height, width, 3), BGR."""
    y, x = np.mgrid[: scene.height, : scene.width].astype(np.float32)
    camera_x, camera_y = scene.camera[frame].astype(np.float32)
    picture = scene.appearance.background.draw(x - camera_x, y - camera_y, 0.0)
    for index, thing in enumerate(scene.appearance.things):
        patch = _patch(scene, travel, frame, index)
        opacity = thing.opacity(*patch.outline)[..., None]
        colour = thing.texture.draw(*patch.skin, patch.magnification)
        under = picture[patch.place]
        picture[patch.place] = under + opacity * (colour - under)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def true_flow(scene: Scene, travel: Travel, frame: int) -> tuple[Image, NDArray[np.bool_]]:
    """Return the flow from `frame` to `frame` + 1 and which pixels show an object.

    float32 (2, height, width) px, and bool (height, width).
    """
    flow = np.empty((2, scene.height, scene.width), np.float32)
    flow[:] = (scene.camera[frame + 1] - scene.camera[frame])[:, None, None]
    covered = np.zeros((scene.height, scene.width), bool)
    for index, thing in enumerate(scene.appearance.things):
        patch, following = (_patch(scene, travel, at, index) for at in (frame, frame + 1))
        inside = thing.opacity(*patch.outline) > 0.5
        change = following.pose @ np.linalg.inv(patch.pose) - np.eye(2)
        turned = np.einsum("ij,jyx->iyx", change, np.stack(patch.offset))
        moved = (following.centre - patch.centre)[:, None, None] + turned
        flow[:, *patch.place] = np.where(inside, moved, flow[:, *patch.place])
        covered[patch.place] |= inside
    return flow, covered


@dataclass(frozen=True)
class _Patch:
    """The part of the frame that one object may touch; coordinates are about its centre."""

    place: tuple[NDArray[np.intp], NDArray[np.intp]]
    centre: Array  # not wrapped
    offset: tuple[Image, Image]
    outline: tuple[Image, Image]
    skin: tuple[Image, Image]
    magnification: float  # octaves
    pose: Array


def _patch(scene: Scene, travel: Travel, frame: int, index: int) -> _Patch:
    thing = scene.appearance.things[index]
    centre = scene.starts[index] + (travel.x[frame], travel.y[frame]) + scene.camera[frame]
    reach = int(np.ceil(thing.reach)) + 1
    whole = np.floor(centre).astype(np.int64)
    span = np.arange(-reach, reach + 2)
    columns, rows = whole[0] + span, whole[1] + span
    x, y = np.meshgrid(columns - centre[0], rows - centre[1])
    x, y = x.astype(np.float32), y.astype(np.float32)
    angle = travel.turn[frame] / thing.rms_radius
    growth = travel.grow[frame] / thing.rms_radius
    # A shear moves points by their y alone: its root mean square is the radius' over sqrt(2).
    slide = travel.shear[frame] * np.sqrt(2.0) / thing.rms_radius
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sheared = rotation @ np.array([[1.0, slide], [0.0, 1.0]])
    return _Patch(
        place=np.ix_(rows % scene.height, columns % scene.width),
        centre=centre,
        offset=(x, y),
        outline=_apply(np.linalg.inv(rotation), x, y),
        skin=_apply(np.linalg.inv(sheared), x, y),
        magnification=growth / np.log(2.0),
        pose=np.exp(growth) * sheared,
    )


def _apply(matrix: Array, x: Image, y: Image) -> tuple[Image, Image]:
    (a, b), (c, d) = matrix.astype(np.float32)
    return a * x + b * y, c * x + d * y


def _draw_appearance(rng: np.random.Generator, height: int, width: int) -> Appearance:
    scale = frame_scale(height, width)
    largest = np.pi * (_LARGEST_RADIUS * min(height, width)) ** 2
    area = rng.uniform(*COVERAGE_RANGE) * height * width
    number = max(int(rng.integers(*NUMBER_RANGE, endpoint=True)), int(np.ceil(area / largest)))
    wavelength = _log_uniform(rng, BACKGROUND_WAVELENGTH_RANGE) * scale
    background = _draw_texture(rng, wavelength, (15.0, 30.0))
    shares = rng.uniform(0.8, 1.2, number)
    things = []
    for share in shares / shares.sum():
        bulges = rng.uniform(-1.0, 1.0, 3) * (0.15, 0.08, 0.05)
        mean_square = 1.0 + float((bulges**2).sum()) / 2  # the outline's area over pi * radius^2
        radius = float(np.sqrt(min(area * share, largest) / np.pi / mean_square))
        texture = _draw_texture(rng, _log_uniform(rng, WAVELENGTH_RANGE) * scale, (30.0, 45.0))
        things.append(Thing(radius, bulges, rng.uniform(0, 2 * np.pi, 3), texture))
    return Appearance(background, tuple(things))


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
    """Return centres (number, 2) that are far apart on the torus.

    Each is the candidate that is farthest from the earlier ones.
    """
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
        step = 0.8 * step + 0.6 * CAMERA_STEP * pushes[frame] - 0.02 * walk[frame - 1]
        walk[frame] = walk[frame - 1] + step
    return walk


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
