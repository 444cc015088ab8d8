"""The library that stands between the system and all who write; see shim.c."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FAILS, FAILS_FROM_THEN_ON, KILLS, KILLS_HALFWAY = range(4)
_VARIABLE = "ADAPTLENS_FAULTS_SHIM"


def start_again_with_shim(module: str, arguments: list[str]) -> bool:
    """Put this process in place of itself with the library loaded; False where there is no C compiler, or not Linux."""
    if _VARIABLE in os.environ:
        return True
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return False
    library = Path(tempfile.mkdtemp(prefix="adaptlens-shim-")) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.environ |= {_VARIABLE: str(library), "LD_PRELOAD": str(library)}
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    raise AssertionError("unreachable")


def loaded() -> ctypes.CDLL | None:
    """The library of this process; what it starts with exec does without."""
    path = os.environ.get(_VARIABLE)
    if path is None:
        return None
    os.environ.pop("LD_PRELOAD", None)
    return ctypes.CDLL(path)


def remove() -> None:
    """Remove the library's file."""
    if _VARIABLE in os.environ:
        shutil.rmtree(Path(os.environ[_VARIABLE]).parent, ignore_errors=True)
