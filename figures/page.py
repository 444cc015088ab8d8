"""The report as one HTML page that needs nothing beside itself: no network, no font, and no script to be read.

All text passes through `element`, which escapes it. What sorts and filters is `report.js`, what it looks like
`report.css`; both are put into the page, whose policy lets a browser run and load nothing else.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from figures import captions, style
from figures.comparison import STATUSES, UNPUBLISHED, Number
from figures.report import Grid, Picture, Report, Section, Source, title_of, within
from figures.tabular import ABSENT, LOST, UNSTATED

_VOID = {"img", "input", "meta"}
_SHOWN_COMMIT = 10  # letters, enough to find it by


class Markup(str):
    """Text that is HTML already."""


def element(tag: str, *children: "str | None", **attributes: "str | float | bool | None") -> Markup:
    """An element; children and attributes that are no `Markup` are escaped.

    Args:
        tag: its name.
        children: text or markup; None is left out.
        attributes: by name, `_` for `-`, and a trailing `_` where Python has the word; True is one without a value,
            None and False are left out.
    """
    told = ""
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        told += f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Markup(f"<{tag}{told}>")
    inner = "".join(child if isinstance(child, Markup) else html.escape(child) for child in children if child)
    return Markup(f"<{tag}{told}>{inner}</{tag}>")


def page(report: Report) -> str:
    """The whole page."""
    script, look = (Path(__file__).with_name(f"report.{ending}").read_text("utf-8") for ending in ("js", "css"))
    policy = (
        f"default-src 'none'; img-src data:; script-src {_digest(script)}; style-src {_digest(look)}; "
        "base-uri 'none'; form-action 'none'"
    )
    anchors = {source.name: f"t{i}" for i, source in enumerate(report.sources)}
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "adaptlens: results beside the paper's"),
        element("style", Markup(look)),
    )
    links = {"figures": "Figures and tables", "numbers": "Beside the paper", "provenance": "Where it comes from"}
    body = element(
        "body",
        element(
            "header",
            element("h1", "Results beside the paper’s"),
            *_summary(report),
            element("nav", *(element("a", text, href=f"#{id}") for id, text in links.items()), aria_label="Parts"),
        ),
        element(
            "main",
            element(
                "section",
                element("h2", links["figures"]),
                _contents(report.sections),
                *(_section(section, anchors) for section in report.sections),
                id="figures",
            ),
            element("section", element("h2", links["numbers"]), *_numbers(report, anchors), id="numbers"),
            element("section", element("h2", links["provenance"]), *_provenance(report, anchors), id="provenance"),
        ),
        element("script", Markup(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _summary(report: Report) -> list[Markup]:
    own = [section for section in report.sections if "/" not in section.name]
    of_paper = [section for section in own if section.name.startswith(("fig", "table"))]
    drawn, beyond, again = (
        sum(bool(section.items) for section in group)
        for group in (
            of_paper,
            [section for section in own if section not in of_paper],
            [section for section in report.sections if section not in own],
        )
    )
    folders = sorted({section.name.partition("/")[0] for section in report.sections if section not in own})
    told_again = f", and {again} again of other settings ({', '.join(folders)})" if again else ""
    shown = {table for section in report.sections for item in section.items for table in item.tables}
    dates = sorted(str(source.provenance["date"])[:10] for source in report.sources)
    compared = [n for n in report.numbers if n.paper is not None]
    counts = {status: sum(n.status == status for n in compared) for status in STATUSES}
    told = "; ".join(f"{status}, {count}" for status, count in counts.items() if count)
    return [
        element(
            "p",
            f"{drawn} of {len(of_paper)} figures and tables of “Decoupling adaptation from modeling with "
            f"meta-optimizers for meta learning” and {beyond} beyond it{told_again}, made from {len(shown)} of "
            f"{len(report.sources)} stored tables, which were measured {dates[0]} to {dates[-1]}.",
        ),
        element(
            "p",
            f"{len(compared)} comparisons with numbers of the paper (one that two tables have counts twice): {told}.",
        ),
        *([element("p", f"Chosen runs: {', '.join(report.choices)}.")] if report.choices else []),
    ]


def _contents(sections: Sequence[Section]) -> Markup:
    entries = [
        element("li", element("a", s.title, href=f"#{s.name}"), "" if s.items else " (not drawn)") for s in sections
    ]
    return element("ul", *entries, class_="contents")


def _section(section: Section, anchors: Mapping[str, str]) -> Markup:
    parts = [element("h3", section.title), element("p", f"{section.shows[0].upper()}{section.shows[1:]}.")]
    if section.missing:
        kind = "Cannot be drawn" if section.failed else "Not measured"
        parts.append(element("p", f"{kind}: {section.missing}", class_="missing"))
    for item in section.items:
        parts.append(_picture(section, item, anchors) if isinstance(item, Picture) else _grid(section, item, anchors))
    return element("article", *parts, id=section.name)


def _picture(section: Section, item: Picture, anchors: Mapping[str, str]) -> Markup:
    title = _item_title(section, item)
    picture = element(
        "img",
        src=f"data:image/svg+xml;base64,{base64.b64encode(item.svg.encode()).decode()}",
        alt=f"{title}: {section.shows}. What it shows in numbers is in its caption and in the table of numbers.",
        width=round(item.width * 4 / 3),  # a point is 4/3 of a pixel
        height=round(item.height * 4 / 3),
    )
    return element(
        "figure",
        _scrolled(picture, title, class_="picture"),
        element(
            "figcaption",
            element("p", element("strong", f"{title}.")),
            *(element("p", paragraph) for paragraph in item.caption),
            _drawn_from(item.tables, anchors),
        ),
        id=item.stem if item.stem != section.name else None,
    )


def _grid(section: Section, item: Grid, anchors: Mapping[str, str]) -> Markup:
    trace, title = item.trace, _item_title(section, item)
    groups = [
        element("th", name, scope="colgroup" if name else "col", colspan=len(list(members)))
        for name, members in groupby(column.group for column in trace.columns)
    ]
    blank = element("td", rowspan=2)
    heads = [element("th", column.head, scope="col") for column in trace.columns]
    rows = []
    for i, name in enumerate(trace.rows):
        cells = []
        for column in trace.columns:
            cell = column.cells[i]
            small = [*_small(cell.interval), *_small(cell.lost)]
            muted = "muted" if cell.value in (LOST, ABSENT, UNSTATED) else None
            cells.append(element("td", cell.value, *small, class_=muted))
        ruled = "ruled" if i in trace.ruled else None
        rows.append(element("tr", element("th", name, scope="row"), *cells, class_=ruled))
    table = element(
        "table",
        element("caption", title),
        element("thead", element("tr", blank, *groups), element("tr", *heads)),
        element("tbody", *rows),
        class_="grid",
    )
    notes = element("ul", *(element("li", note) for note in trace.notes), class_="notes")
    whole = (_scrolled(table, title), notes, _drawn_from(item.tables, anchors))
    return element("div", *whole, id=item.stem if item.stem != section.name else None)


def _item_title(section: Section, item: Picture | Grid) -> str:
    return f"{section.title}, {item.title or style.dataset_name(item.dataset)}" if item.dataset else section.title


def _scrolled(content: Markup, name: str, class_: str = "") -> Markup:
    """What may be wider than the page, in a region of its own that the keyboard can reach and scroll."""
    return element(
        "div", content, class_=f"scroll {class_}".strip(), role="region", aria_label=f"{name}, scrollable", tabindex=0
    )


def _drawn_from(tables: Sequence[str], anchors: Mapping[str, str]) -> Markup:
    links = [element("li", element("a", name, href=f"#{anchors[name]}")) for name in tables]
    word = "table" if len(tables) == 1 else "tables"
    return element("details", element("summary", f"Made from {len(tables)} stored {word}"), element("ul", *links))


_REASONS = "what differs, what training showed, or why a number is missing"
# Heading, how it sorts, and whether one can choose among its values.
_NUMBER_COLUMNS = (
    ("figure or table", "text", True),
    ("data set", "text", True),
    ("model", "text", False),
    ("method", "text", True),
    ("layers", "number", False),
    ("condition", "text", False),
    ("ours", "number", False),
    ("interval", "number", False),
    ("runs", "number", False),
    ("test tasks", "number", False),
    ("paper", "number", False),
    ("ours less paper’s", "number", False),
    ("status", "text", True),
    (_REASONS, "text", False),
    ("stored tables", "number", False),
)


def _numbers(report: Report, anchors: Mapping[str, str]) -> list[Markup]:
    drawn = {section.name for section in report.sections}
    rows = [element("tr", *_number_cells(n, anchors, drawn)) for n in report.numbers]
    intro = (
        "Accuracies on test tasks after adaptation in percent, differences of two in percentage points. The interval "
        "is over test tasks, within these runs: it speaks for new tasks, not for new runs, whose standard deviation "
        "stands below their mean. What differs between the settings is read from the runs’ configurations and from "
        "what the paper states, and what training showed from curves, seeds and longer trainings; none of it need be "
        f"the cause. “{UNPUBLISHED.capitalize()}”: the paper’s plots and its "
        "Table 1 were pictures, and are lost."
    )
    return [element("p", intro), *_sortable("compared", "Our numbers beside the paper’s", _NUMBER_COLUMNS, rows)]


def _number_cells(n: Number, anchors: Mapping[str, str], drawn: Iterable[str]) -> list[Markup]:
    figure = within(n.folder, n.figure)
    title = title_of(figure)
    link = element("a", title, href=f"#{figure}") if figure in drawn else title
    interval = f"[{_shown(n.low, n.unit)}, {_shown(n.high, n.unit)}]" if n.interval else ""
    links = []
    for i, name in enumerate(n.tables, 1):
        links += [Markup(" "), element("a", str(i), href=f"#{anchors[name]}", title=name, aria_label=f"table {name}")]
    paper: list[str] = []
    if n.paper is not None:
        value = _stated(n.paper.accuracy, n.unit) + ("" if n.paper.std is None else f" ± {n.paper.std:.2f}")
        paper = [value, *_small(n.paper.source), *_small(n.paper.note)]
    spread = "" if math.isnan(n.std) else f"± {n.std:.1f}"
    return [
        element("th", link, scope="row"),
        element("td", style.dataset_name(n.dataset)),
        element("td", style.model_name(n.model)),
        element("td", style.method_name(n.method)),
        _number(n.layers, "" if n.layers is None else str(n.layers)),
        element("td", n.condition),
        _number(n.mean, _shown(n.mean, n.unit), *_small(spread), *_small(n.lost)),
        _number(n.low, interval, *_small(n.interval), class_="number interval"),
        _number(n.num_runs, "" if n.num_runs is None else str(n.num_runs)),
        _number(n.num_tasks or None, f"{n.num_tasks:,}" if n.num_tasks else ""),
        _number(None if n.paper is None else n.paper.accuracy, *paper, class_="number paper"),
        _number(n.difference, "" if math.isnan(n.difference) else captions.signed(n.difference)),
        element("td", n.status, class_=f"status s{STATUSES.index(n.status)}"),
        element("td", "; ".join(n.reasons), class_="long"),
        _number(len(n.tables) or None, *links),
    ]


def _small(text: str | None) -> list[Markup]:
    """A line of small print within a cell, none without text; the space is for those who hear or search it."""
    return [Markup(" "), element("small", text)] if text else []


def _number(value: float | None, *shown: str, class_: str = "number") -> Markup:
    """A cell that sorts by a number, or as missing."""
    missing = value is None or math.isnan(value)
    return element("td", *shown, class_=class_, data_value="" if missing else repr(value))


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return ""
    return captions.signed(value) if unit == "points" else f"{value:.1f}"


def _stated(value: float, unit: str) -> str:
    """The paper's number with its own digits."""
    if unit == "points":
        return captions.signed(value, 2)
    return f"{value}" if value == int(value) else f"{value:.2f}"


def _sortable(
    id: str, caption: str, columns: Sequence[tuple[str, str, bool]], rows: Sequence[Markup]
) -> tuple[Markup, Markup]:
    """A table that the script lets one sort and filter, below the form with which one does; without it, a table."""
    choices = [
        element("label", f"{head} ", element("select", element("option", "all", value=""), data_column=i))
        for i, (head, _, chosen) in enumerate(columns)
        if chosen
    ]
    form = element(
        "form",
        element("label", "text ", element("input", type="search", placeholder="in any column")),
        *choices,
        element("button", "show all", type="reset"),
        element("output", f"{len(rows)} of {len(rows)} rows"),
        class_="filter",
        data_table=id,
        aria_label=f"Filter: {caption}",
        hidden=True,
    )
    heads = [element("th", head, scope="col", data_sort=kind) for head, kind, _ in columns]
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        id=id,
        class_="sortable",
    )
    return form, _scrolled(table, caption, class_="tall")


_SOURCE_COLUMNS = (
    ("table", "text", False),
    ("study", "text", True),
    ("data set", "text", True),
    ("model", "text", False),
    ("method", "text", True),
    ("seed", "number", False),
    ("status", "text", True),
    ("date (UTC)", "text", False),
    ("seconds", "number", False),
    ("code version", "text", False),
    ("device", "text", False),
    ("data fingerprint", "text", False),
    ("settings", "text", False),
    ("run’s configuration", "text", False),
    ("packages", "number", False),
    ("command", "number", False),
)


def _provenance(report: Report, anchors: Mapping[str, str]) -> list[Markup]:
    # Many tables were made by one command with one set of packages: each is printed once, and has a number.
    commands = _numbered(source.provenance["command"] for source in report.sources)
    packages = _numbered(_listed(source.provenance["packages"]) for source in report.sources)
    rows = []
    for source in report.sources:
        at = commands[source.provenance["command"]], packages[_listed(source.provenance["packages"])]
        rows.append(element("tr", *_source_cells(source, *at), id=anchors[source.name]))
    intro = (
        "Every stored table: what was measured, of which run, by which code, where and when. Settings are the study’s, "
        "the configuration is the run’s (what it leaves to its data set or model is not listed)."
    )
    return [
        element("p", intro),
        *_sortable("sources", "Stored tables", _SOURCE_COLUMNS, rows),
        element("h3", "Commands"),
        _list("command", commands),
        element("h3", "Packages"),
        _list("packages", packages),
    ]


def _source_cells(source: Source, command: int, packages: int) -> list[Markup]:
    origin = source.provenance
    config = {key: value for key, value in origin["config"].items() if value is not None}
    seconds, seed = float(origin["wall_seconds"]), config.get("seed")
    version = str(origin["code_version"])
    shown = version[:_SHOWN_COMMIT] + ("-dirty" if version.endswith("-dirty") and len(version) > _SHOWN_COMMIT else "")
    listed = _listed(config)
    return [
        element("th", source.id, scope="row", class_="id"),
        element("td", source.name.rpartition("/")[0]),
        element("td", style.dataset_name(config.get("dataset") or "")),
        element("td", style.model_name(config.get("model") or "")),
        element("td", style.method_name(config.get("method") or "")),
        _number(seed, "" if seed is None else str(seed)),
        element("td", origin.get("run_status") or ""),
        element("td", str(origin["date"]), class_="date"),
        _number(seconds, f"{seconds:,.1f}"),
        element("td", element("code", shown, title=version)),
        element("td", str(origin["device"])),
        element("td", element("code", str(origin["dataset_fingerprint"]))),
        element("td", _listed(origin["settings"]), class_="settings"),
        element("td", element("details", element("summary", "show"), listed) if listed else ""),
        _number(packages, element("a", f"packages {packages}", href=f"#packages-{packages}")),
        _number(command, element("a", f"command {command}", href=f"#command-{command}")),
    ]


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    return {text: i for i, text in enumerate(dict.fromkeys(texts), 1)}


def _list(name: str, texts: Mapping[str, int]) -> Markup:
    return element("ol", *(element("li", element("code", text), id=f"{name}-{i}") for text, i in texts.items()))


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings in one line: key value, key value."""
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in sorted(settings.items())}
    return ", ".join(f"{key} {value}" for key, value in shown.items())
