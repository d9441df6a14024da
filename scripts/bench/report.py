"""Format the results of `make bench` as a Markdown table, JSON and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.model import Bench, Curve, Measure
from torchlocks.core.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_bench(found: Bench, folder: Path) -> tuple[tuple[Path, ...], str | None]:
    """Write `bench.json`, `bench.md` and, with matplotlib, `bench.svg` and `bench.png`, and return their paths.

    The second value is the reason if there is no plot. Raises OSError if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "bench.json", folder / "bench.md"]
    write_whole(paths[0], found.model_dump_json(indent=2) + "\n")
    write_whole(paths[1], as_markdown(found))
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        return tuple(paths), "matplotlib is not installed, so there is no plot: pip install 'torchlocks[bench]'"
    return (*paths, *_plot(found, folder)), None


def as_markdown(found: Bench) -> str:
    """Tables of ratios and curves, with the machine that they are of."""
    machine = found.machine
    lines = [
        "# What things cost",
        "",
        f"{machine.system} {machine.architecture}, {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB, "
        f"Python {machine.python}; load before the run {machine.load:g}. Medians of rounds in which subject and "
        "reference took turns; the spread is that between the quartiles. Memory is the peak of all processes together. "
        "Python's bytecode is cached for all that is measured, also where `PYTHONDONTWRITEBYTECODE` is set.",
        *_measures(found.measures),
        *_curves(found.curves),
    ]
    if found.slowest_checks:
        lines += ["", "## The slowest checks of the suite", "", "| check | seconds |", "| --- | ---: |"]
        lines += [f"| `{check.name}` | {check.seconds:.2f} |" for check in found.slowest_checks]
    if found.absent:
        lines += ["", f"Not compared with, as they are not installed here: {', '.join(found.absent)}."]
    lines += ["", *found.left_out] if found.left_out else []
    return "\n".join(lines) + "\n"


def _measures(measures: Sequence[Measure]) -> list[str]:
    lines: list[str] = []
    for group in dict.fromkeys(each.group for each in measures):
        lines += [
            "",
            f"## {group[0].upper()}{group[1:]}",
            "",
            "| what | median | spread | memory | against | median | memory | ratio |",
            "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
        ]
        for each in measures:
            if each.group == group:
                lines.append(
                    f"| {each.name} | {_seconds(median(each.seconds))} | {each.spread:.0%} | {_mib(each.memory_mib)} "
                    f"| {each.reference} | {_seconds(median(each.reference_seconds))} "
                    f"| {_mib(each.reference_memory_mib)} | **{each.ratio:.2f}** |"
                )
    return lines


def _curves(curves: Sequence[Curve]) -> list[str]:
    lines: list[str] = []
    for unit in dict.fromkeys(each.unit for each in curves):
        mine = [each for each in curves if each.unit == unit]
        sizes = mine[0].sizes
        lines += [
            "",
            f"## Growth: {unit}",
            "",
            f"| | {' | '.join(f'{size:g}' for size in sizes)} | exponent |",
            f"| --- | {' | '.join('---:' for _ in sizes)} | ---: |",
        ]
        lines += [
            f"| {each.name} | {' | '.join(_seconds(value) for value in each.seconds)} | **{_exponent(each)}** |"
            for each in mine
        ]
        lines += [
            f"| {each.name}, memory | {' | '.join(map(_mib, each.memory_mib))} "
            f"| {'' if each.memory_exponent is None else f'**{each.memory_exponent:.2f}**'} |"
            for each in mine
            if each.memory_mib
        ]
        lines += ["", "The exponent is that of the larger half of the sizes, three at least; 1 is linear."]
        for note in dict.fromkeys(each.note for each in mine if each.note):
            lines[-1] += f" {note[0].upper()}{note[1:]}."
        for each in mine:
            if each.stages:
                total = sum(each.stages.values())
                parts = sorted(each.stages.items(), key=lambda item: -item[1])
                stages = ", ".join(f"{stage} {_seconds(value)} ({value / total:.0%})" for stage, value in parts)
                lines += ["", f"Where the time of `{each.name}` goes, stage by stage on one core: {stages}."]
    return lines


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _mib(value: float | None) -> str:
    return f"{value:.0f} MiB" if value else ""


def _exponent(curve: Curve) -> str:
    return f"{curve.exponent:.2f}" if curve.exponent is not None else "(one size)"


def _plot(found: Bench, folder: Path) -> list[Path]:
    """Ratios as bars on a log scale, and each kind of growth as curves on log-log axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same file for the same figures: no date, and no random ids.
    mpl.rcParams["svg.hashsalt"] = "torchlocks"
    units = list(dict.fromkeys(each.unit for each in found.curves))
    heights = [1.5 + 0.5 * len(found.measures)] * bool(found.measures) + [4.5] * bool(units)
    figure = Figure(figsize=(12, max(2.0, sum(heights))), layout="constrained")
    if heights:
        grid = figure.add_gridspec(len(heights), max(1, len(units)), height_ratios=heights)
        if found.measures:
            _bars(figure.add_subplot(grid[0, :]), found.measures)
        for column, unit in enumerate(units):
            _growth(figure.add_subplot(grid[-1, column]), [each for each in found.curves if each.unit == unit])
    figure.suptitle(f"torchlocks: what things cost ({found.machine.cores} cores)")
    paths = [folder / "bench.svg", folder / "bench.png"]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=120)
    return paths


def _bars(axes: Axes, measures: Sequence[Measure]) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    labels = [f"{each.group}: {each.name}\nagainst {each.reference}" for each in measures]
    colours = ["#2a7f62" if each.ratio <= 1 else "#b5651d" for each in measures]
    # Bars begin at 1, where both sides cost the same.
    drawn = axes.barh(range(len(measures)), [each.ratio - 1 for each in measures], left=1, color=colours)
    axes.bar_label(drawn, labels=[f"{each.ratio:.2f}" for each in measures], padding=3, fontsize=8)
    axes.set_yticks(range(len(measures)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times what it is compared with (log scale; left of 1 is faster)")
    axes.margins(x=0.12)


def _growth(axes: Axes, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for each in curves:
        (line,) = axes.loglog(each.sizes, each.seconds, marker="o", label=f"{each.name}: exponent {_exponent(each)}")
        # What linear growth to the last point would have been.
        falls = each.seconds[-1] < each.seconds[0]
        linear = [each.seconds[-1] * (size / each.sizes[-1]) ** (-1 if falls else 1) for size in each.sizes]
        axes.loglog(each.sizes, linear, linestyle=":", color=line.get_color(), linewidth=0.8)
    # Nothing is drawn below the fastest run: linear lines would go on to nothing.
    axes.set_ylim(bottom=min(min(each.seconds) for each in curves) / 2)
    axes.set_xticks(curves[0].sizes, [f"{size:g}" for size in curves[0].sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(curves[0].unit)
    axes.set_ylabel("seconds (dotted: linear)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
