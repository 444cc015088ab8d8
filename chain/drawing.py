"""The last step of the chain: a figure, from the tables that are its own and from no others. Loads no torch."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import analysis
import figures
from analysis.errors import StudyError, unknown_name
from analysis.files import read_json, write_atomically
from analysis.store import table_paths
from chain.digests import digest_of
from chain.lists import BEYOND, FIGURES

Tables = Sequence[tuple[str, str]]
_ALL = {**FIGURES, **BEYOND}


def record_path(results: Path | str, figure: str) -> Path:
    """Where it is written down what a figure was drawn from, and as which files."""
    return Path(results) / "chain" / "drawn" / f"{figure}.json"


def tables_there(results: Path | str, figure: str) -> tuple[tuple[str, str], ...]:
    """Every table in `results` of the studies that a figure shows, as (study, table).

    Raises:
        StudyError: for an unknown figure.
    """
    if figure not in _ALL:
        raise unknown_name("figure", figure, _ALL)
    return tuple((study, path.stem) for study in _ALL[figure].studies for path in table_paths(results, study))


def is_drawn(results: Path | str, figure: str, tables: Tables) -> bool:
    """Whether a figure was drawn from just these tables, as they are now, by this code, and its files are there."""
    try:
        record = read_json(record_path(results, figure))
    except StudyError:
        return False
    files = record.get("files") if isinstance(record, dict) else None
    if isinstance(files, list):  # a record of an earlier version: what was in the files is not known
        files = dict.fromkeys(map(str, files))
    if not isinstance(files, dict) or any("\0" in name for name in files):
        return False
    is_same = record.get("tables") == _names(tables) and record.get("code") == drawing_code()
    # Records of earlier versions say nothing of what was in the tables: there their times alone tell.
    is_same = is_same and ("digests" not in record or record["digests"] == digests_of(results, tables))
    folder = Path(results) / "figures"
    return is_same and all(
        (folder / name).exists() and digest in (None, digest_of(folder / name)) for name, digest in files.items()
    )


def draw(results: Path | str, figure: str, tables: Tables) -> list[Path]:
    """Draw a figure from these tables alone, and write down which they were.

    Args:
        results: folder of results; files go into its `figures`.
        figure: a name in `FIGURES` or `BEYOND`.
        tables: (study, table) of each table; others that lie beside them are not looked at.

    Returns:
        The files written.

    Raises:
        MissingTable: if the tables do not hold what the figure shows.
        StudyError: for an unknown figure, a table that is not there, or one that cannot be drawn.
    """
    from figures.__main__ import make

    if figure not in _ALL:
        raise unknown_name("figure", figure, _ALL)
    root = Path(results)
    digests = digests_of(results, tables)  # before they are read: what is put in their place meanwhile is another
    with tempfile.TemporaryDirectory() as only:
        for study, table in tables:
            path = root / study / f"{table}.parquet"
            if not path.exists():
                raise StudyError(f"{path} does not exist")
            link = Path(only) / study / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.resolve())
        try:
            written = make(figure, Path(only), root / "figures", ("png",))
        except StudyError as error:  # of files where they really are
            raise type(error)(str(error).replace(only, os.fspath(root))) from error
    write_record(root, figure, tables, written, digests)
    return written


def digests_of(results: Path | str, tables: Tables) -> list[str]:
    """The digest of each table's file, empty for one that cannot be read."""
    return [digest_of(Path(results) / study / f"{table}.parquet") for study, table in tables]


def write_record(
    results: Path | str, figure: str, tables: Tables, written: Sequence[Path], digests: Sequence[str]
) -> None:
    """Write down that a figure was drawn from these tables, with what `digests_of` said of them before.

    Raises:
        StudyError: if it cannot be written.
    """
    record = {
        "tables": _names(tables),
        "digests": list(digests),
        "files": {path.name: digest_of(path) for path in written},
        "code": drawing_code(),
    }

    def write(temporary: Path) -> None:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    write_atomically(record_path(results, figure), write)


@cache
def drawing_code() -> str:
    """Digest of the code that draws: of `figures`, of what it imports of `analysis`, and matplotlib's version."""
    digest = hashlib.blake2b(metadata.version("matplotlib").encode(), digest_size=8)
    own = Path(figures.__path__[0])
    others = [Path(analysis.__path__[0]) / f"{name}.py" for name in ("files", "schemas", "statistics", "store")]
    for path in [*sorted(own.glob("*.py")), *sorted(own.glob("*.mplstyle")), *others]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _names(tables: Tables) -> list[str]:
    return [f"{study}/{table}" for study, table in tables]
