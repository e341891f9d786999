"""Products as TF32 or in full: what is switched, and switched back. The switches are there without a GPU, too."""

import pytest
import torch

from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.precision import full_precision, tf32_products

CUDA = torch.device("cuda")


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, False)])
def before(request):
    """The switches as a caller may have set them, torch's own default first; that is restored."""
    default = switches()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = default


def test_both_libraries_are_switched_and_restored_after_an_error(before):
    def failing(enabled):
        with tf32_products(enabled=enabled):
            assert switches() == (enabled, enabled)
            assert torch.get_float32_matmul_precision() == ("high" if enabled else "highest")
            raise KeyError

    for enabled in (True, False):
        with pytest.raises(KeyError):
            failing(enabled)
        assert switches() == before


def test_full_precision_within_tf32_is_full_and_tf32_goes_on_after_it(before):
    with tf32_products(enabled=True):
        # without a GPU torch warns that autocast does nothing here, unless it is disabled, as it is to be
        with full_precision(CUDA):
            assert switches() == (False, False)
        assert switches() == (True, True)
    assert switches() == before


def test_contexts_that_overlap_in_threads_leave_what_was_there(before):
    one, other = tf32_products(enabled=False), tf32_products(enabled=False)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)  # left in the order of entering, as threads may
    assert switches() == (False, False)
    other.__exit__(None, None, None)
    assert switches() == before


def test_full_precision_leaves_half_precision_too():
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
        with full_precision(torch.device("cpu")):
            assert (ones @ ones).dtype == torch.float32


def test_products_of_a_loss_are_full_whatever_the_caller_chose(monkeypatch):
    seen = []
    product = torch.Tensor.__matmul__

    def recorded(*factors):
        seen.append(switches())
        return product(*factors)

    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    # a device type that has no kernels here, so the loss takes the way of CUDA as far as its product
    monkeypatch.setattr("ovseg_models.contrastive_loss.full_precision", lambda _: full_precision(CUDA))
    with tf32_products(enabled=True):
        contrastive_loss(torch.eye(3), torch.eye(3), torch.tensor(1.0))
    assert seen == [(False, False)]
