import base64
import io
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from flowcpc.train.report.figures import Line, class_cloud, line_chart, picture_uri, thinned

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """The texts of a figure, in the order of drawing."""
    return [str(one.text) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def points(svg: str, name: str) -> Iterator[tuple[float, float]]:
    """The corners of the line, or the marks, whose hover text is `name`."""
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    (group,) = (g for g in groups if (t := g.find(f"{SVG}title")) is not None and t.text == name)
    for one in group.iter():
        if one.tag == f"{SVG}use":
            yield float(one.attrib["x"]), float(one.attrib["y"])
        elif one.tag == f"{SVG}path" and "id" not in one.attrib:
            numbers = [float(x) for x in re.findall(r"[\d.]+", one.attrib["d"])]
            yield from zip(numbers[::2], numbers[1::2], strict=True)


def test_a_chart_is_to_scale_and_begins_at_zero() -> None:
    line, dots = Line("a", 0, [10, 20, 30], [4, 2, 1]), Line("b", 1, [20], [3], dots=True)
    chart = line_chart("Loss", "nats", [line, dots], levels={2.0: "chance"})
    assert chart is not None
    (x0, y0), (x1, y1), (x2, y2) = points(chart.svg, "a")
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 - y0 == pytest.approx(2 * (y2 - y1))
    ((x, y),) = points(chart.svg, "b")
    assert (x, y) == pytest.approx((x1, (y0 + y1) / 2))
    assert {"0", "chance", "step"} <= set(texts(chart.svg))


def test_what_is_no_number_is_left_out_and_nothing_is_no_chart() -> None:
    chart = line_chart("Loss", "nats", [Line("a", 0, [1, 2, 3], [math.nan, 3.0, 2.0])])
    assert chart is not None
    assert len(list(points(chart.svg, "a"))) == 2
    assert "a: 3 at first, 2 nats at step 3." in chart.svg
    assert line_chart("Loss", "nats", [Line("a", 0, [1], [math.inf])]) is None
    assert line_chart("Rate", "", [Line("a", 0, [1], [0.0])], log=True) is None


def test_rates_are_steps_on_a_logarithmic_axis() -> None:
    chart = line_chart("Rate", "", [Line("a", 0, [1, 2, 3], [0.1, 0.1, 0.001])], log=True)
    assert chart is not None
    assert {"0.1", "0.01", "0.001"} <= set(texts(chart.svg))
    corners = list(points(chart.svg, "a"))
    assert all(x == x2 or y == y2 for (x, y), (x2, y2) in itertools.pairwise(corners))
    constant = line_chart("Rate", "", [Line("a", 0, [1, 2], [0.01, 0.01])], log=True)
    assert constant is not None
    assert "0.01" in texts(constant.svg)


def test_many_points_become_means_and_the_last_step_stays() -> None:
    steps = np.arange(1.0, 4001)
    x, y = thinned(steps, steps % 2, 100)
    assert (len(x), x[-1], y[-1]) == (100, 4000, 0.5)
    assert thinned(steps[:3], steps[:3])[0].tolist() == [1, 2, 3]


def test_names_are_texts_and_no_markup() -> None:
    names = ["<script>a</script>", 'b" onload="c', "$x^2$", "_hidden", "击剑", "#000200"]
    chart = line_chart("Loss", "", [Line(name, n, [1, 2], [1, n]) for n, name in enumerate(names)])
    assert chart is not None
    cloud = class_cloud("map", names, np.arange(6), np.random.default_rng(0).random((6, 2)))
    for svg in (chart.svg, cloud):
        root = ElementTree.fromstring(svg)
        assert {one.tag for one in root.iter()} <= {
            SVG + tag for tag in ("svg", "g", "defs", "path", "use", "text", "title")
        }
        assert not any(key.startswith("on") for one in root.iter() for key in one.attrib)
        assert [one.text for one in root.iter(f"{SVG}title")] == names
    assert texts(cloud) == names


def test_figures_have_the_colours_of_the_page_and_identifiers_of_their_own() -> None:
    lines = [Line("a", 0, [1, 2], [1, 2]), Line("b", 11, [1, 2], [1, 2])]
    charts = [line_chart(title, "", lines) for title in ("Loss", "Rank", "Loss")]
    svgs = [chart.svg for chart in charts if chart is not None]
    assert svgs[0] == svgs[2]
    identifiers = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in svgs[:2]]
    assert identifiers[0]
    assert not identifiers[0] & identifiers[1]
    assert set(re.findall(r'href="#([^"]*)"', svgs[0])) <= identifiers[0]
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]*)", svgs[0]))
    assert colours == {"none", "var(--soft)", "var(--rule)", "var(--s0)", "var(--s1)"}
    assert "url(" not in svgs[0]


def test_a_map_keeps_its_shape() -> None:
    positions = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    svg = class_cloud("map", ["a", "b"], np.array([0, 0, 1]), positions)
    (x0, y0), (x1, y1) = points(svg, "a")
    ((x2, y2),) = points(svg, "b")
    assert y0 == pytest.approx(y1)
    assert x1 == pytest.approx(x2)
    assert x1 - x0 == pytest.approx(3 * (y1 - y2), rel=1e-3)


@pytest.mark.parametrize(("size", "form"), [((4, 6), "PNG"), ((80, 120), "WEBP")])
def test_a_picture_holds_its_own_data(size: tuple[int, int], form: str) -> None:
    rgb = np.full((*size, 3), (200, 30, 60), np.uint8)
    head, _, data = picture_uri(rgb, 60).partition(",")
    assert head == f"data:image/{form.lower()};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, picture.size) == (form, (60, 40))
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - rgb[0, 0]).max() <= 6
