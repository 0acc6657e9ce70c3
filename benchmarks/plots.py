"""Pictures of what was measured: bars of contenders side by side, a group for each number of callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Panel:
    """One diagram. ``bars``: by contender, then by group, such as the number of callers."""

    title: str
    unit: str
    bars: Mapping[str, Mapping[str, float]]
    logarithmic: bool = False


def draw(path: Path, panels: Sequence[Panel], groups: str = "callers at once") -> None:
    """Draw the panels side by side, as an SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), layout="constrained", squeeze=False)
    # A contender has one colour in all panels, and one line in the legend.
    contenders = list(dict.fromkeys(name for panel in panels for name in panel.bars))
    shown = {}
    for axis, panel in zip(axes[0], panels, strict=True):
        names = list(next(iter(panel.bars.values())))
        width = 0.8 / len(panel.bars)
        for place, (contender, values) in enumerate(panel.bars.items()):
            at = [group + width * (place - (len(panel.bars) - 1) / 2) for group in range(len(names))]
            colour = f"C{contenders.index(contender) % 10}"
            shown[contender] = axis.bar(at, [values[name] for name in names], width, color=colour)
        axis.set_xticks(range(len(names)), names)
        axis.set(title=panel.title, xlabel=groups, ylabel=panel.unit, yscale="log" if panel.logarithmic else "linear")
    figure.legend(
        [shown[name] for name in contenders], contenders, frameon=False, fontsize="small", ncols=4,
        loc="outside lower center",
    )  # fmt: skip
    figure.savefig(path)
    plt.close(figure)


@dataclass(frozen=True)
class Course:
    """One diagram over time. ``lines``: (seconds, value) by name. ``limit``: a level that is not to be exceeded."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    limit: float | None = None
    logarithmic: bool = False


def draw_over_time(path: Path, courses: Sequence[Course]) -> None:
    """Draw the courses below one another, over the same time, as an SVG. A name has one colour, told once."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = list(dict.fromkeys(name for course in courses for name in course.lines))
    colours = {name: f"C{at}" for at, name in enumerate(names)}
    figure, axes = plt.subplots(
        len(courses), 1, figsize=(8, 2 * len(courses)), layout="constrained", sharex=True, squeeze=False
    )
    for axis, course in zip(axes[:, 0], courses, strict=True):
        for name, line in course.lines.items():
            axis.plot(*zip(*line, strict=True), label=name, color=colours[name], linewidth=1.2)
        if course.limit is not None:
            axis.axhline(course.limit, color="black", linestyle=":", linewidth=1, label="objective")
        axis.set(ylabel=course.unit, yscale="log" if course.logarithmic else "linear")
        if course.logarithmic:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(course.title, fontsize="medium", loc="left")
    most = max(range(len(courses)), key=lambda at: len(courses[at].lines))
    lines, labels = axes[most, 0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, fontsize="small", ncols=5, loc="outside upper center")
    axes[-1, 0].set_xlabel("seconds")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
