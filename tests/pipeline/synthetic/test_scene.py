"""Tests of flowcpc.pipeline.synthetic.scene: only the motion of a clip shows its class."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowcpc.pipeline.synthetic.motions import PROGRAMMES, Travel
from flowcpc.pipeline.synthetic.scene import Scene, draw_frame, draw_scene, frame_scale

FRAMES, HEIGHT, WIDTH = 13, 96, 128
names = pytest.mark.parametrize("name", sorted(PROGRAMMES))


def scene_of(group: int, clip: int = 1, seed: int = 0, frames: int = FRAMES) -> Scene:
    return draw_scene(seed, group, clip, frames, HEIGHT, WIDTH)


def gray(scene: Scene, name: str, frame: int) -> NDArray[np.uint8]:
    picture = draw_frame(scene, PROGRAMMES[name].travel(len(scene.camera), scene.nuisance), frame)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)


def pose(travel: Travel, frame: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """What an object of this root-mean-square radius has done by `frame`, and its rotation, 2x2."""
    turn, slide = travel.turn[frame] / radius, np.sqrt(2) * travel.shear[frame] / radius
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    growth = np.exp(travel.grow[frame] / radius)
    return growth * rotation @ [[1, slide], [0, 1]], rotation


def true_flow(
    scene: Scene, travel: Travel, frame: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow from `frame` to the next, (2, height, width) px, and which pixels show an object."""
    drift = scene.camera[frame + 1] - scene.camera[frame]
    flow = np.broadcast_to(drift[:, None, None], (2, scene.height, scene.width))
    covered = np.zeros((scene.height, scene.width), bool)
    size = np.array([scene.width, scene.height])[:, None, None]
    pixels = np.mgrid[: scene.height, : scene.width][::-1]
    moves = np.stack([travel.x, travel.y], axis=1) + scene.camera
    for thing, start in zip(scene.things, scene.starts, strict=True):
        # an object stays within half of the torus around its centre
        offset = (pixels - (start + moves[frame])[:, None, None] + size / 2) % size - size / 2
        before, rotation = pose(travel, frame, thing.radius / np.sqrt(2))
        after, _ = pose(travel, frame + 1, thing.radius / np.sqrt(2))
        inside = thing.opacity(*np.tensordot(rotation.T, offset, 1).astype(np.float32)) > 0.5
        change = np.tensordot(after @ np.linalg.inv(before) - np.eye(2), offset, 1)
        flow = np.where(inside, (moves[frame + 1] - moves[frame])[:, None, None] + change, flow)
        covered |= inside
    return flow.astype(np.float32), covered


def object_flow(
    scene: Scene, name: str, frame: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """True flow less the camera's, (2, HEIGHT, WIDTH) px, and where the objects are."""
    flow, covered = true_flow(
        scene, PROGRAMMES[name].travel(len(scene.camera), scene.nuisance), frame
    )
    return flow - (scene.camera[frame + 1] - scene.camera[frame])[:, None, None], covered


def measured_flow(scene: Scene, name: str, frame: int) -> tuple[NDArray[np.float32], ...]:
    """Return TV-L1 flow less its mean, true flow less its mean, and the share of object in a px.

    All are at 48x64, in px of that size.
    """
    small = [
        cv2.resize(gray(scene, name, at), (64, 48), interpolation=cv2.INTER_AREA)
        for at in (frame, frame + 1)
    ]
    measured = cv2.optflow.DualTVL1OpticalFlow_create().calc(*small, None).transpose(2, 0, 1)
    flow, covered = true_flow(
        scene, PROGRAMMES[name].travel(len(scene.camera), scene.nuisance), frame
    )
    true = np.stack([cv2.resize(part, (64, 48), interpolation=cv2.INTER_AREA) for part in flow]) / 2
    inside = cv2.resize(covered.astype(np.float32), (64, 48), interpolation=cv2.INTER_AREA)
    return (
        measured - measured.mean(axis=(1, 2), keepdims=True),
        true - true.mean(axis=(1, 2), keepdims=True),
        inside,
    )


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 99),
    st.integers(1, 99),
    st.sampled_from([(32, 32), (34, 90), (48, 64), (66, 40)]),
)
def test_the_first_frame_is_the_same_in_every_class(
    seed: int, group: int, clip: int, size: tuple[int, int]
) -> None:
    scene = draw_scene(seed, group, clip, 4, *size)
    firsts = [
        draw_frame(scene, programme.travel(4, scene.nuisance), 0)
        for programme in PROGRAMMES.values()
    ]
    assert firsts[0].shape == (*size, 3)
    assert firsts[0].std() > 5
    assert all((first == firsts[0]).all() for first in firsts)


def test_clips_of_a_group_share_their_looks_but_not_their_motion() -> None:
    one, two, other = scene_of(1), scene_of(1, clip=2), scene_of(2)
    assert len(one.things) == len(two.things)
    textures = [
        [scene.background, *(thing.texture for thing in scene.things)] for scene in (one, two)
    ]
    for mine, yours in zip(*textures, strict=True):
        np.testing.assert_array_equal(mine.tile, yours.tile)
        np.testing.assert_array_equal(mine.base, yours.base)
    assert [thing.radius for thing in one.things] == [thing.radius for thing in two.things]
    assert one.nuisance != two.nuisance
    assert (one.starts != two.starts).any()
    assert (one.camera[1:] != two.camera[1:]).any()
    assert (one.background.tile != other.background.tile).any()


@names
def test_objects_cover_a_part_of_every_frame(name: str) -> None:
    for group in range(1, 9):
        scene = scene_of(group)
        covered = [object_flow(scene, name, frame)[1].mean() for frame in (0, 5, 11)]
        assert min(covered) >= 0.2
        assert max(covered) <= 0.5


def test_late_frames_look_the_same_in_every_class_on_average() -> None:
    """Brightness, contrast and sharpness of the last frame: no class is 3 % off the mean of all."""
    looks = np.empty((len(PROGRAMMES), 24, 3))
    for group in range(24):
        scene = scene_of(group + 1, frames=25)
        for row, name in enumerate(sorted(PROGRAMMES)):
            picture = gray(scene, name, 24).astype(np.float64)
            sharpness = (
                np.abs(np.diff(picture, axis=1)).mean() + np.abs(np.diff(picture, axis=0)).mean()
            )
            looks[row, group] = picture.mean(), picture.std(), sharpness
    # each group is its own control, as all classes share its textures
    relative = np.log(looks) - np.log(looks).mean(axis=0)
    assert np.abs(relative.mean(axis=1)).max() < 0.03


@names
def test_pictures_move_as_the_true_flow_says(name: str) -> None:
    scene = scene_of(5)
    flow, covered = true_flow(scene, PROGRAMMES[name].travel(FRAMES, scene.nuisance), 0)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    before, after = (gray(scene, name, frame).astype(np.float32) for frame in (0, 1))
    back = cv2.remap(after, x + flow[0], y + flow[1], cv2.INTER_CUBIC)
    core = cv2.erode(covered.astype(np.uint8), np.ones((13, 13))) > 0
    core[:8], core[-8:], core[:, :8], core[:, -8:] = False, False, False, False
    assert core.sum() > 300
    assert np.abs(back - before)[core].mean() < 0.35 * np.abs(after - before)[core].mean()
    ground = cv2.erode((~covered).astype(np.uint8), np.ones((13, 13))) > 0
    ground[:3], ground[-3:], ground[:, :3], ground[:, -3:] = False, False, False, False
    assert np.abs(back - before)[ground].mean() < 1.5


@names
def test_objects_are_equally_fast_in_every_class(name: str) -> None:
    speeds = []
    for group in range(1, 7):
        scene = scene_of(group, frames=31)
        flows = [object_flow(scene, name, frame) for frame in range(0, 30, 3)]
        squares = np.concatenate([(flow**2).sum(axis=0)[covered] for flow, covered in flows])
        speeds.append(np.sqrt(squares.mean()) / scene.nuisance.speed)
    assert np.mean(speeds) == pytest.approx(1, abs=0.12)


def test_speed_grows_with_the_frame() -> None:
    small, large = (draw_scene(0, 1, 1, 5, *size).nuisance.speed for size in ((48, 64), (96, 128)))
    assert large == pytest.approx(2 * small)
    assert 0.4 <= small <= 2
    assert frame_scale(96, 64) == 1


@names
def test_tvl1_recovers_the_motion(name: str) -> None:
    agreement = []
    for group in (1, 2, 3):
        measured, true, inside = measured_flow(scene_of(group), name, 0)
        core = inside > 0.99
        a, b = measured[:, core].ravel(), true[:, core].ravel()
        agreement.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert np.mean(agreement) > 0.65


@pytest.mark.parametrize(
    ("name", "way", "sign"),
    [
        ("TranslateRight", "right", 1),
        ("TranslateLeft", "right", -1),
        ("TranslateDown", "down", 1),
        ("TranslateUp", "down", -1),
        ("RotateClockwise", "around", 1),
        ("RotateCounterClockwise", "around", -1),
        ("ZoomIn", "outward", 1),
        ("ZoomOut", "outward", -1),
    ],
)
def test_tvl1_sees_the_class_s_sign(name: str, way: str, sign: int) -> None:
    for group in (1, 2, 3):
        scene = scene_of(group)
        (u, v), _, _ = measured_flow(scene, name, 0)
        along = {"right": [], "down": [], "around": [], "outward": []}
        for thing, (centre_x, centre_y) in zip(scene.things, scene.starts / 2, strict=True):
            y, x = np.mgrid[:48, :64] + 0.25  # INTER_AREA: px i covers px 2i and 2i + 1
            x, y = (x - centre_x + 32) % 64 - 32, (y - centre_y + 24) % 48 - 24
            inside = np.hypot(x, y) < 0.8 * thing.radius / 2
            radius = np.maximum(np.hypot(x, y), 1)
            projected = {
                "right": u,
                "down": v,
                "around": (x * v - y * u) / radius,
                "outward": (x * u + y * v) / radius,
            }
            for other, values in projected.items():
                along[other].append(values[inside].mean())
        mean = {
            other: sign * np.mean(values) / (scene.nuisance.speed / 2)
            for other, values in along.items()
        }
        assert mean[way] > 0.25
        if way in ("around", "outward"):
            assert all(
                abs(value) < 0.6 * mean[way] for other, value in mean.items() if other != way
            )


def test_halves_tell_the_order_pair_apart_and_the_whole_does_not() -> None:
    frames = 7
    for group in (1, 2):
        scene = scene_of(group, frames=frames)
        course = {}
        for name in ("RightThenLeft", "LeftThenRight"):
            flows = [measured_flow(scene, name, frame) for frame in range(frames - 1)]
            course[name] = np.array(
                [measured[0][inside > 0.99].mean() for measured, _, inside in flows]
            )
        speed = scene.nuisance.speed / 2
        for steps in course.values():
            assert abs(steps.mean()) < 0.1 * speed
        right, left = course["RightThenLeft"], course["LeftThenRight"]
        assert right[:3].mean() > 0.15 * speed > -0.15 * speed > right[3:].mean()
        assert left[:3].mean() < -0.15 * speed < 0.15 * speed < left[3:].mean()
