"""The primer in the terminal: one section per step, each with its verdict."""

import functools
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ._certifying import Certified
from ._differentiating import Differentiated
from ._failing import Failed
from ._solving import Solved
from ._timing import Timed, duration

#: Lines longer than this are hard to read, whatever the terminal.
WIDTH = 92
#: The tutorial's printed ratio: 217 ms for autodiff through Newton, 20.7 ms for the
#: derivative at the solution.
CLASSIC_SPEEDUP = 10.5

OPENING = """\
A function that solves an equation has a derivative, and the solver need not be \
differentiated to get it. Here is the whole story on ten unknowns:

    z = tanh(W z + x),      that is      F(z, x) = z - tanh(W z + x) = 0

and then: how does the solution z* move when x does, and how far can that answer \
be trusted? (This takes about half a minute.)"""

SOLVE = """\
Plain iteration (Picard) applies the map until nothing changes. Anderson also looks \
back at its last five steps. Newton solves the linearised equation each time. The \
classic rule stops at a step of 1e-5 and counts in float32; implicax stops at a \
residual |F| of eps^(2/3) |z|: 2.4e-05 in float32, 3.7e-11 in float64."""

CHECK = """\
Newton, and every derivative below, need the Jacobian J = dF/dz. Autodiff gives it; \
here it can be checked by hand:  J = I - diag(sech^2(W z + x)) W."""

DIFFERENTIATE = """\
F(z*(x), x) = 0 holds for every x. Differentiate that:

    J dz*/dx + dF/dx = 0      so      dz*/dx = -J^-1 dF/dx

This is the implicit function theorem. It asks that J be invertible. It does not ask \
how z* was found: one linear solve, whatever the solver. Relative errors of dz*/dx:"""

CERTIFY = """\
The theorem speaks of z*, and a solver stops short of it. Let z be where it stopped, \
g(z) the derivative computed there, and delta = -J^-1 F(z) the step that Newton would \
take. Then g'(z) delta is the error of g(z), to first order: an error bar, at the \
price of one directional derivative. Added to g(z), it leaves an error of second \
order. Relative errors of the gradient of |z*|^2 / 2 in x, after k steps of plain \
iteration:"""

TIME = """\
Like for like. Eager: one JAX call at a time, as in a notebook. Compiled: solve and \
derivative in one jax.jit, the same Newton iteration on each side; forward is \
jax.jacfwd, reverse jax.jacrev."""

FAIL = """\
JAX has changed its random generator since. The same two lines now draw another W, \
and plain iteration never arrives. implicax says so; it does not return a number \
that is not a solution:"""


def console() -> Console:
    """As wide as the terminal, and no wider than is good for reading."""
    here = Console(highlight=False)
    return Console(highlight=False, width=min(here.width, WIDTH))


def opening(out: Console) -> None:
    body = Text(OPENING)
    out.print(Panel(body, title="[bold]implicax primer[/]", padding=(1, 2)))


def closing(out: Console, seconds: float, written: list[str]) -> None:
    out.rule(style="dim")
    for path in written:
        out.print(f"Written: [bold]{path}[/]", soft_wrap=True)
    out.print(f"Done in {seconds:.0f} s.")


@functools.singledispatch
def show(found: Any, out: Console) -> None:
    """Print what a step found."""
    raise TypeError(f"nothing to show for {found!r}")


@show.register
def _(found: Solved, out: Console) -> None:
    _section(out, 1, "Solve", SOLVE)
    table = _table(
        "solver",
        "classic rule\nfloat32",
        "implicax\nfloat32",
        "implicax\nfloat64",
        "|z - z*|\nfloat64",
    )
    for run in found.runs:
        counts = (run.classic_count, run.count32, run.count64)
        name = run.name + {"Anderson": " (m = 5)"}.get(run.name, "")
        table.add_row(name, *(f"{count} steps" for count in counts), f"{run.error:.1e}")
    _print(out, table)
    numbers = " ".join(f"{z:.8f}" for z in found.z32)
    _print(out, Text(f"z* = {numbers}"))
    classic = {run.name: run.classic_count for run in found.runs}
    _verdict(
        out,
        (classic["Picard"], classic["Newton"]) == (35, 5) and found.difference < 4.5e-6,
        f"the classic counts, 35 and 5; the two solutions are {found.difference:.1e} "
        "apart, which is what a step of 1e-5 buys",
    )
    _section(out, 2, "Check the Jacobian", CHECK)
    _verdict(
        out,
        found.jacobian_error < 1e-14,
        f"largest difference between the two: {found.jacobian_error:.1e}",
    )


@show.register
def _(found: Differentiated, out: Console) -> None:
    _section(out, 3, "Differentiate", DIFFERENTIATE)
    table = _table(
        "dz*/dx by", "against\nclosed form", "against\nunrolled", "against\ndifferences"
    )
    for row in found.rows:
        errors = (row.vs_exact, row.vs_unrolled, row.vs_central)
        table.add_row(row.name, *(f"{e:.1e}" if e else "-" for e in errors))
    _print(out, table)
    _verdict(
        out,
        max(found.implicit_vs_unrolled, found.implicit_vs_central) < 1e-8,
        "three solvers, one derivative, and it is right",
    )
    out.print()
    _paragraphs(
        out,
        "A tempting formula is solve(J, F(z*)) * dF/dx. It looks alike, runs fast and "
        "has been printed in tutorials. But F(z*) is the residual, and the residual "
        "is zero at a solution: the better the solver, the nearer this is to nothing. "
        "The right hand side must be dF/dx.",
    )
    _verdict(
        out,
        found.wrong_formula_norm < 1e-5,
        f"norm of the tempting formula {found.wrong_formula_norm:.1e}, "
        f"norm of the derivative {found.derivative_norm:.4f}",
    )


@show.register
def _(found: Certified, out: Console) -> None:
    _section(out, 4, "Certify", CERTIFY)
    table = _table("k", "true", "predicted", "corrected", "predicted / true")
    for entry in found.table:
        sizes = (entry.true, entry.predicted, entry.corrected)
        ratio = f"{entry.predicted / entry.true:.3f}"
        table.add_row(str(entry.k), *(f"{size:.2e}" for size in sizes), ratio)
    _print(out, table)
    _verdict(
        out,
        all(
            0.5 < e.predicted / e.true < 2 and e.corrected < e.true for e in found.table
        ),
        "the error bar is true, and the correction about squares the error",
    )
    first = found.table[0].k
    out.print()
    _paragraphs(out, f"What ix.certify prints after {first} steps:")
    _print(out, Panel(_hanging(found.reports[first]), box=box.ROUNDED, style="dim"))


@show.register
def _(found: Timed, out: Console) -> None:
    _section(out, 5, "Time", TIME)
    table = _table(
        "solve and differentiate", "eager", "compiled,\nforward", "compiled,\nreverse"
    )
    eager = dict(found.eager)
    eager["implicit"] += eager["solve"]
    labels = {
        "unrolled": "unrolled: autodiff through each step",
        "implicit": "implicit: the theorem",
        "fixed length": "unrolled by hand, steps known",
    }
    for way, label in labels.items():
        cells = (duration(t.get(way)) for t in (eager, found.forward, found.reverse))
        table.add_row(label, *cells)
    table.add_section()
    table.add_row(
        "[bold]unrolled / implicit[/]",
        f"[bold]{found.speedup_eager_with_solve:.1f}x[/]",
        f"[bold]{found.speedup_compiled_forward:.1f}x[/]",
        f"[bold]{found.speedup_compiled_reverse:.1f}x[/]",
    )
    _print(out, table)
    by_hand = [
        times["fixed length"] / times["implicit"]
        for times in (found.forward, found.reverse)
    ]
    _paragraphs(
        out,
        f"The classic claim, {CLASSIC_SPEEDUP}x, gives the implicit side its solution "
        "for nothing: it leaves out the solve there and keeps it in on the other side. "
        f"Counted that way, eager: {duration(found.eager['unrolled'])} against "
        f"{duration(found.eager['implicit'])}, {found.speedup_eager:.1f}x.\n\n"
        "The last way is the least that unrolling can cost: hand-written, told "
        "beforehand how many steps will do, and without a stopping test. It takes "
        f"{by_hand[0]:.1f}x (forward) and {by_hand[1]:.1f}x (reverse) the time of the "
        "implicit derivative, which stops by itself and reports how it went. At ten "
        "unknowns a compiled call is mostly overhead; compiling is what "
        f"pays: {duration(found.eager['unrolled'])} in the notebook, "
        f"{duration(found.reverse['implicit'])} here.",
    )
    _verdict(
        out,
        found.speedup_eager > CLASSIC_SPEEDUP,
        f"eager, counted as the classic claim does: {found.speedup_eager:.1f}x "
        f"(classic: {CLASSIC_SPEEDUP}x)",
    )
    _verdict(
        out,
        min(found.speedup_compiled_forward, found.speedup_compiled_reverse) > 1,
        "compiled, the theorem is cheaper than unrolling the same solver, "
        "in either mode",
    )


@show.register
def _(found: Failed, out: Console) -> None:
    _section(out, 6, "Fail, and say why", FAIL)
    _print(out, Panel(_hanging(found.message), box=box.ROUNDED, style="dim"))
    _paragraphs(
        out,
        "Why: near the solution an error is multiplied, step after step, by the map's "
        "Jacobian I - J. It shrinks if the largest eigenvalue modulus, the spectral "
        f"radius, is below one. Here it is {found.spectral_radius:.4f}. Newton needs J "
        "invertible and no more:",
    )
    _print(out, Panel(_hanging(found.report), box=box.ROUNDED, style="dim"))
    _verdict(
        out,
        found.spectral_radius > 1 and found.newton_error < 1e-8,
        f"Newton solves it in {found.newton_count} steps, relative error "
        f"{found.newton_error:.1e}, and the derivative comes with it",
    )


def _section(out: Console, number: int, title: str, text: str) -> None:
    out.print()
    out.rule(f"[bold]{number}. {title}[/]", align="left", style="blue")
    out.print()
    _paragraphs(out, text)


def _paragraphs(out: Console, text: str) -> None:
    for line in text.splitlines():
        out.print(Text(line))
    out.print()


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", vertical="bottom")
    return table


def _print(out: Console, renderable: Any) -> None:
    below = 0 if isinstance(renderable, Table) else 1  # a table brings its own
    out.print(Padding(renderable, (0, 0, below, 2), expand=False))


def _verdict(out: Console, holds: bool, text: str) -> None:
    mark = Text("yes ", "bold green") if holds else Text("NO  ", "bold red")
    line = Table.grid()
    line.add_row(mark, Text(text))
    out.print(Padding(line, (0, 0, 0, 2), expand=False))


def _hanging(text: str) -> Group:
    """Lines that keep their indentation where they wrap."""
    lines = []
    for line in text.splitlines():
        bare = line.lstrip()
        lines.append(Padding(Text(bare), (0, 0, 0, len(line) - len(bare))))
    return Group(*lines)
