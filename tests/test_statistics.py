"""Statistics from the store: what `status` and `get_statistics` say of a job's runs, whatever was pruned and however
long the history is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    Budget,
    CollectionScheduler,
    Outcome,
    RateLimited,
    RunContext,
    SchedulerConfig,
    SkipRun,
    UnknownJob,
    collector,
    statistics,
    views,
)
from geckosched.core import _FLAWED, _RESTORE_SQL, LeaderLock, Store
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.schemas import add_job
from tests.workbench import Workbench

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(store_path: Path) -> Iterator[sqlite3.Connection]:
    """A store of this version that nobody leads, to put jobs and runs in."""
    with closing(Store(store_path).open_writer()) as connection:
        yield connection


@pytest.fixture
def asking(store_path: Path) -> CollectionScheduler:
    """A scheduler that asks the store at `NOW`, and leads nothing."""
    return CollectionScheduler(SchedulerConfig(database=store_path), clock=FakeClock(NOW))


def add_run(store: sqlite3.Connection, ago: timedelta, seconds: float = 1.0, late: float | None = 0.0,
            outcome: str = "succeeded", reason: str = "scheduled", **columns: Any) -> None:
    """Add a run of the job `one`, that started so long ago."""
    started = NOW - ago
    slot = None if late is None else text(started - timedelta(seconds=late))
    row = {"job_id": "one", "reason": reason, "scheduled_for": slot, "started_at": text(started), "outcome": outcome,
           "finished_at": text(started + timedelta(seconds=seconds)), "instance_id": "x", **columns}  # fmt: skip
    store.execute(f"INSERT INTO geckosched_runs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                  tuple(row.values()))


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- the counters of a job's row ---------------------------------------------------------------------------------------


def ending_as(outcome: str) -> Any:
    """Return a `collect` whose run makes two calls and ends so."""

    def collect(run: RunContext) -> Iterator[Batch]:
        for _ in range(2):
            with run.call(Budget("api", rate="1000/m", burst=100)):
                pass
        if outcome == "partial":
            with run.target("Oslo"):
                raise ValueError("no such city")
            with run.target("Rome"):
                pass
        if outcome == "failed":
            raise ValueError("no such city")
        if outcome == "skipped":
            raise SkipRun("nothing new")
        if outcome == "rate_limited":
            raise RateLimited(1)
        yield Batch("t", [{"id": run.id}], pk="id")

    return collect


def test_a_jobs_row_counts_successes_and_calls(bench: Workbench) -> None:
    """Succeeded and partial are successes; calls are those of every run that ended, however it did; the last success is
    kept by its id."""
    said = ["succeeded", "partial", "failed", "skipped", "rate_limited"]
    runs = [bench.run(ending_as(outcome)) for outcome in said]
    assert [run.outcome for run in runs] == said
    columns = "runs, succeeded, errors, calls, last_success_id, last_failure_id"
    assert bench.sql(f"SELECT {columns} FROM geckosched_jobs") == [(5, 2, 1, 10, runs[1].id, runs[2].id)]
    job = bench.scheduler.get_collector_status("bench")
    assert job.success_rate == 2 / 3
    assert job.last_outcomes == tuple(map(Outcome, said))


def test_the_calls_of_a_run_whose_process_died_are_counted(
    store: sqlite3.Connection, new_scheduler: NewScheduler, store_path: Path
) -> None:
    """The next leader closes it as interrupted: a run, no success, and the calls that its row had."""
    add_job(store, "one", "so", succeeded=1, calls=1, last_success_id=1)
    store.close()
    new_scheduler().start()
    [row] = Store(store_path).read("SELECT runs, succeeded, calls, last_success_id FROM geckosched_jobs")
    assert tuple(row) == (2, 1, 1 + 2, 1)


def test_pruning_changes_no_count(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """Success rate, runs, errors and calls are of all runs there were, not of those that are kept."""
    add_job(store, "one", "ssfsp", succeeded=4, calls=15, last_success_id=5)
    before, job = asking.get_statistics("one").in_all, asking.get_collector_status("one")
    store.execute("DELETE FROM geckosched_runs WHERE id < 5")
    after, pruned = asking.get_statistics("one").in_all, asking.get_collector_status("one")
    counts = (5, 0.8, 1, 15)
    assert (before.runs, before.success_rate, before.errors, before.calls) == counts
    assert (after.runs, after.success_rate, after.errors, after.calls) == counts
    assert job.success_rate == pruned.success_rate == 0.8
    assert (before.sampled, after.sampled) == (5, 1)


def test_a_job_that_only_skipped_has_no_success_rate(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """None, not 0: nothing was tried."""
    add_job(store, "one", "kk")
    assert asking.get_collector_status("one").success_rate is None
    assert asking.get_statistics("one").in_all.success_rate is None


# -- what status shows for people --------------------------------------------------------------------------------------


def test_last_outcomes_are_the_last_ten_oldest_first(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """Of runs that ended: one that goes on is no part of it."""
    add_job(store, "one", "ffsspkrtisspo")
    add_job(store, "never-ran", "")
    strips = {job.job_id: [each.value[0] for each in job.last_outcomes] for job in asking.get_status().jobs}
    assert strips == {"one": list("sspsrtissp"), "never-ran": []}


def test_with_many_jobs_the_strips_are_shorter(
    store: sqlite3.Connection, asking: CollectionScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many outcomes are read in all; one job alone has its ten whatever the others are."""
    monkeypatch.setattr(views, "STRIPS", 9)
    for number in range(3):
        add_job(store, f"job-{number}", "fs" * 6)
    assert [len(job.last_outcomes) for job in asking.get_status().jobs] == [3, 3, 3]
    assert len(asking.get_collector_status("job-0").last_outcomes) == 10
    monkeypatch.setattr(views, "STRIPS", 2)
    assert [len(job.last_outcomes) for job in asking.get_status().jobs] == [1, 1, 1]


def test_the_last_runs_detail_and_the_days_losses_are_there_for_people(
    store: sqlite3.Connection, asking: CollectionScheduler
) -> None:
    """Why the last run was partial or skipped, and what was lost until a day ago at most; `as_dict`, which is exact,
    has none of it."""
    add_job(store, "one", "sp", lost=12)
    store.execute("UPDATE geckosched_runs SET detail = 'Oslo: no such city' WHERE id = 2")
    for count, hours in ((2, 1), (3, 23), (7, 25)):
        store.execute("INSERT INTO geckosched_losses VALUES (1, 'one', 'Oslo', ?, ?, ?)",
                      (count, text(NOW - timedelta(days=9)), text(NOW - timedelta(hours=hours))))
    job = asking.get_collector_status("one")
    assert (job.last_detail, job.lost_lately) == ("Oslo: no such city", 5)
    assert job.as_dict().keys().isdisjoint({"last_detail", "lost_lately", "last_outcomes", "reason"})
    store.execute("UPDATE geckosched_runs SET detail = NULL, error_type = 'ValueError', error = 'no' WHERE id = 2")
    assert asking.get_collector_status("one").last_detail == "no"


# -- get_statistics ----------------------------------------------------------------------------------------------------


def test_the_last_day_is_of_the_runs_that_started_in_it(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """Counts, outcomes, losses and missed slots of 24 hours; in all there were more."""
    add_job(store, "one", "", runs=9, errors=3, rows=70, lost=8, missed=5, succeeded=5, calls=50)
    add_run(store, timedelta(hours=24, seconds=1), outcome="failed", rows=1, calls=1, lost=1, missed=1)
    add_run(store, timedelta(hours=24), outcome="succeeded", rows=10, calls=20, lost=0, missed=2)
    add_run(store, timedelta(hours=2), outcome="timed_out", rows=3, calls=4, lost=5, missed=0)
    add_run(store, timedelta(hours=1), outcome="skipped")
    add_run(store, timedelta(minutes=1), outcome="partial", rows=2, calls=1)
    day, in_all = (found := asking.get_statistics("one")).last_day, found.in_all
    assert (day.runs, day.success_rate, day.errors) == (4, 2 / 3, 1)
    assert (day.rows, day.calls, day.lost, day.missed) == (15, 25, 5, 2)
    assert day.outcomes == {"succeeded": 1, "partial": 1, "skipped": 1, "timed_out": 1}
    assert day.since == NOW - timedelta(days=1)
    assert (in_all.runs, in_all.success_rate, in_all.errors) == (9, 5 / 8, 3)
    assert (in_all.rows, in_all.calls, in_all.lost, in_all.missed) == (70, 50, 8, 5)
    assert in_all.outcomes == {"succeeded": 1, "partial": 1, "failed": 1, "skipped": 1, "timed_out": 1}
    assert found.kept_since == in_all.since == NOW - timedelta(hours=24, seconds=1)


def test_run_times_are_exact(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """The last, the median (between the middle two of an even number), the 95th percentile and the largest."""
    add_job(store, "one", "")
    for number in range(1, 21):
        add_run(store, timedelta(minutes=60 - number), seconds=(number * 7) % 20 + 0.25)
    found = asking.get_statistics("one").last_day.seconds
    assert (found.count, found.last, found.median, found.p95, found.max) == (20, 0.25, 9.75, 18.25, 19.25)


def test_lateness_is_of_scheduled_runs_only(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """A retry or a catch-up bears a slot that is long gone, and a triggered run none: they aren't late."""
    add_job(store, "one", "")
    add_run(store, timedelta(minutes=9), late=0.002)
    add_run(store, timedelta(minutes=8), late=0.006)
    add_run(store, timedelta(minutes=7), late=0.004)
    add_run(store, timedelta(minutes=6), late=600.0, reason="catchup")
    add_run(store, timedelta(minutes=5), late=60.0, reason="retry")
    add_run(store, timedelta(minutes=4), late=None, reason="triggered")
    found = asking.get_statistics("one").last_day
    assert (found.seconds.count, found.lateness.count) == (6, 3)
    assert (found.lateness.last, found.lateness.median, found.lateness.max) == (0.004, 0.004, 0.006)


def test_a_long_history_is_sampled_and_says_so(
    store: sqlite3.Connection, asking: CollectionScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest runs, as many as reach back a day, no more than the bound; counts in all stay those of all runs."""
    monkeypatch.setattr(statistics, "SAMPLE", 4)
    monkeypatch.setattr(statistics, "MOST", 8)
    add_job(store, "one", "", runs=20, succeeded=20)
    for hours in range(20, 0, -1):
        add_run(store, timedelta(hours=hours), seconds=hours)
    found = asking.get_statistics("one")
    assert (found.in_all.runs, found.in_all.sampled, found.in_all.since) == (20, 8, NOW - timedelta(hours=8))
    assert (found.last_day.runs, found.last_day.since) == (8, NOW - timedelta(hours=8))
    assert found.last_day.seconds.max == 8.0
    assert found.kept_since == NOW - timedelta(hours=20)
    store.execute("UPDATE geckosched_runs SET started_at = ? WHERE id <= 17", (text(NOW - timedelta(days=2)),))
    found = asking.get_statistics("one")
    assert (found.in_all.sampled, found.last_day.runs) == (4, 3)


def test_a_job_that_never_ran_has_statistics_too(new_scheduler: NewScheduler) -> None:
    """Registered here and not stored yet: nothing, and no error. An unknown job is one."""
    scheduler = new_scheduler()
    scheduler.register_collector(collector("idle")(lambda _: None), job_id="idle")
    found = scheduler.get_statistics("idle")
    assert (found.in_all.runs, found.in_all.success_rate, found.in_all.seconds.median) == (0, None, None)
    assert (found.in_all.since, found.kept_since, found.last_day.outcomes) == (None, None, {})
    with pytest.raises(UnknownJob, match="idle"):
        scheduler.get_statistics("idel")


def test_statistics_are_json(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """`as_dict` has JSON values only, times as our text."""
    add_job(store, "one", "")
    add_run(store, timedelta(minutes=9))
    found = asking.get_statistics("one").as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["kept_since"] == "2026-11-25T11:51:00.000000Z"
    assert found["last_day"]["outcomes"] == {"succeeded": 1}


# -- failed runs -------------------------------------------------------------------------------------------------------


def test_failed_runs_are_all_that_left_something_undone(store: sqlite3.Connection, asking: CollectionScheduler) -> None:
    """Every outcome but succeeded and skipped, newest first, of one job or of all; a limit holds for the whole."""
    add_job(store, "one", "sfsktsp")
    add_job(store, "two", "irs")
    assert [(run.job_id, run.outcome) for run in asking.get_runs(failed=True)] == [
        ("two", Outcome.RATE_LIMITED), ("two", Outcome.INTERRUPTED), ("one", Outcome.PARTIAL),
        ("one", Outcome.TIMED_OUT), ("one", Outcome.FAILED)]  # fmt: skip
    assert [run.id for run in asking.get_runs("one", failed=True)] == [7, 5, 2]
    assert [run.id for run in asking.get_runs(limit=2, failed=True)] == [9, 8]
    with pytest.raises(UnknownJob):
        asking.get_runs("three", failed=True)


def test_an_open_run_has_failed_only_if_its_process_is_gone(
    store: sqlite3.Connection, asking: CollectionScheduler, store_path: Path
) -> None:
    """With nobody leading, it is one that the next leader will close as interrupted."""
    add_job(store, "one", "fso")
    add_job(store, "two", "o")
    assert [run.id for run in asking.get_runs(failed=True)] == [4, 3, 1]
    assert [run.id for run in asking.get_runs("one", limit=1, failed=True)] == [3]
    lock = LeaderLock(store_path)
    assert lock.acquire()
    try:
        assert [run.id for run in asking.get_runs(failed=True)] == [1]
    finally:
        lock.release()


# -- quick with ten million runs: nothing reads the whole history ------------------------------------------------------


@pytest.mark.parametrize(("sql", "params"), [
    (views._STATUS_SQL.format(rate="NULL"), (10, "")),
    (_RESTORE_SQL, ()),
    (statistics._RUNS_SQL, ("one", 10)),
    (statistics._OLDEST_SQL, ("one",)),
    ("SELECT * FROM geckosched_runs WHERE job_id = ? ORDER BY id DESC LIMIT ?", ("one", 10)),
    (f"SELECT * FROM geckosched_runs WHERE 1 AND {_FLAWED} ORDER BY id DESC LIMIT ?", (10,)),
    (f"SELECT * FROM geckosched_runs WHERE job_id = ? AND {_FLAWED} ORDER BY id DESC LIMIT ?", ("one", 10)),
    ("SELECT * FROM geckosched_losses WHERE run_id = ?", (1,)),
])  # fmt: skip
def test_runs_and_losses_are_found_by_indexes(sql: str, params: tuple[Any, ...], store: sqlite3.Connection) -> None:
    """No query of a reader or of a start scans or sorts the history: each step over runs or losses is a search, or a
    scan of an index that has the few that count."""
    plan = [row["detail"] for row in store.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
    tables = ("geckosched_runs", "geckosched_losses", "r", "f", "h", "b", "l")
    history = [step for step in plan if step.split()[1] in tables]
    assert history
    few = ("INDEX geckosched_runs_open", "INDEX geckosched_runs_flawed")
    assert [step for step in history if step.startswith("SCAN") and not any(index in step for index in few)] == []
    assert [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step] == []


def test_failures_of_a_job_are_not_looked_for_among_its_successes(store: sqlite3.Connection) -> None:
    """A job with a million runs and one failure: the index of the flawed runs finds it."""
    sql = f"SELECT * FROM geckosched_runs WHERE job_id = ? AND {_FLAWED} ORDER BY id DESC LIMIT 20"
    [step] = [row["detail"] for row in store.execute(f"EXPLAIN QUERY PLAN {sql}", ("one",))]
    assert "geckosched_runs_flawed_of_job" in step
