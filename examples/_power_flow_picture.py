"""The picture of the power flow example: the curve, its nose, the sensitivities."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by every kind of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def draw(flow: Any, branch: Any, near: Any, nose: Any, by: Any, bus: int) -> Figure:
    """The curve of the voltages, what happens near its nose, and the sensitivities."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 1.1))
    _draw_branch(left, flow, branch, nose, bus)
    _draw_approach(middle, near)
    _draw_sensitivities(right, flow, by)
    for axes in (left, middle):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_branch(axes: Axes, flow: Any, branch: Any, nose: Any, bus: int) -> None:
    # The nose lies between two points.
    top = int(np.argmax(branch.folds))
    scale = np.insert(branch.parameter, top, nose.scale)
    magnitude = np.insert(branch.value["magnitude"], top, nose.y["magnitude"], axis=0)
    axes.plot(scale, magnitude, color=GREY, linewidth=0.5, alpha=0.5)
    worst = magnitude[:, bus]
    axes.plot(scale[: top + 1], worst[: top + 1], color=BLUE, linewidth=2)
    axes.plot(scale[top:], worst[top:], "--", color=BLUE, linewidth=2)
    at = scale[top], worst[top]
    axes.plot(*at, "o", color=ORANGE)
    axes.annotate(
        f"nose: {nose.scale:.4f}  ",
        at,
        ha="right",
        va="center",
        color=ORANGE,
        fontweight="bold",
    )
    number = flow.grid.numbers[flow.grid.load_buses[bus]]
    axes.set(
        title=f"Voltages (bus {number} in blue)",
        xlabel="load, as a multiple of today's",
        ylabel="voltage magnitude, per unit",
    )


def _draw_approach(axes: Axes, near: Any) -> None:
    slope = [abs(c.gradient["scale"]) for c in near.certificates]
    condition = [c.condition_number for c in near.certificates]
    axes.loglog(near.distance, condition, "s-", color=ORANGE, label="condition number")
    axes.loglog(near.distance, slope, "o-", color=BLUE, label="|dV / d load|")
    law = slope[-1] * np.sqrt(near.distance[-1] / near.distance)
    axes.loglog(near.distance, law, ":", color="black", label="distance$^{-1/2}$")
    axes.invert_xaxis()
    axes.set(title="Towards the nose", xlabel="relative distance of the load")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")


def _draw_sensitivities(axes: Axes, flow: Any, by: Any) -> None:
    drop = -np.asarray(by["Q"])[:, flow.grid.load_buses] * 100 / flow.grid.base
    norm = LogNorm(1e-3 * drop.max(), drop.max(), clip=True)
    image = axes.imshow(drop, norm=norm, cmap="magma_r")
    ticks = np.arange(0, len(drop), max(1, len(drop) // 8))
    labels = flow.grid.numbers[flow.grid.load_buses[ticks]]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set(
        title="Drop of voltage by reactive load",
        xlabel="load at bus",
        ylabel="voltage at bus",
    )
    axes.figure.colorbar(image, ax=axes, label="per unit, for 100 Mvar")
