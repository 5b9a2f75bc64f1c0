"""How mining starts: in which mode by default, and with or without a first table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lit_metric.callbacks.mining import MiningCallback, takes_vectors, timetable, too_short
from lit_metric.mining import Miner, NegativeTable
from lit_metric.mining.timetable import Use
from tests.background import DELAY, EPOCH, Fit, fit
from tests.small import Small
from tests.test_loggers import rows

pytestmark = pytest.mark.filterwarnings("ignore")


def planned(done: Fit, batch: int) -> list[int]:
    """The candidates that the planner alone gives a batch."""
    data = done.data
    plan = data.planner.plan(data.splits["train"], data.relations, data.seed, batch // EPOCH)
    return sorted(plan.candidates[batch % EPOCH].tolist())


def staleness(done: Fit) -> dict[int, float]:
    logged = rows(done.folder / "run")
    name = "mining/staleness"
    return {int(row["step"]): float(row[name]) for row in logged if row.get(name)}


def test_the_first_table_is_used_from_its_switch_on_also_when_resumed(small: Small, tmp_path: Path) -> None:
    done = fit(small, tmp_path, cold_start="in_batch", save=2)
    assert done.tables.versions == [0] * DELAY + [1] * EPOCH + [2] * EPOCH + [3] * 2
    met = [sorted(candidates) for candidates in done.watch.candidates]
    assert met[:DELAY] == [planned(done, batch) for batch in range(DELAY)]
    assert met == done.tables.drawn
    assert all(len(met[batch]) > len(planned(done, batch)) for batch in range(DELAY, 15))
    first = done.tables.opened[1].manifest
    assert (first["step"], first["weights"]) == (0, done.tables.weights[0])
    assert staleness(done) == dict(enumerate([3, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4], start=DELAY))
    # At batch 2 the first table is not in use yet; it is mined anew from weights that the checkpoint names.
    rest = fit(small, tmp_path, cold_start="in_batch", resume="2.ckpt")
    assert rest.tables.versions[:2] == [0, min(version for version in rest.tables.versions if version)]
    assert rest.watch.candidates == done.watch.candidates[2:]
    assert rest.weights == done.weights


def test_inline_the_first_table_is_that_of_the_second_period(small: Small, tmp_path: Path) -> None:
    options = {"mode": "inline", "delay": None, "max_staleness": EPOCH}
    done = fit(small, tmp_path, cold_start="in_batch", **options)
    assert done.tables.versions == [0] * EPOCH + [1] * EPOCH + [2] * EPOCH
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn
    table = NegativeTable.open(done.negatives, 1)
    assert (table.manifest["step"], table.manifest["weights"]) == (EPOCH, done.tables.weights[EPOCH])


def test_eager_the_first_table_is_used_when_it_is_there(small: Small, tmp_path: Path) -> None:
    class Slow(pl.Callback):
        """Lets the worker finish before batch 3."""

        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            mining = next(each for each in trainer.callbacks if isinstance(each, MiningCallback))
            if trainer.global_step == 2:
                assert mining.background is not None
                assert mining.background.supervisor is not None
                while not mining.background.supervisor.done(0):
                    mining.background.supervisor.look(1)

    options = {"mode": "eager", "delay": None, "epochs": 1}
    done = fit(small, tmp_path, cold_start="in_batch", callbacks=[Slow()], **options)
    switch = done.tables.versions.index(1)
    assert 0 < switch <= 3
    assert done.tables.versions == [0] * switch + [1] * (EPOCH - switch)
    assert done.mining.uses.uses[-1] == Use(switch, 1, 0)
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn


def test_a_process_mines_by_default_and_where_the_loader_leaves_it_no_time_training_stops(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Miner().mode == "scheduled"
    with caplog.at_level(logging.WARNING):
        done = fit(small, tmp_path, delay=None, workers=1, prefetch=8)
    assert "Mining stops training each time (inline): a refresh every 5 batches" in caplog.text
    assert "the loader runs 9 ahead" in caplog.text
    assert done.mining.background is None
    assert done.tables.versions == [1] * 5 + [2] * 5 + [3] * 5
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn


@pytest.mark.parametrize("mode", ["scheduled", "eager"])
def test_the_chosen_delay_is_legal_for_every_length_of_an_epoch(mode: Any) -> None:
    for ahead in (1, 3, 17):
        for per_epoch in range(1, 60):
            reason = too_short(Miner(mode=mode), per_epoch, ahead)
            assert (reason is None) == (per_epoch > ahead)
            if reason is None:
                delay = timetable(Miner(mode=mode), per_epoch, ahead).delay
                assert ahead + 1 <= delay <= per_epoch
    assert timetable(Miner(), per_epoch=100, ahead=5).delay == 50
    # Where mostly a search is left to wait for, unless the loader runs further ahead.
    assert [timetable(Miner(), 100, ahead, searched=9).delay for ahead in (5, 17)] == [9, 18]
    assert timetable(Miner(refresh=7), 100, 5, searched=9).delay == 7
    # Not with the first weights, for which all is encoded.
    assert [timetable(Miner(), 100, 5, searched=9).switch(taken) for taken in (0, 100)] == [50, 109]
    assert [timetable(Miner(delay=8), 100, 5, searched=9).switch(taken) for taken in (0, 100)] == [8, 108]
    assert too_short(Miner(delay=3), 2, 5) is None  # that is a mistake, and an error says so
    assert too_short(Miner(refresh="never"), 2, 5) is None


def test_vectors_at_hand_are_taken_by_default_where_they_are_those_of_all() -> None:
    assert takes_vectors(Miner(), nodes=1, all_trained=True)
    assert not takes_vectors(Miner(), nodes=1, all_trained=False)
    assert takes_vectors(Miner(free_refresh=True), nodes=1, all_trained=False)
    assert not takes_vectors(Miner(free_refresh=False), nodes=1, all_trained=True)


def test_vectors_are_not_shared_over_a_network() -> None:
    assert not takes_vectors(Miner(), nodes=2, all_trained=True)
    with pytest.raises(ValueError, match="free_refresh=True on 2 machines"):
        takes_vectors(Miner(free_refresh=True), nodes=2, all_trained=True)
