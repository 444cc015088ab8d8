"""The page, read as a browser would: parsed, and every reference followed."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.store import provenance, read_provenance, table_path, write_table
from figures.page import Markup, element, page
from figures.registry import FIGURES
from figures.report import collect
from tests.figures.conftest import Results

VOID = {"meta", "img", "input"}
EVIL = '<script>alert("1")</script> & \'<img src=x onerror=alert(1)>'


class Node:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children, self.texts = [], []
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"

    def all(self, tag=None, **attributes):
        """Every element below with this tag and these attributes."""
        found = []
        for child in self.children:
            wanted = all(child.attributes.get(key.rstrip("_").replace("_", "-")) == v for key, v in attributes.items())
            found += [child] if wanted and tag in (None, child.tag) else []
            found += child.all(tag, **attributes)
        return found

    def one(self, tag=None, **attributes):
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self):
        return "".join(part if isinstance(part, str) else part.text for part in self.texts)


class Reader(HTMLParser):
    """Builds a tree, and refuses what a browser would have to repair."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.at = Node("", [], None)

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes, self.at)
        self.at.children.append(node)
        self.at.texts.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"{tag} ends itself, which HTML does not know")

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> within <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.texts.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.at is reader.root, f"{reader.at.tag} is not closed"
    return reader.root


@pytest.fixture
def filled(results):
    for seed in (0, 1):
        results.measured("synthetic", "lr", "maml", seed, [0.5, 0.54, 0.52 + 0.01 * seed])
        results.measured("glyphs", "linnet", "maml", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.curve("glyphs", "lr", "kfc", seed, {0: 0.2, 10: 0.3 + 0.1 * seed, 600: 0.7})
        results.compared("depth_sweep", "glyphs", 2, "kfc", seed, [0.5, 0.6, 0.7 + 0.1 * seed])
    results.compared("optimizer_comparison", "glyphs", 2, "kfc", 0, [0] * 3, status="diverged")
    results.ceilings({("mean classifier", "same"): [0.9, 0.94]})
    Results(results.folder / "longer").compared("depth_sweep", "glyphs", 2, "kfc", 0, [0.9, 0.8], iterations=900)
    return results


@pytest.fixture
def root(filled):
    return read(page(collect(filled.folder)))


def rows_of(table):
    heads = [head.text for head in table.one("thead").all("th")]
    return [dict(zip(heads, row.children, strict=True)) for row in table.one("tbody").all("tr")]


def test_it_holds_every_figure_that_has_data_and_names_the_others(root, filled):
    found = collect(filled.folder)
    for section in found.sections:
        article = root.one("article", id=section.name)
        assert article.one("h3").text == section.title
        pictures, grids = article.all("img"), article.all("table", class_="grid")
        assert len(pictures) + len(grids) == len(section.items)
        if section.missing:
            assert article.one("p", class_="missing").text == f"Not measured: {section.missing}"
    assert {article.attributes["id"] for article in root.all("article")} == {
        *FIGURES, "longer/fig3", "longer/table_a1",
    }  # fmt: skip
    assert "and 2 again of other settings (longer), made from" in root.one("header").text


def test_nothing_is_taken_from_elsewhere(root, filled):
    for node in root.all():
        assert node.tag not in {"link", "iframe", "object", "base"}
        for name in ("src", "srcset", "action", "background", "poster"):
            assert node.attributes.get(name, "data:").startswith("data:")
        assert node.attributes.get("href", "#").startswith("#")
        assert "style" not in node.attributes  # which the policy forbids
        assert not [name for name in node.attributes if name.startswith("on")]
    policy = root.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        digest = base64.b64encode(hashlib.sha256(root.one(tag).text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|https?:", root.one("style").text + root.one("script").text
    )


def test_every_link_leads_somewhere_and_no_name_is_given_twice(root):
    ids = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    links = [node.attributes["href"] for node in root.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_it_can_be_read_by_ear(root):
    for picture in root.all("img"):
        assert len(picture.attributes["alt"]) > 40
        assert int(picture.attributes["width"]) > 100
    for table in root.all("table"):
        assert table.one("caption").text
        assert {head.attributes["scope"] for head in table.one("thead").all("th")} <= {"col", "colgroup"}
        for row in table.one("tbody").all("tr"):
            assert row.children[0].attributes["scope"] == "row"
        region = table.parent.attributes
        assert (region["role"], region["tabindex"]) == ("region", "0")
        assert table.one("caption").text in region["aria-label"]
    assert root.one("html").attributes["lang"] == "en"
    for form in root.all("form"):
        assert "hidden" in form.attributes  # without a script there is nothing to fill in
        for field in [*form.all("input"), *form.all("select")]:
            assert field.parent.tag == "label"
    assert [int(h.tag[1]) for h in root.all() if re.fullmatch(r"h\d", h.tag)][:3] == [1, 2, 3]


def test_the_numbers_are_those_of_the_report(root, filled):
    rows, numbers = rows_of(root.one("table", id="compared")), collect(filled.folder).numbers
    assert len(rows) == len(numbers)
    for row, n in zip(rows, numbers, strict=True):
        assert row["status"].text == n.status
        assert row["what differs, what training showed, or why a number is missing"].text == "; ".join(n.reasons)
        shown = row["ours"].attributes["data-value"]
        assert (shown == "") if n.mean != n.mean else float(shown) == n.mean
        assert len(row["stored tables"].all("a")) == len(n.tables)
        for link, table in zip(row["stored tables"].all("a"), n.tables, strict=True):
            target = root.one("tr", id=link.attributes["href"][1:])
            assert f"{target.children[1].text}/{target.children[0].text}" == table
    (one,) = (row for row in rows if row["figure or table"].text == "Table A1" and row["ours"].text)
    assert one["ours"].text == "61.7 ± 2.4"  # of 60.0 and 63.3
    assert one["paper"].text.startswith("91.13 ± 0.93")
    assert one["ours less paper’s"].text == "−29.5"
    (lost,) = (row for row in rows if row["status"].text == "diverged or failed")
    assert lost["ours"].text.strip() == "1 of 1 diverged"


def test_every_stored_table_says_where_it_is_from(root, filled):
    rows = rows_of(root.one("table", id="sources"))
    assert len(rows) == len(list(filled.folder.rglob("*.parquet")))
    for row in rows:
        folder, _, study = row["study"].text.rpartition("/")
        origin = read_provenance(table_path(filled.folder / folder, study, row["table"].text))
        assert row["date (UTC)"].text == origin["date"]
        assert row["code version"].one("code").attributes["title"] == origin["code_version"]
        assert row["device"].text == "cpu"
        assert float(row["seconds"].attributes["data-value"]) == origin["wall_seconds"]
        command = root.one("li", id=row["command"].one("a").attributes["href"][1:])
        assert command.text == origin["command"]
        packages = root.one("li", id=row["packages"].one("a").attributes["href"][1:]).text
        assert packages == ", ".join(f"{name} {version}" for name, version in sorted(origin["packages"].items()))
        for key, value in origin["config"].items():
            shown = value if isinstance(value, str) else json.dumps(value)
            assert (f"{key} {shown}" in row["run’s configuration"].text) == (value is not None)


def test_markup_in_a_name_or_in_what_a_table_says_stays_text(filled):
    # The least likely of texts, where text can stand: in a run's id, its configuration, the command, the version.
    config = {**filled.config("glyphs", "lr", "kfc", 0), "note": EVIL}
    id = "<b>bold&amp;"
    frame = pd.DataFrame({"iteration": [0, 600], "split": "test", "loss": 0.5, "accuracy": [0.2, 0.7]}).assign(
        run=id, dataset="glyphs", model="lr", method="kfc", seed=0, status="ok", num_tasks=20
    )
    for path in (filled.folder / "training_curves").iterdir():
        path.unlink()
    said = provenance(config=config, settings={EVIL: EVIL}, device=EVIL, dataset_fingerprint=EVIL, command=EVIL)
    said |= {"code_version": EVIL, "run_status": EVIL, "packages": {"torch": EVIL}}
    write_table(filled.folder, "training_curves", id, frame, said)
    text = page(collect(filled.folder))
    root = read(text)
    assert len(root.all("script")) == 1
    assert not root.all("b")
    assert not [node for node in root.all("img") if node.attributes["src"] == "x"]
    (row,) = (row for row in rows_of(root.one("table", id="sources")) if row["study"].text == "training_curves")
    assert row["table"].text == id
    for head in ("status", "device", "data fingerprint"):
        assert row[head].text == EVIL
    assert row["settings"].text == f"{EVIL} {EVIL}"
    assert EVIL in row["run’s configuration"].text
    assert row["code version"].one("code").attributes["title"] == EVIL
    assert root.one("li", id=row["command"].one("a").attributes["href"][1:]).text == EVIL
    assert id in root.one("article", id="fig_a1").text


def test_the_same_tables_give_the_same_page(filled):
    assert page(collect(filled.folder)) == page(collect(filled.folder))


def test_elements_escape_all_that_is_not_markup():
    inner = element("b", "<&>\"'")
    assert inner == "<b>&lt;&amp;&gt;&quot;&#x27;</b>"
    assert element("p", inner, "a < b", None, class_='x"y', data_value=1.5, hidden=True, id=None) == (
        '<p class="x&quot;y" data-value="1.5" hidden><b>&lt;&amp;&gt;&quot;&#x27;</b>a &lt; b</p>'
    )
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert isinstance(inner, Markup)


def test_a_network_of_no_figure_of_the_paper_has_its_title(filled):
    positions = pd.DataFrame([(0, p, s, 1.0, 0.5) for p in (0.0, 1.0) for s in ("support", "query")],
                             columns=["task", "position", "split", "loss", "accuracy"])  # fmt: skip
    filled.studied("loss_line", positions)
    titles = [caption.one("strong").text for caption in read(page(collect(filled.folder))).all("figcaption")]
    assert "Loss line, CNN-4 on Glyphs, 10-way 5-shot." in titles
    assert "Figure 3, Glyphs." in titles
