"""How wrong a gradient is when the Jacobian is ill-conditioned, and who says so.

    python -m benchmarks.conditioning
    python -m benchmarks.conditioning --unknowns 5 --draws 1 --conditions 2 4

`A y = b` with a random `A` of known condition number (singular values spaced evenly in
their logarithms, between random orthogonal matrices); the loss is `c . y`, so the
gradient in `b` is `A^-T c`, which is computed exactly, in whole numbers. Each library's
default adjoint, beside a dense LU of the transposed matrix. Writes
`conditioning.json`, `conditioning.md` and `conditioning.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import statistics
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import _report

LU = "dense LU"
#: A gradient this wrong, from someone who does not say so, is marked.
WRONG = 1e-2
#: Where the plot puts those who give no gradient.
SAYS_NO = 30.0


def draw_system(n, condition, dtype, rng):
    """`A`, `b`, `c`, and `A^-T c` for these very numbers."""
    u, _ = np.linalg.qr(rng.standard_normal((n, n)))
    v, _ = np.linalg.qr(rng.standard_normal((n, n)))
    singular_values = np.logspace(0, -np.log10(condition), n)
    A = ((u * singular_values) @ v.T).astype(dtype)
    b, c = rng.standard_normal((2, n)).astype(dtype)
    return A, b, c, exactly_solved(A.T, c)


def exactly_solved(matrix, rhs):
    """Cramer's rule by Bareiss' elimination (1968), all divisions without remainder.

    Floating-point numbers are whole multiples of a power of two; that one cancels.
    """
    rows = [
        [Fraction(float(x)) for x in [*row, last]]
        for row, last in zip(matrix, rhs, strict=True)
    ]
    unit = max(x.denominator for row in rows for x in row)
    rows = [[int(x * unit) for x in row] for row in rows]
    n, previous = len(rows), 1
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        head = rows[k]
        for i in range(n):
            if i != k:
                factor = rows[i][k]
                rows[i] = [
                    (head[k] * x - factor * y) // previous
                    for x, y in zip(rows[i], head, strict=True)
                ]
        previous = head[k]
    return np.array([float(Fraction(row[n], previous)) for row in rows])


def residual(y, args):
    A, b = args
    return A @ y - b


def programs():
    """`(A, b, c)` to the gradient in `b`, by name."""
    import jaxopt
    import optimistix as optx

    def solve(y0, args):
        return jnp.linalg.solve(*args)

    decorated = ix.custom_root(residual)(solve)
    by_jaxopt = jaxopt.implicit_diff.custom_root(residual)(solve)
    solves = {
        "ix.root": lambda y0, args: ix.root(residual, y0, args).value,
        "ix.custom_root": lambda y0, args: decorated(y0, args).value,
        "jaxopt": by_jaxopt,
        "optimistix": lambda y0, args: (
            optx.root_find(residual, optx.Newton(1e-5, 1e-5), y0, args).value
        ),
    }

    def gradient(solve):
        def loss(b, A, c):
            return c @ solve(jnp.zeros_like(b), (A, b))

        return lambda A, b, c: jax.grad(loss)(b, A, c)

    made = {name: gradient(solve) for name, solve in solves.items()}
    return made | {LU: lambda A, b, c: jnp.linalg.solve(A.T, c)}


def certificate(A, b, c):
    y = jnp.linalg.solve(A, b)
    found = ix.certify(lambda y, b: c @ y, ix.Root(lambda y, b: A @ y - b), y, b)
    return found.relative_gradient_error, found.ok


def attempt(program, A, b, c, exact):
    """The relative error, and whether the program says that something is wrong."""
    try:
        found = np.asarray(program(A, b, c), np.float64)
    except Exception as error:
        print("   raised:", str(error).strip().split("\n")[0])
        return np.nan, True
    wrong = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    return float(wrong), bool(np.isnan(wrong))


def measure(compiled, certify, n, condition, dtype, draws):
    """By program: median error, worst ratio to LU's, how often it says no."""
    rng = np.random.default_rng(0)
    errors = {name: [] for name in compiled}
    said = dict.fromkeys(compiled, 0)
    predicted, ok = [], 0
    for _ in range(draws):
        A, b, c, exact = draw_system(n, condition, dtype, rng)
        for name, program in compiled.items():
            error, says = attempt(program, A, b, c, exact)
            errors[name].append(error)
            said[name] += says
        expected, fine = certify(A, b, c)
        predicted.append(float(expected))
        ok += bool(fine)
    row = {
        name: {
            "error": float(np.nanmedian(found)) if said[name] < draws else None,
            "worst_against_lu": max(
                (e / lu for e, lu in zip(found, errors[LU], strict=True) if e == e),
                default=None,
            ),
            "says_no": said[name] / draws,
        }
        for name, found in errors.items()
    }
    median = statistics.median(predicted)
    row["certificate"] = {"predicted_error": median, "ok": ok / draws}
    return row


def table(rows):
    names = [name for name in next(iter(rows.values())) if name != "certificate"]
    header = ["condition", *names, "ix.root / LU, worst", "ix.custom_root / LU, worst",
              "predicted", "ok"]  # fmt: skip

    def cell(found):
        if found["error"] is None:
            return "says no"
        silent = found["error"] > WRONG and not found["says_no"]
        partly = f" (says no in {found['says_no']:.0%})" if found["says_no"] else ""
        return ("**{:.1e}**" if silent else "{:.1e}").format(found["error"]) + partly

    def ratio(found):
        worst = found["worst_against_lu"]
        return "says no" if worst is None else f"{worst:.1f}"

    return _report.markdown(header, [
        [condition, *(cell(row[name]) for name in names), ratio(row["ix.root"]),
         ratio(row["ix.custom_root"]), f"{row['certificate']['predicted_error']:.1e}",
         f"{row['certificate']['ok']:.0%}"]
        for condition, row in rows.items()
    ])  # fmt: skip


def draw(results):
    styles = {
        "ix.root": "-o", "ix.custom_root": "-s", "jaxopt": "--v", "optimistix": "--^",
        LU: ":.",
    }  # fmt: skip

    def figure(plt):
        made, axes = plt.subplots(
            1, len(results), figsize=(11, 4), layout="constrained", sharey=True
        )
        for axis, (dtype, rows) in zip(axes, results.items(), strict=True):
            conditions = [float(condition) for condition in rows]
            for name, style in styles.items():
                errors = [row[name]["error"] or np.nan for row in rows.values()]
                color = "black" if name == LU else None
                (line,) = axis.plot(
                    conditions, errors, style, label=name, markersize=4, color=color
                )
                no = [float(k) for k, row in rows.items() if row[name]["says_no"]]
                axis.plot(no, [SAYS_NO] * len(no), style[-1], color=line.get_color(),
                          markersize=4)  # fmt: skip
            bars = [row["certificate"]["predicted_error"] for row in rows.values()]
            axis.plot(conditions, bars, "x", color="tab:gray", label="ix.certify says")
            axis.set(xscale="log", yscale="log", xlabel="condition number", title=dtype)
            axis.axhline(1, color="black", linewidth=0.5)
            axis.text(float(next(iter(rows))), SAYS_NO, "says no:", va="center",
                      ha="left", fontsize=8)  # fmt: skip
        axes[0].set(ylabel="relative error of the gradient")
        axes[0].legend(fontsize=8)
        return made

    return figure


def main():
    parser = _report.parser(__doc__)
    parser.add_argument("--unknowns", type=int, default=50)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument(
        "--conditions", type=int, nargs="+", default=range(2, 13), help="powers of ten"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="jaxopt")
    results = {}
    compiled = {name: jax.jit(program) for name, program in programs().items()}
    certify = jax.jit(certificate)
    for dtype, highest in (("float64", 12), ("float32", 5)):
        results[dtype] = {}
        for power in options.conditions:
            if power <= highest:
                row = measure(
                    compiled, certify, options.unknowns, 10.0**power, dtype,
                    options.draws,
                )  # fmt: skip
                results[dtype][f"1e{power}"] = row
                print(dtype, power, row, flush=True)
    parts = [
        f"Medians of {options.draws} random systems of {options.unknowns} unknowns. "
        "*Says no*: NaN or an error instead of a gradient. Bold: more than "
        f"{WRONG:.0%} wrong, without a word. *Predicted* and *ok* are what "
        "`ix.certify` says of the gradient.",
        *(f"## {dtype}\n\n{table(rows)}" for dtype, rows in results.items()),
    ]
    title = "Ill-conditioned adjoints"
    _report.save(
        options.output, "conditioning", title, {"rows": results}, "\n\n".join(parts),
        draw(results),
    )  # fmt: skip


if __name__ == "__main__":
    main()
