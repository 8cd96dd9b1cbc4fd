import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from pretrain import plots
from pretrain.stats import Interval


@pytest.fixture
def shown(monkeypatch):
    """Collect what is displayed instead of showing it."""
    calls = []
    monkeypatch.setattr(
        plots, "display", lambda figure, metadata: calls.append((figure, metadata))
    )
    return calls


def test_every_kind_of_figure_carries_its_text_and_is_closed(shown):
    x = np.random.default_rng(0).random((3, 8, 8, 1))
    plots.images({"input": x, "output": x * 2 - 0.5}, alt="images", titles="abc")
    plots.maps(x[..., 0], alt="maps", columns=2)
    plots.curves(
        {"a": ([1, 2], [1, 2]), "b": ([1, 2], [1, 2.01])},
        x_label="x",
        y_label="y",
        alt="curves",
        x_log=True,
        y_log=True,
    )
    plots.bars({"a": 1.0, "b": 2.0}, x_label="x", alt="bars")
    lines = {"a": {1: Interval(2, 1, 3), 100: Interval(4, 3, float("inf"))}}
    plots.intervals(lines, x_label="x", y_label="y", alt="intervals", reference=0)
    assert [t.get_text() for t in shown[-1][0].axes[0].get_xticklabels()] == [
        "1",
        "100",
    ]
    plots.panels(
        dict.fromkeys("abc", lines["a"]),
        x_label="x",
        y_label="y",
        alt="panels",
        columns=2,
    )
    names = [axis.get_title() for axis in shown[-1][0].axes]
    assert names == ["a", "b", "c", ""]
    plots.roofline(
        {"layers": {"a": (1, 2e9)}, "others": {"b": (8, 9e9)}},
        peak=1e10,
        bandwidth=2e9,
        alt="roofline",
    )
    intensity, roof = shown[-1][0].axes[0].lines[0].get_data()
    assert roof[0] == pytest.approx(2 * intensity[0]) and roof[-1] == 10
    plots.confusion(np.array([[3, 1], [0, 1]]), ("cat", "dog"), alt="confusion")
    percentages = [text.get_text() for text in shown[-1][0].axes[0].texts]
    assert percentages == ["75", "25", "0", "100"]
    texts = {metadata["image/png"]["alt"] for _, metadata in shown}
    kinds = {"images", "maps", "curves", "bars", "intervals", "panels", "confusion"}
    assert texts == kinds | {"roofline"}
    assert plt.get_fignums() == []


def test_names_of_lines_that_end_together_are_moved_apart(shown):
    lines = {name: ([0, 1], [0, 1 + i / 1000]) for i, name in enumerate("abc")}
    plots.curves(lines, x_label="x", y_label="y", alt="three lines")
    figure = shown[0][0]
    figure.canvas.draw()
    heights = sorted(t.get_window_extent().y0 for t in figure.axes[0].texts)
    assert np.diff(heights).min() > 8


def test_a_figure_without_a_text_is_refused():
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt text"):
        plots.show(figure, alt=" ")


def test_dots_and_points_stand_where_the_numbers_are(shown):
    values = {"a": Interval(2, 1, 3), "b": Interval(5, 4, 6)}
    panels = {"one": values, "two": values}
    plots.dots(panels, x_label="x", alt="dots", controls=["b"])
    axis = shown[-1][0].axes[1]
    assert axis.get_title() == "two" and axis.yaxis_inverted()
    assert [line.get_xdata().tolist() for line in axis.lines[:2]] == [[1, 3], [2]]
    assert axis.lines[0].get_color() == plots.COLOURS[0]
    assert axis.lines[2].get_color() == plots.COLOURS[1]
    costs = {name: (10.0 * i.mean, i) for name, i in values.items()}
    plots.points(costs, levels={"c": 4.5}, x_label="x", y_label="y", alt="points")
    axis = shown[-1][0].axes[0]
    assert axis.get_xscale() == "log"
    drawn = [line.get_xydata().tolist() for line in axis.lines[:2]]
    assert drawn == [[[20, 2]], [[20, 1], [20, 3]]]
    assert list(axis.lines[-1].get_ydata()) == [4.5, 4.5]
    assert {text.get_text() for text in axis.texts} == {"a", "b", "c"}
    # Names of dots that are close to each other stand in one column.
    axis.figure.canvas.draw()
    left = {t.get_text(): Text.get_window_extent(t).x0 for t in axis.texts}
    assert left["a"] == pytest.approx(left["b"], abs=1)
    plots.panels({"a": {1: values["a"]}}, x_label="x", y_label="y", alt="p", columns=1)
    assert [axis.get_title() for axis in shown[-1][0].axes] == ["a"]
    points = np.array([[0.0, 1.0], [2.0, 3.0]])
    maps = dict.fromkeys("pqr", points)
    plots.scatter(maps, np.array([0, 1]), ("cat", "dog"), "points", columns=2)
    figure = shown[-1][0]
    assert [axis.get_title() for axis in figure.axes] == ["p", "q", "r", ""]
    (drawn,) = figure.axes[1].collections
    np.testing.assert_array_equal(drawn.get_offsets(), points)
    drawn.update_scalarmappable()
    key = figure.legends[0]
    assert [text.get_text() for text in key.get_texts()] == ["cat", "dog"]
    colours = [line.get_color() for line in key.get_lines()]
    np.testing.assert_allclose(colours, drawn.get_facecolors())
