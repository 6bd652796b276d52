"""The picture: convergence, error bars against true errors, timings."""

import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._certifying import Certified
from ._run import Primer
from ._solving import Solved
from ._timing import Timed, duration

# Okabe & Ito's colours: told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
STYLE: dict[str, dict[str, Any]] = {
    "Picard": {"color": BLUE, "marker": "o"},
    "Anderson": {"color": ORANGE, "marker": "s"},
    "Newton": {"color": GREEN, "marker": "D"},
}
IMPLICIT: dict[str, Any] = {"color": BLUE, "marker": "o"}
UNROLLED: dict[str, Any] = {"color": GREY, "marker": "s"}
BY_HAND: dict[str, Any] = {"color": ORANGE, "marker": "D", "fillstyle": "none"}


def plot(primer: Primer, path: pathlib.Path) -> None:
    """Draw the three panels and write them to `path`."""
    figure = Figure(figsize=(15, 4.8), layout="constrained", dpi=150)
    left, middle, right = figure.subplots(1, 3)
    _convergence(left, primer.solved)
    _error_bars(middle, primer.certified)
    _timings(right, primer.timed)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _convergence(axes: Axes, solved: Solved) -> None:
    for run in solved.runs:
        steps = range(len(run.history))
        axes.semilogy(
            steps, run.history, markersize=3.5, label=run.name, **STYLE[run.name]
        )
        axes.annotate(
            f" {run.name}\n {run.count64} steps",
            (steps[-1], run.history[-1]),
            color=STYLE[run.name]["color"],
            va="center",
            fontweight="bold",
        )
    axes.set_xlim(-1, 1.25 * max(run.count64 for run in solved.runs))
    _title(axes, "Solve", "z = tanh(W z + x), ten unknowns, float64")
    axes.set_xlabel("step")
    axes.set_ylabel("residual  |F(z)|")
    axes.grid(alpha=0.3)


def _error_bars(axes: Axes, certified: Certified) -> None:
    steps = [entry.k for entry in certified.entries]
    axes.semilogy(
        steps,
        [entry.true for entry in certified.entries],
        color=BLUE,
        linewidth=2,
        label="true error",
    )
    axes.semilogy(
        steps,
        [entry.predicted for entry in certified.entries],
        color=ORANGE,
        linestyle="none",
        marker="o",
        fillstyle="none",
        markeredgewidth=1.5,
        label="error bar (predicted)",
    )
    axes.semilogy(
        steps,
        [entry.corrected for entry in certified.entries],
        color=GREEN,
        linewidth=2,
        linestyle="--",
        label="true error, corrected",
    )
    _title(axes, "Certify", "the derivative at an unfinished solution")
    axes.set_xlabel("steps of plain iteration")
    axes.set_ylabel("relative error of the gradient")
    axes.legend(frameon=False, loc="lower left")
    axes.grid(alpha=0.3)


def _timings(axes: Axes, timed: Timed) -> None:
    eager = timed.eager | {"implicit": timed.eager["implicit"] + timed.eager["solve"]}
    modes = {
        "eager": eager,
        "compiled,\nforward": timed.forward,
        "compiled,\nreverse": timed.reverse,
    }
    for row, times in enumerate(modes.values()):
        implicit, unrolled = times["implicit"], times["unrolled"]
        axes.plot([implicit, unrolled], [row, row], color="#BBBBBB", linewidth=3)
        _mark(axes, implicit, row, "right", IMPLICIT)
        _mark(axes, unrolled, row, "left", UNROLLED)
        if "fixed length" in times:
            _mark(axes, times["fixed length"], row + 0.27, "left", BY_HAND)
        axes.annotate(
            f"{unrolled / implicit:.1f}x",
            ((implicit * unrolled) ** 0.5, row),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
            fontsize=13,
        )
    axes.set_xscale("log")
    axes.set_xlim(timed.reverse["implicit"] / 8, timed.eager["unrolled"] * 12)
    axes.set_ylim(len(modes) - 0.4, -0.6)
    axes.set_yticks(range(len(modes)), list(modes))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    _title(axes, "Time", "solve and differentiate, by Newton")
    axes.grid(alpha=0.3, axis="x")
    labels = {
        "implicit: the theorem": IMPLICIT,
        "unrolled: autodiff\nthrough each step": UNROLLED,
        "unrolled by hand,\nsteps known": BY_HAND,
    }
    for label, style in labels.items():
        axes.plot([], [], linestyle="none", markersize=9, label=label, **style)
    axes.legend(frameon=False, loc="lower right", labelspacing=0.9)


def _mark(axes: Axes, seconds: float, row: int | float, side: str, style: Any) -> None:
    """A time as a marker, and in words at its outer side."""
    axes.plot(seconds, row, markersize=9, linestyle="none", **style)
    axes.annotate(
        duration(seconds),
        (seconds, row),
        xytext=(10 if side == "left" else -10, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        color=style["color"],
    )


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontweight="bold", fontsize=14)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=GREY)
