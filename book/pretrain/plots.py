"""One function per kind of figure, each with its description for those who cannot see.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
Every function displays its figure; none returns one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from pretrain.stats import Interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "lines.linewidth": 2,
}
plt.rcParams.update(STYLE)


def show(figure: plt.Figure, alt: str) -> None:
    """Display a figure with a text that stands in for it, and close it.

    Raises:
        ValueError: if the text is empty.
    """
    if not alt.strip():
        raise ValueError("Every figure needs an alt text: say what it shows.")
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def images(
    rows: Mapping[str, np.ndarray], alt: str, titles: Sequence[str] = ()
) -> None:
    """Show one labelled row of images for each entry.

    Args:
        rows: label of the row → images, (n, height, width, channels), uint8 or
            floats in [0, 1]; floats outside are clipped.
        titles: one title above each column.
    """
    columns = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(7, 7 / columns * len(rows) + 0.3), squeeze=False
    )
    for i, (label, row) in enumerate(rows.items()):
        for j, axis in enumerate(axes[i]):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
            if j < len(row):
                picture = row[j] if row[j].dtype == np.uint8 else np.clip(row[j], 0, 1)
                axis.imshow(picture.squeeze(), cmap="gray", interpolation="nearest")
        axes[i, 0].set_ylabel(
            label, rotation=0, ha="right", va="center", fontsize=9, labelpad=6
        )
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=8)
    show(figure, alt)


def maps(grids: np.ndarray, alt: str, columns: int = 16) -> None:
    """Show filters or feature maps side by side, each on its own grey or colour scale.

    Args:
        grids: (n, height, width) or (n, height, width, 3), any range.
    """
    low = grids.min(axis=tuple(range(1, grids.ndim)), keepdims=True)
    high = grids.max(axis=tuple(range(1, grids.ndim)), keepdims=True)
    scaled = (grids - low) / np.maximum(high - low, 1e-9)
    lines = -(-len(grids) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(7, 7 / columns * lines), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, scaled, strict=False):
        axis.imshow(picture, cmap="gray", interpolation="nearest")
    show(figure, alt)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    x_log: bool = False,
    y_log: bool = False,
) -> None:
    """Plot lines, each named at its right end; markers show up to 100 points of one.

    Args:
        lines: name → (x values, y values).
    """
    figure, axis = plt.subplots(figsize=(7, 4))
    ends = []
    for name, (x, y) in lines.items():
        (line,) = axis.plot(x, y, marker="o" if len(x) <= 100 else "", markersize=4)
        ends.append((y[-1], x[-1], name, line.get_color()))
    axis.set(xlabel=x_label, ylabel=y_label)
    if all(float(value).is_integer() for x, _ in lines.values() for value in x):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x_log:
        axis.set_xscale("log")
    if y_log:
        axis.set_yscale("log")
    name_ends(axis, ends)
    show(figure, alt)


def intervals(
    lines: Mapping[str, Mapping[int, Interval]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    x_log: bool = True,
    reference: float | None = None,
) -> None:
    """Plot means with their intervals shaded, each line named.

    Args:
        lines: name → x value → interval.
        reference: a value to draw a thin line at, such as 0 for differences.
    """
    figure, axis = plt.subplots(figsize=(7, 4.2))
    ends = []
    for name, line in lines.items():
        x, mean, low, high = columns_of(line)
        (drawn,) = axis.plot(x, mean, "o-", markersize=4)
        colour = drawn.get_color()
        axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        ends.append((mean[-1], x[-1], name, colour))
    if reference is not None:
        axis.axhline(reference, color="black", linewidth=1)
    ticks = sorted({n for line in lines.values() for n in line})
    if x_log:
        axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axis.minorticks_off()
    axis.set(xlabel=x_label, ylabel=y_label)
    name_ends(axis, ends)
    show(figure, alt)


def points(
    dots: Mapping[str, tuple[float, Interval]],
    *,
    levels: Mapping[str, float],
    x_label: str,
    y_label: str,
    alt: str,
) -> None:
    """Plot a named point with its interval for each entry, on a logarithmic x axis.

    Args:
        dots: name → (x value, interval).
        levels: name → a height to draw a thin line at, for what has no x value.
    """
    figure, axis = plt.subplots(figsize=(7, 4.4))
    ends = []
    for name, (x, i) in dots.items():
        (dot,) = axis.plot(x, i.mean, "o")
        axis.plot((x, x), (i.low, i.high), color=dot.get_color())
        ends.append((i.mean, x, name, dot.get_color()))
    axis.set(xscale="log", xlabel=x_label, ylabel=y_label)
    axis.margins(x=0.25)  # room for the names

    def beside(x):
        """Return the last of the dots that follow each other within a factor of 10."""
        for other in sorted(x for x, _ in dots.values()):
            x = other if x <= other < 10 * x else x
        return x

    for name, height in levels.items():
        axis.axhline(height, color="black", linewidth=1)
        axis.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=9,
        )
    name_ends(axis, ends, beside)
    show(figure, alt)


def panels(
    lines: Mapping[str, Mapping[float, Interval]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    columns: int = 4,
) -> None:
    """Plot each line in a small panel of its own, before all others in grey.

    Args:
        lines: name → x value, on a logarithmic axis → interval.
    """
    rows = -(-len(lines) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(7, 1.7 * rows + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis in axes.flat[len(lines) :]:
        axis.axis("off")
    for axis, (name, own) in zip(axes.flat, lines.items(), strict=False):
        for line in lines.values():
            x, mean, low, high = columns_of(line)
            colour, width = (COLOURS[0], 2) if line is own else ("#bbbbbb", 0.7)
            marker = "o" if line is own else ""
            axis.plot(
                x, mean, marker=marker, color=colour, linewidth=width, markersize=3
            )
            if line is own:
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                # A line of one point has no band.
                axis.vlines(x, low, high, color=colour, linewidth=1)
        axis.set_xscale("log")
        axis.set_title(name, fontsize=10)
    figure.supxlabel(x_label, fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    show(figure, alt)


def columns_of(line: Mapping[float, Interval]) -> tuple[Sequence[float], ...]:
    """Return x values in order, with the means, lower and upper ends at each."""
    x = sorted(line)
    return x, *zip(*(astuple(line[n]) for n in x), strict=True)


def name_ends(
    axis: plt.Axes,
    ends: Sequence[tuple[float, float, str, str]],
    beside: Callable[[float], float] | None = None,
) -> None:
    """Write names beside the right ends of lines, moved apart where they would collide.

    Args:
        ends: (y, x, name, colour) of each line.
        beside: x of an end → x that its name shall stand beside, in a column with
            others; thin lines join them. Default: each beside its own end.
    """
    figure = axis.figure
    figure.canvas.draw()
    pixel = 72 / figure.dpi  # in points
    previous: dict[float | None, float] = {}
    join = {"arrowstyle": "-", "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 0}
    for y, x, name, colour in sorted(ends):
        column = beside(x) if beside else x
        _, height = axis.transData.transform((x, y))
        # Names beside their own ends may collide wherever these are.
        key = column if beside else None
        placed = max(height, previous.get(key, -np.inf) + 14 / pixel)
        previous[key] = placed
        shift = {"x": 16 if beside else 8, "y": (placed - height) * pixel}
        axis.annotate(
            name,
            (x, y),
            (column, y),
            textcoords=offset_copy(axis.transData, figure, units="points", **shift),
            arrowprops=join | {"color": colour} if beside else None,
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=3, foreground="white")],  # over lines
        )


def bars(values: Mapping[str, float], *, x_label: str, alt: str) -> None:
    """Plot one horizontal bar per entry, with its value written at the end."""
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(values) + 1))
    names = list(values)[::-1]
    drawn = axis.barh(names, [values[name] for name in names], color=COLOURS[0])
    axis.bar_label(drawn, fmt="%.3g", padding=3, fontsize=9)
    axis.set_xlabel(x_label)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)
    show(figure, alt)


def roofline(
    groups: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    peak: float,
    bandwidth: float,
    alt: str,
) -> None:
    """Plot computing rates below the two roofs of a machine (Williams et al., 2009).

    Args:
        groups: name of a group → name of a point → (operations for each byte moved,
            operations in a second).
        peak: operations in a second at most.
        bandwidth: bytes in a second at most.
    """
    figure, axis = plt.subplots(figsize=(7, 4.2))
    intensities = [x for group in groups.values() for x, _ in group.values()]
    x = np.geomspace(min(intensities) / 2, max(intensities) * 4, 50)
    axis.plot(x, np.minimum(peak, bandwidth * x) / 1e9, color="black", linewidth=1)
    axis.set(xscale="log", yscale="log")
    axis.set(xlabel="operations for each byte moved", ylabel="billion operations / s")
    for i, (label, group) in enumerate(groups.items()):
        x, rates = np.array(list(group.values())).T
        (drawn,) = axis.plot(x, rates / 1e9, "o", label=label)
        for name, intensity, rate in zip(group, x, rates / 1e9, strict=True):
            axis.annotate(
                name,
                (intensity, rate),
                xytext=(0, (-9, 9)[i % 2]),  # names of two groups keep apart
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
                color=drawn.get_color(),
            )
    axis.legend(frameon=False, loc="lower right")
    show(figure, alt)


def confusion(counts: np.ndarray, names: Sequence[str], alt: str) -> None:
    """Show which class is taken for which, in percent of the images of each class.

    Args:
        counts: of images, (true class, answer), as scikit-learn counts them.
        names: of the classes, in the order of the labels.
    """
    matrix = 100 * counts / counts.sum(axis=1, keepdims=True)
    figure, axis = plt.subplots(figsize=(6.2, 5.2))
    axis.imshow(matrix, cmap="cividis", vmin=0)
    axis.grid(False)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="the classifier says", ylabel="the image is")
    for (i, j), share in np.ndenumerate(matrix):
        ink = "black" if share > matrix.max() / 2 else "white"
        axis.text(j, i, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=8)
    show(figure, alt)


def dots(
    panels: Mapping[str, Mapping[str, Interval]],
    *,
    x_label: str,
    alt: str,
    controls: Sequence[str] = (),
) -> None:
    """Plot one dot with its interval for each name, panels side by side on one scale.

    Args:
        panels: title of the panel → name → interval; the same names in all.
        controls: names that get another colour.
    """
    names = list(next(iter(panels.values())))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(7, 0.3 * len(names) + 1),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        for row, name in enumerate(names):
            i, colour = values[name], COLOURS[name in controls]
            axis.plot([i.low, i.high], [row, row], color=colour)
            axis.plot(i.mean, row, "o", color=colour)
        axis.set(xlabel=x_label, title=title)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    show(figure, alt)


def scatter(
    panels: Mapping[str, np.ndarray],
    labels: np.ndarray,
    names: Sequence[str],
    alt: str,
    columns: int = 3,
) -> None:
    """Plot points in the plane, coloured by class, one small panel for each entry.

    Args:
        panels: title → points, (n, 2); axes carry no units and are not drawn.
        labels: class of each point, (n,).
        names: of the classes, at most ten.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(7, 7 / columns * rows + 0.6), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        drawn = axis.scatter(*points.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=6)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10)
    colours = [drawn.cmap(drawn.norm(label)) for label in range(len(names))]
    keys = [plt.Line2D([], [], marker="o", ls="", color=c) for c in colours]
    figure.legend(keys, names, ncols=5, loc="outside lower center", fontsize=9)
    show(figure, alt)
