"""Penalties chosen by the gradient of the validation loss: ridge and logistic models.

Usage: `python examples/hyperparameters.py [heart_scale] [--picture tuned.png]`. Without
a file, LIBSVM's heart_scale beside the repository (made-up patients where it is not).
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _heart import FEATURES, Split, split
from _hyperparameters_picture import draw

import implicax as ix

jax.config.update("jax_enable_x64", True)

N = len(FEATURES)
NOUGHT = {"bias": 0.0, "weights": np.zeros(N)}


def score(model, patients):
    """Positive for the sick."""
    return patients.X @ model["weights"] + model["bias"]


def ridge_errors(model, args):
    """Their squares sum to those of the data and `sum(exp(log_penalty) weights^2)`."""
    log_penalty, patients = args
    return {
        "data": score(model, patients) - patients.labels,
        "penalty": jnp.exp(log_penalty / 2) * model["weights"],
    }


def logistic_objective(model, args):
    """The negative log-likelihood, and the same penalty; the bias goes free."""
    log_penalty, patients = args
    penalty = jnp.sum(jnp.exp(log_penalty) * model["weights"] ** 2) / 2
    return len(patients.labels) * log_loss(model, patients) + penalty


def log_loss(model, patients):
    """The mean negative log-likelihood of the labels."""
    return jnp.mean(jnp.logaddexp(0, -patients.labels * score(model, patients)))


def squared_loss(model, patients):
    """The mean squared error."""
    return jnp.mean((score(model, patients) - patients.labels) ** 2)


def ridge(log_penalty, patients):
    """The model that the penalties lead to."""
    args, solver = (log_penalty, patients), ix.LevenbergMarquardt()
    return ix.least_squares(ridge_errors, NOUGHT, args, solver=solver).value


def logistic(log_penalty, patients):
    """The model that the penalties lead to."""
    return ix.minimize(logistic_objective, NOUGHT, (log_penalty, patients)).value


def cross_validation(fit: Callable, loss: Callable, data: Split) -> Callable:
    """The mean validation loss, as a function of the 13 logarithms of penalties."""

    def mean_loss(log_penalty):
        def of_fold(train, validate):
            return loss(fit(log_penalty, train), validate)

        return jnp.mean(jax.vmap(of_fold)(data.train, data.validate))

    return mean_loss


def at_many(mean_loss: Callable) -> Callable:
    """The loss and its gradient, at many points in one compiled call."""
    return jax.jit(jax.vmap(jax.value_and_grad(mean_loss)))


class Curve(NamedTuple):
    """The validation loss along one penalty for all features."""

    log_penalty: Any
    loss: Any
    gradient: Any
    """In the 13 logarithms, in rows."""

    @property
    def slope(self) -> Any:
        """The derivative along the curve, where all 13 are the same."""
        return jnp.sum(self.gradient, axis=1)

    @property
    def best(self) -> Any:
        """Where the loss is least, of these points."""
        return jnp.argmin(self.loss)


def validation_curve(losses: Callable) -> Curve:
    """All folds at all penalties, with derivatives."""
    log_penalty = jnp.linspace(-5.0, 5.0, 2 * N)
    return Curve(log_penalty, *losses(jnp.outer(log_penalty, jnp.ones(N))))


def differences(losses: Callable, log_penalty: Any, h: float = 1e-2) -> Any:
    """The gradient by central differences of fourth order."""

    def difference(h):
        e = h * jnp.eye(N)
        # As many points as on the curve: nothing is compiled anew.
        loss, _ = losses(log_penalty[None] + jnp.concatenate([e, -e]))
        return loss[:N] - loss[N:]

    return (8 * difference(h) - difference(2 * h)) / (12 * h)


class Tuning(NamedTuple):
    """Every step of a descent, and the start."""

    log_penalty: Any
    loss: Any
    """In cross-validation."""


def tune(mean_loss: Callable, start: Any, steps: int = 40) -> Tuning:
    """Adam on the 13 logarithms."""
    optimiser = optax.adam(0.3)

    def step(carry, _):
        log_penalty, memory = carry
        loss, gradient = jax.value_and_grad(mean_loss)(log_penalty)
        updates, memory = optimiser.update(gradient, memory)
        return (log_penalty + updates, memory), (log_penalty, loss)

    carry = start, optimiser.init(start)
    _, path = jax.jit(lambda c: jax.lax.scan(step, c, None, length=steps + 1))(carry)
    return Tuning(*path)


def tested(data: Split, log_penalty: Any) -> tuple[Any, Any]:
    """The loss in patients who were kept apart, and how many are judged rightly."""
    model = logistic(log_penalty, data.known)
    right = jnp.mean(score(model, data.test) * data.test.labels > 0)
    return log_loss(model, data.test), right


def certify(data: Split, log_penalty: Any) -> tuple[ix.Certificate, Any]:
    """The first fold's gradient from a fit that was stopped early, and its true error
    (relative)."""
    train, validate = jax.tree.map(lambda x: x[0], (data.train, data.validate))
    problem = ix.Minimum(lambda model, a: logistic_objective(model, (a, train)))

    def validation(model, log_penalty):
        return log_loss(model, validate)

    @jax.jit
    def certificate(rtol):
        solver = ix.TrustRegion(rtol=rtol)
        model = ix.minimize(problem.fn, NOUGHT, log_penalty, solver=solver).value
        return ix.certify(validation, problem, model, log_penalty)

    rough, exact = certificate(3e-2), certificate(1e-12).gradient
    return rough, relative_distance(rough.gradient, exact)


def relative_distance(came: Any, expected: Any) -> Any:
    """Of two vectors."""
    return jnp.linalg.norm(came - expected) / jnp.linalg.norm(expected)


def main() -> None:
    """Draw validation curves, tune, certify, test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    data = split(options.file)
    folds, tests = len(data.train.labels), len(data.test.labels)
    print(f"{data.name}: {len(data.known.labels)} in {folds} folds, {tests} to test")

    models = {"ridge": (ridge, squared_loss), "logistic": (logistic, log_loss)}
    curves = {}
    print("\n           best penalty   loss     gradient's distance from differences")
    for name, (fit, loss) in models.items():
        mean_loss = cross_validation(fit, loss, data)
        losses = at_many(mean_loss)
        curves[name] = curve = validation_curve(losses)
        best = jnp.full(N, curve.log_penalty[curve.best])
        by_refitting = differences(losses, best)
        distance = relative_distance(curve.gradient[curve.best], by_refitting)
        print(f"{name:8}   {jnp.exp(best[0]):12.2f}   {curve.loss[curve.best]:.4f}"
              f"   {distance:.0e}")  # fmt: skip

    tuning = tune(mean_loss, best)
    print("\nlogistic               cross-validation    test   right")
    for name, k in (("one penalty", 0), ("one for each feature", -1)):
        loss, right = tested(data, tuning.log_penalty[k])
        print(f"{name:20}   {tuning.loss[k]:16.4f}  {loss:.4f}  {right:6.3f}")

    rough, error = certify(data, best)
    print("\nOne fold, stopped early:")
    print(rough)
    print(f"The true relative error: {error:.1e}")

    if options.picture:
        draw(curves, tuning, FEATURES).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
