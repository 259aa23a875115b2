"""A dry run: the job runs, what it would store is shown, and nothing is stored but the calls of its budget."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from geckosched import Batch, Budget, Outcome, RunContext, SchedulerClosed, SkipRun, UnknownJob, collector, to_text
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.shell import daemon, geckosched, runs_of_store

TALKER = """
from geckosched import collector, hookimpl

@collector("talker", every="1d")
def talker(run):
    run.log.debug("too much")
    run.log.info("%d cities asked", 3)

@hookimpl
def register_collectors(register):
    register(talker)
"""


def dump(path: Path) -> list[str]:
    """Return the whole store as SQL, but for the processes that led and the calls of budgets."""
    with closing(sqlite3.connect(path)) as connection:
        lines = list(connection.iterdump())
    return [line for line in lines if "geckosched_instances" not in line and "geckosched_budgets" not in line]


@collector("counter", every="1h", budget=Budget("service", rate="10/m"))
def counter(run: RunContext) -> Any:
    """Three rows from where the last run ended, one of which is old, and a loss."""
    first = run.state.get("next", 0)
    with run.call():
        rows = [{"n": n, "what": "new"} for n in range(first, first + 3)]
    run.lost("pool", 4, 0, 60)
    run.state["next"] = first + 2
    yield [Batch("numbers", rows, pk="n"), Batch("log", [{"n": first}])]


def test_it_shows_batches_losses_and_state_and_stores_nothing(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Batches as they would be stored, how many rows are new, the cursor, the losses; the store stays as it was."""
    scheduler = new_scheduler(clock=FakeClock())
    scheduler.register_collector(counter)
    scheduler.execute_collector_now("counter")
    before = dump(store_path)
    for _ in range(2):
        found = scheduler.dry_run("counter")
        assert (found.run.outcome, found.run.rows, found.run.lost, found.run.calls) == (Outcome.SUCCEEDED, 3, 4, 1)
        assert found.state == {"next": 4}
        numbers, log = found.batches
        assert (numbers.table, numbers.pk, numbers.on_conflict, numbers.changed) == ("numbers", ("n",), "update", 2)
        assert numbers.rows == tuple({"n": n, "what": "new"} for n in (2, 3, 4))
        assert (log.table, log.pk, log.changed, log.rows) == ("log", (), 1, ({"n": 2},))
        assert found.losses == (
            {"target": "pool", "count": 4, "since": to_text(0), "until": to_text(60_000_000)},
        )
    assert dump(store_path) == before
    assert json.loads(json.dumps(found.as_dict()))["batches"][0]["rows"][0] == {"n": 2, "what": "new"}


def test_its_calls_count_in_the_budget(new_scheduler: NewScheduler, store_path: Path) -> None:
    """The service was really called, so the ledger has it, for whoever calls next."""
    scheduler = new_scheduler(clock=FakeClock())
    scheduler.register_collector(counter)
    scheduler.dry_run("counter")
    with closing(sqlite3.connect(store_path)) as connection:
        [calls] = connection.execute("SELECT calls FROM geckosched_budgets WHERE name='service'").fetchone()
    assert len(json.loads(calls)["places"]) == 1


def test_a_new_table_is_not_made(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Tables and columns that a run would bring are taken back, too."""
    scheduler = new_scheduler()
    scheduler.register_collector(counter)
    scheduler.dry_run("counter")
    with closing(sqlite3.connect(store_path)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert "geckosched_jobs" in names
    assert not names & {"numbers", "log"}


def test_what_the_store_would_refuse_is_refused(new_scheduler: NewScheduler) -> None:
    """A batch that doesn't fit the table that is there fails the dry run as it would fail the run."""
    scheduler = new_scheduler()

    @collector("first")
    def first(run: RunContext) -> Any:
        yield Batch("things", [{"a": 1}], pk="a")

    @collector("second")
    def second(run: RunContext) -> Any:
        yield Batch("things", [{"b": 1}], pk="b")

    scheduler.register_collector(first)
    scheduler.register_collector(second)
    scheduler.execute_collector_now("first")
    found = scheduler.dry_run("second")
    assert (found.run.outcome, found.run.error_type, found.batches) == (Outcome.FAILED, "YieldRefused", ())
    assert "things" in (found.run.error or "")


def test_errors_and_skips_are_shown_and_the_breaker_hears_nothing(new_scheduler: NewScheduler) -> None:
    """However it ends, the job's accounts stay as they were, and what was yielded before is shown."""
    scheduler = new_scheduler(max_consecutive_errors=1)

    @collector("bad")
    def bad(run: RunContext) -> Any:
        run.state["n"] = 1
        yield Batch("rows", [{"n": 1}])
        raise ValueError("no")

    @collector("idle")
    def idle(run: RunContext) -> Any:
        raise SkipRun("nothing new")

    scheduler.register_collector(bad)
    scheduler.register_collector(idle)
    found = scheduler.dry_run("bad")
    assert (found.run.outcome, found.run.error, found.state) == (Outcome.FAILED, "no", {"n": 1})
    assert "raise ValueError" in (found.run.traceback or "")
    assert [batch.table for batch in found.batches] == ["rows"]
    skipped = scheduler.dry_run("idle").run
    assert (skipped.outcome, skipped.detail) == (Outcome.SKIPPED, "nothing new")
    job = scheduler.get_collector_status("bad")
    assert (job.runs, job.errors, job.breaker, job.last_outcome) == (0, 0, "closed", None)


def test_it_needs_the_lead(new_scheduler: NewScheduler) -> None:
    """While another scheduler leads it is refused; in the leader itself it runs, and its slots go on."""
    leader, outside = new_scheduler(clock=FakeClock(), catchup="none"), new_scheduler()
    for scheduler in (leader, outside):
        scheduler.register_collector(counter)
    with leader:
        with pytest.raises(SchedulerClosed, match="another process leads, and a dry run needs the lead"):
            outside.dry_run("counter")
        run = leader.execute_collector_now("counter")
        found = leader.dry_run("counter")
        again = leader.execute_collector_now("counter")
    assert run is not None
    assert again is not None
    assert found.state["next"] == 4
    assert (again.outcome, again.rows) == (Outcome.SUCCEEDED, 3)
    assert [each.id for each in leader.get_runs("counter")][-1] == run.id


def test_an_unknown_job(new_scheduler: NewScheduler) -> None:
    """The close match is named."""
    scheduler = new_scheduler()
    scheduler.register_collector(counter)
    with pytest.raises(UnknownJob, match='did you mean "counter"'):
        scheduler.dry_run("cuonter")


# -- the command


@pytest.mark.usefixtures("site")
def test_the_command_shows_it_and_stores_nothing() -> None:
    """`trigger --dry-run`: outcome, batches, calls and cursor on stdout, exit 0; nothing of it in the store."""
    ended = geckosched("trigger", "tick", "--dry-run")
    assert (ended.code, ended.err) == (0, "dry run of tick: nothing of it is stored but its calls\n")
    assert ended.out.startswith("tick: succeeded, would store 1 row, 0 calls in ")
    assert "\nticks: 1 row, 1 new or changed by n, update\n  n=1\n" in ended.out
    assert ended.out.endswith('\nstate {"n": 1}\n')
    assert runs_of_store("tick") == []
    shown = json.loads(geckosched("trigger", "tick", "--dry-run", "--json").out)
    assert list(shown) == ["run", "batches", "losses", "state"]
    assert shown["batches"][0] == {
        "table": "ticks", "pk": ["n"], "on_conflict": "update", "rows": [{"n": 1}], "changed": 1
    }  # fmt: skip


@pytest.mark.usefixtures("site")
def test_the_command_says_what_the_collector_logs() -> None:
    """Whoever writes a collector tries it so: `run.log` is heard from info on, on stderr."""
    Path("geckosched.toml").write_text('[plugins]\nload = ["talker.py"]\n', encoding="utf-8")
    Path("talker.py").write_text(TALKER, encoding="utf-8")
    ended = geckosched("trigger", "talker", "--dry-run")
    assert (ended.code, ended.out.partition(",")[0]) == (0, "talker: succeeded")
    assert "3 cities asked\n" in ended.err
    assert "too much" not in ended.err


@pytest.mark.usefixtures("site")
def test_the_command_fails_as_the_run_does() -> None:
    """Exit 1 for a failed run, with its traceback; 2 for an unknown job and for --no-wait."""
    failed = geckosched("trigger", "broken", "--dry-run")
    assert failed.code == 1
    assert failed.out.startswith("broken: failed, would store 0 rows, 0 calls in ")
    assert 'raise ValueError("no such' in failed.out
    unknown = geckosched("trigger", "tock", "--dry-run")
    assert (unknown.code, unknown.out) == (2, "")
    assert 'did you mean "tick"' in unknown.err
    both = geckosched("trigger", "tick", "--dry-run", "--no-wait")
    assert (both.code, both.out) == (2, "")
    assert "it doesn't go with --no-wait" in both.err


@pytest.mark.usefixtures("site")
def test_the_command_needs_that_nobody_leads() -> None:
    """Beside a leader it is refused, exit 1, and says whose jobs they are."""
    with daemon() as leader:
        refused = geckosched("trigger", "tick", "--dry-run")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"geckosched: process {leader.pid} runs the jobs of ")
