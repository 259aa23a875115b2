"""The embedder's story: one scheduler in a program of one's own, every method in synchronous form, before and after
`start`, from any thread, in the leader and beside it."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from geckosched import (
    Batch,
    BreakerState,
    CollectionScheduler,
    DuplicateJob,
    Health,
    Outcome,
    PluginError,
    Reason,
    RunContext,
    SchedulerClosed,
    SchedulerState,
    UnknownJob,
    collector,
    hookimpl,
)
from geckosched.core import MINUTE, SECOND, Grid, to_datetime
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_clock_steps import quiet
from tests.test_clock_steps import runs_of as history
from tests.test_scheduler import Gate, finished, plain, runs_of, settle, until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Weather:
    """A service: in order, or down."""

    def __init__(self) -> None:
        self.down = False

    def collector(self) -> Any:
        @collector("weather", every="10m")
        def weather(run: RunContext) -> Any:
            if self.down:
                raise ConnectionError("no answer")
            yield Batch("forecast", [{"city": run.options.get("city", "Oslo"), "run_id": run.id}])

        return weather


# -- the story ---------------------------------------------------------------------------------------------------------


def test_from_registration_to_history(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """Register in words, start, run on demand, look at status and history, switch off and on, reschedule, take out."""
    weather, scheduler = Weather().collector(), new_scheduler(clock=clock, max_workers=4)
    for every in ("1h", "30m", "1d", "45s"):
        options = {"city": f"city-{every}"}
        assert scheduler.register_collector(weather, every, job_id=f"w-{every}", options=options) == f"w-{every}"
    assert {(job.job_id, job.every, job.health) for job in scheduler.get_status().jobs} == {
        (f"w-{every}", every, Health.PENDING) for every in ("1h", "30m", "1d", "45s")
    }
    with scheduler:
        assert scheduler.state is SchedulerState.RUNNING
        for every in ("1h", "30m", "1d", "45s"):
            [first] = runs_of(scheduler, f"w-{every}", 1)
            assert (first.reason, first.outcome, first.rows) == (Reason.FIRST, Outcome.SUCCEEDED, 1)
        asked = scheduler.execute_collector_now("w-1h")
        assert asked is not None
        assert (asked.reason, asked.scheduled_for, asked.rows) == (Reason.TRIGGERED, None, 1)
        assert asked == scheduler.get_runs("w-1h", limit=1)[0] == scheduler.get_run(asked.id)
        status = scheduler.get_collector_status("w-1h")
        assert (status.runs, status.rows, status.errors, status.success_rate) == (2, 2, 0, 1.0)
        assert status.health is Health.HEALTHY
        assert scheduler.get_unhealthy_collectors() == []

        scheduler.disable_collector("w-45s")
        assert scheduler.get_collector_status("w-45s").health is Health.DISABLED
        before = len(finished(scheduler, "w-45s"))
        clock.advance(600)
        settle(scheduler)
        assert len(finished(scheduler, "w-45s")) == before
        scheduler.enable_collector("w-45s")
        clock.advance(45)
        assert runs_of(scheduler, "w-45s", before + 1)[-1].reason is Reason.SCHEDULED

        scheduler.reschedule_collector("w-45s", "2m")
        assert scheduler.get_collector_status("w-45s").every == "2m"
        due = scheduler.get_collector_status("w-45s").next_run_at
        assert due == to_datetime(Grid("w-45s", 120_000_000).after(clock.now()))
        scheduler.unregister_collector("w-30m")
        assert {job.job_id for job in scheduler.get_status().jobs} == {"w-1h", "w-1d", "w-45s"}
    assert len(scheduler.get_runs()) == len(scheduler.get_runs(limit=1000)) >= 6
    assert {row["city"] for row in scheduler._store.read("SELECT city FROM forecast")} == {
        f"city-{every}" for every in ("1h", "30m", "1d", "45s")
    }


def test_an_open_breaker_is_seen_by_the_next_program_before_its_start(
    new_scheduler: NewScheduler, clock: FakeClock
) -> None:
    """After `max_consecutive_errors` failures in a row the breaker is open; a new scheduler object on the same store
    says so in every view, before `start`, with and without the registration; a mended service closes it."""
    service = Weather()
    service.down = True
    first = new_scheduler(clock=clock, max_consecutive_errors=3)
    first.register_collector(service.collector())
    for number in (1, 2, 3):
        run = first.execute_collector_now("weather")
        assert run is not None
        assert (run.outcome, run.error_type, run.error) == (Outcome.FAILED, "ConnectionError", "no answer")
        expected = BreakerState.OPEN if number == 3 else BreakerState.CLOSED
        assert first.get_collector_status("weather").breaker is expected
    second = new_scheduler(clock=clock, max_consecutive_errors=3)
    for _ in range(2):
        [job] = second.get_status().jobs
        assert job == second.get_collector_status("weather")
        assert [job] == second.get_unhealthy_collectors()
        assert (job.breaker, job.consecutive_errors, job.health) == (BreakerState.OPEN, 3, Health.UNHEALTHY)
        assert job.retry_at == to_datetime(clock.now()) + timedelta(seconds=240)
        second.register_collector(service.collector()) if not second._registrations else None
    service.down = False
    with second:
        clock.advance(240)
        assert runs_of(second, "weather", 4)[-1].reason is Reason.PROBE
        until(lambda: second.get_collector_status("weather").health is Health.HEALTHY, "the health")


def plugin_of(made: Any) -> ModuleType:
    """Return a plugin as a module that registers one collector."""
    module = ModuleType("geckosched_one")

    @hookimpl
    def register_collectors(register: Callable[[Any], None], settings: Any) -> None:
        register(made)

    vars(module)["register_collectors"] = register_collectors
    return module


class ByClass:
    """A plugin as a class, which is called with its settings."""

    def __init__(self, settings: Any) -> None:
        assert settings == {}

    @hookimpl
    def register_collectors(self, register: Callable[[Any], None]) -> None:
        register(collector("by-class", every="1h")(lambda _: None))


class Broken:
    """A plugin as an instance, and one that fails."""

    @hookimpl
    def register_collectors(self) -> None:
        raise ValueError("no key")


def test_plugins_as_objects(new_scheduler: NewScheduler) -> None:
    """`add_plugin` takes a module, a class or an instance; its collectors are scheduled at once, before and after
    `start`; a broken one is said."""
    scheduler = new_scheduler()
    assert scheduler.add_plugin(plugin_of(Weather().collector()), "one") == "one"
    with scheduler:
        assert scheduler.add_plugin(ByClass, name="two") == "two"
        assert scheduler.add_plugin(plugin_of(collector("late")(lambda _: None)), "three") == "three"
        with pytest.raises(PluginError, match="no key"):
            scheduler.add_plugin(Broken(), "four")
        for job_id in ("weather", "by-class", "late"):
            assert runs_of(scheduler, job_id, 1)[0].outcome is Outcome.SUCCEEDED
    plugins = {plugin.name: plugin for plugin in scheduler.get_status().plugins}
    assert [plugins[name].ok for name in ("one", "two", "three", "four")] == [True, True, True, False]
    assert plugins["two"].collectors == ("by-class",)


# -- who calls, from where, when ---------------------------------------------------------------------------------------

WITH_ID: dict[str, Callable[[CollectionScheduler, str], object]] = {
    "unregister": lambda s, job_id: s.unregister_collector(job_id),
    "forget": lambda s, job_id: s.unregister_collector(job_id, forget=True),
    "enable": lambda s, job_id: s.enable_collector(job_id),
    "disable": lambda s, job_id: s.disable_collector(job_id),
    "reschedule": lambda s, job_id: s.reschedule_collector(job_id, "5m"),
    "reset": lambda s, job_id: s.reset_breaker(job_id),
    "execute": lambda s, job_id: s.execute_collector_now(job_id),
    "execute without waiting": lambda s, job_id: s.execute_collector_now(job_id, wait=False),
    "status": lambda s, job_id: s.get_collector_status(job_id),
    "runs": lambda s, job_id: s.get_runs(job_id),
}


@pytest.mark.parametrize("where", ["before start", "leader", "standby", "after stop"])
def test_unknown_ids_are_said_with_the_closest_ones(new_scheduler: NewScheduler, where: str) -> None:
    """Every method that takes an id raises UnknownJob with the matches, whoever leads."""
    weather = Weather().collector()
    leader, scheduler = new_scheduler(), new_scheduler()
    for each in (leader, scheduler):
        each.register_collector(weather, "1d")
    if where == "standby":
        leader.start()
    if where != "before start":
        scheduler.start()
    if where == "after stop":
        scheduler.stop()
    expected = {"leader": SchedulerState.RUNNING, "standby": SchedulerState.STANDBY}
    assert scheduler.state is expected.get(where, SchedulerState.STOPPED)
    for name, call in WITH_ID.items():
        with pytest.raises(UnknownJob) as caught:
            call(scheduler, "wether")
        assert caught.value.matches == ("weather",), name
        assert str(caught.value) == 'no job is called "wether", did you mean "weather"?', name
        assert isinstance(caught.value, LookupError)


def test_what_comes_back_is_frozen_and_json(new_scheduler: NewScheduler) -> None:
    """`as_dict()` of a run, a status, a job, a plugin is JSON as it stands: text for times, strings for enums."""
    scheduler = new_scheduler()
    scheduler.add_plugin(plugin_of(Weather().collector()), "met")
    scheduler.disable_collector("weather")
    run = scheduler.execute_collector_now("weather")
    assert run is not None
    status, job = scheduler.get_status(), scheduler.get_collector_status("weather")
    for value in (run, status, status.scheduler, job, *status.plugins, *scheduler.get_runs()):
        assert json.loads(json.dumps(value.as_dict(), allow_nan=False)) == value.as_dict()
        for name in value.as_dict():
            with pytest.raises(AttributeError):
                setattr(value, name, None)
    said = run.as_dict()
    assert (said["outcome"], said["reason"], said["scheduled_for"]) == ("succeeded", "triggered", None)
    assert said["started_at"].endswith("Z")
    assert len(said["started_at"]) == len("2026-11-23T15:45:34.123456Z")
    columns = [row["name"] for row in scheduler._store.read("SELECT name FROM pragma_table_info('geckosched_runs')")]
    assert list(said) == columns
    assert status.as_dict()["jobs"][0]["disabled_at"] == job.as_dict()["disabled_at"] is not None


def live(scheduler: CollectionScheduler, job_id: str) -> None:
    """Do with one job all that can be done."""
    scheduler.disable_collector(job_id)
    assert scheduler.get_collector_status(job_id).disabled_at is not None
    scheduler.enable_collector(job_id)
    assert scheduler.get_collector_status(job_id).disabled_at is None
    scheduler.reschedule_collector(job_id, "2h")
    scheduler.reset_breaker(job_id)
    run = scheduler.execute_collector_now(job_id)
    assert run is not None
    assert (run.outcome, run.reason) == (Outcome.SUCCEEDED, Reason.TRIGGERED)
    assert run.id in {found.id for found in scheduler.get_runs(job_id)}
    assert scheduler.get_unhealthy_collectors() == []
    assert job_id in {job.job_id for job in scheduler.get_status().jobs}


def at_once(*calls: Callable[[], object]) -> list[BaseException]:
    """Call all from threads of their own, and wait for them; returns what they raised."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call never came back"
    return errors


def test_every_method_from_many_threads(new_scheduler: NewScheduler) -> None:
    """Before `start`, after it, and after `stop`: whichever threads call, each gets what it asked for."""
    weather, scheduler = Weather().collector(), new_scheduler(max_workers=4)
    names = [f"job-{number}" for number in range(4)]
    for name in names:
        scheduler.register_collector(weather, "1d", job_id=name)
    calls = [lambda name=name: live(scheduler, name) for name in names]
    assert at_once(*calls) == []
    with scheduler:
        assert at_once(*calls) == []
    assert at_once(*calls) == []
    runs = scheduler.get_runs(limit=1000)
    assert all(run.outcome is Outcome.SUCCEEDED for run in runs)
    assert [run.reason for run in runs].count(Reason.TRIGGERED) == 3 * len(names)


def test_registering_and_taking_out_from_many_threads_while_it_runs(new_scheduler: NewScheduler) -> None:
    """Threads that register, run and take out jobs of their own, again and again, are in nobody's way."""
    weather, scheduler = Weather().collector(), new_scheduler(max_workers=4)

    def come_and_go(number: int) -> None:
        for _ in range(4):
            job_id = scheduler.register_collector(weather, "1d", job_id=f"guest-{number}")
            with pytest.raises(DuplicateJob):
                scheduler.register_collector(weather, "1d", job_id=job_id)
            assert scheduler.register_collector(weather, "1h", job_id=job_id, replace=True) == job_id
            run = scheduler.execute_collector_now(job_id)
            assert run is not None
            assert run.outcome is Outcome.SUCCEEDED
            scheduler.unregister_collector(job_id)

    with scheduler:
        assert at_once(*(lambda number=number: come_and_go(number) for number in range(4))) == []
        assert scheduler.get_status().jobs == ()


def test_start_and_stop_while_others_call(new_scheduler: NewScheduler) -> None:
    """Whatever a caller meets in the middle of a start or stop, it gets its answer or SchedulerClosed, and soon."""
    weather, scheduler = Weather().collector(), new_scheduler(max_workers=4)
    scheduler.register_collector(weather, "1d")
    ending = threading.Event()
    answers: list[object] = []

    def call() -> None:
        while not ending.is_set():
            try:
                run = scheduler.execute_collector_now("weather")
                scheduler.disable_collector("weather")
                scheduler.enable_collector("weather")
            except SchedulerClosed as error:
                answers.append(type(error))
            else:
                assert run is not None
                answers.append(run.outcome)

    def start_and_stop() -> None:
        try:
            for _ in range(6):
                scheduler.start()
                count = len(answers)
                until(lambda: len(answers) > count, "an answer")  # noqa: B023
                scheduler.stop(5)
        finally:
            ending.set()

    assert at_once(start_and_stop, call, call) == []
    assert set(answers) <= {Outcome.SUCCEEDED, Outcome.INTERRUPTED, SchedulerClosed}
    assert Outcome.SUCCEEDED in answers
    assert scheduler.state is SchedulerState.STOPPED


# -- the contract ------------------------------------------------------------------------------------------------------


class Contract:
    """The methods of `CollectionScheduler` as the design has them; programs rely on names, order and defaults."""

    def __init__(self, config: Any = None, *, clock: Any = None) -> None: ...
    def register_collector(
        self, collector: Any, every: Any = None, *, job_id: Any = None, options: Any = None, enabled: Any = True,
        at: Any = None, timeout: Any = None, priority: Any = None, max_consecutive_errors: Any = None,
        quiet: Any = None, replace: Any = False,
    ) -> None: ...  # fmt: skip
    def unregister_collector(self, job_id: Any, forget: Any = False) -> None: ...
    def enable_collector(self, job_id: Any) -> None: ...
    def disable_collector(self, job_id: Any) -> None: ...
    def reschedule_collector(self, job_id: Any, every: Any) -> None: ...
    def reset_breaker(self, job_id: Any) -> None: ...
    def execute_collector_now(self, job_id: Any, *, wait: Any = True, timeout: Any = None) -> None: ...
    def load_plugins(
        self, only: Any = None, *, disable: Any = (), settings: Any = None, collectors: Any = None
    ) -> None: ...
    def add_plugin(self, plugin: Any, name: Any = None) -> None: ...
    def get_status(self) -> None: ...
    def get_collector_status(self, job_id: Any) -> None: ...
    def get_unhealthy_collectors(self) -> None: ...
    def get_runs(self, job_id: Any = None, limit: Any = 50) -> None: ...
    def start(self) -> None: ...
    def stop(self, timeout: Any = None) -> None: ...
    def run_forever(self) -> None: ...


METHODS = [name for name, value in vars(Contract).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", METHODS)
def test_signatures(name: str) -> None:
    """Names, kinds, order and defaults are the contract's; what a method takes besides has a default, too."""
    contract = list(inspect.signature(getattr(Contract, name)).parameters.values())
    found = inspect.signature(getattr(CollectionScheduler, name)).parameters
    for parameter in contract:
        assert parameter.name in found
        assert (found[parameter.name].kind, found[parameter.name].default) == (parameter.kind, parameter.default)
    positional = [p.name for p in contract if p.kind is not p.KEYWORD_ONLY]
    assert list(found)[: len(positional)] == positional
    others = [found[key] for key in found if key not in {p.name for p in contract}]
    assert all(parameter.default is not parameter.empty for parameter in others)


def test_state_is_a_property(new_scheduler: NewScheduler, store_path: Path) -> None:
    """`state` is read, not called; making a scheduler touches no file."""
    scheduler = new_scheduler()
    assert scheduler.state is SchedulerState.STOPPED
    assert not store_path.exists()
    with pytest.raises(AttributeError):
        scheduler.state = SchedulerState.RUNNING  # type: ignore[misc]


# -- a new interval, and what was said before the start ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["reschedule", "replace", "restart"])
@pytest.mark.parametrize("job_id", ["plain", "w-1d"])  # the first run of w-1d passed over a slot hours ahead
def test_a_new_interval_holds_at_once(new_scheduler: NewScheduler, clock: FakeClock, how: str, job_id: str) -> None:
    """A daily job that becomes one of 2 minutes runs at that grid's next slots, and has missed none of it: before, it
    was not its grid."""
    grid, scheduler = Grid(job_id, 2 * MINUTE), new_scheduler(clock=clock)
    scheduler.register_collector(plain, "1d", job_id=job_id)
    scheduler.start()
    runs_of(scheduler, job_id, 1)
    clock.advance(7200)
    quiet(scheduler)
    before = len(history(scheduler, job_id))
    if how == "reschedule":
        scheduler.reschedule_collector(job_id, "2m")
    elif how == "replace":
        scheduler.register_collector(plain, "2m", job_id=job_id, replace=True)
    else:
        scheduler.stop()
        scheduler = new_scheduler(clock=clock)
        scheduler.register_collector(plain, "2m", job_id=job_id)
        scheduler.start()
    quiet(scheduler)
    for _ in range(3):
        clock.advance((grid.after(clock.now()) - clock.now()) / SECOND)
        quiet(scheduler)
    runs = history(scheduler, job_id)[before:]
    assert len(runs) in (3, 4)
    assert [run.missed for run in runs] == [0] * len(runs)


@pytest.mark.parametrize("when", ["before the first start", "between a stop and a start", "while it runs"])
def test_a_reschedule_lasts_as_long_as_the_registration(
    new_scheduler: NewScheduler, clock: FakeClock, when: str
) -> None:
    """`reschedule_collector` works before `start` too, and a stop and start of the same scheduler keeps it."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(plain, "1h")
    if when != "before the first start":
        scheduler.start()
    if when == "between a stop and a start":
        scheduler.stop()
    scheduler.reschedule_collector("plain", "5m")
    assert scheduler.get_collector_status("plain").every == "5m"
    scheduler.stop()
    with scheduler:
        assert scheduler.get_collector_status("plain").every == "5m"


def test_enabled_before_the_start(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """A job that was registered switched off and then enabled is on when its scheduler starts."""
    scheduler = new_scheduler(clock=clock)
    scheduler.register_collector(plain, "1h", enabled=False)
    scheduler.enable_collector("plain")
    assert scheduler.get_collector_status("plain").enabled
    with scheduler:
        assert scheduler.get_collector_status("plain").enabled
        assert runs_of(scheduler, "plain", 1)


def test_status_shows_who_leads_after_the_clock_was_set_back(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """The process that leads is the last that took the lead, not the one with the latest time."""
    with new_scheduler(clock=clock):
        pass
    clock.step(-12 * 3600)
    scheduler = new_scheduler(clock=clock)
    with scheduler:
        assert scheduler.get_status().scheduler.started_at == to_datetime(clock.now())


def test_a_caller_does_not_take_the_lead_from_who_stands_by(new_scheduler: NewScheduler) -> None:
    """X2: when the leader ends while another stands by, that one takes over within two seconds and runs what callers
    ask; a caller who is quicker must not keep it waiting, and the jobs with it, for as long as its run lasts."""
    gate = Gate()
    leader, standby, caller = new_scheduler(), new_scheduler(), new_scheduler()
    for each in (leader, standby, caller):
        each.register_collector(gate, "1d")
        each.register_collector(plain, "1d")
    leader.disable_collector("gate")
    leader.start()
    standby.start()
    asked = threading.Thread(target=lambda: caller.execute_collector_now("gate"))
    try:
        leader.stop()
        asked.start()
        assert gate.entered.acquire(timeout=30)
        assert standby.state is SchedulerState.RUNNING
    finally:
        gate.open.set()
        asked.join(30)
