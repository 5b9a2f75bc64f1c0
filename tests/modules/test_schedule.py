"""Learning rates, step by step and part by part."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from lit_metric import MetricLearner
from lit_metric.encoders import SetEncoder, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.modules.schedule import fits, multiplier, parameter_groups, planned_steps
from tests.encoders.models import make
from tests.encoders.tokens import model_folder, word_tokenizer


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


def rates_of(module: nn.Module, **options: Any) -> dict[str, float]:
    groups = parameter_groups(module, 0.1, 0.0, options.pop("scales", {}), **options)
    assert len({group["name"] for group in groups}) == len(groups)
    return {name: group["lr"] for group in groups for name, _ in group["params"]}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", {"embeddings": 0.025, "encoder.layer.0": 0.05, "encoder.layer.1": 0.1}),
        (
            "modernbert",
            {"embeddings": 0.0125, "layers.0": 0.025, "layers.1": 0.05, "layers.2": 0.1, "final_norm": 0.1},
        ),
        ("qwen3", {"embed_tokens": 0.025, "layers.0": 0.05, "layers.1": 0.1, "norm": 0.1}),
        ("gpt2", {"wte": 0.025, "wpe": 0.025, "h.0": 0.05, "h.1": 0.1, "ln_f": 0.1}),
    ],
)
def test_the_rate_halves_from_layer_to_layer(family: str, expected: dict[str, float], tmp_path: Path) -> None:
    encoder = TextEncoder(model_folder(tmp_path, family), projection=4)
    module = nn.ModuleDict({"encoder": encoder, "loss": nn.Linear(2, 2)})
    found = rates_of(module, layer_decay=0.5)
    assert len(found) == sum(value.requires_grad for value in module.parameters())
    wanted = {f"encoder.backbone.model.{name}": rate for name, rate in expected.items()}
    wanted |= {"encoder.projection": 0.1, "loss": 0.1}
    for part, rate in wanted.items():
        rates = [value for name, value in found.items() if fits(part, name)]
        assert rates, part
        assert rates == pytest.approx([rate] * len(rates)), part
    assert all(any(fits(part, name) for part in wanted) for name in found)
    assert rates_of(module, layer_decay=1.0) == dict.fromkeys(found, 0.1)


def test_layers_of_two_towers_with_adapters_and_scales(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")
    deep, low = tmp_path / "deep", tmp_path / "low"
    make("bert", num_hidden_layers=3).save_pretrained(deep)
    word_tokenizer().save_pretrained(deep)
    adapter = {"peft_type": "LORA", "target_modules": ["query"]}
    towers = TwoTowerEncoder(
        TextEncoder(str(deep), adapter=adapter),
        TextEncoder(model_folder(low), freeze=["embeddings"]),
    )
    found = rates_of(
        nn.ModuleDict({"encoder": towers}), layer_decay=0.5, scales={"*.lora_B.*": 16, "encoder.document": 2}
    )
    start = "encoder.query.backbone.model.encoder.layer.0.attention.self.query"
    assert found[f"{start}.lora_A.default.weight"] == pytest.approx(0.1 / 4)
    assert found[f"{start}.lora_B.default.weight"] == pytest.approx(16 * 0.1 / 4)
    assert found[f"{start.replace('layer.0', 'layer.2')}.lora_B.default.weight"] == pytest.approx(1.6)
    other = "encoder.document.backbone.model.encoder.layer.0.attention.self.query.weight"
    assert found[other] == pytest.approx(2 * 0.1 / 2)


def test_layers_that_share_their_weights_have_no_rates_of_their_own(tmp_path: Path) -> None:
    encoder = TextEncoder(model_folder(tmp_path, "albert"), projection=2)
    with pytest.raises(ValueError, match=r"layer_decay: models of type albert have no list .*lr_scale"):
        parameter_groups(encoder, 0.1, 0.0, {}, 0.9)
    encoder.backbone.requires_grad_(False)
    assert set(rates_of(encoder, layer_decay=0.9)) == {
        "projection.0.linear.weight",
        "projection.0.linear.bias",
    }


def test_a_table_that_is_trained_starts_at_a_higher_rate(tmp_path: Path) -> None:
    tiny = model_folder(tmp_path)
    table = StaticEncoder(tiny)
    expected: list[tuple[Any, float]] = [
        (table, 1e-2),
        (SetEncoder(table), 1e-2),
        (StaticEncoder(tiny, projection=3, freeze=True), 5e-5),
        (TextEncoder(tiny), 5e-5),
        (TwoTowerEncoder(table, TextEncoder(tiny)), 5e-5),
    ]
    for encoder, rate in expected:
        assert MetricLearner(encoder).lr == rate
    assert MetricLearner(table, lr=1e-3).lr == 1e-3
