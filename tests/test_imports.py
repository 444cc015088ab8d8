"""Imports point only to the left: bounds, core, analysis, figures; the chain knows them all, and none knows it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.products import has_onednn

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "bounds": {"bounds"},
    "core": {"bounds", "core"},
    "analysis": {"bounds", "core", "analysis"},
    "figures": {"analysis", "figures"},
    "chain": {"bounds", "core", "analysis", "figures", "chain"},
}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    # Two threads, as on a machine of the user's: the tests have one.
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    return set(out.split())


def test_the_engine_and_the_studies_load_no_matplotlib_and_no_compiler():
    loaded = loaded_by("import core, core.__main__, analysis, analysis.__main__")
    assert "torch" in loaded
    assert not {"matplotlib", "seaborn", "figures", "torch._dynamo", "torch._inductor"} & loaded


def test_no_work_loads_a_compiler(tmp_path):
    """One of PyTorch's optimizers would, and `torch.eye` on the device "meta": seconds in every process."""
    train = "train --dataset synthetic --model lr --steps 1 --adapt-lr 1 --first-order false --meta-optimizer adam"
    sizes = "--meta-lr 0.01 --iterations 2 --tasks-per-iteration 2 --points 8 --eval-tasks 2 --device cpu --quiet"
    calls = [
        [*f"{train} {sizes} --method {rule}".split(), "--results", str(tmp_path)]
        for rule in ("kfc --rule-depth 1", "meta_curvature")
    ]
    studies = ["all", "--results", str(tmp_path), "--num-tasks", "2", "--quiet"]
    loaded = loaded_by(
        "import core.__main__, analysis.__main__, pathlib; "
        f"[core.__main__.main(typed) for typed in {calls!r}]; "
        f"runs = [str(path) for path in pathlib.Path({str(tmp_path / 'runs')!r}).iterdir()]; "
        f"analysis.__main__.main({studies!r} + ['--run', *runs])"
    )
    assert len(list((tmp_path / "runs").iterdir())) == len(calls)
    assert len(list((tmp_path / "inside_optimizer").glob("*.parquet"))) == len(calls)
    assert "torch._dynamo" not in loaded


@pytest.mark.skipif(not has_onednn(), reason="PyTorch was built without oneDNN")
def test_large_products_load_no_compiler():
    """An operator defined by `torch.library.custom_op` would."""
    loaded = loaded_by(
        "import torch; from core import products; products.onednn_is_faster = lambda: True; "
        "products.product(torch.ones(1, 200, 300), torch.ones(1, 300, 400))"
    )
    assert "core.products" in loaded
    assert "torch._dynamo" not in loaded


@pytest.mark.parametrize(
    "statement",
    [
        "import figures.__main__, analysis.store, analysis.statistics",
        "import chain, chain.__main__, chain.drawing, chain.lists, chain.locks, chain.settings",
    ],
)
def test_figures_load_no_torch(statement):
    assert not {"torch", "core"} & loaded_by(statement)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_is_left_of_them(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top not in ALLOWED or top in ALLOWED[package], f"{path} imports {name}"
