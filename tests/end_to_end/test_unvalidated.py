"""Training on all labelled texts, without a validation split."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from lit_metric import MetricDataModule
from tests.end_to_end.command import metrics, options, run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def quick(small: Small, **more: object) -> list[str]:
    given = {"data__validation_share": 0, "data__cache_dir": small / "cache", "trainer__accelerator": "cpu"}
    return options(**given, **more)


def check_run(folder: Path, steps: int) -> None:
    """``best`` and ``last`` are the weights after the last step, and so is the model."""
    states = [
        torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True, map_location="cpu")
        for name in ("best", "last")
    ]
    assert [state["global_step"] for state in states] == [steps, steps]
    assert (folder / "model").is_dir()


@pytest.mark.parametrize("tested", [False, True])
def test_a_fit_by_the_defaults(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, tested: bool
) -> None:
    given = {"data__train": small / "train.csv", "model__encoder__init_args__backbone": small / "backbone"}
    if tested:
        given["data__test"] = small / "test.csv"
    with caplog.at_level(logging.INFO):
        run(tmp_path, "fit", *quick(small, **given, name="all", trainer__max_epochs=2))
    steps = metrics(tmp_path / "runs" / "all")["steps"]
    assert steps > 0
    check_run(tmp_path / "runs" / "all", steps)
    [said] = [each for each in caplog.messages if "There are no validations" in each]
    assert "early stopping by val/map@r is off" in said
    assert "best.ckpt is the latest checkpoint" in said
    assert metrics(tmp_path / "runs" / "all")["split"] == ("test" if tested else None)


def test_the_config_of_init(small: Small, tmp_path: Path) -> None:
    run(tmp_path, "init", small / "train.csv", "--backbone", small / "backbone", "--output", "mine.yaml")
    run(tmp_path, "fit", "--config", "mine.yaml", *quick(small, trainer__max_epochs=1))
    check_run(tmp_path / "runs" / "mine", metrics(tmp_path / "runs" / "mine")["steps"])


def test_all_rows_are_trained_on() -> None:
    rows = {"text": [f"t{row}" for row in range(40)], "label": ["a", "b"] * 20}
    data = MetricDataModule(train=rows, validation_share=0)
    data.read()
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 40}
    assert not data.dataset.held_out
    several = {"text": rows["text"], "labels": [["a", "b"], ["b"]] * 20}
    data = MetricDataModule(train=several, validation_share=0)
    data.read()
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 40}
    pairs = {"anchor": rows["text"], "positive": [f"p{row}" for row in range(40)]}
    data = MetricDataModule(train=pairs, validation_share=0)
    data.read()
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 40, "train_corpus": 40}


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_share_is_below_one(share: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        MetricDataModule(validation_share=share)
