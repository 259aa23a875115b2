"""What an operator asks of the command line beside running jobs: the plugins, the switches, the health check. Leaders
are real processes; a plugin is a module and a `.dist-info` on the path, or a file that the configuration names."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from geckosched import (
    BreakerState,
    CollectionScheduler,
    Health,
    JobStatus,
    Reason,
    RunContext,
    cli,
    collector,
    core,
    screens,
)
from geckosched.core import PluginStatus, SchedulerState
from geckosched.views import SchedulerInfo, Status
from tests.shell import (
    PLUGIN,
    SLOW,
    daemon,
    finish,
    first_line,
    geckosched,
    invoke,
    job_of_store,
    runs_of_store,
    start,
    wait_until,
)

NOISY = """
import os, subprocess, sys, threading

def shout():
    while True:
        print("a plugin's thread")

print("at import")
os.write(1, b"by number\\n")
subprocess.run([sys.executable, "-c", "print('a child')"])
threading.Thread(target=shout, daemon=True).start()

from geckosched import collector, hookimpl

@collector("noisy", every="1d")
def noisy(run):
    print("in a run")
    sys.stdout = None

@hookimpl
def register_collectors(register, settings):
    print("in a hook")
    register(noisy)
"""

HANGS = """
import threading
from geckosched import hookimpl

@hookimpl
def register_collectors(register, settings):
    threading.Event().wait()
"""


def configure(text: str) -> None:
    Path("geckosched.toml").write_text(text, encoding="utf-8")


@contextmanager
def stopped(number: int) -> Iterator[None]:
    """A process that was stopped, as a debugger or a frozen container does it."""
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


# -- plugins -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_plugins_shows_what_is_installed_and_what_its_collectors_need() -> None:
    """With no leader and no database, and without making one; in 80 columns."""
    shown = geckosched("plugins")
    lines = shown.out.splitlines()
    assert lines[:6] == [
        "NAME  VERSION                COLLECTORS",
        "fake  1.2 (geckosched-fake)  broken",
        "                             daily",
        "                             tick",
        "                             weather",
        "  not scheduled: weather needs `cities` (set it in [collectors.weather])",
    ]
    assert all(line.startswith("not in GECKOSCHED_LOAD_PLUGINS: ") for line in lines[6:])  # whatever is installed here
    assert (shown.code, shown.err) == (0, "")
    assert not Path("geckosched.db").exists()


@pytest.mark.usefixtures("site")
def test_plugins_beside_a_leader_shows_what_loading_shows_here() -> None:
    """What was broken since the leader started is seen before its next start."""
    with daemon():
        Path("bad.py").write_text("raise SystemExit('no licence')", encoding="utf-8")
        configure('[plugins]\nload = ["bad.py"]')
        shown, raw = geckosched("plugins"), geckosched("plugins", "--json")
        led = json.loads(geckosched("status", "--json").out)["plugins"]
    found = json.loads(raw.out)
    assert (shown.code, raw.code, shown.err) == (0, 0, "")  # said once: in the table
    assert "  broken: SystemExit: no licence (bad.py:1)\nfake  1.2" in shown.out
    assert [list(plugin) for plugin in found] == [["name", "distribution", "version", "ok", "error", "collectors"]] * 2
    assert [(plugin["name"], plugin["ok"], plugin["error"]) for plugin in found] == [
        ("bad", False, "SystemExit: no licence (bad.py:1)"),
        ("fake", True, None),
    ]
    assert found[1] == led[0]
    assert len(led) == 1


@pytest.mark.usefixtures("site")
def test_nothing_that_a_plugin_prints_gets_into_our_data() -> None:
    """By print, by file number, by a child or by a thread that never ends: it goes to stderr, also from a run."""
    Path("noisy.py").write_text(NOISY, encoding="utf-8")
    configure('[plugins]\nload = ["noisy.py"]')
    switched, listed = geckosched("disable", "broken"), geckosched("plugins", "--json")
    ran = geckosched("trigger", "noisy", "--json")
    assert switched.out == "disabled broken: no slot of it runs until geckosched enable broken\n"
    assert [plugin["name"] for plugin in json.loads(listed.out)] == ["noisy", "fake"]
    assert json.loads(ran.out)["outcome"] == "succeeded"
    for said in ("at import", "by number", "a child", "in a hook", "a plugin's thread"):
        assert all(said in each.err for each in (switched, listed, ran))
    assert "in a run" in ran.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.usefixtures("site")
def test_streams_may_be_closed(closed: str) -> None:
    """As some services start their children: the command does what it does, with 0 and no traceback."""
    command = f"exec {shlex.quote(sys.executable)} -m geckosched plugins {closed}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("fake" in ended.stdout) is (closed == "2>&-")


@pytest.mark.usefixtures("site")
def test_a_plugins_own_command_still_prints_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while plugins are loaded is their output kept apart."""
    Path("noisy.py").write_text("print('at import')\n" + PLUGIN.replace('"', "'"), encoding="utf-8")
    configure('[plugins]\nload = ["noisy.py"]\ndisable = ["fake"]')
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # a buffer must not be written where it doesn't belong
    hello = geckosched("noisy", "hello")
    assert (hello.code, hello.out) == (0, "hello you\n")
    assert "at import" in hello.err


@pytest.mark.usefixtures("site")
def test_a_plugin_that_hangs_while_it_is_loaded_is_named() -> None:
    """Before it is taken for broken; Ctrl-C ends the wait with 130 and nothing on stdout."""
    Path("hangs.py").write_text(HANGS, encoding="utf-8")
    configure('[plugins]\nload = ["hangs.py"]')
    process = start("plugins", "--json")
    said = first_line(process)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert said.endswith(" warning: plugin hangs: register_collectors takes long (hangs.py:7)\n")
    assert (ended.code, ended.out, ended.err) == (130, "", "")


@pytest.mark.usefixtures("site")
def test_plugins_with_a_file_that_cannot_be_read_imports_none() -> None:
    """It may be the file that disables one; what is installed is named all the same, and the exit code is 2."""
    configure('[plugins]\ndisable = ["fake"]\nlaod = []')
    shown, raw = geckosched("plugins"), geckosched("plugins", "--json")
    assert (shown.code, raw.code) == (2, 2)
    said = 'geckosched: geckosched.toml: [plugins] laod: unknown key, did you mean "load"?\n'
    assert (shown.err, raw.err) == (said, said)
    fake = next(each for each in json.loads(raw.out) if each["name"] == "fake")
    assert fake == {
        "name": "fake", "distribution": "geckosched-fake", "version": "1.2", "ok": False,
        "error": "not loaded: the configuration can't be used", "collectors": [],
    }  # fmt: skip
    assert re.search(r"\nfake +1\.2 \(geckosched-fake\) +-\n  not loaded: the configuration", shown.out)
    assert not Path("imported").exists()


@pytest.mark.usefixtures("site")
def test_plugins_with_a_table_that_its_collector_refuses_shows_them() -> None:
    """What only the plugins can judge is said when they are loaded: 2, and the list."""
    configure('[collectors.weather]\ncities = "Oslo"')
    shown = geckosched("plugins", "--json")
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert shown.err.startswith("geckosched: geckosched.toml: [collectors.weather] cities: found ")
    assert json.loads(shown.out)[0]["collectors"] == ["broken", "daily", "tick", "weather"]


@pytest.mark.usefixtures("site")
def test_plugins_that_were_left_out_on_purpose_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the configuration or the environment; none of them is imported, and what a leader loaded is not taken for
    what is here."""
    assert geckosched("trigger", "daily").code == 0
    Path("imported").unlink()
    configure('[plugins]\ndisable = ["fake"]')
    disabled = geckosched("plugins")
    configure("")
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "another")
    left_out, raw = geckosched("plugins"), geckosched("plugins", "--json")
    none = "no plugins: install one beside geckosched, or name a file in [plugins] load\n"
    assert (disabled.code, left_out.code, raw.code) == (0, 0, 0)
    assert disabled.out.startswith(none + "disabled by [plugins] disable: fake\n")
    assert left_out.out.startswith(none + "not in GECKOSCHED_LOAD_PLUGINS: fake")
    assert json.loads(raw.out) == []
    assert not Path("imported").exists()


@pytest.mark.usefixtures("site")
def test_plugins_needs_no_store_that_can_be_read() -> None:
    """Only the errors of hooks come from there: that they are missing is said, with 1."""
    Path("geckosched.db").write_bytes(b"no database at all " * 100)
    shown = geckosched("plugins", "--json")
    assert (shown.code, shown.err.count("\n")) == (1, 1)
    assert "geckosched.db: file is not a database" in shown.err
    assert [plugin["name"] for plugin in json.loads(shown.out)] == ["fake"]


def test_the_table_of_plugins_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each collector; below the last what is wrong with the plugin, whole, and its hooks' last error."""
    long = tuple(f"geckoterminal-{name}" for name in ("ohlcv", "top-pools", "trades", "watchlist"))
    market = PluginStatus(
        "geckoterminal", "geckosched-geckoterminal", "0.1.0", True, "run_finished: OSError: x, 15:45Z", long
    )
    bad = PluginStatus("bad", None, None, False, "ValueError: two\nlines" + " x" * 60, ())
    needs = {long[0]: "needs `timeframes`", long[3]: "needs `pools`, `network`"}
    screens.print_plugins([market, bad], needs)
    assert capsys.readouterr().out.splitlines() == [
        "NAME           VERSION                           COLLECTORS",
        "geckoterminal  0.1.0 (geckosched-geckoterminal)  geckoterminal-ohlcv",
        "  not scheduled: geckoterminal-ohlcv needs `timeframes` (set it in",
        "  [collectors.geckoterminal-ohlcv])",
        "                                                 geckoterminal-top-pools",
        "                                                 geckoterminal-trades",
        "                                                 geckoterminal-watchlist",
        "  not scheduled: geckoterminal-watchlist needs `pools`, `network` (set them in",
        "  [collectors.geckoterminal-watchlist]); a hook failed: run_finished: OSError:",
        "  x, 15:45Z",
        "bad            -                                 -",
        "  broken: ValueError: two lines" + " x" * 24,
        "  " + " ".join("x" * 36),
    ]


# -- enable, disable, reset --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_the_switches_through_a_leader() -> None:
    """`disable` lasts until `enable`, `reset` closes a breaker; each says in one line what holds now."""
    configure("[collectors.broken]\nmax_consecutive_errors = 1")
    with daemon() as process:
        wait_until(lambda: (job := job_of_store("broken")) and job.breaker is BreakerState.OPEN)
        off, off_again = geckosched("disable", "tick"), geckosched("disable", "tick")
        ran = len(runs_of_store("tick"))
        mended, needless = geckosched("reset", "broken"), geckosched("reset", "daily")
        unknown = [geckosched(word, "tikc") for word in ("enable", "disable", "reset")]
        assert len(runs_of_store("tick")) == ran  # three processes took more than its interval
        on, on_again = geckosched("enable", "tick"), geckosched("enable", "tick")
        wait_until(lambda: len(runs_of_store("tick")) > ran)
        assert process.poll() is None
    next_run = r"next run ((in \w+|now) \((\d\d:\d\d|\d\d-\d\d) UTC\)|as soon as it can)|it runs at this moment"
    assert off.out == "disabled tick: no slot of it runs until geckosched enable tick\n"
    assert off_again.out == "tick was disabled already: no slot of it runs until geckosched enable tick\n"
    assert re.fullmatch(rf"reset broken: breaker closed; ({next_run})\n", mended.out)
    assert re.fullmatch(rf"daily needed no reset: breaker closed; ({next_run})\n", needless.out)
    assert re.fullmatch(rf"enabled tick: ({next_run})\n", on.out)
    assert re.fullmatch(rf"tick was enabled already: ({next_run})\n", on_again.out)
    assert {(each.code, each.err) for each in (off, off_again, mended, needless, on, on_again)} == {(0, "")}
    assert {(each.code, each.out, each.err) for each in unknown} == {
        (2, "", 'geckosched: no job is called "tikc", did you mean "tick"?\n')
    }


@pytest.mark.usefixtures("site")
def test_the_switches_with_nobody_leading() -> None:
    """The first loads the plugins to know the job, the others need none; no overdue job is run; what was refused leaves
    nothing behind."""
    unknown, unscheduled = geckosched("disable", "dayly"), geckosched("disable", "weather")
    assert not Path("geckosched.db").exists()
    first, imported = geckosched("disable", "daily"), Path("imported")
    imported.unlink()
    again, other = geckosched("disable", "daily"), geckosched("disable", "broken")
    on, mended = geckosched("enable", "daily"), geckosched("reset", "daily")
    assert (unknown.code, unknown.err) == (2, 'geckosched: no job is called "dayly", did you mean "daily"?\n')
    assert (
        unscheduled.err == "geckosched: weather is not scheduled: it needs `cities` (set it in [collectors.weather])\n"
    )
    assert unscheduled.code == 2
    assert first.out == "disabled daily: no slot of it runs until geckosched enable daily\n"
    assert again.out == "daily was disabled already: no slot of it runs until geckosched enable daily\n"
    assert other.out == "disabled broken: no slot of it runs until geckosched enable broken\n"
    assert on.out == "enabled daily: it runs when a scheduler is started\n"
    assert mended.out == "daily needed no reset: breaker closed; it runs when a scheduler is started\n"
    assert {each.code for each in (first, again, other, on, mended)} == {0}
    assert not imported.exists()
    assert CollectionScheduler().get_runs() == []
    jobs = {job.job_id: job.disabled_at is not None for job in CollectionScheduler().get_status().jobs}
    assert jobs == {"broken": True, "daily": False, "tick": False}


@pytest.mark.usefixtures("site")
def test_reset_with_nobody_leading_closes_a_breaker() -> None:
    """What a stopped scheduler left open."""
    configure("[collectors.broken]\nmax_consecutive_errors = 1")
    assert geckosched("trigger", "broken").code == 1
    opened, mended, after = job_of_store("broken"), geckosched("reset", "broken"), job_of_store("broken")
    assert opened is not None
    assert after is not None
    assert (opened.breaker, after.breaker) == (BreakerState.OPEN, BreakerState.CLOSED)
    assert (after.consecutive_errors, after.retry_at) == (0, None)
    assert (mended.code, mended.out) == (0, "reset broken: breaker closed; it runs when a scheduler is started\n")


@pytest.mark.usefixtures("site")
def test_a_job_that_the_configuration_disables_is_enabled_until_the_next_start() -> None:
    """A leader enables it at once; that the file will have its way again is said."""
    configure("[collectors.daily]\nenabled = false")
    with daemon():
        off = geckosched("disable", "daily").out
        assert off == "disabled daily: no slot of it runs until geckosched enable daily\n"
        on = geckosched("enable", "daily")
        wait_until(lambda: any(run.reason is Reason.FIRST and run.outcome for run in runs_of_store("daily")))
    assert on.code == 0
    assert on.out.startswith("enabled daily: ")
    assert on.out.endswith("; geckosched.toml says enabled = false, which holds again from the next start on\n")


@pytest.mark.usefixtures("site")
def test_a_run_in_progress_goes_on_after_a_disable() -> None:
    """And the line says so."""
    configure(SLOW)
    with daemon():
        wait_until(lambda: any(run.outcome is None for run in runs_of_store("nap")))
        off, mended, on = geckosched("disable", "nap"), geckosched("reset", "nap"), geckosched("enable", "nap")
        assert [run.outcome for run in runs_of_store("nap")] == [None]
    waits = "no slot of it runs until geckosched enable nap; the run in progress goes on\n"
    assert off.out == f"disabled nap: {waits}"
    assert mended.out == f"nap needed no reset: breaker closed; {waits}"
    assert on.out == "enabled nap: it runs at this moment\n"


def test_the_switches_work_while_a_plugin_is_broken(site: Path) -> None:
    """Its jobs can still be switched; that they can't run is said."""
    assert geckosched("trigger", "daily").code == 0
    (site / "geckosched_fake.py").write_text("raise SystemExit('no licence')", encoding="utf-8")
    with led_without("daily"):
        off, on = geckosched("disable", "daily"), geckosched("enable", "daily")
    assert (off.code, off.out) == (0, "disabled daily: no slot of it runs until geckosched enable daily\n")
    assert (on.code, on.out.startswith("enabled daily: next run ")) == (0, True)
    assert on.out.endswith("; plugin fake is broken\n")


@contextmanager
def led_without(job: str) -> Iterator[None]:
    """`geckosched run` in a process of its own, in which this job can't run."""
    process = start("run")
    try:
        wait_until(lambda: (found := job_of_store(job)) and found.health is Health.UNHEALTHY)
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("word", ["enable", "disable", "reset"])
@pytest.mark.usefixtures("site")
def test_the_switches_refuse_a_broken_configuration(word: str) -> None:
    """One line and 2, nothing done; without a JOB the usage."""
    configure("[scheduler\n")
    refused, slip = geckosched(word, "daily"), geckosched(word)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith("geckosched: geckosched.toml: line 1: not valid TOML")
    assert (slip.code, slip.err) == (2, f"geckosched: Missing argument 'JOB' (see geckosched {word} --help)\n")
    assert not Path("geckosched.db").exists()


@pytest.mark.usefixtures("site")
def test_a_leader_that_does_not_answer_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is taken back, so that it isn't carried out later, when nobody expects it."""
    with daemon() as process:
        with stopped(process.pid), monkeypatch.context() as patch:
            patch.setattr(core, "REQUEST_LIFETIME", core.SECOND)
            expired = invoke("disable", "tick")
        wait_until(lambda: geckosched("reset", "tick").code == 0)
        job = job_of_store("tick")
    assert (expired.exit_code, expired.stdout) == (1, "")
    assert expired.stderr.count("\n") == 1
    assert expired.stderr.startswith("geckosched: disable tick: expired")
    assert job is not None
    assert job.disabled_at is None


def test_what_the_store_does_not_say_yet_is_not_claimed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core answers "waits for the store" by returning: then it is 1, whatever was asked for."""
    configure("[collectors.broken]\nmax_consecutive_errors = 1")
    assert geckosched("trigger", "broken").code == 1
    assert geckosched("disable", "daily").code == 0
    for name in ("enable_collector", "disable_collector", "reset_breaker"):
        monkeypatch.setattr(CollectionScheduler, name, lambda *_: None)
    off, on, mended = invoke("disable", "tick"), invoke("enable", "daily"), invoke("reset", "broken")
    assert [(each.exit_code, each.stdout) for each in (off, on, mended)] == [(1, "")] * 3
    assert (
        off.stderr == "geckosched: disable tick: asked for, but the store does not say so yet; see geckosched status\n"
    )
    assert on.stderr.startswith("geckosched: enable daily: asked for")
    assert mended.stderr == "geckosched: reset broken: its breaker is open; see geckosched status broken\n"


# -- status --check ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_check_is_about_leader_and_health() -> None:
    """0 with the usual output; 1 with the reason on stderr if a job is unhealthy (or the one that was named), or nobody
    leads; 2 for an unknown job or a wrong configuration."""
    nothing = geckosched("status", "--check")
    configure("[collectors.broken]\nmax_consecutive_errors = 1")
    with daemon():
        wait_until(lambda: (job := job_of_store("broken")) and job.breaker is BreakerState.OPEN)
        every, raw, plain = (geckosched("status", *words) for words in (["--check"], ["--check", "--json"], []))
        good, bad = geckosched("status", "tick", "--check"), geckosched("status", "broken", "--check", "--json")
        unknown = geckosched("status", "tikc", "--check")
        assert geckosched("reset", "broken").code == 0
        well = geckosched("status", "--check")
        configure("[collectors.broken\n")
        wrong = geckosched("status", "--check", "--json")
    both = geckosched("status", "--check", "--json")
    configure("")
    gone = geckosched("status", "tick", "--check", "--json")
    assert (nothing.code, nothing.err) == (1, "geckosched: nobody leads\n")
    sick = r"geckosched: unhealthy: broken \(breaker open until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)\n"
    for each in (every, raw, bad):
        assert each.code == 1
        assert re.fullmatch(sick, each.err)
    keys = ["scheduler", "jobs", "plugins"]
    assert [list(json.loads(each.out)) for each in (raw, wrong)] == [keys] * 2
    assert [list(json.loads(each.out)) for each in (bad, gone)] == [[*keys, "statistics"]] * 2  # of one job
    assert [line.split()[:1] for line in every.out.splitlines()] == [
        line.split()[:1] for line in plain.out.splitlines()
    ]
    assert (good.code, good.err, well.code, well.err) == (0, "", 0, "")
    assert good.out.startswith("job  ")
    assert (unknown.code, unknown.out) == (2, "")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert (both.code, both.err.splitlines()[1:]) == (2, ["geckosched: nobody leads"])
    assert (gone.code, gone.err) == (1, "geckosched: nobody leads\n")


@pytest.mark.usefixtures("site")
def test_a_leader_that_was_stopped_is_shown_by_its_heartbeat() -> None:
    """By `status` and `status JOB` as well as `--check`, from 10 s on, and no longer when it goes on; who asks it for
    something is told that it may take a while."""
    with daemon() as process:
        fresh = geckosched("status")
        with stopped(process.pid):
            late = wait_until(lambda: (each := geckosched("status", "--check")).code and each)
            shown, one = geckosched("status"), geckosched("status", "tick")
            raw, asking = geckosched("status", "daily", "--check", "--json"), start("disable", "daily")
            told = first_line(asking)
        asked = finish(asking)
        wait_until(lambda: geckosched("status", "--check").code == 0)
    why = "the leader hangs, is stopped or can't write the store"
    assert "stale" not in fresh.out
    assert re.fullmatch(rf"geckosched: heartbeat is 1\d s old: {why}\n", late.err)
    stale = rf"\n! heartbeat is \d\d s old: {why}\n"
    assert re.search(stale, late.out)
    assert (shown.code, shown.err) == (0, "")
    assert re.search(stale, shown.out)
    assert all(len(line) <= 80 for line in shown.out.splitlines() if not line.startswith("database"))
    assert re.search(stale, one.out)
    assert raw.code == 1
    assert json.loads(raw.out)["scheduler"]["state"] == "running"
    assert re.fullmatch(rf"heartbeat is \d\d s old: {why}; waiting up to a minute for its answer\n", told)
    assert (asked.code, asked.out) == (0, "disabled daily: no slot of it runs until geckosched enable daily\n")


# -- In process: what is said ------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 23, 15, 45, 30, tzinfo=UTC)
JOB = JobStatus("daily", "daily", "fake", "1d", True, None, Health.UNHEALTHY, runs=3, reason="1 run hangs")


def status_of(*jobs: JobStatus, state: SchedulerState = SchedulerState.RUNNING, **changes: Any) -> Status:
    info = SchedulerInfo(state, 42, "host", NOW, NOW, "app.db", "0.1")
    return Status(
        dataclasses.replace(info, **changes), jobs, (PluginStatus("bad", None, None, False, "SystemExit", ()),)
    )


def test_the_check_names_a_few_of_many_jobs() -> None:
    """One line, however many are unhealthy; every reason is there."""
    jobs = [dataclasses.replace(JOB, job_id=f"job{number:02}") for number in range(12)]
    *_, said = cli._objections(status_of(*jobs, dataclasses.replace(JOB, health=Health.DEGRADED)), NOW)
    assert said.startswith("unhealthy: job00 (1 run hangs), job01 (")
    assert said.endswith("hangs) and 2 more")
    assert "job09 (" in said
    assert "job10" not in said
    broken = dataclasses.replace(JOB, plugin="bad", reason="plugin bad is broken; breaker open")
    assert cli._objections(status_of(broken, state=SchedulerState.STOPPED), NOW + timedelta(hours=1)) == [
        "nobody leads",
        "unhealthy: daily (plugin bad is broken; breaker open)",
    ]


@pytest.mark.parametrize(("age", "stale"), [(-3600, False), (0, False), (10, False), (10.1, True)])
def test_a_heartbeat_is_stale_after_ten_seconds(age: float, stale: bool) -> None:
    """Not before, not after the clock was set back, and not if nobody leads. A leader that has written none at all is
    no better than a silent one."""
    now, found = NOW + timedelta(seconds=age), status_of()
    assert (cli._objections(found, now) != []) is stale
    assert cli._objections(status_of(heartbeat_at=None), now)[0] == screens.UNWRITTEN
    assert cli._objections(status_of(state=SchedulerState.STOPPED), now) == ["nobody leads"]


def test_a_job_is_not_unhealthy_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """The table gives the reason, above all where no run failed: R4's runs that hang, silence, a broken plugin."""
    hangs = dataclasses.replace(JOB, reason="2 runs hang past the time limit: its slots wait")
    screens.print_status(status_of(hangs), NOW)
    *_, above, _, _, row, note = capsys.readouterr().out.splitlines()
    assert row.startswith("x daily  unhealthy")
    assert note == "    2 runs hang past the time limit: its slots wait"
    assert above == "! plugin bad is broken: SystemExit"


@pytest.mark.usefixtures("site")
def test_enable_without_a_leader_does_not_promise_what_the_configuration_forbids() -> None:
    """`enabled = false` in the file holds from the next start on, so with nobody leading `enable` is refused."""
    configure("[collectors.daily]\nenabled = false")
    refused = geckosched("enable", "daily")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.endswith("geckosched.toml says that daily is enabled = false, so change it there\n")


@pytest.mark.usefixtures("site")
def test_a_switch_makes_no_store_that_was_named_and_is_not_there() -> None:
    """Who names a database means one that exists; a slip in its name is not one more store."""
    for word in ("enable", "disable", "reset"):
        refused = geckosched(word, "daily", "--database", "nope.db")
        said = "geckosched: nope.db: no such file, named by --database\n"
        assert (refused.code, refused.out, refused.err) == (2, "", said)
    assert [path.name for path in Path().iterdir() if path.name.startswith("nope.db")] == []


@pytest.mark.usefixtures("site")
def test_a_reader_that_has_had_enough_is_no_failure() -> None:
    """`geckosched status | head -1` under pipefail; what the command found still decides about its exit code."""
    assert geckosched("trigger", "daily").code == 0
    for words, code in ((["status"], 0), (["runs", "--json"], 0), (["plugins"], 0), (["status", "--check"], 1)):
        process = start(*words)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with process.stderr:
            said = process.stderr.read()
        assert (process.wait(60), said) == (code, "geckosched: nobody leads\n" if code else "")


@pytest.mark.usefixtures("site")
def test_once_runs_no_disabled_job() -> None:
    """`run --once --only JOB` of a disabled job says so, runs nothing and exits 1."""
    geckosched("disable", "daily")
    ended = geckosched("run", "--once", "--only", "daily")
    assert ended.code == 1
    assert "daily is disabled: geckosched enable daily, or trigger it" in ended.err
    assert runs_of_store("daily") == []


@pytest.mark.usefixtures("site")
def test_a_terminal_that_knows_ascii_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it can't show is escaped, not a traceback."""
    scheduler = CollectionScheduler()

    @collector("umlaut")
    def umlaut(run: RunContext) -> None:
        raise ValueError("f\u00fcr")

    scheduler.register_collector(umlaut)
    scheduler.execute_collector_now("umlaut")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    shown = geckosched("runs")
    assert (shown.code, shown.err) == (0, "")
    assert "ValueError: f\\xfcr" in shown.out


@pytest.mark.usefixtures("site")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    """An OSError of the output is said, without a traceback."""
    command = [sys.executable, "-m", "geckosched", "status", "--json"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == "geckosched: stdout: No space left on device\n"
