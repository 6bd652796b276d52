"""Layers that decide: a portfolio, a support vector machine, a controller, each a
quadratic program, and a lasso; all of them tuned through their solutions.

Usage: `python examples/decisions.py [--picture decisions.png]`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicax as ix


def descend(loss, params, steps, rate):
    """`params` after so many steps of Adam, and the losses on the way."""
    optimiser = optax.adam(rate)

    @jax.jit
    def step(params, state):
        value, slope = jax.value_and_grad(loss)(params)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(params, change), state, value

    state, losses = optimiser.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params, np.array(losses)


# A portfolio. Returns are forecast by a linear model, which is wrong: they are not
# linear in what is known. Least squares makes it wrong by little everywhere; what
# matters is that it is right where money is made.

ASSETS, DAYS = 4, 64


def market(seed):
    """What is known each day, the returns that follow, and their covariance."""
    rng = np.random.default_rng(seed)
    known = rng.uniform(-1, 1, size=(DAYS, 2))
    mixing = np.array([[1.0, 0.2], [-0.6, 0.7], [0.3, -1.0], [0.0, 0.4]])
    signal = np.concatenate([known, known**2 - 1 / 3], 1)
    returns = signal[:, :2] @ mixing.T + 1.5 * signal[:, 2:] @ mixing[::-1].T
    returns = returns + 0.1 * rng.normal(size=returns.shape)
    root = rng.normal(size=(ASSETS, ASSETS))
    return jnp.asarray(known), jnp.asarray(returns), jnp.asarray(root @ root.T / 4)


def shares(forecast, covariance):
    """The shares of a capital: returns against risk, nothing borrowed."""
    return ix.quadratic_program(
        covariance + 0.1 * jnp.eye(ASSETS),
        -forecast,
        A=jnp.ones((1, ASSETS)),
        b=jnp.ones(1),
        bounds=(0.0, None),
    ).value


def portfolio_loss(model, known, returns, covariance):
    """What is lost against the shares of somebody who knew the returns."""

    def value(z, r):
        return z @ covariance @ z / 2 - r @ z

    def day(x, r):
        forecast = model["weight"] @ x + model["bias"]
        best = shares(r, covariance)
        return value(shares(forecast, covariance), r) - value(best, r)

    return jnp.mean(jax.vmap(day)(known, returns))


def portfolio(steps=150):
    """The model of least squares, the one that is trained through the decision, and
    the losses of both on days that were not seen."""
    known, returns, covariance = market(0)
    columns = jnp.concatenate([known, jnp.ones((DAYS, 1))], 1)
    fitted = jnp.linalg.lstsq(columns, returns)[0]
    model = {"weight": fitted[:2].T, "bias": fitted[2]}

    def loss(model):
        return portfolio_loss(model, known, returns, covariance)

    trained, losses = descend(loss, model, steps, 0.05)
    unseen = *market(1)[:2], covariance
    return losses, *(float(portfolio_loss(m, *unseen)) for m in (model, trained))


# A support vector machine: its dual is a program, its offset a multiplier. The width
# of its kernel and the price of errors are tuned on data that it has not seen.

POINTS = 40


def rings(seed):
    """Points in and around a ring, with noise, and which of the two."""
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(POINTS) % 2, 1.0, -1.0)
    radius = np.where(label > 0, 0.5, 1.1) + 0.25 * rng.normal(size=POINTS)
    angle = 2 * np.pi * rng.uniform(size=POINTS)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return jnp.asarray(points), jnp.asarray(label)


def machine(params, points, labels):
    """The decision function (Cortes & Vapnik, *Support-vector networks*, 1995)."""

    def kernel(x, y):
        squares = jnp.sum((x[:, None] - y[None]) ** 2, -1)
        return jnp.exp(-squares * jnp.exp(-2 * params["log_width"]))

    gram = kernel(points, points) * labels[None] * labels[:, None]
    found = ix.quadratic_program(
        gram + 1e-6 * jnp.eye(POINTS),
        -jnp.ones(POINTS),
        A=labels[None],
        b=jnp.zeros(1),
        bounds=(0.0, jnp.exp(params["log_price"])),
    )
    weights, offset = found.value * labels, found.dual.equality[0]
    return lambda x: kernel(x, points) @ weights + offset


def machine_loss(params):
    """Of points that the machine was not made of."""
    decide = machine(params, *rings(0))
    points, labels = rings(1)
    return jnp.mean(jnp.logaddexp(0.0, -3 * labels * decide(points)))


def tuned_machine(steps=40):
    """The parameters and the losses."""
    start = {"log_width": jnp.asarray(0.5), "log_price": jnp.asarray(-1.0)}
    return descend(machine_loss, start, steps, 0.1)


# Model-predictive control: at each moment a program plans ahead, and the first of what
# it plans is done. Its model takes the cart for lighter than it is; weights for which
# the *true* cart does well are found through all of the programs.

AHEAD, MOMENTS, PERIOD = 8, 15, 0.5


def cart(mass):
    """Position and velocity a moment later, for a force."""
    step = jnp.array([[1.0, PERIOD], [0.0, 1.0]])
    push = jnp.array([PERIOD**2 / 2, PERIOD]) / mass
    return lambda x, force: step @ x + push * force


def plan(weights, x):
    """The forces ahead: the model is linear, so costs are quadratic in them."""
    model = cart(1.0)

    def costs(forces):
        def moment(x, force):
            x = model(x, force)
            return x, jnp.append(jnp.exp(weights[:2]) * x, jnp.exp(weights[2]) * force)

        return jax.lax.scan(moment, x, forces)[1].ravel()

    rest = jnp.zeros(AHEAD)
    jacobian, errors = jax.jacobian(costs)(rest), costs(rest)
    return ix.quadratic_program(
        jacobian.T @ jacobian, jacobian.T @ errors, bounds=(-1.0, 1.0)
    ).value


def drive(weights):
    """Where the true cart goes, and by what force."""

    def moment(x, _):
        force = plan(weights, x)[0]
        after = cart(2.5)(x, force)
        return after, (after, force)

    start = jnp.array([2.0, 0.0])
    return jax.lax.scan(moment, start, None, length=MOMENTS)[1]


def control_loss(weights):
    """What the way costs: distance, and force."""
    states, forces = drive(weights)
    return PERIOD * jnp.sum(states[:, 0] ** 2 + 0.1 * forces**2)


def controller(steps=60):
    """The weights (logarithms of position, velocity, force), and the losses."""
    return descend(control_loss, jnp.log(jnp.array([1.0, 0.1, 0.3])), steps, 0.1)


# A lasso, and how strong it is to be: the derivative is that on its support.

FEATURES = 20


def regression(seed):
    """Data of which three features matter."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, FEATURES))
    w = np.zeros(FEATURES)
    w[:3] = 2.0, -1.5, 1.0
    return jnp.asarray(X), jnp.asarray(X @ w + rng.normal(size=30))


LASSO = ix.Composite(
    lambda w, data: jnp.sum((data[0] @ w - data[1]) ** 2) / 2,
    lambda w, data, t: ix.prox.lasso(w, data[2], t),
)


def lasso(log_strength):
    """The weights."""
    data = *regression(0), jnp.exp(log_strength)
    return ix.solve(LASSO, jnp.zeros(FEATURES), data).value


def lasso_loss(log_strength):
    """Of data that were not seen."""
    X, t = regression(1)
    return jnp.mean((X @ lasso(log_strength) - t) ** 2)


def tuned_lasso(steps=40):
    """The strength, and the losses."""
    return descend(lasso_loss, jnp.asarray(0.0), steps, 0.15)


def draw(losses, path):
    """How each of them learns; the cart before and after."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 5, figsize=(16, 3.2), layout="constrained")
    for axis, (name, values) in zip(axes, losses.items(), strict=False):
        axis.plot(values)
        axis.set(title=name, xlabel="step", ylabel="loss")
    moments = PERIOD * np.arange(1, MOMENTS + 1)
    for name, weights in (
        ("before", jnp.log(jnp.array([1.0, 0.1, 0.3]))),
        ("after", controller()[0]),
    ):
        axes[4].plot(moments, drive(weights)[0][:, 0], ".-", label=name)
    axes[4].axhline(0, color="black", linewidth=0.5)
    axes[4].set(title="the cart", xlabel="time", ylabel="position")
    axes[4].legend()
    figure.savefig(path, dpi=120)


def main():
    """Train them all, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--picture")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    losses = {}
    losses["portfolio"], before, after = portfolio()
    print(f"portfolio   lost on unseen days: {before:.4f}, {after:.4f} after training")
    _, losses["support vector machine"] = tuned_machine()
    _, losses["controller"] = controller()
    _, losses["lasso"] = tuned_lasso()
    names = "support vector machine", "controller", "lasso"
    for name, short in zip(names, ("machine", "controller", "lasso"), strict=True):
        first, last = losses[name][0], losses[name][-1]
        print(f"{short:<11} loss {first:.4f}, {last:.4f} after training")
    if given.picture:
        draw(losses, given.picture)


if __name__ == "__main__":
    main()
