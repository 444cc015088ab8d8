import subprocess
import sys
from importlib import metadata

import pytest

from core import version


@pytest.fixture(autouse=True)
def ask_again():
    version.code_version.cache_clear()
    yield
    version.code_version.cache_clear()


def test_the_code_version_outside_a_repository_is_the_installed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "core" / "version.py"))
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.3")
    assert version.code_version("core") == "1.2.3"
    # Installed into an environment inside somebody else's repository: that commit is not ours.
    version.code_version.cache_clear()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(version, "__file__", str(tmp_path / "site" / "core" / "version.py"))
    assert version.code_version("core") == "1.2.3"


def test_changes_are_told(tmp_path, monkeypatch):
    code = tmp_path / "core" / "version.py"
    code.parent.mkdir()
    code.write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(version, "__file__", str(code))
    commit = version.code_version("core")
    assert len(commit) == 40
    code.write_text("changed")
    assert version.code_version("core") == commit, "it is the code that was there when training began"
    version.code_version.cache_clear()
    assert version.code_version("core") == f"{commit}-dirty"
    assert version.code_version("analysis") == commit


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/somewhere/bin/python3.11", "-m", "core", "train", "--own", "a b"], "python -m core train --own 'a b'"),
        (["python", "script.py"], "python script.py"),
        (["/x/python", "-m", "ipykernel_launcher", "-f", "/home/someone/kernel.json"], "in a notebook"),
    ],
)
def test_what_was_typed_is_told_without_the_machines_own_paths(monkeypatch, argv, told):
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert version.command_line() == told
