"""What the tests of the command line share: a plugin, a folder where it is installed, commands as processes of their
own, and what a store says meanwhile."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from geckosched import CollectionScheduler, JobStatus, Run, SchedulerConfig, cli

PLUGIN = '''
import threading, time
from dataclasses import dataclass
from pathlib import Path
from geckosched import Batch, collector, hookimpl

Path("imported").touch()

@collector("tick", every="1s")
def tick(run):
    run.state["n"] = run.state.get("n", 0) + 1
    yield Batch("ticks", [{"n": run.state["n"]}], pk="n")

@collector("daily", every="1d")
def daily(run):
    yield Batch("days", [{"run": run.id}], pk="run")

@collector("broken", every="1d")
def broken(run):
    raise ValueError("no such\\ncity")

@dataclass
class Options:
    cities: list[str]

@collector("weather", options=Options)
def weather(run): ...

@collector("hang", every="1d")
def hang(run):
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    threading.Event().wait()

@collector("nap", every="1d")
def nap(run):
    run.sleep(1000)

@hookimpl
def register_collectors(register, settings):
    for each in (tick, daily, broken, weather, *((hang, nap) if settings.get("slow") else ())):
        register(each)

@hookimpl
def register_commands(app):
    @app.command()
    def hello(name: str = "you"):
        """Say hello."""
        print(f"hello {name}")
'''

SLOW = """
[scheduler]
shutdown_timeout = "1s"
[plugins.fake]
slow = true
"""


def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of installed packages that holds the plugin `fake`; the working directory is another, empty one."""
    site = tmp_path / "site"
    info = site / "geckosched_fake-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: geckosched-fake\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[geckosched]\nfake = geckosched_fake\n", encoding="utf-8")
    (site / "geckosched_fake.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "fake")  # whatever else is installed here stays out of it
    repository = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(site)]))
    return site


@dataclasses.dataclass
class Ended:
    code: int
    out: str
    err: str


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "geckosched", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Ended(process.returncode, out, err)


def geckosched(*arguments: str) -> Ended:
    return finish(start(*arguments))


def first_line(process: subprocess.Popen[str]) -> str:
    """Wait for the first line of a process's stderr."""
    assert process.stderr is not None
    patience = threading.Timer(60, process.kill)
    patience.start()
    try:
        return process.stderr.readline()
    finally:
        patience.cancel()


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll until something is true, and return it; fail after a generous while."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        pause.wait(0.05)
    return found


def job_of_store(job_id: str) -> JobStatus | None:
    jobs = CollectionScheduler(SchedulerConfig()).get_status().jobs
    return next((job for job in jobs if job.job_id == job_id), None)


def runs_of_store(job_id: str) -> list[Run]:
    return [run for run in CollectionScheduler(SchedulerConfig()).get_runs(limit=1000) if run.job_id == job_id]


def requests_of_store(action: str) -> list[str]:
    """Return the answers to the requests of one kind that the leader has answered."""
    with closing(sqlite3.connect("geckosched.db")) as connection:
        sql = "SELECT answer FROM geckosched_requests WHERE action = ? AND answered_at IS NOT NULL"
        return [row[0] for row in connection.execute(sql, (action,))]


@contextmanager
def daemon(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`geckosched run` in a process of its own, from its first finished run on."""
    process = start("run", *arguments)
    try:
        wait_until(lambda: process.poll() is not None or any(run.outcome for run in runs_of_store("tick")))
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result
