"""Loss and accuracy of each task."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import task_accuracies, task_losses


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_single_precision(dtype):
    """47 of 50 is no number of bfloat16."""
    torch.manual_seed(0)
    y = torch.randint(5, (2, 50))
    outputs = F.one_hot(y, 5).to(dtype)
    outputs[:, :3] *= -1
    assert task_accuracies(outputs, y, "classification").tolist() == pytest.approx([0.94, 0.94], rel=1e-6)
    expected = F.cross_entropy(outputs[0].float(), y[0]).item()
    assert task_losses(outputs, y, "classification")[0].item() == pytest.approx(expected, rel=1e-6)
    binary = (y > 2).to(dtype)
    found = task_losses(outputs[..., :1], binary, "binary")
    assert found[1].item() == pytest.approx(
        F.binary_cross_entropy_with_logits(outputs[1, :, 0].float(), binary[1].float()).item(), rel=1e-6
    )
    assert task_losses(outputs, torch.zeros_like(outputs), "regression").dtype == torch.float32
