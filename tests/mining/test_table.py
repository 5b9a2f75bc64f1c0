"""What is stored comes back, or is refused with the reason."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lit_metric.mining import NegativeTable, TableError, collect_versions, versions
from lit_metric.mining.table import half
from tests.forked import SERVER

FILES = ["anchors.npy", "ids.npy", "scores.npy", "positives.npy", "sample.json"]


def table_of(rows: int = 5, width: int = 3, seed: int = 0) -> NegativeTable:
    lots = np.random.default_rng(seed)
    ids = lots.permuted(np.tile(np.arange(100, 200, dtype=np.int32), (rows, 1)), axis=1)[:, :width].copy()
    ids[1, -1] = -1
    scores = -np.sort(-lots.random((rows, width)).astype(np.float16), axis=1)
    scores[1, -1] = -np.inf
    positives = lots.random((rows, 3)).astype(np.float16)
    return NegativeTable(
        np.arange(rows, dtype=np.int32) * 10, ids, scores, positives, sample=[{"anchor": 20}]
    )


def int32(values: list[Any]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def save(table: NegativeTable, root: Path, corpus: str = "these items") -> int:
    return table.save(root, corpus=corpus, weights="w0", step=40, epoch=2)


def flip(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(bytes(content))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_saved_comes_back_memory_mapped(tmp_path: Path) -> None:
    table = table_of()
    assert save(table, tmp_path) == 1
    opened = NegativeTable.open(tmp_path, 1, corpus="these items")
    for name in ("anchors", "ids", "scores", "positives"):
        assert isinstance(getattr(opened, name), np.memmap)
        np.testing.assert_array_equal(getattr(opened, name), getattr(table, name))
        assert not getattr(opened, name).flags.writeable
    told = {name: opened.manifest[name] for name in ("version", "step", "epoch", "corpus", "weights", "rows")}
    assert told == {
        "version": 1, "step": 40, "epoch": 2, "corpus": "these items", "weights": "w0", "rows": 5,
    }  # fmt: skip


def test_rows_are_found_by_id_in_any_order() -> None:
    table = table_of()
    found = table.candidates(torch.tensor([40, 0, 10, 40]))
    assert found.anchors.tolist() == [40, 0, 10, 40]
    assert found.ids.tolist() == table.ids[[4, 0, 1, 4]].tolist()
    assert found.scores.tolist() == table.scores[[4, 0, 1, 4]].tolist()
    assert found.positives.best.tolist() == table.positives[[4, 0, 1, 4], 0].tolist()
    assert found.positives.worst.tolist() == table.positives[[4, 0, 1, 4], 1].tolist()
    assert found.positives.mean.tolist() == table.positives[[4, 0, 1, 4], 2].tolist()


@pytest.mark.parametrize("missing", [5, -1, 41])
def test_an_item_without_a_row_is_named(missing: int) -> None:
    with pytest.raises(KeyError, match=f"item {missing} has no row in the table .1 of 2"):
        table_of().candidates(torch.tensor([10, missing]))


@pytest.mark.parametrize("name", FILES[:-1])  # the sample is for people, and gets texts later
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    save(table_of(), tmp_path)
    flip(tmp_path / "v000001" / name, -3)
    with pytest.raises(TableError, match=f"{name} is damaged: its sha256"):
        NegativeTable.open(tmp_path, 1)


@pytest.mark.parametrize("name", FILES[:-1])  # the sample is for people, and gets texts later
def test_a_truncated_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save(table_of(), tmp_path)
    path = tmp_path / "v000001" / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(TableError, match=f"{name} is damaged"):
        NegativeTable.open(tmp_path, 1)
    with pytest.raises(TableError, match=f"{name} cannot be read as an array"):
        NegativeTable.open(tmp_path, 1, verify=False)
    path.unlink()
    with pytest.raises(TableError, match=f"{name} is missing"):
        NegativeTable.open(tmp_path, 1)


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    save(table_of(), tmp_path)
    with pytest.raises(TableError, match=r"another corpus \(these items, not those items\)"):
        NegativeTable.open(tmp_path, 1, corpus="those items")


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    table_of().save(tmp_path, corpus="items", weights="w", step=0, epoch=0, tokenizer="words")
    assert len(NegativeTable.open(tmp_path, 1, tokenizer="words"))
    with pytest.raises(TableError, match=r"mined with another tokenizer \(words, not pieces\)"):
        NegativeTable.open(tmp_path, 1, tokenizer="pieces")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format=2), "has format 2, this library reads format 1"),
        (lambda manifest: manifest.update(version=7), "is that of version 7"),
        (
            lambda manifest: manifest.update(candidates=4),
            r"ids.npy holds int32 \[5, 3\], expected int32 \[5, 4\]",
        ),
        (lambda manifest: manifest.pop("similarity"), "has no entry 'similarity'"),
        (lambda manifest: manifest.pop("files"), r"is damaged \(KeyError\('files'\)\)"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    save(table_of(), tmp_path)
    rewrite(tmp_path / "v000001" / "manifest.json", change)
    with pytest.raises(TableError, match=message):
        NegativeTable.open(tmp_path, 1)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    save(table_of(), tmp_path)
    harmful = np.array([Harmful(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "v000001" / "ids.npy", harmful, allow_pickle=True)
    with pytest.raises(TableError, match=r"ids.npy cannot be read as an array"):
        NegativeTable.open(tmp_path, 1, verify=False)
    assert not (tmp_path / "ran").exists()


class Harmful:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_folder_without_manifest_is_no_version(tmp_path: Path) -> None:
    save(table_of(), tmp_path)
    (tmp_path / "v000001" / "manifest.json").unlink()
    assert versions(tmp_path) == []
    with pytest.raises(TableError, match="was never finished or was deleted; finished versions: none"):
        NegativeTable.open(tmp_path, 1)
    with pytest.raises(TableError, match="does not exist"):
        NegativeTable.open(tmp_path, 2)
    assert save(table_of(), tmp_path) == 2


def test_a_crash_at_any_moment_leaves_no_half_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, 0

    def dying(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    for moment in range(len(FILES) + 1):
        left = moment
        with pytest.raises(KeyboardInterrupt):
            save(table_of(), tmp_path)
        assert versions(tmp_path) == []
    left = len(FILES) + 1
    version = save(table_of(), tmp_path)
    assert version == len(FILES) + 2
    assert versions(tmp_path) == [version]
    NegativeTable.open(tmp_path, version)


def test_the_manifest_is_written_last_and_everything_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, sync, events = os.replace, os.fsync, []

    def replaced(source: Path, target: Path) -> None:
        events.append(Path(target).name)
        replace(source, target)

    def synced(descriptor: int) -> None:
        events.append("fsync")
        sync(descriptor)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    save(table_of(), tmp_path)
    names = [event for event in events if event != "fsync"]
    assert names == [*FILES, "manifest.json"]
    assert all(events[events.index(name) - 1] == "fsync" for name in names)
    assert events[-1] == "fsync"


def test_old_versions_are_collected_and_names_never_used_again(tmp_path: Path) -> None:
    for _ in range(5):
        save(table_of(), tmp_path)
    held = NegativeTable.open(tmp_path, 3)
    assert collect_versions(tmp_path, keep=[2], newest=1) == [1, 3, 4]
    assert versions(tmp_path) == [2, 5]
    np.testing.assert_array_equal(held.ids, table_of().ids)  # Whoever has it open keeps reading it.
    for number in (1, 3, 4):
        assert [path.name for path in (tmp_path / f"v{number:06d}").iterdir()] == ["sample.json"]
        sample = json.loads((tmp_path / f"v{number:06d}" / "sample.json").read_text())
        assert (sample["version"], sample["step"], sample["anchors"]) == (number, 40, [{"anchor": 20}])
    assert collect_versions(tmp_path, newest=1) == [2]
    assert save(table_of(), tmp_path) == 6


def test_collecting_leaves_a_version_that_is_being_written_alone(tmp_path: Path) -> None:
    for _ in range(3):
        save(table_of(), tmp_path)
    for number in (1, 3):  # One that died long ago, one that is being written.
        (tmp_path / f"v{number:06d}" / "manifest.json").unlink()
    assert collect_versions(tmp_path, newest=1) == []
    assert sorted(path.name for path in (tmp_path / "v000001").iterdir()) == ["sample.json"]
    assert sorted(path.name for path in (tmp_path / "v000003").iterdir()) == sorted(FILES)


def test_a_full_disk_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="1,000 bytes free"):
        save(table_of(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def ids_in_another_process(table: NegativeTable) -> tuple[int, bool, list[list[int]]]:
    return os.getpid(), isinstance(table.ids, np.memmap), table.candidates(torch.tensor([40, 0])).ids.tolist()


def test_another_process_gets_the_path_and_not_the_arrays(tmp_path: Path) -> None:
    table = table_of(rows=2000, width=30)
    save(table, tmp_path)
    opened = NegativeTable.open(tmp_path, 1)
    assert len(pickle.dumps(opened)) < 500
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
        other, mapped, ids = pool.submit(ids_in_another_process, opened).result()
    assert other != os.getpid()
    assert mapped
    assert ids == table.ids[[4, 0]].tolist()
    with pytest.raises(TypeError, match=r"save\(\) it and open\(\) it there"):
        pickle.dumps(table)


def test_overlap_counts_shared_candidates_of_shared_items() -> None:
    none = np.zeros((2, 3), dtype=np.float16)
    first = NegativeTable(int32([1, 2]), int32([[7, 8, 9], [7, -1, -1]]), none, none)
    second = NegativeTable(int32([1, 3]), int32([[9, 5, 7], [7, 8, 9]]), none, none)
    assert first.overlap(second) == 2 / 3
    third = NegativeTable(int32([1, 2]), int32([[1, 2, 3], [7, 6, -1]]), none, none)
    assert (first.overlap(third), third.overlap(first)) == (1 / 4, 1 / 5)
    apart = NegativeTable(int32([8, 9]), int32([[7, 8, 9]] * 2), none, none)
    assert np.isnan(first.overlap(apart))


def test_arrays_of_the_wrong_kind_are_refused() -> None:
    table = table_of()
    with pytest.raises(TableError, match=r"ids is int64 \[5, 3\], expected int32 \[5, 3\]"):
        NegativeTable(table.anchors, table.ids.astype(np.int64), table.scores, table.positives)
    with pytest.raises(TableError, match="anchors must rise strictly"):
        NegativeTable(table.anchors[::-1], table.ids, table.scores, table.positives)


def test_scores_beyond_half_precision_are_refused_rather_than_made_infinite() -> None:
    assert half(torch.tensor([-torch.inf, 65504.0])).tolist() == [-np.inf, 65504]
    with pytest.raises(OverflowError, match="70000 does not fit"):
        half(torch.tensor([1.0, -70000.0]))
