"""The picture of the tuning: validation curves, tangents, the path of the penalties."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by every kind of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def draw(curves: Any, tuning: Any, features: tuple[str, ...]) -> Figure:
    """One validation curve for each model, and the descent of the second."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    mosaic = [["ridge", "logistic", "path"], ["ridge", "logistic", "loss"]]
    axes = figure.subplot_mosaic(
        mosaic, height_ratios=(2.2, 1), width_ratios=(1, 1, 1.15)
    )
    _draw_curve(axes["ridge"], curves["ridge"])
    axes["ridge"].set(title="Ridge regression", ylabel="validation loss (mean square)")
    _draw_curve(axes["logistic"], curves["logistic"])
    axes["logistic"].set(
        title="Logistic regression", ylabel="validation loss (log-likelihood)"
    )
    level = tuning.loss[-1]
    axes["logistic"].axhline(level, color=ORANGE, linestyle="--", linewidth=1.5)
    above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right"}
    text = "13 penalties"
    axes["logistic"].annotate(text, (5.8, level), color=ORANGE, **above)
    _draw_path(axes["path"], tuning, features)
    axes["loss"].plot(tuning.loss, color=ORANGE)
    axes["loss"].set(
        xlabel="step",
        xticks=axes["path"].get_xticks(),
        ylabel="validation loss",
        xlim=axes["path"].get_xlim(),
    )
    for each in axes.values():
        each.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_curve(axes: Axes, curve: Any) -> None:
    a, loss, slope = map(np.asarray, (curve.log_penalty, curve.loss, curve.slope))
    axes.plot(a, loss, "o-", color=GREY, markersize=3, linewidth=1, label="loss")
    reach = np.array([-0.8, 0.8])
    for k in range(1, len(a), 3):
        label = "tangents, by the implicit gradient" if k == 1 else None
        tangent = loss[k] + slope[k] * reach
        axes.plot(a[k] + reach, tangent, color=BLUE, linewidth=1.8, label=label)
    axes.legend(frameon=False, loc="upper left")
    axes.set(xlabel="logarithm of the penalty, the same for all")


def _draw_path(axes: Axes, tuning: Any, features: tuple[str, ...]) -> None:
    path = np.asarray(tuning.log_penalty)
    steps = len(path) - 1
    # Names at the right end, in order, kept apart.
    ends = path[-1]
    order = np.argsort(ends)
    gap = 0.055 * (path.max() - path.min())
    places = ends[order].copy()
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    places -= np.mean(places - ends[order])
    for place, k in zip(places, order, strict=True):
        color = BLUE if ends[k] < path[0, k] else GREY
        axes.plot(path[:, k], color=color, linewidth=1.2)
        axes.plot([steps, steps + 2], [ends[k], place], color=color, linewidth=0.6)
        axes.text(steps + 2.5, place, features[k], color=color, va="center", fontsize=8)
    axes.set(
        title="One penalty for each: what falls, in blue",
        ylabel="logarithm of the penalty",
        xlim=(-1, steps + 15),
    )
    axes.set_xticks(np.arange(0, steps + 1, 10))
