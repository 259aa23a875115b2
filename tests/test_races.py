"""Races that an attack found, each made to happen: what threads of one process, and two programs on one file, may not
do to each other. Order is forced by gates and by the ticker's own inbox, so nothing here depends on who is faster."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    CollectionScheduler,
    Collector,
    Outcome,
    Reason,
    RunContext,
    SchedulerClosed,
    SchedulerState,
    StoreError,
    collector,
    core,
)
from geckosched.core import Clock, Grid, Inbox, Lead, Statements, Store, Writer, to_text
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import Gate, finished, plain, runs_of, until


class Call:
    """A call on a thread of its own. `answer` returns what it returned, raises what it raised, or fails the test."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._ended = threading.Event()
        self._value: Any = None
        self._error: Exception | None = None

        def run() -> None:
            try:
                self._value = function(*arguments)
            except Exception as error:
                self._error = error
            self._ended.set()

        threading.Thread(target=run, name=f"call-{function.__name__}", daemon=True).start()

    def answer(self, seconds: float = 10.0) -> Any:
        assert self._ended.wait(seconds), "the caller still waits"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def _gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()  # whatever failed


gate, other_gate = pytest.fixture(_gate, name="gate"), pytest.fixture(_gate, name="other_gate")


def enters(gate: Gate) -> bool:
    """Wait until a run is inside."""
    return gate.entered.acquire(timeout=10)


def lead_of(scheduler: CollectionScheduler) -> Lead:
    assert scheduler.lead is not None
    return scheduler.lead


def settle(scheduler: CollectionScheduler) -> None:
    """Wait until the ticker has done what it was told so far."""
    done = threading.Event()
    lead_of(scheduler).ticker.inbox.put((done.set,))
    assert done.wait(10), "the ticker doesn't read its inbox"


@contextlib.contextmanager
def one_turn(scheduler: CollectionScheduler) -> Iterator[None]:
    """Hold the ticker, so that it hears all that the block says in one turn."""
    held, go_on = threading.Event(), threading.Event()
    inbox = lead_of(scheduler).ticker.inbox
    inbox.put((held.set,))
    inbox.put((go_on.wait, 10))
    assert held.wait(10)
    yield
    go_on.set()


def ask(scheduler: CollectionScheduler, job_id: str) -> Call:
    """Trigger a job whose run goes on; returns when the trigger is queued behind it."""
    asked = Call(scheduler.execute_collector_now, job_id)
    until(lambda: lead_of(scheduler).ticker.jobs[job_id].queued, "a queued trigger")
    return asked


def sql(path: Path, statement: str, *params: Any) -> list[Any]:
    """Execute one statement from outside, as any other program would."""
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        return connection.execute(statement, params).fetchall()


# -- who leads ---------------------------------------------------------------------------------------------------------


def test_one_file_under_two_names_has_one_leader(new_scheduler: NewScheduler, store_path: Path) -> None:
    """X2: the lock is the file's, whatever name it was opened by; so no slot runs twice."""
    link = store_path.with_name("link.db")
    link.symlink_to(store_path)
    first, second = new_scheduler(), new_scheduler(database=link)
    first.start()
    second.start()
    assert (first.state, second.state) == (SchedulerState.RUNNING, SchedulerState.STANDBY)


def test_stop_of_a_standby_leaves_a_momentary_leads_lock_alone(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate
) -> None:
    """X2: while a momentary lead runs a job nobody else leads, whatever this scheduler starts and stops meanwhile."""
    scheduler, other = new_scheduler(clock=clock), new_scheduler(clock=clock)
    scheduler.register_collector(gate)
    asked = Call(scheduler.execute_collector_now, "gate")
    assert enters(gate)
    scheduler.start()
    assert scheduler.state is SchedulerState.STANDBY
    scheduler.stop(1)
    other.start()
    assert other.state is SchedulerState.STANDBY
    gate.open.set()
    assert asked.answer().outcome is Outcome.SUCCEEDED


def test_a_late_second_stop_leaves_a_scheduler_alone_that_was_started_since(
    new_scheduler: NewScheduler, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X1: of two stops at once the slower one stops what it found, not what was started after the faster one."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(plain)
    scheduler.start()
    lead, arrived, go_on = lead_of(scheduler), threading.Semaphore(0), threading.Event()

    def stop(deadline: float, hurry: threading.Event) -> None:
        arrived.release()
        if threading.current_thread() is not threading.main_thread():
            go_on.wait(10)
        Lead.stop(lead, deadline, hurry)

    monkeypatch.setattr(lead, "stop", stop)
    late = Call(scheduler.stop, 1)
    assert arrived.acquire(timeout=10)
    scheduler.stop(1)
    scheduler.start()
    go_on.set()
    late.answer()
    assert scheduler.state is SchedulerState.RUNNING
    assert scheduler._lock.is_held()
    assert Call(scheduler.execute_collector_now, "plain").answer().outcome is Outcome.SUCCEEDED


def test_a_momentary_lead_changes_no_job_of_another_program(
    new_scheduler: NewScheduler, store_path: Path, clock: FakeClock
) -> None:
    """X2: who leads for a moment, to switch one job off, leaves a job alone whose id it uses for another collector."""

    @collector("theirs", every="1d")
    def theirs(run: RunContext) -> Any:
        run.state["cursor"] = 12345
        yield

    program, other = new_scheduler(clock=clock), new_scheduler(clock=clock)
    program.register_collector(theirs, job_id="job")
    program.register_collector(plain)
    with program:
        runs_of(program, "job", 1)
    other.register_collector(plain, job_id="job")
    other.disable_collector("plain")
    rows = sql(store_path, "SELECT collector, state, runs FROM geckosched_jobs WHERE job_id = 'job'")
    assert rows == [("theirs", '{"cursor": 12345}', 1)]


# -- a job goes and comes back -----------------------------------------------------------------------------------------


def test_a_job_that_goes_and_comes_back_never_runs_twice_at_once(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate, other_gate: Gate
) -> None:
    """R2: a trigger that waited for a job's run dies with the job: it doesn't run beside the one registered next."""
    scheduler, filler = new_scheduler(clock=clock, max_workers=2), other_gate
    scheduler.register_collector(gate)
    with scheduler:
        assert enters(gate)
        for name in ("filler", "later"):  # one runs, one waits for a worker
            scheduler.register_collector(filler, job_id=name)
        assert enters(filler)
        asked = ask(scheduler, "gate")
        scheduler.unregister_collector("gate")
        gate.open.set()
        until(lambda: scheduler.get_runs(limit=100)[-1].outcome)
        gate.open.clear()
        assert enters(filler)  # the worker that is free now went to the one that waited
        scheduler.register_collector(gate)
        settle(scheduler)
        again = Call(scheduler.execute_collector_now, "gate")
        ticker = lead_of(scheduler).ticker
        until(lambda: ticker.jobs["gate"].waiting, "a trigger that waits for a worker")
        filler.open.set()
        until(lambda: not ticker._waiting, "a free worker for whatever waits")
        assert [execution.job.registration.job_id for execution in ticker._running].count("gate") == 1
        gate.open.set()
        assert again.answer().outcome is Outcome.SUCCEEDED
        with pytest.raises(SchedulerClosed):
            asked.answer()


@pytest.mark.parametrize("forget", [False, True])
def test_the_run_of_a_replaced_collector_can_store_nothing(
    new_scheduler: NewScheduler, store_path: Path, clock: FakeClock, forget: bool
) -> None:
    """R3: once a job's id is another collector's, what the old one's run still yields is stored nowhere: neither its
    rows nor, as the new one's, its state."""
    entered, go_on, seen = threading.Event(), threading.Event(), []

    @collector("old", every="1d")
    def old(run: RunContext) -> Any:
        entered.set()
        go_on.wait(10)
        run.state["cursor"] = "of the old one"
        yield Batch("old_rows", [{"run_id": run.id}])

    @collector("new", every="1d")
    def new(run: RunContext) -> Any:
        seen.append(dict(run.state))
        yield

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(old, job_id="job")
    with scheduler:
        assert entered.wait(10)
        scheduler.unregister_collector("job", forget=forget)
        scheduler.register_collector(new, job_id="job")
        settle(scheduler)
        go_on.set()
        until(lambda: lead_of(scheduler).ticker.all_ended, "the end of the old run")
        Call(scheduler.execute_collector_now, "job").answer()
        assert seen[-1] == {}
        assert sql(store_path, "SELECT name FROM sqlite_master WHERE name = 'old_rows'") == []
        assert sql(store_path, "SELECT collector, state FROM geckosched_jobs") == [("new", "{}")]
        assert finished(scheduler)[0].outcome is Outcome.INTERRUPTED


def test_the_next_run_after_a_replace_uses_the_new_collector(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """R2: an instance that was still being made when `replace=True` came is used by its own run and by no other."""
    entered, go_on, ran = threading.Event(), threading.Event(), []

    class Old(Collector):
        name, every = "versioned", "1d"

        def __init__(self) -> None:
            entered.set()
            go_on.wait(10)

        def collect(self, run: RunContext) -> None:
            ran.append((run.id, "old"))

    class New(Collector):
        name, every = "versioned", "1d"

        def collect(self, run: RunContext) -> None:
            ran.append((run.id, "new"))

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(Old)
    with scheduler:
        assert entered.wait(10)
        scheduler.register_collector(New, job_id="versioned", replace=True)
        settle(scheduler)
        go_on.set()
        runs_of(scheduler, "versioned", 1)
        Call(scheduler.execute_collector_now, "versioned").answer()
    assert ran == [(1, "old"), (2, "new")]


def test_a_first_run_that_is_still_to_come_survives_a_replace(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """T1: a job that never ran runs at once, also if it was replaced before the ticker got to it."""
    scheduler = new_scheduler(clock=clock)
    with scheduler:
        with one_turn(scheduler):
            scheduler.register_collector(plain, every="1d")
            scheduler.register_collector(plain, every="12h", job_id="plain", replace=True)
        assert runs_of(scheduler, "plain", 1)[0].reason is Reason.FIRST


# -- requests ----------------------------------------------------------------------------------------------------------

_REQUEST = "INSERT INTO geckosched_requests (action, job_id, arguments, requested_at) VALUES (?, 'plain', ?, ?)"


def answers(path: Path) -> list[Any]:
    """Wait until every request has its answer, and return them."""
    rows = "SELECT answer FROM geckosched_requests WHERE answered_at IS {} NULL ORDER BY id"
    until(lambda: not sql(path, rows.format("")), "answers to all requests")
    return [answer for (answer,) in sql(path, rows.format("NOT"))]


def test_damaged_requests_are_refused_and_the_watcher_goes_on(new_scheduler: NewScheduler, store_path: Path) -> None:
    """X2: everybody may write requests, nonsense included; each is refused in words and the next one is carried out."""
    scheduler = new_scheduler()
    scheduler.register_collector(plain, every="1d")
    with scheduler:
        now = to_text(Clock().now())
        for arguments, asked_at in (("{}", "now"), ("{}", None), ("not JSON", now), ("[1]", now), ("{}", now)):
            sql(store_path, _REQUEST, "disable", arguments, asked_at)
        said = answers(store_path)
        assert [answer[:9] for answer in said] == ["refused: "] * 4 + ["done"], said


@pytest.mark.parametrize("every", [0, 1, -5_000_000, 10**30])
def test_a_request_for_a_bad_interval_is_refused(new_scheduler: NewScheduler, store_path: Path, every: int) -> None:
    """X2: an interval that no caller could give doesn't reach the ticker by way of the store either."""
    scheduler = new_scheduler()
    scheduler.register_collector(plain, every="1d")
    with scheduler:
        arguments = json.dumps({"every": every})
        sql(store_path, _REQUEST, "reschedule", arguments, to_text(Clock().now()))
        [answer] = answers(store_path)
        assert answer.startswith("refused: "), answer
        assert scheduler.get_collector_status("plain").every == "1d"
        assert Call(scheduler.execute_collector_now, "plain").answer().outcome is Outcome.SUCCEEDED


# -- nobody waits for ever ---------------------------------------------------------------------------------------------


def test_who_waits_for_a_job_that_goes_is_told_though_it_comes_back(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate
) -> None:
    """X1: unregistering a job tells everybody whose trigger was queued behind its run."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(gate)
    with scheduler:
        assert enters(gate)
        asked = ask(scheduler, "gate")
        scheduler.unregister_collector("gate")
        scheduler.register_collector(gate)
        gate.open.set()
        with pytest.raises(SchedulerClosed):
            asked.answer()


@pytest.mark.parametrize("event", ["restart", "unregister"])
def test_who_waits_elsewhere_for_a_queued_run_is_told_that_it_will_not_come(
    new_scheduler: NewScheduler, clock: FakeClock, event: str
) -> None:
    """X2: a trigger that another process queued here ends with an answer: when the leader stops, though the same
    process leads again at once, and when the job is unregistered, though it comes back."""
    entered = threading.Event()

    @collector("slow", every="1d")
    def slow(run: RunContext) -> None:
        entered.set()
        run.sleep(3600)

    leader, asker = new_scheduler(clock=clock), new_scheduler()
    leader.register_collector(slow)
    leader.start()
    assert entered.wait(10)
    row = asker._requests.ask("trigger", "slow", {})
    assert row is not None
    assert row["answer"] == "waits for the present run to end"
    if event == "restart":
        leader.stop(5)
        leader.start()
    else:
        leader.unregister_collector("slow")
        leader.register_collector(slow)
    with pytest.raises(SchedulerClosed):
        Call(asker._requests.follow, row, True, math.inf, list).answer()


def test_a_call_that_reaches_a_ticker_after_its_end_is_refused(
    new_scheduler: NewScheduler, store_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X1: a caller who was about to speak when the scheduler stopped hears that, and neither waits nor is told "done"
    for what nobody does."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(plain)
    scheduler.start()
    lead = lead_of(scheduler)
    scheduler.stop(5)
    monkeypatch.setattr(scheduler, "_taking_part", lambda: contextlib.nullcontext(lead))
    for call in (scheduler.execute_collector_now, scheduler.disable_collector):
        with pytest.raises(SchedulerClosed):
            Call(call, "plain").answer()
    assert sql(store_path, "SELECT disabled_at FROM geckosched_jobs") == [(None,)]


def test_a_log_handler_that_raises_kills_no_worker(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """X1: what the host's logging does wrong costs a line of the log, not a worker: the next run has one."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "failed" in record.getMessage():
                raise RuntimeError("the host's handler")

    @collector("bad", every="1d")
    def bad(run: RunContext) -> None:
        raise ValueError("always")

    scheduler, handler = new_scheduler(clock=clock, max_workers=1), Broken()
    scheduler.register_collector(bad, enabled=False)
    logging.getLogger("geckosched").addHandler(handler)
    try:
        with scheduler:
            for _ in range(3):
                assert Call(scheduler.execute_collector_now, "bad").answer(5).outcome is Outcome.FAILED
    finally:
        logging.getLogger("geckosched").removeHandler(handler)


def test_a_parked_job_runs_when_another_jobs_abandoned_run_ends(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate, other_gate: Gate
) -> None:
    """R4: a job with an abandoned run waits while abandoned runs fill all workers' places, and no longer."""
    scheduler = new_scheduler(clock=clock, max_workers=2)
    scheduler.register_collector(gate, "1d", job_id="parked", timeout="1s")
    scheduler.register_collector(other_gate, "1d", job_id="other", timeout="1s")
    with scheduler:
        assert enters(gate)
        assert enters(other_gate)
        ticker = lead_of(scheduler).ticker
        clock.advance(2)
        until(lambda: all(execution.stop for execution in ticker._running), "a request to stop")
        clock.advance(31)
        until(lambda: [run.outcome for run in finished(scheduler)] == [Outcome.TIMED_OUT] * 2)
        asked = Call(scheduler.execute_collector_now, "parked")
        until(lambda: ticker.jobs["parked"].waiting, "a trigger that waits")
        other_gate.open.set()
        assert enters(gate), "still parked, with room for it"
        gate.open.set()
        assert asked.answer().outcome is Outcome.SUCCEEDED


# -- stop keeps its limit ----------------------------------------------------------------------------------------------


def test_stop_keeps_its_limit_while_a_start_waits_for_a_locked_file(
    new_scheduler: NewScheduler, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X1: a start that waits for a locked file gives up when somebody stops the scheduler."""
    monkeypatch.setattr(core.Store, "PATIENCE", 3600.0)
    scheduler = new_scheduler()
    with closing(sqlite3.connect(store_path, isolation_level=None)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        starting = Call(scheduler.start)
        until(scheduler._lock.is_held, "a start that opens the file")
        Call(scheduler.stop, 0.5).answer()
        with pytest.raises(StoreError, match="locked"):
            starting.answer()
    assert scheduler.state is SchedulerState.STOPPED


def test_a_hanging_close_of_a_shared_object_does_not_hold_stop(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """X1: what a plugin's `close()` does, and for how long, is not on the way out."""
    go_on = threading.Event()

    class Session:
        def close(self) -> None:
            go_on.wait(3600)

    @collector("sharing", every="1d")
    def sharing(run: RunContext) -> None:
        run.shared("session", Session)

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(sharing)
    scheduler.start()
    runs_of(scheduler, "sharing", 1)
    try:
        Call(scheduler.stop, 0.2).answer()
        assert scheduler.state is SchedulerState.STOPPED
    finally:
        go_on.set()


# -- nothing lost, nothing kept ----------------------------------------------------------------------------------------


def test_slots_missed_during_the_last_run_before_a_stop_are_counted(
    new_scheduler: NewScheduler, clock: FakeClock, gate: Gate
) -> None:
    """T1: every slot is served by a run or in some run's `missed`; a restart between loses none."""
    clock.advance((Grid("gate", 60_000_000).after(clock.now()) - clock.now()) / 1e6)  # the next slot is 60 s away
    scheduler, next_one = new_scheduler(clock=clock), new_scheduler(clock=clock)
    scheduler.register_collector(gate)
    with scheduler:
        assert enters(gate)
        clock.advance(300)
        gate.open.set()
        runs_of(scheduler, "gate", 1)
    next_one.register_collector(gate)
    with next_one:
        first, last = runs_of(next_one, "gate", 2)
    assert (first.reason, first.missed) == (Reason.FIRST, 0)
    assert (last.reason, last.missed) == (Reason.CATCHUP, 4)  # five slots, and one of them is this run's


def test_ended_runs_are_not_kept_until_their_time_limit(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """R4: what waits for a time limit is what runs: a job triggered often under a long limit costs no memory."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(plain, enabled=False, timeout="1d")
    with scheduler:
        for _ in range(150):
            scheduler.execute_collector_now("plain")
        assert len(lead_of(scheduler).ticker._deadlines) < 100


def test_rows_whose_keys_vary_fill_no_memory_with_statements(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """The writer keeps a bounded number of prepared statements, however many sets of keys rows come with."""
    columns = [f"c{number}" for number in range(12)]

    @collector("varied", every="1d")
    def varied(run: RunContext) -> Any:
        for size in range(3, 7):
            yield Batch("varied", [dict.fromkeys(keys, 1) for keys in combinations(columns, size)])

    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(varied)
    with scheduler:
        [run] = runs_of(scheduler, "varied", 1)
        assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 220 + 495 + 792 + 924)
        assert len(lead_of(scheduler).writer._statements) <= 1001


def test_a_writer_that_is_busy_when_it_is_asked_to_finish_hears_it(store_path: Path) -> None:
    """X1: `finish()` between the writer's look at its orders and its look at its inbox is not slept over."""
    writer = Writer(Store(store_path), FakeClock())

    class Late(Inbox):
        def drain(self) -> list[object]:
            if not writer._finishing:
                writer.finish()
            return super().drain()

    writer.inbox = Late()
    writer.inbox.put(Statements(()))
    while Call(writer.turn).answer():
        pass
    writer.connection.close()
