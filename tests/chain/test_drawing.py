import json
import os
import shutil

import pytest

import figures.__main__
from analysis import read_table
from analysis.errors import StudyError
from analysis.files import read_json
from analysis.store import write_table
from chain import drawing
from chain.drawing import draw, is_drawn, record_path, tables_there
from chain.plan import make_plan
from figures.errors import MissingTable


def test_only_the_tables_of_the_figure_are_drawn(made, tiny):
    plan = make_plan(tiny(made))
    picture = made / "figures" / "fig1_synthetic.png"
    before = picture.read_bytes()
    # Of another length, and of a third seed: the first would be refused, the second silently drawn.
    others = (
        make_plan(tiny(made.parent / "others", iterations=5, seeds=1)),
        make_plan(tiny(made.parent / "more", seeds=3)),
    )
    from chain.steps import measure, train

    for other in others:
        for group in other.groups:
            train(other, group)
        for name, id in other.tables:
            measure(other, name, id)
        shutil.copytree(other.results, made, dirs_exist_ok=True)
    with pytest.raises(StudyError, match="differ in iterations"):
        draw(made, "fig1", tables_there(made, "fig1"))
    assert draw(made, "fig1", plan.figures["fig1"]) == [picture]
    assert picture.read_bytes() == before


def test_what_was_drawn_is_known(made, tiny, monkeypatch):
    tables = make_plan(tiny(made)).figures["fig1"]
    assert is_drawn(made, "fig1", tables)
    assert not is_drawn(made, "fig1", tables[1:])
    assert not is_drawn(made, "fig2", tables)
    monkeypatch.setattr(drawing, "drawing_code", lambda: "other")
    assert not is_drawn(made, "fig1", tables)


@pytest.mark.parametrize("lost", ["picture", "record"])
def test_what_was_lost_is_not_drawn(made, tiny, lost):
    tables = make_plan(tiny(made)).figures["fig1"]
    path = made / "figures" / "fig1_synthetic.png" if lost == "picture" else record_path(made, "fig1")
    path.unlink()
    assert not is_drawn(made, "fig1", tables)
    draw(made, "fig1", tables)
    assert is_drawn(made, "fig1", tables)


def test_other_tables_of_the_same_names_and_older_times_are_drawn_again(made, tiny):
    """As a copy of an earlier state has them."""
    tables = make_plan(tiny(made)).figures["fig1"]
    path = made / tables[0][0] / f"{tables[0][1]}.parquet"
    frame = read_table(path)
    write_table(made, *tables[0], frame, frame.attrs["provenance"] | {"wall_seconds": 1e3})
    os.utime(path, (1e9, 1e9))
    assert not is_drawn(made, "fig1", tables)
    draw(made, "fig1", tables)
    assert is_drawn(made, "fig1", tables)
    path.unlink()
    assert not is_drawn(made, "fig1", tables)


def test_a_record_of_an_earlier_version_knows_tables_by_their_names(made, tiny):
    tables, path = make_plan(tiny(made)).figures["fig1"], record_path(made, "fig1")
    record = read_json(path)
    del record["digests"]
    path.write_text(json.dumps(record))
    assert is_drawn(made, "fig1", tables)


def test_a_table_that_is_replaced_while_it_is_drawn_is_drawn_again(made, tiny, monkeypatch):
    tables = make_plan(tiny(made)).figures["fig1"]
    make = figures.__main__.make

    def replaced(*arguments):
        (made / tables[0][0] / f"{tables[0][1]}.parquet").write_bytes(b"another")
        return written

    written = make("fig1", made, made / "figures", ("png",))
    monkeypatch.setattr(figures.__main__, "make", replaced)
    draw(made, "fig1", tables)
    assert not is_drawn(made, "fig1", tables)


def test_a_table_that_cannot_be_read_is_told_by_its_own_path(made, tiny):
    tables = make_plan(tiny(made)).figures["fig1"]
    path = made / tables[0][0] / f"{tables[0][1]}.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=rf"^{path} "):
        draw(made, "fig1", tables)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}'])
def test_a_damaged_record_is_none(made, tiny, content):
    record_path(made, "fig1").write_text(content)
    assert not is_drawn(made, "fig1", make_plan(tiny(made)).figures["fig1"])


def test_another_picture_in_its_place_is_not_what_was_drawn(made, tiny):
    tables = make_plan(tiny(made)).figures["fig1"]
    path = made / "figures" / "fig1_synthetic.png"
    content = path.read_bytes()
    path.write_bytes(content + b"extra")
    assert not is_drawn(made, "fig1", tables)
    path.write_bytes(content)
    assert is_drawn(made, "fig1", tables)
    record = read_json(record_path(made, "fig1"))
    # A record of an earlier version has names alone.
    record_path(made, "fig1").write_text(json.dumps({**record, "files": list(record["files"])}))
    assert is_drawn(made, "fig1", tables)
    path.unlink()
    assert not is_drawn(made, "fig1", tables)


def test_tables_there_are_all_of_the_figures_studies(made, tiny):
    plan = make_plan(tiny(made))
    (made / "post_adaptation" / ".half.parquet").touch()
    assert sorted(tables_there(made, "fig1")) == sorted(plan.tables)
    assert tables_there(made, "fig2") == ()


def test_mistakes_are_told(made):
    with pytest.raises(StudyError, match="unknown figure 'fig9'"):
        draw(made, "fig9", ())
    with pytest.raises(StudyError, match="unknown figure 'fig9'"):
        tables_there(made, "fig9")
    with pytest.raises(StudyError, match=r"ceilings/x\.parquet does not exist"):
        draw(made, "fig1", [("ceilings", "x")])
    with pytest.raises(MissingTable):
        draw(made, "fig2", ())
