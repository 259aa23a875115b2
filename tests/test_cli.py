"""The command line: exit codes, what goes to stdout, and what an operator sees. Signals and exit codes are tested on
real processes, with a plugin that is a module and a `.dist-info` on the path."""

from __future__ import annotations

import itertools
import json
import re
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from geckosched import (
    CollectionScheduler,
    Outcome,
    RateLimited,
    Reason,
    RunContext,
    SchedulerConfig,
    SkipRun,
    collector,
)
from geckosched.core import LeaderLock
from tests.shell import (
    PLUGIN,
    SLOW,
    daemon,
    finish,
    first_line,
    geckosched,
    invoke,
    job_of_store,
    requests_of_store,
    runs_of_store,
    start,
    wait_until,
)

# -- Processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_run_finds_a_plugin_by_its_entry_point_and_runs_its_job_every_second() -> None:
    """`geckosched run` in one shell, `status --json` in another: state, pid, runs and the last error."""
    with daemon() as process:
        wait_until(lambda: len([run for run in runs_of_store("tick") if run.reason == Reason.SCHEDULED]) >= 3)
        wait_until(lambda: runs_of_store("broken"))
        shown = geckosched("status", "--json")
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    status = json.loads(shown.out)
    jobs = {job["job_id"]: job for job in status["jobs"]}
    slots = [run.scheduled_for for run in runs_of_store("tick") if run.reason is Reason.SCHEDULED and run.scheduled_for]
    assert shown.code == 0
    assert (status["scheduler"]["state"], status["scheduler"]["pid"]) == ("running", process.pid)
    assert (jobs["tick"]["health"], jobs["tick"]["plugin"], jobs["tick"]["last_outcome"]) == (
        "healthy",
        "fake",
        "succeeded",
    )
    assert jobs["tick"]["runs"] >= 3
    assert jobs["broken"]["last_error"] == "ValueError: no such city"
    assert [plugin["name"] for plugin in status["plugins"]] == ["fake"]
    assert all((later - sooner) % timedelta(seconds=1) == timedelta(0) for later, sooner in itertools.pairwise(slots))
    assert len(slots) == len(set(slots))
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.count("UTC") == 1
    assert f" 3 jobs, store {Path('geckosched.db').absolute()}, times in UTC\n" in ended.err
    assert "not scheduled: weather needs `cities` (set it in [collectors.weather])\n" in ended.err
    assert re.search(r" tick: succeeded, 1 row, \d+ ms\n", ended.err), ended.err
    assert "broken: failed, 0 rows" in ended.err
    assert "ValueError: no such city" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("site")
def test_trigger_asks_the_leader_and_waits() -> None:
    """Exit 0 when it succeeded, 1 when it failed, 2 with the close match when there is no such job."""
    with daemon() as process:
        good, bad, unknown = (
            geckosched("trigger", "daily", "--json"),
            geckosched("trigger", "broken"),
            geckosched("trigger", "dayly"),
        )
        asked = geckosched("trigger", "daily", "--no-wait")
        wait_until(
            lambda: len([run for run in runs_of_store("daily") if run.reason is Reason.TRIGGERED and run.outcome]) == 2
        )
        standby = geckosched("run", "--for", "1s")
        assert process.poll() is None
    run = json.loads(good.out)
    assert (good.code, run["outcome"], run["reason"], run["rows"]) == (0, "succeeded", "triggered", 1)
    assert bad.code == 1
    assert bad.out.startswith("broken: failed, 0 rows in ")
    assert bad.out.endswith("ValueError: no such city\n")
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err == 'geckosched: no job is called "dayly", did you mean "daily"?\n'
    assert (asked.code, standby.code) == (0, 0)
    assert "standing by: another process leads" in standby.err


@pytest.mark.usefixtures("site")
def test_trigger_takes_the_lead_for_one_run_when_nobody_leads() -> None:
    """The same command without a daemon; what can't be waited for later is refused."""
    refused = geckosched("trigger", "daily", "--no-wait")
    unknown = geckosched("trigger", "dayly")
    unscheduled = geckosched("trigger", "weather")
    assert not Path("geckosched.db").exists()  # what was refused left nothing behind
    good, bad = geckosched("trigger", "daily"), geckosched("trigger", "broken")
    assert refused.code == 1
    assert "--no-wait is refused" in refused.err
    assert (unknown.code, unknown.err) == (2, 'geckosched: no job is called "dayly", did you mean "daily"?\n')
    assert unscheduled.code == 2
    said = "geckosched: weather is not scheduled: it needs `cities` (set it in [collectors.weather])\n"
    assert unscheduled.err == said
    assert (good.code, bad.code) == (0, 1)
    assert good.err == "triggered daily: nobody leads, running it here\n"
    assert good.out.startswith("daily: succeeded, 1 row in ")
    assert bad.err == "triggered broken: nobody leads, running it here\n", "its error is in the result, once"
    assert bad.out.endswith("ValueError: no such city\n")
    assert [run.outcome for run in runs_of_store("daily")] == [Outcome.SUCCEEDED]
    assert not runs_of_store("tick")  # overdue jobs are not started
    assert job_of_store("tick") is not None


@pytest.mark.usefixtures("site")
def test_a_hung_collector_and_a_forgotten_thread_do_not_keep_the_process() -> None:
    """X1 on the command line: SIGTERM ends with 0, SIGINT with 130, the run is `interrupted`."""
    Path("geckosched.toml").write_text(SLOW, encoding="utf-8")
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with daemon() as process:
            wait_until(lambda: any(run.outcome is None for run in runs_of_store("hang")))
            process.send_signal(number)
            ended = finish(process)
        assert ended.code == code
        assert "Traceback" not in ended.err
        assert {run.outcome for run in runs_of_store("hang")} == {Outcome.INTERRUPTED}


@pytest.mark.usefixtures("site")
def test_a_trigger_that_leads_ends_in_order_when_it_is_interrupted() -> None:
    """Its run is closed as `interrupted`, not left behind as an orphan. SIGTERM is 1, for the run that was asked for
    did not finish; SIGINT 130."""
    Path("geckosched.toml").write_text(SLOW, encoding="utf-8")
    for count, (number, code) in enumerate(((signal.SIGTERM, 1), (signal.SIGINT, 130)), start=1):
        process = start("trigger", "nap")
        wait_until(lambda: any(run.outcome is None for run in runs_of_store("nap")))
        process.send_signal(number)
        ended = finish(process)
        said = "geckosched: interrupted; the run was here, and has ended with it (see geckosched runs nap)\n"
        if code == 1:
            said = "geckosched: trigger: ended by SIGTERM before it was done\n"
        assert (ended.code, ended.err) == (code, f"triggered nap: nobody leads, running it here\n{said}")
        assert [run.outcome for run in runs_of_store("nap")] == [Outcome.INTERRUPTED] * count


@pytest.mark.usefixtures("site")
def test_who_interrupts_a_trigger_through_a_leader_ends_the_waiting_only() -> None:
    """The run goes on, and that is said."""
    Path("geckosched.toml").write_text(SLOW, encoding="utf-8")
    with daemon():
        wait_until(lambda: any(run.outcome is None for run in runs_of_store("nap")))
        process = start("trigger", "nap")
        assert first_line(process) == "triggered nap, waiting for its end\n"
        wait_until(lambda: requests_of_store("trigger"))
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        assert [run.outcome for run in runs_of_store("nap")] == [None]
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "geckosched: interrupted; the run goes on in the process that leads\n"


@pytest.mark.usefixtures("site")
def test_sigterm_ends_run_with_0_whatever_it_was_asked_to_run() -> None:
    """`--once` and `--for` are `run`, too: SIGTERM is how a service is stopped."""
    Path("geckosched.toml").write_text(SLOW, encoding="utf-8")
    for words in (["--once"], ["--for", "1h"]):
        process = start("run", "--only", "nap", *words)
        wait_until(lambda: any(run.outcome is None for run in runs_of_store("nap")))
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 0


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("words", [["--once"], []])
def test_a_second_interrupt_waits_for_no_run(words: list[str]) -> None:
    """Whatever `shutdown_timeout` says; the run is closed as `interrupted` all the same."""
    Path("geckosched.toml").write_text(SLOW.replace('"1s"', '"1h"'), encoding="utf-8")
    process = start("run", "--only", "hang", *words)
    assert process.stderr is not None
    wait_until(lambda: any(run.outcome is None for run in runs_of_store("hang")))
    process.send_signal(signal.SIGINT)
    assert any("stopping: waiting for hang" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()
    assert [run.outcome for run in runs_of_store("hang")] == [Outcome.INTERRUPTED]


@pytest.mark.usefixtures("site")
def test_what_a_killed_process_left_is_not_shown_as_running() -> None:
    """With nobody leading an open run is `interrupted (process gone)`, and no countdown promises a next one."""
    Path("geckosched.toml").write_text(SLOW, encoding="utf-8")
    process = start("run", "--only", "nap")
    wait_until(lambda: any(run.outcome is None for run in runs_of_store("nap")))
    led = geckosched("status").out
    process.kill()
    process.communicate()
    run_id = str(runs_of_store("nap")[0].id)
    table, full, history, one, failed, raw = (
        geckosched(*words.split()).out
        for words in ("status", "status nap", "runs", f"runs {run_id}", "runs --failed", "runs --json")
    )
    assert "running" in led.partition("JOB")[2]
    assert "when started" not in led
    assert table.count("when started") == 5
    assert "  interrupted (process gone)\n" in table
    assert "nap  running" not in history
    assert "running" not in table + failed
    shown = [re.split("  +", line, maxsplit=1) for line in (full + one).splitlines()]
    assert ["next run", "when started: nobody leads"] in shown
    assert ["running", "interrupted (process gone)"] in shown
    assert ["outcome", "i interrupted: its process is gone; the next leader closes it"] in shown
    assert history.splitlines()[1].split()[1:4] == ["nap", "i", "interrupted"]
    shown_ago = re.compile(r"\d+\w ago ")  # by a clock that goes on between two commands
    assert shown_ago.sub("", failed).split() == shown_ago.sub("", history).split()
    assert json.loads(raw)[0]["outcome"] is None  # JSON is the store's word


@pytest.mark.usefixtures("site")
def test_once_runs_every_enabled_job_once() -> None:
    """Alone, it exits 1 if one failed, and no first run comes on top; `--only` names those that shall run."""
    every, one, unknown = (
        geckosched("run", "--once"),
        geckosched("run", "--once", "--only", "daily"),
        geckosched("run", "--once", "--only", "dayly"),
    )
    assert (every.code, one.code, unknown.code) == (1, 0, 2)
    assert 'did you mean "daily"?' in unknown.err
    assert {name: len(runs_of_store(name)) for name in ("tick", "daily", "broken")} == {
        "tick": 1,
        "daily": 2,
        "broken": 1,
    }


@pytest.mark.usefixtures("site")
def test_once_beside_a_leader_triggers_through_it() -> None:
    """The leader's jobs are the jobs; its own runs go on."""
    with daemon() as process:
        one, every = geckosched("run", "--once", "--only", "daily"), geckosched("run", "--once")
        assert process.poll() is None
    assert (one.code, every.code) == (0, 1)
    assert "daily: succeeded" in one.err
    assert len([run for run in runs_of_store("daily") if run.reason is Reason.TRIGGERED]) == 2
    assert len({run.instance_id for run in runs_of_store("daily")}) == 1


@pytest.mark.usefixtures("site")
def test_only_limits_the_slots_and_retires_nothing() -> None:
    """The other jobs keep their place; an unknown one is refused; `--for` ends by itself with 0."""
    ended = geckosched("run", "--only", "tick", "--for", "2s")
    unknown = geckosched("run", "--only", "tock")
    assert (ended.code, unknown.code) == (0, 2)
    assert " 1 of 3 jobs (--only), store " in ended.err
    assert 'geckosched: no job is called "tock"' in unknown.err
    assert runs_of_store("tick")
    assert not runs_of_store("daily")
    left_out = job_of_store("daily")
    assert left_out is not None
    assert left_out.next_run_at is None, "a job that is left out has no next run"


def test_a_plugin_has_commands_under_its_name(site: Path) -> None:
    """`geckosched fake hello`; a word that is neither ours nor a plugin's is refused with the close match."""
    (site / "geckosched_fake.py").write_text(PLUGIN + "\nPath('imported').write_text('loaded')", encoding="utf-8")
    helped = geckosched("--help")
    assert (helped.code, geckosched("status").code) == (0, 0)
    assert "A plugin may bring commands of its own: geckosched PLUGIN --help" in " ".join(helped.out.split())
    assert "fake" in helped.out
    assert not Path("imported").exists()  # neither help nor status imports a plugin
    hello, group, slip = geckosched("fake", "hello", "--name", "Oslo"), geckosched("fake", "--help"), geckosched("fak")
    assert (hello.code, hello.out) == (0, "hello Oslo\n")
    assert "Say hello." in group.out
    assert (slip.code, slip.err) == (2, 'geckosched: no command and no plugin is called "fak", did you mean "fake"?\n')
    assert geckosched("statsu").err.endswith('did you mean "status"?\n')
    wrong = geckosched("fake", "hello", "--nmae", "x")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("site")
def test_once_runs_again_what_waits_for_another_job() -> None:
    """A collector that was skipped and asked to be run again soon finds what another one has stored by then."""
    Path("two.py").write_text(TWO, encoding="utf-8")
    Path("geckosched.toml").write_text('[plugins]\nload = ["two.py"]', encoding="utf-8")
    assert geckosched("run", "--once", "--only", "first", "--only", "second").code == 0
    runs = json.loads(geckosched("runs", "second", "--json").out)
    assert [run["outcome"] for run in runs] == ["succeeded", "skipped"]
    assert len(json.loads(geckosched("runs", "first", "--json").out)) == 1


TWO = """
from geckosched import Batch, SkipRun, collector, hookimpl

@collector("first", every="1h")
def first(run):
    while not run.query("SELECT 1 FROM geckosched_runs WHERE job_id = 'second' AND outcome = 'skipped'"):
        run.sleep(0.05)
    return Batch("names", [{"name": "a"}], pk="name")

@collector("second", every="1h")
def second(run):
    if not run.query("SELECT 1 FROM sqlite_master WHERE name = 'names'"):
        raise SkipRun("no name yet", again_after=5)

@hookimpl
def register_collectors(register, settings):
    register(first)
    register(second)
"""


def test_a_broken_plugin_is_said_once_and_stops_nothing(site: Path) -> None:
    """P1 on the command line: a warning, and the rest runs; its commands are an error of one line."""
    Path("bad.py").write_text("raise SystemExit('no licence')", encoding="utf-8")
    Path("geckosched.toml").write_text('[plugins]\nload = ["bad.py"]', encoding="utf-8")
    ended, command = geckosched("run", "--once", "--only", "daily"), geckosched("bad", "x")
    assert ended.code == 0
    assert ended.err.count("plugin bad is broken: SystemExit: no licence") == 1
    assert command.code == 1
    assert command.err.splitlines()[-1].startswith("geckosched: plugin bad is broken: SystemExit: no licence")
    shown = geckosched("status")
    assert (shown.code, shown.err) == (0, "")
    assert "plugin bad is broken: SystemExit: no licence" in shown.out
    (site / "geckosched_fake.py").write_text("import nothing_of_this_name", encoding="utf-8")
    once, alone = geckosched("run", "--once"), geckosched("trigger", "daily")
    assert (once.code, alone.code) == (1, 1)
    assert "daily can't run: its collector isn't there" in once.err
    assert "geckosched: daily can't run: plugin fake is broken: ModuleNotFoundError: " in alone.err


def test_trigger_loads_the_plugins_when_the_leader_has_just_ended(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and asking the leader may end; then the run is made here."""
    assert geckosched("trigger", "daily").code == 0
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(LeaderLock, "is_held", lambda _: True)  # what `trigger` saw
    result = invoke("trigger", "daily", "--json")
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (0, "succeeded")


# -- In process: usage and configuration ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a history: one job for each way to end, in the working directory and under the default name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)

    @collector("good", every="1d")
    def good(_: RunContext) -> None: ...

    @collector("bad", every="1d")
    def bad(_: RunContext) -> None:
        raise ValueError("first line\nsecond \x07bell\u202e " + "long " * 40)

    @collector("limited", every="1d")
    def limited(_: RunContext) -> None:
        raise RateLimited(30)

    @collector("skips", every="1d")
    def skips(_: RunContext) -> None:
        raise SkipRun("nothing to do")

    scheduler = CollectionScheduler(SchedulerConfig())
    for each in (good, bad, limited, skips):
        scheduler.execute_collector_now(scheduler.register_collector(each))
    for _ in range(8):
        scheduler.execute_collector_now("good")
    return tmp_path / "geckosched.db"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--jsno"], "No such option: --jsno"),
        (["trigger"], "Missing argument 'JOB' (see geckosched trigger --help)\n"),
        (["runs", "--limit", "0"], "--limit: found 0, allowed is 1 to 1,000,000\n"),
        (["run", "--for", "banana"], "--for: found 'banana'"),
        (["run", "--once", "--for", "3s"], "--once ends by itself"),
        (["status", "god"], 'no job is called "god", did you mean "good"?'),
        (["runs", "god"], 'no job is called "god", did you mean "good"?'),
        (["runs", "4711"], "no run has the id 4711"),
        (["runs", "9" * 30], "no job is called"),
        (["reset", "good", "--config", "no.toml"], "no.toml: no such file, named by --config"),
    ],
)
@pytest.mark.usefixtures("store")
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], said: str) -> None:
    """Usage, configuration and unknown jobs: 2, on stderr, nothing on stdout."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"geckosched: {said}")


COMMANDS = ("run", "status", "trigger", "runs", "why", "plugins", "check", "enable", "disable", "reset")


def test_without_a_command_the_help_is_shown_and_the_version_on_demand() -> None:
    """Nothing asked for is a usage error; the help goes to stderr then."""
    result, version = invoke(), invoke("--version")
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(f"\n  {command} " in result.stderr for command in COMMANDS)
    assert version.exit_code == 0
    assert version.stdout.startswith("geckosched 0.")


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_help_cuts_no_sentence(words: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a narrow terminal; what `runs --failed` counts is said."""
    monkeypatch.setenv("COLUMNS", columns)
    result = invoke(*words, "--help")
    assert (result.exit_code, "..." in result.stdout.replace("ARGS]...", "")) == (0, False)
    outcomes = "Only runs that are failed, timed_out, partial, rate_limited or interrupted."
    assert (outcomes in " ".join(result.stdout.split())) is (words == ["runs"])


@pytest.mark.parametrize("text", ["[scheduler", "[scheduler]\nmax_worker = 4", "[collectors.good]\nevery = 60"])
@pytest.mark.usefixtures("store")
def test_status_works_with_a_bad_configuration(text: str) -> None:
    """The line is said on stderr with what is shown, the store is shown all the same, and that ends with 2, as it does
    with `runs`; what changes something refuses."""
    Path("geckosched.toml").write_text(text, encoding="utf-8")
    result, history, refused = invoke("status", "--json"), invoke("runs"), invoke("reset", "good")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("geckosched: geckosched.toml: ")
    assert result.stderr.endswith("; showing ./geckosched.db, the default\n")
    assert [job["job_id"] for job in json.loads(result.stdout)["jobs"]] == ["bad", "good", "limited", "skips"]
    assert (history.exit_code, history.stderr, history.stdout.count(" good ")) == (2, result.stderr, 9)
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_status_finds_the_database_that_a_bad_configuration_names(store: Path) -> None:
    """What can still be read of the file is used, and --database wins."""
    store.rename("other.db")
    Path("geckosched.toml").write_text('[scheduler]\ndatabase = "other.db"\nmax_workers = 0', encoding="utf-8")
    result = invoke("status", "--json")
    assert len(json.loads(result.stdout)["jobs"]) == 4
    assert (result.exit_code, "default" in result.stderr) == (2, False)
    assert json.loads(invoke("status", "--json", "--database", "none.db").stdout)["jobs"] == []


@pytest.mark.usefixtures("store")
def test_status_with_a_missing_configuration_says_that_it_shows_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever named the file did not mean that database, so a script must not take it for an answer: 2."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    named = geckosched("status", "--config", "nope.toml")
    monkeypatch.setenv("GECKOSCHED_CONFIG", "gone.toml")
    by_environment, one = geckosched("status"), geckosched("status", "good", "--database", "geckosched.db")
    said = "geckosched: {}: no such file, named by {}; showing ./geckosched.db, the default\n"
    assert (named.code, named.err) == (2, said.format("nope.toml", "--config"))
    assert (by_environment.code, by_environment.err) == (2, said.format("gone.toml", "GECKOSCHED_CONFIG"))
    assert "good" in named.out
    assert (one.code, one.err) == (2, said.format("gone.toml", "GECKOSCHED_CONFIG").partition(";")[0] + "\n")
    assert one.out.startswith("job  ")


def test_status_works_with_no_database_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no error, and none is made."""
    monkeypatch.chdir(tmp_path)
    result = invoke("status")
    assert result.exit_code == 0
    assert "scheduler  stopped: nobody leads" in result.stdout
    assert "geckosched.db (not there yet)" in result.stdout
    assert not any(tmp_path.iterdir())


def test_a_corrupt_store_is_one_line_and_exit_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no database is named."""
    monkeypatch.chdir(tmp_path)
    Path("geckosched.db").write_bytes(b"no database at all " * 100)
    result = invoke("status")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "geckosched.db: file is not a database" in result.stderr


# -- In process: what is shown ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_foreign_text_cannot_write_to_the_terminal() -> None:
    """An error's line breaks and control characters come out as spaces, in tables and in the traceback."""
    for arguments in (["status"], ["runs"], ["status", "bad"], ["runs", "2"]):
        shown = invoke(*arguments).stdout
        assert "first line" in shown
        assert "\x07" not in shown
        assert "\u202e" not in shown


@pytest.mark.usefixtures("store")
def test_status_as_json_has_the_documented_fields_in_their_order() -> None:
    """DESIGN part 7, field by field; one job is the same shape with one job in it."""
    status = json.loads(invoke("status", "--json").stdout)
    one = json.loads(invoke("status", "good", "--json").stdout)
    assert list(status) == ["scheduler", "jobs", "plugins"]
    assert list(status["scheduler"]) == ["state", "pid", "host", "started_at", "heartbeat_at", "database", "version"]
    assert " ".join(status["jobs"][0]) == (
        "job_id collector plugin every enabled disabled_at health breaker consecutive_errors retry_at next_run_at "
        "running_for last_outcome last_started_at last_seconds last_success_at last_rows_at last_error runs errors "
        "success_rate rows lost missed"
    )
    assert [job["job_id"] for job in one["jobs"]] == ["good"]


@pytest.mark.usefixtures("store")
def test_runs_shows_the_history_newest_first() -> None:
    """All, one job's, one run with its traceback, and those that failed however far back they lie."""
    every, good, one = (json.loads(invoke("runs", *words, "--json").stdout) for words in ([], ["good"], ["2"]))
    failed = json.loads(invoke("runs", "--failed", "--limit", "2", "--json").stdout)
    assert [run["id"] for run in every] == list(range(12, 0, -1))
    assert {run["job_id"] for run in good} == {"good"}
    assert [run["id"] for run in json.loads(invoke("runs", "--limit", "3", "--json").stdout)] == [12, 11, 10]
    assert (one[0]["id"], one[0]["error_type"]) == (2, "ValueError")
    assert [run["outcome"] for run in failed] == ["rate_limited", "failed"]  # nine others are newer
    assert isinstance(one, list)
    assert len(one) == 1
    assert "\n    raise ValueError" in invoke("runs", "2").stdout.replace("      raise", "    raise")
    assert invoke("runs", "skips", "--failed").stdout == "no runs\n"


def test_a_partial_run_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `status`, `status JOB` and `runs`, by the first lines of its detail; `--failed` shows it."""
    monkeypatch.chdir(tmp_path)

    @collector("cities", every="1d")
    def cities(run: RunContext) -> Iterator[None]:
        for city in ("Oslo", "Rome", "Bonn", "Lima"):
            with run.target(city):
                if city != "Oslo":
                    raise ValueError(f"no {city}")
        run.lost("Oslo", 3, run.now(), run.now())
        yield

    scheduler = CollectionScheduler(SchedulerConfig())
    scheduler.execute_collector_now(scheduler.register_collector(cities))
    table, full, history, failed = (
        invoke(*words).stdout for words in (["status"], ["status", "cities"], ["runs"], ["runs", "--failed"])
    )
    said = "3 of 4 targets failed; Rome: ValueError: no Rome; Bonn: ValueError: no Bonn; 1 more"
    table, full, history, failed = (" ".join(each.split()) for each in (table, full, history, failed))
    assert f" partial: {said} " in table
    assert " LOST/DAY " in table
    assert re.search(r" ! cities degraded p \w+ ago when started 3 .* 3 lost in the last day; partial", table)
    assert " last run partial, started " in full
    assert f" it said {said} " in full
    assert f" {said}; 3 lost" in history
    assert re.sub(r"\w+ ago", "", failed) == re.sub(r"\w+ ago", "", history)  # by a clock that goes on


@pytest.mark.usefixtures("site")
def test_a_run_without_plugins_says_that_nothing_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgot to install a plugin would wait for ever."""
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "none")
    ended = geckosched("run", "--for", "100ms")
    assert ended.code == 0
    assert "warning: no plugin is loaded, so nothing will run" in ended.err
