"""Copies of weights: the same values as another reader sees, of what training changes, refused if odd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_metric.mining.snapshot import Snapshot, SnapshotError, fingerprint, restore, trained, untouched

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


class Model(nn.Module):
    """With a frozen part, a buffer that is saved, one that is not, and a tied weight."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, width).requires_grad_(False)
        self.free = nn.Linear(width, 4)
        self.tied = nn.Linear(width, 4)
        self.tied.weight = self.free.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("positions", torch.arange(3), persistent=False)


def test_other_readers_see_what_was_written(tmp_path: Path) -> None:
    tensors = {str(kind): torch.arange(7).to(kind) for kind in TYPES}
    tensors |= {"number": torch.tensor(3.5), "empty": torch.zeros(0, 4), "matrix": torch.rand(5, 3)}
    snapshot = Snapshot(tmp_path / "new" / "weights.safetensors")
    for factor in (1, 2):  # the second time in place
        given = {
            name: value if value.dtype == torch.bool else value * factor for name, value in tensors.items()
        }
        snapshot.write(given)
        read = load_file(snapshot.path)
        assert read.keys() == given.keys()
        for name, value in given.items():
            assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
            assert torch.equal(read[name], value)
    inode = snapshot.path.stat().st_ino
    snapshot.write({"other": torch.ones(100)})
    assert load_file(snapshot.path)["other"].tolist() == [1] * 100
    assert snapshot.path.stat().st_ino == inode


def test_only_what_training_changes_is_copied() -> None:
    model = Model()
    live, still = set(trained(model)), set(untouched(model))
    assert live == {
        *("free.weight", "free.bias", "tied.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    }
    assert still == {"frozen.weight", "frozen.bias"}


def test_another_model_becomes_the_same(tmp_path: Path) -> None:
    model, other = Model(), Model()
    model.norm(torch.rand(8, 4))
    save_file(untouched(model), tmp_path / "base")
    snapshot = Snapshot(tmp_path / "weights")
    snapshot.write(trained(model))
    assert fingerprint(other) != fingerprint(model)
    restore(other, snapshot.path, tmp_path / "base")
    assert fingerprint(other) == fingerprint(model)
    assert other.tied.weight is other.free.weight
    with torch.no_grad():
        model.free.weight += 1
    snapshot.write(trained(model))
    restore(other, snapshot.path)
    assert fingerprint(other) == fingerprint(model)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(untouched(Model(3)), tmp_path / "base")
    snapshot = Snapshot(tmp_path / "weights")
    snapshot.write(trained(Model(3)))
    with pytest.raises(SnapshotError, match=r"of another encoder .* first in frozen\.(weight|bias)"):
        restore(Model(5), snapshot.path, tmp_path / "base")
    with pytest.raises(SnapshotError, match=r"of another encoder .* first in (free|tied|norm)\."):
        restore(Model(3).double(), snapshot.path)
    save_file({}, tmp_path / "nothing")
    with pytest.raises(SnapshotError, match=r"first in frozen\.(weight|bias)"):
        restore(Model(3), snapshot.path, tmp_path / "nothing")
    with snapshot.path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(SnapshotError, match="holds no weights that can be read"):
        restore(Model(3), snapshot.path)


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_metric.store.MARGIN", 1 << 60)
    with pytest.raises(OSError, match=r"bytes free, and .* are to be written: make room"):
        Snapshot(tmp_path / "weights").write({"a": torch.ones(1000)})
    assert not (tmp_path / "weights").exists()


def test_types_that_the_format_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"wave is torch\.complex64"):
        Snapshot(tmp_path / "weights").write({"wave": torch.zeros(2, dtype=torch.complex64)})
