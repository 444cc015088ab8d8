"""Draw figures and tables from stored results: `python -m figures <name>|all`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # files only, on a machine with or without a screen

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.files import write_atomically
from figures import style
from figures.data import Where
from figures.errors import MissingTable, StudyError, unknown_name
from figures.registry import FIGURES

FORMATS = ("png", "pdf", "svg")
# Without dates and version numbers equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<9} {entry.shows}" for name, entry in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw the figures and tables of the paper from stored results. Accuracies are in percent.",
        epilog=f"figures:\n{listing}\n  all       every one of these for which there are results; says what is missing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=f"{', '.join(FIGURES)}, or all")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where tables are (default results)")
    parser.add_argument("--out", type=Path, help="where files are written (default: figures, in the results)")
    parser.add_argument(
        "--format", nargs="+", default=["png"], metavar="FORMAT", help=f"any of {', '.join(FORMATS)} (default png)"
    )
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="[DATASET:]KEY=VALUE",
        help="draw only runs with this setting, such as glyphs:iterations=600; runs that differ are never pooled",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 2 for a mistake in the input, or if there is nothing to draw."""
    options = _parser().parse_args(arguments)
    try:
        if options.name != "all" and options.name not in FIGURES:
            raise unknown_name("figure", options.name, [*FIGURES, "all"])
        for ending in options.format:
            if ending not in FORMATS:
                raise unknown_name("format", ending, FORMATS)
        where = [Where.parse(text) for text in options.where]
    except StudyError as error:
        return _refuse(error)
    out = options.out or options.results / "figures"
    names = list(FIGURES) if options.name == "all" else [options.name]
    num_written, failed = 0, False
    for name in names:
        try:
            for path in make(name, options.results, out, tuple(dict.fromkeys(options.format)), where):
                print(path)
                num_written += 1
        except MissingTable as error:
            # With `all` a figure whose tables were not asked for yet is no mistake.
            print(f"{name} is missing: {error}", file=sys.stderr)
        except StudyError as error:
            failed = True
            print(f"{name} cannot be drawn: {error}", file=sys.stderr)
    return 2 if failed or not num_written else 0


def make(name: str, results: Path, out: Path, formats: Sequence[str], where: Sequence[Where] = ()) -> list[Path]:
    """Draw one figure and write its files, each whole or not at all.

    Returns:
        The files written.

    Raises:
        StudyError: if it cannot be drawn or written.
    """
    entry = FIGURES[name]
    written = []
    for stem, trace in entry.traces(results, where).items():
        figure, _ = entry.draw(trace)
        try:
            for ending in formats:
                written.append(_write(out / f"{stem}.{ending}", figure))
        finally:
            plt.close(figure)
        for ending, text in (entry.texts(trace) if entry.texts else {}).items():
            written.append(_write(out / f"{stem}.{ending}", text))
    return written


def _write(path: Path, content: Figure | str) -> Path:
    def write(temporary: Path) -> None:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
            return
        ending = path.suffix[1:]
        with style.context():
            content.savefig(temporary, format=ending, metadata=_METADATA[ending])

    return write_atomically(path, write)


def _refuse(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
