"""``lit-metric doctor`` and ``lit-metric merge``."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric import Encoder, TextEncoder
from lit_metric.commands import doctor as module
from lit_metric.commands.doctor import Examination, doctor, examine
from tests.end_to_end.command import run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_sound_machine(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIT_METRIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tokens.arrow").write_bytes(bytes(1 << 20))
    run(tmp_path, "doctor", "--backbone", small / "backbone", "--output", "found.json")
    told = capsys.readouterr().out
    assert told.endswith("no problems\n")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["problems"] == []
    assert found["sections"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["sections"]["folders"]["cache"] == f"{tmp_path / 'cache'}: 0.00 GiB in 1 files"
    probed = found["sections"]["backbone"]
    assert probed["texts run"] == "packed, the fastest way"
    count = sum(value.numel() for value in TextEncoder(small / "backbone").parameters())
    assert probed["size"].startswith(f"{count:,} parameters")
    for values in found["sections"].values():
        assert all(value in told for value in values.values())


def test_what_is_broken_is_named(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict.fromkeys(("numpy", "lightning"))
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "lightning":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else real(name)

    def fail(name: str) -> None:
        if name == "faiss":
            raise ImportError("libopenblas.so.0: cannot open shared object file")

    monkeypatch.setattr(module.importlib.metadata, "version", version)
    monkeypatch.setattr(module.importlib, "import_module", fail)
    found = Examination()
    shown = module._versions(found)
    assert shown["numpy"] == "1.0"
    assert {each.split()[0] for each in found.problems} == {*versions, "import"}
    assert "numpy is 1.0, and >=1.26 is needed: pip install 'numpy>=1.26'" in found.problems
    assert "import faiss fails: ImportError: libopenblas.so.0: cannot open" in found.problems[-1]


def test_a_broken_backbone_ends_with_status_1(small: Small, tmp_path: Path) -> None:
    encoder = TextEncoder(small / "backbone")
    with torch.no_grad():
        next(encoder.parameters()).fill_(torch.nan)
    encoder.save(tmp_path / "damaged")
    found = examine(str(tmp_path / "damaged"))
    assert len(found.problems) == 1
    assert str(tmp_path / "damaged") in found.problems[0]
    with pytest.raises(SystemExit) as end:
        doctor(str(tmp_path / "nothing"))
    assert end.value.code == 1
    with pytest.raises(ValueError, match=r"must end in \.json"):
        doctor(output="found.txt")


def test_merge_writes_a_model(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, encoders = ["w5 w6", "w7"], [TextEncoder(small / "backbone", projection=8) for _ in range(2)]
    for name, encoder in zip("ab", encoders, strict=True):
        encoder.save(tmp_path / name)
    run(tmp_path, "merge", "a", "b", "--weights", "0.75", "0.25", "--output", "mean")
    merged = Encoder.load(tmp_path / "mean")
    values = [each.state_dict()["projection.0.linear.weight"] for each in (*encoders, merged)]
    torch.testing.assert_close(values[2], 0.75 * values[0] + 0.25 * values[1])
    assert merged.encode(texts).shape == (2, 8)
    run(tmp_path, "merge", "a", "a", "--output", "same")
    np.testing.assert_allclose(
        Encoder.load(tmp_path / "same").encode(texts), encoders[0].encode(texts), atol=1e-6
    )
    with pytest.raises(SystemExit) as end:
        run(tmp_path, "merge", "a", "b", "--output", "mean")
    assert end.value.code == 2
    assert "--output mean exists already" in capsys.readouterr().err
