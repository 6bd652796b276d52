"""OptNet on small Sudoku: a layer that is a quadratic program learns the rules.

Nobody tells it that digits are not to repeat. It sees boards of 4 x 4 cells, six of
them empty, and their solutions, and learns the equations `A z = A z0` of a program in
64 unknowns (Amos & Kolter, *OptNet*, 2017, sec. 4.4).

Usage: `python examples/sudoku.py [--steps 300] [--picture sudoku.png]`.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicax as ix

CELLS, DIGITS = 16, 4
N = CELLS * DIGITS
#: Equations that may be learned, cells left empty, boards a step, boards to test on.
RULES, EMPTY, BATCH, TESTED = 40, 6, 64, 500


def all_boards():
    """The 288 solved ones."""
    rows = list(itertools.permutations(range(DIGITS)))
    boards = np.array(list(itertools.product(rows, repeat=DIGITS)))
    blocks = boards.reshape(-1, 2, 2, 2, 2).swapaxes(2, 3).reshape(boards.shape)
    parts = np.sort(boards, 1), np.sort(blocks, 2)
    right = (parts[0] == np.arange(DIGITS)[None, :, None]).all((1, 2))
    return boards[right & (parts[1] == np.arange(DIGITS)).all((1, 2))]


def puzzles(boards, count, rng):
    """With empty cells, and solved: a number for each digit in each cell."""
    chosen = np.eye(DIGITS)[boards[rng.integers(len(boards), size=count)]]
    solved = chosen.reshape(count, CELLS, DIGITS)
    known = rng.permuted(np.arange(CELLS)[None].repeat(count, 0), axis=1) >= EMPTY
    asked = (solved * known[..., None]).reshape(count, N)
    return jnp.asarray(asked, float), jnp.asarray(solved.reshape(count, N), float)


def layer(rules, puzzle):
    """The point nearest to the puzzle that keeps the rules, as far as these are known.

    (`A z0` on the right: there is always a point that does.)
    """
    A, b = rules["A"], rules["A"] @ jax.nn.softplus(rules["z0"])
    return ix.quadratic_program(
        0.1 * jnp.eye(N), -puzzle, A=A, b=b, bounds=(0.0, None)
    ).value


def loss(rules, asked, solved):
    """The mean squared error of the cells."""
    found = jax.vmap(layer, (None, 0))(rules, asked)
    return DIGITS * jnp.mean((found - solved) ** 2)


@jax.jit
def share_solved(rules, asked, solved):
    """Of boards on which every digit is right."""
    found = jax.vmap(layer, (None, 0))(rules, asked)
    digits = [x.reshape(-1, CELLS, DIGITS).argmax(2) for x in (found, solved)]
    return (digits[0] == digits[1]).all(1).mean()


def train(steps, told=lambda *_: None):
    """What was learned, the losses, and the share of test boards that it solves."""
    rng, boards = np.random.default_rng(0), all_boards()
    A = 0.2 * rng.uniform(size=(RULES, N))
    rules = {"A": jnp.asarray(A, float), "z0": jnp.full(N, -1.25)}
    # A lane that fails is NaN, in value and derivative: that step is not taken.
    optimiser = optax.apply_if_finite(
        optax.adam(optax.cosine_decay_schedule(0.05, steps)), max_consecutive_errors=5
    )

    @jax.jit
    def step(rules, state, asked, solved):
        value, slope = jax.value_and_grad(loss)(rules, asked, solved)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(rules, change), state, value

    state, losses = optimiser.init(rules), []
    for number in range(steps):
        rules, state, value = step(rules, state, *puzzles(boards, BATCH, rng))
        losses.append(float(value))
        told(number, losses[-1])
    test = puzzles(boards, TESTED, np.random.default_rng(1))
    return rules, losses, float(share_solved(rules, *test))


def draw(rules, losses, path):
    """Losses, and a board: what was given in black, what was found in blue."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    axes[0].semilogy(losses)
    axes[0].set(xlabel="step", ylabel="loss")
    (asked,), _ = puzzles(all_boards(), 1, np.random.default_rng(2))
    given, found = (
        np.asarray(x).reshape(CELLS, DIGITS) for x in (asked, layer(rules, asked))
    )
    for cell, (known, digit) in enumerate(zip(given, found.argmax(1), strict=True)):
        row, column = divmod(cell, DIGITS)
        colour = "black" if known.any() else "tab:blue"
        place = column + 0.5, DIGITS - row - 0.5
        axes[1].text(*place, digit + 1, color=colour, size=20, ha="center", va="center")
    for line in range(DIGITS + 1):
        width = 2 if line % 2 == 0 else 0.5
        axes[1].axhline(line, color="black", linewidth=width)
        axes[1].axvline(line, color="black", linewidth=width)
    axes[1].set(aspect="equal", xlim=(0, DIGITS), ylim=(0, DIGITS))
    axes[1].set_axis_off()
    figure.savefig(path, dpi=120)


def main():
    """Train, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--picture")
    given = parser.parse_args()

    def told(number, value):
        if number % 25 == 0:
            print(f"step {number:3d}   loss {value:.3f}", flush=True)

    rules, losses, share = train(given.steps, told)
    print(f"{share:.1%} of {TESTED} boards solved after {given.steps} steps")
    if given.picture:
        draw(rules, losses, given.picture)


if __name__ == "__main__":
    main()
