"""Schedules at the steps that matter, and groups in the order of their rates."""

import pytest
import torch

from pipeline.training.learning_rates import Rate, parameter_groups, warmup_cosine, warmup_poly


def test_a_polynomial_falls_to_zero_after_its_warm_up() -> None:
    factor = warmup_poly(steps=100, warmup_steps=10, warmup_factor=0.1, power=0.9)
    assert factor(0) == pytest.approx(0.1)
    assert factor(5) == pytest.approx((0.1 * 0.5 + 0.5) * 0.95**0.9)
    assert factor(50) == pytest.approx(0.5**0.9)
    assert factor(100) == 0
    assert warmup_poly(steps=4, warmup_steps=0, warmup_factor=0.1, power=1.0)(1) == pytest.approx(0.75)


def test_a_cosine_falls_to_zero_after_its_warm_up() -> None:
    factor = warmup_cosine(steps=110, warmup_steps=10)
    assert [factor(0), factor(9), factor(10)] == pytest.approx([0.1, 1, 1])
    assert factor(60) == pytest.approx(0.5)
    assert factor(110) == pytest.approx(0, abs=1e-12)
    assert warmup_cosine(steps=3, warmup_steps=10)(2) == pytest.approx(0.3)  # a run may end within its warm-up


def test_parameters_of_one_rate_are_one_group_in_the_order_of_first_sight() -> None:
    first, second, third = (torch.nn.Parameter(torch.zeros(size)) for size in (1, 2, 3))
    slow, fast = Rate(0.1, 0.0), Rate(1.0, 0.5)
    groups = parameter_groups([(first, fast), (second, slow), (third, fast)])
    assert [(group["lr"], group["weight_decay"], [len(each) for each in group["params"]]) for group in groups] == [
        (1.0, 0.5, [1, 3]),
        (0.1, 0.0, [2]),
    ]
