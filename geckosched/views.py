"""What `geckosched status` shows: the jobs, the process that leads and the plugins, read from the store.

A view of the core's tables, apart from the core because nothing runs by it: `CollectionScheduler.get_status` is its
one caller. It writes nothing and asks nobody, so it answers whether a scheduler runs or not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from geckosched.core import (
    DAY,
    BreakerState,
    Health,
    Outcome,
    PluginStatus,
    Record,
    Registration,
    SchedulerState,
    Store,
    __version__,
    format_duration,
    from_text,
    judge,
    to_datetime,
    to_text,
)


@dataclass(frozen=True, slots=True)
class JobStatus(Record):
    """One job as `geckosched status` shows it; durations in seconds, `every` as text.

    Counts and `success_rate` are of all its runs, whatever was pruned. The last fields are for people and not in
    `as_dict`: why its health is what it is; how the last runs ended, oldest first, ten at most (of many jobs fewer:
    `STRIPS` outcomes are read in all); what the last ended run said of itself (its detail, else its error); and the
    losses of the last day.
    """

    job_id: str
    collector: str
    plugin: str | None
    every: str
    enabled: bool
    disabled_at: datetime | None
    health: Health
    breaker: BreakerState = BreakerState.CLOSED
    consecutive_errors: int = 0
    retry_at: datetime | None = None
    next_run_at: datetime | None = None
    running_for: float | None = None
    last_outcome: Outcome | None = None
    last_started_at: datetime | None = None
    last_seconds: float | None = None
    last_success_at: datetime | None = None
    last_rows_at: datetime | None = None
    last_error: str | None = None
    runs: int = 0
    errors: int = 0
    success_rate: float | None = None
    rows: int = 0
    lost: int = 0
    missed: int = 0
    reason: str = field(default="", metadata={"json": False})
    last_outcomes: tuple[Outcome, ...] = field(default=(), metadata={"json": False})
    last_detail: str | None = field(default=None, metadata={"json": False})
    lost_lately: int = field(default=0, metadata={"json": False})


@dataclass(frozen=True, slots=True)
class SchedulerInfo(Record):
    """The process that leads, or led last. `state` is judged by who holds the lead now."""

    state: SchedulerState
    pid: int | None
    host: str | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    database: str
    version: str


@dataclass(frozen=True, slots=True)
class RunLoss(Record):
    """What a run counted as lost, of one target: a row of `geckosched_losses`."""

    target: str
    count: int
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Status(Record):
    """What `geckosched status` shows."""

    scheduler: SchedulerInfo
    jobs: tuple[JobStatus, ...]
    plugins: tuple[PluginStatus, ...]


STRIP = 10  # outcomes of a job that `last_outcomes` has
STRIPS = 10_000  # ... of all jobs together

# INDEXED BY: the one index that has the open runs and nothing else; without it each job's history is read for them.
# Losses are looked for only where there were any. `{rate}` is NULL where the job's row has the counters.
_STATUS_SQL = """
    WITH open_runs AS MATERIALIZED (
        SELECT job_id, max(id), started_at FROM geckosched_runs INDEXED BY geckosched_runs_open
         WHERE outcome IS NULL GROUP BY job_id)
    SELECT j.*, r.outcome AS last_outcome, r.started_at AS last_started_at, r.finished_at AS last_finished_at,
           coalesce(r.detail, r.error) AS last_detail,
           CASE WHEN f.error IS NULL THEN f.detail WHEN f.error_type IS NULL THEN f.error
                ELSE f.error_type || ': ' || f.error END AS last_error,
           o.started_at AS running_since,
           {rate} AS rate_of_history,
           (SELECT group_concat(outcome) FROM
             (SELECT outcome FROM geckosched_runs h WHERE h.job_id = j.job_id AND outcome IS NOT NULL
               ORDER BY id DESC LIMIT ?1)) AS last_outcomes,
           CASE WHEN j.lost THEN (SELECT total(count) FROM geckosched_losses l
                                   WHERE l.job_id = j.job_id AND l.until >= ?2) ELSE 0 END AS lost_lately
      FROM geckosched_jobs j
      LEFT JOIN geckosched_runs r ON r.id = j.last_run_id
      LEFT JOIN geckosched_runs f ON f.id = j.last_failure_id
      LEFT JOIN open_runs o ON o.job_id = j.job_id
     WHERE j.retired_at IS NULL"""

# For a store of the first schema: the last hundred runs that say something.
_RATE_OF_HISTORY = """
           (SELECT total(outcome IN ('succeeded', 'partial')) / nullif(count(*), 0) FROM
             (SELECT outcome FROM geckosched_runs h WHERE h.job_id = j.job_id
               AND outcome IN ('succeeded', 'partial', 'failed', 'timed_out') ORDER BY id DESC LIMIT 100))"""


def read_status(
    store: Store,
    now: int,
    *,
    leading: bool,
    own_state: SchedulerState | None,
    registrations: Iterable[Registration],
    plugins: tuple[PluginStatus, ...],
    job_id: str | None = None,
) -> Status:
    """Return what the store says, and the jobs of `registrations` that it lacks: all, or only `job_id`.

    `leading` is whether some process has the lead; `own_state` is the asking scheduler's state where that says more;
    `plugins` are those loaded here, if any were, with the trouble that the process that led last had with their hooks;
    else that process's are shown.
    """
    with store.in_words():
        return _status(store, now, leading, own_state, registrations, plugins, job_id)


def _status(store: Store, now: int, leading: bool, own_state: SchedulerState | None,
            registrations: Iterable[Registration], plugins: tuple[PluginStatus, ...], job_id: str | None) -> Status:
    rows = store.read("SELECT * FROM geckosched_instances ORDER BY rowid DESC LIMIT 1")
    last = dict(rows[0]) if rows else {}
    state = own_state or (SchedulerState.RUNNING if leading else SchedulerState.STOPPED)
    info = SchedulerInfo(
        state=state,
        pid=last.get("pid"),
        host=last.get("host"),
        started_at=_moment(last.get("started_at")),
        heartbeat_at=_moment(last.get("heartbeat_at")),
        database=str(store.path),
        version=__version__,
    )
    stored = {plugin["name"]: _plugin_status(plugin) for plugin in json.loads(last.get("plugins") or "[]")}
    plugins = tuple(_with_trouble(plugin, stored) for plugin in plugins) or tuple(stored.values())
    since = from_text(last["started_at"]) if last and leading else None
    jobs = read_jobs(store, now, since, {plugin.name for plugin in plugins if not plugin.ok}, job_id)
    known = {job.job_id for job in jobs}
    jobs += [_unstored(registration) for registration in registrations if registration.job_id not in known]
    return Status(info, tuple(sorted(jobs, key=lambda job: job.job_id)), plugins)


def read_jobs(
    store: Store, now: int, leader_since: int | None, broken: Collection[str], job_id: str | None = None
) -> list[JobStatus]:
    """Return the jobs of the store, or the one."""
    count = sum(row[0] for row in store.read("SELECT count(*) FROM geckosched_jobs WHERE retired_at IS NULL"))
    counted = store.read("SELECT 1 FROM pragma_table_info('geckosched_jobs') WHERE name = 'succeeded'")
    sql = _STATUS_SQL.format(rate="NULL" if counted else _RATE_OF_HISTORY)
    strip = STRIP if job_id is not None else max(1, min(STRIP, STRIPS // max(1, count)))
    params: tuple[Any, ...] = (strip, to_text(now - DAY))
    if job_id is not None:
        sql, params = f"{sql} AND j.job_id = ?3", (*params, job_id)
    return [_job_status(dict(row), now, leader_since, row["plugin"] in broken) for row in store.read(sql, params)]


def read_losses(store: Store, run_id: int) -> list[RunLoss]:
    """Return the losses that a run counted."""
    sql = "SELECT target, count, since, until FROM geckosched_losses WHERE run_id = ? ORDER BY rowid"
    with store.in_words():
        return [RunLoss(target, number, datetime.fromisoformat(since), datetime.fromisoformat(until))
                for target, number, since, until in store.read(sql, (run_id,))]


def _job_status(row: dict[str, Any], now: int, leader_since: int | None, broken: bool) -> JobStatus:
    values = {name: row.get(name) for name in JobStatus.__dataclass_fields__}
    for name in ("disabled_at", "retry_at", "next_run_at", "last_started_at", "last_success_at", "last_rows_at"):
        values[name] = _moment(row[name])
    started, finished = values["last_started_at"], _moment(row["last_finished_at"])
    since = _moment(row["running_since"])
    values["enabled"] = bool(row["enabled"])
    values["health"], values["reason"] = judge(row, now, leader_since, broken)
    values["breaker"] = BreakerState(row["breaker"])
    values["last_outcome"] = row["last_outcome"] and Outcome(row["last_outcome"])
    values["last_outcomes"] = tuple(map(Outcome, reversed((row["last_outcomes"] or "").split(",")))) \
        if row["last_outcomes"] else ()
    values["lost_lately"] = int(row["lost_lately"])
    values["success_rate"] = _success_rate(row)
    values["last_seconds"] = (finished - started).total_seconds() if started and finished else None
    values["running_for"] = None if since is None else max(0.0, (to_datetime(now) - since).total_seconds())
    return JobStatus(**cast(Any, values))


def _success_rate(row: Mapping[str, Any]) -> float | None:
    """Return (succeeded + partial) / (those + failed + timed_out); None if there were none."""
    if "succeeded" not in row:
        return cast("float | None", row["rate_of_history"])
    said = row["succeeded"] + row["errors"]
    return row["succeeded"] / said if said else None


def _unstored(registration: Registration) -> JobStatus:
    """Return the status of a job that no leader has stored yet."""
    return JobStatus(
        job_id=registration.job_id,
        collector=registration.name,
        plugin=registration.plugin,
        every=format_duration(registration.every),
        enabled=registration.enabled,
        disabled_at=None,
        health=Health.PENDING if registration.enabled else Health.DISABLED,
        reason="it never ran" if registration.enabled else "disabled in the configuration",
    )


def _plugin_status(stored: dict[str, Any]) -> PluginStatus:
    return PluginStatus(**{**stored, "collectors": tuple(stored["collectors"])})


def _with_trouble(plugin: PluginStatus, stored: Mapping[str, PluginStatus]) -> PluginStatus:
    """Return a plugin that loads well here with what the leader says of its hooks."""
    there = stored.get(plugin.name)
    return replace(plugin, error=there.error) if plugin.ok and there is not None and there.ok else plugin


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
