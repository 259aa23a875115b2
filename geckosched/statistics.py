"""How a job does: over the last day and in all, from the store.

Counts in all are the counters of the job's row: every run that ended is in them, whatever was pruned. What no counter
has, the outcomes by kind, run times and lateness, is taken from the runs that the history still keeps: the job's latest
`SAMPLE` or, where these don't reach back a day, its latest `MOST`. So a job with a million runs is answered as quickly
as one with ten thousand, and each part says how many runs it is from and since when. Of a store of the first schema,
which has no counter of successes and calls, these two are taken from the history as well (`counted` is False then).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from geckosched.core import DAY, Outcome, Reason, Record, Store, to_datetime

SAMPLE = 10_000  # runs of a job that say how it does; the history keeps no more by default
MOST = 50_000  # runs of a job that are looked at to reach back a day


@dataclass(frozen=True, slots=True)
class Spread(Record):
    """How a figure is spread over `count` runs: that of the last one, the median, the 95th percentile (of 20 runs the
    second largest, an actual value) and the largest, in seconds; None if there is no such run."""

    count: int
    last: float | None
    median: float | None
    p95: float | None
    max: float | None

    @classmethod
    def of(cls, newest_first: Sequence[float]) -> Spread:
        """Return the spread of these values."""
        if not newest_first:
            return cls(0, None, None, None, None)
        values = sorted(newest_first)
        p95 = values[math.ceil(0.95 * len(values)) - 1]
        return cls(len(values), newest_first[0], median(values), p95, values[-1])


@dataclass(frozen=True, slots=True)
class PeriodStatistics(Record):
    """What the runs of a period were; a run that goes on isn't counted yet.

    `success_rate` is (succeeded + partial) / (those + failed + timed_out), None if none; `errors` are failed and
    timed_out; `outcomes` counts each kind that occurred. `seconds` is how long runs took, `lateness` how long after its
    slot a run of reason `scheduled` started. `sampled` runs were looked at for outcomes, seconds and lateness, the
    oldest of them started at `since`.
    """

    runs: int
    success_rate: float | None
    errors: int
    rows: int
    calls: int
    lost: int
    missed: int
    outcomes: Mapping[str, int]
    seconds: Spread
    lateness: Spread
    sampled: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class JobStatistics(Record):
    """How a job does.

    `last_day` is of the runs that started in the last 24 hours, at most the latest 50,000 (its `since` tells then).
    The counts of `in_all` are of every run there was, but `outcomes`, `seconds` and `lateness`, which are of the kept
    runs; if not `counted`, in a store of the first schema, `success_rate` and `calls` are so, too. `kept_since` is when
    the oldest run that the history keeps of the job started.
    """

    job_id: str
    last_day: PeriodStatistics
    in_all: PeriodStatistics
    counted: bool
    kept_since: datetime | None


_RUNS_SQL = """
    SELECT outcome, reason, scheduled_for, started_at, finished_at, rows, calls, missed, lost FROM geckosched_runs
     WHERE job_id = ? AND outcome IS NOT NULL ORDER BY id DESC LIMIT ?"""
_SECOND = timedelta(seconds=1)
_OLDEST_SQL = "SELECT started_at FROM geckosched_runs WHERE job_id = ? ORDER BY id LIMIT 1"


def read_statistics(store: Store, job_id: str, now: int) -> JobStatistics:
    """Return the statistics of a job; of one that the store doesn't know there was nothing."""
    with store.in_words():
        return _statistics(store, job_id, now)


def _statistics(store: Store, job_id: str, now: int) -> JobStatistics:
    since = to_datetime(now - DAY)
    runs = _latest(store, job_id, SAMPLE)
    if len(runs) == SAMPLE and runs[-1].started_at >= since:
        runs = _latest(store, job_id, MOST)
    rows = store.read("SELECT * FROM geckosched_jobs WHERE job_id = ?", (job_id,))
    row = dict(rows[0]) if rows else {}
    oldest = store.read(_OLDEST_SQL, (job_id,))
    return JobStatistics(
        job_id=job_id,
        last_day=_period([run for run in runs if run.started_at >= since], {}),
        in_all=_period(runs, row),
        counted="succeeded" in row,
        kept_since=datetime.fromisoformat(oldest[0][0]) if oldest else None,
    )


class _Ended(NamedTuple):
    """What is looked at of a run."""

    outcome: str
    started_at: datetime
    seconds: float
    lateness: float | None
    rows: int
    calls: int
    missed: int
    lost: int


def _latest(store: Store, job_id: str, limit: int) -> list[_Ended]:
    """Read the latest runs of a job that ended, newest first."""
    return [_ended(*row) for row in store.read(_RUNS_SQL, (job_id, limit))]


def _ended(outcome: str, reason: str, slot: str | None, started: str, finished: str, *counts: int) -> _Ended:
    began = datetime.fromisoformat(started)
    late = None if slot is None or reason != Reason.SCHEDULED else (began - datetime.fromisoformat(slot))
    took = datetime.fromisoformat(finished) - began
    return _Ended(outcome, began, took / _SECOND, None if late is None else late / _SECOND, *counts)


def _period(runs: Sequence[_Ended], row: Mapping[str, Any]) -> PeriodStatistics:
    """Sum up runs; what a job's row counts takes the place of the sums."""
    outcomes = Counter(run.outcome for run in runs)
    counts = {
        "runs": len(runs),
        "succeeded": outcomes[Outcome.SUCCEEDED] + outcomes[Outcome.PARTIAL],
        "errors": outcomes[Outcome.FAILED] + outcomes[Outcome.TIMED_OUT],
        **{name: sum(getattr(run, name) for run in runs) for name in ("rows", "calls", "lost", "missed")},
    }
    errors = counts["errors"]
    counts.update((name, row[name]) for name in counts if name in row)
    succeeded = counts.pop("succeeded")
    said = succeeded + (counts["errors"] if "succeeded" in row else errors)
    return PeriodStatistics(
        **counts,
        success_rate=succeeded / said if said else None,
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        seconds=Spread.of([run.seconds for run in runs]),
        lateness=Spread.of([run.lateness for run in runs if run.lateness is not None]),
        sampled=len(runs),
        since=runs[-1].started_at if runs else None,
    )
