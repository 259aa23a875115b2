"""`geckosched check` and the forecast behind it: what a start would do, said before it, with nothing run or written."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    Budget,
    CollectionScheduler,
    Collector,
    ConfigError,
    Forecast,
    Inbox,
    JobForecast,
    Reason,
    RunContext,
    SchedulerConfig,
    Setup,
    SkipRun,
    collector,
    hookimpl,
    rendering,
    to_text,
)
from geckosched.core import HOUR, MINUTE, LeaderLock, from_datetime
from geckosched.forecast import _MEASURE_SQL, _ORPHANS_SQL
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.shell import daemon, geckosched, invoke, wait_until

MARKET = '''
from dataclasses import dataclass, field
from geckosched import Budget, Collector, collector, hookimpl

API = Budget("api", rate="10/m", burst=4)

@dataclass
class Pages:
    pages: int = 1
    pools: list[str] = field(default_factory=list)

@dataclass
class Needs:
    key: str

@collector("often", every="1m", priority=40, budget=API, calls_per_run=0.8)
def often(run): ...

@collector("pages", every="10m", options=Pages, budget=API, calls_per_run=lambda options: 2 * options.pages)
def pages(run): ...

@collector("watch", every="1m", options=Pages)
def watch(run): ...

class Trades(Collector):
    name, every, budget = "trades", "2m", API

    @staticmethod
    def calls_per_run(options, setup):
        return setup.settings.get("weight", 1) * len(setup.options["watch"].pools)

    def collect(self, run): ...

@collector("nightly", every="1d", calls_per_run=2)
def nightly(run): ...

@collector("trending", every="15m", budget=API, calls_per_run=1, enabled=False)
def trending(run): ...

@collector("mute", every="1h", budget=API)
def mute(run): ...

@collector("needy", options=Needs)
def needy(run): ...

@hookimpl
def register_collectors(register, settings):
    for each in (often, pages, watch, Trades, nightly, trending, mute, needy):
        register(each)
'''

LOAD = '[plugins]\nload = ["market.py"]\ndisable = ["geckoterminal"]\n'


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plugin file, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("GECKOSCHED_CONFIG", "GECKOSCHED_LOAD_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "market.py").write_text(MARKET, encoding="utf-8")
    return tmp_path


def configure(text: str = "") -> None:
    Path("geckosched.toml").write_text(LOAD + text, encoding="utf-8")


def check_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = invoke("check", "--json", *arguments)
    assert result.exit_code == code, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def jobs_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {job["job_id"]: job for job in found["jobs"]}


# -- What it shows -----------------------------------------------------------------------------------------------------

PAGES = "[collectors.pages]\npages = 3\n"
POOLS = '[collectors.watch]\npools = ["a", "b", "c"]\n'


@pytest.mark.usefixtures("market")
def test_jobs_budgets_and_what_is_not_scheduled() -> None:
    """Every job with its interval, next run, priority, budget and calls an hour; the budget with what all jobs ask."""
    configure('[plugins.market]\nweight = 2\n[collectors.nightly]\nat = "02:30"\n' + POOLS + PAGES)
    found = check_json()
    jobs = jobs_of(found)
    calls = {name: (job["calls_per_hour"], job["calls_from"]) for name, job in jobs.items()}
    assert calls == {
        "often": (48.0, "declared"),
        "pages": (36.0, "declared"),
        "watch": (0.0, None),
        "trades": (180.0, "declared"),
        "nightly": (pytest.approx(1 / 12), "declared"),
        "trending": (4.0, "declared"),
        "mute": (None, None),
    }
    assert (jobs["often"]["priority"], jobs["often"]["budget"], jobs["often"]["every"]) == (40, "api", "1m")
    assert (jobs["nightly"]["at"], jobs["nightly"]["next_run_at"][10:]) == ("02:30", "T02:30:00.000000Z")
    assert (jobs["often"]["next_reason"], jobs["nightly"]["next_reason"]) == ("first", "scheduled")
    assert (jobs["trending"]["off"], jobs["trending"]["next_run_at"]) == ("off by default", None)
    assert found["budgets"] == [
        {"name": "api", "rate": "10/m", "burst": 4, "gives": 600.0, "asked": 264.0, "share": 0.44,
         "jobs": ["mute", "often", "pages", "trades"], "unknown": ["mute"]}
    ]  # fmt: skip
    assert found["not_scheduled"] == [{"collector": "needy", "plugin": "market", "reason": "needs `key`"}]
    assert (found["configuration"], found["leader_pid"], found["errors"]) == ("geckosched.toml", None, [])


@pytest.mark.usefixtures("market")
def test_as_text_it_fits_eighty_columns_and_ascii() -> None:
    """A row for each job and each budget, the reason below a job that is off; nothing on stderr if all is well."""
    configure(POOLS + "[collectors.pages]\nenabled = false\n")
    shown = invoke("check")
    lines = shown.stdout.splitlines()
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.isascii()
    assert max(len(line) for line in lines if not line.startswith(("database ", "  "))) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["often"] == ["1m", "at", "once", "40", "api", "48", "declared"]
    assert rows["mute"][-2:] == ["?", "-"]
    assert rows["api"] == ["10/m", "4", "600", "138", "23%"]
    below = {line.split()[0]: lines[index + 1] for index, line in enumerate(lines[:-1]) if line}
    assert below["trending"] == "  off by default: enabled = true in [collectors.trending] turns it on"
    assert (rows["pages"][-2], below["pages"]) == ("(12)", "  disabled in the configuration")
    assert "not scheduled: needy needs `key` (set it in [collectors.needy])" in lines
    assert "  not counted, since they don't say how many calls they make: mute" in lines
    assert f"database       {Path('geckosched.db').resolve()} (not there yet)" in lines


@pytest.mark.usefixtures("market")
def test_on_a_terminal_it_is_a_table_of_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours nothing is missing."""
    configure(POOLS)
    piped = invoke("check").stdout
    monkeypatch.setattr(rendering, "is_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert invoke("check").stdout.split() == piped.split()


@pytest.mark.usefixtures("market")
def test_more_than_the_rate_gives_is_a_warning() -> None:
    """With who asks most, and who would alone; no error, so the exit code is 0. What is off asks nothing."""
    configure('[budgets.api]\nrate = "1/m"\n[collectors.pages]\npages = 10\nevery = "15m"\n' + POOLS)
    shown, found = invoke("check"), check_json()
    said = "budget api: the jobs ask for 218 calls an hour, 1/m gives 60 (trades 90, pages 80, often 48; trades and "
    assert shown.exit_code == 0
    assert shown.stderr == f"geckosched: warning: {said}pages would alone)\n"
    assert found["warnings"] == [f"{said}pages would alone)"]
    assert found["budgets"][0]["share"] == pytest.approx(218 / 60)
    configure('[budgets.api]\nrate = "1/m"\n[collectors.pages]\nenabled = false\n')
    assert invoke("check").stderr == ""


@pytest.mark.parametrize(("rate", "warned"), [("150/h", False), ("149/h", True)])
@pytest.mark.usefixtures("market")
def test_all_of_a_rate_is_not_too_much(rate: str, warned: bool) -> None:
    """One call more is."""
    configure(f"[budgets.api]\nrate = '{rate}'\n{POOLS}")
    found = check_json()
    assert (found["budgets"][0]["asked"], bool(found["warnings"])) == (150, warned)


@pytest.mark.usefixtures("market")
def test_nothing_is_written(market: Path) -> None:
    """Neither a store nor a lock, and a store that is there stays as it is (but for what SQLite puts beside it for any
    reader)."""

    def files() -> set[str]:
        return {path.name for path in market.iterdir()} - {"__pycache__", "geckosched.db-wal", "geckosched.db-shm"}

    configure()
    before = files()
    assert invoke("check").exit_code == 0
    assert files() == before
    with CollectionScheduler(SchedulerConfig(database="geckosched.db")) as scheduler:
        scheduler.register_collector(collector("done")(lambda _: None))
        wait_until(lambda: scheduler.get_runs())
    content, before = Path("geckosched.db").read_bytes(), files()
    assert invoke("check").exit_code == 0
    assert (Path("geckosched.db").read_bytes(), files()) == (content, before)


@pytest.mark.usefixtures("market")
def test_without_a_configuration_and_with_another_database() -> None:
    """No file is fine; `--database` names the store to look at."""
    found = check_json("--database", "other.db")
    assert (found["configuration"], found["database"]) == (None, str(Path("other.db").resolve()))
    assert invoke("check").stdout.startswith("configuration  none\n")


# -- What is wrong -----------------------------------------------------------------------------------------------------

WRONG = """
[scheduler]
max_worker = 4
timeout = 30
[budgets.api]
rate = "often"
[collectors.often]
every = "soon"
[collectors.pages]
pages = "three"
pagse = 1
[collectors.needy]
[collectors.nightly]
priorty = 3
[collectors.treding]
[collectors.hot]
use = "trending"
every = 30
[web]
"""


@pytest.mark.usefixtures("market")
def test_every_error_of_a_configuration_is_a_line() -> None:
    """What the file shows and what only the plugins can tell: file, table, key, what was found, what is allowed. With
    errors nothing would run, so no job is shown."""
    configure(WRONG)
    shown, found = invoke("check"), check_json(code=2)
    lines = [line.removeprefix("geckosched: geckosched.toml: ") for line in shown.stderr.splitlines()]
    assert (shown.exit_code, len(lines)) == (2, 11)
    assert shown.stdout.endswith("\nno jobs are shown until what is wrong is mended\n")
    for said in (
        '[web]: unknown table, allowed: [scheduler], [plugins], [budgets], [collectors]',
        '[budgets.api] rate: found \'often\', allowed are calls per unit such as "10/m"',
        '[scheduler] max_worker: unknown key, did you mean "max_workers"?',
        '[scheduler] timeout: found 30, a duration needs a unit, such as "30s"',
        '[collectors.pages] pagse: unknown key, did you mean "pages"?',
        '[collectors.pages] pages: found "three", allowed is a whole number',
        "[collectors.needy] key: missing; the collector needs it",
        '[collectors.nightly] priorty: unknown key, did you mean "priority"?',
        '[collectors.hot] every: found 30, a duration needs a unit, such as "30s"',
    ):
        assert said in lines
    assert any(line.startswith("[collectors.often] every: found 'soon', allowed are durations") for line in lines)
    assert any(line.startswith('[collectors.treding] no installed collector is called "treding"') for line in lines)
    assert (found["errors"], found["jobs"], found["budgets"]) == (
        [line.removeprefix("geckosched: ") for line in shown.stderr.splitlines()], [], [],
    )  # fmt: skip


@pytest.mark.usefixtures("market")
def test_run_says_every_error_too() -> None:
    """Nobody mends a file in as many rounds as it has errors."""
    configure(WRONG)
    file = geckosched("run")
    assert file.code == 2
    assert [line.split(" ", 3)[2] for line in file.err.splitlines()] == [  # those that need no plugin
        "[web]:", "[budgets.api]", "[scheduler]", "[scheduler]", "[collectors.often]", "[collectors.hot]",
    ]  # fmt: skip
    configure("[collectors.pages]\npages = 'x'\n[collectors.nightly]\npriorty = 3\n")
    options = geckosched("run")
    assert (options.code, options.out) == (2, "")
    assert [line.split(" ")[:4] for line in options.err.splitlines()] == [
        ["geckosched:", "geckosched.toml:", "[collectors.pages]", "pages:"],
        ["geckosched:", "geckosched.toml:", "[collectors.nightly]", "priorty:"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [("[plugins", "not valid TOML"), ("[plugins]\ndisable = 3", "[plugins] disable: found 3, allowed is a list")],
)
@pytest.mark.usefixtures("market")
def test_a_file_that_does_not_say_which_plugins_to_leave_alone(text: str, said: str) -> None:
    """None is imported then; it is said, and that is 2."""
    Path("geckosched.toml").write_text(text + '\nload = ["market.py"]', encoding="utf-8")
    Path("market.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    shown, found = invoke("check"), check_json(code=2)
    assert (shown.exit_code, said in shown.stderr, shown.stderr.count("\n")) == (2, True, 1)
    assert "imported" not in shown.stderr
    assert {plugin["ok"] for plugin in found["plugins"]} <= {False}
    assert (found["jobs"], found["configuration"]) == ([], "geckosched.toml")
    missing = invoke("check", "--config", "no.toml")
    assert (missing.exit_code, missing.stderr) == (2, "geckosched: no.toml: no such file, named by --config\n")


@pytest.mark.usefixtures("market")
def test_a_broken_plugin_is_said_and_stops_nothing() -> None:
    """A start would lack its jobs, which is 1; the others are shown."""
    Path("bad.py").write_text("\nraise RuntimeError('no licence')", encoding="utf-8")
    Path("geckosched.toml").write_text(LOAD.replace('load = ["', 'load = ["bad.py", "'), encoding="utf-8")
    shown, found = invoke("check"), check_json(code=1)
    assert shown.exit_code == 1
    assert shown.stderr == "geckosched: plugin bad is broken: RuntimeError: no licence (bad.py:2)\n"
    assert "plugins        bad (broken), market\n" in shown.stdout
    assert "often" in jobs_of(found)
    assert [(plugin["name"], plugin["ok"]) for plugin in found["plugins"]] == [("bad", False), ("market", True)]


@pytest.mark.usefixtures("market")
def test_warnings_of_the_configuration_are_among_the_warnings() -> None:
    """What reaches nobody is said, in the JSON too, and without a log's time."""
    configure("[plugins.markt]\nkey = 1\n[budgets.apy]\nrate = '2/s'\n")
    shown, found = invoke("check"), check_json()
    assert shown.exit_code == 0
    assert [line.removeprefix("geckosched: warning: ") for line in shown.stderr.splitlines()] == found["warnings"]
    assert [text.split("] ")[0] for text in found["warnings"]] == [
        "geckosched.toml: [plugins.markt", "geckosched.toml: [budgets.apy",
    ]  # fmt: skip


# -- How many calls ----------------------------------------------------------------------------------------------------

API = Budget("api", rate="10/m")


@dataclass
class Options:
    pages: int = 3
    pools: list[str] = field(default_factory=list)


class Asking(Collector):
    """Makes calls of the budget; how many is what the tests declare."""

    name = "asking"
    every = "30m"
    budget = API
    Options = Options

    def collect(self, run: RunContext) -> None:
        """Do nothing."""


class Static(Asking):
    @staticmethod
    def calls_per_run(options: Options) -> int:
        return options.pages


class OfTheClass(Asking):
    factor = 2

    @classmethod
    def calls_per_run(cls, options: Options, setup: Setup) -> int:
        return cls.factor * options.pages + len(setup.options)


class Method(Asking):
    def __init__(self) -> None:
        self.factor = 3

    def calls_per_run(self, options: Options) -> int:
        return self.factor * options.pages


class Plain(Asking):
    calls_per_run = lambda options, factor=4: factor * options.pages  # noqa: E731 - as authors write it


@collector("asking", every="30m", options=Options, budget=API, calls_per_run=lambda options: 0.25 * options.pages)
def function(run: RunContext) -> None:
    """The function form."""


class Plugin:
    """A plugin object with some collectors."""

    def __init__(self, *collectors: Any) -> None:
        self.collectors = collectors

    @hookimpl
    def register_collectors(self, register: Callable[[Any], None]) -> None:
        """Register them."""
        for made in self.collectors:
            register(made)


def only_job(scheduler: CollectionScheduler, job_id: str = "asking") -> JobForecast:
    return next(job for job in scheduler.get_forecast().jobs if job.job_id == job_id)


@pytest.mark.parametrize(
    ("made", "calls"),
    [(Static, 3), (Static(), 3), (OfTheClass, 6), (OfTheClass(), 6), (Method, 9), (Method(), 9), (Plain, 12),
     (Plain(), 12), (function, 0.75)],
)  # fmt: skip
def test_every_form_of_a_function_is_asked(new_scheduler: NewScheduler, made: Any, calls: float) -> None:
    """Static, of the class, of the instance, plain, or a decorator's argument; of a class or of an instance."""
    scheduler = new_scheduler()
    scheduler.add_plugin(Plugin(made), "market")
    assert (only_job(scheduler).calls_declared, only_job(scheduler).problem) == (calls, None)


def test_a_function_may_look_at_the_plugins_setup(new_scheduler: NewScheduler) -> None:
    """Its settings and the checked options of its other jobs, read-only; other plugins' jobs are not among them."""
    seen: list[Setup] = []

    def calls(options: Options, setup: Setup) -> float:
        seen.append(setup)
        return 1

    asking = collector("asking", options=Options, calls_per_run=calls)(lambda _: None)
    watch = collector("watch", options=Options)(lambda _: None)
    scheduler = new_scheduler()
    scheduler.registry.add(Plugin(asking, watch), "market", {"market": {"network": "solana"}})
    scheduler.add_plugin(Plugin(collector("other")(lambda _: None)), "others")
    scheduler.register_collector("watch", job_id="watch", options={"pools": ["a"]}, replace=True)
    scheduler.get_forecast()
    assert (dict(seen[0].settings), dict(seen[0].options)) == ({"network": "solana"}, {"watch": Options(3, ["a"])})
    for table in (seen[0].settings, seen[0].options):
        with pytest.raises(TypeError, match="does not support item assignment"):
            table["watch"] = 1  # type: ignore[index]


def test_what_a_function_raises_is_that_jobs_problem(new_scheduler: NewScheduler) -> None:
    """Whatever it is, and whatever it returns that is no number from 0 up; the other jobs have their figures."""

    def gone(options: Any, setup: Setup) -> float:
        return len(setup.options["nope"].pools)

    def exits(options: Any) -> float:
        raise SystemExit(3)

    declared = {"gone": gone, "exits": exits, "text": "many", "less": -1, "endless": lambda _: float("nan"), "good": 2}
    scheduler = new_scheduler()
    for name, each in declared.items():
        made: Any = collector(name, every="1h", budget=API, calls_per_run=each)  # type: ignore[arg-type]
        scheduler.register_collector(made(lambda _: None))
    found = scheduler.get_forecast()
    problems = {job.job_id: job.problem for job in found.jobs}
    allowed = "allowed is a number from 0 up, or a function that returns one"
    assert problems == {
        "gone": "calls_per_run: KeyError: 'nope'",
        "exits": "calls_per_run: SystemExit: 3",
        "text": f"calls_per_run: found 'many', {allowed}",
        "less": f"calls_per_run: found -1, {allowed}",
        "endless": f"calls_per_run: found nan, {allowed}",
        "good": None,
    }
    assert set(found.warnings) == {f"{name}: {problem}" for name, problem in problems.items() if problem}
    assert (found.budgets[0].asked, set(found.budgets[0].unknown)) == (2.0, set(problems) - {"good"})


def test_collectors_that_declare_one_budget_in_two_ways(new_scheduler: NewScheduler) -> None:
    """The later one holds, as it does in the scheduler, and it is said."""
    scheduler = new_scheduler()
    for name, rate in (("b", "30/m"), ("a", "10/m")):
        scheduler.register_collector(collector(name, budget=Budget("api", rate=rate))(lambda _: None))
    found = scheduler.get_forecast()
    assert found.budgets[0].rate == "10/m"
    assert found.warnings == ("budget api: its collectors declare it in different ways; 10/m holds",)


# -- What history knows better -----------------------------------------------------------------------------------------

def add_runs(path: Path, job_id: str, moments: list[int], *, calls: int, reason: Reason = Reason.SCHEDULED) -> None:
    """Add runs that have ended to a store."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO geckosched_runs (job_id, reason, started_at, outcome, calls) VALUES (?, ?, ?, 'succeeded', ?)",
            [(job_id, reason.value, to_text(moment), calls) for moment in moments],
        )


@pytest.fixture
def asked(new_scheduler: NewScheduler, store_path: Path) -> CollectionScheduler:
    """A scheduler whose job `asking` declares 2 calls, is off in a store that knows it, and never ran."""
    made = collector("asking", every="10m", budget=API, calls_per_run=2)(lambda _: None)
    for _ in range(2):
        scheduler = new_scheduler(clock=FakeClock())
        scheduler.register_collector(made, enabled=False)
        if not store_path.exists():
            scheduler.start()
            scheduler.stop()
    return scheduler


HISTORIES: dict[str, tuple[list[tuple[list[int], int, Reason]], float | None]] = {
    "none": ([], None),
    "59 minutes": ([([1, 30, 60], 5, Reason.SCHEDULED)], None),
    "an hour": ([([1, 30, 61], 5, Reason.SCHEDULED)], 5),
    "an hour with two slots": ([([1, 61], 5, Reason.SCHEDULED)], None),
    "triggered runs are nobody's demand": (
        [([1, 30, 61], 4, Reason.SCHEDULED), ([2, 3, 4], 90, Reason.TRIGGERED)], 4,
    ),
    "triggered runs alone": ([([1, 30, 61, 90], 5, Reason.TRIGGERED)], None),
    "retries count for their slot": ([([1, 30, 61, 90], 4, Reason.SCHEDULED), ([2, 31], 4, Reason.RETRY)], 6),
    "a gap does not thin it out": ([([1, 2, 3, 1200, 1201], 4, Reason.SCHEDULED)], 4),
    "of the last day": ([([1, 30, 61], 4, Reason.SCHEDULED), ([1450, 1500], 99, Reason.SCHEDULED)], 4),
    "before the last day": ([([1450, 1500, 1600], 99, Reason.SCHEDULED)], None),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_history_knows_better_once_there_is_enough(asked: CollectionScheduler, store_path: Path, name: str) -> None:
    """The mean for a slot of the last day replaces what is declared, from an hour and three slots on; its job says
    which of the two it is."""
    runs, measured = HISTORIES[name]
    now = asked._clock.now()
    for minutes_ago, calls, reason in sorted(runs, key=lambda each: -max(each[0])):
        moments = [now - each * MINUTE for each in sorted(minutes_ago, reverse=True)]
        add_runs(store_path, "asking", moments, calls=calls, reason=reason)
    job = only_job(asked)
    assert (job.calls_declared, job.calls_measured) == (2, measured)
    assert job.calls_from == ("declared" if measured is None else "measured")
    assert job.calls_per_hour == (2 if measured is None else measured) * 6


@pytest.mark.parametrize(("runs", "measured"), [(1999, None), (2000, 3)])
def test_of_a_fast_job_many_runs_are_enough(
    new_scheduler: NewScheduler, store_path: Path, runs: int, measured: int | None
) -> None:
    """As many are looked at as tell something, so that a job of ten runs a second has no million of them read."""
    made = collector("asking", every="100ms", budget=API)(lambda _: None)
    scheduler = new_scheduler(clock=FakeClock())
    scheduler.register_collector(made, enabled=False)
    scheduler.start()
    scheduler.stop()
    moments = [scheduler._clock.now() - each * 100_000 for each in range(runs, 0, -1)]
    add_runs(store_path, "asking", moments, calls=3)
    assert only_job(scheduler).calls_measured == measured


def test_runs_in_progress_are_not_judged(asked: CollectionScheduler, store_path: Path) -> None:
    """A run has made but some of its calls yet."""
    now = asked._clock.now()
    add_runs(store_path, "asking", [now - 2 * HOUR, now - HOUR, now - MINUTE], calls=6)
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute("UPDATE geckosched_runs SET outcome = NULL, calls = 0 WHERE id = 3")
    assert only_job(asked).calls_measured is None


def test_a_big_store_is_read_by_its_indexes(asked: CollectionScheduler, store_path: Path) -> None:
    """Of the table of runs only a job's latest are read, whatever its size."""
    with closing(sqlite3.connect(store_path)) as connection:
        for sql, params in ((_MEASURE_SQL, (10, "", "[]")), (_ORPHANS_SQL, ())):
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)]
            of_runs = [step for step in plan if "geckosched_runs" in step or re.search(r"\br\b", step)]
            assert of_runs, plan
            assert all("USING INDEX" in step or "COVERING INDEX" in step for step in of_runs), plan
            assert not [step for step in plan if "TEMP B-TREE" in step], plan


@pytest.mark.usefixtures("market")
def test_a_declaration_that_is_far_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who has just changed the options has to know that the figure is of before."""
    configure()
    with CollectionScheduler(SchedulerConfig(database="geckosched.db")) as scheduler:
        scheduler.register_collector(collector("often", budget=API)(lambda _: None))
        wait_until(lambda: scheduler.get_runs())
    add_runs(Path("geckosched.db"), "often", [time.time_ns() // 1000 - n * HOUR for n in (4, 3, 2, 1)], calls=5)
    lines = invoke("check").stdout.splitlines()
    row = next(index for index, line in enumerate(lines) if line.startswith("often"))
    assert lines[row].split()[-2:] == ["240", "measured"]
    assert lines[row + 1].endswith("it declares 0.8 calls a run, the last day's made 4")


# -- The next run ------------------------------------------------------------------------------------------------------


def until(holds: Callable[[], object]) -> None:
    """Wait for what other threads bring about, as finely as a test of many steps needs it."""
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def settle(scheduler: CollectionScheduler) -> None:
    """Wait until the ticker has done all that is due by now, and no run goes on."""
    for _ in range(2):
        assert scheduler.lead is not None
        ticker, reply = scheduler.lead.ticker, Inbox()
        ticker.inbox.put((reply.put, True))
        until(lambda reply=reply: bool(reply))  # type: ignore[misc]
        until(lambda ticker=ticker: not ticker.is_busy)  # type: ignore[misc]


class Behaving(Collector):
    """Does what `behaviour` says of its job."""

    every = "1h"
    behaviour: Mapping[str, BaseException] = {}

    def collect(self, run: RunContext) -> None:
        """Raise what is wanted."""
        if error := self.behaviour.get(run.job_id):
            raise error


def planned_and_done(
    new_scheduler: NewScheduler,
    behaviour: dict[str, BaseException],
    lasts: float,
    pause: float,
    catchup: str = "latest",
) -> tuple[Forecast, CollectionScheduler, FakeClock]:
    """Run jobs for a while, stop, let a while pass; return the forecast and the scheduler that is about to start."""
    clock = FakeClock()
    made = type("Made", (Behaving,), {"name": "made", "behaviour": behaviour})
    schedulers = []
    for catches_up in ("latest", catchup):
        scheduler = new_scheduler(clock=clock, max_consecutive_errors=2, catchup=catches_up)
        schedulers.append(scheduler)
        for job_id in ("calm", "fails", "skips", "daily", "off"):
            at = "05:00" if job_id == "daily" else None
            scheduler.register_collector(made, "1d" if at else None, job_id=job_id, at=at, enabled=job_id != "off")
    first, second = schedulers
    if lasts >= 0:
        with first:
            until(lambda: {run.job_id for run in first.get_runs() if run.outcome} >= {"calm", "fails", "skips"})
            for _ in range(int(lasts // 300)):
                clock.advance(300)
                settle(first)
    clock.advance(pause)
    return second.get_forecast(), second, clock


@pytest.mark.parametrize("catchup", ["latest", "none"])
@pytest.mark.parametrize(
    ("lasts", "pause"), [(-1, 0), (0, 0), (0, 30), (0, 7200), (7200, 0), (7200, 60), (600, 90_000)]
)
def test_the_next_run_is_the_one_that_a_start_makes(
    new_scheduler: NewScheduler, lasts: float, pause: float, catchup: str
) -> None:
    """First, catch-up, retry, probe or the slot: forecast and leader agree for every job, whatever the store holds."""
    behaviour = {"fails": ValueError("no"), "skips": SkipRun("nothing new", again_after=900)}
    found, scheduler, clock = planned_and_done(new_scheduler, behaviour, lasts, pause, catchup)
    now = clock.now()
    before = {run.id for run in scheduler.get_runs(limit=10_000)}
    with scheduler:
        at_once = {job.job_id for job in found.jobs if job.next_run_at and from_datetime(job.next_run_at) <= now}
        until(lambda: {r.job_id for r in scheduler.get_runs() if r.id not in before and r.outcome} >= at_once)
        ran = {run.job_id: run.reason for run in scheduler.get_runs(limit=10_000) if run.id not in before}
        status = {job.job_id: job for job in scheduler.get_status().jobs}
    assert ran == {job.job_id: job.next_reason for job in found.jobs if job.job_id in at_once}
    later = {job.job_id: job.next_run_at for job in found.jobs if job.job_id not in at_once}
    assert {name: status[name].next_run_at for name in later} == later
    assert later["off"] is None


def test_the_run_of_a_killed_process_is_made_up_for(new_scheduler: NewScheduler, store_path: Path) -> None:
    """The next leader closes it as interrupted and runs the job again, which the forecast knows; while somebody leads
    an open run is one in progress."""
    _, scheduler, _ = planned_and_done(new_scheduler, {}, 7200, 0)
    assert only_job(scheduler, "calm").next_reason is Reason.SCHEDULED
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute(
            "UPDATE geckosched_runs SET outcome = NULL, finished_at = NULL WHERE id = "
            "(SELECT last_run_id FROM geckosched_jobs WHERE job_id = 'calm')"
        )
        connection.execute("UPDATE geckosched_jobs SET last_run_id = last_run_id - 1 WHERE job_id = 'calm'")
    assert only_job(scheduler, "calm").next_reason is Reason.CATCHUP
    lock = LeaderLock(store_path.resolve())
    assert lock.acquire()
    assert only_job(scheduler, "calm").next_reason is Reason.SCHEDULED
    lock.release()
    with scheduler:
        until(lambda: any(run.reason is Reason.CATCHUP and run.outcome for run in scheduler.get_runs("calm")))


def test_a_job_that_was_of_another_collector_starts_anew(new_scheduler: NewScheduler) -> None:
    """What the store knows is not its own: neither the breaker nor the slots."""
    _, scheduler, clock = planned_and_done(new_scheduler, {"fails": ValueError("no")}, 600, 0)
    assert only_job(scheduler, "fails").next_reason is Reason.PROBE
    other = new_scheduler(clock=clock)
    other.register_collector(collector("other", every="1h")(lambda _: None), job_id="fails")
    assert only_job(other, "fails").next_reason is Reason.FIRST


# -- Stores and leaders ------------------------------------------------------------------------------------------------


def check_in_process(**settings: Any) -> Forecast:
    scheduler = CollectionScheduler(SchedulerConfig(**settings))
    scheduler.register_collector(collector("asking", budget=API, calls_per_run=2)(lambda _: None))
    return scheduler.get_forecast()


def test_an_empty_store_is_as_good_as_none(store_path: Path) -> None:
    """Also one that holds another program's tables."""
    store_path.touch()
    assert (check_in_process(database=store_path).errors, len(check_in_process(database=store_path).jobs)) == ((), 1)
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
    found = check_in_process(database=store_path)
    assert (found.errors, found.jobs[0].next_reason, found.database_exists) == ((), Reason.FIRST, True)


def test_a_store_that_a_start_could_not_use_is_an_error(
    asked: CollectionScheduler, store_path: Path, tmp_path: Path
) -> None:
    """Of a newer version, no database, in a folder that is not there: said in one line; the jobs are shown."""
    with closing(sqlite3.connect(store_path)) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('geckosched', 'm999_later', '')"
        )
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 9)
    for name, said in (
        (store_path, "written by a newer geckosched (m999_later), upgrade this one"),
        (tmp_path / "text.db", "file is not a database (another program's file, or a damaged store: name another, or "
                               "put a backup in its place)"),
        (tmp_path / "nope" / "store.db", f"the folder {tmp_path / 'nope'} is not there"),
    ):
        found = check_in_process(database=name)
        assert found.errors == (f"{name}: {said}",)
        assert [job.calls_per_hour for job in found.jobs] == [2]


def test_a_folder_that_this_user_may_not_write_in_is_said_to_be_one(read_only_folder: Path) -> None:
    """Before a start fails in it."""
    found = check_in_process(database=read_only_folder / "store.db")
    said = f"this user may not write in the folder {read_only_folder}, and SQLite needs files beside the store"
    assert found.errors == (f"{read_only_folder / 'store.db'}: {said}",)


def test_while_somebody_leads(site: Path) -> None:
    """It is said who, and that the leader's jobs are those of its own start; nothing is asked of it."""
    with daemon() as process:
        shown, raw = geckosched("check"), geckosched("check", "--json")
        assert process.poll() is None
    assert (shown.code, shown.err) == (0, "")
    leads = f"scheduler      process {process.pid} leads; this is how it will be after its next start\n"
    assert leads in shown.out
    assert json.loads(raw.out)["leader_pid"] == process.pid
    assert "weather needs `cities` (set it in [collectors.weather])" in shown.out
    with closing(sqlite3.connect("geckosched.db")) as connection:
        assert connection.execute("SELECT count(*) FROM geckosched_requests").fetchone() == (0,)


def test_check_imports_and_prints_apart(site: Path) -> None:
    """What a plugin prints goes to stderr, so that the JSON can be piped."""
    with (site / "geckosched_fake.py").open("a", encoding="utf-8") as file:
        file.write("\nprint('hello')\n")
    shown = geckosched("check", "--json")
    assert (shown.code, shown.err) == (0, "hello\n")
    assert {job["job_id"] for job in json.loads(shown.out)["jobs"]} == {"tick", "daily", "broken"}


# -- Off by default ----------------------------------------------------------------------------------------------------

@pytest.mark.usefixtures("market")
def test_a_collector_that_is_off_by_default() -> None:
    """Its table says `enabled = true`, or it is a job that no slot runs; options alone don't turn it on."""
    for text, off in (
        ("", "off by default"),
        ('[collectors.trending]\nevery = "5m"', "off by default"),
        ("[collectors.trending]\nenabled = true", None),
        ("[collectors.trending]\nenabled = false", "disabled in the configuration"),
    ):
        configure(text)
        assert jobs_of(check_json())["trending"]["off"] == off
    configure("[collectors.hot]\nuse = 'trending'\nenabled = true")
    assert [name for name in jobs_of(check_json()) if name in ("hot", "trending")] == ["hot"]


def test_off_by_default_takes_true_or_false_only(new_scheduler: NewScheduler) -> None:
    """A word there would count as true."""
    with pytest.raises(ConfigError, match="collector x: enabled is 'no', allowed is True or False"):
        new_scheduler().register_collector(collector("x", enabled="no")(lambda _: None))  # type: ignore[arg-type]


def test_what_an_embedder_registers_is_on(new_scheduler: NewScheduler) -> None:
    """`enabled = False` is what a plugin's author says to operators; whoever registers a job in Python wants it."""
    scheduler = new_scheduler()
    extra = collector("extra", enabled=False)(lambda _: None)
    scheduler.add_plugin(Plugin(extra), "market")
    assert not scheduler.get_collector_status("extra").enabled
    scheduler.enable_collector("extra")
    assert scheduler.get_collector_status("extra").enabled
    scheduler.register_collector(extra, job_id="mine")
    assert scheduler.get_collector_status("mine").enabled


def test_the_other_commands_say_that_a_job_is_off_by_default(site: Path) -> None:
    """`plugins`, `status JOB` and `run` say how to turn it on; `enable` is refused with nobody leading, since the next
    start would turn it off again, and says so while somebody leads. `trigger` runs it."""
    plugin = site / "geckosched_fake.py"
    plugin.write_text(plugin.read_text().replace('"daily", every="1d"', '"daily", every="1d", enabled=False'))
    how = "enabled = true in [collectors.daily] turns it on"
    listed, refused = geckosched("plugins"), geckosched("enable", "daily")
    assert f"  off by default: {how}\n" in listed.out
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == f"geckosched: daily is off by default, and would be again at the next start: {how}\n"
    assert not Path("geckosched.db").exists()
    assert geckosched("trigger", "daily").code == 0
    assert geckosched("enable", "daily").code == 1
    shown = geckosched("status", "daily")
    assert f" - disabled: off by default: {how} " in " ".join(shown.out.split())
    Path("geckosched.toml").write_text("[collectors.daily]\nenabled = false", encoding="utf-8")
    assert "off by default" not in geckosched("status", "daily").out + geckosched("enable", "daily").err
    Path("geckosched.toml").unlink()
    with daemon():
        on = geckosched("enable", "daily")
        assert CollectionScheduler().get_collector_status("daily").enabled
    assert on.code == 0
    assert on.out.endswith(f"; it is off by default, which holds again from the next start on, unless {how}\n")
    Path("geckosched.toml").write_text("[collectors.daily]\nenabled = true", encoding="utf-8")
    turned_on = geckosched("enable", "daily")
    assert (turned_on.code, "off by default" in turned_on.out) == (0, False)
