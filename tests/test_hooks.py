"""Hooks: what plugins are told, in which order, and that none of them can stop the host or silence another (P1).

Each hook of the design has an example here. The plugins are objects given to `add_plugin`; test_plugins.py and
test_pip_plugins.py have installed ones.
"""

from __future__ import annotations

import inspect
import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Batch,
    BreakerState,
    CollectionScheduler,
    Health,
    Outcome,
    PluginError,
    RateLimited,
    Run,
    RunContext,
    SchedulerConfig,
    SkipRun,
    collector,
    hookimpl,
)
from geckosched.core import Hooks, HookSpecifications
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import until

EVENTS = ("run_started", "run_finished", "breaker_changed", "health_changed")


def job(name: str, collect: Callable[[RunContext], Any], **settings: Any) -> Any:
    """Return a collector of an hour that does what `collect` does."""
    return collector(name, **{"every": "1h", **settings})(collect)


class Diary:
    """A plugin that writes down what it hears."""

    def __init__(self, *collectors: Any) -> None:
        self.collectors = collectors
        self.heard: list[tuple[Any, ...]] = []

    @hookimpl
    def register_collectors(self, register: Callable[[Any], None]) -> None:
        for each in self.collectors:
            register(each)

    @hookimpl
    def run_started(self, run: Run) -> None:
        self.heard.append(("started", run))

    @hookimpl
    def run_finished(self, run: Run) -> None:
        self.heard.append(("finished", run))

    @hookimpl
    def breaker_changed(self, job_id: str, old: BreakerState, new: BreakerState, reason: str) -> None:
        self.heard.append(("breaker", job_id, old, new, reason))

    @hookimpl
    def health_changed(self, job_id: str, old: Health, new: Health, reason: str) -> None:
        self.heard.append(("health", job_id, old, new, reason))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.heard if event[0] == kind]


def ran(scheduler: CollectionScheduler, job_id: str) -> Run:
    run = scheduler.execute_collector_now(job_id)
    assert run is not None
    return run


# -- what is told


def test_every_hook_is_documented_and_has_an_example_here() -> None:
    """The hooks are those of the design, with its exact arguments, each with a docstring and a test below."""
    found = {name: list(inspect.signature(hook).parameters)[1:] for name, hook in vars(HookSpecifications).items()
             if callable(hook)}  # fmt: skip
    assert found == {
        "register_collectors": ["register", "settings"],
        "register_commands": ["app"],
        "run_started": ["run"],
        "run_finished": ["run"],
        "breaker_changed": ["job_id", "old", "new", "reason"],
        "health_changed": ["job_id", "old", "new", "reason"],
    }
    assert all(getattr(HookSpecifications, name).__doc__ for name in found)


def test_a_plugin_hears_of_each_run_as_its_row_has_it(new_scheduler: NewScheduler) -> None:
    """`run_started` has the open run, `run_finished` the closed one, as the store has it."""

    def collect(run: RunContext) -> Any:
        run.lost("pool", 7, run.now() - timedelta(minutes=1), run.now())
        with run.call():
            pass
        yield Batch("rows", [{"n": 1}, {"n": 2}])
        with run.target("bad"):
            raise ValueError("no such pool")
        with run.target("good"):
            pass

    diary, scheduler = Diary(job("one", collect, priority=3)), new_scheduler()
    scheduler.add_plugin(diary, "diary")
    run = ran(scheduler, "one")
    [(started,), (finished,)] = diary.of("started"), diary.of("finished")
    assert finished == (run,)
    assert (run.outcome, run.rows, run.lost, run.calls) == (Outcome.PARTIAL, 2, 7, 1)
    assert (started[0].id, started[0].outcome, started[0].finished_at, started[0].rows) == (run.id, None, None, 0)
    assert [event[0] for event in diary.heard] == ["started", "finished"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.SUCCEEDED),
        (ValueError("x"), Outcome.FAILED),
        (SkipRun("nothing new"), Outcome.SKIPPED),
        (RateLimited(5), Outcome.RATE_LIMITED),
        (SystemExit(3), Outcome.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_outcome_is_told(new_scheduler: NewScheduler, error: BaseException | None, outcome: Outcome) -> None:
    """A run that ends in whatever way is told once as started and once as finished."""

    def collect(run: RunContext) -> None:
        if error is not None:
            raise error

    diary, scheduler = Diary(job("one", collect)), new_scheduler()
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        run = ran(scheduler, "one")
    assert run.outcome is outcome
    told = [event for event in diary.heard if event[0] in ("started", "finished") and event[1].id == run.id]
    assert [(event[0], event[1].outcome) for event in told] == [("started", None), ("finished", outcome)]


def test_what_is_told_is_committed(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A hook that looks into the store finds there what it is told."""
    seen: list[Any] = []

    class Reader:
        @hookimpl
        def register_collectors(self, register: Callable[[Any], None]) -> None:
            register(job("one", lambda _: Batch("rows", [{"n": 1}])))

        @hookimpl
        def run_started(self, run: Run) -> None:
            self._look(run)

        @hookimpl
        def run_finished(self, run: Run) -> None:
            self._look(run)

        def _look(self, run: Run) -> None:
            with closing(sqlite3.connect(store_path)) as connection:
                seen.extend(connection.execute("SELECT id, outcome FROM geckosched_runs WHERE id=?", (run.id,)))

    scheduler = new_scheduler()
    scheduler.add_plugin(Reader())
    run = ran(scheduler, "one")
    assert [row[0] for row in seen] == [run.id, run.id]
    assert seen[1] == (run.id, "succeeded")


def test_a_breaker_that_opens_probes_and_closes_is_told(new_scheduler: NewScheduler) -> None:
    """closed -> open -> half-open -> open -> half-open -> closed, each with its reason, after the run that did it."""
    well = threading.Event()

    def collect(run: RunContext) -> None:
        if not well.is_set():
            raise ValueError("no")

    clock = FakeClock()
    diary, scheduler = Diary(job("one", collect)), new_scheduler(clock=clock, max_consecutive_errors=2)
    scheduler.add_plugin(diary, "diary")
    scheduler.disable_collector("one")
    scheduler.enable_collector("one")
    with scheduler:
        until(lambda: len(diary.of("finished")) == 1)
        for _ in range(2):
            ran(scheduler, "one")
        well.set()
        ran(scheduler, "one")
    states = [(old.value, new.value) for _, old, new, _ in diary.of("breaker")]
    assert states == [
        ("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("open", "half_open"), ("half_open", "closed")
    ]  # fmt: skip
    reasons = [reason for *_, reason in diary.of("breaker")]
    assert reasons[0].startswith("2 errors in a row, the last run failed; one probe at 2026-")
    assert reasons[-1] == "a run succeeded"
    order = [event[0] for event in diary.heard if event[0] in ("finished", "breaker")]
    assert order.index("breaker") == 2, "the breaker is told after the second failed run"


def test_a_reset_is_told(new_scheduler: NewScheduler) -> None:
    """An operator's reset of an open breaker is a change like any other; of a closed one it is none."""
    clock = FakeClock()

    def collect(run: RunContext) -> None:
        raise ValueError("no")

    diary, scheduler = Diary(job("one", collect)), new_scheduler(clock=clock, max_consecutive_errors=1)
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        until(lambda: diary.of("breaker"))
        for _ in range(2):
            scheduler.reset_breaker("one")
    told = [(old.value, new.value, reason) for _, old, new, reason in diary.of("breaker")]
    assert told[1:] == [("open", "closed", "somebody reset it")]


def test_health_is_told_once_per_change(new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture) -> None:
    """pending -> degraded -> unhealthy -> healthy: judged every `health_check_interval`, told and logged once each."""
    caplog.set_level(logging.INFO, logger="geckosched")
    clock, well = FakeClock(), threading.Event()

    def collect(run: RunContext) -> None:
        if not well.is_set():
            raise ValueError("no")

    settings = {"max_consecutive_errors": 2, "catchup": "none", "error_recovery_delay": "1h"}
    diary, scheduler = Diary(job("one", collect, every="1d")), new_scheduler(clock=clock, **settings)
    scheduler.add_plugin(diary, "diary")

    def changes() -> list[tuple[str, str]]:
        return [(old.value, new.value) for _, old, new, _ in diary.of("health")]

    with scheduler:
        until(lambda: judged(scheduler) == {"one": Health.PENDING})
        expected: list[tuple[str, str]] = []
        for old, new in pairwise(("pending", "degraded", "unhealthy", "healthy")):
            if new == "healthy":
                well.set()
            ran(scheduler, "one")
            expected.append((old, new))
            clock.advance(60)
            until(lambda: changes() == expected, f"{expected}, told: {diary.of('health')}")
            look_again(scheduler, clock)
            assert changes() == expected, "told again, though nothing changed"
    reasons = [reason for *_, reason in diary.of("health")]
    assert reasons[0] == "1 error"
    assert reasons[1].startswith("breaker open until 2026-")
    assert reasons[2] == ""
    lines = [record.getMessage() for record in caplog.records if ", was " in record.getMessage()]
    assert lines[0] == "one: degraded, was pending (1 error)"
    assert len(lines) == 3


def look_again(scheduler: CollectionScheduler, clock: FakeClock) -> None:
    """Let a whole round of the checkup pass, and the plugins hear of it."""
    watcher, lead = scheduler._watcher, scheduler.lead
    assert watcher is not None
    assert lead is not None
    before = watcher._checkup._next
    clock.advance(60)
    until(lambda: watcher._checkup._next not in (None, before), "another look")
    until(lambda: all(ear._events.empty() and ear._at is None for ear in lead.hooks._ears.values()), "heard")


def judged(scheduler: CollectionScheduler) -> dict[str, Health]:
    """Return what the watcher's checkup knows of the jobs' health."""
    watcher = scheduler._watcher
    return {} if watcher is None else watcher._checkup._known


def test_more_jobs_than_one_turn_judges_are_all_judged(
    new_scheduler: NewScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round goes over all jobs, a portion at each turn, and begins anew."""
    monkeypatch.setattr("geckosched.core.Checkup.PORTION", 3)
    scheduler = new_scheduler(clock=FakeClock(), catchup="none")
    for number in range(7):
        scheduler.register_collector(job(f"job-{number}", lambda _: None))
    with scheduler:
        until(lambda: len(judged(scheduler)) == 7)


def test_a_run_left_by_a_killed_process_is_told_by_the_next_leader(
    new_scheduler: NewScheduler, store_path: Path
) -> None:
    """An orphan is closed as interrupted at the take-over, and the plugins hear of it."""
    scheduler = new_scheduler()
    scheduler.register_collector(job("one", lambda _: None))
    run = ran(scheduler, "one")
    with closing(sqlite3.connect(store_path)) as connection:
        connection.execute("UPDATE geckosched_runs SET outcome=NULL, finished_at=NULL")
        connection.commit()
    diary, second = Diary(), new_scheduler()
    second.add_plugin(diary, "diary")
    with second:
        until(lambda: diary.of("finished"))
    [(told,)] = diary.of("finished")
    assert (told.id, told.outcome, told.detail) == (run.id, Outcome.INTERRUPTED, "its process ended without closing it")


def test_a_dry_run_is_told_to_nobody(new_scheduler: NewScheduler) -> None:
    """Nothing happened, so nothing is told."""
    diary, scheduler = Diary(job("one", lambda _: Batch("rows", [{"n": 1}]))), new_scheduler()
    scheduler.add_plugin(diary, "diary")
    assert scheduler.dry_run("one").run.outcome is Outcome.SUCCEEDED
    assert diary.heard == []


# -- what a plugin can do to the others: nothing


class Raising:
    """A plugin whose hooks raise what is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    @hookimpl
    def run_finished(self) -> None:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("full disk"), SkipRun("no")])
def test_a_hook_that_raises_stops_nothing_and_is_kept(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Runs go on, the other plugin hears all, and the leader's row keeps the last error for `geckosched plugins`."""
    diary, raising = Diary(job("one", lambda _: None)), Raising(error)
    scheduler = new_scheduler()
    scheduler.add_plugin(raising, "a-raising")
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        until(lambda: raising.calls == 1)
        runs = [ran(scheduler, "one").id for _ in range(3)]
        until(lambda: stored_trouble(scheduler, "a-raising") is not None, "the error in the leader's row")
    assert raising.calls == 4
    assert [run.id for (run,) in diary.of("finished")][1:] == runs
    said = stored_trouble(scheduler, "a-raising")
    assert said is not None
    assert said.startswith(f"run_finished: {type(error).__name__}")
    assert "(test_hooks.py:" in said
    assert "4 errors so far" in said
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING and "a-raising" in r.getMessage()]
    assert len(warnings) == 1, "the log says it once"


def stored_trouble(scheduler: CollectionScheduler, name: str) -> str | None:
    """Return what the store says of a plugin that is in use; it must be there, and ok."""
    outside = CollectionScheduler(SchedulerConfig(database=scheduler.config.database))
    [plugin] = [each for each in outside.get_status().plugins if each.name == name]
    assert plugin.ok
    return plugin.error


@pytest.mark.hangs
def test_a_hook_that_hangs_silences_nobody_else_and_holds_no_stop(
    new_scheduler: NewScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another plugin hears all; what doesn't fit is dropped and counted; stop keeps its limit; and it is said."""
    monkeypatch.setattr(Hooks, "LIMIT", 10)
    monkeypatch.setattr(Hooks, "SLOW", 0.0)
    never, hung = threading.Event(), threading.Event()

    class Hanging:
        @hookimpl
        def run_started(self) -> None:
            hung.set()
            never.wait()

    diary, scheduler = Diary(job("one", lambda _: None)), new_scheduler()
    scheduler.add_plugin(Hanging(), "a-hanging")
    scheduler.add_plugin(diary, "diary")
    with scheduler:
        assert hung.wait(10)
        for _ in range(15):
            ran(scheduler, "one")
        until(lambda: len(diary.of("finished")) == 16)
        scheduler.stop(0.5)
    said = stored_trouble(scheduler, "a-hanging")
    assert said is not None
    assert said.startswith("run_started has not returned since 2")
    assert said.endswith("; 5 events were dropped, since 10 waited")
    never.set()


def test_stop_lets_the_hooks_hear_the_last_run(new_scheduler: NewScheduler) -> None:
    """A slow hook is waited for: with `stop`, and with a lead for one run only."""
    heard: list[int] = []

    class Slow:
        @hookimpl
        def run_finished(self, run: Run) -> None:
            threading.Event().wait(0.2)
            heard.append(run.id)

    scheduler = new_scheduler()
    scheduler.register_collector(job("one", lambda _: None))
    scheduler.add_plugin(Slow())
    run = ran(scheduler, "one")
    assert heard == [run.id]


@pytest.mark.hangs
def test_a_plugin_that_hangs_while_it_registers_is_given_up(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """`register_collectors` that doesn't come back makes its plugin broken, and what it registers later is not used."""
    go_on, registered = threading.Event(), threading.Event()

    class Hanging:
        @hookimpl
        def register_collectors(self, register: Callable[[Any], None]) -> None:
            go_on.wait()
            register(job("late", lambda _: None))
            registered.set()

    scheduler = new_scheduler()
    scheduler.registry.patience, scheduler.registry.warn_after = 0.1, 0.05
    said = r"register_collectors has not returned for 0.1 s \(test_hooks.py:\d+\)"
    with pytest.raises(PluginError, match=f"plugin hanging: .*{said}"):
        scheduler.add_plugin(Hanging(), "hanging")
    assert "plugin hanging: register_collectors takes long (test_hooks.py:" in caplog.text
    go_on.set()
    assert registered.wait(10)
    assert "late" not in scheduler.registry.collectors
    assert not scheduler.registry.plugins["hanging"].ok


def test_a_plugin_that_is_only_slow_to_register_is_used(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """After the warning it is waited for, up to `patience`."""

    class Slow:
        @hookimpl
        def register_collectors(self, register: Callable[[Any], None]) -> None:
            until(lambda: "plugin slow: register_collectors takes long" in caplog.text, "the warning")
            register(job("late", lambda _: None))

    scheduler = new_scheduler()
    scheduler.registry.warn_after = 0.05
    scheduler.add_plugin(Slow(), "slow")
    assert ran(scheduler, "late").outcome is Outcome.SUCCEEDED


def test_a_hook_may_stop_the_scheduler(new_scheduler: NewScheduler) -> None:
    """`stop` from a hook's own thread ends the scheduler as from any other."""
    scheduler, stopped = new_scheduler(), threading.Event()

    class Fuse:
        @hookimpl
        def run_finished(self) -> None:
            scheduler.stop(2)
            stopped.set()

    scheduler.register_collector(job("one", lambda _: None))
    scheduler.add_plugin(Fuse())
    scheduler.start()
    assert stopped.wait(10)
    assert scheduler.state == "stopped"


def test_an_async_hook_is_refused_in_words(new_scheduler: NewScheduler) -> None:
    """A coroutine would never be awaited, so its plugin is broken, and it says why."""

    class Async:
        @hookimpl
        async def run_finished(self, run: Run) -> None: ...

    with pytest.raises(PluginError, match="run_finished is async, allowed are plain functions and methods"):
        new_scheduler().add_plugin(Async(), "async")


def test_a_plugin_added_while_running_is_told_from_then_on(new_scheduler: NewScheduler) -> None:
    """`add_plugin` on a running scheduler: its collectors run, its hooks hear of them."""
    scheduler = new_scheduler()
    scheduler.register_collector(job("first", lambda _: None))
    with scheduler:
        ran(scheduler, "first")
        diary = Diary(job("second", lambda _: None))
        scheduler.add_plugin(diary, "diary")
        run = ran(scheduler, "second")
        until(lambda: run.id in [told.id for (told,) in diary.of("finished")])


def test_plugins_of_a_status_read_elsewhere_keep_their_json(new_scheduler: NewScheduler, store_path: Path) -> None:
    """`geckosched_instances.plugins` is a JSON list of the documented fields."""
    scheduler = new_scheduler()
    scheduler.add_plugin(Diary(), "diary")
    with scheduler:
        [text] = [row[0] for row in scheduler._store.read("SELECT plugins FROM geckosched_instances")]
    assert json.loads(text) == [
        {"name": "diary", "distribution": None, "version": None, "ok": True, "error": None, "collectors": []}
    ]


def test_an_operator_without_plugins_leaves_what_the_store_says_of_them(new_scheduler: NewScheduler) -> None:
    """A momentary lead that loaded no plugin (`geckosched disable JOB`) does not make them look gone."""
    scheduler = new_scheduler()
    scheduler.add_plugin(Diary(job("one", lambda _: None)), "diary")
    with scheduler:
        pass
    outside = new_scheduler()
    outside.disable_collector("one")
    assert [plugin.name for plugin in new_scheduler().get_status().plugins] == ["diary"]
