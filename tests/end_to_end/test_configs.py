"""Every config of the project runs by our command, by its name; the long one by plain LightningCLI, too."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import yaml

import lit_metric
from tests.end_to_end.command import CONFIGS, NAMES, ROOT, metrics, options, run, small_options, working_in
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = options(trainer__max_epochs=2, trainer__limit_train_batches=2, trainer__check_val_every_n_epoch=1)
PLAIN = "plain-lightning-cli"
MAIN = {
    "cranfield": "ndcg@10",
    "graph": "filtered_mrr",
    "movies": "ndcg@10",
    "pairs": "mrr",
    "similarity": "spearman",
    "sugarcrepe": "tot",
}
SCRIPT = """
from lightning.pytorch.cli import LightningCLI
import lit_metric
LightningCLI()
"""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs(small: Small, tmp_path: Path, config: Path) -> None:
    run(tmp_path, "fit", f"--config={config.stem}", *small_options(config, small), *SHORT)
    check(config, tmp_path / "runs" / ("plain" if config.stem == PLAIN else config.stem))


def test_a_plain_lightning_cli_runs_the_classes(small: Small, tmp_path: Path) -> None:
    config = ROOT / "configs" / f"{PLAIN}.yaml"
    (tmp_path / "train.py").write_text(SCRIPT)
    with working_in(tmp_path), pytest.MonkeyPatch.context() as patch:
        arguments = ["fit", f"--config={config}", *small_options(config, small), *SHORT]
        patch.setattr(sys, "argv", ["train.py", *arguments])
        runpy.run_path("train.py", run_name="__main__")
    check(config, tmp_path / "runs" / "plain")


def check(config: Path, folder: Path) -> None:
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    resolved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    model = content["model"].get("init_args", content["model"])
    assert resolved["model"]["init_args"]["lr"] == model["lr"]
    assert resolved["trainer"]["max_epochs"] == 2
    report = metrics(folder)
    expected = {MAIN[config.stem]} if config.stem in MAIN else NAMES
    assert set(report["before"]) >= expected
    assert set(report["after"]) >= expected
    assert report["before"] != report["after"]
    assert report["best_checkpoint"] == "checkpoints/best.ckpt"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert list(folder.glob("events.out.tfevents.*"))
    assert report["texts_per_second"] == pytest.approx(report["texts"] / report["seconds"])
    wanted = model["encoder"].get("class_path", "TextEncoder").rpartition(".")[2]
    assert type(lit_metric.load(folder)).__name__ == wanted


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_states_what_is_particular_to_it(config: Path) -> None:
    assert config.stem == PLAIN or len(config.read_text(encoding="utf-8").splitlines()) <= 20
