"""What plugin authors and embedders test with: clocks that a test moves. Free of pytest."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from geckosched.core import SECOND, Clock, Inbox, from_datetime

__all__ = ["FakeClock", "SpeedClock"]


class FakeClock(Clock):
    """A clock that stands still until a test moves it.

    Loops that wait on it wake when `advance` passes the moment they wait for, or when their inbox is filled. `advance`
    returns at once: what the loops then do takes real time, so wait for its result (a run, a row), not for a while.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = from_datetime(start)
        self._monotonic = SECOND
        self._lock = threading.Lock()
        self._waiting: list[Inbox] = []
        self._read = threading.local()  # .at: what this thread saw last; waits count from there

    def now(self) -> int:
        """Return microseconds since the epoch, UTC, as the test has set them."""
        with self._lock:
            self._read.at = self._monotonic
            return self._now

    def monotonic(self) -> int:
        """Return microseconds that `advance` moves and `step` doesn't."""
        with self._lock:
            self._read.at = self._monotonic
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, for every clock reading."""
        with self._lock:
            self._now += round(seconds * SECOND)
            self._monotonic += round(seconds * SECOND)
            waiting = list(self._waiting)
        for inbox in waiting:
            inbox.put(None)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or (negative) back, as an administrator does: no time passes."""
        with self._lock:
            self._now += round(seconds * SECOND)

    def wait(self, inbox: Inbox, seconds: float | None) -> None:
        """Block until `inbox` has something or the test has let `seconds` pass since this thread last read the clock:
        an `advance` between its reading and its waiting is not slept through."""
        with self._lock:
            since = getattr(self._read, "at", self._monotonic)
            until = None if seconds is None else since + round(seconds * SECOND)
            self._waiting.append(inbox)
        try:
            while until is None or self._monotonic < until:
                inbox.wait(None)
                if inbox.has_message():
                    return
        finally:
            with self._lock:
                self._waiting.remove(inbox)


class SpeedClock(Clock):
    """A clock that runs `speed` times faster than life, beginning at `start`: `now = start + (real - anchor) * speed`.

    `anchor` is the real moment (epoch seconds) at which this clock showed `start`, by default that of its making; two
    processes with the same three values share one time. Limits of sockets stay real.
    """

    def __init__(self, start: datetime, speed: float, anchor: float | None = None) -> None:
        if not speed > 0:
            raise ValueError(f"speed: found {speed!r}, allowed is a number above 0")
        self.start = start
        self.speed = speed
        self.anchor = time.time() if anchor is None else anchor
        self._start = from_datetime(start)
        self._offset = time.time() - time.monotonic()  # steps of the machine's clock don't reach this one

    def now(self) -> int:
        """Return microseconds since the epoch, UTC, in this clock's time."""
        real = time.monotonic() + self._offset - self.anchor
        return self._start + round(real * self.speed * SECOND)

    def monotonic(self) -> int:
        """Return microseconds of this clock's time that never run backwards."""
        return round(time.monotonic() * self.speed * SECOND)

    def wait(self, inbox: Inbox, seconds: float | None) -> None:
        """Block until `inbox` has something, at most `seconds` of this clock's time."""
        inbox.wait(None if seconds is None else seconds / self.speed)
