"""How mining starts: in which mode by default, and with or without a first table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from lit_metric.refresh import InlineRefresher, Refresh
from tests.refresh.fits import DELAY, EPOCH, Fit, fit
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
    done = fit(small, tmp_path, first_table="in_background", save=2)
    assert done.tables.versions == [0] * DELAY + [1] * EPOCH + [2] * EPOCH + [3] * 2
    met = [sorted(candidates) for candidates in done.watch.candidates]
    assert met[:DELAY] == [planned(done, batch) for batch in range(DELAY)]
    assert met == done.tables.drawn
    assert all(len(met[batch]) > len(planned(done, batch)) for batch in range(DELAY, 15))
    first = done.tables.opened[1].manifest
    assert (first["step"], first["weights"]) == (0, done.tables.weights[0])
    assert staleness(done) == dict(enumerate([3, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4], start=DELAY))
    # At batch 2 the first table is not in use yet; it is mined again from weights that the checkpoint names.
    rest = fit(small, tmp_path, first_table="in_background", resume="2.ckpt")
    assert rest.tables.versions[:2] == [0, min(version for version in rest.tables.versions if version)]
    assert rest.watch.candidates == done.watch.candidates[2:]
    assert rest.weights == done.weights


def test_a_table_that_is_never_refreshed_is_that_of_untrained_weights(small: Small, tmp_path: Path) -> None:
    done = fit(small, tmp_path, every="never")
    assert done.tables.versions == [1] * 3 * EPOCH
    assert [*done.tables.opened] == [1]
    assert done.tables.opened[1].manifest["step"] == 0
    assert staleness(done) == {batch: batch for batch in range(3 * EPOCH)}


def test_a_process_mines_by_default_and_where_the_loader_leaves_it_no_time_training_stops(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Refresh().mode == "scheduled"
    with caplog.at_level(logging.WARNING):
        done = fit(small, tmp_path, delay=None, workers=1, prefetch=8)
    assert "Mining stops training each time (inline): a refresh every 5 batches" in caplog.text
    assert "the loader runs 9 ahead" in caplog.text
    assert type(done.refresher) is InlineRefresher
    assert done.tables.versions == [1] * 5 + [2] * 5 + [3] * 5
    assert [sorted(met) for met in done.watch.candidates] == done.tables.drawn


def test_the_chosen_delay_is_legal_for_every_length_of_an_epoch() -> None:
    for ahead in (1, 3, 17):
        for per_epoch in range(1, 60):
            reason = Refresh().too_short(per_epoch, ahead)
            assert (reason is None) == (per_epoch > ahead)
            if reason is None:
                delay = Refresh().timetable(per_epoch, ahead).delay
                assert ahead + 1 <= delay <= per_epoch
    assert Refresh().timetable(per_epoch=100, ahead=5).delay == 50
    # Where mostly a search of 45,000 items is left to wait for, unless the loader runs further ahead.
    assert [Refresh().timetable(100, ahead, reused=45_000).delay for ahead in (5, 17)] == [9, 18]
    assert [Refresh().timetable(100, 1, reused=1_000, processes=ranks).delay for ranks in (1, 16)] == [2, 4]
    assert Refresh(7).timetable(100, 5, reused=45_000).delay == 7
    # Not with the first weights, for which all is encoded.
    assert [Refresh().timetable(100, 5, reused=45_000).switch(taken) for taken in (0, 100)] == [50, 109]
    assert [Refresh(delay=8).timetable(100, 5, reused=45_000).switch(taken) for taken in (0, 100)] == [8, 108]
    assert Refresh(delay=3).too_short(2, 5) is None  # that is a mistake, and an error says so
    assert Refresh("never").too_short(2, 5) is None


def test_training_embeddings_are_reused_by_default_where_they_are_those_of_all() -> None:
    assert Refresh().reuses_embeddings(nodes=1, all_trained=True)
    assert not Refresh().reuses_embeddings(nodes=1, all_trained=False)
    assert Refresh(reuse_training_embeddings=True).reuses_embeddings(nodes=1, all_trained=False)
    assert not Refresh(reuse_training_embeddings=False).reuses_embeddings(nodes=1, all_trained=True)


def test_training_embeddings_are_not_shared_over_a_network() -> None:
    assert not Refresh().reuses_embeddings(nodes=2, all_trained=True)
    with pytest.raises(ValueError, match="reuse_training_embeddings=True on 2 machines"):
        Refresh(reuse_training_embeddings=True).reuses_embeddings(nodes=2, all_trained=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": "daily"}, 'every=\'daily\': use "epoch", "never", or a number of batches'),
        ({"every": 0}, "every=0: "),
        ({"every": True}, "every=True: "),
        ({"mode": "later"}, "mode='later': use \"inline\""),
        ({"mode": "inline", "delay": 5}, 'delay=5 needs mode="scheduled"'),
        ({"delay": 0}, "delay=0 must be at least 1"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"restarts": -1}, "restarts=-1"),
        ({"mode": "inline", "reuse_training_embeddings": True}, 'embeddings=True needs mode="scheduled"'),
        ({"first_table": "later"}, "first_table='later': use \"before_training\""),
        ({"first_table": "in_background", "mode": "inline"}, 'first_table=in_background needs mode="sched'),
        ({"first_table": "in_background", "every": "never"}, "needs a refresh"),
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Refresh(**arguments)
