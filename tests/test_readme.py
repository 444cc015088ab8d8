"""The README's programs run as they are printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what it writes, it writes here
    (tmp_path / "results").symlink_to(ROOT / "results")
    exec(compile(program, "README.md", "exec"), {})
