"""A static model is distilled by the command line, trained, and exported."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import lit_metric
from lit_metric import SetEncoder, StaticEncoder, TextEncoder
from tests.end_to_end.command import run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def test_distill_train_export(
    small: Small, tmp_path: Path, texts: tuple[TextEncoder, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(tmp_path, "distill", "--model", texts[1], "--output", "static", "--dimension", "4")
    assert "Wrote static, 60 tokens with 4 components; train it with" in caplog.text
    words = ["w5 w6", "w9"]
    start = lit_metric.load(tmp_path / "static")
    assert (type(start), start.dimension) == (StaticEncoder, 4)
    files = ["--data.train", small / "train.csv", "--data.test", small / "test.csv", "--name", "run"]
    encoder = ["--model.encoder", "StaticEncoder", "--model.encoder.backbone", "static"]
    short = ["--model.lr", "0.01", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    run(tmp_path, "fit", *files, *encoder, *short)
    trained = lit_metric.load(tmp_path / "runs" / "run")
    assert isinstance(trained, StaticEncoder)
    assert np.abs(trained.encode(words) - start.encode(words)).max() > 1e-3
    metrics = json.loads((tmp_path / "runs" / "run" / "metrics.json").read_text())
    assert metrics["after"]["map@r"] != metrics["before"]["map@r"]
    run(tmp_path, "export", "--model", "runs/run", "--output", "exported")
    peer = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(peer.encode(words), trained.encode(words), atol=1e-6)


def test_tags_get_a_static_encoder_of_sets(small: Small, tmp_path: Path) -> None:
    files = ["--data.train", small / "train.parquet", "--data.tags", "tags", "--data.label", "section"]
    encoder = ["--model.encoder", "StaticEncoder", "--model.encoder.backbone", small / "backbone"]
    short = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--name", "run"]
    run(tmp_path, "fit", *files, *encoder, *short)
    trained = lit_metric.load(tmp_path / "runs" / "run")
    assert isinstance(trained, SetEncoder)
    assert isinstance(trained.text, StaticEncoder)


def test_what_is_not_distilled_is_refused(
    tmp_path: Path, sets: tuple[SetEncoder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "distill", "--model", sets[1], "--output", "static")
    assert "not of a SetEncoder: distill its text tower" in capsys.readouterr().err
    assert not (tmp_path / "static").exists()
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "kept").touch()
    with pytest.raises(SystemExit):
        run(tmp_path, "distill", "--model", sets[1], "--output", "static")
    assert "exists already and is not an empty folder" in capsys.readouterr().err
