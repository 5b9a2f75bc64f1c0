"""Every config of the project runs, by our command and by plain LightningCLI."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import yaml

import lit_metric
from tests.end_to_end.command import CONFIGS, NAMES, metrics, options, run, small_options, working_in
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = options(trainer__max_epochs=2, trainer__limit_train_batches=2, trainer__check_val_every_n_epoch=1)
SCRIPT = """
from lightning.pytorch.cli import LightningCLI
import lit_metric
LightningCLI()
"""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("by", ["lit-metric", "LightningCLI"])
def test_a_config_runs(small: Small, tmp_path: Path, config: Path, by: str) -> None:
    arguments = ["fit", f"--config={config}", *small_options(config, small), *SHORT]
    if by == "lit-metric":
        run(tmp_path, *arguments)
    else:
        (tmp_path / "train.py").write_text(SCRIPT)
        with working_in(tmp_path), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *arguments])
            runpy.run_path("train.py", run_name="__main__")
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    folder = tmp_path / "runs" / content["trainer"]["logger"][0]["init_args"]["name"]
    resolved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["model"]["init_args"]["lr"] == content["model"]["init_args"]["lr"]
    assert resolved["trainer"]["max_epochs"] == 2
    report = metrics(folder)
    monitored = content["trainer"]["callbacks"][1]["init_args"]["monitor"].removeprefix("val/")
    expected = {monitored} if "supervision" in content["data"]["init_args"] else NAMES
    assert set(report["before"]) >= expected
    assert set(report["after"]) >= expected
    assert report["before"] != report["after"]
    assert report["best_checkpoint"] == "checkpoints/best.ckpt"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert list(folder.glob("events.out.tfevents.*"))
    assert report["texts_per_second"] == pytest.approx(report["texts"] / report["seconds"])
    wanted = content["model"]["init_args"]["encoder"]["class_path"].rpartition(".")[2]
    assert type(lit_metric.load(folder)).__name__ == wanted
