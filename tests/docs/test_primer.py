"""The primer: its figures, its files, its command line."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicax.__main__ import main
from implicax_primer import _exact, _problem, run

Z_STAR = [
    -0.16798191, -0.39130193, -0.83032316, -0.15473165, -0.4114282,
    -0.38461813, 0.07424818, 0.4667457, 0.02648443, 0.686279,
]  # fmt: skip
KEYS = {
    "picard_iterations", "newton_iterations", "anderson_iterations", "z_star",
    "jacobian_error", "implicit_vs_unrolled", "implicit_vs_central",
    "wrong_formula_norm", "derivative_norm", "certificate", "speedup_eager",
    "speedup_compiled_forward", "speedup_compiled_reverse",
}  # fmt: skip


@pytest.fixture(scope="module")
def shown():
    return []


@pytest.fixture(scope="module")
def primer(shown):
    return run(shown.append)


@pytest.fixture(scope="module")
def figures(primer):
    return json.loads(json.dumps(primer.figures(), allow_nan=False))


def test_each_step_is_shown_once_and_in_order(primer, shown):
    assert shown == [
        primer.solved,
        primer.differentiated,
        primer.certified,
        primer.timed,
        primer.failed,
    ]


def test_the_figures_have_the_names_that_are_documented(figures):
    assert figures.keys() >= KEYS


def test_the_classic_counts_and_solution(figures):
    assert figures["picard_iterations"] == 35
    assert figures["newton_iterations"] == 5
    assert figures["newton_iterations"] < figures["anderson_iterations"] < 35
    assert figures["newton_vs_picard"] < 4.5e-6
    np.testing.assert_allclose(figures["z_star"], Z_STAR, rtol=0, atol=1e-6)


def test_the_library_stops_where_its_own_rule_says(figures):
    for counts in figures["library_iterations"].values():
        assert 0 < counts["float32"] <= counts["float64"] < 100


def test_the_automatic_jacobian_is_the_closed_form(figures):
    assert figures["jacobian_error"] < 1e-14


def test_the_derivatives_agree(figures):
    assert figures["implicit_vs_unrolled"] < 1e-8
    assert figures["implicit_vs_central"] < 1e-8
    assert len(figures["derivative_errors"]) == 5
    assert max(figures["derivative_errors"].values()) < 1e-8
    assert figures["derivative_norm"] == pytest.approx(3.2310, abs=5e-5)


def test_the_tempting_formula_is_not_the_derivative(figures):
    assert 0 < figures["wrong_formula_norm"] < 1e-5


def test_the_error_bars_are_true_and_the_correction_squares_the_error(figures):
    assert [entry["k"] for entry in figures["certificate"]] == [6, 12, 18, 24]
    for entry in figures["certificate"]:
        assert 0.5 <= entry["predicted"] / entry["true"] <= 2
        assert entry["corrected"] <= entry["true"] ** 2


def test_the_theorem_is_cheaper_than_unrolling(figures):
    for mode in ("eager", "compiled_forward", "compiled_reverse"):
        assert figures[f"speedup_{mode}"] > 1


def test_plain_iteration_fails_and_says_why_where_newton_succeeds(primer, figures):
    assert primer.failed.message.startswith("Picard did not converge (stagnated)")
    exact = _exact.exact(_problem.load("current"))
    eigenvalues = np.linalg.eigvals(np.eye(10) - exact.jacobian)
    radius = figures["current_generator"]["spectral_radius"]
    assert radius > 1
    assert radius == pytest.approx(np.abs(eigenvalues).max(), rel=1e-8)
    assert figures["current_generator"]["newton_error"] < 1e-8


@pytest.mark.parametrize(
    ("name", "partitionable"), [("former", False), ("current", True)]
)
def test_the_data_are_what_jax_draws(name, partitionable):
    with jax.threefry_partitionable(partitionable):
        root = jnp.sqrt(jnp.float32(10))
        W = jax.random.normal(jax.random.PRNGKey(0), (10, 10), jnp.float32) / root
        x = jax.random.normal(jax.random.PRNGKey(1), (10,), jnp.float32) / root
    stored = _problem.load(name, jnp.float32)
    # The last bit belongs to the compiler's logarithm, not to the generator.
    np.testing.assert_allclose(stored.W, W, rtol=1e-6)
    np.testing.assert_allclose(stored.x, x, rtol=1e-6)


def test_the_former_x_starts_as_it_was_printed():
    x = _problem.load("former", jnp.float32).x
    printed = np.asarray([0.21845172, -0.1541424, -0.36549258], np.float32)
    np.testing.assert_array_equal(x[:3], printed)


@pytest.fixture
def computed(monkeypatch, primer, shown):
    """The command with the computing already done."""

    def again(show=None):
        for found in shown:
            show(found)
        return primer

    monkeypatch.setattr("implicax_primer.run", again)


@pytest.mark.usefixtures("computed")
def test_the_command_prints_draws_and_writes(tmp_path, capsys, figures):
    picture, numbers = tmp_path / "picture.png", tmp_path / "numbers.json"
    assert main(["primer", "--plot", str(picture), "--json", str(numbers)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    assert json.loads(numbers.read_text()) == figures
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("35 steps", "3.2310", "predicted", "stagnated", str(picture)):
        assert text in out
    # (How fast is not for a test to say: others may be running.)
    times = ("counted as the classic claim does", "cheaper than unrolling")
    denied = [line for line in out.splitlines() if "NO  " in line]
    denied = [line for line in denied if not any(words in line for words in times)]
    assert all("NO  gradient" in line for line in denied)
    body = [line for line in out.splitlines() if not line.startswith("Written")]
    assert max(map(len, body)) <= 92


@pytest.mark.usefixtures("computed")
def test_the_picture_is_written_to_primer_png_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["primer"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["primer.png"]


def block(monkeypatch, package):
    """Make `package` look as if it were not installed."""
    for name in list(sys.modules):
        if name.split(".")[0] == package or name.startswith("implicax_primer._plot"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "implicax_primer._report", raising=False)
    monkeypatch.delattr("implicax_primer._report", raising=False)
    monkeypatch.delattr("implicax_primer._plot", raising=False)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("computed")
def test_no_plot_needs_no_matplotlib(tmp_path, monkeypatch, capsys):
    block(monkeypatch, "matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["primer", "--no-plot"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "35 steps" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
def test_a_missing_package_is_named_before_the_work(monkeypatch, capsys, package):
    block(monkeypatch, package)
    assert main(["primer"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert package in err
    assert 'pip install "implicax[primer]"' in err
    assert ("--no-plot" in err) == (package == "matplotlib")


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_folder_that_is_not_there_is_named_before_the_work(tmp_path, capsys, option):
    path = tmp_path / "nowhere" / "file.png"
    assert main(["primer", option, str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"cannot write {path}: No such file or directory" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["prime"], "invalid choice: 'prime'"),
        (["primer", "--plot", "picture.doc"], "must end in .png, .pdf or .svg"),
        (["primer", "--plot", "a.png", "--no-plot"], "not allowed with"),
        (["primer", "--json"], "expected one argument"),
    ],
)
def test_bad_arguments_are_explained(capsys, arguments, text):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    assert "implicax primer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--version"], "implicax 0."),
        (["--help"], "primer"),
        (["primer", "--help"], "less than a minute"),
    ],
)
def test_help_and_version(arguments, text):
    """As a process: the module is a command."""
    done = subprocess.run(
        [sys.executable, "-m", "implicax", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert text in done.stdout
    assert done.stderr == ""


@pytest.mark.usefixtures("computed")
def test_a_terminal_without_frames_gets_the_text(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    with path.open("w", encoding="ascii") as plain:
        monkeypatch.setattr(sys, "stdout", plain)
        assert main(["primer", "--no-plot"]) == 0
    assert "35 steps" in pathlib.Path(path).read_text("ascii")
