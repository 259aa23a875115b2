"""`status --check`, the health check of a container or a monitor: what it objects to, in one line on stderr.

test_cli_operator.py has it beside a real leader that is stopped, test_container.py in a container's environment. Here
the leader is a scheduler of this process; its clock, which is the heartbeat's, says how old the heartbeat is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from geckosched import Batch, CollectionScheduler, RunContext, collector
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler, locked
from tests.shell import invoke
from tests.test_hooks import job
from tests.test_scheduler import until

FRESH = timedelta(hours=-1)  # whatever time the test takes
HANGS = r"heartbeat is \d+ s old: the leader hangs, is stopped or can't write the store"

pytestmark = pytest.mark.usefixtures("site")


def check(store: Path, *words: str) -> tuple[int, str]:
    """Return the exit code and what the command says on stderr, where the leader of this process may log, too."""
    result = invoke("status", *words, "--check", "--database", str(store))
    assert result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("geckosched: ")]
    return result.exit_code, "\n".join(said).removeprefix("geckosched: ")


@collector("good", every="1d")
def good(run: RunContext) -> Batch:
    return Batch("rows", [{"n": 1}])


def leader(new_scheduler: NewScheduler, store: Path, age: timedelta) -> CollectionScheduler:
    """Return a started scheduler whose first heartbeat is in the store and that old."""
    scheduler = new_scheduler(clock=FakeClock(datetime.now(UTC) - age))
    scheduler.register_collector(good)
    scheduler.start()
    until(lambda: scheduler.get_status().scheduler.heartbeat_at, "a heartbeat")
    return scheduler


def test_all_is_well(new_scheduler: NewScheduler, store_path: Path) -> None:
    """No objection to jobs that are healthy, pending, degraded or disabled, right from the start. The check only reads:
    another program's lock doesn't hold it up, nor is it an objection while the leader's heartbeat is fresh."""

    def fail(run: RunContext) -> None:
        raise ValueError("no")

    scheduler = leader(new_scheduler, store_path, FRESH)
    for each in (job("bad", fail), job("off", fail)):
        scheduler.register_collector(each, at="00:00", every="1d")
    scheduler.register_collector(job("new", fail), at="00:00", every="1d")
    scheduler.disable_collector("off")
    assert scheduler.execute_collector_now("bad")
    until(lambda: scheduler.get_collector_status("good").runs, "the first run")
    found = {each.job_id: str(each.health) for each in scheduler.get_status().jobs}
    assert found == {"good": "healthy", "bad": "degraded", "off": "disabled", "new": "pending"}
    assert check(store_path) == (0, "")
    with locked(store_path):
        assert check(store_path) == (0, "")


def test_a_store_that_cannot_be_written_is_why_a_heartbeat_is_old(
    new_scheduler: NewScheduler, store_path: Path
) -> None:
    """The line says what holds the store, if something does; else only that the heartbeat is old."""
    scheduler = leader(new_scheduler, store_path, timedelta(minutes=5))
    until(lambda: scheduler.get_collector_status("good").runs, "the first run")
    code, said = check(store_path)
    assert (code, bool(re.fullmatch(HANGS, said))) == (1, True), said
    with locked(store_path):
        code, said = check(store_path, "good")
    assert code == 1
    assert re.fullmatch(rf"{HANGS}; {re.escape(str(store_path))}: database is locked \(.* holds it\)", said), said


def test_a_leader_of_a_file_that_is_gone(
    new_scheduler: NewScheduler, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store was deleted while it runs: the lead is held, but by somebody whom this file doesn't know."""
    leader(new_scheduler, store_path, FRESH)
    away = store_path.with_name("away.db")
    store_path.rename(away)
    try:
        gone = f"{store_path}: unable to open database file (there is no such file)"
        unwritten = "the leader has written nothing into this store (was it moved or replaced?)"
        assert check(store_path) == (1, f"{unwritten}; {gone}")
        for words in ("why good", "trigger good --no-wait"):
            ended = invoke(*words.split(), "--database", str(store_path))
            assert "leads has written nothing into" in ended.output or unwritten in ended.output, words
        assert gone in invoke("reload", "--database", str(store_path)).output
        assert not store_path.exists()  # nobody has begun another one beside it
    finally:
        away.rename(store_path)
    until(lambda: check(store_path) == (0, ""), "the leader goes on")


def test_nobody_leads_and_nobody_could(new_scheduler: NewScheduler, store_path: Path) -> None:
    """Why a scheduler can't start here is said as well, if it is the store; with no store there is nothing to try."""
    assert check(store_path) == (1, "nobody leads")
    leader(new_scheduler, store_path, FRESH).stop()
    assert check(store_path) == (1, "nobody leads")
    with locked(store_path):
        code, said = check(store_path)
    assert (code, said.partition(" (")[0]) == (1, f"nobody leads; {store_path}: database is locked")
