"""The command line: `python -m implicax` or `implicax`."""

import argparse
import importlib.metadata
import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence

PICTURES = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        _primer(options.json, None if options.no_plot else options.plot)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("rich", "matplotlib"):
            raise
        without = " (or pass --no-plot)" if package == "matplotlib" else ""
        return _refuse(
            f"the primer needs {package}, which is not installed. Run\n"
            f'  pip install "implicax[primer]"{without}'
        )
    except BrokenPipeError:
        # Whoever read the output has seen enough. Keep Python from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        name = error.filename or "the output"
        return _refuse(f"cannot write {name}: {error.strerror}")
    return 0


def _primer(json_file: pathlib.Path | None, picture: pathlib.Path | None) -> None:
    # Everything that can be missing or unwritable is found out before the work.
    from implicax_primer import _report, run

    draw = None
    if picture is not None:
        from implicax_primer._plot import plot as draw
    for path in (json_file, picture):
        if path is not None:
            _check_writable(path)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # frames, on terminals without them

    begin, out = time.perf_counter(), _report.console()
    _report.opening(out)
    found = run(lambda step: _report.show(step, out))
    written = []
    if json_file is not None:
        json_file.write_text(json.dumps(found.figures(), indent=2) + "\n")
        written.append(str(json_file))
    if draw is not None and picture is not None:
        draw(found, picture)
        written.append(str(picture))
    _report.closing(out, time.perf_counter() - begin, written)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="implicax",
        description="Solve an equation, differentiate its solution, know how right "
        "the derivative is.",
        epilog='"implicax primer" is the place to start.',
    )
    version = importlib.metadata.version("implicax")
    parser.add_argument("--version", action="version", version=f"implicax {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    primer = commands.add_parser(
        "primer",
        help="the classic problem z = tanh(W z + x), from beginning to end",
        description="Solve z = tanh(W z + x) three ways, differentiate the solution, "
        "put an error bar on the derivative, time it, and see a solve fail with a "
        "reason. Explains itself as it goes; takes less than a minute.",
    )
    primer.add_argument(
        "--json",
        type=pathlib.Path,
        metavar="FILE",
        help="also write every figure to FILE as JSON",
    )
    pictures = primer.add_mutually_exclusive_group()
    pictures.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        default=pathlib.Path("primer.png"),
        help="where the picture goes: .png, .pdf or .svg (default: primer.png)",
    )
    pictures.add_argument(
        "--no-plot", action="store_true", help="draw no picture; needs no matplotlib"
    )
    return parser


def _picture(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}"
        )
    return path


def _check_writable(path: pathlib.Path) -> None:
    """Raise the `OSError` that writing would, and leave what is there as it is."""
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()


def _refuse(reason: str) -> int:
    print(f"implicax: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
