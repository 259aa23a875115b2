"""S3: what of the history goes and what stays; that it goes in portions between the runs, and by which clock."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from geckosched import CollectionScheduler, Outcome, RunContext, collector
from geckosched.core import DAY, HOUR, SECOND, Lead, Statements, Store, to_text
from geckosched.pruning import Pruner
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import Gate, runs_of, settle, until
from tests.test_store_trouble import locked

MINUTES = 60.0
TO_THE_PRESENT = [DAY + SECOND, HOUR]  # ages that show the clock to be right: it ran a day ago, and does now


class Past(NamedTuple):
    """A run that a test puts into the store."""

    id: int
    job_id: str
    age: int  # microseconds, from the test's present
    outcome: str | None = "succeeded"
    lost: int = 0


def long_past(count: int, jobs: int = 1) -> list[Past]:
    """Runs of fifty days ago that all go, and two of the present."""
    old = [Past(n, f"job-{n % jobs}", 50 * DAY) for n in range(1, count + 1)]
    return old + [Past(count + n, f"job-{m}", age) for m in range(jobs) for n, age in
                  enumerate(TO_THE_PRESENT, 1 + 2 * m)]


@collector("minutely", every="1m")
def minutely(run: RunContext) -> None:
    """Does nothing, each minute."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make(path: Path, now: int, runs: Iterable[Past], losses: dict[int, int] | None = None,
         forgotten: str = "") -> None:  # fmt: skip
    """Make a store with these runs, their jobs as the leader would have left them, and losses: their ages by run."""
    past = sorted(runs)
    with closing(Store(path).open_writer()) as connection:
        connection.execute("BEGIN")
        for run in past:
            at = to_text(now - run.age)
            connection.execute("INSERT INTO geckosched_runs (id, job_id, reason, scheduled_for, started_at, "
                               "finished_at, outcome, lost) VALUES (?,?,'scheduled',?,?,?,?,?)",
                               (run.id, run.job_id, at, at, at if run.outcome else None, run.outcome, run.lost))
        for run_id, age in (losses or {}).items():
            connection.execute("INSERT INTO geckosched_losses SELECT id, job_id, 'Oslo', 3, ?, ? FROM geckosched_runs "
                               "WHERE id = ?", (to_text(now - age - HOUR), to_text(now - age), run_id))
        for job_id in {run.job_id for run in past} - {forgotten}:
            own = [run for run in past if run.job_id == job_id]
            last = {what: max((run.id for run in own if run.outcome in outcomes), default=None)
                    for what, outcomes in (("success", ("succeeded", "partial")), ("failure", ("failed", "timed_out")))}
            connection.execute(
                "INSERT INTO geckosched_jobs (job_id, collector, plugin, every, enabled, runs, last_run_id, "
                "last_success_id, last_failure_id) VALUES (?,'minutely','', '1m', 1, ?, ?, ?, ?)",
                (job_id, len(own), own[-1].id, last["success"], last["failure"]))
        connection.execute("COMMIT")


def expected(past: list[Past], days: int, most: int, losses: dict[int, int], forgotten: str = "") -> set[int]:
    """Say in plain Python which runs stay, as the module's docstring promises it."""
    stay = set()
    for job_id in {run.job_id for run in past}:
        own = sorted(run for run in past if run.job_id == job_id)
        for place, run in enumerate(reversed(own)):
            newer = own[len(own) - place:]
            same = {"succeeded": ("succeeded", "partial"), "partial": ("succeeded", "partial"),
                    "failed": ("failed", "timed_out"), "timed_out": ("failed", "timed_out")}.get(run.outcome or "", ())
            is_last_of_kind = bool(same) and not any(each.outcome in same for each in newer)
            is_before_last = run.outcome == "interrupted" and len(newer) == 1
            is_kept = job_id != forgotten and (not newer or is_last_of_kind or is_before_last)
            too_many = job_id != forgotten and len(own) > most and place >= most
            gone = run.age > days * DAY or too_many
            if not gone or is_kept or run.outcome is None or (run.lost and losses[run.id] <= DAY):
                stay.add(run.id)
    return stay


def ids(path: Path, table: str = "geckosched_runs", column: str = "id") -> set[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute(f"SELECT {column} FROM {table}")}


def lead_of(scheduler: CollectionScheduler) -> Lead:
    assert scheduler.lead is not None
    return scheduler.lead


def pruner_of(scheduler: CollectionScheduler) -> Pruner:
    assert scheduler._watcher is not None
    assert scheduler._watcher._pruner is not None
    return scheduler._watcher._pruner


def until_round(scheduler: CollectionScheduler) -> None:
    """Wait until the round that is due by now is over, all that it found deleted."""
    pruner, clock = pruner_of(scheduler), lead_of(scheduler).clock
    until(lambda: pruner._next > clock.monotonic() and pruner._round is None and pruner._reply is None, "a round's end")


def until_ran(scheduler: CollectionScheduler, job_id: str, count: int) -> None:
    until(lambda: scheduler.get_collector_status(job_id).runs >= count, f"{count} runs of {job_id}")


def next_round(scheduler: CollectionScheduler, clock: FakeClock, seconds: float = 1 * MINUTES) -> None:
    clock.advance(seconds)
    until_round(scheduler)


# -- what goes and what stays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_exactly_what_is_promised_goes(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, seed: int
) -> None:
    """Histories of chance against plain Python: by age and number, but each job's last run, success and failure, what
    is open, recent losses, and an interrupted run that is the last but one. Losses go with their runs, and only so."""
    chance = random.Random(seed)
    outcomes = [str(outcome) for outcome in Outcome] + ["succeeded"] * 5
    ages = sorted((chance.randrange(60 * DAY) for _ in range(chance.choice([40, 400]))), reverse=True)
    ages = [age for age in ages if age > 2 * DAY] + TO_THE_PRESENT
    past = [Past(number, f"job-{chance.randrange(5)}", age, chance.choice(outcomes), chance.choice([0, 0, 0, 3]))
            for number, age in enumerate(ages, 1)]
    losses = {run.id: chance.choice([HOUR, 40 * DAY]) for run in past if run.lost}
    make(store_path, clock.now(), past, losses, forgotten="job-0")
    before = Store(store_path).read("SELECT job_id, runs, errors FROM geckosched_jobs ORDER BY job_id")
    scheduler = new_scheduler(clock=clock, retention_days=30, retention_runs=20)
    scheduler.start()
    until_round(scheduler)
    found = ids(store_path)
    assert found == expected(past, 30, 20, losses, "job-0")
    assert len(found) < len(past)
    assert ids(store_path, "geckosched_losses", "run_id") == found & set(losses)
    assert Store(store_path).read("SELECT job_id, runs, errors FROM geckosched_jobs ORDER BY job_id") == before


@pytest.mark.parametrize(("outcomes", "stay"), [
    (["succeeded", "failed", "skipped", "skipped"], {1, 2, 4}),  # the last success, failure and run
    (["partial", "timed_out", "rate_limited"], {1, 2, 3}),
    (["succeeded", "succeeded", "failed", "failed", "succeeded"], {4, 5}),
    (["succeeded", "interrupted", "interrupted", "interrupted"], {1, 3, 4}),  # by which a start tells what kills it
    (["interrupted", "succeeded", "succeeded"], {3}),
    (["succeeded", None, "succeeded", "succeeded"], {2, 4}),  # one that goes on
])  # fmt: skip
def test_what_stays_of_a_job_that_ran_long_ago(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, outcomes: list[str | None], stay: set[int]
) -> None:
    """All is older than the retention, and what tells how the job is stays all the same."""
    make(store_path, clock.now(), [Past(n, "other", age) for n, age in enumerate(TO_THE_PRESENT, 11)])
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    make(store_path, clock.now(), [Past(n, "job", (60 - n) * DAY, outcome) for n, outcome in enumerate(outcomes, 1)])
    next_round(scheduler, clock)
    assert ids(store_path) - {11, 12} == stay


def test_numbers_of_requests_go_on(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """The newest stays, however old: who reads requests goes by their numbers, which must not begin anew."""
    make(store_path, clock.now(), [Past(n, "job", age) for n, age in enumerate(TO_THE_PRESENT, 1)])
    with closing(Store(store_path).open_writer()) as connection, connection:
        for number in (1, 2, 3):
            connection.execute("INSERT INTO geckosched_requests (id, action, answered_at) VALUES (?, 'enable', ?)",
                               (number, to_text(clock.now() - (60 - number) * DAY)))
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    assert ids(store_path, "geckosched_requests") == {3}


def test_a_run_that_goes_on_stays(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """However old it grows; when it has ended and another came, it goes."""
    gate = Gate()
    scheduler = new_scheduler(clock=clock, retention_days=1)
    scheduler.register_collector(minutely)
    job_id = scheduler.register_collector(gate, "1m", timeout="100d")
    scheduler.start()
    assert gate.entered.acquire(timeout=10)
    next_round(scheduler, clock, 50 * 86_400)
    until_ran(scheduler, "minutely", 2)
    next_round(scheduler, clock)
    [old] = scheduler.get_runs(job_id)
    assert old.outcome is None
    gate.open.set()
    until(lambda: lead_of(scheduler).ticker.jobs[job_id].running is None, "its end")
    clock.advance(2 * MINUTES)
    until_ran(scheduler, job_id, 2)
    before = scheduler.get_collector_status("minutely").runs
    next_round(scheduler, clock, 2 * 86_400)
    until_ran(scheduler, "minutely", before + 1)
    next_round(scheduler, clock, 3_601)
    assert old.id not in ids(store_path)


def test_requests_and_processes_go_by_age(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """Those that nobody has answered stay, and so does the newest process; what is young as well."""
    now = clock.now()
    make(store_path, now, [Past(1, "job", 2 * DAY), Past(2, "job", 1)])
    with closing(Store(store_path).open_writer()) as connection, connection:
        for number, (asked, answered) in enumerate([(50, 50), (45, None), (40, 40), (29, 29)], 1):
            connection.execute("INSERT INTO geckosched_requests (id, action, requested_at, answered_at, answer) "
                               "VALUES (?, 'enable', ?, ?, 'done')",
                               (number, to_text(now - asked * DAY), answered and to_text(now - answered * DAY)))
        for name, age in (("old", 50), ("older", 60), ("young", 20)):
            connection.execute("INSERT INTO geckosched_instances (id, heartbeat_at) VALUES (?, ?)",
                               (name, to_text(now - age * DAY)))
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    assert ids(store_path, "geckosched_requests") == {2, 4}
    assert ids(store_path, "geckosched_instances") == {"young", lead_of(scheduler).instance_id}


def test_what_others_keep_in_the_file_stays(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """Collected rows, however old, are not history."""
    make(store_path, clock.now(), [Past(n, "job", (100 - n) * DAY) for n in range(1, 101)])
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute("CREATE TABLE rates (id INTEGER PRIMARY KEY, started_at)")
        connection.executemany("INSERT INTO rates VALUES (?, '2001-01-01')", [(n,) for n in range(50)])
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    assert len(ids(store_path)) == 31
    assert len(ids(store_path, "rates")) == 50


def test_it_goes_on_as_time_does(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """A job that runs keeps its number, give or take a twentieth; what was its last failure goes after the next."""
    fails = True

    @collector("job", every="1m", max_consecutive_errors=1000)
    def job(run: RunContext) -> None:
        if fails:
            raise ValueError("no")

    scheduler = new_scheduler(clock=clock, retention_runs=20)
    scheduler.register_collector(job)
    scheduler.start()
    runs_of(scheduler, "job", 1)
    fails = False
    for count in range(2, 30):
        clock.advance(120)
        until_ran(scheduler, "job", count)
    next_round(scheduler, clock)
    kept = {run.id for run in scheduler.get_runs("job", 100)}
    assert 1 in kept
    assert 20 <= len(kept - {1}) <= 22
    fails = True
    clock.advance(120)
    until(lambda: scheduler.get_collector_status("job").errors == 2, "another failure")
    fails = False
    for _ in range(3):
        next_round(scheduler, clock)
    assert 1 not in {run.id for run in scheduler.get_runs("job", 100)}


def test_what_stayed_and_has_become_old_goes_within_an_hour(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """A round begins where the last one ended; once an hour it begins at the oldest run again."""
    past = [Past(1, "minutely", 50 * DAY), Past(2, "minutely", 40 * DAY)]
    make(store_path, clock.now(), [*past, *(Past(n, "x", age) for n, age in enumerate(TO_THE_PRESENT, 3))])
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    assert ids(store_path) == {2, 3, 4}
    scheduler.register_collector(minutely)
    settle(scheduler)
    clock.advance(2 * MINUTES)
    runs_of(scheduler, "minutely", 2)
    until_round(scheduler)
    assert 2 in ids(store_path)
    next_round(scheduler, clock, 3_600)
    assert 2 not in ids(store_path)


# -- by which clock ----------------------------------------------------------------------------------------------------


def test_a_clock_that_is_years_ahead_takes_a_day_of_history(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """A machine whose clock is set ten years ahead by mistake keeps its history; if it stays so for a day, it was no
    mistake."""
    make(store_path, clock.now(), [Past(n, "job", (40 - n) * DAY) for n in range(1, 41)])
    clock.step(3650 * 86_400)
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(minutely)
    scheduler.start()
    runs_of(scheduler, "minutely", 1)
    until_round(scheduler)
    assert len(ids(store_path) - {41}) == 30
    next_round(scheduler, clock, 25 * 3_600)
    runs_of(scheduler, "minutely", 2)
    next_round(scheduler, clock, 3_601)
    until_round(scheduler)
    assert ids(store_path) & set(range(1, 41)) == {40}  # the job's last


def test_a_clock_that_is_set_back_takes_nothing(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """A machine that begins in 1970 has only runs of the future; nothing is old."""
    make(store_path, clock.now(), [Past(n, "job", (40 - n) * DAY) for n in range(1, 41)])
    clock.step(-50 * 365 * 86_400)
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(minutely)
    scheduler.start()
    runs_of(scheduler, "minutely", 1)
    until_round(scheduler)
    assert len(ids(store_path)) == 41


def test_runs_of_the_future_are_passed_over(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """What ran while the clock was ahead is neither old nor in the way of what is."""
    ages = [50, 49, -3000, -3000, 45, 40, 20, 2, 0]
    make(store_path, clock.now(), [Past(n, "job", age * DAY) for n, age in enumerate(ages, 1)])
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    assert ids(store_path) == {3, 4, 7, 8, 9}


# -- in portions, between the runs -------------------------------------------------------------------------------------


def test_a_portion_is_as_large_as_the_last_ones_were_quick(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick ones grow by ten rows up to the most; a slow one halves the next."""
    monkeypatch.setattr(Pruner, "MOST", 60)
    make(store_path, clock.now(), long_past(1000))
    for aim, size in ((1000.0, 60), (0.0, 1)):  # seconds that all take less than, or more
        monkeypatch.setattr(Pruner, "AIM", aim)
        scheduler = new_scheduler(clock=clock)
        scheduler.start()
        until(lambda: pruner_of(scheduler)._size == size, f"portions of {size}")  # noqa: B023
        scheduler.stop()
    assert 0 < len(ids(store_path)) < 1000


def test_a_locked_store_is_not_pruned_and_is_afterwards(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """S1: the round waits with everybody else, and one portion at most waits for the lock."""
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    with closing(sqlite3.connect(store_path)) as connection, connection:
        for number in range(1, 301):
            at = to_text(clock.now() - (301 - number) * 6 * HOUR)
            connection.execute("INSERT INTO geckosched_runs (id, job_id, started_at, outcome) "
                               "VALUES (?, 'gone', ?, 'failed')", (number, at))
    with locked(store_path):
        clock.advance(1 * MINUTES)
        until(lambda: lead_of(scheduler).writer.trouble, "trouble")
        assert len(ids(store_path)) == 300
    until_round(scheduler)
    assert len(ids(store_path)) == 120


def test_a_deletion_that_is_refused_is_said_once_a_round(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What an operator's own trigger forbids is neither deleted nor tried without end; runs go on."""
    make(store_path, clock.now(), long_past(1000))
    with closing(sqlite3.connect(store_path)) as connection:
        connection.execute("CREATE TRIGGER mine BEFORE DELETE ON geckosched_runs "
                           "BEGIN SELECT raise(abort, 'mine'); END")  # fmt: skip
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(minutely)
    scheduler.start()
    until_round(scheduler)
    runs_of(scheduler, "minutely", 1)
    next_round(scheduler, clock)
    refusals = [line for line in caplog.messages if "refused Deletion" in line]
    assert refusals == ["the store refused Deletion: IntegrityError: mine"] * 2
    assert len(ids(store_path)) > 1000


def test_only_the_leader_prunes(new_scheduler: NewScheduler, clock: FakeClock, store_path: Path) -> None:
    """Who takes the lead for one call changes no history."""
    make(store_path, clock.now(), [Past(n, "job", (100 - n) * DAY) for n in range(1, 101)])
    pruner = Pruner()
    with new_scheduler(clock=clock)._taking_part() as lead:
        assert lead is not None
        assert lead.momentary
        for _ in range(10):
            pruner.turn(lead)
    assert len(ids(store_path)) == 100


def test_what_is_deleted_is_moved_into_the_file_beside_the_writer(
    new_scheduler: NewScheduler, clock: FakeClock, store_path: Path
) -> None:
    """The pages that a portion changed don't pile up until the writer moves them, while runs wait."""
    scheduler = new_scheduler(clock=clock)
    scheduler.start()
    until_round(scheduler)
    lead_of(scheduler).writer.inbox.put(Statements([("PRAGMA wal_autocheckpoint = 0", ())]))
    make(store_path, clock.now(), long_past(3_000, 100))
    wal = store_path.with_name(store_path.name + "-wal")
    before = wal.stat().st_size
    next_round(scheduler, clock)
    assert len(ids(store_path)) == 200
    assert wal.stat().st_size < before + 1_000_000
