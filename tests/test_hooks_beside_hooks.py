"""P1 among plugins: whatever one plugin object is made of, the others load and hear, in the order of what happened."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geckosched import BreakerState, Outcome, PluginError, Run, RunContext, hookimpl
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_dry_runs_cut_short import Rehearsal
from tests.test_hooks import Diary, job, ran
from tests.test_scheduler import until


@dataclass
class Pager:
    """A plugin that is a dataclass, which Python makes unhashable."""

    url: str = "x"
    heard: int = 0

    @hookimpl
    def run_finished(self) -> None:
        self.heard += 1


class Lazy:
    """A plugin that loads what it is asked for, as lazy modules do, and lacks an extra."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"{name} needs geckosched-lazy[extra]")

    @hookimpl
    def run_started(self, run: Run) -> None: ...


class Otherwise:
    """A plugin whose hook has another name than the hook."""

    def __init__(self) -> None:
        self.heard = 0

    @hookimpl(specname="run_finished")
    def on_end(self) -> None:
        self.heard += 1


@pytest.mark.parametrize("first", [True, False], ids=["loaded first", "loaded last"])
@pytest.mark.parametrize("make", [Pager, Lazy, Otherwise])
def test_what_one_plugin_is_made_of_concerns_no_other(
    new_scheduler: NewScheduler, make: Callable[[], Any], first: bool
) -> None:
    """A dataclass, a raising `__getattr__`, another name: each loads, hears once, and the diary beside it hears all."""
    odd, diary, scheduler = make(), Diary(job("one", lambda _: None)), new_scheduler()
    for plugin, name in ((odd, "odd"), (diary, "diary")) if first else ((diary, "diary"), (odd, "odd")):
        scheduler.add_plugin(plugin, name)
    run = ran(scheduler, "one")
    assert diary.of("finished") == [(run,)]
    assert vars(odd).get("heard", 1) == 1
    assert [(plugin.ok, plugin.error) for plugin in scheduler.get_status().plugins] == [(True, None)] * 2


def test_equal_plugins_are_two(new_scheduler: NewScheduler) -> None:
    """Two plugins that compare equal, as dataclasses of the same settings do, both load and both hear."""
    first, second, scheduler = Pager(), Pager(), new_scheduler()
    scheduler.add_plugin(first, "first")
    scheduler.add_plugin(second, "second")
    scheduler.register_collector(job("one", lambda _: None))
    ran(scheduler, "one")
    assert (first.heard, second.heard) == (1, 1)


@pytest.mark.parametrize("where", ["making", "register_collectors"])
def test_a_plugin_that_raises_what_ctrl_c_raises(new_scheduler: NewScheduler, where: str) -> None:
    """P1: KeyboardInterrupt out of a plugin breaks that plugin; it is not taken for the user's."""

    class Raises:
        def __init__(self, *_: object) -> None:
            if where == "making":
                raise KeyboardInterrupt

        @hookimpl
        def register_collectors(self) -> None:
            raise KeyboardInterrupt

    scheduler = new_scheduler()
    error: BaseException | None = None
    try:
        scheduler.add_plugin(Raises, "raises")
    except BaseException as found:  # pytest would end at a KeyboardInterrupt
        error = found
    assert isinstance(error, PluginError), repr(error)
    assert "KeyboardInterrupt" in str(error)
    assert not scheduler.registry.plugins["raises"].ok


def test_a_reset_is_told_after_what_was_before_it(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Hooks hear of what is committed, in order: a reset during the probe, while the file is locked, comes after the
    probe's start, so that who listens is left with the state that the breaker has."""
    go_on = threading.Event()

    def collect(run: RunContext) -> None:
        if run.reason != "triggered":
            raise ValueError("no")
        go_on.wait(10)

    diary, scheduler = Diary(job("one", collect)), new_scheduler(clock=FakeClock(), max_consecutive_errors=1)
    scheduler.add_plugin(diary, "diary")
    with scheduler, closing(sqlite3.connect(store_path, isolation_level=None)) as foreign:
        until(lambda: diary.of("breaker"))
        lead = scheduler.lead
        assert lead is not None
        foreign.execute("BEGIN IMMEDIATE")
        scheduler_calls = [
            threading.Thread(target=lambda: scheduler.execute_collector_now("one"), daemon=True),
            threading.Thread(target=lambda: scheduler.reset_breaker("one"), daemon=True),
        ]
        for call, state in zip(scheduler_calls, (BreakerState.HALF_OPEN, BreakerState.CLOSED), strict=True):
            call.start()
            until(lambda: lead.ticker.jobs["one"].breaker.state is state)  # noqa: B023 - called at once
        told_before_the_commit = diary.of("breaker")[1:]
        foreign.execute("ROLLBACK")
        go_on.set()
        for call in scheduler_calls:
            call.join(10)
    assert told_before_the_commit == []
    states = [(old.value, new.value) for _, old, new, _ in diary.of("breaker")]
    assert states == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


@pytest.mark.hangs
def test_what_is_told_after_the_end_begins_no_thread(new_scheduler: NewScheduler, store_path: Path) -> None:
    """X1: a run that is closed at the last moment of a stop, when the hooks are closed already, leaves no thread of
    hooks behind."""
    scheduler, inside, never = new_scheduler(clock=FakeClock(), catchup="none"), threading.Event(), threading.Event()

    def collect(run: RunContext) -> None:
        inside.set()
        never.wait()

    class Finished:
        @hookimpl
        def run_finished(self) -> None: ...

    scheduler.add_plugin(Finished(), "late")
    scheduler.register_collector(job("one", collect))
    scheduler.start()
    scheduler.execute_collector_now("one", wait=False)
    assert inside.wait(10)
    lead = scheduler.lead
    assert lead is not None
    with closing(sqlite3.connect(store_path, isolation_level=None, check_same_thread=False)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        close = lead.hooks.close

        def close_then_unlock(until: float, hurry: threading.Event) -> None:
            close(until, hurry)
            foreign.execute("ROLLBACK")

        lead.hooks.close = close_then_unlock  # type: ignore[method-assign]
        scheduler.stop(0.3)
    [run] = scheduler.get_runs("one")
    assert run.outcome is Outcome.INTERRUPTED, "it was closed after all"
    left = [t for t in threading.enumerate() if t.name == "geckosched-hooks-late"]
    for thread in left:
        thread.join(1)
    assert not [t for t in left if t.is_alive()]
    never.set()


def test_a_dry_run_beside_hooks_of_its_own_job(new_scheduler: NewScheduler) -> None:
    """A hook that rehearses the job whose run it hears of gets the dry run, and nothing is told of it."""
    scheduler, found = new_scheduler(clock=FakeClock(), catchup="none"), list[Rehearsal]()

    class Rehearses:
        @hookimpl
        def run_finished(self, run: Run) -> None:
            found.append(Rehearsal(scheduler, run.job_id))

    scheduler.add_plugin(Rehearses())
    scheduler.register_collector(job("one", lambda _: None))
    with scheduler:
        ran(scheduler, "one")
        until(lambda: found)
        assert found[0].end().run.outcome is Outcome.SUCCEEDED
    assert len(found) == 1
