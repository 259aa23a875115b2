"""`CollectionScheduler.apply`: another configuration while jobs run. All is judged first, only what differs is touched,
and what operators did holds but for what the configuration changes. On a clock that the tests move, with the tables of
real files."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Applied,
    Budget,
    CollectionScheduler,
    ConfigError,
    Outcome,
    Reason,
    RunContext,
    SchedulerConfig,
    SchedulerState,
    collector,
)
from geckosched.config import Configuration, installed_plugins, load_configuration
from geckosched.core import Grid, Ledger, Registration, Requests, from_datetime, to_text
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import Gate, finished, runs_of, settle, until

PLUGIN = '''
from dataclasses import dataclass
from geckosched import Batch, Budget, collector, hookimpl

@dataclass
class Options:
    mark: str = "-"
    seconds: float = 0

def collect(run):
    if run.options.seconds:
        run.sleep(run.options.seconds)
    yield Batch("notes", [{"run": run.id, "job": run.job_id, "mark": run.options.mark}], pk="run")

note = collector("note", every="1m", options=Options)(collect)
other = collector("other", every="1m", options=Options)(collect)

@hookimpl
def register_collectors(register, settings):
    register(note)
    register(other)
'''
STORE = "store.db"
S = 1_000_000
OFF = "[collectors.other]\nenabled = false\n"


class Site:
    """A folder with a plugin and a configuration, and a scheduler that was made of them."""

    def __init__(self, folder: Path, new_scheduler: NewScheduler) -> None:
        self.clock = FakeClock()
        self.path = folder / "geckosched.toml"
        self.store = folder / STORE
        self._new = new_scheduler
        (folder / "plug.py").write_text(PLUGIN, encoding="utf-8")

    def configuration(self, text: str) -> Configuration:
        """Write a configuration, in which no installed plugin matters, and read it."""
        start = f'[plugins]\nload = ["plug.py"]\ndisable = {installed_plugins()}\n'
        self.path.write_text(text if "[plugins]" in text else start + text, encoding="utf-8")
        return load_configuration(self.path, {} if "database" in text else {"GECKOSCHED_SCHEDULER__DATABASE": STORE})

    def scheduler(self, text: str) -> CollectionScheduler:
        """Return a scheduler that was loaded, and not started."""
        configuration = self.configuration(text)
        settings = {f.name: getattr(configuration.scheduler, f.name) for f in dataclasses.fields(SchedulerConfig)}
        made = self._new(clock=self.clock, **settings)
        configuration.load_plugins(made)
        return made

    def apply(self, scheduler: CollectionScheduler, text: str) -> Applied:
        return scheduler.apply(self.configuration(text))

    def table(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.store)) as connection:
            rows = connection.execute(sql).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job's row, but for what each run changes."""
        with closing(sqlite3.connect(self.store)) as connection:
            connection.row_factory = sqlite3.Row
            return dict(connection.execute("SELECT * FROM geckosched_jobs WHERE job_id = ?", (job_id,)).fetchone())


@pytest.fixture
def site(tmp_path: Path, new_scheduler: NewScheduler) -> Site:
    return Site(tmp_path, new_scheduler)


def registered(scheduler: CollectionScheduler, job_id: str) -> Registration:
    """Return what the ticker has of a job."""
    assert scheduler.lead is not None
    return scheduler.lead.ticker.jobs[job_id].registration


def to_slot(clock: FakeClock, job_id: str, every: int, before: float = 0.0) -> int:
    """Move the clock to a slot of a job without `at` (or so many seconds before it); returns the slot."""
    grid, now = Grid(job_id, every * 1_000_000), clock.now()
    slot = grid.after(now + round(before * 1_000_000))
    clock.advance((slot - now) / 1_000_000 - before)
    return slot


def asleep(scheduler: CollectionScheduler) -> list[str]:
    """Return the jobs whose runs are in `run.sleep`: what time passes from now on counts."""
    lead, clock = scheduler.lead, scheduler._clock
    assert lead is not None
    assert isinstance(clock, FakeClock)
    running = tuple(lead.ticker._running)
    return sorted(each.registration.job_id for each in running if each.wake in tuple(clock._waiting))


def begun(scheduler: CollectionScheduler, job_id: str, count: int = 1) -> None:
    """Wait until a job has so many runs, the last of which goes on and sleeps."""
    def holds() -> bool:
        runs = scheduler.get_runs(job_id)
        return len(runs) == count and runs[0].outcome is None and job_id in asleep(scheduler)

    until(holds, f"run {count} of {job_id}")


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_only_the_job_that_differs_is_touched(site: Site) -> None:
    """Another interval of one job: the others keep registration, next run, the run that goes on and their row."""
    text = OFF + '[collectors.a]\nuse = "note"\nevery = "1h"\n[collectors.b]\nuse = "note"\nseconds = 600\n'
    scheduler = site.scheduler(text)
    with scheduler:
        begun(scheduler, "b")
        runs_of(scheduler, "a", 1)
        settle(scheduler)
        kept, row = registered(scheduler, "b"), site.job("b")
        applied = site.apply(scheduler, text.replace('"1h"', '"2h"'))
        assert applied == Applied(changed=("a",))
        assert registered(scheduler, "b") is kept
        assert site.job("b") == row
        assert (registered(scheduler, "a").every, site.job("a")["every"]) == (7_200_000_000, "2h")
        assert site.apply(scheduler, text.replace('"1h"', '"2h"')) == Applied()
        site.clock.advance(600)
        assert runs_of(scheduler, "b", 1)[0].outcome is Outcome.SUCCEEDED


def test_a_running_run_keeps_its_options_and_the_next_has_the_new_ones(site: Site) -> None:
    """So does its time limit: another one is for the next run."""
    text = OFF + '[collectors.note]\nseconds = 40\nmark = "old"\ntimeout = "50s"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        begun(scheduler, "note")
        new = text.replace("old", "new").replace('"50s"', '"1h"').replace("seconds = 40", "seconds = 90")
        assert site.apply(scheduler, new) == Applied(changed=("note",))
        site.clock.advance(40)
        assert runs_of(scheduler, "note", 1)[0].outcome is Outcome.SUCCEEDED
        assert site.table("SELECT mark FROM notes") == ["old"]
        site.clock.advance(91)
        begun(scheduler, "note", 2)
        assert site.apply(scheduler, new.replace('"1h"', '"80s"')) == Applied(changed=("note",))
        site.clock.advance(90)
        assert runs_of(scheduler, "note", 2)[1].outcome is Outcome.SUCCEEDED
        assert site.table("SELECT mark FROM notes ORDER BY run") == ["old", "new"]
        site.clock.advance(60)
        begun(scheduler, "note", 3)
        assert site.apply(scheduler, new) == Applied(changed=("note",))
        site.clock.advance(81)
        assert runs_of(scheduler, "note", 3)[2].outcome is Outcome.TIMED_OUT


def test_a_run_that_waits_for_the_store_has_the_options_that_it_was_admitted_with(site: Site) -> None:
    """Its slot came before the reload, though the store could not be written then."""
    text = OFF + '[collectors.note]\nmark = "old"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        runs_of(scheduler, "note", 1)
        with closing(sqlite3.connect(site.store, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            site.clock.advance(91)
            until(lambda: lead.ticker.running == 1)
            new = site.configuration(text.replace("old", "new"))
            reload = threading.Thread(target=scheduler.apply, args=(new,))
            reload.start()
            until(lambda: registered(scheduler, "note").options.mark == "new")
            foreign.execute("ROLLBACK")
        reload.join(30)
        runs_of(scheduler, "note", 2)
        assert site.table("SELECT mark FROM notes ORDER BY run") == ["old", "old"]


@pytest.mark.parametrize("change", ["every", "mark"])
def test_a_slot_that_is_due_in_the_moment_of_a_reload_comes_up(site: Site, change: str) -> None:
    """The ticker may hear of the reload first: the slot is run all the same, once, and the next one as well."""
    text = OFF + '[collectors.note]\nmark = "old"\nevery = "1m"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        runs_of(scheduler, "note", 1)
        site.clock.advance(91)  # past any slot that the first run passed over
        count = len(runs_of(scheduler, "note", 2))
        slot = to_slot(site.clock, "note", 60, before=0.3)
        settle(scheduler)
        site.clock.step(0.4)  # which wakes nobody: the ticker sees the slot and the reload at once
        new = text.replace('"1m"', '"2m"') if change == "every" else text.replace("old", "new")
        assert site.apply(scheduler, new) == Applied(changed=("note",))
        runs = runs_of(scheduler, "note", count + 1)
        assert [from_datetime(run.scheduled_for) for run in runs if run.scheduled_for][-1] == slot
        every = 120 if change == "every" else 60
        following = to_slot(site.clock, "note", every)
        after = runs_of(scheduler, "note", count + 2)[-1]
        assert after.scheduled_for is not None
        assert (from_datetime(after.scheduled_for), after.missed) == (following, 0)
        assert len({run.scheduled_for for run in after_first(scheduler)}) == len(after_first(scheduler))


class Running(FakeClock):
    """A clock that, once `armed`, moves a little whenever the ticker reads it: code takes time."""

    STEP = 0.05
    armed = False

    def now(self) -> int:
        if self.armed and threading.current_thread().name == "geckosched-ticker":
            self._now += round(self.STEP * 1_000_000)
            self._monotonic += round(self.STEP * 1_000_000)
        return super().now()


@pytest.mark.parametrize("before", [each * Running.STEP + 0.01 for each in range(8)])
def test_a_slot_that_comes_while_the_ticker_changes_the_interval_is_run_once(site: Site, before: float) -> None:
    """At whatever step of that: neither lost nor doubled, and the next slot is the new interval's."""
    clock = site.clock = Running()
    text = OFF + '[collectors.note]\nevery = "1m"\n'
    with site.scheduler(text) as scheduler:
        runs_of(scheduler, "note", 1)
        clock.advance(91)
        runs_of(scheduler, "note", 2)
        slot = Grid("note", 120 * S).after(clock.now() + 60 * S)
        clock.advance((slot - clock.now()) / S - 60)  # to the slot of a minute before
        runs_of(scheduler, "note", 3)
        clock.advance(60 - before)
        settle(scheduler)
        clock.armed = True
        site.apply(scheduler, text.replace("1m", "2m"))
        clock.armed = False
        clock.advance(max(0.0, (slot - clock.now()) / S))
        runs_of(scheduler, "note", 4)
        clock.advance((slot + 120 * S - clock.now()) / S)
        runs = runs_of(scheduler, "note", 5)
        slots = [from_datetime(run.scheduled_for) for run in runs if run.scheduled_for]
        assert slots[-3:] == [slot - 60 * S, slot, slot + 120 * S]
        assert [run.missed for run in runs[-2:]] == [0, 0]


def after_first(scheduler: CollectionScheduler) -> list[Any]:
    return finished(scheduler, "note")[1:]


def test_slots_of_another_interval_count_from_the_reload_on(site: Site) -> None:
    """A job of a day becomes one of a minute: it has missed none of the minutes before."""
    text = OFF + '[collectors.note]\nevery = "1d"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        runs_of(scheduler, "note", 1)
        site.clock.advance(7200)
        settle(scheduler)
        site.apply(scheduler, text.replace("1d", "1m"))
        slot = to_slot(site.clock, "note", 60)
        run = runs_of(scheduler, "note", 2)[-1]
        assert run.scheduled_for is not None
        assert (from_datetime(run.scheduled_for), run.missed, run.reason) == (slot, 0, Reason.SCHEDULED)


def test_a_job_comes_and_goes_and_comes_back(site: Site) -> None:
    """Who is gone is retired: its run ends by itself, no slot comes up; it comes back with its history."""
    text = OFF + '[collectors.note]\nenabled = false\n[collectors.a]\nuse = "note"\nseconds = 30\n'
    without = OFF + "[collectors.note]\nenabled = false\n"
    scheduler = site.scheduler(without)
    with scheduler:
        assert site.apply(scheduler, text) == Applied(added=("a",))
        begun(scheduler, "a")
        assert site.apply(scheduler, without) == Applied(removed=("a",))
        assert site.job("a")["retired_at"] is not None
        site.clock.advance(30)
        until(lambda: site.table("SELECT outcome FROM geckosched_runs WHERE job_id = 'a'") == ["succeeded"])
        site.clock.advance(600)
        settle(scheduler)
        assert site.table("SELECT count(*) FROM geckosched_runs WHERE job_id = 'a'") == [1]
        assert site.apply(scheduler, text) == Applied(added=("a",))
        assert (site.job("a")["retired_at"], site.job("a")["runs"]) == (None, 1)
        begun(scheduler, "a", 2)


def test_a_job_that_comes_back_with_another_interval_has_missed_none_of_its_slots(site: Site) -> None:
    text = OFF + '[collectors.note]\nenabled = false\n'
    table = '[collectors.a]\nuse = "note"\nevery = "1d"\n'
    with site.scheduler(text + table) as scheduler:
        runs_of(scheduler, "a", 1)
        site.apply(scheduler, text)
        site.clock.advance(3600)
        site.apply(scheduler, text + table.replace("1d", "1m"))
        slot = to_slot(site.clock, "a", 60)
        run = runs_of(scheduler, "a", 2)[-1]
        assert run.scheduled_for is not None
        assert (from_datetime(run.scheduled_for), run.missed, run.reason) == (slot, 0, Reason.SCHEDULED)


def test_a_job_that_an_earlier_process_had_comes_back_with_its_state(site: Site) -> None:
    """The row that the store kept is taken up by a reload as by a start."""
    table = '[collectors.a]\nuse = "note"\nevery = "1h"\n'
    off = OFF + "[collectors.note]\nenabled = false\n"
    with site.scheduler(off + table) as first:
        runs_of(first, "a", 1)
        first.disable_collector("a")
    with site.scheduler(off) as second:
        assert site.job("a")["retired_at"] is not None
        site.apply(second, off + table)
        assert second.get_collector_status("a").disabled_at is not None
        assert second.lead is not None
        assert second.lead.ticker.jobs["a"].ran


def test_another_collector_under_the_same_id_starts_anew(site: Site) -> None:
    """Its history is not the old one's, whose run is closed and can store nothing."""
    text = OFF + '[collectors.note]\nenabled = false\n[collectors.a]\nuse = "note"\nseconds = 60\n'
    scheduler = site.scheduler(text)
    with scheduler:
        begun(scheduler, "a")
        applied = site.apply(scheduler, text.replace('use = "note"\nseconds = 60', 'use = "other"\nseconds = 60'))
        assert applied == Applied(changed=("a",))
        begun(scheduler, "a", 2)
        job = site.job("a")
        assert (job["collector"], job["runs"], job["retired_at"]) == ("other", 0, None)
        first = runs_of(scheduler, "a", 1)[0]
        assert (first.outcome, first.detail) == (Outcome.INTERRUPTED, "its job is another one now")
        site.clock.advance(60)
        runs_of(scheduler, "a", 2)
        assert len(site.table("SELECT run FROM notes")) == 1


def test_jobs_of_python_code_are_left_alone_and_a_table_cannot_name_one(site: Site) -> None:
    """They are touched by settings only."""

    @collector("mine", every="1h")
    def mine(run: RunContext) -> None: ...

    scheduler = site.scheduler(OFF)
    scheduler.register_collector(mine)
    with scheduler:
        kept = registered(scheduler, "mine")
        with pytest.raises(ConfigError, match=r'\[collectors.mine\] job "mine" is registered already'):
            site.apply(scheduler, OFF + '[collectors.mine]\nuse = "note"\n')
        assert site.apply(scheduler, OFF + '[collectors.note]\nmark = "x"\n') == Applied(changed=("note",))
        assert registered(scheduler, "mine") is kept
        assert site.apply(scheduler, OFF + '[collectors.note]\nmark = "x"\n[scheduler]\ntimeout = "1m"\n') == Applied(
            changed=("mine", "note", "other"), settings=("timeout",)
        )
        assert registered(scheduler, "mine").timeout == 60_000_000


def test_a_priority_holds_for_a_run_that_waits_already(site: Site) -> None:
    """It goes before those that have waited longer."""
    jobs = "".join(f'[collectors.j{n}]\nuse = "note"\nseconds = 40\nevery = "1h"\n' for n in range(4))
    text = OFF + "[scheduler]\nmax_workers = 1\n" + jobs
    scheduler = site.scheduler(text)
    with scheduler:
        begun(scheduler, "j0")
        settle(scheduler)
        assert site.apply(scheduler, f"{text}priority = 7\n") == Applied(changed=("j3",))
        site.clock.advance(40)
        begun(scheduler, "j3")


@pytest.mark.hangs
def test_slots_that_wait_for_hanging_runs_come_up_with_more_workers(site: Site) -> None:
    """Where no more may hang than there are workers."""
    gate = Gate()
    scheduler = site.scheduler(OFF + "[collectors.note]\nenabled = false\n[scheduler]\nmax_workers = 1\n")
    scheduler.register_collector(gate, timeout="50s")
    with scheduler:
        assert gate.entered.acquire(timeout=30)
        for seconds in (51, 31):
            settle(scheduler)
            site.clock.advance(seconds)
        until(lambda: scheduler.get_runs("gate")[0].outcome is Outcome.TIMED_OUT)
        site.clock.advance(61)
        settle(scheduler)
        assert not gate.entered.acquire(blocking=False)
        scheduler.apply(dataclasses.replace(scheduler.config, max_workers=2))
        assert gate.entered.acquire(timeout=30)
        gate.open.set()


# -- nothing changes if something is wrong -----------------------------------------------------------------------------

WRONG = [
    ('[collectors.a]\nuse = "note"\nmrak = "x"\n', '[collectors.a] mrak: unknown key, did you mean "mark"?'),
    ('[collectors.a]\nuse = "note"\nmark = 5\n', "[collectors.a] mark: found 5, allowed is text in quotes"),
    ('[collectors.a]\nuse = "note"\nevery = "0s"\n', "[collectors.a] every: found '0s'"),
    ('[collectors.a]\nuse = "note"\nat = "02:30"\n', "job a at: goes with an interval of whole days or weeks"),
    ('[collectors.nota]\n', '[collectors.nota] no installed collector is called "nota", did you mean "note"?'),
    ('[budgets.x]\nrate = "often"\n', '[budgets.x] rate: found'),
    ('[plugins]\nlaod = []\n', '[plugins] laod: unknown key, did you mean "load"?'),
    ('[scheduler]\nmax_workers = 0\n', "[scheduler] max_workers: found 0, allowed is at least 1"),
    ('[scheduler\n', "line "),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_with_an_error_nothing_changes(site: Site, wrong: str, said: str) -> None:
    """Not even what is right in the same file; each thing that is wrong is a line with file, table and key."""
    text = OFF + '[collectors.note]\nmark = "old"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        runs_of(scheduler, "note", 1)
        settle(scheduler)
        assert scheduler.lead is not None
        before = (scheduler.config, scheduler.lead.config, dict(scheduler._registrations), dict(scheduler._configured))
        rows = site.table("SELECT * FROM geckosched_jobs")
        with pytest.raises(ConfigError) as raised:
            site.apply(scheduler, wrong + '[collectors.note]\nmark = "new"\nevery = "9m"\n')
        assert said in str(raised.value)
        assert all(line.startswith(f"{site.path}: ") for line in str(raised.value).splitlines())
        settle(scheduler)
        after = (scheduler.config, scheduler.lead.config, dict(scheduler._registrations), dict(scheduler._configured))
        assert after == before
        assert after[0] is before[0]
        assert site.table("SELECT * FROM geckosched_jobs") == rows
        assert registered(scheduler, "note") is before[2]["note"]


def test_all_that_is_wrong_is_said_and_that_a_new_plugin_needs_a_restart(site: Site) -> None:
    """A line for each thing; and where a collector is missing, why that may be."""
    scheduler = site.scheduler(OFF)
    with pytest.raises(ConfigError) as raised:
        site.apply(scheduler, '[collectors.note]\nmrak = 1\nseconds = "x"\n[collectors.far]\n')
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    [far] = [line for line in lines if "[collectors.far]" in line]
    assert far.endswith("(a plugin that is new needs a restart)")
    with pytest.raises(ConfigError, match='did you mean "note"') as slip:
        site.apply(scheduler, OFF + "[collectors.nota]\n")
    assert "needs a restart" not in str(slip.value)


# -- what operators did ------------------------------------------------------------------------------------------------


def test_what_operators_did_holds_but_for_what_the_file_changes(site: Site) -> None:
    """disable always; enable, reschedule and unregister until the file changes that very thing."""
    text = OFF + '[collectors.note]\nmark = "a"\n[collectors.b]\nuse = "note"\nevery = "3m"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        scheduler.disable_collector("note")
        scheduler.enable_collector("other")
        scheduler.reschedule_collector("b", "7m")
        assert site.apply(scheduler, text) == Applied()
        second = text.replace('"a"', '"z"').replace("enabled = false", 'enabled = false\nmark = "z"')
        second = second.replace('every = "3m"', 'every = "3m"\nmark = "z"')
        assert site.apply(scheduler, second) == Applied(changed=("b", "note", "other"))
        status = {job.job_id: job for job in scheduler.get_status().jobs}
        assert status["note"].disabled_at is not None
        assert (status["other"].enabled, status["b"].every) == (True, "7m")
        third = second.replace('"3m"', '"4m"').replace("enabled = false", "enabled = true")
        assert site.apply(scheduler, third) == Applied(changed=("b",))  # `other` is enabled already
        assert scheduler.get_collector_status("b").every == "4m"
        fourth = third.replace("enabled = true", "enabled = false")
        assert site.apply(scheduler, fourth) == Applied(changed=("other",))
        status = {job.job_id: job for job in scheduler.get_status().jobs}
        assert (status["other"].enabled, status["other"].next_run_at) == (False, None)
        assert status["note"].next_run_at is None


def test_an_unregistered_job_stays_out_until_its_own_table_changes(site: Site) -> None:
    """A reload for another job's sake, or of a default, does not bring it back."""
    text = OFF + '[collectors.note]\n[collectors.b]\nuse = "note"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        scheduler.unregister_collector("b")
        assert site.apply(scheduler, text.replace("note]", 'note]\nmark = "x"')) == Applied(changed=("note",))
        limit = text + '[scheduler]\ntimeout = "2m"\ntimezone = "Europe/Berlin"\n'
        assert site.apply(scheduler, limit).changed == ("note", "other")
        assert "b" not in {job.job_id for job in scheduler.get_status().jobs}
        again = limit.replace('[collectors.b]', '[collectors.b]\nmark = "x"')
        assert site.apply(scheduler, again) == Applied(added=("b",))
        assert registered(scheduler, "b").timeout == 120_000_000
        scheduler.unregister_collector("b")
        without = again.replace('[collectors.b]\nmark = "x"\nuse = "note"\n', "")
        assert "collectors.b" not in without
        assert site.apply(scheduler, without) == Applied()


def test_a_job_that_is_enabled_by_the_file_starts_with_its_next_slot(site: Site) -> None:
    """What passed while it was off is not made up for, as after `enable`."""
    text = OFF + "[collectors.note]\nenabled = true\n"
    scheduler = site.scheduler(text)
    with scheduler:
        runs_of(scheduler, "note", 1)
        site.clock.advance(91)
        count = len(runs_of(scheduler, "note", 2))
        site.apply(scheduler, text.replace("true", "false"))
        site.clock.advance(1800)
        settle(scheduler)
        assert len(finished(scheduler, "note")) == count
        site.apply(scheduler, text)
        slot = to_slot(site.clock, "note", 60)
        run = runs_of(scheduler, "note", count + 1)[-1]
        assert run.scheduled_for is not None
        assert (from_datetime(run.scheduled_for), run.missed) == (slot, 0)


def test_what_others_asked_of_a_leader_is_kept_over_stop_and_start(site: Site) -> None:
    """Requests of other processes change the leader's own registrations, as its own methods do."""
    scheduler = site.scheduler(OFF + '[collectors.note]\n[collectors.b]\nuse = "note"\n')
    elsewhere = CollectionScheduler(SchedulerConfig(database=site.store))
    with scheduler:
        elsewhere.reschedule_collector("note", "7m")
        elsewhere.unregister_collector("b")
        elsewhere.enable_collector("other")
    with scheduler:
        status = {job.job_id: (job.every, job.enabled) for job in scheduler.get_status().jobs}
        assert status == {"note": ("7m", True), "other": ("1m", True)}


def test_what_is_registered_anew_holds_over_what_an_operator_did_before(site: Site) -> None:
    """Also if the ticker hears of both only then, and over stop and start."""
    scheduler, busy = site.scheduler(OFF + "[collectors.note]\n"), threading.Event()
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        lead.ticker.inbox.put((busy.wait, 30))
        lead.ticker.inbox.put((lead.ticker.operate, "reschedule", "note", {"every": 420 * S}))
        scheduler.register_collector("note", "9m", replace=True)
        busy.set()
        settle(scheduler)
        assert registered(scheduler, "note").every == 540 * S
    with scheduler:
        assert scheduler.get_collector_status("note").every == "9m"


# -- settings ----------------------------------------------------------------------------------------------------------


def workers() -> int:
    return sum(thread.name == "geckosched-worker" for thread in threading.enumerate())


def test_more_workers_start_what_waits_and_fewer_end_when_they_are_idle(site: Site) -> None:
    """Never do more runs go on than the setting says from then on."""
    jobs = "".join(f'[collectors.j{n}]\nuse = "note"\nseconds = 40\nevery = "1h"\n' for n in range(6))
    text = OFF + "[collectors.note]\nenabled = false\n" + jobs + "[scheduler]\nmax_workers = 2\n"
    scheduler = site.scheduler(text)
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        until(lambda: len(asleep(scheduler)) == 2)
        assert (lead.ticker.running, workers()) == (2, 2)
        more = site.apply(scheduler, text.replace("= 2", "= 5"))
        assert more == Applied(settings=("max_workers",))
        until(lambda: len(asleep(scheduler)) == 5)
        assert workers() == 5
        fewer = site.apply(scheduler, text.replace("= 2", "= 1"))
        assert fewer == Applied(settings=("max_workers",))
        site.clock.advance(40)
        until(lambda: len(finished(scheduler)) == 5)
        until(lambda: workers() == 1, "four workers too many end")
        until(lambda: asleep(scheduler) == ["j5"])
        assert lead.ticker.running == 1
        site.clock.advance(40)
        assert len(runs_of(scheduler, "j5", 1)) == 1
    assert workers() == 0


def test_workers_come_and_go_and_leave_no_connection(site: Site) -> None:
    """Forty reloads that change the number leave as many threads and open files as the last one says."""
    text = OFF + "[collectors.note]\nenabled = false\n[scheduler]\nmax_workers = 3\n"
    scheduler = site.scheduler(text)
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        for number in range(40):
            scheduler.apply(dataclasses.replace(scheduler.config, max_workers=1 + number % 4))
        until(lambda: workers() == 4)
        assert len(lead._threads) < 15


def test_settings_that_the_ticker_keeps_hold_at_once(site: Site) -> None:
    """The delays of breakers, `catchup` and what the lead reads anew each time."""
    scheduler = site.scheduler(OFF + "[collectors.note]\n")
    with scheduler:
        lead = scheduler.lead
        assert lead is not None
        text = '[scheduler]\nerror_recovery_delay = "2s"\nmax_recovery_delay = "9s"\ncatchup = "none"\n'
        text += 'retention_days = 3\nretention_runs = 4\nhealth_check_interval = "5s"\nshutdown_timeout = "3s"\n'
        text += "max_consecutive_errors = 9\n"
        applied = site.apply(scheduler, OFF + "[collectors.note]\n" + text)
        assert set(applied.settings) == {
            "error_recovery_delay", "max_recovery_delay", "catchup", "retention_days", "retention_runs",
            "health_check_interval", "shutdown_timeout", "max_consecutive_errors",
        }  # fmt: skip
        assert applied.changed == ("note", "other")
        breaker = lead.ticker.jobs["note"].breaker
        assert (breaker.backoff(1), breaker.backoff(9), breaker.threshold) == (2_000_000, 9_000_000, 9)
        assert not lead.ticker._catchup
        assert lead.config is scheduler.config
        assert (lead.config.retention_days, lead.config.shutdown_timeout) == (3, "3s")
        site.apply(scheduler, OFF + "[collectors.note]\n" + text + "[collectors.new]\nuse = \"note\"\n")
        new = lead.ticker.jobs["new"]
        assert (new.breaker.backoff(1), new.next is not None and new.next.reason) == (2_000_000, Reason.SCHEDULED)


def test_a_shorter_health_check_interval_holds_for_the_round_that_is_awaited(site: Site) -> None:
    """Not only after the next round, which may be a day away."""
    text = OFF + '[collectors.note]\n[scheduler]\nhealth_check_interval = "1d"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        watcher = scheduler._watcher
        assert watcher is not None
        until(lambda: watcher._checkup._next, "the first round")
        first = watcher._checkup._next
        site.apply(scheduler, text.replace("1d", "10s"))
        site.clock.advance(11)
        until(lambda: watcher._checkup._next not in (None, first) and watcher._checkup._next > site.clock.monotonic())
        assert watcher._checkup._next == site.clock.monotonic() + 10_000_000


def test_fewer_runs_to_keep_are_kept_from_the_next_round_on(site: Site) -> None:
    """Though the job has run no more since the last round."""
    text = OFF + "[collectors.note]\nenabled = false\n[scheduler]\nretention_runs = 40\n"
    scheduler = site.scheduler(text)
    with scheduler:
        settle(scheduler)
    with closing(sqlite3.connect(site.store)) as connection, connection:
        started = to_text(site.clock.now())
        rows = [(n, "note", "scheduled", started, started, "succeeded", "x") for n in range(1, 61)]
        columns = "id, job_id, reason, started_at, finished_at, outcome, instance_id"
        connection.executemany(f"INSERT INTO geckosched_runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("UPDATE geckosched_jobs SET runs = 60, last_run_id = 60 WHERE job_id = 'note'")

    def kept(count: int) -> None:
        until(lambda: site.table("SELECT count(*) FROM geckosched_runs") == [count], f"{count} runs that are kept")

    with scheduler:
        kept(40)
        site.apply(scheduler, text.replace("40", "20"))
        site.clock.advance(61)
        kept(20)


def test_another_time_zone_moves_jobs_with_at_and_no_others(site: Site) -> None:
    """Those that an operator rescheduled, too."""
    text = OFF + '[collectors.note]\nevery = "1d"\nat = "02:30"\n[collectors.b]\nuse = "note"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        kept = registered(scheduler, "b")
        applied = site.apply(scheduler, text + '[scheduler]\ntimezone = "Asia/Tokyo"\n')
        assert applied == Applied(changed=("note",), settings=("timezone",))
        planned = scheduler.get_collector_status("note").next_run_at
        assert planned is not None
        assert (planned.hour, planned.minute) == (17, 30)
        assert registered(scheduler, "b") is kept


def test_a_default_changes_the_jobs_that_have_it_and_no_others(site: Site) -> None:
    """What a job sets itself wins, after a reload as before."""
    text = OFF + '[collectors.note]\n[collectors.b]\nuse = "note"\ntimeout = "3m"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        kept = registered(scheduler, "b")
        settings = dataclasses.replace(scheduler.config, timeout="7m")
        assert scheduler.apply(settings) == Applied(changed=("note", "other"), settings=("timeout",))
        assert registered(scheduler, "b") is kept
        assert registered(scheduler, "note").timeout == 420_000_000
        assert scheduler.apply(settings) == Applied()
        assert site.apply(scheduler, text + '[scheduler]\ntimeout = "7m"\n') == Applied()


def test_what_needs_a_restart_is_said_each_time_and_not_half_done(site: Site) -> None:
    """The store and the plugins stay as they were, while all else of the file holds."""
    text = OFF + '[collectors.note]\nmark = "a"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        start = '[plugins]\nload = ["plug.py", "more.py"]\n[plugins.plug]\nkey = 1\n[scheduler]\ndatabase = "else.db"\n'
        for _ in range(2):
            applied = site.apply(scheduler, start + "max_workers = 3\n" + text.replace('"a"', '"b"'))
            assert [each.name for each in applied.restart] == [
                "database", "[plugins] load", "[plugins] disable", "[plugins.plug]",
            ]  # fmt: skip
            assert str(applied).endswith(
                f"; needs a restart: database (until then it is {site.store}), [plugins] load, [plugins] disable, "
                "[plugins.plug] (plugins are loaded at a start only)"
            )
        assert scheduler.get_status().scheduler.database == str(site.store)
        assert registered(scheduler, "note").options.mark == "b"
        assert not (site.path.parent / "else.db").exists()
        assert site.apply(scheduler, text).restart == ()


def test_new_secrets_are_hidden_and_old_ones_stay_so(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Runs that began with an old one may go on; those of a reload that is refused are hidden, too."""
    key = site.path.parent / "key"
    key.write_text("first-secret", encoding="utf-8")
    text = OFF + '[collectors.note]\nmark = "file:key"\n'
    scheduler = site.scheduler(text)
    with scheduler:
        key.write_text("second-secret", encoding="utf-8")
        assert site.apply(scheduler, text) == Applied(changed=("note",), settings=("secrets",))
        assert registered(scheduler, "note").options.mark == "second-secret"
        key.write_text("third-secret", encoding="utf-8")
        with pytest.raises(ConfigError):
            site.apply(scheduler, f"{text}mrak = 1\n")
        scheduler.registry.log.warning("first-secret and second-secret and third-secret")
    assert "*** and *** and ***" in caplog.messages
    assert not any("secret" in message for message in caplog.messages)


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_calls_that_were_made_count_by_a_new_rate() -> None:
    """A slower one holds their places for its own window, a faster one lets the next call out as soon as it allows."""
    slower, faster = Ledger(Budget("b", "4/s", burst=4)), Ledger(Budget("b", "2/h", burst=2))
    for ledger in (slower, faster):
        for _ in range(2):
            ledger.answered(ledger.take(100 * S), 100 * S)
    slower.change(Budget("b", "3/m", burst=3), 100 * S)
    assert slower.free(100 * S) == 1
    slower.answered(slower.take(100 * S), 100 * S)
    assert slower.next_free(101 * S) == 160 * S
    faster.change(Budget("b", "3/m", burst=3), 110 * S)
    assert faster.next_free(110 * S) == 110 * S
    faster.answered(faster.take(110 * S), 110 * S)
    assert faster.next_free(111 * S) == 160 * S


def test_a_budget_that_a_429_closed_stays_closed() -> None:
    ledger = Ledger(Budget("b", "10/m"))
    ledger.answered(ledger.take(0), 0, refused=True, retry_after=300 * S)
    ledger.change(Budget("b", "1000/m", burst=100), S)
    assert ledger.next_free(2 * S) == 300 * S


def test_another_rate_keeps_the_ledger_and_is_stored(site: Site, new_scheduler: NewScheduler) -> None:
    """In a scheduler: the calls of before are counted, the configuration's word goes and comes back."""
    made: list[int] = []
    budget = Budget("far", rate="2/h", burst=9)

    @collector("caller", every="1h")
    def caller(run: RunContext) -> None:
        made.append(run.calls_free(budget))
        for _ in range(2):
            with run.call(budget):
                made.append(run.calls_free(budget))

    scheduler = new_scheduler(clock=site.clock)
    scheduler.register_collector(caller)
    with scheduler:
        runs_of(scheduler, "caller", 1)
        assert made == [2, 1, 0]
        wider = dataclasses.replace(scheduler.config, budgets={"far": {"rate": "6/h"}})
        assert scheduler.apply(wider) == Applied(settings=("budgets.far",))
        scheduler.execute_collector_now("caller", wait=False)
        until(lambda: len(made) == 6, "calls that no longer wait for an hour")
        assert made[3:] == [4, 3, 2]
        until(lambda: site.table("SELECT rate, burst FROM geckosched_budgets") == [("6/h", 9)])
        back = dataclasses.replace(scheduler.config, budgets={})
        scheduler.apply(back)
        until(lambda: site.table("SELECT rate, burst FROM geckosched_budgets") == [("2/h", 9)])


# -- where and when ----------------------------------------------------------------------------------------------------


def test_a_standby_has_the_new_configuration_when_it_takes_over(site: Site) -> None:
    """Until then the leader's jobs are the jobs."""
    text = OFF + "[collectors.note]\nenabled = false\n"
    first, second = site.scheduler(text), site.scheduler(text)
    first.start()
    second.start()
    assert second.state is SchedulerState.STANDBY
    new = text + '[collectors.b]\nuse = "note"\n[scheduler]\nmax_workers = 5\n'
    assert site.apply(second, new) == Applied(added=("b",), settings=("max_workers",))
    assert {job.job_id for job in first.get_status().jobs} == {"note", "other"}
    first.stop()
    until(lambda: second.state is SchedulerState.RUNNING, "the take-over")
    runs_of(second, "b", 1)
    assert workers() == 5
    assert site.apply(second, text) == Applied(removed=("b",), settings=("max_workers",))


def test_before_the_start_and_after_the_stop_it_is_for_the_next_start(site: Site) -> None:
    """Also with what operators did before."""
    text = OFF + "[collectors.note]\n"
    scheduler = site.scheduler(text)
    assert site.apply(scheduler, text + '[collectors.b]\nuse = "note"\n') == Applied(added=("b",))
    with scheduler:
        runs_of(scheduler, "b", 1)
        scheduler.reschedule_collector("note", "5m")
    assert site.apply(scheduler, OFF + '[collectors.note]\nmark = "x"\n') == Applied(changed=("note",), removed=("b",))
    with scheduler:
        assert registered(scheduler, "note").options.mark == "x"
        status = {job.job_id: job.every for job in scheduler.get_status().jobs}
        assert status == {"note": "5m", "other": "1m"}


def test_a_reload_while_it_stops_is_for_the_next_start(site: Site) -> None:
    """The ticker hears of it when it has begun to stop; nothing is lost, and nobody hangs."""
    text = OFF + "[collectors.note]\n"
    scheduler, entered, busy = site.scheduler(text), threading.Event(), threading.Event()
    new = site.configuration(text + '[collectors.b]\nuse = "note"\n')
    said: list[Applied] = []
    scheduler.start()
    lead = scheduler.lead
    assert lead is not None

    def hold() -> None:
        entered.set()
        busy.wait(30)

    lead.ticker.inbox.put((hold,))
    assert entered.wait(30)
    lead.ticker.inbox.put((lead.ticker.stop,))
    reload = threading.Thread(target=lambda: said.append(scheduler.apply(new)))
    reload.start()
    until(lambda: lead.ticker.inbox._queue.qsize() >= 2, "the reload in the ticker's inbox")
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    until(lambda: scheduler.state is SchedulerState.STOPPING)
    busy.set()
    reload.join(30)
    stopper.join(30)
    assert said == [Applied(added=("b",))]
    with scheduler:
        runs_of(scheduler, "b", 1)


def test_many_threads_apply_and_register_at_once(site: Site) -> None:
    """What each asked for last holds in ticker, registrations and store alike."""
    scheduler = site.scheduler(OFF + "[collectors.note]\nenabled = false\n")
    text = OFF + "[collectors.note]\nenabled = false\n[collectors.b]\nuse = \"note\"\nevery = "
    configurations = [site.configuration(f'{text}"{n}m"\n') for n in range(1, 9)]
    errors: list[BaseException] = []

    def hammer(start: int) -> None:
        try:
            for turn in range(12):
                scheduler.apply(configurations[(start + turn) % len(configurations)])
                if turn % 3 == 0:
                    scheduler.reschedule_collector("b", f"{start + 20}m")
        except BaseException as error:
            errors.append(error)

    with scheduler:
        threads = [threading.Thread(target=hammer, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        scheduler.apply(configurations[3])
        scheduler.apply(configurations[4])
        settle(scheduler)
        assert registered(scheduler, "b").every == 5 * 60 * S
        assert scheduler._registrations["b"] is registered(scheduler, "b")
        assert site.job("b")["every"] == "5m"


def test_a_request_to_reload_is_refused_in_words_where_nobody_reloads(site: Site) -> None:
    """By an embedder's leader, which has no file; with nobody leading there is no answer."""
    scheduler = site.scheduler(OFF)
    elsewhere = CollectionScheduler(SchedulerConfig(database=site.store))
    assert elsewhere.request_reload() is None
    with scheduler:
        answer = elsewhere.request_reload()
        assert answer == "refused: the process that leads has no configuration to read again"
        asked: list[int] = []

        def answer_it(request: int) -> None:
            asked.append(request)
            scheduler.answer_request(request, "done, twice")

        scheduler.on_reload = answer_it
        assert elsewhere.request_reload() == "done, twice"
        row = Requests(elsewhere._store, elsewhere._lock).get(asked[0])
        assert (row["action"], row["job_id"]) == ("reload", None)
