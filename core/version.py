"""Which code made a result, and what was typed."""

import os
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def code_version(*folders: str) -> str:
    """Git commit of this source tree, "-dirty" if `folders` have changes; else the installed version, else "unknown".

    Asked once a process: what is committed while it runs is not the code that runs.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        # Not in a folder further up: that is somebody else's repository, which this code was installed into.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == root:
            return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", *folders) else "")
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return metadata.version("adaptlens")
    except metadata.PackageNotFoundError:
        return "unknown"


def command_line() -> str:
    """What was typed to start this process, such as "python -m core train ..."; of a notebook, that it was one.

    The path to Python is left out: it is the machine's own.
    """
    given = sys.orig_argv[1:]
    if any("ipykernel" in word for word in given):
        return "in a notebook"
    return shlex.join(["python", *given])
