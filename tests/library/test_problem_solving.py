"""What each solver makes of the problems of the literature, and of their derivatives.

Every verdict is held in both directions: a problem that is no longer solved, and one
that is and should not be, are both told (`benchmarks/known_failures.py`). Compiling is
most of the time, so problems share programs.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from benchmarks import problems as library
from benchmarks._error_bars import CALLS, certificate, distance, error_bars, loss
from benchmarks._judge import judge, judge_regression
from benchmarks.known_failures import KNOWN, REFUSED, UNFLAGGED
from benchmarks.problems import Regression, nist

import implicax as ix

SOLVERS = {
    "default": None,
    "Anderson": ix.Anderson(),
    "Broyden": ix.Broyden(),
    "Chord": ix.Chord(),
    "LevenbergMarquardt": ix.LevenbergMarquardt(),
    "Newton": ix.Newton(),
    "TrustRegion": ix.TrustRegion(),
}
HAVE_NIST = nist.FOLDER.is_dir()
REGRESSIONS = nist.problems() if HAVE_NIST else []
LIBRARY = {
    "root": library.roots(),
    "least_squares": library.mgh.problems(),
    "minimum": library.minimisations(),
    "nist_1": REGRESSIONS,
    "nist_2": [problem.from_start_2() for problem in REGRESSIONS],
}
needs_nist = pytest.mark.skipif(
    not HAVE_NIST, reason=f"NIST's data files are not in {nist.FOLDER}"
)


class Family:
    """The problems of a library with as many unknowns, as one: which of them it is, is
    an index, so that they share the programs that are compiled.

    Residuals are filled up with zeros to the same length: a residual that is always
    zero changes no sum of squares.
    """

    def __init__(self, problems):
        self.problems = problems
        self.kind = problems[0].kind
        self.args = tuple(problem.args for problem in problems)
        self.size = max(jax.eval_shape(p.fn, p.y0, p.args).size for p in problems)

    def fn(self, index):
        def branch(k):
            def fn(y, args):
                out = self.problems[k].fn(y, args[k])
                return jnp.pad(out, (0, self.size - out.size)) if out.shape else out

            return fn

        branches = [branch(k) for k in range(len(self.problems))]
        return lambda y, args: jax.lax.switch(index, branches, y, args)

    @functools.cache  # noqa: B019 (families are dropped with the library)
    def program(self, name):
        """Solve; the function, and for a fit the standard errors, at the solution."""

        def run(index, y0, args):
            fn = self.fn(index)
            solver = SOLVERS[name]
            found = CALLS[self.kind](fn, y0, args, solver=solver, on_failure="ignore")
            errors = None
            if isinstance(self.problems[0], Regression):
                fit = ix.LeastSquares(fn)
                errors = ix.covariance(fit, found.value, args).standard_errors
            return found, fn(found.value, args), errors

        if name != "default" or self.kind == "minimum":
            return jax.jit(run)

        def differentiated(index, y0, args):
            """... and the gradient of a loss in the problem's data."""

            def weighted(args):
                found, *others = run(index, y0, args)
                return loss(found.value, args), (found, *others)

            gradient, found = jax.grad(weighted, has_aux=True)(args)
            return *found, gradient

        return jax.jit(differentiated)


@functools.cache
def families(library_name):
    """The family of each problem of a library, and its index there, by name. (What fits
    to much data share is less than what each of them has to itself.)"""
    together = {}
    for problem in LIBRARY[library_name]:
        alone = isinstance(problem, Regression)
        key = problem.name if alone else problem.y0.size
        together.setdefault(key, []).append(problem)
    return {
        problem.name: (family, index)
        for family in map(Family, together.values())
        for index, problem in enumerate(family.problems)
    }


def family(library_name, problem):
    """(A second start is of the same problem.)"""
    return families(library_name.replace("nist_2", "nist_1"))[problem.name]


@functools.cache
def solve(library_name, solver, index):
    problem = LIBRARY[library_name][index]
    members, which = family(library_name, problem)
    program = members.program(solver)
    return jax.device_get(program(which, problem.y0, members.args))


def verdict(library_name, solver, index):
    problem = LIBRARY[library_name][index]
    found, output, errors, *_ = solve(library_name, solver, index)
    if found.status == ix.Status.degenerate:
        right = judge(problem, found.value, output) == "solved"
        return "degenerate" if right else "failed"
    if found.status != ix.Status.converged:
        return "failed"
    if isinstance(problem, Regression):
        return judge_regression(problem, found.value, errors)
    return judge(problem, found.value, output)


def check(library_name, solver):
    """Compare with the list of what is known, problem by problem."""
    known, surprises = KNOWN[library_name][solver], []
    for index, problem in enumerate(LIBRARY[library_name]):
        expected = known.get(problem.name, "solved")
        came = verdict(library_name, solver, index)
        if came != expected:
            worse = "UNEXPECTED SUCCESS" if came == "solved" else "REGRESSION"
            surprises.append(f"{problem.name}: {expected} before, now {came} ({worse})")
    assert not surprises, (
        f"{solver} on {library_name}: correct benchmarks/known_failures.py if this is "
        "meant.\n" + "\n".join(surprises)
    )


@functools.cache
def bars(library_name):
    """The error bars of every other solution that the default finds. (Of third
    derivatives each problem has its own, and they are most of a certificate's program;
    `python -m benchmarks.profile` makes them all.)"""
    found = []
    for index, problem in list(enumerate(LIBRARY[library_name]))[::2]:
        solution, _, _, gradient = solve(library_name, "default", index)
        program = jax.jit(certificate(problem.kind, problem.fn))
        one = error_bars(problem, solution.value, program)
        _, which = family(library_name, problem)
        found.append((one, gradient[which]))
    return found


def check_derivatives(library_name):
    """The derivative of the solution is the one that the certificate is about."""
    for one, gradient in bars(library_name):
        if one.ok:
            assert distance(gradient, one.gradient) <= 1e-7 * one.size, one.name


def check_flags(library_name):
    """Singular problems are told from the others; exceptions are listed, both ways."""
    found = [one for one, _ in bars(library_name)]
    names = [one.name for one in found]
    unflagged = [one.name for one in found if one.singular and one.ok]
    refused = [one.name for one in found if not (one.singular or one.ok)]
    for came, known in ((unflagged, UNFLAGGED), (refused, REFUSED)):
        assert came == [name for name in known.get(library_name, ()) if name in names]


def check_error_bars(library_name):
    """Where a certificate is `ok`, at least nine of ten within a factor of two."""
    ratios = [(r, one.name) for one, _ in bars(library_name) for r in one.ratios]
    off = sorted((r, name) for r, name in ratios if not 0.5 <= r <= 2.0)
    assert len(ratios) >= len(bars(library_name))
    assert len(off) <= 0.1 * len(ratios), off


class Library:
    """The checks of one library: a class each, so that workers share them out."""

    name: str

    @classmethod
    def teardown_class(cls):
        """Programs fill the address space: drop them with the library."""
        for cached in (families, solve, bars):
            cached.cache_clear()
        jax.clear_caches()

    def test_lists_name_problems(self):
        names = {problem.name for problem in LIBRARY[self.name]}
        lists = [*KNOWN[self.name].values(), UNFLAGGED.get(self.name, ())]
        for known in [*lists, REFUSED.get(self.name, ())]:
            assert set(known) <= names

    def test_default(self):
        check(self.name, "default")


class Differentiated(Library):
    def test_derivatives(self):
        check_derivatives(self.name)

    def test_flags(self):
        check_flags(self.name)

    def test_error_bars(self):
        check_error_bars(self.name)


class TestRoots(Differentiated):
    name = "root"

    def test_the_23_systems(self):
        """No option is set by hand, and none of them is missed."""
        names = [p.name for p in LIBRARY["root"] if p.name.startswith("nl")]
        assert len(names) == 23
        assert set(KNOWN["root"]["default"].values()) == {"degenerate"}

    @pytest.mark.parametrize("solver", [s for s in KNOWN["root"] if s != "default"])
    def test_solver(self, solver):
        check(self.name, solver)


class TestLeastSquares(Differentiated):
    name = "least_squares"

    def test_trust_region(self):
        """(The default begins with Levenberg-Marquardt.)"""
        check(self.name, "TrustRegion")


class TestMinimisations(Library):
    """The same sums of squares, whose derivatives are those of the fits."""

    name = "minimum"


@needs_nist
class TestRegressions(Differentiated):
    name = "nist_1"

    @pytest.mark.parametrize("start", ["nist_1", "nist_2"])
    @pytest.mark.parametrize("solver", ["default", "TrustRegion"])
    def test_solver(self, start, solver):
        check(start, solver)
