"""Training goes on while another process mines: what batches meet, and what happens when that one fails."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_metric import Refresh
from lit_metric.encoders import MaxPooling
from lit_metric.evaluation import encode_split
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, NegativeTable, versions
from lit_metric.refresh import MiningFailed, client
from tests.refresh import faulty
from tests.refresh.fits import DELAY, EPOCH, Fit, children, contents, fit, version_at
from tests.small import Small
from tests.test_loggers import rows

pytestmark = pytest.mark.filterwarnings("ignore")


def arm(monkeypatch: pytest.MonkeyPatch, folder: Path, points: str, action: str, times: int = 1) -> list[str]:
    """Have the worker fail at each of ``points``; names of files that tell how often it did."""
    faults = [f"{point}:{action}:{times}:{folder / point}" for point in points.split()]
    monkeypatch.setenv(faulty.VARIABLE, ";".join(faults))
    monkeypatch.setattr(client, "MODULE", faulty.__name__)
    return points.split()


def logged(done: Fit, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in rows(done.folder / "run") if name in row}


def test_batches_switch_where_the_timetable_says_and_meet_that_table(undisturbed: Fit) -> None:
    assert (
        undisturbed.tables.versions
        == [version_at(batch) for batch in range(15)]
        == [1] * 8 + [2] * 5 + [3] * 2
    )
    assert [sorted(met) for met in undisturbed.watch.candidates] == undisturbed.tables.drawn
    ids = [table.ids.tolist() for table in undisturbed.tables.opened.values()]
    assert ids[0] != ids[1] != ids[2]


def mined(small: Small, done: Fit, step: int, half: bool = False) -> NegativeTable:
    """What training itself would mine with its weights of a step."""
    data, miner, learner = done.data, done.data.miner, small.learner()
    assert miner is not None
    learner.load_state_dict(done.tables.states[step])
    ids = data.splits["train"].sort().values
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        parts = [*encode_split(learner.encoder, data, ids)]
    vectors, order = (torch.cat(part) for part in zip(*parts, strict=True))
    return miner.mine(Embeddings(ids, vectors.float()[order.argsort()]), data.relations, data.seed)


def test_a_table_is_that_of_the_weights_when_they_were_copied(small: Small, undisturbed: Fit) -> None:
    for version, step in ((2, 5), (3, 10)):
        table = undisturbed.tables.opened[version]
        assert (table.manifest["step"], table.manifest["epoch"]) == (step, step // EPOCH - 1)
        assert table.manifest["weights"] == undisturbed.tables.weights[step]
        expected = mined(small, undisturbed, step)
        assert table.ids.tolist() == expected.ids.tolist()
        assert table.scores.tolist() == expected.scores.tolist()


def test_it_encodes_in_the_precision_of_training(small: Small, tmp_path: Path) -> None:
    done = fit(small, tmp_path, epochs=2, places={"precision": "bf16-mixed"}, interpreter=True)
    table = done.tables.opened[2]
    expected = mined(small, done, 5, half=True)
    assert table.ids.tolist() == expected.ids.tolist()
    assert table.scores.tolist() == expected.scores.tolist()
    assert table.scores.tolist() != mined(small, done, 5).scores.tolist()


def test_what_it_cost_is_logged(undisturbed: Fit) -> None:
    assert logged(undisturbed, "mining/delay") == {8: DELAY, 13: DELAY}
    assert logged(undisturbed, "mining/encoded") == {8: 1.0, 13: 1.0}
    assert set(logged(undisturbed, "mining/snapshot_seconds")) == {5, 10, 15}
    assert set(logged(undisturbed, "mining/stall_seconds")) == {8, 13}
    assert list(logged(undisturbed, "mining/staleness").values()) == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        3,
        4,
        5,
        6,
        7,
        3,
        4,
    ]
    tables = undisturbed.tables.opened
    assert logged(undisturbed, "mining/overlap")[8] == pytest.approx(tables[2].overlap(tables[1]))
    assert not (undisturbed.negatives / "worker").exists()
    assert undisturbed.refresher.client.process is None


def test_a_killed_worker_changes_nothing(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Fit
) -> None:
    marks = [tmp_path / point for point in arm(monkeypatch, tmp_path, "encode search write publish", "kill")]
    done = fit(small, tmp_path, restarts=4)
    assert [mark.read_text() for mark in marks] == ["."] * 4
    assert done.weights == undisturbed.weights
    assert done.watch.candidates == undisturbed.watch.candidates
    assert logged(done, "mining/restarts") == {8: 4.0, 13: 4.0}
    assert logged(done, "mining/skipped") == {8: 0.0, 13: 0.0}
    for use in done.refresher.uses.uses:
        step = NegativeTable.open(done.negatives, use.version).manifest["step"]
        same = next(each for each in undisturbed.refresher.uses.uses if each.taken == step)
        theirs = undisturbed.negatives / f"v{same.version:06d}"
        assert contents(done.negatives / f"v{use.version:06d}") == contents(theirs)


def test_loader_workers_see_the_switch_at_the_same_batch(
    small: Small, tmp_path: Path, undisturbed: Fit
) -> None:
    done = fit(small, tmp_path, workers=2, delay=4)
    assert done.tables.versions == [1] * 9 + [2] * 5 + [3]
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn
    assert done.watch.candidates[:8] == undisturbed.watch.candidates[:8]


def test_a_worker_that_keeps_dying_costs_a_refresh(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arm(monkeypatch, tmp_path, "build", "kill", times=2)
    with caplog.at_level(logging.WARNING):
        done = fit(small, tmp_path, restarts=1)
    assert (tmp_path / "build").read_text() == ".."
    assert done.tables.versions == [1] * 13 + [2] * 2
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn
    assert logged(done, "mining/skipped") == {8: 1.0, 13: 0.0}
    assert "The refresh after batch 5 is skipped and the old table stays in use" in caplog.text
    assert "the worker died 2 times, the last time by signal 9" in caplog.text
    assert done.refresher.state()["background"]["skipped"][0]["batch"] == 5


def test_inline_mining_every_few_batches(small: Small, tmp_path: Path) -> None:
    done = fit(small, tmp_path, mode="inline", delay=None, reuse_training_embeddings=None, every=4)
    assert done.tables.versions == [1 + batch // 4 for batch in range(15)]
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn


def test_a_full_disk_costs_a_refresh_without_restarts(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arm(monkeypatch, tmp_path, "write", "raise", times=9)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        done = fit(small, tmp_path, threads=2, interpreter=True)  # OpenMP's threads don't survive a fork
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert done.tables.versions == [1] * 15
    assert "OSError: a fault at 'write'" in caplog.text
    assert logged(done, "mining/restarts") == {8: 0.0, 13: 0.0}
    assert versions(done.negatives) == [1]
    # While the worker is at work, its threads are not training's.
    assert done.tables.threads == [3] * 5 + [1] * 3 + [3] * 2 + [1] * 3 + [3] * 2
    assert after == 3


def test_a_strict_run_stops_and_leaves_no_process(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(monkeypatch, tmp_path, "encode", "60")
    with pytest.raises(MiningFailed, match=r"after batch 5: no table after 1 seconds of waiting"):
        fit(small, tmp_path, strict=True, timeout=1.0)
    assert not [pid for pid in children(os.getpid()) if faulty.__name__.encode() in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_cannot_be_described_is_mined_inline(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Miner):
        """Defined where no other process finds it."""

    monkeypatch.setattr("tests.refresh.fits.Miner", Odd)
    done = fit(small, tmp_path)
    assert "Mining stops training each time (inline)" in caplog.text
    assert "Odd can't be imported by another process" in caplog.text
    assert done.tables.versions == [1] * 5 + [2] * 5 + [3] * 5


def test_a_changed_encoder_is_mined_inline_from_the_first_switch_on(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = small.learner()
    learner.encoder.pooling = MaxPooling()  # type: ignore[assignment]
    done = fit(small, tmp_path, learner=learner)
    assert "the encoder that its description makes is another one" in caplog.text
    assert done.tables.versions == [1] * 8 + [2] * 2 + [3] * 5
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn
    assert done.refresher.impossible


def test_by_default_only_what_training_has_not_met_is_encoded_also_when_resumed(
    small: Small, tmp_path: Path
) -> None:
    done = fit(small, tmp_path, reuse_training_embeddings=None, save=6)
    met = {item for batch in range(5) for item in done.watch.candidates[batch] + done.watch.anchors[batch]}
    items = len(done.data.splits["train"])
    assert logged(done, "mining/encoded")[8] == pytest.approx(1 - len(met) / items)
    later = {
        item for batch in range(5, 10) for item in done.watch.candidates[batch] + done.watch.anchors[batch]
    }
    assert logged(done, "mining/encoded")[13] == pytest.approx(1 - len(later) / items)
    # With the refresh after batch 5 under way.
    rest = fit(small, tmp_path, reuse_training_embeddings=None, resume="6.ckpt")
    assert rest.watch.candidates == done.watch.candidates[6:]
    assert rest.weights == done.weights
    shares = logged(done, "mining/encoded")  # of both runs, one after the other
    assert shares == pytest.approx({8: 1 - len(met) / items, 13: 1 - len(later) / items})


def test_a_run_resumed_at_the_moment_of_a_copy_copies_again(
    small: Small, tmp_path: Path, undisturbed: Fit
) -> None:
    assert not (undisturbed.negatives / "kept").exists()  # the checkpoint itself has the weights
    rest = fit(small, shutil.copytree(undisturbed.folder, tmp_path / "copy"), resume="5.ckpt")
    assert rest.watch.candidates == undisturbed.watch.candidates[5:]
    assert rest.weights == undisturbed.weights


@pytest.mark.parametrize(
    ("arguments", "ahead", "message"),
    [
        ({"delay": 5}, 5, "delay=5 must be more than the 5 batches"),
        ({"delay": 101}, 5, "delay=101 must be at most a refresh period, which is 100 batches"),
        ({"every": 4, "delay": 4}, 5, "a refresh every 4 batches is too often for a loader that runs 5"),
    ],
)
def test_a_timetable_that_cannot_be_kept_is_refused(
    arguments: dict[str, Any], ahead: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Refresh(**arguments).timetable(per_epoch=100, ahead=ahead)
