"""The picture of the fit: its band, which observations matter, and an outlier."""

from typing import Any

import numpy as np
from _rat43 import growth
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def draw(data: Any, fit: Any, robust: Any) -> Figure:
    """The fit and its band; the sensitivities; what an outlier does to both."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplot_mosaic([["fit", "by", "robust"]])
    _draw_fit(axes["fit"], data, fit)
    _draw_sensitivities(axes["by"], data, fit)
    _draw_robust(axes["robust"], data, fit, robust)
    for each in axes.values():
        each.spines[["top", "right"]].set_visible(False)
        each.set(xlabel="growing time", xlim=(0.3, 15.7))
    return figure


def _draw_fit(axes: Axes, data: Any, fit: Any) -> None:
    x, curve, half = fit.line(data)
    axes.fill_between(x, curve - half, curve + half, color=BLUE, alpha=0.2, lw=0)
    axes.plot(x, curve, color=BLUE, label="fit, with its 95 % band")
    deviation = fit.covariance.residual_standard_deviation
    axes.errorbar(
        data.x,
        data.y,
        deviation,
        fmt="o",
        color="black",
        markersize=4,
        linewidth=1,
        label="observed, with the residual deviation",
    )
    axes.set(title="Onions, as they grow", ylabel="dry weight", ylim=(-40, 900))
    axes.legend(frameon=False, loc="upper left")


def _draw_sensitivities(axes: Axes, data: Any, fit: Any) -> None:
    axes.bar(data.x, fit.by_y[0], color=BLUE, alpha=0.6, label="implicit, exact")
    axes.plot(data.x, fit.refits[0], "k+", markersize=9, label="by refitting")
    axes.plot(
        data.x,
        fit.shortcut.gradient,
        "_",
        color=ORANGE,
        markersize=12,
        markeredgewidth=2,
        label="Gauss-Newton shortcut",
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="d end weight / d observation")
    axes.legend(frameon=False, loc="upper left")


def _draw_robust(axes: Axes, data: Any, fit: Any, robust: Any) -> None:
    x, curve, _ = fit.line(data)
    wrong = robust.outlier
    right = np.arange(len(data.x)) != wrong
    axes.plot(data.x[right], data.y[right], "o", color="black", markersize=4)
    axes.plot(data.x[wrong], data.y[wrong], "o", color="black", mfc="none", ms=5)
    axes.plot(data.x[wrong], robust.y[wrong], "o", color=ORANGE)
    axes.plot(x, curve, color=GREY, linewidth=4, alpha=0.5, label="before")
    styles = {"squares": (ORANGE, "-"), "Huber": (GREEN, "--"), "Tukey": (BLUE, "-")}
    for name, (color, style) in styles.items():
        b, by_y = robust.fits[name]
        # Adding zero takes the sign from a zero.
        label = f"{name}: {by_y[0, wrong] + 0.0:.2f}"
        axes.plot(x, growth(b, x), style, color=color, label=label)
    axes.set(title="One number misread", ylim=(-40, 900))
    title = "d end weight / d misread"
    axes.legend(frameon=False, loc="upper left", title=title, alignment="left")
