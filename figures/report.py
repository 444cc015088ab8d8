"""From a folder of results to the plain data of the report: figures, numbers beside the paper's, and where all is from.

Folders within it that hold tables of studies, such as `longer`, are results of other settings: what they show is in
sections of their own, and their numbers stand beside those of the results themselves.

`figures.page` makes the page of it.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from analysis.schemas import SCHEMAS
from analysis.store import read_study, table_paths
from figures import comparison, style, tabular
from figures.comparison import Number
from figures.data import Where
from figures.errors import MissingTable, StudyError
from figures.registry import FIGURES, Entry

# The fields of a figure's trace that hold the paragraphs below it. The page sets them itself, as text.
_CAPTION = ("caption", "lead", "about")
_POINTS = 72  # an inch


@dataclass(frozen=True)
class Picture:
    """A figure as drawn.

    Attributes:
        stem: the name of its file, without ending.
        dataset: what tells it from the others of its kind; a name in the tables, or empty.
        svg: the picture.
        width, height: of the picture, in points.
        caption: its paragraphs.
        tables: what it was drawn from, study/id.
        title: what it is of, on paper; empty where its data set says that.
    """

    stem: str
    dataset: str
    svg: str
    width: float
    height: float
    caption: tuple[str, ...]
    tables: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Grid:
    """A table, to be set as one; attributes as those of `Picture`."""

    stem: str
    dataset: str
    trace: tabular.Trace
    tables: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """One entry of the registry.

    Attributes:
        name: its name there, after the folder within the results that it is drawn from, if any: longer/fig_a2.
        shows: what it draws, with other entries by their names on paper.
        items: what was drawn.
        missing: why nothing was, and what makes it; empty if something was.
        failed: whether that is a mistake, not a measurement that was never made.
    """

    name: str
    shows: str
    items: tuple[Picture | Grid, ...] = ()
    missing: str = ""
    failed: bool = False

    @property
    def title(self) -> str:
        """Its name on paper: fig_a2 is Figure A.2, table_a1 Table A1."""
        return title_of(self.name)


@dataclass(frozen=True)
class Source:
    """One stored table: `study`, `id`, the folder within the results, and what it says of where it comes from."""

    study: str
    id: str
    provenance: Mapping[str, Any]
    folder: str = ""

    @property
    def name(self) -> str:
        """As figures and numbers name it: study/id, after the folder if there is one."""
        return within(self.folder, f"{self.study}/{self.id}")


@dataclass(frozen=True)
class Report:
    """All that the page shows: entries of the registry, numbers beside the paper's, and every stored table.

    `choices` are the choices of runs that were made, in words.
    """

    sections: tuple[Section, ...]
    numbers: tuple[Number, ...]
    sources: tuple[Source, ...]
    choices: tuple[str, ...]

    @property
    def failures(self) -> dict[str, str]:
        """Why an entry that has tables cannot be drawn, by name."""
        return {section.name: section.missing for section in self.sections if section.failed}


def collect(results: str | Path, where: Sequence[Where] = ()) -> Report:
    """Draw every entry of the registry, each from one reading of its tables, and gather what belongs to it.

    An entry that was not measured, or whose runs do not belong together, is named with the reason; of a folder within
    the results only the latter.

    Args:
        results: folder of results.
        where: choices of runs.

    Raises:
        MissingTable: if there is no table at all.
        StudyError: for a damaged table; a report that could not say where all is from would be none.
    """
    sources = read_sources(results)
    if not sources:
        raise MissingTable(f"no table in {results}; make them with: python -m analysis all --results {results}")
    sections, numbers = _drawn(results, where)
    elsewhere: list[Number] = []
    for folder in folders_within(results):
        sources += read_sources(Path(results) / folder, folder)
        others, longer = _drawn(Path(results) / folder, where, folder)
        sections += [section for section in others if section.items or section.failed]
        elsewhere += longer
        numbers = comparison.of_other_folder(numbers, longer)
    report = Report(tuple(sections), (), sources, tuple(str(choice) for choice in where))
    numbers += [*comparison.unmeasured(numbers, results, report.failures), *elsewhere]
    # What can be compared stands first; else in the order of the registry.
    return replace(report, numbers=tuple(sorted(numbers, key=lambda n: (n.paper is None, math.isnan(n.mean)))))


def folders_within(results: str | Path) -> list[str]:
    """Names of the folders within the results that hold tables of studies, such as longer."""
    return sorted(
        path.name
        for path in Path(results).iterdir()
        if path.is_dir() and path.name not in SCHEMAS and any(table_paths(path, study) for study in SCHEMAS)
    )


def _drawn(results: str | Path, where: Sequence[Where], folder: str = "") -> tuple[list[Section], list[Number]]:
    """Every entry of the registry and the numbers of them all, from `results`, which is `folder` within others."""
    sections, numbers = [], []
    for plain, entry in FIGURES.items():
        name, shows = within(folder, plain), _shows(entry)
        try:
            traces = entry.traces(results, where)
            items = tuple(_item(plain, stem, entry, trace, folder) for stem, trace in traces.items())
        except StudyError as error:
            failed = not isinstance(error, MissingTable)
            sections.append(Section(name, shows, missing=str(error), failed=failed))
            continue
        sections.append(Section(name, shows, items))
        numbers += [number for trace in traces.values() for number in getattr(trace, "numbers", ())]
    return sections, [
        replace(n, folder=folder, tables=tuple(within(folder, table) for table in n.tables))
        for n in comparison.along_training(numbers, results)
    ]


def within(folder: str, name: str) -> str:
    """The name of what is in a folder within the results: longer/fig_a2; without a folder, the name."""
    return f"{folder}/{name}" if folder else name


def read_sources(results: str | Path, folder: str = "") -> tuple[Source, ...]:
    """Every stored table of every study, in the order of `analysis.schemas.SCHEMAS` and of their names.

    Args:
        results: folder of results.
        folder: its name, if it is within others.

    Raises:
        StudyError: for a damaged table.
    """
    found = []
    for study in SCHEMAS:
        if table_paths(results, study):
            provenance = read_study(results, study).attrs["provenance"]
            found += [Source(study, id, origin, folder) for id, origin in provenance.items()]
    return tuple(found)


def title_of(name: str) -> str:
    """The name on paper of an entry of the registry: fig1, fig_a2, table_a1 are Figure 1, Figure A.2, Table A1.

    What the paper does not have is called by its name: loss_line is Loss line. Of a folder within the results,
    longer/fig_a2 is Figure A.2, longer.
    """
    folder, _, name = name.rpartition("/")
    if folder:
        return f"{title_of(name)}, {folder}"
    if name.startswith("fig"):
        return f"Figure {name.removeprefix('fig').lstrip('_').replace('a', 'A.')}"
    if name.startswith("table"):
        return f"Table {name.removeprefix('table').lstrip('_').upper()}"
    return name.replace("_", " ").capitalize()


def _shows(entry: Entry) -> str:
    """What an entry draws, without what it writes besides: that is not on the page."""
    shows = re.sub(r",( with the differences)? as Markdown.*", "", entry.shows)
    for name in FIGURES:
        shows = re.sub(rf"\b{name}\b", title_of(name), shows)
    return shows


def _item(name: str, stem: str, entry: Entry, trace: Any, folder: str) -> Picture | Grid:
    dataset, stem = stem.removeprefix(name).lstrip("_"), within(folder, stem)
    tables = tuple(within(folder, table) for table in dict.fromkeys(tables_of(trace)))
    if isinstance(trace, tabular.Trace):
        return Grid(stem, dataset, trace, tables)
    there = [name for name in _CAPTION if hasattr(trace, name)]
    caption = tuple(paragraph for name in there for paragraph in getattr(trace, name))
    figure, _ = entry.draw(replace(trace, **dict.fromkeys(there, ())))
    drawn = io.StringIO()
    # Letters as outlines: the page brings no font with it, and is read on machines that have not the style's.
    with style.context(), plt.rc_context({"svg.fonttype": "path"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    width, height = _POINTS * figure.get_size_inches()
    # The name of a network in that of a file is no title. Figures of the paper are one a data set, and have its name.
    title = "" if dataset in style.DATASETS else getattr(trace, "title", "").replace("\n", ", ")
    return Picture(stem, dataset, drawn.getvalue(), float(width), float(height), caption, tables, title)


def tables_of(trace: Any) -> Iterator[str]:
    """The stored tables that a trace was made from, study/id: whatever within it has a field `tables` names them."""
    if is_dataclass(trace):
        for field in fields(trace):
            value = getattr(trace, field.name)
            if field.name == "tables":
                yield from value
            else:
                yield from tables_of(value)
    elif isinstance(trace, tuple | list):
        for value in trace:
            yield from tables_of(value)
