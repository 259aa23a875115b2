"""geckosched in one file: run collectors on schedule, leave failing services in peace, lose no row, say what happened.

A collector is plugin code that fetches rows. A job is one scheduled use of it. At each slot of a job's grid the
ticker admits a run; the writer commits the run's row; a worker calls `collect(run)`; every yield is one transaction
of rows and cursor; and the run ends in exactly one outcome, which the job's breaker hears.

What *decides* is a plain object or function that is told the time: intervals, `Timetable`, `Breaker`, `Ledger`,
`admit`, `conclude`, `health_of`. What *waits* is one of four loops: the ticker (owns the jobs), the workers (run plugin
code), the writer (owns the only writing connection) and the watcher (leadership, requests, heartbeat). Deciders never
wait, loops never decide; loops speak through inboxes, and no lock is held while plugin code runs.

Reading order, leaf first:

     1  Errors and signals       what goes wrong, and what a collector may say by raising
     2  Words                    enums and frozen values; the settings
     3  Time                     Clock, Inbox, moments as text
     4  Intervals, Timetable     grids of slots in UTC; a schedule.Scheduler with a heap
     5  Breaker                  per job: who may run
     6  Budget                   per service: who may call
     7  Collectors               Collector, @collector, Batch, RunContext
     8  Plugins                  hook specifications, CollectorRegistry
     9  Store                    schema, writer with group commit and fence, readers
    10  One run                  admission, execution, outcome: the heart
    11  Leadership, requests     one process runs the jobs, the others ask
    12  The ticker               owns the timetable and every job's bookkeeping
    13  CollectionScheduler      what callers see

Times inside are whole microseconds since the epoch in UTC; outside they are aware datetimes, in SQL text. The file
works when copied alone beside pluggy, schedule and sqlite-utils: what else of the package it uses it imports from where
it lies itself, hence `from .views`, and does without where that is missing. It needs POSIX (flock).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import dataclasses
import difflib
import fcntl
import functools
import hashlib
import heapq
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import logging
import math
import os
import queue
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
import traceback
import uuid
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pluggy
import schedule

if TYPE_CHECKING:
    from geckosched.forecast import Forecast
    from geckosched.pruning import Pruner
    from geckosched.reload import Applied, Change
    from geckosched.spellings import Spellings
    from geckosched.statistics import JobStatistics
    from geckosched.views import JobStatus, RunLoss, Status

__version__ = "0.1.0"

log = logging.getLogger("geckosched")

# ======================================================================================================================
# 1  Errors and signals
# ======================================================================================================================


class GeckoschedError(Exception):
    """Base of all errors that geckosched raises; `str(error)` is one line.

    GeckoschedError
     ├── ConfigError (ValueError)       a setting, an option, an interval
     ├── PluginError                    a plugin that can't be used
     ├── StoreError                     the SQLite file
     ├── UnknownJob (LookupError)       .job_id, .matches
     ├── DuplicateJob (ValueError)      .job_id
     └── SchedulerClosed (RuntimeError) the call needs a scheduler that is not stopping
    """


class ConfigError(GeckoschedError, ValueError):
    """A value that can't be used; the text says where, what was found and what is allowed. What is wrong with a whole
    configuration is one error, with a line for each."""

    @staticmethod
    def of_all(errors: Sequence[ConfigError]) -> ConfigError:
        """Return one error that says them all."""
        return errors[0] if len(errors) == 1 else ConfigError("\n".join(map(str, errors)))


class PluginError(GeckoschedError):
    """A plugin that can't be used; the text says which and why."""


class StoreError(GeckoschedError):
    """The store can't be read or written; the text names the file."""


class UnknownJob(GeckoschedError, LookupError):
    """No job has this id. `matches` are the closest ids, best first: those that it is a part of, then those that are
    spelt alike."""

    def __init__(self, job_id: str, known: Iterable[str] = (), why: str | None = None) -> None:
        self.job_id = job_id
        names, part = list(known), job_id.casefold()
        longer = sorted((len(name), name) for name in names if len(part) > 1 and part in name.casefold())
        alike = difflib.get_close_matches(job_id, names, n=3, cutoff=0.5)
        self.matches = tuple(dict.fromkeys([*(name for _, name in longer), *alike]))[:3]
        hint = f', did you mean "{self.matches[0]}"?' if self.matches else _few(names)
        text = f'no job is called "{job_id}"{hint}'
        if job_id in self.matches:
            text = f'job "{job_id}" is in the store, but its collector is not registered in this process'
        super().__init__(text if why is None else f'job "{job_id}" {why}')


def _few(jobs: Sequence[str]) -> str:
    """Name the jobs that there are, ten at most."""
    more = f" and {len(jobs) - 10} more" if len(jobs) > 10 else ""
    return f" (known: {', '.join(sorted(jobs)[:10])}{more})" if jobs else ""


class DuplicateJob(GeckoschedError, ValueError):
    """A job of this id, or an identical one, is registered already; `replace=True` replaces it."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f'job "{job_id}" is registered already (replace=True replaces it)')


class SchedulerClosed(GeckoschedError, RuntimeError):
    """The scheduler is stopping or has stopped."""


class Signal(BaseException):
    """What a collector may say by raising; not an Exception, so that `except Exception` around a target lets it by."""


class SkipRun(Signal):
    """Nothing to do this time. `again_after` (seconds, at least 1) asks for another look before the next slot."""

    def __init__(self, reason: str, again_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again_after = again_after


class RateLimited(Signal):
    """The service refused for now. `retry_after` is in seconds; less than 1 (or "0", which some send) counts as 1."""

    def __init__(self, retry_after: float = 1.0) -> None:
        self.retry_after = max(1.0, min(float(retry_after), _LONGEST / SECOND))  # NaN, too, is 1
        super().__init__(f"rate limited, retry after {self.retry_after:g} s")


class RunStopped(Signal):
    """The run must end: raised by us at a yield, `sleep` or call. A collector that raises it unasked has failed."""


class DryCommit(Signal):
    """What rolls a dry run's yield back; `counts` are the rows that each group would have changed. For us only."""

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts


class YieldRefused(Signal):
    """What was yielded can't be stored (table, key or state is named); the run fails, whatever block it is in."""


def _closest(word: str, known: Iterable[str]) -> str:
    """Say what was probably meant: `, did you mean "every"?`, or else what is allowed."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f', did you mean "{near[0]}"?'
    return f" (allowed: {', '.join(names)})" if names else " (none is allowed)"


def _guard(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Call plugin code: the one place where everything is caught, `SystemExit` included (but not the user's Ctrl-C,
    which Python raises on the main thread only)."""
    try:
        return call(), None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        return None, error


def _note(level: int, text: str, *arguments: object) -> None:
    """Log from the writer, whose texts are ours and SQLite's and hold no values; see `SafeLogger.note`."""
    _guard(lambda: log.log(level, text, *arguments))


def _one_line(error: BaseException) -> str:
    """Give `Type: text` of any error on one line; its `__str__` is plugin code and may itself raise. Neither cut nor
    without secrets, so it is for other errors' texts: what is told or stored is `Secrets.one_line`."""
    text, broken = _guard(lambda: " ".join(str(error).split()))
    if broken is not None:
        text = f"(its text could not be made: {type(broken).__name__})"
    name = type(error).__name__
    return _clean(f"{name}: {text}" if text else name)


def _clean(text: str) -> str:
    """Replace what SQLite can't store as text (lone surrogates)."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Secrets:
    """Texts that a scheduler never shows: `hide` puts `***` in their place, in whatever way they are written (see
    `geckosched.spellings`). Of a secret with several lines each line is one, too. Any thread may call; without secrets
    nothing is looked for."""

    LEAST = 6  # characters; what is shorter would be found everywhere
    MOST = 10_000  # ... of all the ways to write more a search takes seconds to make

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: frozenset[str] = frozenset()
        self._spellings: Spellings | None = None
        self.add(values)

    def __bool__(self) -> bool:
        return self._spellings is not None

    def add(self, values: Iterable[str]) -> None:
        """Hide these, too. Those before stay hidden: runs that began with them may go on. Raises ConfigError, which
        doesn't show it, for what is too short."""
        found = {line.strip() for value in values for line in (self._checked(value), *value.splitlines())}
        wanted = self._values | {value for value in found if len(value) >= self.LEAST}
        if wanted == self._values:
            return
        try:
            from .spellings import Spellings
        except ImportError as error:
            raise ConfigError("secrets: they need the whole package, core.py alone can't hide them") from error
        self._values, self._spellings = wanted, Spellings(wanted)

    def _checked(self, value: str) -> str:
        if not isinstance(value, str):
            raise ConfigError(f"secrets: found {type(value).__name__}, allowed are texts")
        if not self.LEAST <= (length := len(value.strip())) <= self.MOST:
            raise ConfigError(f"secrets: found one of {length:,} characters, allowed are {self.LEAST} to {self.MOST:,}")
        return value

    def hide(self, text: str) -> str:
        """Return a text without the secrets. Hide first, then cut: half a secret is not found."""
        return text if self._spellings is None else self._spellings.replace(text, "***")

    def hide_in(self, value: Any) -> Any:
        """Return a value without the secrets: in lists and dicts each text, of other things that show one a text."""
        if self._spellings is None or value is None:
            return value
        if isinstance(value, int | float):
            return "***" if str(value) in self._values else value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, Mapping):
            return {self.hide_in(key): self.hide_in(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.hide_in(each) for each in value]
        text = _guard(lambda: repr(value))[0] or ""
        return value if self.hide(text) == text else self.hide(text)

    def hide_error(self, error: GeckoschedError) -> GeckoschedError:
        """Return an error of ours if neither it nor what it came from shows a secret; else one that says the same."""
        text = "".join(traceback.format_exception(error))
        return error if self.hide(text) == text else type(error)(self.hide(str(error)))

    def one_line(self, error: BaseException) -> str:
        """Give `Type: text` of any error as it may be told: on one line, at most 1,000 characters."""
        return self.hide(_one_line(error))[:1000]

    def lines(self, lines: Iterable[str]) -> str:
        """Join the lines of a traceback or a stack as they may be told: the last 20,000 characters."""
        return _clean(self.hide("".join(lines)))[-20_000:]


class SafeLogger(logging.Logger):
    """Speaks through one of the host's loggers, without secrets: they are gone from a record, its traceback and its
    `extra` before that logger's filters and anybody's handlers see it. Without secrets records are left alone, but for
    the attributes that say what they are `about`."""

    def __init__(self, speaker: logging.Logger, secrets: Secrets, **about: object) -> None:
        super().__init__(speaker.name)
        self.parent, self.handlers, self.filters = speaker, speaker.handlers, speaker.filters
        self._speaker = speaker
        self._secrets = secrets
        self._about = about

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return self._speaker.isEnabledFor(level)

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        self._speaker.setLevel(level)

    def getChild(self, suffix: str) -> SafeLogger:  # noqa: N802 - logging's name
        return SafeLogger(self._speaker.getChild(suffix), self._secrets, **self._about)

    def handle(self, record: logging.LogRecord) -> None:
        vars(record).update(self._about)
        if self._secrets:
            self._hide(record)
        self._speaker.handle(record)

    def _hide(self, record: logging.LogRecord) -> None:
        text, broken = _guard(record.getMessage)
        record.msg = text if broken is None else f"{record.msg} (which its arguments don't fit: {_one_line(broken)})"
        if record.exc_info:
            error = record.exc_info[1]
            lines, _ = _guard(lambda: traceback.format_exception(error))
            record.exc_info, record.exc_text = None, "".join(lines or ()).rstrip()
        values = vars(record)
        values.update({name: self._secrets.hide_in(value) for name, value in values.items()}, args=())

    def note(self, level: int, text: str, *arguments: object, **about: object) -> None:
        """Log from a loop: the host's log handlers may raise, which must not end it."""
        _guard(lambda: self.log(level, text, *arguments, extra=about))


# ======================================================================================================================
# 2  Words
# ======================================================================================================================


class Outcome(StrEnum):
    """How a run ended. A run has exactly one; `conclude` says what each does to the breaker and the next run."""

    SUCCEEDED = "succeeded"  # returned, no target failed
    PARTIAL = "partial"  # returned, some targets failed
    FAILED = "failed"  # raised, or every target failed
    SKIPPED = "skipped"  # raised SkipRun
    RATE_LIMITED = "rate_limited"  # raised RateLimited
    TIMED_OUT = "timed_out"  # ended at its time limit, or was abandoned
    INTERRUPTED = "interrupted"  # the scheduler stopped, or its process died


class Reason(StrEnum):
    """Why a run started."""

    SCHEDULED = "scheduled"  # its slot came
    CATCHUP = "catchup"  # slots were missed over a start or a standstill, or its run was interrupted
    FIRST = "first"  # the job never ran
    RETRY = "retry"  # after an error, a rate limit, or SkipRun(again_after=...)
    PROBE = "probe"  # the breaker is open and lets one run through
    TRIGGERED = "triggered"  # somebody asked


class BreakerState(StrEnum):
    """What a job's breaker lets through: every run, none before `retry_at`, or the one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Health(StrEnum):
    """How a job is, judged by `health_of`."""

    PENDING = "pending"  # never ran, or no run has given a sign of life yet
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # errors with the breaker closed, losses in the last day, or quiet for too long
    UNHEALTHY = "unhealthy"  # breaker open, abandoned runs, or no sign of life for three intervals
    DISABLED = "disabled"


class SchedulerState(StrEnum):
    """Where a scheduler is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"  # this process leads
    STANDBY = "standby"  # another process leads; this one takes over when that ends
    STOPPING = "stopping"
    ERROR = "error"  # the ticker died; stop() and start() leave it


class Record:
    """What crosses the public interface: frozen, and printable as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values: times as text, enums as their strings, tuples as lists. What is said for
        people only (`metadata={"json": False}`) is left out."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(cast(Any, self))
                if f.metadata.get("json", True)}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, datetime):
        return to_text(from_datetime(value))
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Run(Record):
    """One execution of a job: the columns of `geckosched_runs`. `outcome` and `finished_at` are None while it runs."""

    id: int
    job_id: str
    reason: Reason
    scheduled_for: datetime | None
    started_at: datetime
    finished_at: datetime | None
    outcome: Outcome | None
    rows: int
    calls: int
    missed: int
    lost: int
    detail: str | None
    error_type: str | None
    error: str | None
    traceback: str | None
    instance_id: str

    @property
    def seconds(self) -> float | None:
        """How long it ran, in seconds; None while it runs."""
        return None if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class PluginStatus(Record):
    """One installed plugin: usable (`ok`), or broken and why (`error`)."""

    name: str
    distribution: str | None
    version: str | None
    ok: bool
    error: str | None
    collectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DryBatch(Record):
    """Consecutive rows of one table that a dry run yielded: as they would be stored, and how many of them are new or
    would change what is there."""

    table: str
    pk: tuple[str, ...]
    on_conflict: str
    rows: tuple[dict[str, Any], ...]
    changed: int


@dataclass(frozen=True, slots=True)
class DryRun(Record):
    """What a run would have stored. `losses` are dicts of `target`, `count`, `since`, `until`; `state` is the job's
    cursor as it would be."""

    run: Run
    batches: tuple[DryBatch, ...]
    losses: tuple[dict[str, Any], ...]
    state: dict[str, Any]


Duration = str | int | float | timedelta


def _may_be_a_file(path: str) -> bool:
    if path in ("", ":memory:") or "\0" in path:
        return False
    try:
        return bool(Path(os.path.realpath(Path(path).expanduser())).name)  # the root has none
    except RuntimeError:  # ~ of nobody
        return False


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Settings of a scheduler. Durations are text with units ("30s"), seconds or timedeltas; what a job sets wins.

    `budgets` overrides rate or burst of budgets: `{"weather": {"rate": "30/m"}}`. `secrets` are texts that appear in
    nothing the scheduler writes but collected rows and state. Raises ConfigError naming the field.
    """

    database: str | os.PathLike[str] = "geckosched.db"
    timezone: str = "UTC"
    max_workers: int = 10
    executor: str = "threads"
    max_consecutive_errors: int = 5
    error_recovery_delay: Duration = "60s"
    max_recovery_delay: Duration = "1h"
    timeout: Duration = "15m"
    catchup: str = "latest"
    shutdown_timeout: Duration = "30s"
    health_check_interval: Duration = "60s"
    retention_days: int = 30
    retention_runs: int = 10_000
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        Secrets(self.secrets)
        if not _may_be_a_file(str(self.database)):
            raise ConfigError(f"database: found {str(self.database)!r}, allowed is the path of a file")
        for name in ("max_workers", "max_consecutive_errors", "retention_days", "retention_runs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name}: found {value!r}, allowed is a whole number from 1")
        for name in ("error_recovery_delay", "max_recovery_delay", "timeout", "health_check_interval"):
            parse_duration(getattr(self, name), name)
        parse_duration(self.shutdown_timeout, "shutdown_timeout", zero=True)
        for name, allowed in (("executor", ("threads",)), ("catchup", ("latest", "none"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: found {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        find_timezone(self.timezone)
        for name, table in self.budgets.items():
            if not isinstance(table, Mapping):
                raise ConfigError(f'budgets.{name}: found {table!r}, allowed is a table such as {{"rate": "30/m"}}')
            if unknown := [key for key in table if key not in ("rate", "burst")]:
                raise ConfigError(f"budgets.{name}: found {unknown[0]!r}, allowed: rate, burst")
            Budget(name, **table)


# ======================================================================================================================
# 3  Time
# ======================================================================================================================

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - schedule's next_run is naive
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


def to_text(moment: int) -> str:
    """Write a moment (microseconds since the epoch) as our UTC text, always six digits.

    >>> to_text(1_795_448_734_123_456)
    '2026-11-23T15:45:34.123456Z'
    """
    seconds, microseconds = divmod(moment, SECOND)
    return f"{_second_text(seconds)}.{microseconds:06d}Z"


@functools.lru_cache(maxsize=256)  # a run writes eight moments, most of them of this second
def _second_text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def from_text(text: str) -> int:
    """Read our UTC text back; the opposite of `to_text`."""
    return from_datetime(datetime.fromisoformat(text))


def to_datetime(moment: int) -> datetime:
    """Return a moment as an aware UTC datetime."""
    return _EPOCH_UTC + timedelta(microseconds=moment)


def from_datetime(moment: datetime) -> int:
    """Return an aware datetime in microseconds since the epoch; a naive one is refused."""
    if moment.tzinfo is None:
        raise ConfigError(f"found the naive datetime {moment.isoformat()}, allowed are aware ones (with a tzinfo)")
    return (moment - _EPOCH_UTC) // timedelta(microseconds=1)


def _text_or_none(moment: int | None) -> str | None:
    return None if moment is None else to_text(moment)


def _from_text_or_none(text: str | None) -> int | None:
    return None if text is None else from_text(text)


def _readable(text: str) -> str:
    """Return our UTC text as people read it: "2026-11-23 15:45:34 UTC"."""
    return f"{text[:19].replace('T', ' ')} UTC"


def _datetime_or_none(moment: int | None) -> datetime | None:
    return None if moment is None else to_datetime(moment)


class Inbox:
    """A FIFO that one thread reads and any thread fills. `None` only wakes the reader."""

    __slots__ = ("_queue", "_taken")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._taken: list[Any] = []

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def __bool__(self) -> bool:
        return bool(self._taken) or not self._queue.empty()

    def wait(self, seconds: float | None) -> None:
        """Block until something is here, at most `seconds` of real time (None: for ever)."""
        if not self._taken:
            with contextlib.suppress(queue.Empty):
                self._taken.append(self._queue.get(timeout=seconds))

    def has_message(self) -> bool:
        """Whether something is here besides wake-ups, which are dropped."""
        self._taken = [item for item in self._taken if item is not None]
        return bool(self)

    def drain(self) -> list[Any]:
        """Take all that is here now, oldest first."""
        items, self._taken = self._taken, []
        for _ in range(self._queue.qsize()):
            items.append(self._queue.get_nowait())
        return [item for item in items if item is not None]


class Clock:
    """What time it is, and how a loop waits. Everything that waits goes through `wait`, so a test can move time."""

    def now(self) -> int:
        """Return microseconds since the epoch, UTC. May jump when somebody sets the machine's clock."""
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        """Return microseconds that never run backwards; only differences mean something."""
        return time.monotonic_ns() // 1000

    def wait(self, inbox: Inbox, seconds: float | None) -> None:
        """Block until `inbox` has something, at most `seconds` of this clock's time (None: for ever). They count from
        when this thread last read the clock, which it does to know how long to wait."""
        inbox.wait(seconds)


# ======================================================================================================================
# 4  Intervals and the Timetable
# ======================================================================================================================

UNITS = {"us": 1, "ms": 1000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
_LONGEST = 3660 * DAY
_DURATION = re.compile(r"(\d{1,15})([a-z]+)")


def parse_duration(value: object, where: str = "duration", *, zero: bool = False) -> int:
    """Read a duration as microseconds: "45s", "1h30m", seconds as a number, or a timedelta.

    >>> parse_duration("1h30m") // 1_000_000
    5400

    Raises ConfigError, whose text begins with `where`, for anything else, for less than a millisecond (but 0 where
    `zero` is allowed) and for more than ten years.
    """
    found = -1
    if isinstance(value, timedelta):
        found = value // timedelta(microseconds=1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST / SECOND:
        found = round(value * SECOND)
    elif isinstance(value, str):
        text = value.strip().lower()
        parts = _DURATION.findall(text)
        if text and "".join(n + u for n, u in parts) == text and all(u in UNITS for _, u in parts):
            found = sum(int(n) * UNITS[u] for n, u in parts)
    if not (1000 <= found <= _LONGEST or (zero and found == 0)):
        raise ConfigError(f"{where}: found {value!r}, {_allowed_duration(value, found, zero)}")
    return found


def _allowed_duration(value: object, found: int, zero: bool) -> str:
    """Say what the trouble is with a duration: no unit, out of range (`found` microseconds then), or no duration."""
    if isinstance(value, str) and value.strip().isdecimal():
        return 'a duration needs a unit, such as "30s"'
    if found >= 0 or (isinstance(value, int | float | timedelta) and not isinstance(value, bool)):
        return f"allowed are durations from {'0s' if zero else '1ms'} to ten years (3660d)"
    return f'allowed are durations such as "45s" or "1h30m" (units {", ".join(UNITS)})'


def _microseconds(seconds: float) -> int:
    """Return what plugin code gave as seconds in microseconds, from none to ten years, whatever it was."""
    return round(max(0.0, min(float(seconds), _LONGEST / SECOND)) * SECOND)


@functools.lru_cache(maxsize=256)  # a hundred thousand jobs have a handful of intervals
def format_duration(microseconds: int) -> str:
    """Write a duration as text that `parse_duration` reads: `format_duration(5_400_000_000)` is "1h30m"."""
    rest, text = microseconds, ""
    for unit, size in sorted(UNITS.items(), key=lambda item: -item[1]):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def find_timezone(name: str) -> tzinfo:
    """Return the zone of an IANA name ("Europe/Berlin"). Raises ConfigError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise ConfigError(f'timezone: found {name!r}, allowed are IANA names such as "Europe/Berlin"') from error


def parse_every(every: object, where: str = "every") -> tuple[int, str | None]:
    """Read an interval, as a duration or as an unfinished `schedule` job, into (microseconds, "HH:MM" or None).

    `schedule.every(10).minutes` and `schedule.every().day.at("02:30")` are read; what can't be honoured of a schedule
    job (`to`, `until`, `do`, `tag`, a time zone of its own, a weekday other than Monday) is refused.
    """
    if not isinstance(every, schedule.Job):
        return parse_duration(every, where), None
    refused = {
        ".to()": every.latest is not None,
        ".until()": every.cancel_after is not None,
        ".do()": every.job_func is not None,
        ".tag()": bool(every.tags),
        ".at() with a time zone": every.at_time_zone is not None,
        f".{every.start_day}": every.start_day not in (None, "monday"),
        ".monday without .at()": every.start_day == "monday" and every.at_time is None,
        ".at() with seconds": every.at_time is not None and every.at_time.second != 0,
    }
    for what, given in refused.items():
        if given:
            raise ConfigError(f"{where}: found a schedule job with {what}, which can't be honoured here")
    if every.unit is None or not isinstance(every.interval, int):
        raise ConfigError(f"{where}: found a schedule job without a unit, allowed is every(10).minutes and the like")
    at = every.at_time.strftime("%H:%M") if every.at_time is not None else None
    if at is not None and every.unit not in ("days", "weeks"):
        raise ConfigError(f"{where}: found .at() with {every.unit}, allowed with whole days and weeks")
    return parse_duration(f"{every.interval}{every.unit[0]}", where), at


def parse_at(at: str, every: int, where: str = "at") -> tuple[int, int]:
    """Read "HH:MM" into (hour, minute); it goes with whole days and weeks only. Raises ConfigError."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at) if isinstance(at, str) else None
    if match is None:
        raise ConfigError(f'{where}: found {at!r}, allowed is "HH:MM", 00:00 to 23:59')
    if every % DAY:
        raise ConfigError(f"{where}: goes with an interval of whole days or weeks, found {format_duration(every)}")
    return int(match[1]), int(match[2])


class Grid:
    """The slots of a job: moments numbered by whole k, the same in every process and after every restart.

    Without `at`, slot k is `phase + k * every`, the phase a hash of the job's id, so that equal intervals spread. With
    `at`, it is that local time on every n-th day; whole weeks count from Monday. In a gap of daylight saving time it
    is the first instant after the gap, in a fold the first of the two.
    """

    __slots__ = ("_at", "_days", "_first_day", "_zone", "every", "phase")

    def __init__(self, job_id: str, every: int, at: tuple[int, int] | None = None, zone: tzinfo = UTC) -> None:
        digest = hashlib.blake2b(job_id.encode("utf-8", "replace"), digest_size=8).digest()
        self.every = every
        self.phase = int.from_bytes(digest) % every
        self._at = at
        self._zone = zone
        self._days = every // DAY
        self._first_day = date(1970, 1, 5 if every % WEEK == 0 else 1).toordinal()

    def __eq__(self, other: object) -> bool:
        """Whether it has the same slots; a zone tells the moments of `at` only."""
        return isinstance(other, Grid) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.every, self.phase) if self._at is None else (self.every, self._at, str(self._zone))

    def slot(self, k: int) -> int:
        """Return the moment of slot k."""
        if self._at is None:
            return self.phase + k * self.every
        day = date.fromordinal(self._first_day + k * self._days)
        return _first_instant(datetime(day.year, day.month, day.day, *self._at, tzinfo=self._zone))

    def index(self, moment: int) -> int:
        """Return the number of the last slot at or before `moment`."""
        if self._at is None:
            return (moment - self.phase) // self.every
        today = to_datetime(moment).astimezone(self._zone).date().toordinal()
        k = (today - self._first_day) // self._days + 1
        while self.slot(k) > moment:  # once or twice; a date may come back where clocks go back over midnight
            k -= 1
        return k

    def before(self, moment: int) -> int:
        """Return the last slot at or before `moment`."""
        return self.slot(self.index(moment))

    def after(self, moment: int) -> int:
        """Return the first slot after `moment`."""
        return self.slot(self.index(moment) + 1)

    def count(self, after: int, until: int) -> int:
        """Return how many slots lie in (after, until]."""
        return max(0, self.index(until) - self.index(after))


def _first_instant(local: datetime) -> int:
    """Return the first moment at which the wall clock of `local`'s zone shows that reading, or has passed it."""
    moment = from_datetime(local.astimezone(UTC))
    zone = cast(tzinfo, local.tzinfo)
    shown = to_datetime(moment).astimezone(zone)
    if shown.replace(tzinfo=None) == local.replace(tzinfo=None):
        return moment
    low, high = moment - DAY, moment  # the reading lies in a gap: find the instant at which the offset changes
    before = to_datetime(low).astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if to_datetime(middle).astimezone(zone).utcoffset() == before else (low, middle)
    return high


class TimetableJob(schedule.Job):
    """A `schedule.Job` whose next run is a moment on a `Grid` and whose clock is the Timetable's."""

    def __init__(self, grid: Grid, timetable: Timetable, call: Callable[[int], object]) -> None:
        super().__init__(grid.every, timetable)
        self.unit = "microseconds"
        self.grid = grid
        self.due: int | None = None  # next_run, in microseconds; None while it has none
        self.entry = 0  # which heap entry is the valid one
        self.call = call

    def __lt__(self, other: TimetableJob) -> bool:
        """Compare by next run; a job that has none comes last."""
        return (self.due is None, self.due or 0) < (other.due is None, other.due or 0)

    @property
    def should_run(self) -> bool:
        """Whether it is due, by the Timetable's clock."""
        return self.due is not None and self.due <= cast(Timetable, self.scheduler).now()

    def run(self) -> None:
        """Move to the next slot, then tell the owner which moment was due. The owner cannot raise (trap 2)."""
        due = cast(int, self.due)
        self._schedule_next_run()
        self.call(due)

    def _schedule_next_run(self) -> None:
        timetable = cast(Timetable, self.scheduler)
        timetable.set_due(self, self.grid.after(timetable.now()))


class Timetable(schedule.Scheduler):
    """A `schedule.Scheduler` on our clock: due jobs come off a heap instead of a scan. One thread owns it."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__()
        self.now = now
        self._heap: list[tuple[int, int, TimetableJob]] = []
        self._entries = itertools.count(1)

    def add(self, grid: Grid, call: Callable[[int], object]) -> TimetableJob:
        """Add a job that has no next run yet; `set_due` gives it one. `call(due)` is called when it comes."""
        job = TimetableJob(grid, self, call)
        self.jobs.append(job)
        return job

    def set_due(self, job: TimetableJob, due: int | None) -> None:
        """Move a job's next run; None takes it off the timetable until it gets another."""
        job.due = due
        job.next_run = None if due is None else _EPOCH + timedelta(microseconds=due)
        job.entry = next(self._entries)
        if due is not None:
            heapq.heappush(self._heap, (due, job.entry, job))
            if len(self._heap) > 64 and len(self._heap) > 3 * len(self.jobs):  # mostly entries that were moved since
                self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
                heapq.heapify(self._heap)

    def next_due(self) -> int | None:
        """Return the earliest moment at which a job is due."""
        while self._heap and self._heap[0][2].entry != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    @property
    def idle_seconds(self) -> float | None:
        """Return the seconds until a job is due; None if no job has a next run."""
        return None if (due := self.next_due()) is None else (due - self.now()) / SECOND

    def clear(self, tag: Hashable | None = None) -> None:
        """Take out all jobs, or those with a tag."""
        for job in self.get_jobs(tag):
            self.cancel_job(job)

    def run_pending(self) -> None:
        """Run the jobs that are due now, earliest first, each once however late it is."""
        now = self.now()
        due_now = []
        while (due := self.next_due()) is not None and due <= now:
            due_now.append(heapq.heappop(self._heap))
        for _, entry, job in due_now:
            if job.entry == entry:  # not moved by one that ran before it
                job.run()

    def cancel_job(self, job: schedule.Job) -> None:
        """Take a job out for good."""
        self.set_due(cast(TimetableJob, job), None)
        super().cancel_job(job)


# ======================================================================================================================
# 5  Breaker
# ======================================================================================================================


class Breaker:
    """Per job: who may run. Told the outcome after each run, never around it; told the time, never asks.

    After the k-th error in a row the job may retry after `delay * 2^(k-1)`, at most `longest`. From `threshold` errors
    on it is open: nothing but a probe at `retry_at`. The probe's success closes it, an error doubles the delay, a
    neutral end leaves the delay as it is.
    """

    __slots__ = ("_pause", "consecutive_errors", "consecutive_rate_limits", "delay", "longest", "opened_at", "retry_at",
                 "state", "threshold")

    def __init__(self, threshold: int, delay: int, longest: int) -> None:
        self.threshold = threshold
        self.delay = delay
        self.longest = longest
        self.reset()

    def reset(self) -> None:
        """Forget everything: closed, no errors."""
        self.state = BreakerState.CLOSED
        self.consecutive_errors = 0
        self.consecutive_rate_limits = 0
        self.opened_at: int | None = None
        self.retry_at: int | None = None
        self._pause = 0  # how far ahead `retry_at` was when it was set

    def backoff(self, n: int) -> int:
        """Return the delay after the n-th in a row."""
        return min(self.delay << min(n - 1, 40), self.longest) if n > 0 else 0

    def probe(self) -> None:
        """Say that a run goes through now; an open breaker becomes half-open."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN

    def success(self) -> None:
        self.reset()

    def error(self, now: int) -> None:
        self.consecutive_errors += 1
        self.consecutive_rate_limits = 0
        self.retry_at = now + self.backoff(self.consecutive_errors)
        self._pause = self.retry_at - now
        if self.consecutive_errors >= self.threshold or self.state is not BreakerState.CLOSED:
            self.state = BreakerState.OPEN
            self.opened_at = self.opened_at or now

    def rate_limited(self, now: int, retry_after: int) -> None:
        """Hear a 429: neither success nor error; the pause is the larger of what was asked and our own doubling."""
        self.consecutive_rate_limits += 1
        pause = max(retry_after, self.backoff(self.consecutive_rate_limits))
        self._not_judged(now)
        self.retry_at = max(now + pause, self.retry_at or 0)
        self._pause = self.retry_at - now

    def neutral(self, now: int, again_after: int | None = None) -> None:
        """Hear an end that says nothing about the service: skipped (which may ask for another look), interrupted."""
        self.consecutive_rate_limits = 0
        self._not_judged(now)
        if again_after is not None and self.state is BreakerState.CLOSED:
            self._pause, self.retry_at = again_after, now + again_after

    def _not_judged(self, now: int) -> None:
        """A probe that ended neutrally leaves the breaker open, with the same delay once more."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
        self._pause = self.backoff(self.consecutive_errors)
        self.retry_at = now + self._pause if self.state is BreakerState.OPEN else None

    def restore(self, row: Mapping[str, Any] | sqlite3.Row, now: int) -> None:
        """Take up what the store kept. An error's delay that lies further ahead than it ever was counts as now."""
        self.consecutive_errors = int(row["consecutive_errors"])
        self.consecutive_rate_limits = int(row["consecutive_rate_limits"])
        self.opened_at = _from_text_or_none(row["opened_at"])
        self.retry_at = _from_text_or_none(row["retry_at"])
        open_ = row["breaker"] != BreakerState.CLOSED or self.consecutive_errors >= self.threshold
        self.state = BreakerState.OPEN if open_ else BreakerState.CLOSED
        if self.state is BreakerState.OPEN:
            self.retry_at = now if self.retry_at is None else self.retry_at
            self.opened_at = self.opened_at or now
        if self.retry_at is not None:
            skipped = not open_ and dict(row).get("last_outcome") == Outcome.SKIPPED  # which asked for another look
            by_error = self.consecutive_errors > 0 and not self.consecutive_rate_limits and not skipped
            self._pause = self.backoff(self.consecutive_errors) if by_error else self.retry_at - now
        self.mend(now)

    def mend(self, now: int) -> None:
        """After a step of the clock: a retry that lies further ahead than its own delay counts as now."""
        if self.retry_at is not None and self.retry_at - now > self._pause:
            self.retry_at = now


# ======================================================================================================================
# 6  Budget
# ======================================================================================================================

_RATE = re.compile(r"(\d{1,9})/([smhd])")


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls to one service, shared by every collector that names it: `Budget("weather", rate="10/m", burst=5)`.

    `rate` is calls per unit (s, m, h, d); `burst` is how many may follow each other without the rate's pause. The
    ledger belongs to the scheduler and is stored. Raises ConfigError.
    """

    name: str
    rate: str = "10/m"
    burst: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"budget name: found {self.name!r}, allowed is text")
        where = f"budget {self.name}"
        match = _RATE.fullmatch(self.rate) if isinstance(self.rate, str) else None
        if match is None or not 0 < int(match[1]) <= 1_000_000:
            raise ConfigError(f'{where} rate: found {self.rate!r}, allowed are calls per unit such as "10/m"')
        if not isinstance(self.burst, int) or isinstance(self.burst, bool) or self.burst < 1:
            raise ConfigError(f"{where} burst: found {self.burst!r}, allowed is a whole number from 1")

    @property
    def calls(self) -> int:
        """How many calls one window holds."""
        return int(self.rate.partition("/")[0])

    @property
    def window(self) -> int:
        """The window of the rate, in microseconds: a minute for "10/m"."""
        return UNITS[self.rate.partition("/")[2]]

    @property
    def pause(self) -> int:
        """The rate's pause between two calls, in microseconds: 6 s for "10/m"."""
        return max(1, self.window // self.calls)


class Ledger:
    """What has been called of a Budget, and when the next call may go out. A decider: it is told the time, which is
    steady (a step of the clock opens and closes nothing); what is stored is wall time.

    Two rules at once. A call holds one of the rate's places from before it is sent until a window after its answer, so
    the far side never counts more than the rate in any window, however long the way. And no more than `burst` calls
    follow each other without the pause (GCRA: `_due` is when an evenly paced caller would be served up).
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.closed_until = 0
        self._places: dict[int, int | None] = {}  # place -> when it is free again; None while the answer is awaited
        self._due = 0
        self._refusal = 0  # the present delay after a 429; 0 after any other answer
        self._closed_for = 0  # how far ahead `closed_until` was when it was set
        self._numbers = itertools.count(1)

    def next_free(self, now: int) -> int | None:
        """Return when the next call may go out (`now` if at once); None while that hangs on answers still awaited."""
        self._forget(now)
        moment = max(now, self.closed_until, self._due - (self.budget.burst - 1) * self.budget.pause)
        short = len(self._places) - self.budget.calls + 1
        if short > 0:
            ends = sorted(end for end in self._places.values() if end is not None)
            if len(ends) < short:
                return None
            moment = max(moment, ends[short - 1])
        return moment

    def free(self, now: int) -> int:
        """Return how many calls could go out now, one after the other."""
        self._forget(now)
        if self.closed_until > now:
            return 0
        paced = (now - max(self._due, now)) // self.budget.pause + self.budget.burst
        return max(0, min(self.budget.calls - len(self._places), paced))

    def take(self, now: int) -> int:
        """Take a place for a call that goes out now; returns its number."""
        place = next(self._numbers)
        self._places[place] = None
        self._due = max(self._due, now) + self.budget.pause
        return place

    def answered(self, place: int, now: int, *, refused: bool = False, heard: bool = True,
                 retry_after: int = 0) -> None:
        """Note a call's end: a 429 (`refused`), any other answer (`heard`), or none at all."""
        if place in self._places:
            self._places[place] = now + self.budget.window
        if refused:
            self._refusal = min(max(self._refusal * 2, self.budget.pause), 5 * MINUTE)
            self.closed_until = max(self.closed_until, now + max(retry_after, self._refusal))
            self._closed_for = self.closed_until - now
        elif heard:
            self._refusal = 0

    def dump(self, ahead: int = 0) -> str:
        """Return the ledger as JSON, for `geckosched_budgets.calls`; the wall clock is `ahead` of the steady time."""
        places = [None if end is None else end + ahead for end in self._places.values()]
        return json.dumps({"places": places, "due": self._due + ahead, "refusal": self._refusal,
                           "closed_for": self._closed_for})

    def load(self, calls: str, closed_until: int, now: int) -> None:
        """Take up a stored ledger. A call whose answer nobody saw may have been sent until now."""
        stored = json.loads(calls)
        for end in stored["places"]:
            self._places[next(self._numbers)] = now + self.budget.window if end is None else end
        self._due = stored["due"]
        self._refusal = stored["refusal"]
        self._closed_for = stored["closed_for"]
        self.closed_until = closed_until
        self.mend(now)

    def change(self, budget: Budget, now: int) -> None:
        """Go on with another rate or burst. What was called before still counts: each place is held for the new
        window, and as many calls as were ahead of the pace are so by the new pause."""
        old, self.budget = self.budget, budget
        longer = budget.window - old.window
        self._places = {place: None if end is None else end + longer for place, end in self._places.items()}
        self._due = now + max(0, self._due - now) * budget.pause // old.pause
        self.mend(now)

    def mend(self, now: int) -> None:
        """The clock was set back while nobody led: no place is held longer than a window from now, no pause is longer
        than the burst's."""
        latest = now + self.budget.window
        self._places = {place: None if end is None else min(end, latest) for place, end in self._places.items()}
        self._due = min(self._due, now + self.budget.burst * self.budget.pause)
        self.closed_until = min(self.closed_until, now + self._closed_for)

    def _forget(self, now: int) -> None:
        for place in [place for place, end in self._places.items() if end is not None and end <= now]:
            del self._places[place]


class Service:
    """A budget in use: its ledger, the calls that wait, and the runs of jobs that name it. `declared` is the budget as
    collectors say it; None while only the store has said it."""

    def __init__(self, budget: Budget) -> None:
        self.declared: Budget | None = budget
        self.ledger = Ledger(budget)
        self.waiting: list[tuple[int, int, Execution, Inbox]] = []
        self.running = 0
        self.priorities: collections.Counter[int] = collections.Counter()


class Switchboard:
    """The budgets in use, by name: which calls wait, and which goes out next, by the job's priority, then by age.

    The ticker owns it. `save(ledger, reply, answer)` commits a ledger, and then answers: a place is committed before
    its call is sent. The configuration's rate and burst (`overrides`) win over what collectors say.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, Any]],
                 save: Callable[[Ledger, Inbox | None, Any], None]) -> None:
        self._overrides = overrides
        self._save = save
        self._services: dict[str, Service] = {}
        self._numbers = itertools.count(1)

    def use(self, budget: Budget) -> Service:
        """Return the service of a budget, made at first use."""
        service = self._services.get(budget.name)
        if service is None:
            service = self._services[budget.name] = Service(budget)
            service.ledger.budget = self._overridden(budget)
        elif service.declared is None:
            service.declared = budget
            service.ledger.budget = self._overridden(budget)
        return service

    def _overridden(self, budget: Budget) -> Budget:
        return dataclasses.replace(budget, **self._overrides.get(budget.name, {}))

    def restore(self, row: sqlite3.Row, now: int) -> None:
        """Take up a stored ledger; rate and burst are what a collector or the configuration says now."""
        service = self.use(Budget(row["name"], row["rate"], row["burst"]))
        service.declared = None
        service.ledger.load(row["calls"], _from_text_or_none(row["closed_until"]) or 0, now)

    def override(self, overrides: Mapping[str, Mapping[str, Any]], now: int) -> None:
        """Let other rates and bursts of the configuration win from now on; the ledgers go on."""
        self._overrides = overrides
        for service in self._services.values():
            if service.declared is not None and (wanted := self._overridden(service.declared)) != service.ledger.budget:
                service.ledger.change(wanted, now)
                self._save(service.ledger, None, True)

    def count_job(self, budget: Budget | None, priority: int, count: int, now: int) -> None:
        """Note that a job which names a budget comes (1) or goes (-1)."""
        if budget is not None:
            service = self.use(budget)
            if count > 0:
                service.declared = budget
            if (wanted := self._overridden(service.declared or budget)) != service.ledger.budget:
                service.ledger.change(wanted, now)
            service.priorities[priority] += count
            service.priorities = +service.priorities

    def is_most_urgent(self, budget: Budget, priority: int) -> bool:
        """Whether no job that names this budget has a higher priority."""
        return priority >= max(self.use(budget).priorities, default=priority)

    def has_room(self, name: str, urgent: bool, workers: int, now: int) -> bool:
        """Whether a run of a job that names this budget may start: it is open, and has not got its share of the
        workers: half of them, at least one, the last of these only for its most urgent jobs."""
        service, share = self._services[name], max(1, workers // 2)
        return service.ledger.closed_until <= now and service.running < (share if urgent or share == 1 else share - 1)

    def ask(self, execution: Execution, budget: Budget, priority: int, reply: Inbox, now: int) -> None:
        """Let a call wait for its turn; `reply` gets the number of its place."""
        service = self.use(budget)
        heapq.heappush(service.waiting, (-priority, next(self._numbers), execution, reply))
        self._serve(service, now)

    def serve(self, now: int) -> None:
        """Let out the calls that may go now."""
        for service in self._services.values():
            self._serve(service, now)

    def _serve(self, service: Service, now: int) -> None:
        while service.waiting and service.ledger.next_free(now) == now:
            *_, reply = heapq.heappop(service.waiting)
            place = service.ledger.take(now)
            self._save(service.ledger, reply, place)

    def end(self, name: str, place: int, now: int, **how: Any) -> None:
        """Note how a call ended; what that does to the budget is the ledger's to say."""
        ledger = self._services[name].ledger
        ledger.answered(place, now, **how)
        self._save(ledger, None, True)

    def free(self, budget: Budget, priority: int, now: int) -> int:
        """Return how many calls could go out now; none while a run of higher priority waits."""
        service = self.use(budget)
        outranked = bool(service.waiting) and service.waiting[0][0] < -priority
        return 0 if outranked else service.ledger.free(now)

    def dismiss(self, execution: Execution, why: RunStopped) -> None:
        """Answer the calls that a run waits for: it must end."""
        for service in self._services.values():
            for entry in [entry for entry in service.waiting if entry[2] is execution]:
                service.waiting.remove(entry)
                entry[3].put(why)
            heapq.heapify(service.waiting)

    def next_moment(self, now: int, *, runs_wait: bool) -> int | None:
        """Return when something may go out next: a call that waits, or a run that waits for a closed budget."""
        moments: list[int | None] = []
        for service in self._services.values():
            if service.waiting:
                moments.append(service.ledger.next_free(now))
            if runs_wait and service.ledger.closed_until > now:
                moments.append(service.ledger.closed_until)
        return min((moment for moment in moments if moment is not None), default=None)

    def save(self) -> None:
        """Store all ledgers anew, after a step of the clock."""
        for service in self._services.values():
            self._save(service.ledger, None, True)


# ======================================================================================================================
# 7  Collectors
# ======================================================================================================================

class Collector:
    """Base of collectors: fetches rows and hands them over. One instance per job; `collect` runs on a worker thread.

    `Options` is a dataclass of the collector's options, or None for a plain dict. `budget` is whose calls it makes,
    `calls_per_run` how many: a number (0.8 is one, too), or a function of the options that returns one. A function with
    a second parameter `setup` is handed a `geckosched.Setup`, since what one collector asks may depend on other jobs of
    its plugin. Only `geckosched check` goes by it, until a job's history tells better; what it raises is said there.
    With `enabled = False` a plugin's collector is off until its table in the configuration says `enabled = true`.
    """

    name: str = ""
    every: object = "1h"
    Options: type | None = None
    timeout: Duration | None = None
    priority: int = 0
    max_consecutive_errors: int | None = None
    budget: Budget | None = None
    calls_per_run: float | Callable[..., float] = 0
    enabled: bool = True

    def collect(self, run: RunContext) -> Any:
        """Yield batches (each yield is one transaction, and returns when it is committed), or return them, or None."""
        raise ConfigError(f"{type(self).__name__} has no collect(run) for job {run.job_id}")


class FunctionCollector(Collector):
    """A collector made from a function; calling it calls the function."""

    def __init__(self, function: Callable[[RunContext], Any], **settings: Any) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        for name, value in settings.items():
            setattr(self, name, value)

    def collect(self, run: RunContext) -> Any:
        return self.function(run)

    __call__ = collect


def collector(
    name: str,
    *,
    every: object = "1h",
    options: type | None = None,
    timeout: Duration | None = None,
    priority: int = 0,
    max_consecutive_errors: int | None = None,
    budget: Budget | None = None,
    calls_per_run: float | Callable[..., float] = 0,
    enabled: bool = True,
) -> Callable[[Callable[[RunContext], Any]], FunctionCollector]:
    """Make a collector of a function `f(run)`; the keywords are the attributes of `Collector`."""
    if callable(name):
        raise ConfigError('collector: found a function, allowed is a name: @collector("name")')
    settings = {"name": name, "every": every, "Options": options, "timeout": timeout, "priority": priority,
                "max_consecutive_errors": max_consecutive_errors, "budget": budget,
                "calls_per_run": calls_per_run, "enabled": enabled}
    return lambda function: FunctionCollector(function, **settings)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one table.

    `rows` is an iterable of mappings. With `pk` (a column or several), "update" touches only the keys that a row has,
    and only rows that really change; "ignore" keeps the old row. Without `pk` rows are appended. `stamp` names columns
    that are written when a row is inserted or otherwise changes, and never compared. `index` names the columns of an
    index, or several such groups. New keys become columns. Values are stored as given; `Decimal` and integers over 63
    bits become text, aware datetimes our UTC text, dicts and lists JSON; NaN becomes NULL, as SQLite has it.
    """

    table: str
    rows: Iterable[Mapping[str, Any]]
    pk: str | Sequence[str] | None = None
    on_conflict: str = "update"
    index: Sequence[str] | Sequence[Sequence[str]] = ()
    stamp: str | Sequence[str] = ()


class RowGroup(NamedTuple):
    """Consecutive rows of one batch that have the same keys: what one prepared statement writes."""

    table: str
    columns: tuple[str, ...]
    pk: tuple[str, ...]
    on_conflict: str
    stamp: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    rows: list[tuple[Any, ...]]


def row_groups(batch: Batch) -> list[RowGroup]:
    """Draw a batch's rows and make them storable. What can't be stored raises YieldRefused naming table and key; what
    the iterable itself raises goes through. Runs on the worker: iterables and `str(value)` are plugin code."""
    pk, stamp, index = _names(batch.pk), _names(batch.stamp), _index(batch.index)
    _check_batch(batch, pk, stamp, index)
    groups: list[RowGroup] = []
    columns: tuple[str, ...] | None = None
    for number, row in enumerate(batch.rows, 1):
        if not isinstance(row, Mapping) or not row:
            raise YieldRefused(f"{batch.table} row {number}: found {type(row).__name__}, allowed are filled mappings")
        keys = tuple(row)
        if keys != columns:
            _check_columns(batch.table, keys, (*pk, *stamp))
            groups.append(RowGroup(batch.table, keys, pk, batch.on_conflict, stamp, index, []))
            columns = keys
        values = tuple(_to_sql(value, batch.table, key) for key, value in row.items())
        for key in pk:
            value = values[keys.index(key)]
            if value is None or value != value:  # NaN is NULL in SQLite, and NULLs are never equal
                raise YieldRefused(f"{batch.table}.{key} row {number}: found {row[key]!r}, allowed in a key is no NULL")
        groups[-1].rows.append(values)
    return groups


def _names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _index(index: Sequence[str] | Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    if isinstance(index, str):
        return ((index,),)
    if all(isinstance(item, str) for item in index):
        return (tuple(cast(Sequence[str], index)),) if index else ()
    return tuple(_names(item) for item in index)


def _check_batch(batch: Batch, pk: tuple[str, ...], stamp: tuple[str, ...], index: tuple[tuple[str, ...], ...]) -> None:
    table = batch.table
    if not isinstance(table, str) or not table or "\0" in table:
        raise YieldRefused(f"table: found {table!r}, allowed are names")
    if table.lower().startswith(("geckosched_", "sqlite_", "_sqlite")):
        raise YieldRefused(f"table {table}: names that begin with geckosched_, sqlite_ or _sqlite are taken")
    if batch.on_conflict not in ("update", "ignore"):
        raise YieldRefused(f"{table} on_conflict: found {batch.on_conflict!r}, allowed: update, ignore")
    for name in itertools.chain(pk, stamp, *index):
        if not isinstance(name, str) or not name:
            raise YieldRefused(f"{table}: found {name!r} in pk, stamp or index, allowed are names of columns")
    if set(pk) & set(stamp):
        raise YieldRefused(f"{table}: a column can't be in pk and in stamp")


_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def _fold(name: str) -> str:
    """Return a name as SQLite compares it: without case, of the letters A to Z only."""
    return name.translate(_LOWER)


def _check_columns(table: str, keys: tuple[str, ...], needed: tuple[str, ...]) -> None:
    for key in keys:
        if not isinstance(key, str) or not key or "\0" in key:
            raise YieldRefused(f"{table}: found the key {key!r}, allowed are names of columns")
    if len({_fold(key) for key in keys}) < len(keys):
        raise YieldRefused(f"{table}: a row has two keys that differ in case only: {', '.join(sorted(keys))}")
    for key in needed:
        if key not in keys:
            raise YieldRefused(f"{table}.{key}: a row lacks this key, which pk or stamp names")


def _to_json(value: Any) -> str:
    """Return the text for what stands in a dict or list and isn't JSON."""
    if isinstance(value, datetime):
        return to_text(from_datetime(value))  # which refuses naive ones
    if isinstance(value, Decimal | date):
        return str(value)
    raise TypeError(f"found {type(value).__name__}")


_AS_IT_IS = frozenset((str, float, bytes, type(None)))


def _to_sql(value: Any, table: str, key: str) -> Any:
    """Return what SQLite stores for a value (see Batch). Raises YieldRefused."""
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(int(value))
    if isinstance(value, str | Decimal):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise YieldRefused(f"{table}.{key}: found the naive datetime {value.isoformat()}, allowed are aware ones")
        return to_text(from_datetime(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, dict | list | tuple):
        text, error = _guard(lambda: json.dumps(value, ensure_ascii=False, allow_nan=False, default=_to_json))
        if error is not None:
            raise YieldRefused(f"{table}.{key}: found what JSON can't say ({_one_line(error)})")
        return text
    allowed = "str, int, float, bool, None, bytes, Decimal, date, aware datetime, dict, list"
    raise YieldRefused(f"{table}.{key}: found {kind.__name__}, allowed are {allowed}")


def state_text(state: Any) -> str:
    """Return a job's cursor as JSON text. State that JSON would change raises YieldRefused naming the key."""
    if not isinstance(state, dict):
        raise YieldRefused(f"run.state: found {type(state).__name__}, allowed is a dict")
    if (text := _faithful_text(state)) is not None:
        return text
    path, _ = _guard(lambda: _unfaithful(state))  # which may be deeper than Python goes
    raise YieldRefused(f"run.state{path or ''}: JSON would change it, allowed are dicts with text keys, "
                       "lists, text, finite numbers, bools and None")


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _faithful_text(value: Any) -> str | None:
    """Return a value's JSON text; None if it would come back as something else."""
    def text_that_comes_back() -> str | None:
        text = _JSON.encode(value)
        return text if text.encode() and json.loads(text) == value else None

    text, error = _guard(text_that_comes_back)
    return None if error is not None else text


def _unfaithful(value: Any, path: str = "", inside: tuple[int, ...] = ()) -> str:
    """Return the path of the first thing in `value` that JSON would change, or that contains itself."""
    inside = (*inside, id(value))
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        below = f"{path}[{key!r}]"
        bad_key = isinstance(value, dict) and not (isinstance(key, str) and _faithful_text(key) is not None)
        if bad_key or id(child) in inside:
            return below
        if _faithful_text(child) is None:
            return _unfaithful(child, below, inside) if isinstance(child, dict | list) else below
    return path


class Loss(NamedTuple):
    """Data that a service had and no longer shows: a row of `geckosched_losses`."""

    target: str
    amount: int
    since: str
    until: str


class RunPort(Protocol):
    """What a RunContext stands on: the scheduler's Execution, or a test's stand-in."""

    @property
    def stopping(self) -> bool: ...
    def now(self) -> int: ...
    def pause(self, seconds: float) -> None: ...
    def commit(self, groups: list[RowGroup], state: str | None, losses: list[Loss]) -> None: ...
    def query(self, sql: str, params: Any) -> list[dict[str, Any]]: ...
    def take_call(self, budget: Budget) -> int: ...
    def end_call(self, budget: Budget, place: int, error: BaseException | None) -> None: ...
    def calls_free(self, budget: Budget) -> int: ...
    def shared(self, key: object, factory: Callable[[], Any]) -> Any: ...


class RunContext:
    """The `run` that a collector gets: who it is, what it knows, and everything it may ask for."""

    def __init__(self, port: RunPort, *, run_id: int, job_id: str, reason: Reason, scheduled_for: int | None,
                 started_at: int, options: Any, settings: Mapping[str, Any], budget: Budget | None,
                 saved_state: str, secrets: Secrets | None = None) -> None:
        self.id = run_id
        self.job_id = job_id
        self.reason = reason
        self.scheduled_for = None if scheduled_for is None else to_datetime(scheduled_for)
        self.started_at = to_datetime(started_at)
        self.options = options
        self.settings = settings
        self.state: dict[str, Any] = {}
        self.calls = 0
        self.saved_state = saved_state
        self.failed_targets: dict[str, str] = {}
        self.first_traceback: str | None = None
        self.good_targets: set[str] = set()
        self._losses: list[Loss] = []
        self._port = port
        self._budget = budget
        self._secrets = Secrets() if secrets is None else secrets
        self._log: logging.Logger | None = None
        self.put_back()

    @property
    def log(self) -> logging.Logger:
        """A logger of this job: `geckosched.job.JOB_ID`. Its records show no secret of the configuration, and have the
        attributes `job_id` and `run_id`."""
        if self._log is None:
            speaker = log.getChild("job").getChild(self.job_id)
            self._log = SafeLogger(speaker, self._secrets, job_id=self.job_id, run_id=self.id)
        return self._log

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to end: at its time limit, or because the scheduler stops."""
        return self._port.stopping

    def now(self) -> datetime:
        """Return the time of the scheduler's clock, aware UTC. Collectors use no other clock."""
        return to_datetime(self._port.now())

    def sleep(self, seconds: float) -> None:
        """Wait on the scheduler's clock. Raises RunStopped as soon as the run must end."""
        self._port.pause(seconds)

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Read from the store (read-only): all that is committed, as a list of dicts."""
        return self._port.query(sql, params)

    def shared(self, key: object, factory: Callable[[], Any]) -> Any:
        """Return the one object of this key that all runs of the scheduler share, made by `factory` at first use; its
        `close()`, if it has one, is called when the scheduler stops."""
        return self._port.shared(key, factory)

    @contextlib.contextmanager
    def target(self, name: str) -> Iterator[None]:
        """Guard the work on one target: an exception is that target's problem, puts `run.state` back to what was last
        saved, drops losses announced since, and the run goes on. Signals go through."""
        try:
            yield
        except Exception as error:
            self.problem(name, error)
            self.put_back()
        else:
            self.good_targets.add(str(name))

    def problem(self, target: str, error: BaseException | str) -> None:
        """Note that a target failed; the run goes on and ends partial, or failed if no target was well. The run's row
        keeps each text and the traceback of the first. Signals are handed on, so that `except BaseException as e:
        run.problem(x, e)` can't swallow them."""
        if isinstance(error, Signal):
            raise error
        if isinstance(error, BaseException):
            text = self._secrets.one_line(error)
            self.first_traceback = self.first_traceback or _traceback(error, self._secrets)
        else:
            text = _clean(" ".join(self.hide(str(error)).split()))
        self.failed_targets.setdefault(_clean(str(target)), text)

    def lost(self, target: str, count: int, since: datetime | float, until: datetime | float) -> None:
        """Announce data that the service no longer shows: about `count` of `target` between `since` and `until` (aware
        datetimes or epoch seconds). Stored with the next yield or the normal end, as the state is."""
        span = []
        for name, moment in (("since", since), ("until", until)):
            if isinstance(moment, datetime):
                span.append(to_text(from_datetime(moment)))
            elif isinstance(moment, int | float) and 0 <= moment < 1e11:
                span.append(to_text(round(moment * SECOND)))
            else:
                raise ConfigError(f"lost {name}: found {moment!r}, allowed are aware datetimes and epoch seconds")
        self._losses.append(Loss(_clean(self.hide(str(target))), max(0, int(count)), *span))

    def hide(self, text: str) -> str:
        """Return a text with `***` in place of the configuration's secrets. What a run tells by its log, its errors and
        its targets is treated so anyway; this is for who cuts a text first. Rows and state are never altered."""
        return self._secrets.hide(text)

    def call(self, budget: Budget | None = None) -> HeldCall:
        """Wait for, then hold one call of the budget (the collector's own unless named) in a `with` block.

        How the block ends is what the budget hears: `RateLimited` is a 429, a normal end any other answer, another
        exception no answer. Without a budget nothing waits, and the call is only counted. Raises RunStopped.
        """
        return HeldCall(self, self._port, self._named(budget))

    def calls_free(self, budget: Budget | None = None) -> int:
        """Return how many calls would go out now without waiting, 0 while a run of higher priority waits for one. A
        collector without a budget has no limit: `sys.maxsize`."""
        budget = self._named(budget)
        return sys.maxsize if budget is None else self._port.calls_free(budget)

    def _named(self, budget: Budget | None) -> Budget | None:
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigError(f"budget: found {budget!r}, allowed is a Budget")
        return budget or self._budget

    def put_back(self) -> None:
        """Put the state back to what was last saved, and drop the losses that go with what was not saved."""
        saved, error = _guard(lambda: json.loads(self.saved_state))
        if error is not None or not isinstance(saved, dict):
            found = self.hide(self.saved_state)[:60]
            raise StoreError(f"job {self.job_id}: its stored state is no JSON object: {found!r}")
        if not isinstance(self.state, dict):
            self.state = {}
        self.state.clear()  # in place: the collector may have a name of its own for it
        self.state.update(saved)
        self._losses.clear()

    def store(self, batches: Iterable[Batch], *, last: bool = False) -> None:
        """Commit batches, state and losses as one transaction (what a yield does). Raises what the rows' iterables
        raise, YieldRefused, or, after the commit, RunStopped if the run must end and this was not its `last`."""
        groups = [group for batch in batches for group in row_groups(batch)]
        text = state_text(self.state)
        changed = text if text != self.saved_state else None
        if groups or changed or self._losses:
            self._port.commit(groups, changed, self._losses)
            self.saved_state = text
            self._losses = []
        if self.stopping and not last:
            raise RunStopped("the run must end")


class HeldCall:
    """One call of a budget, or of none, from before it is sent until its answer."""

    def __init__(self, run: RunContext, port: RunPort, budget: Budget | None) -> None:
        self._run = run
        self._port = port
        self._budget = budget
        self._place = 0

    def __enter__(self) -> None:
        if self._budget is not None:
            self._place = self._port.take_call(self._budget)
        elif self._run.stopping:
            raise RunStopped("the run must end")
        self._run.calls += 1

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._budget is not None:
            self._port.end_call(self._budget, self._place, error)


# ======================================================================================================================
# 8  Plugins
# ======================================================================================================================

OUR_OPTIONS = ("use", "every", "at", "timeout", "priority", "max_consecutive_errors", "quiet", "enabled")


OptionsReader = Callable[[type, Mapping[str, Any], str], Any]
TablesReader = Callable[["CollectorRegistry"], Mapping[str, Mapping[str, Any]]]


def read_options(options_type: type, values: Mapping[str, Any], where: str) -> Any:
    """Build a collector's Options from a table: unknown keys, missing keys and `__post_init__` errors are ConfigErrors.

    Types are not checked here: what Python code passes is its own affair. `config.py` has a reader that checks them.
    """
    fields = {f.name: f for f in dataclasses.fields(options_type) if f.init}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where} {key}: unknown option{_closest(key, fields)}")
    missing = missing_options(options_type, values)
    if missing:
        raise ConfigError(f"{where}: needs {', '.join(f'`{name}`' for name in missing)}")
    made, error = _guard(lambda: options_type(**values))
    if error is not None:
        raise ConfigError(f"{where}: {_one_line(error)}") from error
    return made


def missing_options(options_type: type | None, values: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that have no default and no value."""
    if options_type is None:
        return []
    none = dataclasses.MISSING
    wanted = [f for f in dataclasses.fields(options_type) if f.init and f.default is none and f.default_factory is none]
    return [f.name for f in wanted if f.name not in values]


hookspec = pluggy.HookspecMarker("geckosched")
hookimpl = pluggy.HookimplMarker("geckosched")


class HookSpecifications:
    """The hooks of a plugin, which is a module, or an object made of a class by calling it with the settings.

    A hook may leave out arguments that it doesn't need. The first two are called while plugins are loaded. The others
    are told by the process that leads, after the commit, in order, on a thread of the plugin's own (see `Hooks`).
    """

    @hookspec
    def register_collectors(self, register: Callable[[Any], None], settings: Mapping[str, Any]) -> None:
        """Call `register(collector)` for each collector; `settings` is the table `[plugins.NAME]`."""

    @hookspec
    def register_commands(self, app: Any) -> None:
        """Add commands to `app` (a typer app); they stand as `geckosched NAME COMMAND`."""

    @hookspec
    def run_started(self, run: Run) -> None:
        """A run's row is committed; its collector is called about now."""

    @hookspec
    def run_finished(self, run: Run) -> None:
        """A run is closed, with its outcome; a run that a killed process left, when the next leader closes it."""

    @hookspec
    def breaker_changed(self, job_id: str, old: BreakerState, new: BreakerState, reason: str) -> None:
        """A job's breaker opened, closed, or lets its probe through; `reason` is a sentence for people."""

    @hookspec
    def health_changed(self, job_id: str, old: Health, new: Health, reason: str) -> None:
        """A job's health is another one than at the last look, `health_check_interval` ago; what it was before this
        process took the lead counts as unknown, and is no change."""


@dataclass(frozen=True, slots=True)
class RegisteredCollector:
    """A collector that a plugin brought, or Python code registered (`plugin` is None)."""

    collector: Any
    plugin: str | None
    settings: Mapping[str, Any]


class CollectorRegistry:
    """The plugins of one scheduler and the collectors they brought. A broken plugin is kept, with the reason; it stops
    neither the host nor another plugin, so one at a time is loaded, checked and called (trap 6), and what doesn't come
    back from its import or its `register_collectors` within `patience` seconds is given up."""

    patience = 60.0
    warn_after = 5.0  # seconds

    def __init__(self, secrets: Secrets | None = None) -> None:
        self.secrets = Secrets() if secrets is None else secrets
        self.log = SafeLogger(log, self.secrets)
        self.plugins: dict[str, PluginStatus] = {}
        self.collectors: dict[str, RegisteredCollector] = {}
        self.withheld: dict[str, RegisteredCollector] = {}  # of plugins whose settings are wrong: to judge options by
        self.not_scheduled: dict[str, str] = {}
        self.off_by_default: set[str] = set()  # job ids: their collectors say so, and the configuration doesn't object
        self._listeners: dict[str, tuple[str, ...]] = {}
        self._managers: dict[str, pluggy.PluginManager] = {}  # each plugin's own: what one is made of concerns no other

    def load_entry_points(self, only: Iterable[str] | None, disable: Iterable[str],
                          settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Load the installed plugins in the order of their names; `disable` and `only` act before an import."""
        found = sorted(importlib.metadata.entry_points(group="geckosched"), key=lambda entry: (entry.name, entry.value))
        wanted = None if only is None else set(only)
        for entry in found:
            if entry.name not in set(disable) and (wanted is None or entry.name in wanted):
                dist = (entry.dist.name, entry.dist.version) if entry.dist is not None else (None, None)
                self._add(entry.name, entry.load, settings.get(entry.name, {}), dist)

    def load_file(self, path: str | os.PathLike[str], settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Load a plugin that is one Python file; its name is the file's."""
        name = Path(path).stem
        self._add(name, lambda: _import_file(Path(path)), settings.get(name, {}), (None, None))

    def add(self, plugin: object, name: str | None, settings: Mapping[str, Mapping[str, Any]]) -> str:
        """Add a plugin object (module, class or instance) of an embedder; returns its name."""
        name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        return self._add(name, lambda: plugin, settings.get(name, {}), (None, None))

    @property
    def broken(self) -> frozenset[str]:
        """The names of the plugins that can't be used; their jobs are unhealthy."""
        return frozenset(plugin.name for plugin in tuple(self.plugins.values()) if not plugin.ok)

    def call(self, plugin: str, hook: str, **arguments: Any) -> None:
        """Call one hook of one plugin. Raises PluginError with the reason if the plugin does."""
        _, error = _guard(lambda: getattr(self._managers[plugin].hook, hook)(**arguments))
        if error is not None:
            raise PluginError(f"plugin {plugin}: {hook}: {_one_line(error)}") from error

    def listeners(self, hook: str) -> tuple[str, ...]:
        """Return the names of the plugins that have a hook, in the order of the names."""
        known = self._listeners  # when plugins change there is a new one, and what is found here is not kept
        found = known.get(hook)
        if found is None:
            managers = tuple(self._managers.items())
            names = (name for name, manager in managers if getattr(manager.hook, hook).get_hookimpls())
            found = known[hook] = tuple(sorted(names))
        return found

    def _add(self, name: str, load: Callable[[], Any], settings: Mapping[str, Any],
             distribution: tuple[str | None, str | None]) -> str:
        taken = name in self.plugins
        if taken:
            name = f"{name} ({distribution[0] or len(self.plugins)})"
        brought: dict[str, Any] = {}
        error: BaseException | None = PluginError("another plugin has this name") if taken else None
        if error is None:
            _, error = _guard(lambda: self._register(name, load, settings, brought))
        if error is not None:
            if isinstance(error.__cause__, ConfigError):
                self.withheld.update((each, RegisteredCollector(brought[each], name, settings)) for each in brought)
            brought.clear()
            if not taken:
                self._managers.pop(name, None)
            self.log.warning("plugin %s is broken: %s%s", name, self.secrets.one_line(error), _origin(error))
        for collector_name, made in brought.items():
            self.collectors[collector_name] = RegisteredCollector(made, name, settings)
        text = None if error is None else self.secrets.one_line(error) + _origin(error)
        self.plugins[name] = PluginStatus(name, *distribution, error is None, text, tuple(sorted(brought)))
        self._listeners = {}
        return name

    def _register(self, name: str, load: Callable[[], Any], settings: Mapping[str, Any],
                  brought: dict[str, Any]) -> None:
        plugin = self._wait_for(name, "its import", load)
        if isinstance(plugin, type):
            plugin = self._wait_for(name, "its making", lambda: cast(Any, plugin)(settings))
        manager = pluggy.PluginManager("geckosched")
        manager.add_hookspecs(HookSpecifications)
        manager.register(plugin, name)
        manager.check_pending()
        hooks = [hook.name for hook in manager.get_hookcallers(plugin) or ()]
        if not hooks:
            raise PluginError("it has no hooks: is @hookimpl missing on register_collectors?")
        for hook in hooks:
            if inspect.iscoroutinefunction(getattr(plugin, hook, None)):
                raise PluginError(f"{hook} is async, allowed are plain functions and methods")

        def register(made: Any) -> None:
            collector_name = check_collector(made)
            if collector_name in brought or collector_name in self.collectors:
                owner = self.collectors[collector_name].plugin if collector_name in self.collectors else name
                raise PluginError(f'collector name "{collector_name}" is taken by plugin {owner}')
            brought[collector_name] = made

        self._managers[name] = manager

        def ask() -> None:
            self.call(name, "register_collectors", register=register, settings=settings)

        self._wait_for(name, "register_collectors", ask)

    def _wait_for(self, plugin: str, what: str, call: Callable[[], Any]) -> Any:
        """Call plugin code on a daemon thread and wait for it, but not for ever. Raises what it raised."""
        answer = Inbox()
        thread = threading.Thread(target=lambda: answer.put(_guard(call)), name=f"geckosched-load-{plugin}")
        thread.daemon = True
        thread.start()
        answer.wait(min(self.warn_after, self.patience))
        if not answer:
            self.log.warning("plugin %s: %s takes long%s", plugin, what, _whereabouts(thread))
            answer.wait(self.patience - self.warn_after)
        if not (answers := answer.drain()):
            raise PluginError(f"{what} has not returned for {self.patience:g} s{_whereabouts(thread)}")
        made, error = answers[0]
        if isinstance(error, KeyboardInterrupt):  # the plugin's: the user's comes on the main thread only
            raise PluginError(f"{what} raised KeyboardInterrupt") from error
        if error is not None:
            raise error
        return made


def _join(thread: threading.Thread, until: float, hurry: threading.Event) -> None:
    """Wait for a thread to end, `until` then (time.monotonic) or until there is a `hurry`. The caller may be that
    thread: a hook that stops the scheduler."""
    if thread is not threading.current_thread():
        while thread.is_alive() and (left := until - time.monotonic()) > 0 and not hurry.is_set():
            thread.join(min(0.1, left))


class Hooks:
    """Tells plugins what happened, each on a daemon thread of its own, so that one that hangs silences nobody else.

    Telling never waits: `LIMIT` events may wait for a plugin, what does not fit is dropped and counted. What a hook
    raises stops nothing, not even its own next event; the last such error is kept for `geckosched plugins`.
    """

    LIMIT = 1000
    SLOW = 10.0  # seconds after which a hook that has not returned is said to hang

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._ears: dict[str, Ear] = {}
        self._closed = False
        self._lock = threading.Lock()

    def are_heard(self, hook: str) -> bool:
        """Whether some plugin has this hook."""
        return bool(self._registry.listeners(hook))

    def tell(self, hook: str, **arguments: Any) -> None:
        """Let every plugin that has this hook hear of something. Neither waits nor raises."""
        for plugin in self._registry.listeners(hook):
            with self._lock:
                if self._closed:  # a thread begun now would have no end
                    return
                ear = self._ears.get(plugin) or self._ears.setdefault(plugin, Ear(plugin, self._registry))
            ear.put(hook, arguments)

    def close(self, until: float, hurry: threading.Event) -> None:
        """Let the plugins hear what was told, `until` then (time.monotonic) or `hurry`, and end their threads."""
        with self._lock:
            self._closed = True
        for ear in self._ears.values():
            ear.close()
        for ear in self._ears.values():
            if not ear.hangs:
                _join(ear.thread, until, hurry)

    def statuses(self) -> list[PluginStatus]:
        """Return the plugins; one that loaded well but has trouble with a hook is `ok`, with the trouble as `error`."""
        troubles = {name: ear.trouble() for name, ear in tuple(self._ears.items())}
        return [dataclasses.replace(plugin, error=troubles.get(name)) if plugin.ok else plugin
                for name, plugin in tuple(self._registry.plugins.items())]


class Ear:
    """The thread on which one plugin hears of events, and what came of it."""

    def __init__(self, plugin: str, registry: CollectorRegistry) -> None:
        self._plugin = plugin
        self._registry = registry
        self._events: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(Hooks.LIMIT)
        self._closing = False
        self._dropped = 0
        self._error: str | None = None
        self._errors = 0
        self._at: tuple[str, float, int] | None = None  # the hook that it is in, since when (monotonic, epoch)
        self.thread = threading.Thread(target=self._listen, name=f"geckosched-hooks-{plugin}", daemon=True)
        self.thread.start()

    def put(self, hook: str, arguments: dict[str, Any]) -> None:
        try:
            self._events.put_nowait((hook, arguments))
        except queue.Full:
            if not self._dropped:
                self._registry.log.note(
                    logging.WARNING, "plugin %s: its hooks are slower than events, some are dropped", self._plugin)
            self._dropped += 1

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(queue.Full):  # then there is something to wake up for
            self._events.put_nowait(None)

    @property
    def hangs(self) -> bool:
        """Whether the hook that it is in takes so long that nobody waits for it."""
        at = self._at
        return at is not None and time.monotonic() - at[1] > Hooks.SLOW

    def trouble(self) -> str | None:
        """Say what is wrong with the plugin's hooks; None if nothing is."""
        said, at = [], self._at
        if at is not None and self.hangs:
            said.append(f"{at[0]} has not returned since {_readable(to_text(at[2]))}")
        if self._error is not None:
            said.append(self._error + (f", {self._errors} errors so far" if self._errors > 1 else ""))
        if self._dropped:
            said.append(f"{self._dropped} events were dropped, since {Hooks.LIMIT} waited")
        return "; ".join(said) or None

    def _listen(self) -> None:
        while (event := self._events.get()) is not None:
            hook, arguments = event
            self._at = (hook, time.monotonic(), Clock().now())
            _, error = _guard(lambda: self._registry.call(self._plugin, hook, **arguments))  # noqa: B023 - called at once
            self._at = None
            if error is not None:
                self._note(error)
            if self._closing and self._events.empty():
                return

    def _note(self, error: BaseException) -> None:
        first = not self._errors
        self._errors += 1
        said = self._registry.secrets.one_line(error)
        text = said.removeprefix(f"PluginError: plugin {self._plugin}: ") + _origin(error)
        self._error = f"{text}, at {_readable(to_text(Clock().now()))}"
        if first:
            self._registry.log.note(
                logging.WARNING, "plugin %s: %s (its later errors: geckosched plugins)", self._plugin, text)


def _origin(error: BaseException) -> str:
    """Return where in the plugin an error arose: ` (weather.py:4)`; nothing for errors of ours."""
    while isinstance(error, PluginError) and error.__cause__ is not None:
        error = error.__cause__
    return _place(traceback.walk_tb(error.__traceback__))


def _whereabouts(thread: threading.Thread) -> str:
    """Return where in the plugin a thread is now, as `_origin` does."""
    return _place(reversed(list(traceback.walk_stack(sys._current_frames().get(thread.ident or 0)))))


def _place(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the last place that is in a plugin: neither ours nor the standard library's."""
    others = (__file__, pluggy.__path__[0], "<frozen")
    library = Path(os.__file__).parent
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    theirs = [(file, line) for file, line in places if not file.startswith(others)
              and (library not in Path(file).parents or "site-packages" in file)]
    return f" ({Path(theirs[-1][0]).name}:{theirs[-1][1]})" if theirs else ""


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"geckosched_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    if not path.exists():
        raise PluginError(f"{path}: no such file, named in [plugins] load")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


_NAME = re.compile(r"[\w][\w.:@/+-]{0,199}")


def check_name(name: object, what: str) -> str:
    """Return a collector's name or a job id if it may be one. Raises ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{what}: found {name!r}, allowed are letters, digits and . _ - : @ / +, at most 200")
    return name


def check_collector(made: Any) -> str:
    """Return the name of a collector (class or instance) after checking what it declares. Raises ConfigError."""
    if not callable(getattr(made, "collect", None)):
        raise ConfigError(f"found {made!r}, allowed are Collector classes, instances and @collector functions")
    name = check_name(getattr(made, "name", None), f"name of collector {made!r}")
    options = getattr(made, "Options", None)
    if options is not None:
        if not dataclasses.is_dataclass(options):
            raise ConfigError(f"collector {name}: Options is {options!r}, allowed is a dataclass")
        for f in dataclasses.fields(options):
            if f.name in OUR_OPTIONS:
                raise ConfigError(f'collector {name}: found the option "{f.name}", which is a setting of every job')
    parse_every(getattr(made, "every", "1h"), f"collector {name} every")
    if not isinstance(getattr(made, "budget", None), Budget | None):
        raise ConfigError(f"collector {name}: budget is {made.budget!r}, allowed is a Budget")
    if not isinstance(getattr(made, "enabled", True), bool):
        raise ConfigError(f"collector {name}: enabled is {made.enabled!r}, allowed is True or False")
    return name


# ======================================================================================================================
# 9  Store
# ======================================================================================================================

# busy, locked, nomem, readonly, ioerr, corrupt, full, cantopen, protocol, notadb
_FILE_ERRORS = frozenset((5, 6, 7, 8, 10, 11, 13, 14, 15, 26))
_LOCK_ERRORS = frozenset((5, 6, 15))
_LONGEST_PAUSE = {5: 0.05, 6: 0.05, 11: 5.0, 26: 5.0}  # seconds between two tries, by the error; 1 s for any other
_HINTS = {
    sqlite3.SQLITE_FULL: "make room for it",
    sqlite3.SQLITE_IOERR: "its disk, a quota or its mount: see the system's log",
    sqlite3.SQLITE_CORRUPT: "damaged: stop geckosched and put a backup in its place, or see Repair in docs/store.md",
    sqlite3.SQLITE_NOTADB: "another program's file, or a damaged store: name another, or put a backup in its place",
}
_JOB_COLUMNS: dict[str, Any] = {  # of the first schema; what came later stands in its migration
    "job_id": str, "collector": str, "plugin": str, "every": str, "at": str, "quiet": str, "enabled": int,
    "disabled_at": str, "state": str, "breaker": str, "consecutive_errors": int, "consecutive_rate_limits": int,
    "opened_at": str, "retry_at": str, "next_run_at": str, "last_run_id": int, "last_scheduled_for": str,
    "last_success_at": str, "last_sign_at": str, "last_failure_id": int, "last_rows_at": str, "runs": int,
    "errors": int, "rows": int, "missed": int, "lost": int, "seconds": float, "abandoned": int, "retired_at": str,
}
_RUN_COLUMNS: dict[str, Any] = {
    "id": int, "job_id": str, "reason": str, "scheduled_for": str, "started_at": str, "finished_at": str,
    "outcome": str, "rows": int, "calls": int, "missed": int, "lost": int, "detail": str, "error_type": str,
    "error": str, "traceback": str, "instance_id": str,
}
_REQUEST_COLUMNS: dict[str, Any] = {
    "id": int, "action": str, "job_id": str, "arguments": str, "requested_at": str, "requested_by": str,
    "answered_at": str, "answer": str, "run_id": int,
}
_INSTANCE_COLUMNS: dict[str, Any] = {
    "id": str, "pid": int, "host": str, "version": str, "started_at": str, "heartbeat_at": str, "stopped_at": str,
    "abandoned": int, "plugins": str,
}


_MIGRATIONS = ("m001_first_schema", "m002_statistics")
_FLAWED = "outcome NOT IN ('succeeded', 'skipped')"  # something was left undone; the words of an index's condition


def _migrations() -> Any:
    """Return the migrations of our tables, oldest first, named in `_MIGRATIONS`. Released ones are never edited."""
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("geckosched")

    @migrations()
    def m001_first_schema(db: Any) -> None:
        zeros = dict.fromkeys(("consecutive_errors", "consecutive_rate_limits", "runs", "errors", "rows", "missed",
                               "lost", "abandoned"), 0)
        db["geckosched_jobs"].create(
            _JOB_COLUMNS, pk="job_id", defaults={**zeros, "seconds": 0.0, "state": "{}", "breaker": "closed"})
        counts = dict.fromkeys(("rows", "calls", "missed", "lost"), 0)
        db["geckosched_runs"].create(_RUN_COLUMNS, pk="id", defaults=counts)
        db["geckosched_runs"].create_index(["job_id"])
        db.execute("CREATE INDEX geckosched_runs_open ON geckosched_runs (id) WHERE outcome IS NULL")
        db["geckosched_losses"].create(
            {"run_id": int, "job_id": str, "target": str, "count": int, "since": str, "until": str})
        db["geckosched_losses"].create_index(["job_id", "until"])
        db["geckosched_requests"].create(_REQUEST_COLUMNS, pk="id")
        db.execute("CREATE INDEX geckosched_requests_open ON geckosched_requests (id) WHERE answered_at IS NULL")
        db["geckosched_budgets"].create(
            {"name": str, "rate": str, "burst": int, "calls": str, "closed_until": str}, pk="name")
        db["geckosched_instances"].create(_INSTANCE_COLUMNS, pk="id")

    @migrations()
    def m002_statistics(db: Any) -> None:
        for column in ("succeeded INTEGER DEFAULT 0", "calls INTEGER DEFAULT 0", "last_success_id INTEGER"):
            db.execute(f"ALTER TABLE geckosched_jobs ADD COLUMN {column}")
        # One pass in the order of the file; GROUP BY would sort the history, or jump about in it by the index.
        db.execute("CREATE TEMP TABLE history (job_id PRIMARY KEY, good, calls, last_good) WITHOUT ROWID")
        db.execute("""
            INSERT INTO history
            SELECT job_id, outcome IN ('succeeded', 'partial'), calls,
                   CASE WHEN outcome IN ('succeeded', 'partial') THEN id END
              FROM geckosched_runs NOT INDEXED WHERE outcome IS NOT NULL AND job_id IS NOT NULL ORDER BY id
            ON CONFLICT DO UPDATE SET good = good + excluded.good, calls = calls + excluded.calls,
                                      last_good = coalesce(excluded.last_good, last_good)""")
        # A job that was another collector's once has runs in the history that its counters don't know: hence min().
        db.execute("UPDATE geckosched_jobs SET succeeded = min(good, max(0, runs - errors)), calls = h.calls, "
                   "last_success_id = last_good FROM history h WHERE h.job_id = geckosched_jobs.job_id")
        db.execute("DROP TABLE history")
        db.execute(f"CREATE INDEX geckosched_runs_flawed ON geckosched_runs (id) WHERE {_FLAWED}")
        db.execute(f"CREATE INDEX geckosched_runs_flawed_of_job ON geckosched_runs (job_id) WHERE {_FLAWED}")
        db.execute("CREATE INDEX geckosched_losses_of_run ON geckosched_losses (run_id)")

    return migrations


def _code_of(error: BaseException) -> int:
    """Return SQLite's primary code of an error, 0 for any other."""
    return ((getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF) if isinstance(error, sqlite3.Error) else 0


def _is_of_the_file(error: BaseException) -> bool:
    """Whether an error is of the file (locked, full, read-only, corrupt), not of what was to be written."""
    return _code_of(error) in _FILE_ERRORS


def is_writable(path: os.PathLike[str]) -> bool:
    """Whether this process may write a file, or make files in a folder."""
    return _is_allowed(path, os.W_OK)


def _is_allowed(path: os.PathLike[str], mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _quote(name: str) -> str:
    """Quote a table's or column's name: names are data, never SQL."""
    return '"' + name.replace('"', '""') + '"'


class ForkGate:
    """Knows which threads are inside SQLite: a fork waits for them, since a child inherits SQLite's own locks as they
    are, and a belief that the file is locked if a transaction was open. Entered with `with`, by one thread once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Let nobody in, and wait until nobody is inside, at most for so long."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._inside, seconds)

    def open(self) -> None:
        """Let them in again."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()


class Store:
    """The SQLite file: opened for the one writer, or for reading. Holds the collected tables and ours."""

    PATIENCE = 10.0  # seconds that a start waits for a lock of another program

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.gate = ForkGate()
        self.hurry = threading.Event()  # set: don't wait for locks
        self.path = Path(os.path.realpath(Path(path).expanduser()))  # one file, one lock beside it
        self._opened: tuple[int, int] | None = None  # device and inode of what open_writer opened
        self._beside: dict[Path, int] = {}  # inodes of SQLite's files beside it

    def open_writer(self) -> sqlite3.Connection:
        """Open for the leader: WAL, migrations applied in one transaction. Raises StoreError in words, also when a lock
        of another program doesn't end within `PATIENCE`, and on a network file system."""
        self._expect_local()
        with self._connect(str(self.path), timeout=0.25) as connection:
            self._migrate(connection)
            found = self.path.stat()
            self._opened = found.st_dev, found.st_ino
            beside = (self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))
            self._beside = {path: path.stat().st_ino for path in beside if path.exists()}
        return connection

    def _expect_local(self) -> None:
        try:
            from .filesystem import doubt_about, objection_to, read_mounts
        except ImportError:  # core.py alone
            return
        mounts = read_mounts()
        if objection := objection_to(self.path, mounts):
            raise StoreError(objection)
        if doubt := doubt_about(self.path, mounts):
            _note(logging.WARNING, "%s", doubt)

    def expect_in_place(self) -> None:
        """Raise StoreError if the file that the writer has open is no longer the one of that name: what is written into
        a deleted file is lost when the process ends."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror} (the file was deleted or moved: put it back, or restart "
                             "geckosched to begin a new one)") from error
        if self._opened not in (None, (found.st_dev, found.st_ino)):
            raise StoreError(f"{self.path}: another file lies there than was opened (put that one back, or restart "
                             "geckosched to go on with this one)")
        if not found.st_size:
            raise StoreError(f"{self.path}: the file was emptied (stop geckosched and put a backup in its place)")
        for path, inode in self._beside.items():  # other processes would begin new ones, and not see ours
            if not path.exists() or path.stat().st_ino != inode:
                raise StoreError(f"{path}: deleted or replaced, it belongs to the store (restart geckosched)")

    def obstacle(self) -> str | None:
        """Return in one line why the file can't be written now: locked, full, read-only, gone, damaged, of a newer
        version; None if it can. It tries with a commit that changes nothing, which any process may do at any time."""
        try:
            with (
                self.gate,
                self._connect(f"{self.path.as_uri()}?mode=rw", timeout=1.0) as connection,
                contextlib.closing(connection),
            ):
                connection.execute("BEGIN IMMEDIATE")
                self._refuse_newer(connection)
                same = connection.execute("PRAGMA user_version").fetchone()[0]
                connection.execute(f"PRAGMA user_version={same}")  # one page is written, with what it holds
                connection.execute("COMMIT")
        except StoreError as error:
            return str(error)
        return None

    @contextlib.contextmanager
    def _connect(self, target: str, timeout: float) -> Iterator[sqlite3.Connection]:
        """Open a connection and hand it out; if what is done first with it fails, it is closed again."""
        with contextlib.ExitStack() as undo:
            try:
                uri = target.startswith("file:")
                connection = sqlite3.connect(target, timeout=timeout, isolation_level=None, check_same_thread=False,
                                             uri=uri)
                undo.callback(connection.close)
                connection.row_factory = sqlite3.Row
                yield connection
                undo.pop_all()
            except sqlite3.Error as error:
                raise self.explain(error) from error

    def explain(self, error: sqlite3.Error | StoreError) -> StoreError:
        """Return an error of SQLite with the file and, where SQLite doesn't say it, what is wrong and what to do."""
        if isinstance(error, StoreError):
            return error
        hint = self._meaning(error)
        return StoreError(f"{self.path}: {error}{f' ({hint})' if hint else ''}")

    def _meaning(self, error: sqlite3.Error) -> str:
        code = _code_of(error)
        if not self.path.exists():
            return "there is no such file"
        if code not in _FILE_ERRORS:
            return ""
        if self.path.is_dir():
            return "it is a folder"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"{self._lock_holder()} holds it"
        if not _is_allowed(self.path, os.R_OK):
            return "this user may not read it"
        if code != sqlite3.SQLITE_FULL and not is_writable(self.path.parent):
            return "this user may not write in its folder, and SQLite needs files beside it"
        if code == sqlite3.SQLITE_READONLY:
            return "the file is read-only for this user" if not is_writable(self.path) else "its disk is read-only"
        return _HINTS.get(code, "")

    def _lock_holder(self) -> str:
        try:
            from .filesystem import lock_holder
        except ImportError:  # core.py alone
            return "another program"
        return lock_holder(self.path) or "another program"

    def _migrate(self, connection: sqlite3.Connection) -> None:
        import sqlite_utils

        # trap 19: this one ignores the timeout
        self.patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"))
        connection.execute("PRAGMA synchronous=NORMAL")
        db = sqlite_utils.Database(connection, execute_plugins=False)
        self.patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        self._refuse_newer(connection)
        migrations = _migrations()
        if migrations.applied(db) and migrations.pending(db):
            _note(logging.INFO, "bringing %s to this version's tables: of ten million runs that takes half a minute",
                  self.path)
        migrations.apply(db)
        connection.execute("COMMIT")

    def _refuse_newer(self, connection: sqlite3.Connection) -> None:
        """Raise StoreError if a newer geckosched has migrated the file."""
        if newer := _newer_migration(lambda sql: connection.execute(sql).fetchall()):
            raise StoreError(f"{self.path}: written by a newer geckosched ({newer}), upgrade this one")

    def patiently(self, call: Callable[[], object]) -> None:
        """Do something on a fresh connection that may find the file locked, or other programs just at opening it."""
        began, said = time.monotonic(), False
        while True:
            try:
                call()
            except sqlite3.OperationalError as error:
                waited, code = time.monotonic() - began, _code_of(error)
                patience = self.PATIENCE if code in _LOCK_ERRORS else 1.0 if code == sqlite3.SQLITE_CANTOPEN else 0.0
                if waited >= patience or self.hurry.wait(0.05):
                    raise
                if waited > 1.0 and not said:
                    said = True
                    _note(logging.WARNING, "%s: waiting for it, at most %g s", self.explain(error), self.PATIENCE)
            else:
                return

    def open_beside(self) -> sqlite3.Connection:
        """Open the file that the writer has open, to checkpoint it: nothing else is written beside the writer."""
        self.expect_in_place()
        with self._connect(f"{self.path.as_uri()}?mode=rw", timeout=0.0) as connection:
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def open_reader(self) -> sqlite3.Connection:
        """Open read-only: sees all that is committed, writes nothing. Raises StoreError if there is no file."""
        # To read SQLite begins a WAL, which this user may not, or the leader couldn't write then; without one nobody
        # writes.
        wal = self.path.with_name(f"{self.path.name}-wal")
        alone = not (is_writable(self.path) and is_writable(self.path.parent)) and not wal.exists()
        with self._connect(f"{self.path.as_uri()}?mode=ro{'&immutable=1' * alone}", timeout=5.0) as connection:
            connection.execute("PRAGMA query_only=ON")
        return connection

    def is_there(self) -> bool:
        """Whether there is a file. Raises StoreError where this user may not look."""
        try:
            return self.path.exists()
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror} (this user may not look into its folder)") from error

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run one query of ours on a connection of its own; a store that is not there yet has no rows."""
        if not self.is_there():
            return []
        with self.gate, contextlib.closing(self.open_reader()) as connection:
            try:
                return connection.execute(sql, params).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table: geckosched_" in str(error):
                    return []
                raise self.explain(error) from error
            except sqlite3.Error as error:
                raise self.explain(error) from error

    def runs(self, where: str = "1", params: Sequence[Any] = (), limit: int = 50) -> list[Run]:
        """Return runs, newest first."""
        with self.in_words():
            rows = self.read(f"SELECT * FROM geckosched_runs WHERE {where} ORDER BY id DESC LIMIT ?", (*params, limit))
            return [_run_of(row) for row in rows]

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        """Say in words that what is in the store can't be understood: a newer version has written it, or somebody has
        damaged it. A newer version's tables are read as long as they have what is looked for."""
        try:
            yield
        except (StoreError, ValueError, TypeError, LookupError) as error:
            newer = self.newer() if not isinstance(error, StoreError) or "no such column" in str(error) else None
            if newer is not None:
                raise StoreError(f"{self.path}: written by a newer geckosched ({newer}), upgrade this one") from error
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.path}: a value in our tables is damaged: {_one_line(error)}") from error

    def newer(self) -> str | None:
        """Return the last migration that the store has seen and this version doesn't know, if there is one."""
        return _newer_migration(self.read)


def _newer_migration(read: Callable[[str], list[sqlite3.Row]]) -> str | None:
    if not read("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'"):
        return None
    applied = read("SELECT name FROM _sqlite_migrations WHERE migration_set = 'geckosched' ORDER BY id DESC")
    return next((row["name"] for row in applied if row["name"] not in _MIGRATIONS), None)


def _run_of(row: sqlite3.Row) -> Run:
    values = {key: row[key] for key in _RUN_COLUMNS}
    for key in ("scheduled_for", "started_at", "finished_at"):
        values[key] = None if values[key] is None else to_datetime(from_text(values[key]))
    values["reason"] = Reason(values["reason"])
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    return Run(**values)


class _GivenUp(StoreError):
    """The store could not be written until the scheduler stopped; the log has said it once for all messages."""


class Message:
    """Something for the writer. One that SQLite refuses fails alone, whatever it had written; `done` or `refused` is
    called when the group is committed."""

    __slots__ = ()

    @property
    def run_id(self) -> int | None:
        """The run that it is of, if it is of one."""
        return None

    def write(self, writer: Writer) -> None:
        """Write it, on the writer's connection."""
        raise StoreError(f"{type(self).__name__} has nothing to write to {writer}")

    def done(self) -> None:
        """Tell whoever waits. Must neither wait nor raise."""

    def refused(self, error: BaseException) -> None:
        if not isinstance(error, _GivenUp):
            _note(logging.ERROR, "the store refused %s: %s", type(self).__name__, _one_line(error))


class Statements(Message):
    """Statements of ours, each (sql, params); once committed `then` is called, and `answer` goes to `reply`."""

    __slots__ = ("_answer", "_reply", "_statements", "_then")

    def __init__(self, statements: Iterable[tuple[str, Any]], reply: Inbox | None = None, answer: Any = True,
                 then: Callable[[], None] | None = None) -> None:
        self._statements = list(statements)
        self._reply = reply
        self._answer = answer
        self._then = then

    def write(self, writer: Writer) -> None:
        for sql, params in self._statements:
            writer.connection.execute(sql, params)

    def done(self) -> None:
        if self._then is not None:
            self._then()
        if self._reply is not None:
            self._reply.put(self._answer)

    def refused(self, error: BaseException) -> None:
        super().refused(error)
        if self._reply is not None:
            self._reply.put(StoreError(_one_line(error)))


class Trouble:
    """What keeps the store from being written, and when to say so in the log: once it has lasted a second (most locks
    don't), then each minute, and when it is over. Times are told, in seconds."""

    SAY_AFTER = 1.0
    REMIND_AFTER = 60.0

    def __init__(self) -> None:
        self.text: str | None = None  # None while the store can be written
        self._tries = 0
        self._since = 0.0
        self._say_at = 0.0

    def met(self, text: str, now: float, waiting: str) -> str | None:
        """Hear that it can't be written, and what waits for it; returns what to say now, if anything."""
        if self.text is None:
            self._since, self._say_at, self._tries = now, now + self.SAY_AFTER, 0
        self.text = text
        self._tries += 1
        if now < self._say_at:
            return None
        self._say_at = now + self.REMIND_AFTER
        return f"the store can't be written, for {now - self._since:.0f} s now: {text}; {waiting}"

    def pause(self, code: int) -> float:
        """Return the seconds until the next try, after an error of SQLite's (0 for any other): each time twice as many,
        up to what suits the error."""
        return min(_LONGEST_PAUSE.get(code, 1.0), math.ldexp(0.05, min(self._tries, 10)))

    def over(self, now: float) -> str | None:
        """Hear that it can be written again; returns what to say now, if anything."""
        said = self._say_at > self._since + self.SAY_AFTER
        self.text = None
        return f"the store can be written again, after {now - self._since:.0f} s" if said else None


class Writer:
    """The loop that owns the only writing connection. All that waits is committed in one transaction (group commit).

    Guarantees: messages are written in the order of the inbox, each whole or not at all; `done` is called after the
    commit; after a run's Close everything else of that run is refused (the fence). An error of the file (locked, full)
    rolls the group back and tries it again until it can be written or `give_up` was called. `told` hears why nothing
    can be written, as soon as that is so, and None when it is over.
    """

    def __init__(self, store: Store, clock: Clock, told: Callable[[str | None], object] = lambda _: None) -> None:
        import sqlite_utils

        self.connection = store.open_writer()
        self.inbox = Inbox()
        self._store = store
        self._clock = clock
        self._told = told
        self._trouble = Trouble()
        self._gave_up = threading.Event()
        self._sealed = False
        self._db = sqlite_utils.Database(self.connection, execute_plugins=False)
        self._group: list[Message] = []
        self._open: set[int] = set()  # runs that may store
        self._opened: set[int] = set()  # ... by this group
        self._closed: set[int] = set()
        self._statements: dict[tuple[Any, ...], str] = {}
        self._finishing = False

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written at present, in one line; None if nothing is known against it."""
        return self._trouble.text

    def give_up(self) -> None:
        """Refuse what can't be written at the next try, instead of waiting."""
        self._gave_up.set()

    def finish(self) -> None:
        """Ask the loop to end when all that was put before is written or given up."""
        self._finishing = True
        self.inbox.put(Statements(()))  # not None, which a FakeClock sleeps over

    def turn(self) -> bool:
        """Wait for messages and commit them; False when the loop is at its end."""
        if not self._group and not self._finishing:  # finish()'s wake-up may be gone with the last group
            self._clock.wait(self.inbox, 1.0)
        finishing = self._finishing  # read first: what was put before finish() is drained now
        self._group += self.inbox.drain()
        if self._group:
            self._commit()
        return not (finishing and not self._group)

    def _commit(self) -> None:
        refused: dict[int, BaseException] = {}
        try:
            with self._store.gate:
                self._store.expect_in_place()
                try:
                    if not self._transaction(refused, savepoints=False):
                        self._roll_back()
                        while not self._transaction(refused, savepoints=True):
                            self._roll_back()
                except sqlite3.Error:
                    self._roll_back()
                    raise
        except (sqlite3.Error, StoreError) as error:
            self._wait_for_the_file(error)
            return
        if self.trouble is not None:
            self._go_on()
        self._open |= self._opened
        self._open -= self._closed
        group, self._group = self._group, []
        self._opened, self._closed = set(), set()
        for message in group:
            if (found := refused.get(id(message))) is None:
                message.done()
            else:
                message.refused(found)

    def _transaction(self, refused: dict[int, BaseException], *, savepoints: bool) -> bool:
        """Write the group in one transaction; False if a refused message took the whole transaction with it, as each
        does that has no savepoint. They are half of the statements and hardly ever needed, so first it goes without."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        for message in self._group:
            if id(message) in refused:
                continue
            if savepoints:
                execute("SAVEPOINT message")
            try:
                message.write(self)
            except (Exception, Signal) as error:
                if _is_of_the_file(error):
                    raise
                refused[id(message)] = error
                self._statements.clear()  # what this message created or altered is gone again
                if not savepoints or not self.connection.in_transaction:
                    return False
                execute("ROLLBACK TO message")
            if savepoints:
                execute("RELEASE message")
        execute("COMMIT")
        return True

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._opened, self._closed = set(), set()
        self._statements.clear()

    def _wait_for_the_file(self, error: sqlite3.Error | StoreError) -> None:
        text, fresh = str(self._store.explain(error)), self.trouble is None
        if self._gave_up.is_set():
            group, self._group = self._group, []
            runs = len({message.run_id for message in group} - {None})
            _note(logging.ERROR, "given up as the scheduler stops: %d run%s and %d notes of ours (%s)",
                  runs, "" if runs == 1 else "s", sum(message.run_id is None for message in group), text)
            for message in group:
                message.refused(_GivenUp(f"given up: {text}"))
            return
        if isinstance(error, StoreError):
            self._seal()
        if said := self._trouble.met(text, time.monotonic(), self._what_waits()):
            _note(logging.ERROR, "%s", said)
        if fresh:
            self._told(text)
        self._gave_up.wait(self._trouble.pause(_code_of(error)))

    def _what_waits(self) -> str:
        runs = len({message.run_id for message in self._group} - {None})
        if not runs:
            return "no run starts meanwhile"
        return f"{runs} run{' waits' if runs == 1 else 's wait'} for it, and no other starts"

    def _go_on(self) -> None:
        if said := self._trouble.over(time.monotonic()):
            _note(logging.WARNING, "%s", said)
        self._sealed = False
        self._told(None)

    def _seal(self) -> None:
        """Move what the WAL holds into the file that it belongs to, wherever that is now, once: SQLite finds a WAL by
        its name, and would take it for the other file's."""
        with contextlib.suppress(sqlite3.Error), self._store.gate:
            if not self._sealed:
                self._sealed = not self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    # What messages call, within their savepoint.

    def open_run(self, run_id: int) -> None:
        self._opened.add(run_id)

    def close_run(self, run_id: int) -> None:
        self._closed.add(run_id)

    def is_open(self, run_id: int) -> bool:
        """Whether a run may still store: the fence against threads that were abandoned."""
        return (run_id in self._open or run_id in self._opened) and run_id not in self._closed

    def write_rows(self, group: RowGroup) -> int:
        """Write one group of rows by one prepared statement; returns how many were inserted or changed."""
        try:
            if len(self._statements) > 1000:  # rows whose keys vary
                self._statements.clear()
            sql = self._statements.get(group[:6]) or self._prepare(group)
            return self.connection.executemany(sql, group.rows).rowcount
        except Exception as error:
            if _is_of_the_file(error):
                raise
            where = group.table
            if isinstance(error, UnicodeEncodeError):
                pairs = (pair for row in group.rows for pair in zip(group.columns, row, strict=True))
                where = next((f"{group.table}.{key}" for key, value in pairs if value == error.object), where)
            raise YieldRefused(f"{where}: {_one_line(error)}") from error

    def _prepare(self, group: RowGroup) -> str:
        """Create or evolve the table as the group needs it, and make its statement."""
        folded = _fold(group.table)
        names = [name for name in self._db.table_names() + self._db.view_names() if _fold(name) == folded]
        if not names:
            blob = dict.fromkeys(group.columns, "BLOB")  # the affinity that changes no value
            self._db.create_table(group.table, blob, pk=group.pk or None)
        table = self._db.table(names[0] if names else group.table)
        columns = {_fold(column) for column in table.columns_dict}
        for column in group.columns:
            if _fold(column) not in columns:
                table.add_column(column, "BLOB")
                columns.add(_fold(column))
        have = {tuple(map(_fold, index.columns)) for index in table.indexes} if group.indexes else set()
        for index in group.indexes:
            wanted = tuple(map(_fold, index))
            if wanted not in have and columns.issuperset(wanted):  # else when a row brings the column
                table.create_index(list(index), find_unique_name=True)
                have.add(wanted)
        sql = self._statements[group[:6]] = _insert_sql(group)
        return sql


def _insert_sql(group: RowGroup) -> str:
    """Return the statement of a group: an update names and compares only what the rows have (traps 23, 24)."""
    names = ", ".join(map(_quote, group.columns))
    sql = f"INSERT INTO {_quote(group.table)} ({names}) VALUES ({', '.join('?' * len(group.columns))})"
    if not group.pk:
        return sql
    sql += f" ON CONFLICT ({', '.join(map(_quote, group.pk))}) DO "
    values = [column for column in group.columns if column not in group.pk]
    compared = [_quote(column) for column in values if column not in group.stamp]
    if group.on_conflict == "ignore" or not compared:
        return sql + "NOTHING"
    assignments = ", ".join(f"{name}=excluded.{name}" for name in map(_quote, values))
    changes = " OR ".join(f"{_quote(group.table)}.{name} IS NOT excluded.{name}" for name in compared)
    return f"{sql}UPDATE SET {assignments} WHERE {changes}"


class Waiter:
    """Somebody who waits for a run: a caller in this process (`inbox`), or a request in the store (`request`)."""

    __slots__ = ("inbox", "request")

    def __init__(self, inbox: Inbox | None = None, request: int | None = None) -> None:
        self.inbox = inbox
        self.request = request

    def started(self, run_id: int) -> None:
        if self.inbox is not None:
            self.inbox.put(("started", run_id))

    def finished(self, run_id: int) -> None:
        if self.inbox is not None:
            self.inbox.put(("finished", run_id))

    def closed(self) -> None:
        """The scheduler stops, or the job is gone, before the run could start."""
        if self.inbox is not None:
            self.inbox.put(("closed", None))


class RunMessage(Message):
    """A message of one run."""

    __slots__ = ("_execution",)

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def run_id(self) -> int | None:
        return self._execution.id


class StartRun(RunMessage):
    """Commits a run's row, then hands the run to a worker."""

    __slots__ = ()

    def write(self, writer: Writer) -> None:
        e = self._execution
        e.stored = False  # a group that was rolled back is written again
        if e.closed:
            return
        if e.dry is not None:
            writer.open_run(e.id)
            return
        writer.connection.execute(
            "INSERT INTO geckosched_runs (id, job_id, reason, scheduled_for, started_at, missed, instance_id) "
            "VALUES (?,?,?,?,?,?,?)",
            (e.id, e.job.registration.job_id, e.reason, _text_or_none(e.scheduled_for), to_text(e.started_at), e.missed,
             e.lead.instance_id))
        for waiter in e.waiters:
            if waiter.request is not None:
                writer.connection.execute("UPDATE geckosched_requests SET run_id=? WHERE id=?", (e.id, waiter.request))
        writer.open_run(e.id)
        e.stored = True

    def done(self) -> None:
        self._execution.tell("run_started")  # first: what the run's end does to the breaker is told after that
        self._execution.lead.work.put(self._execution)
        for waiter in self._execution.waiters:
            waiter.started(self._execution.id)

    def refused(self, error: BaseException) -> None:
        super().refused(error)
        ticker = self._execution.lead.ticker
        ending = Ending(Outcome.INTERRUPTED, detail=self._execution.lead.secrets.one_line(error))
        ticker.inbox.put((ticker.ended, self._execution, ending, self._execution.started_at))


class CommitRows(RunMessage):
    """One yield: rows, state and losses in one transaction, if the run may still store."""

    __slots__ = ("_calls", "_groups", "_losses", "_reply", "_rows", "_state")

    def __init__(self, execution: Execution, groups: list[RowGroup], state: str | None, losses: list[Loss], calls: int,
                 reply: Inbox) -> None:
        super().__init__(execution)
        self._groups = groups
        self._state = state
        self._losses = losses
        self._calls = calls
        self._reply = reply

    def write(self, writer: Writer) -> None:
        execution, job_id = self._execution, self._execution.job.registration.job_id
        if not writer.is_open(execution.id):
            raise RunStopped("the run is closed: nothing of it is stored any more")
        counts = [writer.write_rows(group) for group in self._groups]
        if execution.dry is not None:
            raise DryCommit(counts)
        self._rows = count = sum(counts)
        lost = sum(loss.amount for loss in self._losses)
        execute = writer.connection.execute
        for loss in self._losses:
            target = execution.lead.secrets.hide(loss.target)
            execute("INSERT INTO geckosched_losses VALUES (?,?,?,?,?,?)", (execution.id, job_id, target, *loss[1:]))
        execute("UPDATE geckosched_runs SET rows=rows+?, lost=lost+?, calls=? WHERE id=?",
                (count, lost, self._calls, execution.id))
        rows_at = to_text(execution.lead.clock.now()) if count else None
        execute("UPDATE geckosched_jobs SET rows=rows+?, lost=lost+?, state=coalesce(?, state), "
                "last_rows_at=coalesce(?, last_rows_at) WHERE job_id=?",
                (count, lost, self._state, rows_at, job_id))

    def done(self) -> None:
        if self._state is not None:
            self._execution.job.state = self._state
        self._execution.rows += self._rows
        self._execution.lost += sum(loss.amount for loss in self._losses)
        self._reply.put(True)

    def refused(self, error: BaseException) -> None:
        kind = RunStopped if isinstance(error, StoreError) else YieldRefused
        self._reply.put(error if isinstance(error, Signal) else kind(_one_line(error)))


class CloseRun(RunMessage):
    """Closes a run and moves its job's row in one transaction; then whoever waits is told."""

    __slots__ = ("_ending", "_finished_at", "_job_row")

    def __init__(self, execution: Execution, ending: Ending, finished_at: int, job_row: tuple[Any, ...]) -> None:
        super().__init__(execution)
        self._ending = ending.without(execution.lead.secrets)
        self._finished_at = finished_at
        self._job_row = job_row

    def write(self, writer: Writer) -> None:
        e, end = self._execution, self._ending
        if not writer.is_open(e.id):  # its Start was never committed: there is no row to close
            return
        writer.close_run(e.id)
        if e.dry is not None:
            return
        writer.connection.execute(
            "UPDATE geckosched_runs SET finished_at=?, outcome=?, calls=?, detail=?, error_type=?, error=?, "
            "traceback=? WHERE id=?",
            (to_text(self._finished_at), end.outcome, end.calls, end.detail, end.error_type, end.error, end.traceback,
             e.id))
        writer.connection.execute(_CLOSE_JOB, self._job_row)

    def done(self) -> None:
        self._release()
        self._execution.tell("run_finished", self._ending, self._finished_at)

    def refused(self, error: BaseException) -> None:
        super().refused(error)
        self._release()

    def _release(self) -> None:
        if self._execution.dry is not None:
            self._execution.dry.run = self._execution.as_run(self._ending, self._finished_at)
        for waiter in self._execution.waiters:
            waiter.finished(self._execution.id)


_CLOSE_JOB = """
    UPDATE geckosched_jobs SET breaker=?, consecutive_errors=?, consecutive_rate_limits=?, opened_at=?, retry_at=?,
        next_run_at=?, last_run_id=?, last_scheduled_for=?, last_success_at=coalesce(?, last_success_at),
        last_sign_at=coalesce(?, last_sign_at), last_success_id=coalesce(?, last_success_id),
        last_failure_id=coalesce(?, last_failure_id), runs=runs+1, succeeded=succeeded+?, errors=errors+?,
        calls=calls+?, missed=missed+?, seconds=seconds+?, abandoned=?
    WHERE job_id=?"""
_SAVE_JOB = """
    INSERT INTO geckosched_jobs (job_id, collector, plugin, every, at, quiet, enabled, next_run_at)
    VALUES (?,?,?,?,?,?,?,?)
    ON CONFLICT (job_id) DO UPDATE SET collector=excluded.collector, plugin=excluded.plugin, every=excluded.every,
        at=excluded.at, quiet=excluded.quiet, enabled=excluded.enabled, next_run_at=excluded.next_run_at,
        retired_at=NULL"""


# ======================================================================================================================
# 10  One run
# ======================================================================================================================


class Admission(StrEnum):
    """What becomes of a slot or a trigger that comes up now."""

    RUN = "run"
    WAIT = "wait"  # for a worker, a budget or the store: by priority, then age
    AFTERWARDS = "afterwards"  # right after the present run; further triggers join
    MISSED = "missed"  # counted in the next run's `missed`
    NEVER = "never"  # a disabled job's slot, or an open breaker's before `retry_at`


def admit(*, triggered: bool, running: bool, enabled: bool, held: bool, free: bool) -> Admission:
    """Decide about a slot or a trigger: the second table of the design.

    `held`: the breaker or a rate limit lets no slot by before its time. A trigger passes: a person asks because
    something was mended. `free`: a worker is free and the job's budget lets it run.
    """
    if running:
        return Admission.AFTERWARDS if triggered else Admission.MISSED
    if not triggered and (held or not enabled):
        return Admission.NEVER
    return Admission.RUN if free else Admission.WAIT


class NextRun(NamedTuple):
    """When a job runs next unless somebody asks, and why; `held` says that slots before do not come up."""

    due: int
    reason: Reason
    held: bool


def conclude(outcome: Outcome, breaker: Breaker, now: int, *, heard: bool = True, retry_after: int = 0,
             again_after: int | None = None) -> None:
    """Let the breaker hear how a run ended: the first table of the design. `heard` is False for a disabled job."""
    if not heard:
        return
    if outcome in (Outcome.SUCCEEDED, Outcome.PARTIAL):
        breaker.success()
    elif outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        breaker.error(now)
    elif outcome is Outcome.RATE_LIMITED:
        breaker.rate_limited(now, retry_after)
    else:
        breaker.neutral(now, again_after)


def next_run(breaker: Breaker, slot: int) -> NextRun:
    """Decide when a job runs next, `slot` being its next slot: the last column of the first table.

    An open breaker or a rate limit puts it off, an error with the breaker closed only brings it forward, and so does
    what SkipRun asked for.
    """
    retry = breaker.retry_at
    if breaker.state is not BreakerState.CLOSED and retry is not None:
        return NextRun(retry, Reason.PROBE, True)
    if breaker.consecutive_rate_limits and retry is not None:
        return NextRun(retry, Reason.RETRY, True)
    if retry is not None and retry < slot:
        return NextRun(retry, Reason.RETRY, False)
    return NextRun(slot, Reason.SCHEDULED, False)


def outcome_of(error: BaseException | None, failed: int, good: int, stop: str | None) -> Outcome:
    """Name how a run ended: by what `collect` raised, by its targets, and by why it was asked to stop, if it was."""
    if isinstance(error, SkipRun):
        return Outcome.SKIPPED
    if isinstance(error, RateLimited):
        return Outcome.RATE_LIMITED
    if isinstance(error, RunStopped) and stop is not None:
        return Outcome.TIMED_OUT if stop == TIME_LIMIT else Outcome.INTERRUPTED
    if error is not None or (failed and not good):
        return Outcome.FAILED
    return Outcome.PARTIAL if failed else Outcome.SUCCEEDED


TIME_LIMIT = "time limit"
SHUTDOWN = "shutdown"
GRACE = 30 * SECOND  # between the request to stop at the time limit and the abandonment
MOST_ABANDONED = 2  # runs of one job that hang; then its slots wait


class Ending(NamedTuple):
    """How a run ended, as the worker saw it; durations in microseconds."""

    outcome: Outcome
    calls: int = 0
    detail: str | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    retry_after: int = 0
    again_after: int | None = None

    def without(self, secrets: Secrets) -> Ending:
        """Return it as it may be stored and told. Its texts are made without secrets; this is the last guard."""
        if not secrets:
            return self
        texts = ((name, each) for name, each in self._asdict().items() if type(each) is str)
        hidden: dict[str, Any] = {name: secrets.hide(text) for name, text in texts}
        return self._replace(**hidden)


@dataclass(frozen=True, slots=True)
class Registration:
    """A job as it was registered: what the configuration or Python code says, nothing that happens later."""

    job_id: str
    collector: Any
    name: str
    plugin: str | None
    settings: Mapping[str, Any]
    options: Any
    enabled: bool
    every: int
    at: str | None
    grid: Grid
    timeout: int
    priority: int
    max_consecutive_errors: int
    quiet: int | None
    budget: Budget | None
    by_default: frozenset[str] = frozenset()  # what neither the job nor its collector says: `timeout`, ...

    def make(self) -> Any:
        """Make the job's own instance of the collector. Plugin code."""
        return self.collector() if isinstance(self.collector, type) else copy.copy(self.collector)

    def row(self) -> tuple[Any, ...]:
        """Return what the store keeps of it: the columns of `_SAVE_JOB`."""
        quiet = None if self.quiet is None else format_duration(self.quiet)
        return (self.job_id, self.name, self.plugin, format_duration(self.every), self.at, quiet, int(self.enabled))


def fitted(registration: Registration, config: SchedulerConfig, job_id: str | None = None) -> Registration:
    """Return a registration (perhaps of another id) with the time zone of a configuration and, for what the job doesn't
    say, its defaults; the same one if they change nothing."""
    job_id, every, at = job_id or registration.job_id, registration.every, registration.at
    hour_minute = None if at is None else parse_at(at, every)
    values = {
        "job_id": job_id, "grid": Grid(job_id, every, hour_minute, find_timezone(config.timezone)),
        "timeout": parse_duration(config.timeout), "max_consecutive_errors": config.max_consecutive_errors}
    wanted = {name: value for name, value in values.items() if name in ("job_id", "grid", *registration.by_default)}
    changed: dict[str, Any] = {
        name: value for name, value in wanted.items() if value != getattr(registration, name)}
    return dataclasses.replace(registration, **changed) if changed else registration


@dataclass(slots=True, eq=False)
class Waiting:
    """A run that waits for a worker or a budget: what it will be when it starts."""

    reason: Reason
    scheduled_for: int | None
    missed: int
    waiters: list[Waiter]
    since: int
    entry: int = 0  # which entry of the queue is the valid one; 0 before the first


@dataclass(slots=True, eq=False)
class Job:
    """A job as the ticker keeps it. `accounted` is the last slot that was served, missed or passed over."""

    registration: Registration
    breaker: Breaker
    enabled: bool
    slot: TimetableJob = field(init=False)  # its place in the timetable
    disabled_at: int | None = None
    dormant: bool = False  # no slots here: a momentary lead, or left out by `only`
    gone: bool = False  # unregistered; a run may still be at it
    ran: bool = False
    state: str = "{}"
    instance: Any = None
    accounted: int | None = None
    repeats: int | None = None  # the slot that a retry, probe or rerun repeats
    next: NextRun | None = None
    missed: int = 0
    running: Execution | None = None
    waiting: Waiting | None = None
    queued: list[Waiter] = field(default_factory=list)  # who asked while it was running
    abandoned: int = 0

    @property
    def active(self) -> bool:
        """Whether its slots count: it is there, and neither the operator nor the configuration switched it off."""
        return self.enabled and self.disabled_at is None and not self.gone

    @property
    def next_text(self) -> str | None:
        """When it runs next, as the store has it."""
        return None if self.next is None else to_text(self.next.due)


def restored(registration: Registration, row: Mapping[str, Any] | sqlite3.Row | None, delays: Sequence[int],
             now: int) -> Job:
    """Return a job as a start finds it, with what the store kept of it; `delays` are those of the breaker."""
    job = Job(registration, Breaker(registration.max_consecutive_errors, *delays), registration.enabled)
    if row is None:
        return job
    job.state, job.ran = row["state"], bool(row["runs"])
    job.accounted = _from_text_or_none(row["last_scheduled_for"])
    if job.accounted is None and registration.at is not None and row["next_run_at"] is not None:
        job.accounted = registration.grid.before(from_text(row["next_run_at"]) - 1)  # its first slot was yet to come
    if job.accounted is not None and registration.row()[3:5] != (row["every"], row["at"]):
        job.accounted = max(job.accounted, registration.grid.before(registration.grid.before(now) - 1))
    job.disabled_at = _from_text_or_none(row["disabled_at"])
    job.breaker.restore(row, now)
    ended = _from_text_or_none(row["last_finished"]) or now
    if job.breaker.retry_at is not None and ended > now:  # the clock was set back: keep the pause's length
        job.breaker.retry_at = min(job.breaker.retry_at, now + max(0, job.breaker.retry_at - ended))
    return job


def first_run(job: Job, row: Mapping[str, Any] | sqlite3.Row | None, catchup: bool, now: int) -> NextRun:
    """Decide a job's first run after a start, and note which slots are accounted for: what the breaker waits for, an
    interrupted run, a job that never ran, a slot that passed, or the next slot."""
    grid = job.registration.grid
    planned, latest = next_run(job.breaker, grid.after(now)), grid.before(now)
    passed = 0 if job.accounted is None else grid.count(job.accounted, now)
    job.accounted = latest if job.accounted is None else min(job.accounted, latest)  # the clock may be set back
    job.repeats = None if row is None else _from_text_or_none(row["last_slot"])
    interrupted = row is not None and row["last_outcome"] == Outcome.INTERRUPTED != row["outcome_before"]
    if planned.reason is not Reason.SCHEDULED:
        return planned
    if not catchup:
        job.missed, job.accounted = passed, latest
    elif interrupted:
        return NextRun(now, Reason.CATCHUP, False)
    elif passed:
        job.missed, job.accounted, job.repeats = passed - 1, latest, latest
        return NextRun(now, Reason.CATCHUP, False)
    elif not job.ran and job.registration.at is None:
        return NextRun(now, Reason.FIRST, False)
    return planned


class DryNotes:
    """What a dry run would have stored, as it comes; `run` is there when it has ended."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.state = "{}"
        self._batches: list[DryBatch] = []
        self._losses: list[dict[str, Any]] = []

    def note(self, groups: list[RowGroup], counts: list[int], state: str | None, losses: list[Loss]) -> None:
        for group, changed in zip(groups, counts, strict=True):
            rows = tuple({column: None if value != value else value  # NaN, which SQLite has as NULL
                          for column, value in zip(group.columns, row, strict=True)} for row in group.rows)
            self._batches.append(DryBatch(group.table, group.pk, group.on_conflict, rows, changed))
        self._losses += [dict(zip(("target", "count", "since", "until"), loss, strict=True)) for loss in losses]
        self.state = state or self.state

    def result(self) -> DryRun:
        return DryRun(cast(Run, self.run), tuple(self._batches), tuple(self._losses), json.loads(self.state))


class Execution:
    """One run of a job, from admission to Close, and what its RunContext stands on (`RunPort`)."""

    __slots__ = ("abandoned", "asked_at", "closed", "context", "dry", "id", "job", "lead", "lost", "missed", "news",
                 "reason", "registration", "rows", "scheduled_for", "service", "started_at", "started_monotonic",
                 "stop", "stored", "thread", "waited", "waiters", "waiting_since", "wake")

    def __init__(self, lead: Lead, job: Job, run_id: int, run: Waiting, dry: DryNotes | None = None) -> None:
        self.lead = lead
        self.dry = dry  # where a dry run notes what it does not store
        self.job = job
        self.registration = job.registration  # what it began with: a reload changes the next run
        self.id = run_id
        self.reason = run.reason
        self.scheduled_for = run.scheduled_for
        self.missed = run.missed
        self.waiters = run.waiters
        self.service: Service | None = None  # the budget that it counts in
        self.started_at = lead.clock.now()
        self.started_monotonic = lead.clock.monotonic()
        self.context: RunContext | None = None
        self.thread: int | None = None
        self.stop: str | None = None  # why it was asked to stop
        self.asked_at: int | None = None
        self.stored = False  # its row is in the store
        self.closed = False  # the ticker has closed it, whatever the worker still does
        self.abandoned = False
        self.wake = Inbox()
        self.waited = 0  # microseconds spent waiting for the store or a call: they don't count towards the time limit
        self.waiting_since: int | None = self.started_monotonic  # for its Start to be committed
        self.rows = 0
        self.lost = 0
        self.news: list[dict[str, Any]] = []  # what its next commit makes of the breaker: arguments of a hook

    # -- the worker's side

    def run(self) -> Ending:
        """Run the collector to its end, whatever that is. Called on a worker, after the run's row is committed."""
        if self.stop is not None:
            return Ending(Outcome.INTERRUPTED, detail=f"not begun: {self.stop}")
        self.waited, self.waiting_since = self.lead.clock.monotonic() - self.started_monotonic, None
        self.thread = threading.get_ident()
        context, error = _guard(self._open)
        if error is None:
            self.context = context
            _, error = _guard(lambda: self._collect(context))
        ended, broken = _guard(lambda: self._ending(error))
        if broken is not None:
            return Ending(Outcome.FAILED, error=self.lead.secrets.one_line(broken))
        return cast(Ending, ended)

    def _open(self) -> RunContext:
        job, registration = self.job, self.registration
        return RunContext(
            self, run_id=self.id, job_id=registration.job_id, reason=self.reason, scheduled_for=self.scheduled_for,
            started_at=self.started_at, options=registration.options, settings=registration.settings,
            budget=registration.budget, saved_state=job.state, secrets=self.lead.secrets)

    def _collect(self, context: RunContext) -> None:
        job, registration = self.job, self.registration
        made = job.instance if self.dry is None else None  # what a dry run leaves in its instance did not happen
        if made is None or made[0] is not registration:
            made = (registration, registration.make())
            if not self.closed and self.dry is None:  # else a fresh run has one of its own
                job.instance = made
        drive(made[1].collect(context), context)

    def _ending(self, error: BaseException | None) -> Ending:
        context, secrets = self.context, self.lead.secrets
        failed = context.failed_targets if context else {}
        good = context.good_targets - failed.keys() if context else set()
        outcome = outcome_of(error, len(failed), len(good), self.stop)
        details = [f"{len(failed)} of {len(failed) + len(good)} targets failed"] if failed else []
        details += [secrets.hide(f"{target}: {text}")[:500] for target, text in itertools.islice(failed.items(), 20)]
        if self.asked_at is not None:
            over = (self.lead.clock.monotonic() - self.asked_at) / SECOND
            details.append(f"asked to stop ({self.stop}), ended {over:.1f} s later")
        ending = Ending(outcome, context.calls if context else 0)
        if failed and context is not None and outcome in (Outcome.FAILED, Outcome.PARTIAL):
            ending = ending._replace(traceback=context.first_traceback)
        if isinstance(error, SkipRun):
            again = None if error.again_after is None else max(SECOND, _microseconds(error.again_after))
            details.insert(0, _clean(secrets.hide(str(error.reason))))
            ending = ending._replace(again_after=again)
        elif isinstance(error, RateLimited):
            details.insert(0, f"retry after {error.retry_after:g} s")
            ending = ending._replace(retry_after=round(error.retry_after * SECOND))
        elif error is not None and outcome is Outcome.FAILED:
            name, _, text = secrets.one_line(error).partition(": ")
            ending = ending._replace(error_type=name, error=text, traceback=_traceback(error, secrets))
        elif outcome is Outcome.FAILED:
            ending = ending._replace(error=f"every target failed, {next(iter(failed))}: {next(iter(failed.values()))}")
        return ending._replace(detail="\n".join(details) or None)

    @property
    def stopping(self) -> bool:
        return self.stop is not None

    def now(self) -> int:
        return self.lead.clock.now()

    def pause(self, seconds: float) -> None:
        clock = self.lead.clock
        until = clock.monotonic() + _microseconds(seconds)
        while self.stop is None and (left := until - clock.monotonic()) > 0:
            clock.wait(self.wake, left / SECOND)
            self.wake.drain()
        if self.stop is not None:
            raise RunStopped(f"the run must end: {self.stop}")

    def commit(self, groups: list[RowGroup], state: str | None, losses: list[Loss]) -> None:
        self._check_open()
        reply = Inbox()
        calls = self.context.calls if self.context else 0
        self.lead.writer.inbox.put(CommitRows(self, groups, state, losses, calls, reply))
        error = self._answer(reply)
        if isinstance(error, DryCommit) and self.dry is not None:
            self.dry.note(groups, error.counts, state, losses)
            self.rows += sum(error.counts)
            self.lost += sum(loss.amount for loss in losses)
        elif error is not None:
            raise error

    def query(self, sql: str, params: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self.lead.read(sql, params)]

    def take_call(self, budget: Budget) -> int:
        self._check_open()
        reply = Inbox()
        self.lead.ticker.inbox.put((self.lead.ticker.ask_call, self, budget, reply))
        place = self._answer(reply)
        if not isinstance(place, int):
            raise place
        return place

    def end_call(self, budget: Budget, place: int, error: BaseException | None) -> None:
        after = round(error.retry_after * SECOND) if isinstance(error, RateLimited) else 0
        heard = error is None or isinstance(error, RateLimited)
        refused = isinstance(error, RateLimited)
        self.lead.ticker.inbox.put((self.lead.ticker.end_call, budget.name, place, refused, heard, after))

    def calls_free(self, budget: Budget) -> int:
        self._check_open()
        reply = Inbox()
        self.lead.ticker.inbox.put((self.lead.ticker.count_free, self, budget, reply))
        return cast(int, self._answer(reply))

    def shared(self, key: object, factory: Callable[[], Any]) -> Any:
        return self.lead.shared(key, factory)

    def _check_open(self) -> None:
        """A run that was closed under its thread asks nobody any more: the loops may have ended."""
        if self.closed:
            raise RunStopped("the run is closed: nothing of it is stored any more")

    def _answer(self, reply: Inbox) -> Any:
        """Wait for the writer or the ticker; the wait does not count towards the time limit."""
        clock = self.lead.clock
        self.waiting_since = clock.monotonic()
        while not (answers := reply.drain()):
            clock.wait(reply, None)
        self.waited += clock.monotonic() - self.waiting_since  # first: ran_for must never see neither
        self.waiting_since = None
        return answers[0] if answers[0] is not True else None

    def tell(self, hook: str, ending: Ending | None = None, finished_at: int | None = None) -> None:
        """Tell the plugins what was committed: `run_started` or `run_finished`, and what became of the breaker."""
        hooks = self.lead.hooks
        if not self.stored:
            return
        if hooks.are_heard(hook):
            hooks.tell(hook, run=self.as_run(ending, finished_at))
        while self.news:
            hooks.tell("breaker_changed", job_id=self.job.registration.job_id, **self.news.pop(0))

    def as_run(self, ending: Ending | None = None, finished_at: int | None = None) -> Run:
        """Return the run as its row has it, while it runs or with its ending."""
        run = Run(
            id=self.id, job_id=self.job.registration.job_id, reason=self.reason,
            scheduled_for=_datetime_or_none(self.scheduled_for), started_at=to_datetime(self.started_at),
            finished_at=_datetime_or_none(finished_at), outcome=None, rows=self.rows, calls=0, missed=self.missed,
            lost=self.lost, detail=None, error_type=None, error=None, traceback=None,
            instance_id=self.lead.instance_id)
        if ending is None:
            return run
        return dataclasses.replace(
            run, outcome=ending.outcome, calls=ending.calls, detail=ending.detail, error_type=ending.error_type,
            error=ending.error, traceback=ending.traceback)

    def report(self, ending: Ending, finished_at: int) -> None:
        """Say in the log how it ended, in a line that is no longer than a person reads; the run's row has the rest."""
        level = logging.WARNING if ending.outcome in (Outcome.FAILED, Outcome.TIMED_OUT) else logging.INFO
        if self.lead.log.isEnabledFor(level):
            seconds = (finished_at - self.started_at) / SECOND
            error = ": ".join(part for part in (ending.error_type, ending.error) if part)
            why = error or (ending.detail or "").replace("\n", "; ")
            why = why if len(why) <= 120 else f"{why[:100].rstrip()} ...; see geckosched runs {self.id}"
            name, why = self.job.registration.job_id, f" ({why})" if why else ""
            rows = f"{self.rows} row{'' if self.rows == 1 else 's'}"
            about = {"job_id": name, "run_id": self.id, "outcome": str(ending.outcome), "seconds": round(seconds, 3),
                     "rows": self.rows, "error_type": ending.error_type, "error": ending.error}
            took = f"{seconds:.1f} s" if seconds >= 1 else f"{int(seconds * 1000)} ms"
            self.lead.log.log(level, "%s: %s, %s, %s%s", name, ending.outcome, rows, took, why, extra=about)

    # -- the ticker's side

    def ask_to_stop(self, why: str) -> None:
        if self.stop is None:
            self.asked_at = self.lead.clock.monotonic()
            self.stop = why
            self.wake.put(True)

    def ran_for(self, monotonic: int) -> int:
        """Return the microseconds that count towards the time limit."""
        since = self.waiting_since
        return monotonic - self.started_monotonic - self.waited - (0 if since is None else monotonic - since)


def drive(result: Any, run: RunContext) -> None:
    """Carry what `collect` returned to its end: a generator, an async one, a coroutine, batches, a batch or None."""
    if inspect.isgenerator(result):
        _pump(run, StopIteration, result.__next__, result.throw, result.close)
    elif inspect.isasyncgen(result):
        with asyncio.Runner() as runner:
            _pump(run, StopAsyncIteration, lambda: runner.run(_step(result)),
                  lambda error: runner.run(_step(result, error)), lambda: runner.run(result.aclose()))
    elif inspect.iscoroutine(result):
        with asyncio.Runner() as runner:
            result = runner.run(result)
        run.store(_batches(result), last=True)
    else:
        run.store(_batches(result), last=True)


async def _step(generator: Any, error: BaseException | None = None) -> Any:
    return await (anext(generator) if error is None else generator.athrow(error))


def _pump(run: RunContext, end: type[Exception], advance: Callable[[], Any], throw: Callable[[Any], Any],
          close: Callable[[], Any]) -> None:
    """Store each yield, and raise there what storing it raised. A refused one ends the run, whatever catches it."""
    error: BaseException | None = None
    while True:
        try:
            yielded = advance() if error is None else throw(error)
        except end as returned:
            return run.store(_batches(getattr(returned, "value", None)), last=True)
        _, error = _guard(lambda: run.store(_batches(yielded)))  # noqa: B023 - called at once
        if isinstance(error, YieldRefused):
            refused = error
            _guard(lambda: throw(refused))  # noqa: B023
            _guard(close)
            raise error


def _batches(value: Any) -> Iterable[Batch]:
    """Return the batches of one yield: None (save the state), a Batch, or a list of them."""
    if value is None:
        return ()
    if isinstance(value, Batch):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(item, Batch) for item in value):
        return value
    raise YieldRefused(f"yielded {type(value).__name__}, allowed are a Batch, a list of them, or None")


def _traceback(error: BaseException, secrets: Secrets) -> str | None:
    """Return an error's traceback from the collector's own frame on."""
    frame, ours = error.__traceback__, (__file__, str(Path(asyncio.__file__).parent))
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(ours):
        frame = frame.tb_next
    lines, broken = _guard(lambda: traceback.format_exception(type(error), error, frame))
    return None if broken is not None else secrets.lines(lines)


# ======================================================================================================================
# 11  Leadership and requests
# ======================================================================================================================

REQUEST_LIFETIME = 60 * SECOND
_ACTIONS = ("trigger", "enable", "disable", "reset", "reschedule", "unregister", "reload")
_ANSWER = "UPDATE geckosched_requests SET answered_at=?, answer=? WHERE id=?"


class LeaderLock:
    """The lead over a store: an OS lock on a file beside it, which the death of its holder releases.

    flock, not fcntl locks: those don't exclude two schedulers of one process (trap 20). Probing takes a shared lock, so
    two probers never see each other as leader. Those who stand by share a lock on a second file: a caller who wants the
    lead for a moment leaves it to them.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._standby_path = database.with_name(database.name + ".standby")
        self._descriptor: int | None = None
        self._standby: int | None = None

    def acquire(self, tries: int = 3) -> bool:
        """Try to take the lead; a prober may hold the file for a moment, hence the tries."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _no_lock(self.path, error) from error
        for left in reversed(range(tries)):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._descriptor = descriptor
                return True
            Inbox().wait(0.02 if left else 0)
        os.close(descriptor)
        return False

    def is_held(self) -> bool:
        """Whether some process leads, this one included."""
        return _is_locked(self.path, fcntl.LOCK_SH)

    def stand_by(self) -> None:
        """Show that this process waits for the lead; getting it or `release` ends that."""
        try:
            self._standby = os.open(self._standby_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _no_lock(self._standby_path, error) from error
        fcntl.flock(self._standby, fcntl.LOCK_SH)

    def is_awaited(self) -> bool:
        """Whether somebody stands by, as far as can be told: two who ask at once may take each other for that."""
        return _is_locked(self._standby_path, fcntl.LOCK_EX)

    def stop_waiting(self) -> None:
        """Stand by no more."""
        if self._standby is not None:
            os.close(self._standby)
            self._standby = None

    def release(self) -> None:
        """Give the lead up. In a forked child closing the copy of the descriptor leaves the parent's lock alone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _no_lock(path: Path, error: OSError) -> StoreError:
    hint = " (run it as the user that owns the store)" if isinstance(error, PermissionError) else ""
    return StoreError(f"{path}: {error.strerror}{hint}")


def _is_locked(path: Path, lock: int) -> bool:
    """Whether somebody's lock on a file keeps this one off; without the file nobody's does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Requests:
    """What processes other than the leader ask of it: rows of `geckosched_requests`, which everybody may write."""

    def __init__(self, store: Store, lock: LeaderLock) -> None:
        self._store = store
        self._lock = lock

    def put(self, action: str, job_id: str | None, arguments: Mapping[str, Any], now: int) -> int:
        """Leave a request for the leader; returns its id. A reload is of no job."""
        who = f"{os.getpid()}@{socket.gethostname()}"
        columns = "action, job_id, arguments, requested_at, requested_by"
        sql = f"INSERT INTO geckosched_requests ({columns}) VALUES (?,?,?,?,?)"
        return int(self._write(sql, action, job_id, json.dumps(arguments), to_text(now), who).lastrowid or 0)

    def get(self, request: int) -> sqlite3.Row:
        """Return a request as it stands."""
        return self._store.read("SELECT * FROM geckosched_requests WHERE id = ?", (request,))[0]

    def take_back(self, request: int, now: int) -> bool:
        """Expire a request that nobody answered; False if somebody did after all."""
        sql = "UPDATE geckosched_requests SET answered_at=?, answer='expired' WHERE id=? AND answered_at IS NULL"
        return self._write(sql, to_text(now), request).rowcount > 0

    def ask(self, action: str, job_id: str | None, arguments: Mapping[str, Any],
            patience: float = math.inf) -> sqlite3.Row | None:
        """Ask the leading process, and wait for its answer; None if it is gone (the request is taken back then). After
        `patience` (time.monotonic) the request is returned as it stands, unanswered."""
        request = self.put(action, job_id, arguments, Clock().now())
        until = time.monotonic() + REQUEST_LIFETIME / SECOND
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: self.take_back(request, Clock().now()))  # who is interrupted asks for nothing more
            while True:
                row = self.get(request)
                if row["answered_at"] is not None or time.monotonic() > patience:
                    undo.pop_all()
                    return row
                led = self._lock.is_held()
                if (not led or time.monotonic() > until) and self.take_back(request, Clock().now()):
                    undo.pop_all()
                    return self.get(request) if led else None
                Inbox().wait(0.05)

    def follow(self, row: sqlite3.Row, wait: bool, until: float, on_wait: Callable[[], None]) -> Run | None:
        """Wait for the run of a trigger by reading the store, `until` then; None while it waits for its turn, which
        `on_wait` hears of once."""
        if (row["answer"] or "").startswith("waits "):
            on_wait()
        while True:
            runs = self._store.runs("id = ?", (row["run_id"],), 1) if row["run_id"] else []
            if runs and (runs[0].outcome is not None or not wait):
                return runs[0]
            if not runs and (row["answer"] or "").startswith("refused"):
                raise SchedulerClosed(f"trigger {row['job_id']}: {row['answer']}")
            if (not wait and row["answer"] != "accepted") or time.monotonic() > until:
                return runs[0] if runs else None
            if not runs and not self._lock.is_held():
                raise SchedulerClosed(f"trigger {row['job_id']}: the leader ended before the run could start")
            Inbox().wait(0.05)
            row = self.get(row["id"])

    def _write(self, sql: str, *params: Any) -> sqlite3.Cursor:
        where = f"{self._store.path.as_uri()}?mode=rw"  # a file that is gone is not begun anew beside a leader
        try:
            with (
                self._store.gate,
                contextlib.closing(sqlite3.connect(where, uri=True, timeout=5.0, isolation_level=None)) as connection,
            ):
                connection.execute("BEGIN IMMEDIATE")
                cursor = connection.execute(sql, params)
                connection.execute("COMMIT")
                return cursor
        except sqlite3.Error as error:
            raise self._store.explain(error) from error


class SharedObject:
    """What `RunContext.shared` keeps: a value, once it is `ready`."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Lead:
    """Everything that a leading process has: the writer, the ticker, the workers, and what they share.

    A `momentary` lead carries out what one caller asks with nobody leading: no slot comes up, nothing is retired.
    """

    def __init__(self, store: Store, config: SchedulerConfig, clock: Clock, registrations: Iterable[Registration],
                 registry: CollectorRegistry, *, momentary: bool, keep: bool, only: frozenset[str] | None) -> None:
        self.store = store
        self.config = config
        self.clock = clock
        self.momentary = momentary
        self.instance_id = uuid.uuid4().hex[:12]
        self.started_at = clock.now()
        self.registry = registry
        self.secrets, self.log = registry.secrets, registry.log
        self.hooks = Hooks(registry)
        self.writer = Writer(store, clock, lambda why: self.ticker.inbox.put((self.ticker.hear_of_store, why)))
        self.work: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
        self._readers = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._shared: dict[object, SharedObject] = {}
        self._shared_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.ticker = Ticker(self, momentary=momentary, only=only)
        orphans = self._take_over(list(registrations), retire=not (momentary or keep))
        self._last_before = self.ticker.last_run_id
        for run in orphans:
            self.hooks.tell("run_finished", run=run)

    def start(self, died: Callable[[], None]) -> None:
        """Start the loops; `died` is called if one ends by an error of ours."""
        self._writer_thread = self.spawn("writer", lambda: self._keep("writer", self.writer.turn, died))
        for _ in range(self.config.max_workers):
            self.spawn_worker()
        self._ticker_thread = self.spawn("ticker", lambda: self._keep("ticker", self.ticker.turn, died))

    def stop(self, deadline: float, hurry: threading.Event) -> None:
        """Ask the runs to end, wait until `deadline` (time.monotonic) or `hurry`, close what is left as interrupted,
        write all."""
        def left(least: float, most: float = math.inf) -> float:  # for a step; all are over 0.9 s after the deadline
            now = time.monotonic()
            return max(0.0, min(max(least, deadline - now), most, deadline + 0.9 - now))

        self.ticker.inbox.put((self.ticker.stop,))
        _join(self._ticker_thread, deadline, hurry)
        self.ticker.inbox.put((self.ticker.give_up,))
        self._ticker_thread.join(left(0.3, 0.3))
        written = Inbox()
        self.writer.inbox.put(Statements((), written))
        written.wait(left(0.1))
        self.hooks.close(time.monotonic() + left(0.1, 5.0), hurry)
        end = "UPDATE geckosched_instances SET stopped_at=?, heartbeat_at=?, plugins=coalesce(?, plugins) WHERE id=?"
        now = to_text(self.clock.now())
        self.writer.inbox.put(Statements([
            (end, (now, now, self.plugins_text(), self.instance_id)),
            *self._withdrawal(),
            ("UPDATE geckosched_jobs SET abandoned=0 WHERE abandoned", ()),  # what still hangs can store nothing
        ]))
        self.writer.finish()
        self._writer_thread.join(left(0.1))
        self.writer.give_up()
        self._writer_thread.join(left(0.3, 0.3))
        for _ in self._threads:
            self.work.put(None)
        for thread in self._threads:
            if not thread.name.startswith("geckosched-worker") or self.ticker.all_ended:
                thread.join(0.1)
        for connection in tuple(self._opened):
            _guard(connection.interrupt)  # a query that a given-up run is still at
        self.spawn("closer", self._close_shared).join(left(0.1))
        if not self._writer_thread.is_alive():  # else the disk doesn't answer, and nothing can be closed under it
            _guard(self.writer.connection.close)  # last: it takes what the others read, the WAL, with it

    def _withdrawal(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what takes a momentary lead without a run out of the store: who led last is the one before it."""
        if not self.momentary or self.ticker.last_run_id != self._last_before:
            return []
        others = "EXISTS (SELECT 1 FROM geckosched_instances WHERE id<>?1)"
        return [(f"DELETE FROM geckosched_instances WHERE id=?1 AND {others}", (self.instance_id,))]

    def _close_shared(self) -> None:
        shared = [made.value for made in self._shared.values() if made.ready.is_set()]
        for resource in (*self._opened, *shared):  # ours first: a plugin's close() may hang
            if callable(close := getattr(resource, "close", None)):
                _guard(close)

    def plugins_text(self) -> str | None:
        """Return the plugins and what is wrong with them as JSON, for `geckosched_instances.plugins`; None where a
        momentary lead has loaded none: what the store says of them holds."""
        plugins = self.hooks.statuses()
        return json.dumps([plugin.as_dict() for plugin in plugins]) if plugins or not self.momentary else None

    def spawn(self, name: str, call: Callable[[], None]) -> threading.Thread:
        """Start a daemon thread: one that hangs in plugin code must not keep the process (trap 8)."""
        thread = threading.Thread(target=call, name=f"geckosched-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def spawn_worker(self) -> None:
        self.spawn("worker", self._work)

    def change_workers(self, more: int) -> None:
        """Have more workers, or fewer (negative): then as many end as soon as they are idle."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(more):
            self.spawn_worker()
        for _ in range(-more):
            self.work.put(None)

    def _work(self) -> None:
        """Run what the writer hands over, until told that a worker is too many."""
        try:
            self._run_what_comes()
        finally:
            if (connection := getattr(self._readers, "connection", None)) is not None:
                self._opened.remove(connection)
                _guard(connection.close)

    def _run_what_comes(self) -> None:
        """Run what the writer hands over. A worker whose run was abandoned has been replaced: it ends."""
        while (execution := self.work.get()) is not None:
            ending, finished_at = execution.run(), self.clock.now()
            self.ticker.inbox.put((self.ticker.ended, execution, ending, finished_at))
            _guard(lambda: execution.report(ending, finished_at))  # noqa: B023 - a host's log handler may raise
            if execution.abandoned:
                return

    def _keep(self, name: str, turn: Callable[[], bool], died: Callable[[], None]) -> None:
        """Repeat a loop's turn; an error in it is one of ours, and the scheduler can't go on."""
        try:
            while turn():
                pass
        except Exception:
            _guard(lambda: self.log.exception("the %s died; this is a bug of geckosched", name))
            died()
            self.ticker.die()

    def reader(self) -> sqlite3.Connection:
        """Return this thread's reading connection."""
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = self._readers.connection = self.keep_open(self.store.open_reader())
        return connection

    def keep_open(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Close a connection with this lead, before the writer's: who closes last takes the WAL away."""
        self._opened.append(connection)
        return connection

    def read(self, sql: str, params: Any) -> list[sqlite3.Row]:
        """Run one query on this thread's reading connection."""
        with self.store.gate:
            return self.reader().execute(sql, params).fetchall()

    def shared(self, key: object, factory: Callable[[], Any]) -> Any:
        """Return what the first caller's factory made. No lock is held while it is made: the others wait for it."""
        while True:
            with self._shared_lock:
                first = key not in self._shared
                made = self._shared.setdefault(key, SharedObject())
            if first:
                made.value, made.error = _guard(factory)
                if made.error is not None:
                    del self._shared[key]
                made.ready.set()
                if made.error is not None:
                    raise made.error
                return made.value
            made.ready.wait()
            if made.error is None:
                return made.value

    def _take_over(self, registrations: list[Registration], *, retire: bool) -> list[Run]:
        """Read what the last leader left, in one transaction: orphans are closed, jobs that are gone are retired.
        Returns the orphans."""
        connection, now = self.writer.connection, self.clock.now()
        undo = contextlib.ExitStack()
        undo.callback(connection.close)
        with undo:  # closing rolls back
            self.store.patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            orphans = _close_orphans(connection)
            connection.execute("UPDATE geckosched_requests SET answer='refused: the leader ended before the run could "
                               "start' WHERE action='trigger' AND run_id IS NULL AND (answer='accepted' OR "
                               "answer LIKE 'waits %')")
            rows = {row["job_id"]: row for row in connection.execute(_RESTORE_SQL)}
            connection.execute(
                "INSERT INTO geckosched_instances VALUES (?,?,?,?,?,?,NULL,0,coalesce(?, (SELECT plugins FROM "
                "geckosched_instances ORDER BY rowid DESC LIMIT 1), '[]'))",
                (self.instance_id, os.getpid(), socket.gethostname(), __version__, to_text(now), to_text(now),
                 self.plugins_text()))
            known = {registration.job_id for registration in registrations}
            broken = self.registry.broken
            if retire:
                gone = [(to_text(now), row["job_id"]) for row in rows.values()
                        if row["job_id"] not in known and row["retired_at"] is None and row["plugin"] not in broken]
                connection.executemany("UPDATE geckosched_jobs SET retired_at=? WHERE job_id=?", gone)
            for row in connection.execute("SELECT * FROM geckosched_budgets"):
                self.ticker.restore_budget(row)
            last = "SELECT max((SELECT coalesce(max(id), 0) FROM geckosched_runs), " \
                   "(SELECT coalesce(max(last_run_id), 0) FROM geckosched_jobs))"
            self.ticker.last_run_id = int(connection.execute(last).fetchone()[0])
            if not retire:  # what an operator does to a job must not need its plugin
                zone = find_timezone(self.config.timezone)
                if self.momentary:  # who leads for a moment changes no job of another program
                    registrations = [r for r in registrations
                                     if r.job_id not in rows or rows[r.job_id]["collector"] == r.name]
                    known = {registration.job_id for registration in registrations}
                registrations += [_registration_of(row, zone) for row in rows.values()
                                  if row["job_id"] not in known and row["retired_at"] is None]
            saved = [self.ticker.add(registration, rows.get(registration.job_id)) for registration in registrations]
            anew = [(job[0],) for job, foreign in saved if foreign]
            connection.executemany("DELETE FROM geckosched_jobs WHERE job_id=?", anew)
            connection.executemany(_SAVE_JOB, [job for job, _ in saved])
            connection.execute("COMMIT")
            undo.pop_all()
        return orphans


_RESTORE_SQL = """
    SELECT j.*, r.outcome AS last_outcome, r.scheduled_for AS last_slot, r.finished_at AS last_finished,
           CASE WHEN r.outcome = 'interrupted' THEN (SELECT outcome FROM geckosched_runs b WHERE b.job_id = j.job_id
             AND b.id < j.last_run_id ORDER BY id DESC LIMIT 1) END AS outcome_before  -- asked for only then
      FROM geckosched_jobs j LEFT JOIN geckosched_runs r ON r.id = j.last_run_id"""


def _registration_of(row: sqlite3.Row, zone: tzinfo) -> Registration:
    """Return the registration of a stored job whose collector is not registered here: it can't run here."""
    job_id, every = row["job_id"], parse_duration(row["every"])
    quiet = None if row["quiet"] is None else parse_duration(row["quiet"])
    grid = Grid(job_id, every, None if row["at"] is None else parse_at(row["at"], every), zone)
    return Registration(job_id, None, row["collector"], row["plugin"], {}, {}, bool(row["enabled"]), every, row["at"],
                        grid, every, 0, sys.maxsize, quiet, None)


def _close_orphans(connection: sqlite3.Connection) -> list[Run]:
    """Close the runs of a process that died as interrupted; its last heartbeat is the best guess when."""
    orphans = connection.execute(
        "SELECT r.*, i.heartbeat_at FROM geckosched_runs r LEFT JOIN geckosched_instances i ON i.id = r.instance_id "
        "WHERE r.outcome IS NULL ORDER BY r.id").fetchall()
    for run in orphans:
        ended = max(run["started_at"], run["heartbeat_at"] or run["started_at"])
        seconds = (from_text(ended) - from_text(run["started_at"])) / SECOND
        connection.execute("UPDATE geckosched_runs SET outcome=?, finished_at=?, detail=? WHERE id=?",
                           (Outcome.INTERRUPTED, ended, "its process ended without closing it", run["id"]))
        connection.execute(
            "UPDATE geckosched_jobs SET runs=runs+1, calls=calls+?, missed=missed+?, seconds=seconds+?, last_run_id=?, "
            "last_scheduled_for=max(coalesce(last_scheduled_for, ''), coalesce(?, last_scheduled_for, '')) "
            "WHERE job_id=?",
            (run["calls"], run["missed"], seconds, run["id"], run["scheduled_for"], run["job_id"]))
    connection.execute("UPDATE geckosched_jobs SET last_scheduled_for=NULL WHERE last_scheduled_for=''")
    connection.execute("UPDATE geckosched_jobs SET abandoned=0 WHERE abandoned")
    closed = "SELECT * FROM geckosched_runs WHERE id = ?"
    return [_run_of(connection.execute(closed, (run["id"],)).fetchone()) for run in orphans]


def _repeat(turn: Callable[[], bool]) -> Callable[[], None]:
    """Return the body of a loop's thread."""

    def loop() -> None:
        while turn():
            pass

    return loop


_stored_duration = functools.lru_cache(parse_duration)  # a hundred thousand jobs have a handful of intervals


class Verdict(NamedTuple):
    """A job's health and, unless it is well, why: a few words for people."""

    health: Health
    reason: str = ""


def judge(job: Mapping[str, Any] | sqlite3.Row, now: int, leader_since: int | None, broken: bool = False) -> Verdict:
    """Judge a job by its row, with two columns beside it: `lost_lately`, the losses of the last day, and
    `running_since`, when the run that is going on began.

    The three intervals of silence count from the later of the last sign of life and the leader's start, and are at
    least three minutes; with nobody leading, silence says nothing about the job. They count up to the start of a run
    that is going on: it may take its time, wait for calls or for the store, and one that hangs is ended by its time
    limit. A job that was silent before stays so until a run ends well. `broken`: its plugin is.
    """
    if not job["enabled"] or job["disabled_at"] is not None:
        since = "in the configuration" if job["disabled_at"] is None else f"since {_readable(job['disabled_at'])}"
        return Verdict(Health.DISABLED, f"disabled {since}")
    said = _unhealthy_because(job, now, leader_since, broken)
    if said:
        return Verdict(Health.UNHEALTHY, "; ".join(said))
    if not job["runs"]:
        return Verdict(Health.PENDING, "its first run goes on" if job["running_since"] else "it never ran")
    if said := _degraded_because(job, now, leader_since):
        return Verdict(Health.DEGRADED, "; ".join(said))
    if job["last_sign_at"] is None:  # rate limited, skipped by a stop, interrupted: nobody knows yet whether it works
        return Verdict(Health.PENDING, "no run of it has succeeded yet")
    return Verdict(Health.HEALTHY)


def _unhealthy_because(job: Mapping[str, Any] | sqlite3.Row, now: int, leader_since: int | None,
                       broken: bool) -> list[str]:
    said = [f"plugin {job['plugin']} is broken"] if broken else []
    if job["breaker"] == BreakerState.HALF_OPEN:
        said.append("breaker half open, one run is the probe")
    elif job["breaker"] != BreakerState.CLOSED:
        said.append("breaker open" + (f" until {_readable(job['retry_at'])}" if job["retry_at"] else ""))
    if job["abandoned"]:
        waits = ": its slots wait" if job["abandoned"] >= MOST_ABANDONED else ""
        runs = "1 run hangs" if job["abandoned"] == 1 else f"{job['abandoned']} runs hang"
        said.append(f"{runs} past the time limit{waits}")
    if leader_since is not None and job["next_run_at"] is not None:  # no slot of those that --only leaves out comes up
        said += _silent_because(job, now, leader_since)
    return said


def _silent_because(job: Mapping[str, Any] | sqlite3.Row, now: int, leader_since: int) -> list[str]:
    last = max(leader_since, _from_text_or_none(job["last_sign_at"]) or 0)
    running_since = _from_text_or_none(job["running_since"])
    if (running_since or now) - last <= max(3 * _stored_duration(job["every"]), 3 * MINUTE):
        return []
    said = [f"no sign of life for {format_duration((now - last) // SECOND * SECOND)}"]
    if running_since is None and from_text(job["next_run_at"]) < now - MINUTE:
        said.append(f"its run waits since {_readable(job['next_run_at'])}")
    return said


def _degraded_because(job: Mapping[str, Any] | sqlite3.Row, now: int, leader_since: int | None) -> list[str]:
    said = []
    if errors := job["consecutive_errors"]:
        said.append(f"{errors} error{'s in a row' if errors > 1 else ''}")
    if job["lost_lately"]:
        said.append(f"{int(job['lost_lately'])} lost in the last day")
    rows_at = leader_since if job["last_rows_at"] is None else from_text(job["last_rows_at"])
    if job["quiet"] is not None and rows_at is not None and now - rows_at > _stored_duration(job["quiet"]):
        said.append(f"no new row for longer than {job['quiet']}")
    return said


class Checkup:
    """Judges every job once per `health_check_interval`, some at each turn of the watcher, and says what changed: in
    the log and to the plugins. Of 100,000 jobs one round takes 50 s, whatever the interval. That a pending job turned
    out well is what everybody expects: the plugins hear of it, the log doesn't show it at its usual level."""

    PORTION = 1000
    BREATH = 50

    def __init__(self) -> None:
        self._known: dict[str, Health] = {}
        self._after = ""  # the round has got to this job
        self._next: int | None = 0  # when a round begins, by the scheduler's monotonic clock; None during one
        self._pause = 0  # between two rounds

    def turn(self, lead: Lead) -> None:
        """Judge the next jobs, if it is time."""
        now, before = lead.clock.monotonic(), self._pause
        self._pause = parse_duration(lead.config.health_check_interval)  # a reload may have changed it
        if self._next:
            self._next += self._pause - before
        if lead.momentary or (self._next is not None and now < self._next):
            return
        jobs = lead.read(_CHECKUP_SQL, (to_text(lead.clock.now() - DAY), self._after, self.PORTION))
        broken = lead.registry.broken
        for number, job in enumerate(jobs, 1):
            if not number % self.BREATH:
                Inbox().wait(0.001)  # the ticker waits no longer for the interpreter than so many take
            found, error = _guard(lambda: judge(job, lead.clock.now(), lead.started_at, job["plugin"] in broken))  # noqa: B023
            said = lead.secrets.one_line(error) if error else ""
            damaged = Verdict(Health.UNHEALTHY, f"its row is damaged: {said}") if error else None
            self._hear(lead, job["job_id"], damaged or found)
        self._after = jobs[-1]["job_id"] if len(jobs) == self.PORTION else ""
        self._next = None if self._after else now + self._pause

    def _hear(self, lead: Lead, job_id: str, found: Verdict) -> None:
        old, self._known[job_id] = self._known.get(job_id), found.health
        if old is None or old is found.health:
            return
        level = logging.WARNING if found.health is Health.UNHEALTHY else logging.INFO
        if {old, found.health} == {Health.PENDING, Health.HEALTHY}:
            level = logging.DEBUG
        why = f" ({found.reason})" if found.reason else ""
        about = {"job_id": job_id, "health": str(found.health)}
        lead.log.log(level, "%s: %s, was %s%s", job_id, found.health, old, why, extra=about)
        lead.hooks.tell("health_changed", job_id=job_id, old=old, new=found.health, reason=found.reason)


_CHECKUP_SQL = """
    WITH open_runs AS MATERIALIZED (
        SELECT job_id, max(started_at) AS started_at FROM geckosched_runs INDEXED BY geckosched_runs_open
         WHERE outcome IS NULL GROUP BY job_id)
    SELECT j.job_id, plugin, every, quiet, enabled, disabled_at, breaker, retry_at, next_run_at, abandoned, runs,
           consecutive_errors, last_sign_at, last_rows_at, o.started_at AS running_since,
           (SELECT total(count) FROM geckosched_losses l WHERE l.job_id = j.job_id AND l.until >= ?) AS lost_lately
      FROM geckosched_jobs j LEFT JOIN open_runs o ON o.job_id = j.job_id
     WHERE j.retired_at IS NULL AND j.job_id > ? ORDER BY j.job_id LIMIT ?"""


def _new_pruner() -> Pruner | None:
    try:
        from .pruning import Pruner
    except ImportError:  # core.py alone keeps all history
        return None
    return Pruner()


class Amendment(NamedTuple):
    """What an operator or a reload made of a job's registration here: `after` is None when it was taken out."""

    job_id: str
    before: Registration | None
    after: Registration | None


class Watcher:
    """The loop between processes: reads their requests, stores the ticker's last turn as heartbeat, and seeks the lead
    while standing by. It lives in real time, as processes do. Between its looks it prunes what is old."""

    EVERY = 0.5  # seconds
    HEARTBEAT = 2.0

    def __init__(self, lead: Callable[[], Lead | None], seek: Callable[[], object], secrets: Secrets,
                 reload: Callable[[int], bool] = lambda _: False) -> None:
        self.inbox = Inbox()
        self.last_turn = 0.0  # by time.monotonic
        self._secrets = secrets
        self._reload = reload  # told the request; False if nobody reloads here
        self._lead = lead
        self._seek = seek
        self._seen = 0
        self._next_heartbeat = 0.0
        self._plugins: str | None = None  # as stored last
        self._checkup = Checkup()
        self._trouble = ""  # what kept the last turn from its end
        self._say_again = 0.0
        self._next_look = 0.0
        self._pruner = _new_pruner()

    def turn(self) -> bool:
        """Wait half a second, less while there is something to prune, then look; False when the scheduler stops."""
        self.inbox.wait(self.EVERY if self._pruner is None else min(self.EVERY, self._pruner.pause))
        if "stop" in self.inbox.drain():
            return False
        try:
            self._look()
            self._trouble = ""
        except Exception as error:  # without this loop there is no heartbeat, no request, no take-over
            lead = self._lead()
            if isinstance(error, sqlite3.Error) and lead is not None:
                error = lead.store.explain(error)
            self._say(str(error) if isinstance(error, StoreError) else f"watcher: {self._secrets.one_line(error)}")
        self.last_turn = time.monotonic()
        return True

    def _look(self) -> None:
        if (lead := self._lead()) is None:
            self._seek()
            return
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.EVERY * 0.9
            self._beat(lead)
            self._read_requests(lead)
            self._checkup.turn(lead)
        if self._pruner is not None:
            self._pruner.turn(lead)

    def _say(self, trouble: str) -> None:
        """Say what went wrong in a turn: once, and each minute while it does not change."""
        now = time.monotonic()
        if trouble != self._trouble or now >= self._say_again:
            self._trouble, self._say_again = trouble, now + Trouble.REMIND_AFTER
            SafeLogger(log, self._secrets).warning("%s", trouble)

    def _beat(self, lead: Lead) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat and lead.writer.trouble is None:
            self._next_heartbeat = now + self.HEARTBEAT
            plugins = lead.plugins_text()
            changed, self._plugins = None if plugins == self._plugins else plugins, plugins
            sql = "UPDATE geckosched_instances SET heartbeat_at=?, plugins=coalesce(?, plugins) WHERE id=?"
            lead.writer.inbox.put(Statements([(sql, (to_text(lead.ticker.last_turn), changed, lead.instance_id))]))

    def _read_requests(self, lead: Lead) -> None:
        sql = "SELECT * FROM geckosched_requests WHERE answered_at IS NULL AND id > ? ORDER BY id"
        now = Clock().now()
        for row in lead.read(sql, (self._seen,)):
            self._seen = row["id"]
            answer = "refused: unknown action" if row["action"] not in _ACTIONS else None
            asked = _guard(lambda: (from_text(row["requested_at"]), json.loads(row["arguments"] or "{}")))  # noqa: B023
            if asked[1] is not None:
                answer = f"refused: {self._secrets.one_line(asked[1])}"
            elif now - asked[0][0] > REQUEST_LIFETIME:
                answer = "expired"
            elif row["action"] == "reload" and not self._reload(row["id"]):
                answer = "refused: the process that leads has no configuration to read again"
            if answer is not None:
                lead.writer.inbox.put(Statements([(_ANSWER, (to_text(now), answer, row["id"]))]))
            if answer is not None or row["action"] == "reload":
                continue
            lead.ticker.inbox.put((lead.ticker.operate, row["action"], row["job_id"], asked[0][1], None, row["id"]))


# ======================================================================================================================
# 12  The ticker
# ======================================================================================================================


_QueueKey = tuple[str | None, bool]  # a budget's name, and whether it is for its most urgent jobs
_LATE = MINUTE


class Ticker:
    """The loop that owns the Timetable and every job's bookkeeping. Others speak to it through its inbox, in calls
    `(method, *arguments)`. It runs no plugin code and never waits for the disk."""

    def __init__(self, lead: Lead, *, momentary: bool, only: frozenset[str] | None) -> None:
        self.inbox = Inbox()
        self.jobs: dict[str, Job] = {}
        self.amended: collections.deque[Amendment] = collections.deque()  # for whoever keeps the registrations
        self._retired: dict[str, Job] = {}
        self.last_run_id = 0
        self.last_turn = lead.clock.now()
        self._lead = lead
        self._note = lead.log.note
        self._clock = lead.clock
        self._timetable = Timetable(lead.clock.now)
        self._momentary = momentary
        self._only = only
        self._running: set[Execution] = set()
        self._queues: dict[_QueueKey, list[tuple[int, int, int, int, Job]]] = {}
        self._waiting = 0
        self._store_trouble: str | None = None  # while there is one no run starts
        self._calls = Switchboard(lead.config.budgets, self._save_ledger)
        self._take_settings(lead.config)
        self._deadlines: list[tuple[int, int, Execution]] = []
        self._numbers = itertools.count(1)
        self._abandoned = 0
        self._gave_up = False
        self._stopping = False
        self._over = False
        self._door = threading.Lock()
        self._offset = self._anchor = lead.clock.now() - lead.clock.monotonic()
        self._doubt = SECOND

    @property
    def running(self) -> int:
        """How many runs go on."""
        return len(self._running)

    @property
    def is_busy(self) -> bool:
        """Whether a run is going on or waits."""
        return bool(self._running or self._waiting)

    @property
    def all_ended(self) -> bool:
        """Whether no run's thread is alive any more."""
        return not (self._running or self._abandoned or self._gave_up)

    def _steady(self) -> int:
        """Return the time for budgets: that of the wall clock when this lead began, and no step since."""
        return self._clock.monotonic() + self._anchor

    # -- the loop

    def submit(self, *message: Any) -> bool:
        """Put a message that somebody waits on; False if the loop has ended and nobody would read it."""
        with self._door:
            if not self._over:
                self.inbox.put(message)
            return not self._over

    def _close_the_door(self) -> None:
        with self._door:
            self._over = True
        for call, *arguments in self.inbox.drain():
            call(*arguments)

    def turn(self) -> bool:
        """Wait for a message or a moment, then do all that is due; False when the loop is at its end."""
        self._clock.wait(self.inbox, self._pause())
        self._watch_the_clock()
        for call, *arguments in self.inbox.drain():
            call(*arguments)
        if self._stopping:
            self.last_turn = self._clock.now()
            if not self._running:
                self._close_the_door()
            return bool(self._running)
        self._come_up()
        self._enforce_time_limits()
        self._calls.serve(self._steady())
        self._dispatch()
        self.last_turn = self._clock.now()
        return True

    def _pause(self) -> float:
        """Return the seconds until something is due, at most one."""
        if self.inbox:
            return 0.0
        now, soonest = self._clock.now(), SECOND
        if (due := self._timetable.next_due()) is not None:
            soonest = min(soonest, due - now)
        if self._deadlines:
            soonest = min(soonest, self._deadlines[0][0] - self._clock.monotonic())
        steady = self._steady()
        if (moment := self._calls.next_moment(steady, runs_wait=self._waiting > 0)) is not None:
            soonest = min(soonest, moment - steady)
        return max(0, soonest) / SECOND

    def _watch_the_clock(self) -> None:
        """Compare wall and monotonic time. After a step back the grid is read anew, so that no job waits for the old
        time to come again; a step forward (or a suspended machine) just makes slots due."""
        before, now, after = self._clock.monotonic(), self._clock.now(), self._clock.monotonic()
        step, self._offset = now - before - self._offset, now - before
        doubt, self._doubt = max(after - before, self._doubt), after - before  # how far apart the readings may lie
        if abs(step) < SECOND + doubt:
            return
        self._note(logging.WARNING, "the clock was set %+.1f s", step / SECOND)
        self._calls.save()
        if step < 0:
            for job in self.jobs.values():
                job.accounted = None if job.accounted is None else min(job.accounted, job.registration.grid.before(now))
                job.breaker.mend(now)
                self._plan_after(job, now)

    # -- jobs come, change and go

    def add(self, registration: Registration, row: sqlite3.Row | None) -> tuple[tuple[Any, ...], bool]:
        """Take a job in, with what the store kept of it. Returns the row to save, and whether the old one (of another
        collector) must go first."""
        now = self._clock.now()
        foreign = row is not None and row["collector"] != registration.name
        if foreign:
            job_id = registration.job_id
            self._note(logging.WARNING, "job %s was of another collector: it starts anew", job_id, job_id=job_id)
            row = None
        job = restored(registration, row, self._delays, now)
        job.slot = self._timetable.add(registration.grid, lambda due: self._on_due(job, due))
        left_out = self._only is not None and registration.job_id not in self._only
        job.dormant = self._momentary or left_out or registration.collector is None
        for execution in tuple(self._running):  # of a job that was forgotten, or of another collector
            if execution.job.registration.job_id == registration.job_id:
                self._ask_to_stop(execution, "its job is another one now")
                self._abandon(execution, Ending(Outcome.INTERRUPTED, detail="its job is another one now"))
        self.jobs[registration.job_id] = job
        self._calls.count_job(registration.budget, registration.priority, 1, self._steady())
        if job.active:
            self._plan_first(job, row, now)
        return (*registration.row(), job.next_text), foreign

    def add_live(self, registration: Registration, row: sqlite3.Row | None) -> None:
        """Take a job in while running, or give one of the same id and collector its new registration."""
        self._lead.writer.inbox.put(Statements(self._save_live(registration, row)))

    def _save_live(self, registration: Registration, row: sqlite3.Row | None) -> list[tuple[str, Any]]:
        """Do what `add_live` does; returns the statements that store it."""
        job, statements = self.jobs.get(registration.job_id), []
        old = self._retired.pop(registration.job_id, None)
        if job is None and old is not None and old.registration.name == registration.name:
            saved = self._revive(old, registration)
        elif job is None:
            saved, foreign = self.add(registration, row)
            if foreign:
                statements = [("DELETE FROM geckosched_jobs WHERE job_id=?", (registration.job_id,))]
        else:
            self._renew(job, registration)
            saved = (*registration.row(), job.next_text)
        return [*statements, (_SAVE_JOB, saved)]

    def _renew(self, job: Job, new: Registration) -> None:
        """Give a job another registration. What is due by now comes up first, as it was: a slot would get lost else."""
        now = self._clock.now()
        self._come_up()
        old, was_active = job.registration, job.active
        self._calls.count_job(old.budget, old.priority, -1, self._steady())
        self._calls.count_job(new.budget, new.priority, 1, self._steady())
        self._change_grid(job, new, now)
        job.registration, job.enabled, job.instance = new, new.enabled, None
        job.breaker.threshold = new.max_consecutive_errors
        if job.active and not was_active:
            self._begin_slots(job, now)
        elif job.active is was_active and new.grid != old.grid:
            self._plan_after(job, now)
        elif not job.active:
            self._end_slots(job)
        if job.waiting is not None and (new.budget, new.priority) != (old.budget, old.priority):
            self._enqueue(job, promoted=False)

    def _change_grid(self, job: Job, new: Registration, now: int) -> None:
        """Let a job's slots be those of its new registration, from now on: it has missed none of another grid. A slot
        that came up since `now` stays accounted for, one that was only passed over doesn't."""
        job.slot.grid = new.grid
        if job.accounted is not None and new.grid != job.registration.grid:
            came_up = job.accounted if job.accounted <= self._clock.now() else 0
            job.accounted = max(new.grid.before(now), came_up)

    def _revive(self, job: Job, registration: Registration) -> tuple[Any, ...]:
        """Take an unregistered job up again as it is now, a run in progress included."""
        now = self._clock.now()
        self._change_grid(job, registration, now)
        job.registration, job.enabled, job.instance, job.gone = registration, registration.enabled, None, False
        job.breaker.threshold = registration.max_consecutive_errors
        job.slot = self._timetable.add(registration.grid, lambda due: self._on_due(job, due))
        self.jobs[registration.job_id] = job
        self._calls.count_job(registration.budget, registration.priority, 1, self._steady())
        if job.active:
            self._plan_first(job, None, now)
        return (*registration.row(), job.next_text)

    # -- another configuration

    def apply(self, config: SchedulerConfig, changes: Sequence[tuple[Change, sqlite3.Row | None]],
              reply: Inbox) -> None:
        """Go on with another configuration, which was judged before. A change comes with what the store has of the job.
        The first reply says what came of them (False: nothing, since the scheduler stops), the second that it is
        stored."""
        if self._stopping:
            reply.put(False)  # not None, which only wakes
            return
        statements: list[tuple[str, Any]] = []
        self._come_up()  # as it was
        more = config.max_workers - self._lead.config.max_workers
        self._lead.config = config
        self._lead.change_workers(more)
        self._take_settings(config)
        for job in self.jobs.values() if more > 0 else ():
            if job.waiting is not None and job.abandoned:  # it was parked, and may run now
                self._enqueue(job, promoted=False)
        self._calls.override(config.budgets, self._steady())
        reply.put([change.word(*self._change_job(change, row, statements)) for change, row in changes])
        self._lead.writer.inbox.put(Statements(statements, reply))

    def _take_settings(self, config: SchedulerConfig) -> None:
        self._catchup = config.catchup == "latest"
        self._delays = [parse_duration(each) for each in (config.error_recovery_delay, config.max_recovery_delay)]
        for job in (*self.jobs.values(), *self._retired.values()):
            job.breaker.delay, job.breaker.longest = self._delays

    def _change_job(self, change: Change, row: sqlite3.Row | None,
                    statements: list[tuple[str, Any]]) -> tuple[Registration | None, Registration | None]:
        """Carry out what a configuration changes of one job, on top of what operators did to it; returns what it was
        and is registered as."""
        job = self.jobs.get(change.job_id)
        before = None if job is None else job.registration
        after = change.onto(before)
        if after is not before:
            self.amended.append(Amendment(change.job_id, before, after))
            if job is not None and (after is None or after.name != job.registration.name):
                statements += self._do_unregister(job)
            if after is not None:
                statements += self._save_live(after, row)
        return before, after

    # -- what operators do

    def operate(self, action: str, job_id: str, arguments: Mapping[str, Any], reply: Inbox | None = None,
                request: int | None = None) -> None:
        """Carry out what an operator or embedder asked of a job; the answer goes to a caller here or to the store."""
        if self._stopping and request is not None:
            return  # stays open for the next leader
        job, answer = self.jobs.get(job_id), "done"
        statements: list[tuple[str, Any]] = []
        before = None if job is None else job.breaker.state
        if job is None or (action == "trigger" and job.registration.collector is None):
            answer = "unknown job"
        elif action == "trigger":
            answer = self._trigger(job, Waiter(request=request))
        else:
            try:
                statements = getattr(self, f"_do_{action}")(job, **arguments)
            except (TypeError, ValueError, ArithmeticError, GeckoschedError) as error:  # a request may hold anything
                answer = f"refused: {self._lead.secrets.one_line(error)}"
        if request is not None:
            statements.append((_ANSWER, (to_text(Clock().now()), answer, request)))
        was_reset = action == "reset" and before not in (None, BreakerState.CLOSED)
        then = functools.partial(self._lead.hooks.tell, "breaker_changed", job_id=job_id, old=before,
                                 new=BreakerState.CLOSED, reason="somebody reset it") if was_reset else None
        if was_reset:
            self._note(logging.INFO, "%s: breaker closed, somebody reset it", job_id, job_id=job_id)
        self._lead.writer.inbox.put(Statements(statements, reply, answer, then))

    def trigger(self, job_id: str, inbox: Inbox) -> None:
        """Run a job now for a caller in this process, who hears of it through `inbox`."""
        job = self.jobs.get(job_id)
        if job is None or job.registration.collector is None:
            inbox.put(("unknown", None))
        elif self._stopping:
            inbox.put(("closed", None))
        elif self._trigger(job, Waiter(inbox=inbox)) != "accepted":
            inbox.put(("waiting", None))

    def run_dry(self, job_id: str, notes: DryNotes, inbox: Inbox) -> None:
        """Run a job now for a caller in this process, and store nothing of it; `notes` keep what would be."""
        job = self.jobs.get(job_id)
        if job is None or job.registration.collector is None:
            inbox.put(("unknown", None))
        elif self._stopping:
            inbox.put(("closed", None))
        elif (why := self._hindrance(job)) is not None:
            inbox.put(("busy", why))
        else:
            notes.state = job.state
            waiting = Waiting(Reason.TRIGGERED, None, 0, [Waiter(inbox=inbox)], self._clock.monotonic())
            self._start(job, waiting, notes)

    def _hindrance(self, job: Job) -> str | None:
        """Say what keeps a job from running at once; None if nothing does."""
        now, budget = self._steady(), job.registration.budget
        if job.running is not None:
            return "a run of it is going on"
        if self._store_trouble is not None:
            return f"the store can't be written: {self._store_trouble}"
        if self._is_parked(job):
            return "runs of it hang past their time limit"
        if budget is not None and (until := self._calls.use(budget).ledger.closed_until) > now:
            return f"budget {budget.name} is closed until {_readable(to_text(until - now + self._clock.now()))}"
        return None if self._is_free(job) else "no worker is free"

    def _do_disable(self, job: Job) -> list[tuple[str, Any]]:
        job.disabled_at = job.disabled_at or self._clock.now()
        self._end_slots(job)
        return [self._change(job, disabled_at=to_text(job.disabled_at))]

    def _end_slots(self, job: Job) -> None:
        """Let no slot of a job come up, one that waits included."""
        self._plan(job, None)
        if job.waiting is not None and not job.waiting.waiters:
            self._forget_waiting(job)

    def _do_enable(self, job: Job) -> list[tuple[str, Any]]:
        if not job.active:
            job.disabled_at, job.enabled = None, True
            if not job.registration.enabled:
                self._amend(job, dataclasses.replace(job.registration, enabled=True))
            self._begin_slots(job, self._clock.now())
        return [self._change(job, disabled_at=None, enabled=1)]

    def _begin_slots(self, job: Job, now: int) -> None:
        """Let a job's slots come up again, from the next one on."""
        job.accounted = job.registration.grid.before(now)  # what passed meanwhile was not wanted
        self._plan_after(job, now)
        if not job.ran and self._catchup and job.registration.at is None:
            self._plan(job, NextRun(now, Reason.FIRST, False))

    def _amend(self, job: Job, registration: Registration | None) -> None:
        """Change what a job is registered as, also for the next start."""
        self.amended.append(Amendment(job.registration.job_id, job.registration, registration))
        job.registration = registration or job.registration

    def _do_reset(self, job: Job) -> list[tuple[str, Any]]:
        job.breaker.reset()
        self._plan_after(job, self._clock.now())
        return [self._change(job, breaker=BreakerState.CLOSED, consecutive_errors=0, consecutive_rate_limits=0,
                             opened_at=None, retry_at=None)]

    def _do_reschedule(self, job: Job, every: int, at: str | None = None) -> list[tuple[str, Any]]:
        every = parse_duration(timedelta(microseconds=every), "every")
        now, registration = self._clock.now(), dataclasses.replace(job.registration, every=every, at=at)
        registration = fitted(registration, self._lead.config)
        self._come_up()
        self._change_grid(job, registration, now)
        self._amend(job, registration)
        self._plan_after(job, now)
        return [self._change(job, every=format_duration(every), at=at)]

    def _do_unregister(self, job: Job, forget: bool = False) -> list[tuple[str, Any]]:
        self._amend(job, None)
        self._timetable.cancel_job(job.slot)
        job.gone, job.next = True, None
        waiters, job.queued = [*job.queued, *(job.waiting.waiters if job.waiting else ())], []
        for waiter in waiters:
            waiter.closed()
        refused = [("UPDATE geckosched_requests SET answer='refused: the job was unregistered' WHERE id=?",
                    (waiter.request,)) for waiter in waiters if waiter.request is not None]
        if job.waiting is not None:
            self._forget_waiting(job)
        self._calls.count_job(job.registration.budget, job.registration.priority, -1, self._steady())
        del self.jobs[job.registration.job_id]
        if forget:
            return [*refused, ("DELETE FROM geckosched_jobs WHERE job_id=?", (job.registration.job_id,))]
        self._retired[job.registration.job_id] = job  # the store may lag: this is what a new registration takes up
        return [*refused, self._change(job, retired_at=to_text(self._clock.now()))]

    def _change(self, job: Job, **columns: Any) -> tuple[str, Any]:
        """Return the statement that changes columns of a job's row, and when it runs next."""
        names = "".join(f", {name}=?" for name in columns)
        values = (job.next_text, *columns.values(), job.registration.job_id)
        return (f"UPDATE geckosched_jobs SET next_run_at=?{names} WHERE job_id=?", values)

    # -- when a job runs next

    def _plan(self, job: Job, planned: NextRun | None) -> None:
        if job.gone:
            return
        if job.dormant and not self._momentary:
            planned = None  # no slot of it comes up as long as this process leads
        job.next = planned
        rehearsed = job.running is not None and job.running.dry is not None  # what comes due meanwhile comes up then
        due = None if planned is None or job.dormant or rehearsed else planned.due
        if due != job.slot.due:  # else it stands in the timetable already: a run that ends mostly moves nothing
            self._timetable.set_due(job.slot, due)

    def _plan_first(self, job: Job, row: sqlite3.Row | None, now: int) -> None:
        if job.dormant:
            self._plan(job, next_run(job.breaker, job.registration.grid.after(now)))
        else:
            self._plan(job, first_run(job, row, self._catchup, now))

    def _plan_after(self, job: Job, now: int) -> None:
        """Plan a job's next run, the next slot being the first after `now` that isn't accounted for yet."""
        planned = next_run(job.breaker, job.registration.grid.after(max(now, job.accounted or 0)))
        if job.next is not None and job.next.reason in (Reason.FIRST, Reason.CATCHUP):
            planned = job.next._replace(due=min(job.next.due, now))  # it has not come up yet
        self._plan(job, planned if job.active else None)

    # -- a slot comes, somebody asks

    def _come_up(self) -> None:
        """Let what is due by now come up."""
        if not self._stopping:
            self._timetable.run_pending()

    def _on_due(self, job: Job, due: int) -> None:
        """A planned moment has come (the timetable has moved to the next slot meanwhile)."""
        now, grid = self._clock.now(), job.registration.grid
        planned = job.next or NextRun(due, Reason.SCHEDULED, False)
        self._plan(job, NextRun(grid.after(max(now, job.accounted or 0)), Reason.SCHEDULED, False))
        passed = grid.count(job.accounted if job.accounted is not None else now, now)
        job.accounted = max(job.accounted or 0, grid.before(now)) if passed else job.accounted
        decision = admit(triggered=False, running=job.running is not None, enabled=job.active, held=now < planned.due,
                         free=self._is_free(job))
        if decision is Admission.MISSED:
            job.missed += passed
            return
        if decision is Admission.NEVER:
            return
        if planned.reason is Reason.SCHEDULED:
            latest = grid.before(now)
            late = passed > 1 or now - latest > max(_LATE, min(grid.every // 2, HOUR))
            reason, missed = (Reason.CATCHUP if late else Reason.SCHEDULED), max(0, passed - 1)
            slot: int | None = latest
            if late and not self._catchup:
                job.missed += passed
                return
        else:
            repeated = grid.before(now) if planned.reason is Reason.FIRST else job.repeats
            reason, slot, missed = planned.reason, repeated, passed
        self._offer(job, decision, Waiting(reason, slot, missed, [], self._clock.monotonic()))

    def _trigger(self, job: Job, waiter: Waiter) -> str:
        """Run a job because somebody asked; returns the answer in words."""
        decision = admit(triggered=True, running=job.running is not None, enabled=job.active, held=False,
                         free=self._is_free(job))
        if decision is Admission.AFTERWARDS:
            job.queued.append(waiter)
            return "waits for the present run to end"
        self._offer(job, decision, Waiting(Reason.TRIGGERED, None, 0, [waiter], self._clock.monotonic()))
        if job.waiting is None:
            return "accepted"
        if self._store_trouble is None:
            return "waits for a worker or its budget"
        _note(logging.WARNING, "%s: triggered, and waits for the store", job.registration.job_id)
        return "waits for the store"

    def _offer(self, job: Job, decision: Admission, run: Waiting) -> None:
        """Start a run, or let it wait; a run that waits already takes up the new slot or the new waiter."""
        waiting = job.waiting
        if waiting is None and decision is Admission.RUN:
            self._start(job, run)
        elif waiting is None:
            job.waiting = run
            self._enqueue(job, promoted=False)
        elif run.reason is Reason.TRIGGERED:
            waiting.waiters += run.waiters
        else:
            waiting.missed += run.missed + (waiting.scheduled_for is not None)
            waiting.reason = run.reason if waiting.reason is Reason.TRIGGERED else waiting.reason
            waiting.scheduled_for = run.scheduled_for
            self._enqueue(job, promoted=True)  # it has waited for a whole interval: it goes first

    # -- who goes first

    def hear_of_store(self, trouble: str | None) -> None:
        """Hear from the writer why nothing can be written, or that it can be again: what waited starts in this turn."""
        self._store_trouble = trouble

    def _is_free(self, job: Job) -> bool:
        if self._waiting or self._is_parked(job):
            return False
        return self._has_room(self._queue_key(job))

    def _is_parked(self, job: Job) -> bool:
        """Whether a job's abandoned runs, still alive, keep it from running."""
        full = self._abandoned >= self._lead.config.max_workers
        return job.abandoned >= MOST_ABANDONED or (job.abandoned > 0 and full)

    def _queue_key(self, job: Job) -> _QueueKey:
        budget = job.registration.budget
        if budget is None:
            return (None, False)
        return (budget.name, self._calls.is_most_urgent(budget, job.registration.priority))

    def _has_room(self, key: _QueueKey) -> bool:
        """Whether a run may start: a worker is free, and its budget lets it."""
        workers, (name, urgent) = self._lead.config.max_workers, key
        if self._stopping or self._store_trouble or len(self._running) >= workers:
            return False
        return name is None or self._calls.has_room(name, urgent, workers, self._steady())

    def _enqueue(self, job: Job, *, promoted: bool) -> None:
        waiting = cast(Waiting, job.waiting)
        self._waiting += not waiting.entry
        waiting.entry = next(self._numbers)
        if not self._is_parked(job):
            rank = (0 if promoted else 1, -job.registration.priority, waiting.since, waiting.entry, job)
            heapq.heappush(self._queues.setdefault(self._queue_key(job), []), rank)

    def _forget_waiting(self, job: Job) -> None:
        job.waiting = None
        self._waiting -= 1

    def _dispatch(self) -> None:
        """Start the runs that wait and may start now: by priority, then age."""
        while self._waiting:
            best = None
            for key, heap in self._queues.items():
                while heap and (heap[0][4].waiting is None or heap[0][4].waiting.entry != heap[0][3]):
                    heapq.heappop(heap)
                if heap and (best is None or heap[0] < best[0]) and self._has_room(key):
                    best = heap
            if best is None:
                return
            job = heapq.heappop(best)[4]
            run = cast(Waiting, job.waiting)
            self._forget_waiting(job)
            self._start(job, run)

    # -- a run starts, ends, or doesn't end

    def _start(self, job: Job, run: Waiting, dry: DryNotes | None = None) -> None:
        self.last_run_id += 1
        if dry is None:
            run.missed, job.missed, job.ran = run.missed + job.missed, 0, True
        execution = Execution(self._lead, job, self.last_run_id, run, dry)
        job.running = execution
        if dry is not None:
            self._plan(job, job.next)
        self._running.add(execution)
        before = job.breaker.state
        if job.active and dry is None:
            job.breaker.probe()
        if job.breaker.state is not before:
            self._note_breaker(execution, before, "one run is let through as the probe")
        if job.registration.budget is not None:
            execution.service = self._calls.use(job.registration.budget)
            execution.service.running += 1
        if run.reason in (Reason.FIRST, Reason.CATCHUP, Reason.RETRY) and job.registration.at is None:
            self._pass_over(job, execution.started_at)
        limit = execution.started_monotonic + job.registration.timeout
        heapq.heappush(self._deadlines, (limit, execution.id, execution))
        if len(self._deadlines) > 64 and len(self._deadlines) > 3 * len(self._running):  # mostly runs that have ended
            self._deadlines = [entry for entry in self._deadlines if not entry[2].closed]
            heapq.heapify(self._deadlines)
        self._lead.writer.inbox.put(StartRun(execution))

    def _pass_over(self, job: Job, now: int) -> None:
        """A slot nearer than half an interval after such a run counts as served: it would only repeat it."""
        grid = job.registration.grid
        slot = grid.after(max(now, job.accounted or 0))
        if slot - now < grid.every / 2:
            job.accounted = slot
            if job.active:
                self._plan(job, NextRun(grid.after(slot), Reason.SCHEDULED, False))

    def ended(self, execution: Execution, ending: Ending, finished_at: int) -> None:
        """Hear from a worker that a run has ended."""
        if not execution.closed:
            self._close(execution, ending, finished_at)
        elif execution.abandoned:
            full = self._abandoned >= self._lead.config.max_workers
            self._abandoned -= 1
            job = execution.job
            job.abandoned -= 1
            self._save_abandoned(job)
            for other in tuple(self.jobs.values()) if full else (job,):
                if other.waiting is not None and (other is job or other.abandoned):
                    self._enqueue(other, promoted=False)

    def _close(self, execution: Execution, ending: Ending, now: int) -> None:
        """Let the breaker hear the outcome, find the next run, have both committed; then run for who asked since."""
        job, outcome = execution.job, ending.outcome
        registration, breaker = job.registration, job.breaker
        now = min(now, self._clock.now())  # the clock may have been set back since
        ended_at = max(now, execution.started_at)
        execution.closed, job.running = True, None
        self._running.discard(execution)
        if execution.service is not None:
            execution.service.running -= 1
        before = breaker.state
        conclude(outcome, breaker, now, heard=job.active and execution.dry is None, retry_after=ending.retry_after,
                 again_after=ending.again_after)
        if breaker.state is not before and breaker.retry_at is not None:
            probe_at = _readable(to_text(breaker.retry_at))
            level = logging.WARNING if before is BreakerState.CLOSED else logging.DEBUG  # of a probe its own line says
            job_id = registration.job_id
            self._note(level, "%s: breaker open, one probe at %s", job_id, probe_at, job_id=job_id,
                       run_id=execution.id)
            count = breaker.consecutive_errors
            errors = "one error" if count == 1 else f"{count} errors in a row"
            self._note_breaker(execution, before, f"{errors}, the last run {outcome}; one probe at {probe_at}")
        elif breaker.state is not before:
            job_id = registration.job_id
            self._note(logging.INFO, "%s: breaker closed", job_id, job_id=job_id, run_id=execution.id)
            self._note_breaker(execution, before, f"a run {outcome}")
        if execution.dry is not None:  # it served no slot
            self._plan(job, job.next)
        else:
            if job.accounted is not None and job.active and not job.dormant:
                job.missed += registration.grid.count(job.accounted, now)
                job.accounted = max(job.accounted, registration.grid.before(now))
            job.repeats = execution.scheduled_for
            self._plan_after(job, now)
        good = outcome in (Outcome.SUCCEEDED, Outcome.PARTIAL)
        bad = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        at = to_text(now)
        self._lead.writer.inbox.put(CloseRun(execution, ending, ended_at, (
            breaker.state, breaker.consecutive_errors, breaker.consecutive_rate_limits,
            _text_or_none(breaker.opened_at), _text_or_none(breaker.retry_at), job.next_text, execution.id,
            _text_or_none(self._told(job)), at if good else None, at if good or outcome is Outcome.SKIPPED else None,
            execution.id if good else None, execution.id if bad else None, int(good), int(bad), ending.calls,
            execution.missed, (ended_at - execution.started_at) / SECOND, job.abandoned, registration.job_id)))
        if job.queued and not self._stopping:
            waiters, job.queued = job.queued, []
            again = Waiting(Reason.TRIGGERED, None, 0, waiters, self._clock.monotonic())
            self._offer(job, Admission.RUN if self._is_free(job) else Admission.WAIT, again)

    @staticmethod
    def _note_breaker(execution: Execution, old: BreakerState, reason: str) -> None:
        """Keep for the run's next commit what became of its job's breaker; the plugins hear of it then."""
        execution.news.append({"old": old, "new": execution.job.breaker.state, "reason": reason})

    def _told(self, job: Job) -> int | None:
        """Return the last slot that runs account for: what is missed but in no run's `missed` yet lies after it."""
        if job.accounted is None or not job.missed:
            return job.accounted
        grid = job.registration.grid
        return grid.slot(max(grid.index(0), grid.index(job.accounted) - job.missed))  # a longer grid's may be ages ago

    def _enforce_time_limits(self) -> None:
        """Ask runs at their time limit to end; abandon those that haven't ended 30 s later."""
        now = self._clock.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, execution = heapq.heappop(self._deadlines)
            if execution.closed:
                continue
            left = execution.registration.timeout - execution.ran_for(now)
            if execution.stop is None and left > 0:
                again = now + left
            elif execution.stop is None:
                job_id, limit = execution.registration.job_id, format_duration(execution.registration.timeout)
                self._note(logging.WARNING, "%s: over its time limit of %s, asked to stop", job_id, limit,
                           job_id=job_id, run_id=execution.id)
                self._ask_to_stop(execution, TIME_LIMIT)
                again = now + GRACE
            elif execution.waiting_since is not None or self._abandoned >= self._lead.config.max_workers:
                again = now + SECOND
            else:
                limit = format_duration(execution.registration.timeout)
                error = f"abandoned: it went on 30 s after its time limit of {limit}"
                self._abandon(execution, Ending(Outcome.TIMED_OUT, error=error))
                continue
            heapq.heappush(self._deadlines, (again, number, execution))

    def _ask_to_stop(self, execution: Execution, why: str) -> None:
        execution.ask_to_stop(why)
        self._calls.dismiss(execution, RunStopped(f"the run must end: {why}"))

    def _abandon(self, execution: Execution, ending: Ending) -> None:
        """Go on without a run that doesn't end: a fresh worker and a fresh instance in its place."""
        job = execution.job
        execution.abandoned = True
        job.abandoned += 1
        job.instance = None
        self._abandoned += 1
        self._lead.spawn_worker()
        calls = execution.context.calls if execution.context else 0
        ending = ending._replace(calls=calls, traceback=_stack(execution.thread, self._lead.secrets))
        self._close(execution, ending, self._clock.now())
        execution.report(ending, self._clock.now())
        self._save_abandoned(job)

    def _save_abandoned(self, job: Job) -> None:
        self._lead.writer.inbox.put(Statements([
            ("UPDATE geckosched_jobs SET abandoned=? WHERE job_id=?", (job.abandoned, job.registration.job_id)),
            ("UPDATE geckosched_instances SET abandoned=? WHERE id=?", (self._abandoned, self._lead.instance_id)),
        ]))

    # -- calls of the budgets

    def restore_budget(self, row: sqlite3.Row) -> None:
        self._calls.restore(row, self._steady())

    def ask_call(self, execution: Execution, budget: Budget, reply: Inbox) -> None:
        """A run asks for a call. The reply is its place, or RunStopped."""
        if execution.stop is not None or execution.closed:
            reply.put(RunStopped(f"the run must end: {execution.stop}"))
        else:
            self._calls.ask(execution, budget, execution.registration.priority, reply, self._steady())

    def end_call(self, name: str, place: int, refused: bool, heard: bool, retry_after: int) -> None:
        """A call has ended: with a 429 (`refused`), another answer (`heard`), or none."""
        self._calls.end(name, place, self._steady(), refused=refused, heard=heard, retry_after=retry_after)

    def count_free(self, execution: Execution, budget: Budget, reply: Inbox) -> None:
        """A run asks how many calls would go out now."""
        reply.put(self._calls.free(budget, execution.registration.priority, self._steady()))

    def _save_ledger(self, ledger: Ledger, reply: Inbox | None, answer: Any) -> None:
        ahead = self._clock.now() - self._steady()
        closed = to_text(ledger.closed_until + ahead) if ledger.closed_until else None
        self._lead.writer.inbox.put(Statements([(
            "INSERT INTO geckosched_budgets VALUES (?,?,?,?,?) ON CONFLICT (name) DO UPDATE SET rate=excluded.rate, "
            "burst=excluded.burst, calls=excluded.calls, closed_until=excluded.closed_until",
            (ledger.budget.name, ledger.budget.rate, ledger.budget.burst, ledger.dump(ahead), closed))], reply, answer))

    # -- the end

    def stop(self) -> None:
        """Let nothing start any more, and ask every run to end."""
        self._stopping = True
        self.dismiss_waiters()
        if self._running:
            names = ", ".join(sorted(execution.job.registration.job_id for execution in self._running))
            self._note(logging.INFO, "stopping: waiting for %s", names)
        for execution in tuple(self._running):
            self._ask_to_stop(execution, SHUTDOWN)

    def dismiss_waiters(self) -> None:
        """Tell who waits for a run that it will not start any more."""
        for job in tuple(self.jobs.values()):
            for waiter in (*job.queued, *(job.waiting.waiters if job.waiting else ())):
                waiter.closed()

    def die(self) -> None:
        """After an error of ours: nobody waits for what will not come."""
        self._stopping = True
        self.dismiss_waiters()
        for execution in tuple(self._running):
            for waiter in execution.waiters:
                waiter.closed()
        with contextlib.suppress(Exception):
            self._close_the_door()

    def give_up(self) -> None:
        """Close what has not ended as interrupted; whatever its thread still does, it can store nothing."""
        for execution in tuple(self._running):
            calls = execution.context.calls if execution.context else 0
            detail = "it did not end when the scheduler stopped"
            ending = Ending(Outcome.INTERRUPTED, calls, detail, traceback=_stack(execution.thread, self._lead.secrets))
            self._gave_up = True
            self._close(execution, ending, self._clock.now())
            execution.report(ending, self._clock.now())


def _stack(thread: int | None, secrets: Secrets) -> str | None:
    """Return where a thread is, as text."""
    frame = sys._current_frames().get(thread) if thread is not None else None
    return None if frame is None else secrets.lines(traceback.format_stack(frame))


# ======================================================================================================================
# 13  CollectionScheduler
# ======================================================================================================================

TAKE_OVER = 5.0  # seconds that callers wait while the lead changes hands

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _without_secrets(
    method: Callable[Concatenate[CollectionScheduler, _P], _T],
) -> Callable[Concatenate[CollectionScheduler, _P], _T]:
    """Let a method raise no ConfigError and no PluginError that shows a secret, its own text or what it came from."""

    @functools.wraps(method)
    def call(self: CollectionScheduler, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except (ConfigError, PluginError) as error:
            if (told := self.secrets.hide_error(error)) is error:
                raise
        raise told  # out here: in there the original would stay its context

    return call


class PluginSetup(NamedTuple):
    """Which plugins were loaded, and with what: nothing of it changes before a restart."""

    only: tuple[str, ...] | None
    disable: tuple[str, ...]
    load: tuple[str | os.PathLike[str], ...]
    settings: Mapping[str, Mapping[str, Any]]


class DraftedJobs(NamedTuple):
    """The jobs that a configuration asks for: `not_scheduled` says what collectors lack, `off_by_default` names jobs
    whose collectors are off unless the configuration says otherwise."""

    registrations: dict[str, Registration]
    not_scheduled: dict[str, str]
    off_by_default: set[str]
    errors: list[ConfigError]


class Configurable(Protocol):
    """A whole configuration, such as `geckosched.config.Configuration`."""

    def apply_to(self, scheduler: CollectionScheduler) -> Applied:
        """Judge all of it, then have the scheduler apply it."""


class CollectionScheduler:
    """Runs collectors on schedule. Any number of processes may start one on the same store: one leads, the others stand
    by; every method works in all of them, from any thread, before and after `start`.

    A library touches no signal, no root logger, no global: two schedulers of one process share nothing.
    """

    def __init__(self, config: SchedulerConfig | None = None, *, clock: Clock | None = None) -> None:
        self.config = config or SchedulerConfig()
        self.secrets = Secrets(self.config.secrets)
        self.registry = CollectorRegistry(self.secrets)
        self._log = self.registry.log
        self.lead: Lead | None = None
        self._clock = clock or Clock()
        self._store = Store(self.config.database)
        self._lock = LeaderLock(self._store.path)
        self._requests = Requests(self._store, self._lock)
        self._registrations: dict[str, Registration] = {}  # for the next start; the ticker has those of this one
        self._configured: dict[str, Registration] = {}  # as the configuration said them, whatever operators did since
        self._plugin_setup: PluginSetup | None = None
        self.on_reload: Callable[[int], object] | None = None  # told a request to reload; who sets it answers that
        self._mutex = threading.RLock()
        self._applying = threading.Lock()
        self._state = SchedulerState.STOPPED
        self._watcher: Watcher | None = None
        self._watcher_thread: threading.Thread | None = None
        self._only: frozenset[str] | None = None
        self._keep = False  # retire nothing: not every plugin was asked for
        self._stop_wanted = Inbox()
        self._hurry = threading.Event()  # ends the wait of `stop`
        self._left_to_parent: list[Any] = []
        ForkHooks(self)

    # -- jobs

    @_without_secrets
    def register_collector(
        self, collector: Any, every: object = None, *, job_id: str | None = None, options: Any = None,
        enabled: bool = True, at: str | None = None, timeout: Duration | None = None, priority: int | None = None,
        max_consecutive_errors: int | None = None, quiet: Duration | None = None, replace: bool = False,
    ) -> str:
        """Make a job of a collector (a class, an instance, a @collector function, or the name of one that a plugin
        brought) and return its id.

        Everything is checked here: ConfigError says what was found and what is allowed. Without `job_id` it is the
        collector's name; for a second job of it, the name and six characters of a hash of its options. An identical job
        is DuplicateJob unless `replace`. A job that never ran runs at once; with `at`, at that time.
        """
        drafted = self._draft(collector, every, job_id, options, enabled=enabled, at=at, timeout=timeout,
                              priority=priority, max_consecutive_errors=max_consecutive_errors, quiet=quiet)
        with self._mutex:
            job_id = self._job_id(job_id, drafted.name, drafted.options, replace=replace)
            self._register(fitted(drafted, self.config, job_id))
        return job_id

    def _draft(self, collector: Any, every: object, job_id: str | None, options: Any, *, enabled: bool = True,
               at: str | None = None, timeout: Duration | None = None, priority: int | None = None,
               max_consecutive_errors: int | None = None, quiet: Duration | None = None) -> Registration:
        """Check what `register_collector` was given; the defaults, and the id if there is none, are still to come."""
        known = self.registry.collectors.get(collector) if isinstance(collector, str) else None
        if isinstance(collector, str) and known is None:
            hint = _closest(collector, self.registry.collectors)
            raise ConfigError(f'collector: no plugin brought one called "{collector}"{hint}')
        made = known.collector if known else collector
        name = check_collector(made)
        if known is None and (brought := self.registry.collectors.get(name)) is not None and brought.collector is made:
            known = brought
        where = f"job {job_id or name}"
        options_type = getattr(made, "Options", None)
        if options_type is None:
            options = dict(options or {})
        elif not isinstance(options, options_type):
            options = read_options(options_type, options or {}, where)

        def pick(given: Any, attribute: str, default: Any = None) -> Any:
            given = getattr(made, attribute, None) if given is None else given
            return default if given is None else given

        microseconds, own_at = parse_every(pick(every, "every"), f"{where} every")
        at = at if at is not None else own_at
        hour_minute = None if at is None else parse_at(at, microseconds, f"{where} at")
        errors, limit = pick(max_consecutive_errors, "max_consecutive_errors"), pick(timeout, "timeout")
        by_default = {"max_consecutive_errors": errors, "timeout": limit}
        level = pick(priority, "priority", 0)
        for key, value, least in (("max_consecutive_errors", errors, 1), ("priority", level, -sys.maxsize)):
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not is_number or value < least):
                raise ConfigError(f"{where} {key}: found {value!r}, allowed is a whole number")
        return Registration(
            job_id=job_id or name, collector=made, name=name, plugin=known.plugin if known else None,
            settings=known.settings if known else {}, options=options, enabled=bool(enabled), every=microseconds, at=at,
            grid=Grid(job_id or name, microseconds, hour_minute),
            timeout=0 if limit is None else parse_duration(limit, f"{where} timeout"), priority=level,
            max_consecutive_errors=errors or 0,
            quiet=None if quiet is None else parse_duration(quiet, f"{where} quiet"),
            budget=getattr(made, "budget", None),
            by_default=frozenset(name for name, value in by_default.items() if value is None))

    def _register(self, registration: Registration) -> None:
        """Let a job be; the mutex is held."""
        job_id = registration.job_id
        self._take_amendments(self.lead)
        self._registrations[job_id] = registration
        if self.lead is not None:
            rows = self._store.read(_RESTORE_SQL + " WHERE j.job_id = ?", (job_id,))
            self.lead.ticker.inbox.put((self.lead.ticker.add_live, registration, rows[0] if rows else None))
        elif self._state is SchedulerState.STANDBY:
            self._say_how_jobs_differ(job_id)

    def _job_id(self, job_id: str | None, name: str, options: Any, *, replace: bool) -> str:
        def is_same(other: Registration | None) -> bool:
            return other is not None and other.name == name and other.options == options

        if job_id is None:
            job_id = name
            if name in self._registrations and not is_same(self._registrations[name]):
                values = options if isinstance(options, dict) else dataclasses.asdict(options)
                text = json.dumps(values, sort_keys=True, default=str)
                job_id = f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"
        check_name(job_id, "job_id")
        if job_id in self._registrations and not replace:
            raise DuplicateJob(job_id)
        if job_id in self._registrations and self.lead is not None and self._registrations[job_id].name != name:
            owner = self._registrations[job_id].name
            raise ConfigError(f"job {job_id}: runs collector {owner} here, unregister it before it runs {name}")
        return job_id

    def unregister_collector(self, job_id: str, forget: bool = False) -> None:
        """Take a job out. Its row, state and history are kept, and taken up again by the same id and collector;
        `forget` deletes the row and the state. A run in progress goes on to its end."""
        if self._operate("unregister", job_id, {"forget": forget}):
            with self._mutex:
                self._registrations.pop(job_id, None)

    def enable_collector(self, job_id: str) -> None:
        """Let a job's slots come up again, from the next one on."""
        if self._operate("enable", job_id, {}):
            self._amend(job_id, enabled=True)

    def disable_collector(self, job_id: str) -> None:
        """Let no slot of a job come up until `enable_collector`, whatever breaker, configuration or restarts do."""
        self._operate("disable", job_id, {})

    def reschedule_collector(self, job_id: str, every: object) -> None:
        """Change a job's interval for as long as this registration lasts."""
        microseconds, at = parse_every(every, f"job {job_id} every")
        if self._operate("reschedule", job_id, {"every": microseconds, "at": at}):
            self._amend(job_id, every=microseconds, at=at)

    def _amend(self, job_id: str, **changes: Any) -> None:
        """Keep in this process's registration what the process that leads has changed, for when this one does."""
        with self._mutex:
            if (registration := self._registrations.get(job_id)) is not None:
                self._registrations[job_id] = fitted(dataclasses.replace(registration, **changes), self.config)

    def _take_amendments(self, lead: Lead | None) -> None:
        """Keep in the registrations what operators and reloads made of the jobs in a lead; the mutex is held. What was
        registered anew since then stays."""
        while lead is not None and lead.ticker.amended:
            job_id, before, after = lead.ticker.amended.popleft()
            if self._registrations.get(job_id) is not before:
                continue
            if after is None:
                self._registrations.pop(job_id, None)
            else:
                self._registrations[job_id] = after

    # -- another configuration

    @_without_secrets
    def apply(self, config: SchedulerConfig | Configurable, *, jobs: DraftedJobs | None = None,
              plugins: PluginSetup | None = None) -> Applied:
        """Go on with another configuration: settings, or a whole `geckosched.config.Configuration` with its jobs, which
        hands them here as `jobs` and `plugins`. Returns what that changed, and what needs a restart.

        All is judged first: with an error nothing changes. Only what differs is touched. A run in progress ends as it
        began; state, counters and breakers stay; what operators did to a job (disable, enable, reschedule, unregister)
        holds, but for a setting that the new configuration changes. In a standby it holds once this process leads.
        (This needs `geckosched.reload`.)
        """
        if not isinstance(config, SchedulerConfig):
            return config.apply_to(self)
        try:
            from .reload import Plan
        except ImportError as error:
            raise GeckoschedError("apply needs the whole package") from error
        with self._applying:  # no plugin code runs in here, but for the comparison of options
            with self._mutex:
                self._take_amendments(self.lead)
                plan = Plan.of(self.config, config, self._store.path)
                wanted = None if jobs is None else jobs.registrations
                changes = plan.changes(self._configured, wanted, self._registrations)
                anew = [each.job_id for each in changes if each.job_id not in self._registrations or each.is_of_another]
                rows = self._rows_of(anew)
                self.secrets.add(config.secrets)
                self.config = plan.config
                if wanted is None:
                    wanted = {job_id: fitted(each, plan.config) for job_id, each in self._configured.items()}
                self._configured = wanted
                if jobs is not None:
                    self.registry.not_scheduled, self.registry.off_by_default = jobs.not_scheduled, jobs.off_by_default
            words = self._carry_out([(each, rows.get(each.job_id)) for each in changes])
            return plan.applied(changes, words, self._plugin_setup, plugins)

    def _carry_out(self, changes: Sequence[tuple[Change, sqlite3.Row | None]]) -> list[str]:
        """Have the ticker change the jobs or, where this process doesn't lead, keep for its start what they are."""
        while True:
            reply = Inbox()
            with self._mutex:
                lead = self.lead if self._state is SchedulerState.RUNNING else None
                if lead is None or not lead.ticker.submit(lead.ticker.apply, self.config, changes, reply):
                    return self._change_registrations([change for change, _ in changes])
            words = self._await_applied(reply)
            with self._mutex:
                self._take_amendments(lead)
            if words is not None:  # else it stopped before
                return words

    def _rows_of(self, job_ids: Sequence[str]) -> dict[str, sqlite3.Row]:
        """Return what the store has of jobs, as a start would read it."""
        found: dict[str, sqlite3.Row] = {}
        for first in range(0, len(job_ids), 500):
            some = job_ids[first : first + 500]
            sql = f"{_RESTORE_SQL} WHERE j.job_id IN ({', '.join('?' * len(some))})"
            found.update((row["job_id"], row) for row in self._store.read(sql, some))
        return found

    def _await_applied(self, reply: Inbox) -> list[str] | None:
        """Wait for the ticker to say what a configuration changed, and then, for a while, until that is stored."""
        reply.wait(None)
        words, *stored = reply.drain()
        if words is False:
            return None
        if not stored:
            reply.wait(TAKE_OVER)
        return cast(list[str], words)

    def _change_registrations(self, changes: Sequence[Change]) -> list[str]:
        """Change jobs for when this process leads; the mutex is held."""
        words = []
        for change in changes:
            before = self._registrations.get(change.job_id)
            after = change.onto(before)
            if after is None:
                self._registrations.pop(change.job_id, None)
            else:
                self._registrations[change.job_id] = after
            words.append(change.word(before, after))
        if self._state is SchedulerState.STANDBY and any(words):
            self._say_how_jobs_differ()
        return words

    def request_reload(self) -> str | None:
        """Have the process that leads read its configuration again; returns its answer, which begins with `refused` if
        nothing was changed, or None if nobody leads. During a take-over it waits for the new leader."""
        until = time.monotonic() + TAKE_OVER
        while self._lock.is_held() or (self._lock.is_awaited() and time.monotonic() < until):
            if self._lock.is_held() and (row := self._requests.ask("reload", None, {})) is not None:
                return cast(str, row["answer"])
            Inbox().wait(0.05)
        return None

    def answer_request(self, request: int, answer: str) -> None:
        """Answer another process's request to reload. Who doesn't lead any more leaves it to who does."""
        if (lead := self.lead) is not None:
            values = (to_text(Clock().now()), self.secrets.hide(answer), request)
            lead.writer.inbox.put(Statements([(_ANSWER, values)]))

    def reset_breaker(self, job_id: str) -> None:
        """Close a job's breaker and forget its errors."""
        self._operate("reset", job_id, {})

    def execute_collector_now(self, job_id: str, *, wait: bool = True, timeout: float | None = None,
                              on_wait: Callable[[], None] = lambda: None) -> Run | None:
        """Run a job now, by the same path as a scheduled run; a run in progress is waited for first.

        Returns the Run when it has ended. With `wait=False`, or when `timeout` (seconds) has passed, returns it as it
        stands, or None while it waits for its turn; `on_wait` is called once (on this thread) if it has to. Elsewhere
        than in the leader this is a request to it; with nobody leading, this process takes the lead for that one run,
        and waits.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._taking_part() as lead:
                if lead is not None:
                    inbox = Inbox()
                    if not lead.ticker.submit(lead.ticker.trigger, job_id, inbox):
                        raise SchedulerClosed(f"the scheduler stopped before {job_id} could run")
                    run_id = self._await_run(job_id, inbox, wait or lead is not self.lead, timeout, on_wait)
                    return None if run_id is None else self.get_run(run_id)
            if (row := self._requests.ask("trigger", job_id, {}, until)) is not None:
                self._check_answer("trigger", job_id, row["answer"])
                return self._requests.follow(row, wait, until, on_wait)

    def dry_run(self, job_id: str) -> DryRun:
        """Run a job here and return what it would have stored; nothing is stored but the calls of its budget.

        Each yield is written and taken back, so that what the store would refuse is refused, but a later yield doesn't
        see what an earlier one brought. Neither the breaker nor a plugin's hook hears of it, and slots that come
        meanwhile come up after it. It needs the lead: SchedulerClosed while another process has it, and while the job
        can't run at once.
        """
        with self._taking_part() as lead:
            if lead is None:
                raise SchedulerClosed(f"dry run of {job_id}: another process leads, and a dry run needs the lead")
            notes, inbox = DryNotes(), Inbox()
            if not lead.ticker.submit(lead.ticker.run_dry, job_id, notes, inbox):
                raise SchedulerClosed(f"the scheduler stopped before {job_id} could run")
            self._await_run(job_id, inbox, True, None, lambda: None)
            return notes.result()

    def _await_run(self, job_id: str, inbox: Inbox, wait: bool, timeout: float | None,
                   on_wait: Callable[[], None]) -> int | None:
        """Wait for a run to end, or to start; returns its id, None if it waits for its turn when the time is over."""
        until = None if timeout is None else self._clock.monotonic() + round(timeout * SECOND)
        run_id: int | None = None
        while True:
            left = None if until is None else (until - self._clock.monotonic()) / SECOND
            if left is not None and left <= 0:
                return run_id
            self._clock.wait(inbox, left)
            for word, found in inbox.drain():
                if word == "unknown":
                    raise self._unknown(job_id)
                if word == "closed":
                    raise SchedulerClosed(f"the scheduler stopped before {job_id} could run")
                if word == "busy":
                    raise SchedulerClosed(f"dry run of {job_id}: {found}")
                if word == "waiting":
                    on_wait()
                run_id = found
                if word == "finished" or not wait:
                    return cast("int | None", run_id)

    # -- plugins

    @_without_secrets
    def load_plugins(
        self, only: Iterable[str] | None = None, *, disable: Iterable[str] = (),
        load: Iterable[str | os.PathLike[str]] = (), settings: Mapping[str, Mapping[str, Any]] | None = None,
        collectors: Mapping[str, Mapping[str, Any]] | TablesReader | None = None,
        read_options: OptionsReader = read_options,
    ) -> None:
        """Register the installed plugins (and the files of `load`) and schedule their collectors.

        `settings` and `collectors` are the tables `[plugins.NAME]` and `[collectors.X]` of the configuration, the
        latter perhaps as a function that makes them once it is handed the registry, with what the plugins brought. A
        collector without a table runs at its own interval if it needs no options, else `registry.not_scheduled` says
        what it needs; one with `enabled = False` is off unless its table says otherwise. A broken plugin is kept in
        `registry.plugins` with the reason and raises nothing; tables that can't be used raise one ConfigError, with a
        line for each.
        """
        only, load, disable = None if only is None else tuple(only), tuple(load), tuple(disable)
        self._plugin_setup = PluginSetup(only, disable, load, settings or {})
        self._keep = self._keep or only is not None
        for path in load:
            self.registry.load_file(path, settings or {})
        self.registry.load_entry_points(only, disable, settings or {})
        tables = collectors(self.registry) if callable(collectors) else collectors
        self._schedule(tables or {}, read_options)

    @_without_secrets
    def add_plugin(self, plugin: object, name: str | None = None) -> str:
        """Register a plugin object (a module, a class or an instance) and schedule its collectors; returns its name.
        Raises PluginError if it is broken."""
        name = self.registry.add(plugin, name, {})
        if error := self.registry.plugins[name].error:
            raise PluginError(f"plugin {name}: {error}")
        self._schedule({}, read_options)
        return name

    def _schedule(self, tables: Mapping[str, Mapping[str, Any]], reader: OptionsReader) -> None:
        found = self.draft_jobs(tables, reader, taken=tuple(self._registrations))
        with self._mutex:
            for registration in found.registrations.values():
                self._job_id(registration.job_id, registration.name, registration.options, replace=False)
                self._register(registration)
            self._configured.update(found.registrations)
            self.registry.not_scheduled.update(found.not_scheduled)
            self.registry.off_by_default |= found.off_by_default
        if found.errors:
            raise ConfigError.of_all(found.errors)

    def draft_jobs(self, tables: Mapping[str, Mapping[str, Any]], reader: OptionsReader = read_options,
                   config: SchedulerConfig | None = None, taken: Collection[str] | None = None) -> DraftedJobs:
        """Return the jobs that the tables `[collectors.X]` make of the collectors that plugins brought, and what is
        wrong with the tables; nothing is changed. `taken` are the jobs that are there already; without it those that
        Python code registered, which no table may name."""
        found = DraftedJobs({}, {}, set(), [])
        if taken is None:
            with self._mutex:
                taken = self._registrations.keys() - self._configured.keys()
            errors = [f"[collectors.{job_id}] {DuplicateJob(job_id)}" for job_id in tables if job_id in taken]
            found.errors.extend(map(ConfigError, errors))
        for job_id, table in tables.items():
            try:
                self._draft_table(found, job_id, table, reader, config or self.config)
            except ConfigError as error:
                found.errors.append(error)
        used = {str(table.get("use", job_id)) for job_id, table in tables.items()}
        for name, known in sorted(self.registry.collectors.items()):
            if name not in used and name not in taken and name not in tables:  # a table may give its id to another
                missing = missing_options(getattr(known.collector, "Options", None), {})
                if missing:
                    found.not_scheduled[name] = f"needs {', '.join(f'`{option}`' for option in missing)}"
                else:
                    self._draft_of_plugin(found, name, name, config or self.config)
        return found

    def _draft_table(self, found: DraftedJobs, job_id: str, table: Mapping[str, Any], reader: OptionsReader,
                     config: SchedulerConfig) -> None:
        """Make the job of a table `[collectors.JOB_ID]`. Raises ConfigError."""
        name = str(table.get("use", job_id))
        known = self.registry.collectors.get(name)
        where = f"[collectors.{job_id}]"
        own = {key: value for key, value in table.items() if key not in OUR_OPTIONS}
        withheld = self.registry.withheld.get(name) if known is None else None
        if withheld is not None and (options_type := getattr(withheld.collector, "Options", None)) is not None:
            reader(options_type, own, where)  # what is wrong with it is said with what is wrong with its plugin
        if known is None:
            text = f'{where} no installed collector is called "{name}"{_closest(name, self.registry.collectors)}'
            broken = [plugin.name for plugin in self.registry.plugins.values() if not plugin.ok]
            if not broken and not self._keep:
                raise ConfigError(text)
            if broken:
                text = f'{where} is left out: if "{name}" is of a broken plugin ({", ".join(broken)}), mend that first'
            self._log.warning("%s", text)
            return
        ours = {key: value for key, value in table.items() if key in OUR_OPTIONS and key not in ("use", "every")}
        options_type = getattr(known.collector, "Options", None)
        options = own if options_type is None else reader(options_type, own, where)
        self._draft_of_plugin(found, name, job_id, config, table.get("every"), options, **ours)

    def _draft_of_plugin(self, found: DraftedJobs, name: str, job_id: str, config: SchedulerConfig,
                         every: object = None, options: Any = None, **settings: Any) -> None:
        """Make a job of a plugin's collector, which is off if its author says so and the configuration doesn't."""
        off = "enabled" not in settings and not getattr(self.registry.collectors[name].collector, "enabled", True)
        drafted = self._draft(name, every, check_name(job_id, "job_id"), options, **{"enabled": not off, **settings})
        found.registrations[job_id] = fitted(drafted, config)
        if off:
            found.off_by_default.add(job_id)

    # -- what happened

    @property
    def state(self) -> SchedulerState:
        return self._state

    @property
    def last_turn(self) -> tuple[SchedulerState, float] | None:
        """When the loop that all depends on turned last: the ticker in the leader, the watcher in a standby; None
        before. Only whether it differs from before means something: a watchdog is fed by that."""
        if (lead := self.lead) is not None:
            return SchedulerState.RUNNING, lead.ticker.last_turn
        watcher = self._watcher
        return None if watcher is None else (SchedulerState.STANDBY, watcher.last_turn)

    def is_led(self) -> bool:
        """Whether some process runs the jobs of this store, this one or another."""
        return self.lead is not None or self._lock.is_held()

    def get_status(self, job_id: str | None = None) -> Status:
        """Return scheduler, jobs and plugins: what the store says, wherever the leader is, and the jobs that are
        registered here but not stored yet. With `job_id` the one job only, or none if there is none of this id. (This
        and what builds on it need a second file: `geckosched.views`.)"""
        try:
            from .views import read_status
        except ImportError as error:
            raise GeckoschedError("get_status needs the whole package, core.py alone has get_runs") from error
        leading = self._lock.is_held()
        own = self.lead is not None or (not leading and self._state is not SchedulerState.STOPPED)
        with self._mutex:
            self._take_amendments(self.lead)
            registrations = [r for r in self._registrations.values() if job_id in (None, r.job_id)]
        return read_status(self._store, self._clock.now(), leading=leading, own_state=self._state if own else None,
                           registrations=registrations, plugins=tuple(self.registry.plugins.values()), job_id=job_id)

    def get_forecast(self) -> Forecast:
        """Return what a start here and now would do: each job's next run, and the calls that the jobs ask of their
        budgets. Reads the store if there is one, and writes nothing. (This needs `geckosched.forecast`.)"""
        try:
            from .forecast import read_forecast
        except ImportError as error:
            raise GeckoschedError("get_forecast needs the whole package") from error
        with self._mutex:
            registrations = list(self._registrations.values())
        return read_forecast(self._store, self._clock.now(), self.config, registrations, self.registry,
                             leading=self._lock.is_held())

    def get_collector_status(self, job_id: str) -> JobStatus:
        """Return the status of one job. Raises UnknownJob."""
        for job in self.get_status(job_id).jobs:
            return job
        raise self._unknown(job_id)

    def get_statistics(self, job_id: str) -> JobStatistics:
        """Return how a job does, over the last day and in all. Raises UnknownJob. (This needs
        `geckosched.statistics`.)"""
        try:
            from .statistics import read_statistics
        except ImportError as error:
            raise GeckoschedError("get_statistics needs the whole package") from error
        if job_id not in self._known_jobs():
            raise self._unknown(job_id)
        return read_statistics(self._store, job_id, self._clock.now())

    def get_unhealthy_collectors(self) -> list[JobStatus]:
        """Return the jobs whose health is `unhealthy`."""
        return [job for job in self.get_status().jobs if job.health is Health.UNHEALTHY]

    def get_runs(self, job_id: str | None = None, limit: int = 50, *, failed: bool = False) -> list[Run]:
        """Return the latest runs, newest first. Raises UnknownJob for an id that never was one.

        `failed` leaves out what succeeded, was skipped or still runs. A run that is open though nobody leads counts:
        its process is gone.
        """
        where, params = ("1", ()) if job_id is None else ("job_id = ?", (job_id,))
        if failed:
            found = self._store.runs(f"{where} AND {_FLAWED}", params, limit)
            gone = [] if self._lock.is_held() else self._store.runs(f"+{where} AND outcome IS NULL", params, limit)
            found = sorted([*found, *gone], key=lambda run: -run.id)[:limit]
        else:
            found = self._store.runs(where, params, limit)
        if job_id is not None and not found and job_id not in self._known_jobs():
            raise self._unknown(job_id)
        return found

    def get_run(self, run_id: int) -> Run:
        """Return one run. Raises UnknownJob if there is none of this id."""
        found = self._store.runs("id = ?", (run_id,), 1)
        if not found:
            raise UnknownJob(str(run_id))
        return found[0]

    def get_losses(self, run_id: int) -> list[RunLoss]:
        """Return what a run counted as lost, by target."""
        try:
            from .views import read_losses
        except ImportError as error:
            raise GeckoschedError("get_losses needs the whole package") from error
        return read_losses(self._store, run_id)

    def _known_jobs(self) -> set[str]:
        rows = self._store.read("SELECT job_id FROM geckosched_jobs WHERE retired_at IS NULL")
        return {row["job_id"] for row in rows} | set(self._registrations)

    def _unknown(self, job_id: str) -> UnknownJob:
        elsewhere = job_id in self._registrations and self.lead is None and self._lock.is_held()
        why = "is registered here, but the process that leads does not have it" if elsewhere else None
        known = self._known_jobs()
        if not known and self.lead is None and self._lock.is_held():
            why = f"is not known: the leader has written nothing into {self._store.path} (was it moved or replaced?)"
        elif not known and not self._store.is_there():
            why = f"is not known: {self._store.path} is not there yet"
        elif not known:
            why = "is not known: there are no jobs yet"
        return UnknownJob(job_id, known, why)

    # -- life

    def start(self, *, only: Iterable[str] | None = None) -> None:
        """Lead, or stand by while another process does; returns when it is clear which. `only` limits whose slots come
        up. Raises StoreError if the store can't be used."""
        with self._mutex:
            if self._state not in (SchedulerState.STOPPED, SchedulerState.ERROR) or self._watcher is not None:
                raise SchedulerClosed(f"start: the scheduler is {self._state}")
            self._only = None if only is None else frozenset(only)
            for job_id in self._only or ():
                if job_id not in self._registrations:
                    raise UnknownJob(job_id, self._registrations)
            self._state = SchedulerState.STARTING
            self._hurry.clear()
            with contextlib.ExitStack() as undo:
                undo.callback(setattr, self, "_state", SchedulerState.STOPPED)
                undo.callback(self._lock.stop_waiting)
                if not self.try_to_lead():
                    self._state = SchedulerState.STANDBY
                    self._lock.stand_by()
                    self._log.info("standing by: another process leads %s", self._store.path)
                    self._say_how_jobs_differ()
                undo.pop_all()
            self._watcher = Watcher(lambda: self.lead, self.try_to_lead, self.secrets, self._hand_over)
            thread = threading.Thread(target=_repeat(self._watcher.turn), name="geckosched-watcher", daemon=True)
            self._watcher_thread = thread
            thread.start()

    def _hand_over(self, request: int) -> bool:
        """Tell who reloads here of a request; False if nobody does."""
        if (on_reload := self.on_reload) is not None:
            on_reload(request)
        return on_reload is not None

    def _say_how_jobs_differ(self, job_id: str | None = None) -> None:
        """Say in the log how the jobs of this standby, or one of them, differ from the leader's, which are the jobs."""
        columns = "job_id, collector, plugin, every, at, quiet, enabled"
        stored = self._store.read(f"SELECT {columns} FROM geckosched_jobs WHERE retired_at IS NULL")
        theirs = {row["job_id"]: tuple(row) for row in stored}
        ours = {name: registration.row() for name, registration in self._registrations.items()}
        names = ours.keys() | theirs.keys() if job_id is None else {job_id}
        differences: dict[str, list[str]] = {"only here": [], "set otherwise": [], "only there": []}
        for name in sorted(name for name in names if ours.get(name) != theirs.get(name)):
            kind = "only here" if name not in theirs else "only there" if name not in ours else "set otherwise"
            differences[kind].append(name)
        said = [f"{kind}: {', '.join(found[:10])}{' ...' if len(found) > 10 else ''}"
                for kind, found in differences.items() if found]
        if said:
            how = "; ".join(said)
            self._log.warning("the jobs here differ from the leader's, and hold once this process leads: %s", how)

    def try_to_lead(self) -> bool:
        """Take the lead if nobody has it. Called at the start and, while standing by, by the watcher."""
        with self._mutex:
            wanted = (SchedulerState.STARTING, SchedulerState.STANDBY)
            if self._state not in wanted or not self._lock.acquire():
                return False
            self.lead = self._take_lead(momentary=False)
            self._lock.stop_waiting()
            self._log.info("leading: this process runs the jobs of %s", self._store.path)
            self._state = SchedulerState.RUNNING
            return True

    def _take_lead(self, *, momentary: bool) -> Lead:
        """Make and start what a leader has; the lock, which is held, is released if that fails."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            try:
                with self._store.gate:
                    lead = Lead(self._store, self.config, self._clock, self._registrations.values(), self.registry,
                                momentary=momentary, keep=self._keep, only=self._only)
            except sqlite3.Error as error:
                raise self._store.explain(error) from error
            except (ValueError, TypeError, KeyError) as error:  # a value that somebody damaged
                raise StoreError(f"{self._store.path}: {self.secrets.one_line(error)}") from error
            lead.start(self._loop_died)
            undo.pop_all()
        return lead

    def _loop_died(self) -> None:
        self._state = SchedulerState.ERROR
        self._stop_wanted.put(True)

    def stop(self, timeout: float | None = None) -> None:
        """Ask the runs to end and wait for them at most `timeout` seconds (default: `shutdown_timeout`); what has not
        ended then is closed as interrupted and can store nothing more. Returns within the timeout plus one second."""
        seconds = parse_duration(self.config.shutdown_timeout, zero=True) / SECOND if timeout is None else timeout
        deadline = time.monotonic() + max(0.0, seconds)
        self._store.hurry.set()  # who opens it under the mutex gives up
        with self._mutex:
            self._store.hurry.clear()
            lead, watcher, thread = self.lead, self._watcher, self._watcher_thread
            if watcher is None or thread is None:
                return
            self._state = SchedulerState.STOPPING
        watcher.inbox.put("stop")
        thread.join(max(0.2, deadline - time.monotonic()))
        if lead is not None:
            lead.stop(deadline, self._hurry)
        with self._mutex:
            self._take_amendments(lead)
            if self._watcher is watcher:  # else another stop() was first, and somebody may have started again
                self.lead = self._watcher = self._watcher_thread = None
                self._lock.stop_waiting()
                if lead is not None:  # else the lock is a momentary lead's, if it is ours at all
                    self._lock.release()
                self._state = SchedulerState.STOPPED
                self._log.info("stopped")
        self._stop_wanted.put(True)

    def hurry(self) -> None:
        """End the wait of a `stop` that is going on, as a second Ctrl-C does. May be called in a signal handler."""
        self._hurry.set()

    def close_gate(self, seconds: float) -> None:
        """Before a fork: let no thread into SQLite, and wait for those inside."""
        self._store.gate.close(seconds)

    def open_gate(self) -> None:
        """After a fork, in the parent."""
        self._store.gate.open()

    def forget_lead(self) -> None:
        """Be stopped, in a forked child, leaving to the parent what is the parent's."""
        self._left_to_parent.append(self.lead)
        self._store.gate = ForkGate()
        self._mutex, self._applying = threading.RLock(), threading.Lock()
        self._lock.release()
        self._lock.stop_waiting()
        self.lead = self._watcher = self._watcher_thread = None
        self._state = SchedulerState.STOPPED

    def __enter__(self) -> CollectionScheduler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run_forever(self, seconds: float | None = None, *, only: Iterable[str] | None = None) -> None:
        """Start, run until SIGINT, SIGTERM, `stop()` from another thread, or `seconds` of the scheduler's clock, then
        stop. Signals are handled only while this runs, on the main thread; a second one ends the wait for the runs;
        after SIGINT it raises KeyboardInterrupt."""
        signals: list[int] = []

        def on_signal(number: int, _: object) -> None:
            signals.append(number)
            self._stop_wanted.put(True)
            if len(signals) > 1:
                self.hurry()

        self._stop_wanted.drain()
        self._hurry.clear()
        in_main = threading.current_thread() is threading.main_thread()
        before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
        try:
            self.start(only=only)
            until = math.inf if seconds is None else self._clock.monotonic() + _microseconds(seconds)
            while not self._stop_wanted.has_message() and (left := until - self._clock.monotonic()) > 0:
                # in slices: a signal that comes just before a wait is heard only after it
                self._clock.wait(self._stop_wanted, min(0.5, left / SECOND))
            died = self._state is SchedulerState.ERROR
            self.stop()
            if died:
                raise GeckoschedError("a loop of the scheduler died; the log has the traceback")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if signal.SIGINT in signals:
            raise KeyboardInterrupt

    # -- speaking with the leader

    @contextlib.contextmanager
    def _taking_part(self) -> Iterator[Lead | None]:
        """Yield this process's lead, a momentary one if nobody leads, or None if another process does."""
        began = time.monotonic()
        until = began + TAKE_OVER
        while True:
            with self._mutex:
                if self._state in (SchedulerState.STOPPING, SchedulerState.ERROR):
                    raise SchedulerClosed(f"the scheduler is {self._state}")
                lead, stopped = self.lead, self._state is SchedulerState.STOPPED
                momentary = lead is None and stopped and not self._goes_to_others(began) and self._lock.acquire()
                if momentary:
                    lead = self._take_lead(momentary=True)
            if lead is not None:
                with self._for_the_moment(lead) if momentary else contextlib.nullcontext():
                    yield lead
                return
            if self._lock.is_held():
                yield None
                return
            if time.monotonic() > until:
                raise SchedulerClosed("nobody leads, and this process could not take the lead")
            Inbox().wait(0.05)

    def _goes_to_others(self, began: float) -> bool:
        """Whether a caller leaves the lead to who stands by: quicker ones would keep the jobs waiting."""
        return time.monotonic() - began < TAKE_OVER / 2 and self._lock.is_awaited()

    @contextlib.contextmanager
    def _for_the_moment(self, lead: Lead) -> Iterator[None]:
        """Keep a momentary lead while it is used, and until it has done what other processes asked of it meanwhile."""
        watcher = Watcher(lambda: lead, lambda: None, self.secrets)
        thread = lead.spawn("watcher", _repeat(watcher.turn))
        try:
            yield
            while lead.ticker.is_busy:
                Inbox().wait(0.05)
        finally:
            watcher.inbox.put("stop")
            thread.join(1.0)
            lead.stop(time.monotonic() + 5.0, self._hurry)
            with self._mutex:
                self._take_amendments(lead)
            self._lock.release()

    def _operate(self, action: str, job_id: str, arguments: dict[str, Any]) -> bool:
        """Have the leader do something to a job; returns whether that is another process. What one of this process
        does to its registrations is kept here, too."""
        answer: Any = None
        while answer is None:
            with self._taking_part() as lead:
                if lead is not None:
                    reply = Inbox()
                    if not lead.ticker.submit(lead.ticker.operate, action, job_id, arguments, reply):
                        raise SchedulerClosed(f"the scheduler stopped before {action} {job_id} was done")
                    reply.wait(TAKE_OVER)
                    answer = next(iter(reply.drain()), "waits for the store")
                    with self._mutex:
                        self._take_amendments(lead)
            if answer is None and (row := self._requests.ask(action, job_id, arguments)) is not None:
                answer = row["answer"]
        self._check_answer(action, job_id, answer)
        return lead is None

    def _check_answer(self, action: str, job_id: str, answer: Any) -> None:
        if isinstance(answer, StoreError):
            raise answer
        if answer == "unknown job":
            raise self._unknown(job_id)
        if answer == "expired":
            answer += f": the leader did not answer within {REQUEST_LIFETIME // SECOND} s, it hangs or is stopped"
        if answer is not None and answer.startswith(("expired", "refused")):
            raise SchedulerClosed(f"{action} {job_id}: {answer}")


class ForkHooks:
    """What a fork does to a scheduler. It waits until none of its threads is inside SQLite. In the child the threads
    are gone, so its scheduler is stopped; what is the parent's (the lock, the connections) is neither unlocked nor
    closed there, only forgotten."""

    def __init__(self, scheduler: CollectionScheduler) -> None:
        self._scheduler = weakref.ref(scheduler)  # the hooks can't be taken back, and must not keep it alive
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        if (scheduler := self._scheduler()) is not None:
            scheduler.close_gate(5.0)

    def _in_parent(self) -> None:
        if (scheduler := self._scheduler()) is not None:
            scheduler.open_gate()

    def _in_child(self) -> None:
        if (scheduler := self._scheduler()) is not None:
            scheduler.forget_lead()
