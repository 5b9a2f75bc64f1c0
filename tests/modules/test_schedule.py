"""Learning rates, step by step and part by part."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from torch import nn

from lit_metric.modules.schedule import multiplier, parameter_groups, planned_steps


def test_a_cosine_falls_by_the_cosine_of_what_is_done() -> None:
    rate = multiplier("cosine", steps=9, warmup=3)
    expected = [1 / 3, 2 / 3, 1, 1, 0.5 + math.cos(math.pi / 6) / 2, 0.75, 0.5, 0.25]
    assert [rate(step) for step in range(8)] == pytest.approx(expected)
    assert rate(9) == pytest.approx(0)
    assert rate(20) == pytest.approx(0)


def test_a_constant_rate_stays_after_the_warm_up() -> None:
    rate = multiplier("constant", steps=4, warmup=2)
    assert [rate(step) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]


def test_no_warm_up_starts_at_the_peak_and_the_last_step_still_moves() -> None:
    rate = multiplier("linear", steps=4, warmup=0)
    assert [rate(step) for step in range(4)] == [1, 0.75, 0.5, 0.25]


def of(**values: object) -> SimpleNamespace:
    defaults = {"limit_train_batches": 1.0, "accumulate_grad_batches": 1, "max_epochs": 3, "max_steps": -1}
    return SimpleNamespace(**{**defaults, **values})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 30),
        ({"limit_train_batches": 4}, 12),
        ({"limit_train_batches": 40}, 30),
        ({"limit_train_batches": 0.55}, 15),
        ({"accumulate_grad_batches": 4}, 9),  # the last of an epoch's three steps takes two batches
        ({"max_steps": 7}, 7),
        ({"max_steps": 70}, 30),
        ({"max_epochs": -1, "max_steps": 70}, 70),
        ({"max_epochs": 0}, 0),
    ],
)
def test_steps_of_a_fit_over_ten_batches(options: dict[str, object], steps: int) -> None:
    assert planned_steps(of(**options), 10) == steps  # type: ignore[arg-type]


def test_a_fit_without_end_has_no_plan() -> None:
    with pytest.raises(ValueError, match="give max_epochs or max_steps"):
        planned_steps(of(max_epochs=-1), 10)  # type: ignore[arg-type]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 1)


def groups_of(module: nn.Module, **scales: float) -> dict[str, tuple[float, float]]:
    """Learning rate and decay by the name of the parameter."""
    found = {}
    names = {parameter: name for name, parameter in module.named_parameters()}
    for group in parameter_groups(module, 0.1, 0.01, scales):
        for name, parameter in group["params"]:
            assert names[parameter] == name not in found
            found[name] = (group["lr"], group["weight_decay"])
    return found


def test_matrices_decay_and_parts_have_rates_of_their_own() -> None:
    assert groups_of(Two(), **{"head": 20, "*.bias": 0.5}) == {
        "body.0.weight": (0.1, 0.01),
        "body.0.bias": (0.05, 0.0),
        "body.1.weight": (0.1, 0.0),
        "body.1.bias": (0.05, 0.0),
        "head.weight": (2.0, 0.01),
        "head.bias": (0.05, 0.0),  # the last that fits counts
    }


def test_groups_have_the_names_of_parts() -> None:
    groups = parameter_groups(Two(), 0.1, 0.01, {"head": 20, "*.bias": 0.5})
    members = {group["name"]: [name for name, _ in group["params"]] for group in groups}
    assert members == {
        "body": ["body.0.weight"],
        "*.bias.no_decay": ["body.0.bias", "body.1.bias", "head.bias"],
        "body.no_decay": ["body.1.weight"],
        "head": ["head.weight"],
    }
    assert [group["name"] for group in parameter_groups(Two(), 0.1, 0.01, {})] == [
        *("body", "body.no_decay", "head", "head.no_decay")
    ]


def test_frozen_parameters_stand_in_no_group() -> None:
    module = Two()
    module.body.requires_grad_(False)
    assert set(groups_of(module)) == {"head.weight", "head.bias"}
    module.head.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        groups_of(module)


def test_a_name_that_fits_nothing_is_refused_with_those_that_would() -> None:
    with pytest.raises(
        ValueError, match=r"no parameter is called 'heads'; there are body\.0, body\.1, head\."
    ):
        groups_of(Two(), heads=2.0)
    with pytest.raises(ValueError, match=r"called 'head\.gain'; there are head\.bias, head\.weight$"):
        parameter_groups(Two(), 0.1, 0.0, {"head.gain": 2.0})
