"""The files that install and describe the project agree with it."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_installed():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("bounds", "core", "analysis", "figures", "chain")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_the_conda_environment_asks_for_python_and_the_project_only():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *names, pip = environment["dependencies"]
    assert [re.match(r"[a-z]+", name).group() for name in names] == ["python", "pip"]
    assert pip == {"pip": ["-e .[lab,dev]"]}
    assert environment["dependencies"][0] == f"python{PROJECT['project']['requires-python']}"
    assert {"lab", "dev"} <= PROJECT["project"]["optional-dependencies"].keys()


def test_ci_runs_the_readmes_test_commands():
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    called = [line for line in lines if line.startswith("make")]
    assert called == ["make test", "make test-browser", "make test-slow", "make test-cluster"]
    for command in ("make test ", *called[1:]):
        assert any(command in (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))


def test_every_floor_has_a_reason():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("dependencies = [")
    for line in lines[start + 1 : lines.index("]", start)]:
        assert re.search(r'">?.*>=.*",\s+# \w', line), line


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
