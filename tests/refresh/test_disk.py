"""A disk that is full, for real: a small file system in memory, all of whose places are taken."""

from __future__ import annotations

import errno
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lit_metric.mining import versions
from lit_metric.refresh import client
from tests.refresh import faulty
from tests.refresh.fits import EPOCH, fit
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run's tables, on a disk of its own with room for 200 files."""
    folder = tmp_path / "run" / "negatives"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=200", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk can't be mounted here: {getattr(error, 'stderr', '') or error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Full(pl.Callback):
    """The disk is full from one batch on, and has room again from another on."""

    def __init__(self, disk: Path, batches: tuple[int, int]) -> None:
        self.filling = disk / "filling"
        self.batches = batches

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        number = trainer.current_epoch * EPOCH + batch_idx
        if number == self.batches[0]:
            self.filling.mkdir()
            with pytest.raises(OSError, match="No space left") as full:
                self.fill()
            assert full.value.errno == errno.ENOSPC
        if number == self.batches[1]:
            shutil.rmtree(self.filling)

    def fill(self) -> None:
        for name in range(1000):
            (self.filling / str(name)).touch()


def test_training_goes_on_with_the_old_table_and_says_so(
    small: Small,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The worker searches when the disk is full already, and has the table yet to write.
    monkeypatch.setattr(client, "MODULE", faulty.__name__)
    monkeypatch.setenv(faulty.VARIABLE, f"search:3:1:{tmp_path / 'searching'}")
    with caplog.at_level(logging.WARNING):
        done = fit(small, tmp_path, callbacks=[Full(disk, (EPOCH, 8))])
    assert done.negatives == disk
    # There is room again for the second refresh; a number that was tried in vain isn't used again. The
    # refresh that the last batch asks for may be ready, too, before the worker is told to end.
    used = done.tables.versions[-1]
    assert used > 1
    assert used in versions(disk)
    assert done.tables.versions == [1] * 13 + [used] * 2
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn
    [told] = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert told.startswith("The refresh after batch 5 is skipped and the old table stays in use")
    assert "OSError: [Errno 28] No space left on device" in told
    assert done.refresher.state()["background"]["skipped"][0]["batch"] == 5
