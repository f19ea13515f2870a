"""A synthetic scene: textured objects over a textured background, drawn at any frame of a motion programme, with the true flow beside it.

What a scene looks like comes from (seed, group), where its objects start and how fast they move from (seed, group, clip). The class enters only
through the `Travel` of its programme. No single frame gives the class away either:

- objects live on a torus of the frame's size, so a translating object never leaves and is equally likely everywhere at all times;
- zoom is endless: octaves of one noise fade in and out (as in a Shepard tone), so the texture inside an outline of fixed size never gets coarse;
- shear slides the texture back and forth inside an outline of fixed shape, and textures are stretched at random in all classes.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.synthetic.motions import MotionNuisance, Travel

Array = NDArray[np.float64]
Image = NDArray[np.float32]

REFERENCE_SIZE = (
    48,
    64,
)  # speeds and wavelengths below are px at this size and grow with the frame
SPEED_RANGE = (0.4, 1.6)
TILT_LIMIT = np.deg2rad(15)
PERIOD_RANGE = (9.0, 15.0)
NUMBER_RANGE = (2, 3)
COVERAGE_RANGE = (0.3, 0.46)
WAVELENGTH_RANGE = (7.0, 12.0)
BACKGROUND_WAVELENGTH_RANGE = (8.0, 16.0)
CAMERA_STEP = 0.12
_LARGEST_RADIUS = (
    0.34  # of the short side; with the outline's bulges an object stays within half of it
)
_TILE = 256
_TILE_WAVELENGTH = 16.0  # px of the tile: linear interpolation is then accurate to 2 %
_OCTAVE_SHIFTS = 8
_LUMINANCE = np.array([0.114, 0.587, 0.299])  # BGR


def frame_scale(height: int, width: int) -> float:
    """Return how many px of a `height` x `width` frame are one px at the reference size of 48x64."""
    return min(height / REFERENCE_SIZE[0], width / REFERENCE_SIZE[1])


@dataclass(frozen=True)
class Texture:
    """Endless band-limited noise in colour that looks alike at every magnification.

    `tile` is periodic noise of unit variance, float32 (256, 256); `stretch` (2, 2) takes px of the object to px of the tile; `shifts` (8, 2)
    keep octaves from repeating each other; `base` and `tint` (3,) are BGR levels 0..255 of the mean and of one standard deviation.
    """

    tile: Image
    stretch: Array
    shifts: Array
    base: Array
    tint: Array

    def draw(self, x: Image, y: Image, magnification: float) -> Image:
        """Return the BGR levels at points (x, y) px of the texture, float32 (h, w, 3); `magnification` in octaves picks the octaves shown."""
        (a, b), (c, d) = self.stretch.astype(np.float32)
        along, across = a * x + b * y, c * x + d * y
        total = np.zeros(x.shape, np.float32)
        first = int(np.floor(magnification)) - 1
        for octave in range(first, first + 4):
            # cos^2 windows an octave apart: the sum of their squares is 3/2 whatever the magnification, so contrast never changes
            weight = np.float32(np.cos(np.pi / 4 * (magnification - octave)) ** 2 / np.sqrt(1.5))
            if weight < 1e-6:
                continue
            shift_along, shift_across = self.shifts[octave % _OCTAVE_SHIFTS].astype(np.float32)
            factor = np.float32(2.0 ** (octave - magnification))
            layer = cv2.remap(
                self.tile,
                factor * along + shift_along,
                factor * across + shift_across,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_WRAP,
            )
            total += weight * layer
        np.clip(total, -2.0, 2.0, out=total)
        channels = zip(self.base, self.tint, strict=True)
        return np.asarray(
            cv2.merge([np.float32(base) + np.float32(tint) * total for base, tint in channels]),
            np.float32,
        )


@dataclass(frozen=True)
class Thing:
    """One object: a smooth outline r(a) = radius * (1 + sum of `bulges` * cos(order * a + phase)), orders 2, 3 and 4, filled with a texture."""

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
        """Root-mean-square distance of the object's points from its centre, px (that of a disc of the same area)."""
        return self.radius / np.sqrt(2.0)

    def opacity(self, x: Image, y: Image) -> Image:
        """Return how much of a px at (x, y) from the centre the object covers, float32 0..1."""
        angle = np.arctan2(y, x)
        outline = np.ones_like(angle)
        for order, bulge, phase in zip((2, 3, 4), self.bulges, self.phases, strict=True):
            outline += np.float32(bulge) * np.cos(np.float32(order) * angle + np.float32(phase))
        return np.clip(
            np.float32(self.radius) * outline - np.hypot(x, y) + np.float32(0.5), 0.0, 1.0
        )


@dataclass(frozen=True)
class Appearance:
    """What all clips of a group share: the background and the objects."""

    background: Texture
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Scene:
    """One clip before its class is known: draw a frame of any programme with `draw_frame`.

    `starts` (objects, 2) are centres (x, y) at frame 0; `camera` (frames, 2) is how far the picture has drifted since frame 0; px.
    """

    height: int
    width: int
    appearance: Appearance
    starts: Array
    nuisance: MotionNuisance
    camera: Array


def draw_scene(seed: int, group: int, clip: int, frames: int, height: int, width: int) -> Scene:
    """Return the scene of a clip. Appearance depends on (seed, group), the rest on (seed, group, clip), nothing on a class."""
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
    for index in range(len(scene.starts)):
        thing = scene.appearance.things[index]
        patch = _patch(scene, travel, frame, index)
        opacity = thing.opacity(*patch.outline)[..., None]
        colour = thing.texture.draw(*patch.skin, patch.magnification)
        under = picture[patch.place]
        picture[patch.place] = under + opacity * (colour - under)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def true_flow(scene: Scene, travel: Travel, frame: int) -> tuple[Image, NDArray[np.bool_]]:
    """Return the motion from `frame` to `frame` + 1, float32 (2, height, width) px, and which pixels show an object, bool (height, width)."""
    flow = np.empty((2, scene.height, scene.width), np.float32)
    flow[:] = (scene.camera[frame + 1] - scene.camera[frame])[:, None, None]
    covered = np.zeros((scene.height, scene.width), bool)
    for index, thing in enumerate(scene.appearance.things):
        patch, following = (_patch(scene, travel, at, index) for at in (frame, frame + 1))
        inside = thing.opacity(*patch.outline) > 0.5
        step = following.centre - patch.centre
        local = np.stack(patch.offset)
        turned = np.einsum(
            "ij,jyx->iyx", following.pose @ np.linalg.inv(patch.pose) - np.eye(2), local
        )
        for component in (0, 1):
            under = flow[component][patch.place]
            flow[component][patch.place] = np.where(
                inside, step[component] + turned[component], under
            )
        covered[patch.place] |= inside
    return flow, covered


@dataclass(frozen=True)
class _Patch:
    """The part of the frame that one object may touch: where it is, and coordinates of its px about the object's centre."""

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
    x, y = np.meshgrid(
        (columns - centre[0]).astype(np.float32), (rows - centre[1]).astype(np.float32)
    )
    angle = travel.turn[frame] / thing.rms_radius
    growth = travel.grow[frame] / thing.rms_radius
    # a shear moves points by their y alone, whose root mean square is the radius' over sqrt(2)
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
    number = max(
        int(rng.integers(NUMBER_RANGE[0], NUMBER_RANGE[1] + 1)), int(np.ceil(area / largest))
    )
    background = _draw_texture(
        rng, _log_uniform(rng, BACKGROUND_WAVELENGTH_RANGE) * scale, (15.0, 30.0)
    )
    shares = rng.uniform(0.8, 1.2, number)
    things = []
    for share in shares / shares.sum():
        bulges = rng.uniform(-1.0, 1.0, 3) * (0.15, 0.08, 0.05)
        mean_square = (
            1.0 + float((bulges**2).sum()) / 2
        )  # the outline's area is pi * radius^2 times this
        radius = float(np.sqrt(min(area * share, largest) / np.pi / mean_square))
        texture = _draw_texture(rng, _log_uniform(rng, WAVELENGTH_RANGE) * scale, (30.0, 45.0))
        things.append(Thing(radius, bulges, rng.uniform(0, 2 * np.pi, 3), texture))
    return Appearance(background, tuple(things))


def _draw_texture(
    rng: np.random.Generator, wavelength: float, contrast: tuple[float, float]
) -> Texture:
    """Return a texture of a mean wavelength in px and a contrast range in gray levels, in colours that keep that contrast in gray."""
    direction, aspect = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    axes = np.array(
        [[np.cos(direction), np.sin(direction)], [-np.sin(direction), np.cos(direction)]]
    )
    stretch = (
        np.diag([np.sqrt(aspect), 1 / np.sqrt(aspect)]) @ axes * (_TILE_WAVELENGTH / wavelength)
    )
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
    """Return periodic noise of one octave about the tile's wavelength, zero mean and unit variance, float32 (256, 256)."""
    frequency = (
        np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]) * _TILE_WAVELENGTH
    )
    octaves = np.log2(np.maximum(frequency, 1e-6))
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * np.exp(
        -0.5 * (octaves / 0.35) ** 2
    )
    noise = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return (noise / noise.std()).astype(np.float32)


def _spread(rng: np.random.Generator, number: int, height: int, width: int) -> Array:
    """Return centres (number, 2) that keep apart on the torus: each is the candidate farthest from those before it, all moved at random."""
    size = np.array([width, height], np.float64)
    centres = rng.uniform(0, size, (1, 2))
    while len(centres) < number:
        candidates = rng.uniform(0, size, (40, 2))
        apart = np.abs(candidates[:, None] - centres[None])
        distance = np.hypot(*np.moveaxis(np.minimum(apart, size - apart), -1, 0)).min(axis=1)
        centres = np.concatenate([centres, candidates[[distance.argmax()]]])
    return centres


def _drift(rng: np.random.Generator, frames: int) -> Array:
    """Return a small smooth random walk, float64 (frames, 2), px at the reference size, zero at frame 0."""
    pushes = rng.standard_normal((frames, 2))
    place, step = np.zeros(2), np.zeros(2)
    walk = np.zeros((frames, 2))
    for frame in range(1, frames):
        step = 0.8 * step + 0.6 * CAMERA_STEP * pushes[frame] - 0.02 * place
        place = place + step
        walk[frame] = place
    return walk


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
