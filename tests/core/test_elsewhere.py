"""The engine keeps to one device and waits for no number: seen without a GPU, see `tests.core.elsewhere`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from tests.core import elsewhere

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices that are made in Python",
)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """What failed, by case; a process of its own names a device for good."""
    command = [sys.executable, "-m", "tests.core.elsewhere"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def test_nothing_is_on_another_device_and_no_number_is_waited_for(failures: dict[str, str]):
    found = {case: told for case, told in failures.items() if told and case not in elsewhere.FAULTS}
    assert not found
    assert len(failures) > 20


def test_a_tensor_left_behind_would_be_seen(failures: dict[str, str]):
    assert "two devices, elsewhere:0 and cpu" in failures["another device"]


def test_a_number_that_is_asked_for_would_be_seen(failures: dict[str, str]):
    assert failures["a number"].startswith("DataDependentOutputException")
