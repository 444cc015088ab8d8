"""Either library's products are the products, and which one is taken hangs on the machine alone."""

from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from core import products
from core.products import LEAST, LEAST_SIDE, add_product, has_onednn, onednn_is_faster, product


@pytest.fixture(params=["BLAS", "oneDNN"])
def library(request, monkeypatch):
    if request.param == "oneDNN" and not has_onednn():
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param == "oneDNN")
    return request.param


def factors(num_replicas=1, transposed=False):
    """So large that the library decides, and with sides that nothing confuses."""
    torch.manual_seed(0)
    x, y = torch.randn(num_replicas, 90, 170), torch.randn(num_replicas, 170, 150)
    assert LEAST <= 90 * 170 * 150
    if transposed:
        x, y = x.mT.contiguous().mT, y.mT.contiguous().mT
    return x, y


def made_by_onednn(run):
    with torch.profiler.profile() as profile:
        run()
    return sum(event.count for event in profile.key_averages() if event.key == "mkldnn::_linear_pointwise")


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


def test_large_products_are_made_by_the_library_that_is_faster(library):
    x, y = factors()
    thin = torch.randn(1, LEAST_SIDE - 1, 2048), torch.randn(1, 2048, 2048)
    expected = 1 if library == "oneDNN" else 0
    assert made_by_onednn(lambda: product(x, y)) == expected
    assert made_by_onednn(lambda: add_product(torch.zeros(1, 90, 150), x, y)) == expected
    assert made_by_onednn(lambda: (product(x[:, :20], y), product(*thin))) == 0


def test_a_library_that_the_user_turned_off_is_not_taken(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    x, y = factors()
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(False)
    try:
        assert made_by_onednn(lambda: product(x, y)) == 0
    finally:
        torch.backends.mkldnn.set_flags(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_the_blas_own(library, dtype):
    x, y = (each.to(dtype) for each in factors())
    assert torch.equal(product(x, y), (x[0] @ y[0]).unsqueeze(0))


def test_a_product_can_be_recorded(library):
    x, y = factors()
    recorded = make_fx(product, tracing_mode="fake")(x, y)
    torch.testing.assert_close(recorded(x, y), product(x, y))
    names = [str(node.target) for node in recorded.graph.nodes if node.op == "call_function"]
    assert sum("onednn_product" in name for name in names) == (library == "oneDNN")


CPUINFO = "processor\t: 0\nvendor_id\t: {}\nmodel name\t: one\n"


@pytest.mark.skipif(not has_onednn(), reason="PyTorch was built without oneDNN")
@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),  # MKL takes these vectors, too
        ("GenuineIntel", "AVX512", False),
        (None, "AVX512", False),
    ],
)
def test_which_is_faster_is_told_by_the_cpu(monkeypatch, maker, capability, expected):
    def read_text(path, **_):
        if maker is None:
            raise FileNotFoundError(path)
        return CPUINFO.format(maker)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert onednn_is_faster.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)  # another BLAS may take them
    assert onednn_is_faster.__wrapped__() is False
