"""How `geckosched run` tells a service manager that it is well: systemd's `Type=notify` and its watchdog.

systemd gives such a service a datagram socket by its environment, and hears by it: READY=1 once the scheduler leads or
stands by (a standby is a healthy service), STATUS= a line for people, RELOADING=1 and READY=1 around a reload,
STOPPING=1, and WATCHDOG=1 again and again. The last is fed by the very loop that all depends on, the ticker's in the
leader and the watcher's in a standby: it is sent only if that loop has turned since it was sent last. A scheduler that
hangs is silent, and systemd ends it and starts it anew. A store that can't be written is no reason for that: a new
process would not mend it, and this one loses nothing while it lives. The status says so.

`Notices` decides what to say and is told the time; `ServiceManager` has the socket, and the thread that looks at the
scheduler. The protocol is some lines of text: the libraries that speak it need C headers (systemd-python, cysystemd) or
are no longer kept (sdnotify).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from geckosched.core import CollectionScheduler, GeckoschedError, Inbox, Lead, SchedulerState, Store

__all__ = ["ServiceManager"]

log = logging.getLogger("geckosched")

EVERY = 0.5  # seconds between two looks at the scheduler, at most
STATUS_EVERY = 5.0  # seconds between two lines of status, but for news
SEND_TIMEOUT = 1.0  # seconds for a service manager that doesn't read


class Glance(NamedTuple):
    """What a scheduler is like at one moment. `turn` is another one after each turn of the loop that must not hang,
    and None before there is one."""

    state: SchedulerState
    turn: object
    status: str


class Notices:
    """Decides what to tell the service manager. Times are monotonic seconds."""

    def __init__(self, watchdog: float | None = None) -> None:
        self.ready = self.stopping = False
        self._watchdog = watchdog  # seconds after which the service manager takes silence for death
        self._next_watchdog = self._next_status = 0.0
        self._told: Glance | None = None  # the state and status told last
        self._turn: object = None  # at the last WATCHDOG=1

    def of(self, glance: Glance, now: float) -> list[str]:
        """Return the lines to send now, if any."""
        lines = [*self._of_state(glance.state), *self._of_status(glance, now)]
        if self._watchdog is not None and now >= self._next_watchdog and glance.turn not in (None, self._turn):
            self._turn, self._next_watchdog = glance.turn, now + self._watchdog / 2
            lines.append("WATCHDOG=1")
        return lines

    def _of_state(self, state: SchedulerState) -> list[str]:
        if not self.ready and state in (SchedulerState.RUNNING, SchedulerState.STANDBY):
            self.ready = True
            return ["READY=1"]
        return self.at_the_end() if state is SchedulerState.STOPPING else []

    def _of_status(self, glance: Glance, now: float) -> list[str]:
        told = self._told
        old = told is not None and told.status == glance.status
        soon = told is not None and told.state is glance.state and now < self._next_status
        if old or soon or glance.state is SchedulerState.STOPPED:  # before the start, or after the end
            return []
        self._told, self._next_status = glance, now + STATUS_EVERY
        return [f"STATUS={' '.join(glance.status.split())}"]  # a line break would begin another assignment

    def at_the_end(self) -> list[str]:
        """Return what is left to say when the scheduler stops."""
        said, self.stopping = self.stopping, True
        return [] if said else ["STOPPING=1"]


class ServiceManager:
    """The service manager that started this process. With none, nothing is sent and nothing happens."""

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog
        self._notices = Notices(watchdog)
        self._complained = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Return the one that the environment names, and take its variables out: programs that collectors start must
        not speak for the scheduler."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if address and not address.startswith(("/", "@")):
            log.warning("NOTIFY_SOCKET=%s: found neither a path nor @name, so nothing is sent to it", address)
            address = ""
        if not microseconds or pid not in ("", str(os.getpid())):
            return cls(address or None)
        if not microseconds.isdecimal() or not int(microseconds):
            log.warning("WATCHDOG_USEC=%s: not a number of microseconds, so no watchdog is fed", microseconds)
            return cls(address or None)
        return cls(address or None, int(microseconds) / 1_000_000)

    @contextmanager
    def watching(self, scheduler: CollectionScheduler) -> Iterator[None]:
        """Tell of a scheduler that is started and stopped meanwhile, from a thread of its own."""
        if self._address is None:
            yield
            return
        over = Inbox()
        thread = threading.Thread(target=self._watch, args=(scheduler, over), name="geckosched-service", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.put("over")
            thread.join(2 * SEND_TIMEOUT)
            self._send(self._notices.at_the_end())

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell that the configuration is being reloaded, and afterwards, whatever came of it, that the service is
        ready again."""
        ready = self._notices.ready
        if ready:
            self._send(["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"])
        try:
            yield
        finally:
            if ready:
                self._send(["READY=1"])

    def _watch(self, scheduler: CollectionScheduler, over: Inbox) -> None:
        window = Window(scheduler)
        pause = EVERY if self._watchdog is None else min(EVERY, self._watchdog / 8)
        while not over.has_message():
            self._send(self._notices.of(window.look(), time.monotonic()))
            over.wait(pause if self._notices.ready else pause / 5)

    def _send(self, lines: list[str]) -> None:
        """Send what there is to say. A failure is said once, and stops nothing: what the scheduler does is more
        important than who hears of it."""
        if not lines or self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(SEND_TIMEOUT)
                channel.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except OSError as error:
            if not self._complained:
                log.warning("the service manager's socket %s: %s; it hears nothing", self._address, error)
            self._complained = True


class Window:
    """Looks at a scheduler."""

    def __init__(self, scheduler: CollectionScheduler) -> None:
        self._scheduler = scheduler
        self._store = Store(scheduler.config.database)
        self._trouble_since: datetime | None = None
        self._leader, self._next_leader = "", 0.0

    def look(self) -> Glance:
        """Return what the scheduler is like."""
        scheduler = self._scheduler
        state, lead = scheduler.state, scheduler.lead
        if state is SchedulerState.RUNNING and lead is not None:
            status = self._leading(lead)
        elif state is SchedulerState.STANDBY:
            status = f"standing by{self._behind()}"
        elif state is SchedulerState.STOPPING and lead is not None and lead.ticker.running:
            status = f"stopping: {lead.ticker.running} running"
        else:
            status = str(state)
        return Glance(state, scheduler.last_turn, scheduler.secrets.hide(status))

    def _leading(self, lead: Lead) -> str:
        jobs, trouble = len(lead.ticker.jobs), lead.writer.trouble
        self._trouble_since = None if trouble is None else self._trouble_since or datetime.now(UTC)
        said = f"leading: {jobs} job{'' if jobs == 1 else 's'}, {lead.ticker.running} running"
        if self._trouble_since is None:
            return said
        return f"{said}; the store can't be written since {self._trouble_since:%Y-%m-%d %H:%M:%S} UTC: {trouble}"

    def _behind(self) -> str:
        """Return who leads, as the store has it: one row, read now and then."""
        now = time.monotonic()
        if now >= self._next_leader:
            self._next_leader = now + STATUS_EVERY
            try:
                rows = self._store.read("SELECT pid, host FROM geckosched_instances ORDER BY rowid DESC LIMIT 1")
                self._leader = f" behind pid {rows[0]['pid']} on {rows[0]['host']}" if rows else ""
            except GeckoschedError:  # the watcher says what is wrong with the store
                self._leader = ""
        return self._leader
