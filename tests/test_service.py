"""What `geckosched run` tells systemd: the protocol of `Type=notify` on real sockets, and a watchdog that bites."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from geckosched import CollectionScheduler, StoreError
from geckosched.core import SchedulerState
from geckosched.service import EVERY, STATUS_EVERY, Glance, Notices, ServiceManager, Window
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.shell import finish, first_line, start, wait_until

PATIENCE = 20.0  # seconds for a message that must come


class SystemD:
    """The far side: a socket as systemd gives one to its service. `address` is a path or an abstract @name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def hear(self, seconds: float = PATIENCE) -> list[str]:
        """Return the lines of the next message; nothing if none comes."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(65_536).decode().split("\n")
        except TimeoutError:
            return []
        self.heard += lines
        return lines

    def until(self, beginning: str) -> str:
        """Hear until a line begins like that, and return it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.hear(1.0):
                if line.startswith(beginning):
                    return line
        raise AssertionError(f"no {beginning}; heard: {self.heard}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd() -> Iterator[SystemD]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path has 107 bytes at most
        far = SystemD(f"{folder}/notify")
        yield far
        far.close()


@pytest.fixture
def abstract() -> Iterator[SystemD]:
    far = SystemD(f"@geckosched-test-{os.getpid()}")
    yield far
    far.close()


# -- what is said when -------------------------------------------------------------------------------------------------

RUNNING, STANDBY = SchedulerState.RUNNING, SchedulerState.STANDBY
STARTING, STOPPING = SchedulerState.STARTING, SchedulerState.STOPPING


def test_ready_is_said_once_by_a_leader_and_by_a_standby() -> None:
    """READY=1 comes once, when the scheduler leads or stands by; a take-over is no second start."""
    for first, second in ((RUNNING, RUNNING), (STANDBY, RUNNING)):
        notices = Notices()
        assert "READY=1" not in notices.of(Glance(STARTING, None, "starting"), 0)
        assert "READY=1" in notices.of(Glance(first, 1, "one"), 1)
        assert "READY=1" not in notices.of(Glance(second, 2, "two"), 2)


def test_stopping_is_said_once() -> None:
    """STOPPING=1 comes once, whether the stop was seen going on or only over."""
    seen, unseen = Notices(), Notices()
    assert "STOPPING=1" in seen.of(Glance(STOPPING, 1, "stopping"), 0)
    assert "STOPPING=1" not in seen.of(Glance(STOPPING, 2, "stopping"), 1)
    assert seen.at_the_end() == []
    assert unseen.at_the_end() == ["STOPPING=1"]


def test_the_watchdog_is_fed_only_by_a_turn_since_the_last_time() -> None:
    """No turn, no WATCHDOG=1, however often one looks; and none more often than every half of its time."""
    notices = Notices(watchdog=10)

    def fed(turn: int | None, now: float) -> bool:
        return "WATCHDOG=1" in notices.of(Glance(RUNNING, turn, "s"), now)

    assert [fed(None, 0), fed(1, 1), fed(2, 5.9), fed(2, 6), fed(2, 11), fed(2, 100), fed(3, 101), fed(3, 106)] == [
        False, True, False, True, False, False, True, False,
    ]  # fmt: skip
    assert "WATCHDOG=1" not in Notices().of(Glance(RUNNING, 1, "s"), 0), "nobody asked for it"


def test_a_turn_of_a_standby_is_another_than_one_of_a_leader() -> None:
    """Who takes over feeds at once; and a stop is fed as long as the ticker turns."""
    notices = Notices(watchdog=2)
    glances = [Glance(STANDBY, (STANDBY, 1.0), "s"), Glance(RUNNING, (RUNNING, 1.0), "s"), Glance(STOPPING, 2, "s")]
    assert all("WATCHDOG=1" in notices.of(glance, 10 * now) for now, glance in enumerate(glances))


def test_the_status_is_news_or_seldom() -> None:
    """The same line isn't said again, a number that changes waits, a change of state doesn't; it is one line."""
    notices = Notices()

    def said(state: SchedulerState, status: str, now: float) -> list[str]:
        return [line for line in notices.of(Glance(state, 1, status), now) if line.startswith("STATUS")]

    assert said(SchedulerState.STOPPED, "stopped", 0) == []
    assert said(STANDBY, "standing by", 0) == ["STATUS=standing by"]
    assert said(RUNNING, "leading: 1 running", 1) == ["STATUS=leading: 1 running"]
    assert said(RUNNING, "leading: 2 running", 2) == []
    assert said(RUNNING, "leading: 3\nrunning", 1 + STATUS_EVERY) == ["STATUS=leading: 3 running"]
    assert said(RUNNING, "leading: 3\nrunning", 100) == []


# -- the environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog"),
    [
        ("3000000", None, 3.0),
        ("3000000", os.getpid(), 3.0),
        ("3000000", os.getpid() + 1, None),
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
        ("-5", None, None),
    ],
    ids=["for whoever", "for this process", "for another", "none", "off", "no number", "negative"],
)
def test_the_watchdog_is_read_from_the_environment(usec: str | None, pid: int | None, watchdog: float | None) -> None:
    """WATCHDOG_USEC counts for this process only; what can't be read feeds nothing and stops nothing. All three
    variables are gone afterwards."""
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": str(pid) if pid else None, "HOME": "/"}
    found = {name: value for name, value in environ.items() if value is not None}
    assert ServiceManager.take(found)._watchdog == watchdog
    assert found == {"HOME": "/"}


def test_without_a_service_manager_nothing_happens(new_scheduler: NewScheduler) -> None:
    """No NOTIFY_SOCKET: no thread, and a reload says nothing to nobody."""
    manager, scheduler = ServiceManager.take({"WATCHDOG_USEC": "1000000"}), new_scheduler()
    with manager.watching(scheduler), scheduler, manager.reloading():
        assert "geckosched-service" not in [thread.name for thread in threading.enumerate()]


# -- a socket that is no good ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens-geckosched", "/" + "x" * 200, "vsock:2:9"])
def test_a_dead_socket_is_said_once_and_stops_nothing(
    new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """The jobs run whoever listens."""
    manager, scheduler = ServiceManager.take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "80000"}), new_scheduler()
    for _ in range(3):
        with manager.watching(scheduler), scheduler:
            assert scheduler.state is RUNNING
    assert [address in record.getMessage() for record in caplog.records if "SOCKET" in record.getMessage()
            or "socket" in record.getMessage()] == [True]  # fmt: skip


def test_a_service_manager_that_does_not_read_holds_nothing_up(
    systemd: SystemD, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full socket is given up after a moment, and said once."""
    monkeypatch.setattr("geckosched.service.SEND_TIMEOUT", 0.001)
    manager = ServiceManager(systemd.address)
    for _ in range(20_000):
        manager._send(["WATCHDOG=1"])
        if len(caplog.records) == 1:
            break
    for _ in range(3):
        manager._send(["WATCHDOG=1"])
    assert ["hears nothing" in record.getMessage() for record in caplog.records] == [True]


# -- a scheduler -------------------------------------------------------------------------------------------------------


def test_a_ticker_that_hangs_lets_the_watchdog_bite(new_scheduler: NewScheduler, systemd: SystemD) -> None:
    """WATCHDOG=1 comes with the ticker's turns; while it is stuck none comes although time passes, and once it goes on
    it comes again."""
    clock, stuck, free = FakeClock(), threading.Event(), threading.Event()
    scheduler, manager = new_scheduler(clock=clock), ServiceManager(systemd.address, watchdog=0.2)

    def hang() -> None:
        stuck.set()
        assert free.wait(PATIENCE)

    with manager.watching(scheduler), scheduler:
        assert scheduler.lead is not None
        for _ in range(3):
            clock.advance(1)
            systemd.until("WATCHDOG=1")
        scheduler.lead.ticker.inbox.put((hang,))
        assert stuck.wait(PATIENCE)
        clock.advance(1)
        silence = list(itertools.takewhile(bool, (systemd.hear(2 * EVERY) for _ in range(3))))
        assert sum(lines.count("WATCHDOG=1") for lines in silence) <= 1, "one for the turn before it got stuck"
        assert len(silence) < 3
        free.set()
        clock.advance(1)
        systemd.until("WATCHDOG=1")


def test_a_standby_is_fed_by_its_watcher(new_scheduler: NewScheduler, systemd: SystemD) -> None:
    """A standby whose watcher turns is fed; one whose watcher hangs isn't, since it would never take over."""
    leader, standby = new_scheduler(), new_scheduler()
    stuck, free = threading.Event(), threading.Event()

    def seek() -> bool:
        stuck.set()
        return free.wait(PATIENCE)

    with leader, ServiceManager(systemd.address, watchdog=0.2).watching(standby), standby:
        assert systemd.until("STATUS=standing by") == f"STATUS=standing by behind pid {os.getpid()} on {os.uname()[1]}"
        for _ in range(3):
            systemd.until("WATCHDOG=1")
        assert standby._watcher is not None
        standby._watcher._seek = seek
        assert stuck.wait(PATIENCE)
        silence = list(itertools.takewhile(bool, (systemd.hear(3 * EVERY) for _ in range(3))))
        assert silence in ([], [["WATCHDOG=1"]]), "one for the turn before it got stuck"
        free.set()
        systemd.until("WATCHDOG=1")


def test_the_status_says_that_the_store_cannot_be_written(new_scheduler: NewScheduler, store_path: Path) -> None:
    """A foreign program holds the lock: the line says since when, the ticker turns on, and once it is free all is
    well. It shows no secret, not even one in the name of the store's folder."""
    secret = store_path.parent.name
    scheduler = new_scheduler(secrets=(secret,))
    with scheduler:
        window = Window(scheduler)
        assert window.look().status == "leading: 0 jobs, 0 running"
        with closing(sqlite3.connect(store_path, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            said = wait_until(lambda: "written" in (status := window.look().status) and status)
            since = said.split(" since ")[1]
            assert said.startswith("leading: 0 jobs, 0 running; the store can't be written since 2")
            assert "/***/store.db: database is locked" in said
            turn = window.look().turn
            wait_until(lambda: window.look().turn != turn)
            assert window.look().status.split(" since ")[1] == since
            foreign.execute("ROLLBACK")
        wait_until(lambda: window.look().status == "leading: 0 jobs, 0 running")


def test_a_reload_is_told(new_scheduler: NewScheduler, systemd: SystemD) -> None:
    """RELOADING=1 with the moment, then READY=1, also if the new configuration is refused; nothing before the service
    is ready, since systemd would take that READY=1 for the first."""
    manager, scheduler = ServiceManager(systemd.address), new_scheduler()
    with manager.reloading():
        pass
    with manager.watching(scheduler), scheduler:
        systemd.until("READY=1")
        assert "RELOADING=1" not in systemd.heard
        for error in (None, StoreError("no")):
            systemd.heard.clear()
            before = time.monotonic_ns() // 1000
            refused: AbstractContextManager[Any] = nullcontext() if error is None else pytest.raises(StoreError)
            with refused, manager.reloading():
                systemd.until("MONOTONIC_USEC=")
                assert "READY=1" not in systemd.heard
                if error is not None:
                    raise error
            systemd.until("READY=1")
            reloading, moment = (line for line in systemd.heard if line.startswith(("RELOADING", "MONOTONIC")))
            assert reloading == "RELOADING=1"
            assert before <= int(moment.split("=")[1]) <= time.monotonic_ns() // 1000


def test_a_start_that_fails_is_never_ready(
    store_path: Path, systemd: SystemD, new_scheduler: NewScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that is none: no READY=1, and the error goes its way."""
    caplog.set_level(logging.CRITICAL)
    store_path.write_bytes(b"this is no SQLite file " * 100)
    scheduler: CollectionScheduler = new_scheduler()
    with pytest.raises(StoreError), ServiceManager(systemd.address).watching(scheduler):
        scheduler.run_forever()
    systemd.until("STOPPING=1")
    assert "READY=1" not in systemd.heard


# -- the command -------------------------------------------------------------------------------------------------------

NOSY = '''
import json, os, subprocess, sys
from pathlib import Path
from geckosched import collector, hookimpl

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
AT_IMPORT = [name for name in NAMES if name in os.environ]

@collector("nosy", every="1d")
def nosy(run):
    program = f"import os; print([n for n in {NAMES!r} if n in os.environ])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    Path("inherited").write_text(json.dumps([AT_IMPORT, child.stdout.strip()]))

@hookimpl
def register_collectors(register, settings):
    register(nosy)
'''


def test_run_speaks_with_systemd(
    site: Path, monkeypatch: pytest.MonkeyPatch, systemd: SystemD, abstract: SystemD
) -> None:
    """`geckosched run` is ready, feeds the watchdog again and again, and says that it stops on SIGTERM; a second
    process stands by, is as healthy, and takes over. Both kinds of socket; what collectors start inherits nothing."""
    (site / "geckosched_fake.py").write_text(NOSY)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    leader = start("run")
    try:
        systemd.until("READY=1")
        monkeypatch.setenv("NOTIFY_SOCKET", abstract.address)
        standby = start("run")
        try:
            abstract.until("READY=1")
            assert f" behind pid {leader.pid} on " in next(line for line in abstract.heard if "standing by" in line)
            for far in (systemd, systemd, abstract, abstract):
                far.until("WATCHDOG=1")
            assert first_line(leader)  # so that it can't be blocked by its own log
            leader.send_signal(signal.SIGTERM)
            ended = finish(leader)
            systemd.until("STOPPING=1")
            assert ended.code == 0, ended.err
            abstract.until("STATUS=leading: 1 job, ")
            abstract.until("WATCHDOG=1")
            assert abstract.heard.count("READY=1") == 1
            standby.send_signal(signal.SIGTERM)
            assert finish(standby).code == 0
            abstract.until("STOPPING=1")
        finally:
            standby.kill()
            standby.communicate()
    finally:
        leader.kill()
        leader.communicate()
    assert json.loads(Path("inherited").read_text()) == [[], "[]"]
