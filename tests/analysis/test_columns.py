from pathlib import Path

import pytest

from analysis.columns import BEGIN, END, columns_markdown, with_columns
from analysis.errors import StudyError
from analysis.schemas import INSIDE_QUANTITIES, QUANTITIES, SCHEMAS

README = Path(__file__).parents[2] / "results" / "README.md"


def test_the_readme_of_the_results_is_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert with_columns(text) == text, "run: python -m analysis.columns"


def test_every_column_and_quantity_is_listed():
    lines = columns_markdown().splitlines()
    for schema in SCHEMAS.values():
        for name, column in schema.items():
            assert f"| `{name}` | {column.dtype} | {column.unit} | {column.meaning} |" in lines
    for name, meaning in (QUANTITIES | INSIDE_QUANTITIES).items():
        assert f"- `{name}`: {meaning}" in lines


def test_the_rest_of_the_text_is_left_alone():
    text = with_columns(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    with pytest.raises(StudyError, match="no place for the columns"):
        with_columns("no markers")
