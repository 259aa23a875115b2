"""Reload: the comparison as data, then SIGHUP and `geckosched reload` with real processes, and a hundred under load."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from geckosched import Applied, CollectionScheduler, NeedsRestart, SchedulerConfig, parse_duration
from geckosched.core import Grid, PluginSetup, Registration, fitted, from_text
from geckosched.reload import Change, Plan, Reloader, differences
from tests.conftest import NewScheduler
from tests.shell import geckosched, invoke, job_of_store, requests_of_store, runs_of_store, wait_until
from tests.test_service import SystemD

HOUR = 3_600_000_000

# -- the comparison, as data -------------------------------------------------------------------------------------------


class Options:
    """Options that can't be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("no")

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(eq=False)
class Identical:
    """Options that compare by identity only."""

    city: str


def registration(job_id: str = "job", **different: Any) -> Registration:
    every, at = different.pop("every", HOUR), different.pop("at", None)
    values: dict[str, Any] = {
        "collector": print, "name": "weather", "plugin": "plug", "settings": {}, "options": {"city": "Oslo"},
        "enabled": True, "timeout": 900_000_000, "priority": 0, "max_consecutive_errors": 5, "quiet": None,
        "budget": None, "by_default": frozenset({"timeout", "max_consecutive_errors"}), "grid": Grid(job_id, every),
    }  # fmt: skip
    made = Registration(job_id=job_id, every=every, at=at, **{**values, **different})
    return fitted(made, SchedulerConfig())


def change(before: Registration | None, after: Registration | None, **settings: Any) -> Change:
    """Return the one change that a plan finds for a job."""
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(**settings), Path("geckosched.db").resolve())
    [found] = plan.changes({"job": before} if before else {}, {"job": after} if after else {}, {})
    return found


def test_what_is_the_same_is_no_change() -> None:
    """Whether or not options can be compared by themselves; what can't be compared at all counts as different."""
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(), Path("x"))
    for options in ({"city": "Oslo"}, Identical("Oslo")):
        jobs = [{"job": registration(options=each)} for each in (options, type(options)(**vars_of(options)))]
        assert plan.changes(jobs[0], jobs[1], jobs[0]) == []
    one, other = registration(options=Options()), registration(options=Options())
    assert differences(one, other) == {"options"}


def vars_of(options: Any) -> dict[str, Any]:
    return options if isinstance(options, dict) else vars(options)


def test_a_job_that_is_new_comes_and_one_that_is_gone_goes() -> None:
    job = registration()
    assert change(None, job).onto(None) is job
    assert change(job, None).onto(job) is None
    assert change(job, None).onto(None) is None


FIELDS: dict[str, Any] = {
    "options": {"city": "Bergen"}, "enabled": False, "every": 2 * HOUR, "timeout": 1_000_000, "priority": 3,
    "max_consecutive_errors": 1, "quiet": HOUR, "settings": {"key": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_that_the_configuration_changes_wins_and_no_other_is_touched(name: str) -> None:
    """On top of a job that an operator has rescheduled and switched on meanwhile."""
    before = registration(enabled=name == "enabled")
    after = registration(**{"enabled": before.enabled, name: FIELDS[name], "by_default": frozenset()})
    current = fitted(dataclasses.replace(before, every=7 * HOUR, enabled=True), SchedulerConfig())
    became = change(before, after).onto(current)
    assert became is not None
    assert getattr(became, name) == FIELDS[name]
    assert became.every == (2 * HOUR if name == "every" else 7 * HOUR)
    assert became.grid == Grid("job", became.every)
    assert became.enabled is (name != "enabled")


def test_a_change_that_an_operator_has_made_already_leaves_the_job_as_it_is() -> None:
    before, after = registration(), registration(every=3 * HOUR)
    current = fitted(dataclasses.replace(before, every=3 * HOUR), SchedulerConfig())
    assert change(before, after).onto(current) is current


def test_an_unregistered_job_comes_back_by_its_own_table_only() -> None:
    """Not by a default of all jobs, nor by the time zone."""
    before, later = registration(every=24 * HOUR, at="02:30"), SchedulerConfig(timeout="1m", timezone="Asia/Tokyo")
    by_default = fitted(before, later)
    assert by_default is not before
    assert change(before, by_default, timeout="1m", timezone="Asia/Tokyo").onto(None) is None
    own = dataclasses.replace(by_default, priority=1)
    assert change(before, own, timeout="1m", timezone="Asia/Tokyo").onto(None) is own


def test_another_collector_is_another_job() -> None:
    """What was done to the old one says nothing about it."""
    before, after = registration(), registration(name="tides", collector=repr)
    found = change(before, after)
    assert found.is_of_another
    assert found.onto(dataclasses.replace(before, every=9 * HOUR)) is after


def test_a_time_zone_is_that_of_jobs_with_at_also_when_an_operator_gave_it() -> None:
    daily = fitted(dataclasses.replace(registration(), every=24 * HOUR, at="02:30"), SchedulerConfig())
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(timezone="Asia/Tokyo"), Path("x"))
    jobs = {"job": registration(), "other": registration("other")}
    [found] = plan.changes(jobs, jobs, {**jobs, "job": daily})
    became = found.onto(daily)
    assert became is not None
    assert (found.job_id, became.at, became.grid == daily.grid) == ("job", "02:30", False)


SETTINGS: dict[str, Any] = {
    "timezone": "Europe/Berlin", "max_workers": 3, "max_consecutive_errors": 2, "error_recovery_delay": "1s",
    "max_recovery_delay": "2h", "timeout": "1m", "catchup": "none", "shutdown_timeout": 1,
    "health_check_interval": "10s", "retention_days": 1, "retention_runs": 5,
}  # fmt: skip
ELSEWHERE = {"database", "executor", "budgets", "secrets"}  # have tests of their own


def test_every_setting_is_compared() -> None:
    """A new one must be thought of: does it hold at once, or from the next start on?"""
    assert set(SETTINGS) | ELSEWHERE == {field.name for field in dataclasses.fields(SchedulerConfig)}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_differs_is_named(name: str) -> None:
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(**{name: SETTINGS[name]}), Path("x"))
    assert (plan.settings, plan.restart) == ((name,), ())
    assert getattr(plan.config, name) == SETTINGS[name]


def test_the_same_duration_in_other_words_is_no_difference() -> None:
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(timeout=900, shutdown_timeout="30000ms"), Path("x"))
    assert plan.settings == ()


def test_budgets_are_named_one_by_one_and_secrets_not_at_all() -> None:
    old = SchedulerConfig(budgets={"a": {"rate": "1/m"}, "b": {"burst": 1}}, secrets=("first-one",))
    new = SchedulerConfig(budgets={"a": {"rate": "1/m"}, "c": {"burst": 2}}, secrets=("first-one", "second-one"))
    assert Plan.of(old, new, Path("x")).settings == ("budgets.b", "budgets.c", "secrets")
    assert Plan.of(new, old, Path("x")).settings == ("budgets.b", "budgets.c")


def test_another_store_needs_a_restart_and_another_name_of_it_does_not(tmp_path: Path) -> None:
    store = tmp_path / "a.db"
    (tmp_path / "link.db").symlink_to(store)
    old = SchedulerConfig(database=store)
    assert Plan.of(old, SchedulerConfig(database=tmp_path / "link.db"), store).restart == ()
    plan = Plan.of(old, SchedulerConfig(database=tmp_path / "b.db"), store)
    assert plan.restart == (NeedsRestart("database", f"until then it is {store}"),)
    assert (plan.config.database, plan.settings) == (store, ())


def test_plugins_need_a_restart_whatever_differs_of_them() -> None:
    """The order of the lists says nothing; without a configuration nothing is said of plugins."""
    loaded = PluginSetup(None, ("a", "b"), (Path("x.py"),), {"p": {"key": 1}})
    plan = Plan.of(SchedulerConfig(), SchedulerConfig(), Path("x"))

    def names(**different: Any) -> list[str]:
        return [each.name for each in plan.applied((), (), loaded, loaded._replace(**different)).restart]

    assert names(disable=("b", "a")) == []
    assert names(only=("a",)) == ["GECKOSCHED_LOAD_PLUGINS"]
    assert names(load=()) == ["[plugins] load"]
    assert names(disable=()) == ["[plugins] disable"]
    assert names(settings={"p": {"key": 2}, "q": {}}) == ["[plugins.p]"]
    assert plan.applied((), (), loaded, None).restart == plan.applied((), (), None, loaded).restart == ()


def test_what_came_of_it_is_one_line() -> None:
    """For a log and a terminal: nobody reads a thousand names."""
    why = "plugins are loaded at a start only"
    whole = Applied(("a",), ("b", "c"), ("d",), ("max_workers",), (
        NeedsRestart("database", "until then it is x"), NeedsRestart("[plugins] load", why), NeedsRestart("[p]", why),
    ))  # fmt: skip
    assert str(whole) == (
        "added a; changed b, c; removed d; settings max_workers; needs a restart: database (until then it is x), "
        f"[plugins] load, [p] ({why})"
    )
    assert str(Applied()) == "nothing differs"
    assert str(dataclasses.replace(Applied(), restart=whole.restart[:1])).startswith("nothing else differs; needs a")
    assert str(Applied(added=tuple(map(str, range(12))))) == "added 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert json.loads(json.dumps(whole.as_dict()))["restart"][0] == {
        "name": "database", "reason": "until then it is x",
    }  # fmt: skip


# -- the loop ----------------------------------------------------------------------------------------------------------


class Gate:
    """A configuration that is read when the test lets it be."""

    path = None

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.reads = self.inside = self.most = 0

    def read(self) -> Gate:
        self.reads += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.begun.release()
        self.go.acquire(timeout=30)
        self.inside -= 1
        return self

    def apply_to(self, scheduler: CollectionScheduler) -> Applied:
        return scheduler.apply(scheduler.config)


def test_signals_during_a_reload_make_one_more_that_begins_after_the_last(new_scheduler: NewScheduler) -> None:
    """However many; one at a time; the handler itself reads nothing."""
    gate, reloader = Gate(), Reloader()
    with reloader.hearing():
        os.kill(os.getpid(), signal.SIGHUP)  # before there is a scheduler
        assert gate.reads == 0
        with new_scheduler() as scheduler, reloader.serving(scheduler, gate.read):
            assert gate.begun.acquire(timeout=30)
            for _ in range(7):
                os.kill(os.getpid(), signal.SIGHUP)
            gate.go.release()
            assert gate.begun.acquire(timeout=30), "what came while it was read"
            assert (gate.reads, gate.most) == (2, 1)
            os.kill(os.getpid(), signal.SIGHUP)
            gate.go.release(2)
            assert gate.begun.acquire(timeout=30)
            assert gate.reads == 3


def test_a_bug_in_a_reload_is_said_and_ends_neither_it_nor_the_next(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """The asker is answered all the same."""
    reads = itertools.count()
    gate = Gate()
    gate.go.release(9)

    def read() -> Gate:
        if not next(reads):
            raise ZeroDivisionError("oh")
        return gate

    with new_scheduler() as scheduler, Reloader().serving(scheduler, read):
        assert scheduler.request_reload() == "refused: ZeroDivisionError: oh"
        assert scheduler.request_reload() == "reloaded: nothing differs"
    assert "not reloaded: ZeroDivisionError: oh; this is a bug of geckosched" in caplog.text


# -- processes ---------------------------------------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from geckosched import Batch, collector, hookimpl

@dataclass
class Options:
    mark: str = "0"

@collector("tick", every="1s", options=Options)
def tick(run):
    yield Batch("ticks", [{"run": run.id, "job": run.job_id, "mark": run.options.mark}], pk="run")

@hookimpl
def register_collectors(register, settings):
    register(tick)
"""
START = '[plugins]\nload = ["plug.py"]\n[collectors.tick]\n'


def configure(text: str) -> None:
    """Replace the file as editors and deployments do: whole, or not at all."""
    Path("new.toml").write_text(text, encoding="utf-8")
    Path("new.toml").replace("geckosched.toml")


@pytest.fixture
def here(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the plugin `plug` and a configuration, from which commands are run."""
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none")
    Path("plug.py").write_text(PLUGIN, encoding="utf-8")
    configure(START)
    return site


class Daemon:
    """`geckosched run`, with its log in a file."""

    def __init__(self, *arguments: str, **how: Any) -> None:
        self.log = Path(f"log-{len(list(Path().glob('log-*')))}")
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "geckosched", "run", *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **how)

    def lines(self, word: str) -> list[str]:
        """Return what the log says with a word in it, without the time."""
        return [line[20:] for line in self.log.read_text().splitlines() if word in line]

    def says(self, word: str, count: int = 1) -> list[str]:
        """Wait for so many lines with a word in them."""
        wait_until(lambda: self.process.poll() is not None or len(self.lines(word)) >= count)
        assert self.process.poll() is None, self.log.read_text()
        return self.lines(word)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(*arguments: str, **how: Any) -> Iterator[Daemon]:
    daemon = Daemon(*arguments, **how)
    try:
        daemon.says("leading")
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.usefixtures("here")
def test_a_reload_by_command_and_by_signal_says_what_changed() -> None:
    """In the same words to who asked and in the log; what is wrong changes nothing, and is said line by line."""
    with running() as daemon:
        configure(START + 'every = "2s"\n[collectors.b]\nuse = "tick"\n')
        done = geckosched("reload")
        assert (done.code, done.out, done.err) == (0, "reloaded geckosched.toml: added b; changed tick\n", "")
        assert daemon.lines("reloaded") == ["reloaded geckosched.toml: added b; changed tick"]
        tick, b = job_of_store("tick"), job_of_store("b")
        assert (tick and tick.every, b and b.every) == ("2s", "1s")

        configure(START + 'evry = "3s"\n[collectors.b]\nuse = "tick"\nmark = 5\n')
        wrong = [
            'geckosched.toml: [collectors.tick] evry: unknown key, did you mean "every"?',
            "geckosched.toml: [collectors.b] mark: found 5, allowed is text in quotes",
        ]
        refused = geckosched("reload")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.splitlines() == [f"geckosched: not reloaded: {line}" for line in wrong]
        assert daemon.lines("not reloaded") == [f"error: not reloaded, nothing has changed: {'; '.join(wrong)}"]
        assert job_of_store("b") is not None

        Path("geckosched.toml").unlink()
        daemon.hang_up()
        said = daemon.says("not reloaded", 2)[-1]
        assert said == "error: not reloaded, nothing has changed: geckosched.toml: no such file any more"

        configure('[scheduler]\nmax_workers = 3\n[plugins.plug]\nkey = 1\n' + START)
        daemon.hang_up()
        said = daemon.says(" reloaded geckosched.toml", 2)[-1]
        assert said == (
            "warning: reloaded geckosched.toml: changed tick; removed b; settings max_workers; needs a restart: "
            "[plugins.plug] (plugins are loaded at a start only)"
        )
        assert daemon.end() == 0
    assert requests_of_store("reload") == [done.out.strip(), "refused: " + "\n".join(wrong)]


@pytest.mark.usefixtures("here")
def test_with_nobody_leading_the_configuration_is_judged() -> None:
    """As `check` judges it: 2 if it is wrong, 1 if there is only nobody to reload it."""
    fine = invoke("reload")
    nobody = f"geckosched: nobody leads {Path('geckosched.db').resolve()}, so there is nothing to reload; "
    assert (fine.exit_code, fine.stdout) == (1, "")
    assert fine.stderr.startswith(f"{nobody}if a scheduler runs on another store, name it: --database\n")
    assert fine.stderr.endswith("the configuration is fine; geckosched check shows what a start would do\n")
    configure(START + 'evry = "3s"\n')
    wrong = invoke("reload")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(nobody)
    assert wrong.stderr.splitlines()[1:] == [
        'geckosched: geckosched.toml: [collectors.tick] evry: unknown key, did you mean "every"?'
    ]
    assert not Path("geckosched.db").exists()


@pytest.mark.usefixtures("here")
def test_a_file_that_cannot_be_read_names_no_store_and_that_is_said() -> None:
    """There may well be a leader, of the store that the file is meant to name."""
    configure('[scheduler]\ndatabase = "mine.db"\ndatabase = "mine.db"\n')
    found = invoke("reload")
    assert found.exit_code == 2
    nobody, line = found.stderr.splitlines()
    assert "geckosched.db (the default, since the configuration can't be read), so" in nobody
    assert line.startswith("geckosched: geckosched.toml: line 3: not valid TOML")


@pytest.mark.usefixtures("here")
def test_an_invalid_file_names_its_store_all_the_same_and_database_of_the_caller_stays() -> None:
    """The leader is found though the file is wrong; `--database` of `run` is no setting that a reload takes away. The
    service manager hears of each reload, whatever comes of it."""
    with tempfile.TemporaryDirectory() as folder, closing(SystemD(f"{folder}/notify")) as systemd, running(
        "--database", "mine.db", env={**os.environ, "NOTIFY_SOCKET": systemd.address}
    ) as daemon:
        systemd.until("READY=1")
        configure('[scheduler]\ndatabase = "mine.db"\nmax_wrkers = 1\n' + START)
        refused = geckosched("reload")
        line = 'geckosched.toml: [scheduler] max_wrkers: unknown key, did you mean "max_workers"?'
        assert refused.err == f"geckosched: not reloaded: {line}\n"
        assert (systemd.until("RELOADING=1"), systemd.until("READY=1")) == ("RELOADING=1", "READY=1")
        configure('[scheduler]\ndatabase = "theirs.db"\nmax_workers = 4\n' + START)
        done = geckosched("reload", "--database", "mine.db")
        assert done.out == "reloaded geckosched.toml: settings max_workers\n"
        assert (systemd.until("RELOADING=1"), systemd.until("READY=1")) == ("RELOADING=1", "READY=1")
        assert daemon.end() == 0
    assert not Path("theirs.db").exists()


@pytest.mark.usefixtures("here")
def test_a_standby_reloads_by_signal_and_takes_over_with_that() -> None:
    """The leader hears nothing of it."""
    with running() as first:
        second = Daemon()
        try:
            second.says("standing by")
            configure(START + '[collectors.b]\nuse = "tick"\n')
            second.hang_up()
            assert second.says("reloaded") == ["reloaded geckosched.toml: added b"]
            assert job_of_store("b") is None
            assert first.end() == 0
            second.says("leading")
            wait_until(lambda: any(run.outcome for run in runs_of_store("b")))
            assert second.end() == 0
        finally:
            second.process.kill()
            second.process.wait()
    assert first.lines("reloaded") == []


def started_on_a_terminal(*, nohup: bool) -> tuple[int, int]:
    """Start `geckosched run` as the leader of a terminal's session; returns its pid and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        log = os.open("log-pty", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-m", "geckosched", "run"])
    return pid, terminal


@pytest.mark.parametrize("nohup", [False, True])
@pytest.mark.usefixtures("here")
def test_a_terminal_that_is_closed_ends_the_scheduler_unless_it_is_to_outlive_it(nohup: bool) -> None:
    """That sends SIGHUP, too; a scheduler that nobody sees any more would be started a second time."""
    pid, terminal = started_on_a_terminal(nohup=nohup)

    def said(word: str, count: int = 1) -> bool:
        return Path("log-pty").exists() and Path("log-pty").read_text().count(word) >= count

    try:
        wait_until(lambda: said("leading"))
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: said("reloaded"))
        os.close(terminal)
        if nohup:
            wait_until(lambda: said("reloaded", 2))
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: said(" stopped"))
    finally:
        if not said(" stopped"):
            os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)[1]
    assert ended == 0
    assert said("the terminal is gone, stopping") is not nohup


# -- a hundred reloads under load --------------------------------------------------------------------------------------

UNTOUCHED = [f"u{number}" for number in range(25)]
RELOADS = 100
ASKED = 12  # of them by request, of which each waits for the leader's next look


def load_of(turn: int) -> str:
    """Return the configuration of a turn: jobs that stay, one of each other interval, one of other options, one that
    comes and goes, and another number of workers."""
    jobs = [f'[collectors.{name}]\nuse = "tick"\n' for name in UNTOUCHED]
    jobs += [f'[collectors.changing]\nuse = "tick"\nevery = "{1 + turn % 2}s"\n']
    jobs += [f'[collectors.marked]\nuse = "tick"\nmark = "{turn}"\n']
    jobs += ['[collectors.fleeting]\nuse = "tick"\n'] if turn % 3 else []
    return f'[scheduler]\nmax_workers = {3 + turn % 5}\n[plugins]\nload = ["plug.py"]\n{"".join(jobs)}'


def read(sql: str) -> list[Any]:
    with closing(sqlite3.connect("geckosched.db")) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.usefixtures("here")
def test_a_hundred_reloads_under_load_lose_no_run_and_double_none() -> None:
    """By signal and by request, while 28 jobs run every second. From the store: each slot of each job that no reload
    touched was run or is counted as missed, once; so was each of the job whose interval changed all the time."""
    configure(load_of(0))
    with running() as daemon:
        wait_until(lambda: daemon.process.poll() is not None or len(runs_of_store("u1")) >= 2)
        asker = CollectionScheduler(SchedulerConfig())
        for turn in range(1, RELOADS + 1):
            configure(load_of(turn))
            if turn % (RELOADS // ASKED) == 0:
                answer = asker.request_reload()
                assert answer is not None
                assert answer.startswith("reloaded"), answer
            else:
                daemon.hang_up()
            daemon.says("reloaded", turn)
        latest = {job: len(runs_of_store(job)) for job in ("u0", "changing", "marked")}
        wait_until(lambda: all(len(runs_of_store(job)) >= count + 2 for job, count in latest.items()))
        assert daemon.end() == 0
    said = daemon.lines("reloaded")
    assert len(said) == RELOADS
    assert not any(name in line for name in UNTOUCHED for line in said)
    assert all("changed changing, marked" in line and "settings max_workers" in line for line in said)

    runs: dict[str, list[tuple[int, str | None, int, str, str]]] = {}
    for run_id, job, *rest in read("SELECT id, job_id, scheduled_for, missed, outcome, reason FROM geckosched_runs"):
        runs.setdefault(job, []).append((run_id, *rest))
    stopped = {run_id for (run_id,) in read("SELECT id FROM geckosched_runs WHERE detail = 'not begun: shutdown'")}
    assert stopped <= {each[-1][0] for each in runs.values()}, "only the end keeps a run from its worker"
    begun = {run_id: outcome for each in runs.values() for run_id, *_, outcome, _ in each if run_id not in stopped}
    assert set(begun.values()) == {"succeeded"}
    stored = [run for (run,) in read("SELECT run FROM ticks ORDER BY run")]
    assert stored == sorted(begun)
    for job, found in runs.items():
        slots = [from_text(slot) for _, slot, *_ in found[1:] if slot is not None]
        assert len(slots) == len(found) - 1, "nobody triggered a run"
        assert slots == sorted(set(slots)), f"{job}: a slot has two runs"
        account(job, slots, [missed for _, _, missed, *_ in found[1:]])
    marks = [int(mark) for (mark,) in read("SELECT mark FROM ticks WHERE job = 'marked' ORDER BY run")]
    assert marks == sorted(marks)
    assert len(set(marks)) > 3


def account(job: str, slots: list[int], missed: list[int]) -> None:
    """Check that between two runs of a job each slot is counted once. The slots of 2 s are among those of 1 s, so for a
    job that changes between the two there is a least and a most; one that was retired meanwhile has no least."""
    grids = [Grid(job, parse_duration(every)) for every in (("2s", "1s") if job == "changing" else ("1s",))]
    assert all(grids[-1].before(slot) == slot for slot in slots)
    for (before, after), between in zip(itertools.pairwise(slots), missed[1:], strict=True):
        least, most = (grid.count(before, after) for grid in (grids[0], grids[-1]))
        assert (0 if job == "fleeting" else least) <= 1 + between <= most, f"{job}: {between} missed"
