"""What the report is made of, from small folders of results."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import pytest

from figures import report, tabular
from figures.errors import MissingTable, StudyError
from figures.registry import FIGURES
from figures.report import Grid, Picture, collect


@pytest.fixture
def filled(results):
    for seed in (0, 1):
        results.measured("synthetic", "lr", "maml", seed, [0.5, 0.54, 0.52 + 0.01 * seed])
        results.measured("glyphs", "linnet", "maml", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.measured("glyphs", "lr", "klin", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.curve("glyphs", "lr", "kfc", seed, {0: 0.2, 10: 0.3 + 0.1 * seed, 600: 0.7})
        results.compared("depth_sweep", "glyphs", 2, "kfc", seed, [0.5, 0.6, 0.7 + 0.1 * seed])
    results.ceilings({("mean classifier", "same"): [0.9, 0.94]})
    return results


def test_every_entry_of_the_registry_is_in_it_drawn_or_named(filled):
    found = collect(filled.folder)
    assert [section.name for section in found.sections] == list(FIGURES)
    drawn = {section.name: section.items for section in found.sections if section.items}
    assert set(drawn) == {"fig1", "fig3", "table1", "fig_a1", "table_a1"}
    assert {type(item) for name in ("fig1", "fig3", "fig_a1") for item in drawn[name]} == {Picture}
    assert {type(item) for name in ("table1", "table_a1") for item in drawn[name]} == {Grid}
    for section in found.sections:
        assert bool(section.missing) != bool(section.items)
        if section.missing:
            assert not section.failed
            # The command that makes it.
            assert f"--results {filled.folder}" in section.missing or section.missing.endswith("make bench")
    assert found.failures == {}


def test_each_entry_reads_its_tables_once(filled, monkeypatch):
    calls = []
    for name, entry in FIGURES.items():
        counted = lambda results, where, name=name, entry=entry: calls.append(name) or entry.traces(results, where)
        monkeypatch.setitem(FIGURES, name, report.Entry(entry.shows, counted, entry.draw, entry.texts))
    collect(filled.folder)
    assert calls == list(FIGURES)


def test_a_picture_brings_its_letters_and_leaves_its_caption_to_the_page(filled):
    for section in collect(filled.folder).sections:
        for item in section.items:
            if isinstance(item, Picture):
                root = ElementTree.fromstring(item.svg)
                names = {node.tag.rpartition("}")[2] for node in root.iter()}
                assert "text" not in names  # which a machine without the font would set in another
                assert "path" in names
                assert root.get("viewBox").split() == ["0", "0", f"{item.width:g}", f"{item.height:g}"]
                assert item.caption
                assert all(paragraph.strip() for paragraph in item.caption)
                (trace,) = (
                    t for stem, t in FIGURES[section.name].traces(filled.folder, ()).items() if stem == item.stem
                )
                figure, _ = FIGURES[section.name].draw(trace)
                assert 72 * figure.get_figheight() > item.height + 5  # with its caption it is higher


def test_figures_and_numbers_name_the_tables_that_they_are_from(filled):
    found = collect(filled.folder)
    runs = {section.name: item.tables for section in found.sections for item in section.items}
    of_linear = [f"post_adaptation/{r}" for r in ("synthetic-lr-maml-s0-30000", "synthetic-lr-maml-s1-30000")]
    of_glyphs = [f"post_adaptation/glyphs-{r}-600" for r in ("linnet-maml-s0", "linnet-maml-s1")]
    assert sorted(runs["fig1"]) == sorted([*of_linear, *of_glyphs, "ceilings/c"])  # KLin is in Table 1 alone
    of_klin = [f"post_adaptation/glyphs-lr-klin-s{seed}-600" for seed in (0, 1)]
    assert sorted(runs["table1"]) == sorted([*runs["fig1"], *of_klin])
    assert sorted(runs["fig_a1"]) == [f"training_curves/glyphs-lr-kfc-s{seed}-600" for seed in (0, 1)]
    assert runs["fig3"] == runs["table_a1"] == tuple(f"depth_sweep/glyphs-cnn2-kfc-s{seed}-600" for seed in (0, 1))
    stored = {source.name for source in found.sources}
    assert stored == {f"{path.parent.name}/{path.stem}" for path in filled.folder.rglob("*.parquet")}
    assert {table for number in found.numbers for table in number.tables} <= stored
    assert {table for tables in runs.values() for table in tables} <= stored


def test_numbers_that_can_be_compared_stand_first(filled):
    numbers = collect(filled.folder).numbers
    ranks = [0 if n.paper and n.num_tasks else 1 if n.paper else 2 for n in numbers]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


def test_runs_that_do_not_belong_together_are_told_and_the_rest_is_drawn(filled):
    filled.compared("depth_sweep", "glyphs", 2, "kfc", 5, [0.5, 0.6, 0.7], iterations=60)
    found = collect(filled.folder)
    assert set(found.failures) == {"fig3", "table_a1"}
    assert "differ in iterations" in found.failures["fig3"]
    lost = [n for n in found.numbers if n.figure == "table_a1"]
    assert {n.reasons[0] for n in lost} == {found.failures["table_a1"]}  # no command would make them
    assert any(section.items for section in found.sections)
    chosen = collect(filled.folder, [report.Where.parse("glyphs:iterations=600")])
    assert chosen.failures == {}


def test_without_any_table_there_is_no_report(results):
    with pytest.raises(MissingTable, match=r"no table in .*; make them with: python -m analysis all --results"):
        collect(results.folder)


def test_a_damaged_table_makes_no_report(filled):
    table = next((filled.folder / "training_curves").iterdir())
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(StudyError, match="truncated, damaged"):
        collect(filled.folder)


def test_what_an_entry_shows_is_told_for_the_page(filled):
    shows = {section.name: section.shows for section in collect(filled.folder).sections}
    assert shows["table_a1"] == (
        "the numbers of Figure 3 with the paper's, the parameters of networks and meta-optimizers, and how long they "
        "were trained"
    )
    assert shows["fig2"].endswith("and noise on the last layer")
    assert shows["fig_a3"].startswith("as Figure A.2, on")


def test_names_on_paper():
    titles = {name: report.title_of(name) for name in FIGURES}
    assert len(set(titles.values())) == len(titles)
    assert titles["when_shallow_fails"] == "When shallow fails"
    assert {name: title for name, title in titles.items() if name.startswith(("fig", "table"))} == {
        "fig1": "Figure 1", "fig2": "Figure 2", "fig3": "Figure 3", "table1": "Table 1", "table2": "Table 2",
        "fig_a1": "Figure A.1", "fig_a2": "Figure A.2", "fig_a3": "Figure A.3", "table_a1": "Table A1",
    }  # fmt: skip


def test_tables_are_found_however_deep_they_are_named():
    @dataclass
    class Part:
        tables: tuple[str, ...]
        parts: tuple = ()
        other: str = "not/this"

    whole = Part(("a/1",), (Part(("b/2", "a/1")), [Part((), (Part(("c/3",)),))]))
    assert list(report.tables_of(whole)) == ["a/1", "b/2", "a/1", "c/3"]
    assert list(report.tables_of(tabular.Trace((), (), (), (), ""))) == []


def test_a_folder_within_the_results_has_sections_and_numbers_of_its_own(filled):
    own = collect(filled.folder)
    longer = type(filled)(filled.folder / "longer")
    for seed in (0, 1):
        longer.compared("depth_sweep", "glyphs", 2, "kfc", seed, [0.9, 0.8, 0.7], iterations=900)
    found = collect(filled.folder)
    assert [s for s in found.sections if "/" not in s.name] == list(own.sections)
    further = [s for s in found.sections if "/" in s.name]
    assert [(s.name, s.title) for s in further] == [
        ("longer/fig3", "Figure 3, longer"), ("longer/table_a1", "Table A1, longer"),
    ]  # fmt: skip
    assert {item.stem for s in further for item in s.items} == {"longer/fig3_glyphs", "longer/table_a1_glyphs"}
    tables = tuple(f"longer/depth_sweep/glyphs-cnn2-kfc-s{seed}-900" for seed in (0, 1))
    assert {item.tables for s in further for item in s.items} == {tables}
    assert set(tables) <= {source.name for source in found.sources}
    (number,) = (n for n in found.numbers if n.folder)
    assert (number.figure, number.folder, number.mean, number.tables) == ("table_a1", "longer", 80.0, tables)
    (here,) = (n for n in found.numbers if n.figure == "table_a1" and n.layers == 2 and not n.folder and n.num_tasks)
    assert here.reasons[-1] == "80.0 % in longer"
    # What was never measured there is missing nowhere.
    assert len(found.numbers) == len(own.numbers) + 1
    longer.compared("depth_sweep", "glyphs", 2, "kfc", 5, [0.5, 0.6, 0.7], iterations=60)
    assert set(collect(filled.folder).failures) == {"longer/fig3", "longer/table_a1"}
