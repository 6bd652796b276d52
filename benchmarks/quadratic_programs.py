"""Quadratic programs: how fast, how right the gradients, and what is solved at all.

    python -m benchmarks.quadratic_programs
    python -m benchmarks.quadratic_programs --sizes 10 --lanes 2 --seconds 0.01
    python -m benchmarks.quadratic_programs --maros-meszaros FOLDER --largest 4000

Random programs with strictly complementary solutions, a batch of them in one program:
value and gradient of a loss of the solution, in `q`. The right gradient is that of the
equations which are active, in NumPy. Peers at their defaults: qpax, jaxopt.OSQP.

With a folder of Maros and Meszaros' programs (`.mat`: `P q A l u`): which are solved to
1e-9 (primal residual, dual residual, duality gap), beside PIQP and Clarabel by
`qpsolvers`; and whether each gradient is that of central differences, or the solution
said to be degenerate. Writes `quadratic_programs.json`, `.md` and `.png`.
"""

import benchmarks._pin  # noqa: F401, I001  (before JAX)

import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks import _report

#: What qpbenchmark asks for.
ACCURACY = 1e-9


def draw(rng, n):
    """`P`, `q`, `A`, `b`, `G`, `h`: a tenth of equations, half of the rows active."""
    m, p = n, n // 10
    root = rng.normal(size=(n, n))
    at = rng.normal(size=n)
    G, A = rng.normal(size=(m, n)), rng.normal(size=(p, n))
    slack = rng.uniform(0.1, 1, m) * (rng.uniform(size=m) < 0.5)
    P = root @ root.T / n + 0.1 * np.eye(n)
    return P, rng.normal(size=n), A, A @ at, G, G @ at + slack


def exact_gradient(data, x, z, c):
    """Of `c . x` in `q`: one system in the equations that are active."""
    P, _, A, _, G, _ = data
    rows = np.concatenate([A, G[z > 0]])
    n, k = len(x), len(rows)
    matrix = np.block([[P, rows.T], [rows, np.zeros((k, k))]])
    return -np.linalg.solve(matrix, np.append(c, np.zeros(k)))[:n]


def ours(P, q, A, b, G, h):
    return ix.quadratic_program(P, q, A=A, b=b, G=G, h=h).value


def contestants():
    """Solutions by each library, as functions of the data."""
    found = {"implicax": ours}
    try:
        import qpax

        found["qpax"] = qpax.solve_qp_primal
    except ImportError:
        print("qpax is not installed")
    try:
        import jaxopt

        solver = jaxopt.OSQP()

        def osqp(P, q, A, b, G, h):
            return solver.run(None, (P, q), (A, b), (G, h)).params.primal

        found["jaxopt.OSQP"] = osqp
    except ImportError:
        print("jaxopt is not installed")
    return found


def race(n, lanes, seconds):
    """By library: compile time, milliseconds a program, the gradient's error."""
    rng = np.random.default_rng(n)
    batch = [draw(rng, n) for _ in range(lanes)]
    c = np.cos(np.arange(n))
    data = [jnp.asarray(np.stack(parts)) for parts in zip(*batch, strict=True)]
    solution = jax.jit(
        jax.vmap(
            lambda P, q, A, b, G, h: ix.quadratic_program(P, q, A=A, b=b, G=G, h=h)
        )
    )(*data)
    z = np.asarray(solution.dual.inequality)
    exact = np.stack([
        exact_gradient(one, np.asarray(x), multipliers, c)
        for one, x, multipliers in zip(batch, solution.value, z, strict=True)
    ])  # fmt: skip
    row = {}
    for name, solve in contestants().items():

        def loss(q, P, *rest, solve=solve):
            return jnp.asarray(c) @ solve(P, q, *rest)

        P, q, *rest = data
        program = jax.jit(jax.vmap(jax.value_and_grad(loss)))
        begun = time.perf_counter()
        with jax.numpy_rank_promotion("allow"):
            compiled = program.lower(q, P, *rest).compile()
        took = time.perf_counter() - begun
        _, gradient = jax.block_until_ready(compiled(q, P, *rest))
        errors = np.linalg.norm(gradient - exact, axis=1) / np.linalg.norm(
            exact, axis=1
        )
        times = []
        while sum(times) < seconds or len(times) < 3:
            begun = time.perf_counter()
            jax.block_until_ready(compiled(q, P, *rest))
            times.append(time.perf_counter() - begun)
        row[name] = {
            "compile_seconds": took,
            "milliseconds": 1e3 * float(np.median(times)) / lanes,
            "median_error": float(np.median(errors)),
            "worst_error": float(np.max(errors)),
        }
        print(n, name, row[name], flush=True)
    return row


def read(path):
    """`P q M l u` of a file; the last rows of `l <= (M, I) x <= u` are bounds."""
    import scipy.io

    raw = scipy.io.loadmat(path)
    P, A = (raw[key].toarray().astype(float) for key in "PA")
    q, lower, upper = (raw[key].ravel().astype(float) for key in "qlu")
    lower[lower <= -1e19], upper[upper >= 1e19] = -np.inf, np.inf
    n = q.size
    if A.shape[0] >= n and (A[-n:] == np.eye(n)).all():
        return P, q, A[:-n], lower, upper
    free = np.full(n, np.inf)
    return P, q, A, np.append(lower, -free), np.append(upper, free)


def residuals(P, q, M, lower, upper, x, t):
    """Primal, dual, and the gap: as qpbenchmark measures."""
    m = len(M)
    value = np.append(M @ x, x)
    primal = max(0, (value - upper).max(), (lower - value).max())
    dual = np.abs(P @ x + q + M.T @ t[:m] + t[m:]).max()
    limits = np.where(t > 0, upper, lower)
    limits = np.where(np.isfinite(limits), limits, 0)
    return primal, dual, abs(x @ P @ x + q @ x + t @ limits)


def state(P, q, M, lower, upper):
    m = len(M)
    rows = {"G": M, "h": (lower[:m], upper[:m])} if m else {}
    return ix.Program(P, q, **rows, bounds=(lower[m:], upper[m:]))


def attempt(path):
    """What became of one program: ours, then the others."""
    data = read(path)
    program, problem = state(*data), ix.QuadraticProgram()
    found = {"n": len(data[1]), "rows": len(data[2])}
    begun = time.perf_counter()
    solution = ix.solve(problem, None, program, on_failure="ignore")
    t = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(solution.dual)])
    x = np.asarray(solution.value)
    found["seconds"] = time.perf_counter() - begun
    found["status"] = solution.status.name
    found["residuals"] = [float(r) for r in residuals(*data, x, t)]
    size = 1 + abs(float(solution.objective))
    found["relative_gap"] = found["residuals"][2] / size
    found["degeneracy"] = [
        name
        for name in ("weak", "dependent", "not_unique")
        if getattr(solution.degeneracy, name)
    ]
    if solution.converged and not found["degeneracy"]:
        found["gradient_error"] = gradient_error(data, solution)
    for name in ("piqp", "clarabel"):
        found[name] = others(name, data)
    print(path.stem, found, flush=True)
    return found


def gradient_error(data, solution):
    """Of `c . x` in `q`, along a direction, against central differences."""
    P, q, M, lower, upper = data
    c, d = np.cos(np.arange(len(q))), np.sin(1 + np.arange(len(q)))
    d = d * max(np.abs(q).max(), 1e-3)

    def loss(e):
        program = state(P, jnp.asarray(q) + e * jnp.asarray(d), M, lower, upper)
        found = ix.solve(ix.QuadraticProgram(), solution, program, on_failure="ignore")
        return jnp.asarray(c) @ found.value

    slope, e = float(jax.grad(loss)(0.0)), 1e-7
    difference = float(loss(e) - loss(-e)) / (2 * e)
    size = max(
        abs(difference), np.abs(c).max() * np.abs(np.asarray(solution.value)).max()
    )
    return abs(slope - difference) / size


def others(name, data):
    import qpsolvers
    from scipy.sparse import csc_matrix

    P, q, M, lower, upper = data
    m = len(M)
    fixed = lower[:m] == upper[:m]
    up, down = ~fixed & np.isfinite(upper[:m]), ~fixed & np.isfinite(lower[:m])
    parts = {"lb": lower[m:], "ub": upper[m:]}
    if up.any() or down.any():
        parts["G"] = csc_matrix(np.concatenate([M[up], -M[down]]))
        parts["h"] = np.concatenate([upper[:m][up], -lower[:m][down]])
    if fixed.any():
        parts |= {"A": csc_matrix(M[fixed]), "b": upper[:m][fixed]}
    tight = {
        "piqp": {"eps_abs": ACCURACY, "eps_rel": 0.0},
        "clarabel": {
            "tol_gap_abs": ACCURACY, "tol_gap_rel": 0.0, "tol_feas": ACCURACY
        },
    }  # fmt: skip
    begun = time.perf_counter()
    problem = qpsolvers.Problem(csc_matrix(P), q, **parts)
    found = qpsolvers.solve_problem(problem, name, **tight[name])
    took = time.perf_counter() - begun
    if not found.found or found.x is None:
        return {"seconds": took, "residuals": None}
    gap, primal, dual = (
        found.duality_gap(),
        found.primal_residual(),
        found.dual_residual(),
    )
    return {"seconds": took, "residuals": [float(primal), float(dual), float(abs(gap))]}


def solved(residuals):
    return residuals is not None and max(residuals) <= ACCURACY


def races_table(races):
    header = ["unknowns, library", "ms each, value and gradient", "compile, s",
              "gradient off by (median)", "(worst)"]  # fmt: skip
    return _report.markdown(header, [
        [f"{n}, {name}", row["milliseconds"], row["compile_seconds"],
         f"{row['median_error']:.1e}", f"{row['worst_error']:.1e}"]
        for n, rows in races.items() for name, row in rows.items()
    ])  # fmt: skip


def library_text(found):
    """How many are solved, and what is said of the gradients."""
    count = len(found)
    ours = sum(row["status"] == "converged" for row in found.values())
    rows = [["implicax says converged", f"{ours} of {count}"]]
    to_accuracy = sum(solved(row["residuals"]) for row in found.values())
    rows.append(["implicax, all residuals below 1e-9", f"{to_accuracy} of {count}"])
    for name in ("piqp", "clarabel"):
        by_them = sum(solved(row[name]["residuals"]) for row in found.values())
        rows.append([f"{name}, all residuals below 1e-9", f"{by_them} of {count}"])
    named = sum(
        bool(row["degeneracy"])
        for row in found.values()
        if row["status"] == "converged"
    )
    checked = [
        row["gradient_error"] for row in found.values() if "gradient_error" in row
    ]
    right = sum(error <= 1e-6 for error in checked)
    rows.append(["said to be degenerate", f"{named} of {ours}"])
    rows.append(
        ["of the others, gradients right to 1e-6", f"{right} of {len(checked)}"]
    )
    return _report.markdown(["programs of Maros and Meszaros", ""], rows)


def draw_races(races):
    def figure(plt):
        made, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        names = list(next(iter(races.values())))
        sizes = list(races)
        for axis, key, label in (
            (axes[0], "milliseconds", "ms for value and gradient, each of a batch"),
            (axes[1], "median_error", "relative error of the gradient (median)"),
        ):
            for k, name in enumerate(names):
                heights = [races[n][name][key] for n in sizes]
                places = np.arange(len(sizes)) + k / (len(names) + 1)
                axis.bar(places, heights, 1 / (len(names) + 1), label=name)
            axis.set(yscale="log", ylabel=label)
            middle = np.arange(len(sizes)) + (len(names) - 1) / 2 / (len(names) + 1)
            axis.set_xticks(middle, [f"{n} unknowns" for n in sizes])
        axes[0].legend()
        return made

    return figure


def main():
    made = _report.parser(__doc__)
    made.add_argument("--sizes", type=int, nargs="+", default=[10, 50, 100])
    made.add_argument("--lanes", type=int, default=64)
    made.add_argument("--seconds", type=float, default=1.0)
    made.add_argument("--maros-meszaros", type=pathlib.Path)
    made.add_argument("--largest", type=int, default=4000)
    options = made.parse_args()
    jax.config.update("jax_enable_x64", True)
    races = {n: race(n, options.lanes, options.seconds) for n in options.sizes}
    results, text = {"rows": races}, races_table(races)
    if options.maros_meszaros is not None:
        paths = sorted(options.maros_meszaros.glob("*.mat"))
        small = [path for path in paths if read(path)[1].size <= options.largest]
        found = {path.stem: attempt(path) for path in small}
        results["maros_meszaros"] = found
        text += f"\n\n{library_text(found)}"
    _report.save(
        options.output, "quadratic_programs", "Quadratic programs", results, text,
        draw_races(races),
    )  # fmt: skip


if __name__ == "__main__":
    main()
