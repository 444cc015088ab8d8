"""The columns of all tables as Markdown: `python -m analysis.columns` brings `results/README.md` up to date."""

import sys
from pathlib import Path

from analysis.errors import StudyError
from analysis.schemas import INSIDE_QUANTITIES, QUANTITIES, SCHEMAS

BEGIN = "<!-- columns: begin (made by `python -m analysis.columns`) -->"
END = "<!-- columns: end -->"


def columns_markdown() -> str:
    """A heading and a table for each study, from `analysis.schemas.SCHEMAS`."""
    parts = []
    for study, schema in SCHEMAS.items():
        rows = [f"| `{name}` | {c.dtype} | {c.unit} | {c.meaning} |" for name, c in schema.items()]
        parts.append("\n".join([f"### {study}", "", "| column | dtype | unit | meaning |", "|---|---|---|---|", *rows]))
        if quantities := {"linear_collapse": QUANTITIES, "inside_optimizer": INSIDE_QUANTITIES}.get(study):
            parts.append("\n".join(f"- `{name}`: {meaning}" for name, meaning in quantities.items()))
    return "\n\n".join(parts)


def with_columns(text: str) -> str:
    """`text` with the part between the two markers replaced by `columns_markdown`.

    Raises:
        StudyError: if the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise StudyError(f"the text has no place for the columns, between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{columns_markdown()}\n\n{END}{after}"


if __name__ == "__main__":
    readme = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "results" / "README.md"
    readme.write_text(with_columns(readme.read_text(encoding="utf-8")), encoding="utf-8")
