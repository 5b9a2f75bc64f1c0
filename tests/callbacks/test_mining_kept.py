"""What a checkpoint needs beside itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_metric.callbacks.mining_kept import CheckpointFiles
from lit_metric.mining.snapshot import SnapshotError


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
