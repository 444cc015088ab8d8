"""How the notebooks are made and executed: the text is what is written, the notebook what comes of it.

python -m tests.notebooks.executing            # every notebook at its own size, outputs kept in the .ipynb
python -m tests.notebooks.executing --small    # at the size of the tests, nothing kept
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
TEXTS = sorted(FOLDER.glob("*.md"))
# What replaces the numbers of a cell tagged "parameters", to be done in seconds.
SMALL: dict[str, Any] = {"num_tasks": 2, "iterations": 10}
SECONDS = 180  # at its own size, on two cores


def notebook_of(text: Path) -> NotebookNode:
    """The notebook that a text is."""
    return jupytext.read(text)


def shrunk(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its parameters replaced by those of `SMALL`.

    Raises:
        ValueError: for a parameter that has no small value.
    """
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            names = [line.partition("=")[0].strip() for line in cell.source.splitlines() if line.strip()]
            if missing := [name for name in names if name not in SMALL]:
                raise ValueError(f"no small value for {', '.join(missing)}")
            cell.source = "\n".join(f"{name} = {SMALL[name]!r}" for name in names)
    return notebook


def execute(notebook: NotebookNode) -> float:
    """Run every cell in a fresh kernel, in the notebooks' folder; returns the seconds it took.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails, with its traceback.
    """
    started = time.perf_counter()
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": FOLDER}})
    client.execute()
    return time.perf_counter() - started


def main() -> int:
    """Execute all, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as quick_start (default: all)")
    parser.add_argument("--small", action="store_true", help="at the size of the tests, and keep nothing")
    options = parser.parse_args()
    known = {text.stem: text for text in TEXTS}
    if unknown := [name for name in options.names if name not in known]:
        print(f"unknown notebook {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in options.names or known:
        notebook = notebook_of(known[name])
        seconds = execute(shrunk(notebook) if options.small else notebook)
        print(f"{name}: {seconds:.0f} s", flush=True)
        if not options.small:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # times of day, which change with every run
            nbformat.write(notebook, known[name].with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
