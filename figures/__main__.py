"""Draw figures and tables from stored results: `python -m figures <name>|all`, or `report` for one page of them."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # files only, on a machine with or without a screen

from matplotlib.figure import Figure

from analysis.files import write_atomically
from figures import style
from figures.data import Where
from figures.errors import FigureError, MissingTable, StudyError, unknown_name
from figures.page import page
from figures.registry import FIGURES
from figures.report import collect

FORMATS = ("png", "pdf", "svg")
# Without dates and version numbers equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<17} {entry.shows}" for name, entry in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw the figures and tables of the paper from stored results. Accuracies are in percent.",
        epilog=f"figures:\n{listing}\n  {'all':<17} each of these for which there are results; says what is missing\n"
        f"  {'report':<17} one HTML page of them all, the paper's numbers beside ours, and where each is from",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=f"{', '.join(FIGURES)}, all, or report")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where tables are (default results)")
    parser.add_argument(
        "--out", type=Path,
        help="folder that files are written to (default: figures, in the results), or the report's file (report.html)",
    )  # fmt: skip
    parser.add_argument(
        "--format",
        nargs="+",
        action="extend",
        metavar="FORMAT",
        help=f"any of {', '.join(FORMATS)} (default png); not of the report",
    )
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="[DATASET:]KEY=VALUE",
        help="draw only runs with this setting, such as glyphs:iterations=600; runs that differ are never pooled",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 2 for a mistake in the input, or if there is nothing to draw, 130 if stopped."""
    try:
        return _run(_parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("stopped; the same command draws what is missing", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    try:
        if options.name not in (*FIGURES, "all", "report"):
            raise unknown_name("figure", options.name, [*FIGURES, "all", "report"])
        if options.name == "report" and options.format:
            raise FigureError("the report is one HTML page and has no other format; leave out --format")
        formats = tuple(dict.fromkeys(options.format or ["png"]))
        for ending in formats:
            if ending not in FORMATS:
                raise unknown_name("format", ending, FORMATS)
        where = [Where.parse(text) for text in options.where]
        if options.name == "report":
            return write_report(options.results, options.out or options.results / "report.html", where)
    except StudyError as error:
        return _refuse(error)
    out = options.out or options.results / "figures"
    names = list(FIGURES) if options.name == "all" else [options.name]
    num_written, failed = 0, False
    for name in names:
        try:
            for path in make(name, options.results, out, formats, where):
                print(path)
                num_written += 1
        except MissingTable as error:
            # With `all` a figure whose tables were not asked for yet is no mistake.
            print(f"{name} is missing: {error}", file=sys.stderr)
        except StudyError as error:
            failed = True
            print(f"error: {name} cannot be drawn: {error}", file=sys.stderr)
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
        for ending in formats:
            written.append(_write(out / f"{stem}.{ending}", figure))
        for ending, text in (entry.texts(trace) if entry.texts else {}).items():
            written.append(_write(out / f"{stem}.{ending}", text))
    return written


def write_report(results: Path, out: Path, where: Sequence[Where] = ()) -> int:
    """Write the report, whole or not at all, and say what is missing from it.

    Returns:
        The exit code: 2 if an entry of the registry cannot be drawn, which the page says, too.

    Raises:
        StudyError: if there is no table, for a damaged one, or if the file cannot be written.
    """
    if out.is_dir():  # told before everything is drawn, and not after
        raise FigureError(f"the report is one file, and {out} is a folder; say --out {out / 'report.html'}")
    report = collect(results, where)
    for section in report.sections:
        if section.missing:
            told = "cannot be drawn" if section.failed else "is missing"
            print(f"{section.name} {told}: {section.missing}", file=sys.stderr)
    print(_write(out, page(report)))
    return 2 if report.failures else 0


def _write(path: Path, content: Figure | str) -> Path:
    def write(temporary: Path) -> None:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
            return
        ending = path.suffix[1:]
        # In memory first: where the disk is full, the writer of PDF falls over its own half-written file.
        drawn = io.BytesIO()
        with style.context():
            content.savefig(drawn, format=ending, metadata=_METADATA[ending])
        temporary.write_bytes(drawn.getvalue())

    return write_atomically(path, write)


def _refuse(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
