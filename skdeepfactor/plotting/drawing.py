"""Figures of known sizes, their legends, and colours and names as these are drawn."""

import itertools
import math

import numpy as np

# Inches, and points of the words; a name as long as the longest shown fits the width.
COLUMN_WIDTH = 2.0
ROW_HEIGHT = 0.17
TITLE_HEIGHT = 0.4
MARGIN = 0.12
FONT_SIZE = 8
MAX_CHARACTERS = 24

# Inches of the smallest plot.
MIN_WIDTH = 4.5

# Styles by which curves of one colour differ.
LINE_STYLES = "-", "--", ":", "-."
MARKERS = "o", "s", "^", "D", "v"


def new_grid(n_axes, n_top):
    """Axes of a new figure, as many as asked for, in rows of five or of a square."""
    import matplotlib.pyplot as plt

    n_columns = min(n_axes, max(5, math.ceil(math.sqrt(n_axes))))
    n_rows = math.ceil(n_axes / n_columns)
    bars = ROW_HEIGHT * n_top
    width = n_columns * (COLUMN_WIDTH + MARGIN) + MARGIN
    height = n_rows * (bars + TITLE_HEIGHT) + MARGIN
    figure = plt.figure(figsize=(width, height))
    # All sizes are known, so that axes are placed without a layout engine, which would
    # take seconds for a hundred of them.
    grid = figure.add_gridspec(
        n_rows,
        n_columns,
        left=MARGIN / width,
        right=1 - MARGIN / width,
        bottom=MARGIN / height,
        top=1 - TITLE_HEIGHT / height,
        wspace=MARGIN / COLUMN_WIDTH,
        hspace=TITLE_HEIGHT / bars,
    )
    axes = np.empty(n_axes, dtype=object)
    for index in range(n_axes):
        axes[index] = figure.add_subplot(grid[divmod(index, n_columns)])
    return axes


def new_row(n_axes):
    """Axes of a new figure, side by side."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(
        1, n_axes, figsize=(5 * n_axes, 3.6), layout="constrained", squeeze=False
    )
    return axes[0]


def new_column(n_axes, height):
    """Axes of a new figure, one above the other, each of this height in inches."""
    import matplotlib.pyplot as plt

    size = (MIN_WIDTH + 0.6, n_axes * (height + 0.22) + MARGIN)
    _, axes = plt.subplots(n_axes, 1, figsize=size, layout="constrained", squeeze=False)
    return axes[:, 0]


def new_axes(width, height):
    """The axes of a new figure, of this size in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def new_canvas(width, height):
    """Axes of this size in inches that fill a new figure, except for a margin."""
    import matplotlib.pyplot as plt

    full = width + 2 * MARGIN, height + 2 * MARGIN
    figure = plt.figure(figsize=full)
    return figure.add_axes(
        (MARGIN / full[0], MARGIN / full[1], width / full[0], height / full[1])
    )


def draw_legend(ax, named, limit=MAX_CHARACTERS, **style):
    """Draw a legend of what is drawn, by name, with the names as they are."""
    # matplotlib leaves out names that start with an underscore, and sets what is
    # between dollars as mathematics.
    legend = ax.legend(list(named.values()), [*map(str, range(len(named)))], **style)
    for text, name in zip(legend.get_texts(), named, strict=True):
        text.set_parse_math(False)
        text.set_text(shortened(name, limit))


def draw_curves(ax, times, shares, names, limit=MAX_CHARACTERS):
    """Draw a curve for each name, with a point for each time, and a legend.

    ``shares`` is (n_times, n_names). The legend stands beside the axes, where it hides
    no curve.
    """
    shape = len(times), len(names)
    if shares.shape != shape:
        raise ValueError(
            f"shares must have shape {shape}, a row for each time and a column for "
            f"each curve, got {shares.shape}."
        )
    lines = {}
    styles = distinct_curves(len(names))
    for name, values, style in zip(names, shares.T, styles, strict=True):
        lines[str(name)], *_ = ax.plot(times, values, markersize=3.5, **style)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    set_times(ax, times)
    draw_legend(
        ax,
        lines,
        limit,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=FONT_SIZE,
    )


def set_times(ax, times):
    """Mark times, dates or numbers, on the x-axis."""
    if times.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=8)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    elif times.dtype.kind in "iu":
        ax.xaxis.get_major_locator().set_params(integer=True)


def shortened(name, limit=MAX_CHARACTERS):
    """The name, or as much of it as fits."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def distinct_colors(n):
    """Colours as different as so many can be."""
    import matplotlib as mpl

    if n <= _n_cycled():
        return [f"C{index}" for index in range(n)]
    return list(mpl.colormaps["turbo"](np.linspace(0.02, 0.98, n)))


def distinct_curves(n):
    """Colours, line styles and markers of curves, no two alike, as keywords."""
    n_colors = _n_cycled()
    styles = itertools.product(MARKERS, LINE_STYLES, range(n_colors))
    return [
        {"color": f"C{color}", "linestyle": line, "marker": marker}
        for marker, line, color in itertools.islice(itertools.cycle(styles), n)
    ]


def _n_cycled():
    """Number of different colours of the style in use, ten at most."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    cycle = mpl.rcParams["axes.prop_cycle"].by_key().get("color", ["C0"])
    colors = [to_hex(color) for color in cycle[:10]]
    n_distinct = 1
    while n_distinct < len(colors) and colors[n_distinct] not in colors[:n_distinct]:
        n_distinct += 1
    return n_distinct
