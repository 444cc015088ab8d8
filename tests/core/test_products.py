"""Either library's products are the products, and the one that is taken does not depend on who watches."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from core import products
from core.products import LEAST, add_product, has_onednn, onednn_is_faster, product


@pytest.fixture(params=["BLAS", "oneDNN"])
def library(request, monkeypatch):
    if request.param == "oneDNN" and not has_onednn():
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param == "oneDNN")
    return request.param


def factors(num_replicas, transposed):
    """So large that the library decides, and with sides that nothing confuses."""
    torch.manual_seed(0)
    x, y = torch.randn(num_replicas, 90, 170), torch.randn(num_replicas, 170, 150)
    assert LEAST <= 90 * 170 * 150
    if transposed:
        x, y = x.mT.contiguous().mT, y.mT.contiguous().mT
    return x, y


@pytest.mark.parametrize("transposed", [False, True], ids=["as they lie", "transposed"])
@pytest.mark.parametrize("num_replicas", [1, 3])
def test_a_product_is_that_of_double_precision(library, num_replicas, transposed):
    x, y = factors(num_replicas, transposed)
    expected = x.double() @ y.double()
    found = product(x, y)
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 1e-6

    total = torch.ones(num_replicas, 90, 150)
    add_product(total, x, y)
    assert (total - expected - 1).norm() / expected.norm() < 1e-6


def test_the_library_that_is_taken_is_the_one_that_was_chosen(library):
    x, y = factors(1, False)
    with torch.profiler.profile() as profile:
        product(x, y)
        product(x[:, :3], y)
    names = {event.key: event.count for event in profile.key_averages()}
    assert names.get("mkldnn::_linear_pointwise", 0) == (1 if library == "oneDNN" else 0)  # and none of the small one


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_the_blas_own(library, dtype):
    x, y = (each.to(dtype) for each in factors(1, False))
    assert torch.equal(product(x, y), (x[0] @ y[0]).unsqueeze(0))


def test_the_choice_is_made_out_of_sight_of_a_recorder():
    onednn_is_faster.cache_clear()
    x, y = factors(1, False)
    recorded = make_fx(product)(x, y)
    onednn_is_faster.cache_clear()
    torch.testing.assert_close(recorded(x, y), product(x, y))
    products_in_it = [node for node in recorded.graph.nodes if "mm" in str(node.target) or "onednn" in str(node.target)]
    assert len(products_in_it) == 1


def test_without_onednn_the_blas_is_taken(monkeypatch):
    onednn_is_faster.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert onednn_is_faster() is False
    onednn_is_faster.cache_clear()


def test_an_answer_is_kept(monkeypatch):
    onednn_is_faster.cache_clear()
    calls = []
    monkeypatch.setattr(products, "_measure", lambda: (calls.append(1), True)[1])
    assert onednn_is_faster() == onednn_is_faster()
    assert len(calls) <= 1
    onednn_is_faster.cache_clear()
