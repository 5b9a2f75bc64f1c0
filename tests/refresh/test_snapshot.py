"""Copies of weights and vectors: the values that another reader sees, and the files that checkpoints name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_metric.encoders.pretrained import fingerprint
from lit_metric.refresh.snapshot import (
    Bank,
    CheckpointFiles,
    Snapshot,
    SnapshotError,
    restore,
    trained,
    untouched,
)

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


IDS = torch.tensor([2, 4, 5, 9])


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


def test_the_latest_vector_of_any_rank_is_taken(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    banks = [Bank(tmp_path / f"rank{rank}", IDS, 3, fresh=True) for rank in range(2)]
    expected: dict[int, tuple[int, int, list[float]]] = {}
    for step in range(4):
        for rank, bank in enumerate(banks):
            ids = torch.randperm(10, generator=generator)[:3]
            vectors = torch.rand(3, 3, generator=generator)
            bank.put(ids, vectors, step)
            for item, vector in zip(ids.tolist(), vectors.tolist(), strict=True):
                if item in IDS.tolist() and (step, -rank) > expected.get(item, (-1, 0, []))[:2]:
                    expected[item] = step, -rank, vector
    merged = Bank(tmp_path / "merged", IDS, 3, fresh=True)
    merged.merge(banks)
    again = Bank(tmp_path / "merged", IDS, 3)  # as another process reads it
    assert 1 < len(expected) <= 4
    for row, item in enumerate(IDS.tolist()):
        step, _, vector = expected.get(item, (-1, 0, [0.0] * 3))
        assert again.steps[row] == step
        assert again.vectors[row].tolist() == vector
    stale = [row for row, item in enumerate(IDS.tolist()) if expected.get(item, (-1,))[0] < 3]
    assert again.stale(3).tolist() == stale


def test_one_bank_is_copied_whole(tmp_path: Path) -> None:
    bank, copy = (Bank(tmp_path / name, IDS, 2, fresh=True) for name in ("bank", "copy"))
    bank.put(torch.tensor([9, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16), step=0)
    copy.merge([bank])
    bank.put(torch.tensor([9]), torch.zeros(1, 2), step=1)
    assert copy.vectors.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert copy.steps.tolist() == [-1, 0, -1, 0]


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    Bank(tmp_path / "bank", IDS, 3, fresh=True)
    with pytest.raises(SnapshotError, match="is not the bank of 4 vectors of 2 components"):
        Bank(tmp_path / "bank", IDS, 2)
    with pytest.raises(SnapshotError, match="is not the bank"):
        Bank(tmp_path / "none", IDS, 2)


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    source, target = tmp_path / "weights.safetensors", tmp_path / "back.safetensors"
    source.write_bytes(b"first")
    kept = CheckpointFiles(tmp_path / "kept")
    first = kept.keep("000000005", [source])
    source.write_bytes(b"second")
    second = kept.keep("000000005", [source])
    kept.restore(first, [target])
    assert target.read_bytes() == b"first"
    kept.restore(second, [target])
    assert target.read_bytes() == b"second"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "bank.vectors"
    source.write_bytes(bytes(1000))
    kept = CheckpointFiles(tmp_path / "kept")
    named = kept.keep("000000005", [source])
    copy = tmp_path / "kept" / next(iter(named))
    if damage == "remove":
        copy.unlink()
    else:
        copy.write_bytes(bytes(999) + (b"\x01" if damage == "flip" else b""))
    with pytest.raises(SnapshotError, match="is missing" if damage == "remove" else "is damaged"):
        kept.restore(named, [source])
    assert source.read_bytes() == bytes(1000)


def test_what_a_checkpoint_does_not_name_is_removed(tmp_path: Path) -> None:
    source = tmp_path / "bank.vectors"
    source.write_bytes(b"1")
    kept = CheckpointFiles(tmp_path / "kept")
    named = kept.keep("000000005", [source])
    other_rank = kept.keep("000000005-rank1", [source])
    gone = kept.keep("000000007-rank0", [source])
    young = kept.keep("000000010-rank0", [source])
    kept.collect(named, before=10)
    left = {path.name for path in (tmp_path / "kept").iterdir()}
    assert left == {*named, *other_rank, *young}
    assert not left & set(gone)
    assert kept.find("000000005-rank1") == other_rank


def test_a_fingerprint_is_of_all_weights() -> None:
    module = torch.nn.BatchNorm1d(2)  # counts its batches in a tensor without dimensions
    first = fingerprint(module)
    assert fingerprint(torch.nn.BatchNorm1d(2)) == first
    module.num_batches_tracked += 1  # type: ignore[operator]
    second = fingerprint(module)
    with torch.no_grad():
        module.bias[1] += 1e-6
    assert len({first, second, fingerprint(module)}) == 3
