"""`geckosched why JOB`: one sentence, the most important reason first, from facts that the store and the configuration
have; and `trigger`, which says why it waits."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    BreakerState,
    Budget,
    CollectionScheduler,
    Health,
    JobStatus,
    Outcome,
    PluginStatus,
    RateLimited,
    Reason,
    Run,
    RunContext,
    SchedulerConfig,
    SchedulerState,
    SkipRun,
    UnknownJob,
    collector,
)
from geckosched.config import Configuration
from geckosched.core import LeaderLock, to_datetime
from geckosched.forecast import OFF_BY_DEFAULT, JobForecast
from geckosched.testing import FakeClock
from geckosched.views import SchedulerInfo
from geckosched.why import Facts, explain, explain_wait, read_facts, with_plugins
from tests.conftest import NewScheduler
from tests.schemas import add_job, first_schema
from tests.shell import daemon, finish, first_line, invoke, start, wait_until

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def ahead(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def job(**fields: Any) -> JobStatus:
    given = {"collector": "tick", "plugin": "fake", "every": "5m", "enabled": True, "disabled_at": None,
             "health": Health.HEALTHY, "next_run_at": ahead(180), "runs": 7, **fields}  # fmt: skip
    return JobStatus(job_id="tick", **given)


def run(number: int = 17, **fields: Any) -> Run:
    given = {"job_id": "tick", "reason": Reason.SCHEDULED, "scheduled_for": ago(190), "started_at": ago(190),
             "finished_at": ago(180), "outcome": Outcome.SUCCEEDED, "rows": 0, "calls": 0, "missed": 0, "lost": 0,
             "detail": None, "error_type": None, "error": None, "traceback": None, "instance_id": "x",
             **fields}  # fmt: skip
    return Run(id=number, **given)


def failed(outcome: Outcome = Outcome.FAILED, error: str = "no such\ncity") -> Run:
    return run(outcome=outcome, error_type="ValueError", error=error)


def going(**fields: Any) -> Run:
    return run(**{"finished_at": None, "outcome": None, **fields})


def led(**fields: Any) -> SchedulerInfo:
    given = {"state": SchedulerState.RUNNING, "pid": 12, "host": "box", "started_at": ago(3600), "heartbeat_at": ago(1),
             "database": "/d/g.db", "version": "1", **fields}  # fmt: skip
    return SchedulerInfo(**given)


def unled(**fields: Any) -> SchedulerInfo:
    return led(**{"state": SchedulerState.STOPPED, "heartbeat_at": ago(600), **fields})


def plan(**fields: Any) -> JobForecast:
    given = {"at": None, "priority": 0, "off": None, "next_run_at": NOW, "next_reason": Reason.CATCHUP, "budget": None,
             "calls_declared": None, "calls_measured": None, "calls_from": None, "calls_per_hour": None,
             "problem": None, **fields}  # fmt: skip
    return JobForecast(job_id="tick", collector="tick", plugin="fake", every="5m", **given)


def plugin(error: str | None = None) -> PluginStatus:
    return PluginStatus("fake", None, None, error is None, error, ("tick",))


def facts(**fields: Any) -> Facts:
    return Facts("tick", NOW, **{"scheduler": led(), "job": job(), "plugins": (plugin(),), **fields})


OPEN = {"breaker": BreakerState.OPEN, "consecutive_errors": 5, "retry_at": ahead(240), "next_run_at": ahead(240)}
BUDGET = {"closed": {"api": ahead(600)}, "loaded": True, "plan": plan(budget="api")}
WAITS = {"job": job(next_run_at=ago(180))}

SENTENCES: list[tuple[dict[str, Any], str]] = [
    # 1 it is no job
    ({"job": None, "absence": "it needs `cities` (set it in [collectors.tick])"},
     "tick is not scheduled: it needs `cities` (set it in [collectors.tick])"),
    ({"job": None, "retired_at": ago(600), "absence": "plugin fake is disabled by [plugins] disable"},
     "tick was retired 10m ago (11:50:00 UTC), since nothing made it a job any more: "
     "plugin fake is disabled by [plugins] disable"),
    ({"job": None, "retired_at": ago(86400 * 3)},
     "tick was retired 3d ago (2026-11-22 12:00 UTC), since nothing made it a job any more"),
    ({"stored": False, "loaded": True, "plan": plan()},
     "tick does not run: process 12 on box leads and does not have it, geckosched reload takes it in"),
    ({"stored": False, "loaded": True, "plan": plan(), "scheduler": led(pid=None, host=None, heartbeat_at=None)},
     "tick does not run: the process that leads has written nothing into this store yet"),
    ({"job": job(next_run_at=None), "scheduler": led(pid=None, host=None, heartbeat_at=None)},
     "tick does not run: another process, which leads, was started with --only, and that leaves it out"),
    # 2 it runs now
    ({"open_run": going()}, "tick has been running for 3m10s (run 17), at its slot of 11:56:50 UTC"),
    ({"open_run": going(reason=Reason.TRIGGERED, scheduled_for=None), "missed": 1, "trigger": ago(5)},
     "tick has been running for 3m10s (run 17), since somebody triggered it; a trigger waits for its end; "
     "a slot of it came meanwhile and counts as missed"),
    ({"open_run": going(reason=Reason.PROBE), **BUDGET},
     "tick has been running for 3m10s (run 17), as the probe of its open breaker; its calls wait, "
     "budget api is closed until 12:10:00 UTC (in 10m), since its service asked for a pause"),
    ({"open_run": going(reason=Reason.FIRST), "job": job(disabled_at=ago(60)), "missed": 2},
     "tick has been running for 3m10s (run 17), as its first run; 2 slots of it came meanwhile and count as missed; "
     "no slot of it comes up afterwards, since it is disabled"),
    ({"open_run": going(reason=Reason.RETRY), "scheduler": led(heartbeat_at=ago(45))},
     "tick has been running for 3m10s (run 17), as a retry; process 12 on box, which leads, hangs or is stopped: "
     "no sign of life for 45s"),
    # 3 it is off
    ({"job": job(disabled_at=ago(600), next_run_at=None), "disabled_by": "process 9 on desk"},
     "tick is disabled: an operator did that 10m ago (11:50:00 UTC) from process 9 on desk, "
     "geckosched enable tick turns it on"),
    ({"job": job(enabled=False, next_run_at=None), "off_at": "geckosched.toml"},
     "tick is disabled in the configuration (geckosched.toml says enabled = false)"),
    ({"job": job(enabled=False, next_run_at=None), "off_by_default": True},
     "tick is off by default: enabled = true in [collectors.tick] turns it on"),
    ({"job": job(enabled=False, next_run_at=None), "trigger": ago(5), "hanging": 2},
     "tick is disabled in the configuration; a trigger of it waits, 2 runs of it hang past their time limit"),
    ({"scheduler": unled(), "loaded": True, "plan": plan(off=OFF_BY_DEFAULT)},
     "tick is off by default: enabled = true in [collectors.tick] turns it on; nobody leads either"),
    # 4 its plugin
    ({"plugins": (plugin("ImportError: no module"),)}, "tick can't run: plugin fake is broken: ImportError: no module"),
    ({"plugins": (), "job": job(next_run_at=None)},
     "tick does not run: process 12 on box leads and has not loaded its plugin fake"),
    ({"scheduler": unled(), "loaded": True, "plugins_here": (plugin("ImportError: no module"),)},
     "tick can't run: plugin fake is broken: ImportError: no module; nobody leads either"),
    # 5 nobody leads
    ({"scheduler": unled(), "stopped_at": ago(600), "loaded": True, "plugins_here": (plugin(),), "plan": plan()},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "geckosched run would run it at once, since a slot of it passed"),
    ({"scheduler": unled(), "open_run": going(), "loaded": True, "plan": plan()},
     "tick does not run: nobody leads, process 12 on box was killed or crashed, its last sign of life "
     "10m ago (11:50:00 UTC); geckosched run would run it at once, since run 17 was cut short"),
    ({"scheduler": unled(), "stopped_at": ago(600), "last_run": run(outcome=Outcome.INTERRUPTED), "loaded": True,
      "plan": plan()},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "geckosched run would run it at once, since run 17 was interrupted"),
    ({"scheduler": unled(), "stopped_at": ago(600), "loaded": True,
      "plan": plan(next_run_at=ahead(240), next_reason=Reason.PROBE)},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "geckosched run would run it in 4m (12:04:00 UTC), as the probe of its open breaker"),
    ({"scheduler": unled(started_at=None), "loaded": True, "plan": plan(next_reason=Reason.FIRST)},
     "tick does not run: no scheduler has run yet on /d/g.db; "
     "geckosched run would run it at once, since it never ran"),
    ({"scheduler": unled(), "stopped_at": ago(600)},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "it runs when a scheduler is started"),
    ({"scheduler": unled(), "stopped_at": ago(600), "absence": "plugin fake is not installed"},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "a start would not run it: plugin fake is not installed"),
    ({"scheduler": unled(), "stopped_at": ago(600), "refusal": "g.toml: wrong\ng.toml: also", "plan": plan()},
     "tick does not run: nobody leads, process 12 on box stopped 10m ago (11:50:00 UTC); "
     "a start would be refused: g.toml: wrong"),
    ({"scheduler": unled(), "awaited": True},
     "tick does not run: nobody leads at this moment, a process that stands by takes over within seconds"),
    # 6 the process that leads is silent
    ({"scheduler": led(heartbeat_at=ago(45))},
     "tick does not run: process 12 on box, which leads, hangs or is stopped: no sign of life for 45s"),
    ({"scheduler": led(heartbeat_at=ago(45)), "obstacle": "g.db: database is locked (process 3 holds it)"},
     "tick does not run: process 12 on box, which leads, can't write the store "
     "(g.db: database is locked (process 3 holds it)): no sign of life for 45s"),
    # 7 left out
    ({"job": job(next_run_at=None)},
     "tick does not run: process 12 on box, which leads, was started with --only, and that leaves it out"),
    # 8 it waits
    ({"job": job(next_run_at=ago(1))}, "tick is about to run, it is due since 11:59:59 UTC"),
    ({**WAITS, "hanging": 2}, "tick waits since 11:57:00 UTC (3m): 2 runs of it hang past their time limit"),
    ({**WAITS, "obstacle": "g.db: disk is full"},
     "tick waits since 11:57:00 UTC (3m): the store can't be written: g.db: disk is full"),
    ({**WAITS, **BUDGET},
     "tick waits since 11:57:00 UTC (3m): budget api is closed until 12:10:00 UTC (in 10m), "
     "since its service asked for a pause"),
    ({**WAITS, "workers": 2, "others": (("nap", ago(900)), ("hang", ago(9)))},
     "tick waits since 11:57:00 UTC (3m): no worker is free (2 runs go on, nap for 15m)"),
    ({**WAITS, "workers": 4, "others": (("nap", ago(900)),), "loaded": True, "plan": plan(budget="api"), "sharing": 1,
      "share": 1},
     "tick waits since 11:57:00 UTC (3m): budget api has its share of the workers, 1 run goes on with it"),
    ({**WAITS, "closed": {"api": ahead(600)}},
     "tick waits since 11:57:00 UTC (3m): for a worker or its budget (closed: api until 12:10:00 UTC)"),
    (WAITS, "tick waits since 11:57:00 UTC (3m): for its turn, others go first"),
    ({"trigger": ago(5), **BUDGET},
     "tick waits, somebody triggered it 5s ago (11:59:55 UTC): budget api is closed until 12:10:00 UTC (in 10m), "
     "since its service asked for a pause"),
    # 9 held back
    ({"job": job(**OPEN), "failure": failed()},
     "tick runs next in 4m (12:04:00 UTC), as a probe: its breaker is open after 5 errors in a row, the last: "
     "ValueError: no such city (run 17); once that is mended, geckosched trigger tick tries it now"),
    ({"job": job(**{**OPEN, "consecutive_errors": 1}), "failure": failed(Outcome.TIMED_OUT)},
     "tick runs next in 4m (12:04:00 UTC), as a probe: its breaker is open after 1 error, the last: "
     "timed out: ValueError: no such city (run 17); once that is mended, geckosched trigger tick tries it now"),
    ({"job": job(retry_at=ahead(240), next_run_at=ahead(240)), "rate_limits": 2,
      "last_run": run(outcome=Outcome.RATE_LIMITED, detail="retry after 240 s")},
     "tick runs next in 4m (12:04:00 UTC): its service asked for a pause 2 times in a row, "
     "run 17 was rate limited: retry after 240 s"),
    # 10 its budget
    (BUDGET,
     "tick runs next in 10m (12:10:00 UTC) or later: budget api is closed until then, "
     "since its service asked for a pause"),
    # 11 again
    ({"job": job(consecutive_errors=2, retry_at=ahead(60), next_run_at=ahead(60)), "failure": failed()},
     "tick runs next in 1m (12:01:00 UTC), as retry 2 after ValueError: no such city (run 17)"),
    ({"job": job(consecutive_errors=1, retry_at=ahead(60), next_run_at=ahead(60), last_error="Gone: pruned")},
     "tick runs next in 1m (12:01:00 UTC), as retry 1 after Gone: pruned"),
    ({"job": job(last_outcome=Outcome.SKIPPED, retry_at=ahead(60), next_run_at=ahead(60)),
      "last_run": run(outcome=Outcome.SKIPPED, detail="no data yet")},
     "tick runs next in 1m (12:01:00 UTC), as its last run asked for: run 17 was skipped: no data yet"),
    # 12 its slot
    ({}, "tick runs next in 3m (12:03:00 UTC), at its slot (every 5m)"),
    ({"job": job(every="1d", next_run_at=ahead(86400 * 2)), "at": "02:30"},
     "tick runs next in 2d (2026-11-27 12:00 UTC), at its slot (every 1d at 02:30)"),
    ({"job": job(consecutive_errors=1, retry_at=ahead(600)), "failure": failed(error="x" * 300)},
     f"tick runs next in 3m (12:03:00 UTC), at its slot (every 5m); 1 error since it was well, the last: "
     f"ValueError: {'x' * 188}... (run 17)"),
    ({"job": job(last_outcome=Outcome.PARTIAL, health=Health.DEGRADED, reason="3 lost in the last day"), "missed": 2,
      "last_run": run(outcome=Outcome.PARTIAL, detail="Oslo: 503\nRome: 503")},
     "tick runs next in 3m (12:03:00 UTC), at its slot (every 5m); last run 17 was partial: Oslo: 503; "
     "it is degraded: 3 lost in the last day; 2 slots of it came while its last run went on and count as missed"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sentence"), SENTENCES)
def test_the_sentence(given: dict[str, Any], sentence: str) -> None:
    """Each reason has its sentence, and the most important one of several is said."""
    assert explain(facts(**given)) == sentence


def test_reasons_have_an_order() -> None:
    """With everything wrong at once, taking away the first reason brings up the next, in the order of the list."""
    wrong: dict[str, Any] = {
        "job": job(**{**OPEN, "disabled_at": ago(60)}), "open_run": going(), "trigger": ago(5), "hanging": 2,
        "failure": failed(), "plugins": (plugin("ImportError"),), "scheduler": led(heartbeat_at=ago(45)),
        "rate_limits": 1, **BUDGET,
    }  # fmt: skip
    said = [explain(facts(**wrong))]
    better: tuple[dict[str, Any], ...] = (
        {"open_run": None},
        {"job": job(**OPEN)},
        {"plugins": (plugin(),)},
        {"scheduler": led()},
        {"trigger": None, "hanging": 0},
        {"job": job(next_run_at=ahead(60))},
        {"rate_limits": 0},
        {"closed": {}},
    )
    for each in better:
        wrong.update(each)
        said.append(explain(facts(**wrong)))
    began = ["has been running", "is disabled", "can't run: plugin", "does not run: process 12", "waits, somebody",
             "runs next in 4m (12:04:00 UTC), as a probe", "runs next in 1m (12:01:00 UTC): its service",
             "runs next in 10m", "runs next in 1m (12:01:00 UTC), at its slot"]  # fmt: skip
    assert [text.startswith(f"tick {start}") for text, start in zip(said, began, strict=True)] == [True] * 9, said


def test_a_run_in_progress_is_what_a_trigger_waits_for() -> None:
    assert explain_wait(facts(open_run=going())) == "tick waits: run 17 of it goes on, for 3m10s"


# -- The facts, from real stores ---------------------------------------------------------------------------------------


def why(path: Path, job_id: str = "bench") -> str:
    """Ask what a process that has loaded no plugin would say."""
    scheduler = CollectionScheduler(SchedulerConfig(database=path))
    return explain(read_facts(scheduler, job_id, datetime.now(UTC), None))


def once(scheduler: CollectionScheduler, collect: Any, **settings: Any) -> str:
    """Run a job that comes once a day, once, and ask why it runs next when it does."""

    @collector("bench", every="1d")
    def bench(run: RunContext) -> Any:
        return collect(run)

    scheduler.register_collector(bench, **settings)
    scheduler.start()
    wait_until(lambda: scheduler.get_collector_status("bench").last_outcome)
    return why(Path(scheduler.config.database))


def fails(_: RunContext) -> None:
    raise ValueError("no such city")


def skips(_: RunContext) -> None:
    raise SkipRun("no data yet", again_after=600)


def is_limited(_: RunContext) -> None:
    raise RateLimited(600)


@pytest.mark.parametrize(
    ("collect", "settings", "pause", "ends"),
    [
        (fails, {}, "(1m|5[0-9]s)", "), as retry 1 after ValueError: no such city (run 1)"),
        (fails, {"max_consecutive_errors": 1}, "(1m|5[0-9]s)",
         "), as a probe: its breaker is open after 1 error, the last: ValueError: no such city (run 1)"),
        (skips, {}, "(10m|9m5[0-9]s)", "), as its last run asked for: run 1 was skipped: no data yet"),
        (is_limited, {}, "(10m|9m5[0-9]s)", "): its service asked for a pause, run 1 was rate limited"),
        (lambda _: None, {}, ".+", ", at its slot (every 1d)"),
    ],
)  # fmt: skip
def test_how_the_last_run_ended(
    new_scheduler: NewScheduler, collect: Any, settings: dict[str, Any], pause: str, ends: str
) -> None:
    """An error, a rate limit and SkipRun move the next run; the store says by how much and why."""
    said = once(new_scheduler(), collect, **settings)
    assert re.match(rf"bench runs next in {pause} \(", said), said
    assert ends in said


def test_slots_that_came_while_a_run_went_on(new_scheduler: NewScheduler, store_path: Path) -> None:
    """They are said while it goes on and after it, until the next run takes them up."""
    clock, begun, end = FakeClock(), threading.Event(), threading.Event()
    scheduler = new_scheduler(clock=clock)

    @collector("bench", every="10m")
    def bench(_: RunContext) -> None:
        begun.set()
        end.wait(30)

    def said() -> str:
        return explain(read_facts(scheduler, "bench", to_datetime(clock.now()), None))

    scheduler.register_collector(bench)
    scheduler.start()
    assert begun.wait(10)
    clock.advance(25 * 60)
    begins, ends = "bench has been running for 25m (run 1), as its first run", "2 slots of it came meanwhile and count"
    wait_until(lambda: said() == f"{begins}; {ends} as missed")  # once the heartbeat has got there
    end.set()
    wait_until(lambda: scheduler.get_collector_status("bench").last_outcome)
    assert said().endswith("at its slot (every 10m); 2 slots of it came while its last run went on and count as missed")


def test_slots_that_an_open_breaker_passed_over_came_in_no_run(new_scheduler: NewScheduler, store_path: Path) -> None:
    """The service is well again and somebody has triggered the job: its run was short."""
    clock, mended = FakeClock(), threading.Event()
    scheduler = new_scheduler(clock=clock, max_consecutive_errors=1, error_recovery_delay="1h")

    @collector("bench", every="1m")
    def bench(_: RunContext) -> None:
        if not mended.is_set():
            raise ConnectionError("refused")

    scheduler.register_collector(bench)
    scheduler.start()
    wait_until(lambda: scheduler.get_collector_status("bench").last_outcome)
    clock.advance(10 * 60)
    mended.set()
    scheduler.execute_collector_now("bench")

    def said() -> str:
        return explain(read_facts(scheduler, "bench", to_datetime(clock.now()), None))

    wait_until(lambda: "runs next" in said())  # once the heartbeat has got there
    assert said().endswith(", at its slot (every 1m)")


def test_a_job_that_only_leaves_out(new_scheduler: NewScheduler, store_path: Path) -> None:
    scheduler = new_scheduler()
    for name in ("bench", "other"):
        scheduler.register_collector(collector(name, every="1d")(lambda _: None))
    scheduler.start(only=["other"])
    leader = f"process {os.getpid()} on {socket.gethostname()}"
    said = f"bench does not run: {leader}, which leads, was started with --only, and that leaves it out"
    assert why(store_path) == said


def test_a_job_whose_registration_is_gone_is_retired(new_scheduler: NewScheduler, store_path: Path) -> None:
    """It says when; one of a program's own is nobody else's to run."""
    first = new_scheduler()
    first.register_collector(collector("bench", every="1d")(lambda _: None))
    first.start()
    first.stop()
    here = CollectionScheduler(SchedulerConfig(database=store_path))
    facts = read_facts(here, "bench", datetime.now(UTC), Configuration())
    assert facts.needs_plugins
    said = explain(with_plugins(facts, here, Configuration(), ""))
    assert re.search(r"nobody leads, process \d+ on .+ stopped .+ ago \(", said), said
    assert said.endswith("a start would not run it: it is of no plugin, the program that registers it runs it"), said
    new_scheduler().start()
    assert why(store_path).startswith("bench was retired 0s ago (")


def test_a_budget_that_has_its_share_of_the_workers(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Of four workers two are for the budget, the second for its most urgent job: the other one waits for that, not for
    a worker."""
    scheduler, begun, end = new_scheduler(max_workers=4), threading.Event(), threading.Event()

    @collector("first", every="1d", priority=1)
    def first(_: RunContext) -> None:
        begun.set()
        end.wait(30)

    bench = collector("bench", every="1d")(lambda _: None)
    for each in (first, bench):
        each.budget = Budget("api")
        scheduler.register_collector(each)
    scheduler.start()
    assert begun.wait(10)
    configuration = Configuration(scheduler=scheduler.config)
    facts = read_facts(scheduler, "bench", datetime.now(UTC) + timedelta(seconds=5), configuration)
    assert facts.needs_plugins
    said = explain(with_plugins(facts, scheduler, configuration, ""))
    end.set()
    assert said.endswith(": budget api has its share of the workers, 1 run goes on with it"), said


def test_a_leader_that_hangs(tmp_path: Path) -> None:
    """The lock is held and the heartbeat is old: then that is the reason, and why if the store can't be written."""
    path = tmp_path / "store.db"
    with closing(first_schema(path)) as connection:
        add_job(connection, "bench", "ss", next_run_at="2026-11-20T00:10:00.000000Z")
        began, seen = "2026-11-20T00:00:00.000000Z", "2026-11-20T00:05:00.000000Z"
        connection.execute("INSERT INTO geckosched_instances VALUES ('i', 12, 'box', '0', ?, ?, NULL, 0, '[]')",
                           (began, seen))  # fmt: skip
        lock = LeaderLock(path)
        assert lock.acquire()
        try:
            assert why(path).startswith("bench does not run: process 12 on box, which leads, hangs or is stopped: no ")
            connection.execute("BEGIN IMMEDIATE")
            assert "which leads, can't write the store" in why(path)
            connection.execute("ROLLBACK")
        finally:
            lock.release()
    assert why(path).startswith("bench does not run: nobody leads, process 12 on box was killed or crashed, its last ")


@pytest.mark.usefixtures("fake_plugin")
def test_a_leader_whose_file_is_gone() -> None:
    """The lead is held, but by somebody whom this store doesn't know: nothing is said of a process None."""
    lock = LeaderLock(Path("geckosched.db").resolve())
    assert lock.acquire()
    try:
        result = invoke("why", "tick")
    finally:
        lock.release()
    begins = "tick does not run: the process that leads has written nothing into this store yet: "
    assert (result.exit_code, result.stdout.startswith(begins)) == (0, True), result.stdout


# -- The command -------------------------------------------------------------------------------------------------------

LIMITED = """
from geckosched import Budget, RateLimited, collector, hookimpl

API = Budget("api", rate="10/m")

@collector("limited", every="1d")
def limited(run):
    with run.call():
        raise RateLimited(600)

@collector("other", every="1d")
def other(run): ...

limited.budget = other.budget = API

@hookimpl
def register_collectors(register, settings):
    register(limited)
    register(other)
"""


@pytest.mark.usefixtures("fake_plugin")
def test_a_day_with_a_daemon() -> None:
    """What an operator asks of a real daemon, one reason after the other."""
    Path("limited.py").write_text(LIMITED, encoding="utf-8")
    Path("geckosched.toml").write_text(
        '[plugins]\nload = ["limited.py"]\n[scheduler]\nmax_workers = 1\nshutdown_timeout = "1s"\n'
        "[plugins.fake]\nslow = true\n[collectors.hang]\nenabled = false\n[collectors.nap]\nenabled = false\n"
        "[collectors.limited]\npriority = 1\n", encoding="utf-8")  # fmt: skip

    def why(job: str) -> str:
        result = invoke("why", job)
        assert (result.exit_code, result.stderr) == (0, ""), result.stderr
        assert result.stdout.count("\n") == 1
        return result.stdout

    assert "geckosched run would run it at once, since it never ran" in why("other")
    with daemon() as process:
        leader = f"process {process.pid} on {socket.gethostname()}"
        wait_until(lambda: "its service asked for a pause, run" in why("limited"))
        assert re.match(r"other waits since .*: budget api is closed until .* \(in .*m.*\), since its s", why("other"))
        assert why("weather") == "weather is not scheduled: it needs `cities` (set it in [collectors.weather])\n"
        assert why("nap") == "nap is disabled in the configuration (geckosched.toml says enabled = false)\n"
        triggered = invoke("trigger", "other", "--no-wait")
        assert "\nother waits: budget api is closed until " in triggered.stderr
        assert why("other").startswith("other waits, somebody triggered it ")
        assert invoke("trigger", "nap", "--no-wait").exit_code == 0
        wait_until(lambda: "nap has been running for" in why("nap"))
        assert "since somebody triggered it; no slot of it comes up afterwards, since it is disabled" in why("nap")
        assert "\nnap waits: run " in invoke("trigger", "nap", "--no-wait").stderr
        assert "a trigger waits for its end" in why("nap")
        assert re.search(r"\ndaily waits: no worker is free \(1 run goes on, nap for .+\)\n",
                         invoke("trigger", "daily", "--no-wait").stderr)  # fmt: skip
        invoke("disable", "broken")
        assert re.match(rf"broken is disabled: an operator did that .+ ago \(.* UTC\) from process {os.getpid()} on ",
                        why("broken"))  # fmt: skip
        process.kill()
        process.wait()
        assert f"nobody leads, {leader} was killed or crashed" in why("daily")
        assert re.search(r"since run \d+ was cut short$", why("tick")) or "a slot of it passed" in why("tick")


@pytest.mark.usefixtures("fake_plugin")
def test_a_trigger_says_why_it_waits_where_this_process_runs_it() -> None:
    """With nobody leading a closed budget keeps the run waiting here; Ctrl-C ends the wait."""
    Path("limited.py").write_text(LIMITED, encoding="utf-8")
    Path("geckosched.toml").write_text('[plugins]\nload = ["limited.py"]\n', encoding="utf-8")
    assert invoke("trigger", "limited").exit_code == 1
    process = start("trigger", "other")
    said = [first_line(process)]
    while said[-1] and not said[-1].startswith("other waits: budget api is closed until "):
        said.append(first_line(process))
    process.send_signal(signal.SIGINT)
    finish(process)
    assert "triggered other: nobody leads, running it here\n" in said
    assert said[-1], said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ick", 'no job is called "ick", did you mean "tick"?'),
        ("tikc", 'no job is called "tikc", did you mean "tick"?'),
        ("WEATH", 'no job is called "WEATH", did you mean "weather"?'),
        ("zzz", 'no job is called "zzz" (known: broken, daily, tick, weather)'),
    ],
)
@pytest.mark.usefixtures("fake_plugin")
def test_an_unknown_job(asked: str, said: str) -> None:
    result = invoke("why", asked)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"geckosched: {said}\n")


@pytest.mark.usefixtures("fake_plugin")
def test_an_unknown_job_where_there_is_none(store_path: Path) -> None:
    """Nothing can be meant, which is said; in a store without a job by every command."""
    Path("geckosched.toml").write_text('[plugins]\ndisable = ["fake"]\n', encoding="utf-8")
    with CollectionScheduler(SchedulerConfig(database=store_path)):
        pass
    for word, *more in (["why"], *([each, "--database", str(store_path)] for each in ("why", "status", "disable"))):
        result = invoke(word, "ships", *more)
        said = 'geckosched: job "ships" is not known: there are no jobs yet\n'
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)


def test_a_part_of_an_id_is_enough_for_a_hint() -> None:
    """The shortest id that has it comes first, then what is spelt alike; one letter is no part."""
    known = ["geckoterminal-trades", "spreads", "gecko-trades-old"]
    assert UnknownJob("trades", known).matches == ("gecko-trades-old", "geckoterminal-trades", "spreads")
    assert UnknownJob("geckoterminal-trade", known).matches[0] == "geckoterminal-trades"
    assert UnknownJob("o", known).matches == ()
