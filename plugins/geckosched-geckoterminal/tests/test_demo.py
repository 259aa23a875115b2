"""The demo collects from the simulator, tells what came in, and touches no file that isn't its own."""

from __future__ import annotations

import functools
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from geckosched_geckoterminal import demo
from geckosched_geckoterminal.demo import Findings, run_demo
from geckosched_geckoterminal.simulator import Request, Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched import CollectionScheduler, Outcome, SchedulerConfig


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the installed distribution where the tests run on a bare checkout."""
    if not entry_points(group="geckosched", name="geckoterminal"):
        folder = tmp_path / "installed" / "geckosched_geckoterminal-0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: geckosched-geckoterminal\nVersion: 0\n")
        (folder / "entry_points.txt").write_text("[geckosched]\ngeckoterminal = geckosched_geckoterminal\n")
        monkeypatch.syspath_prepend(folder.parent)


def test_a_short_demo_collects_and_ends_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a demo.db"
    threads = set(threading.enumerate())
    assert run_demo(4, 60, file) == 0
    assert set(threading.enumerate()) == threads
    output, errors = capsys.readouterr()
    assert errors == ""
    found = Findings.read(file)
    assert found.trades > 300
    assert found.candles > 100
    assert found.pools >= 40  # a page of each exchange: pools that it began with, and others that were born
    with closing(sqlite3.connect(file)) as store:
        pools = {address for (address,) in store.execute("SELECT address FROM gt_pools")}
    market = SyntheticMarket(born=0)
    assert {pool.address for pool in market.founders[:6]} < pools
    assert all(market.pool("solana", address, int(time.time())) for address in pools)
    progress, summary = output.split("\nCollected in 4m of market time:\n")
    assert "UTC" in progress.splitlines()[-1]
    assert f"trades   {found.trades:,}" in summary
    assert f"candles  {found.candles:,}" in summary
    assert ", 0 refused" in summary

    scheduler = CollectionScheduler(SchedulerConfig(database=file))
    runs = scheduler.get_runs(limit=1000)
    at_the_end = {Outcome.INTERRUPTED}  # a run that waited for its budget when the time was up
    assert {run.outcome for run in runs} <= {Outcome.SUCCEEDED, Outcome.SKIPPED} | at_the_end
    assert {run.outcome for run in runs if run.finished_at and run.finished_at < runs[0].started_at} <= {
        Outcome.SUCCEEDED, Outcome.SKIPPED}  # fmt: skip
    assert min(run.started_at for run in runs) < datetime.now(UTC)  # the minutes before the present
    [job] = [job for job in scheduler.get_status().jobs if job.job_id == "geckoterminal-trades"]
    assert job.rows == found.trades

    [query] = [line.strip() for line in summary.splitlines() if "sqlite-utils" in line]
    command = [sys.executable, "-m", "sqlite_utils", *shlex.split(query)[1:]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[:3] == ["pool", "trades", "usd"]


def test_a_demo_replaces_an_earlier_one_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, foreign, text = tmp_path / "own.db", tmp_path / "foreign.db", tmp_path / "text.db"
    text.write_text("not a database, and long enough to be looked at" * 100)
    for file in (own, foreign):
        with closing(sqlite3.connect(file)) as store:
            store.execute("CREATE TABLE kept (value)")
            if file is own:
                store.execute(f"PRAGMA application_id = {demo.APPLICATION_ID}")
    before = {file: file.read_bytes() for file in (foreign, text)}
    assert run_demo(1, 60, own) == 0
    capsys.readouterr()
    with closing(sqlite3.connect(own)) as store:
        assert not store.execute("SELECT name FROM sqlite_master WHERE name = 'kept'").fetchall()
    for file in (foreign, text, tmp_path / "nowhere" / "demo.db"):
        assert run_demo(1, 60, file) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith(f"geckosched: {file}: ")
        assert errors.count("\n") == 1
    assert {file: file.read_bytes() for file in before} == before


def test_a_demo_leaves_alone_what_another_one_is_running_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "demo.db"
    with closing(sqlite3.connect(file)) as store:
        store.execute(f"PRAGMA application_id = {demo.APPLICATION_ID}")
    with CollectionScheduler(SchedulerConfig(database=file)):
        assert run_demo(1, 60, file) == 1
    assert capsys.readouterr().err == f"geckosched: {file}: another demo is running on it\n"


def test_a_demo_that_collects_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "Simulator", functools.partial(Simulator, rate=0.001, burst=0))
    assert run_demo(1, 60, tmp_path / "demo.db") == 1
    output, errors = capsys.readouterr()
    assert "trades   0" in output
    assert "Look further" not in output
    assert errors.endswith("geckosched: nothing was collected\n")


def test_losses_are_told_by_the_pools_name(tmp_path: Path) -> None:
    file = tmp_path / "found.db"
    assert not file.exists()
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("CREATE TABLE geckosched_losses (target, count)")
        store.executemany("INSERT INTO geckosched_losses VALUES (?, ?)", [("b", 5), ("a", 700), ("a", 600)])
        store.execute("CREATE TABLE geckosched_runs (outcome)")
        store.executemany("INSERT INTO geckosched_runs VALUES (?)", [("succeeded",), ("succeeded",), (None,)])
    found = Findings.read(file)
    assert found == Findings(0, 0, 0, {"a": 1300, "b": 5}, {"succeeded": 2})
    told = demo._summary(found, [], {}, 1800)
    assert "Collected in 30m of market time:" in told
    assert "lost     1,300 of a, 5 of b: more trades between two calls than the 300 that the API shows" in told
    assert "runs     2 succeeded" in told


def test_the_busiest_minute_is_the_worst_of_any_60_seconds() -> None:
    seconds = [0, 1, 59, 60, 61, 200]
    calls = [Request(second * 1_000_000, "/", 200, cached=False) for second in seconds]
    assert demo._busiest_minute(calls) == 3  # 1, 59, 60: each a minute from 0 and 61
    assert demo._busiest_minute([]) == 0
