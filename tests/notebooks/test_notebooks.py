"""The notebooks run, define nothing, and are what their texts say."""

import ast
import subprocess
import sys

import nbformat
import pytest

from tests.notebooks.executing import FOLDER, TEXTS, notebook_of

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
MOST_LINES = 10  # of an intervention or a probe of the reader's own


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell):
    """The cell without the lines that only IPython understands."""
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))


def is_yours(cell):
    return "yours" in cell.metadata.get("tags", [])


def test_every_notebook_is_a_pair():
    assert TEXTS
    assert {path.stem for path in TEXTS} == {path.stem for path in FOLDER.glob("*.ipynb")}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_the_notebook_is_what_the_text_says(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    written, kept = ([(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook_of(text), notebook))
    assert kept == written, "make it again with: make notebooks"
    assert all(cell.execution_count for cell in code(notebook)), "it was not executed"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_narrates_and_defines_only_what_is_the_readers_own(text):
    cells = notebook_of(text).cells
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(code(notebook_of(text))) / 2
    for cell in code(notebook_of(text)):
        defined = [node for node in ast.walk(ast.parse(python(cell))) if isinstance(node, DEFINITIONS)]
        assert bool(defined) == is_yours(cell), cell.source
        if is_yours(cell):
            assert len([line for line in cell.source.splitlines() if line.strip()]) <= MOST_LINES, cell.source


def test_an_intervention_and_a_probe_of_the_readers_own_are_shown():
    sources = [cell.source for text in TEXTS for cell in code(notebook_of(text)) if is_yours(cell)]
    assert any("snapshot" in source for source in sources)
    assert any("theta" in source for source in sources)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_it_runs_from_the_first_cell_to_the_last(text):
    # In a process of its own: Jupyter's machinery has its own threads and warnings.
    command = [sys.executable, "-m", "tests.notebooks.executing", text.stem, "--small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr[-3000:]
