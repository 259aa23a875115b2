"""What `geckosched check` says before a start: each job's next run, and the calls that jobs ask of their budgets.

Nothing runs by it and nothing is written: `CollectionScheduler.get_forecast` is its one caller, and a store is read if
there is one. The next run is decided by the core's own `restored` and `first_run`, as the leader does at its start. The
calls of a job are its calls per run times its slots per hour. How many a run makes its collector declares
(`calls_per_run`); once the last day has enough history, an hour with three slots, their mean is taken instead. A mean
per slot, not a sum over hours: hours in which nothing ran don't thin it out, a new interval holds at once, and a job
that waits for its budget counts with what it asks, not with what it gets.
"""

from __future__ import annotations

import inspect
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import FunctionType, MappingProxyType
from typing import Any, NamedTuple

from geckosched.core import (
    _RESTORE_SQL,
    DAY,
    HOUR,
    Budget,
    CollectorRegistry,
    ConfigError,
    Outcome,
    PluginStatus,
    Reason,
    Record,
    Registration,
    SchedulerConfig,
    Store,
    StoreError,
    _guard,
    first_run,
    format_duration,
    from_text,
    is_writable,
    parse_duration,
    restored,
    to_datetime,
    to_text,
)
from geckosched.filesystem import doubt_about, objection_to, read_mounts

OFF_BY_DEFAULT = "off by default"  # its collector's author says so
MANY = 2000  # runs of a job that are enough, whatever time they took; twice as many are looked at, at most
_FEW = 3  # of many jobs, in one line


@dataclass(frozen=True, slots=True)
class Setup:
    """What else a `calls_per_run` function may look at: how its plugin is set up.

    `settings` is the table `[plugins.NAME]`, `options` the checked options of the plugin's other jobs by their job ids.
    Both are read-only.
    """

    settings: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobForecast(Record):
    """What a start would do with a job. `next_run_at` is None if no slot of it would run.

    `off` says why a job asks nothing: "disabled by the operator", "disabled in the configuration" or "off by default";
    what it would ask is said all the same. `calls_declared` and `calls_measured` are the calls for a slot, None if not
    known; `calls_per_hour` goes by `calls_from`, which is "measured", "declared" or None. `problem` is what is wrong
    with its `calls_per_run`.
    """

    job_id: str
    collector: str
    plugin: str | None
    every: str
    at: str | None
    priority: int
    off: str | None
    next_run_at: datetime | None
    next_reason: Reason | None
    budget: str | None
    calls_declared: float | None
    calls_measured: float | None
    calls_from: str | None
    calls_per_hour: float | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class NotScheduled(Record):
    """A collector that no job uses, since it lacks options."""

    collector: str
    plugin: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetForecast(Record):
    """What a budget gives, and what the jobs that are on ask of it, in calls per hour; `share` is asked / gives.

    `unknown` are the jobs that name it and say nothing of their calls.
    """

    name: str
    rate: str
    burst: int
    gives: float
    asked: float
    share: float
    jobs: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast(Record):
    """What `geckosched check` shows. `configuration` is its file, `leader_pid` the process that leads, if one does.

    With `errors` a start would be refused, or would lack a plugin.
    """

    configuration: str | None
    database: str
    database_exists: bool
    leader_pid: int | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    plugins: tuple[PluginStatus, ...] = ()
    jobs: tuple[JobForecast, ...] = ()
    not_scheduled: tuple[NotScheduled, ...] = ()
    budgets: tuple[BudgetForecast, ...] = ()


def read_forecast(store: Store, now: int, config: SchedulerConfig, registrations: Sequence[Registration],
                  registry: CollectorRegistry, *, leading: bool) -> Forecast:  # fmt: skip
    """Return what a start with these registrations would do; `leading` is whether some process has the lead.

    What keeps a start from using the store is among the errors; jobs are then shown as if there were none.
    """
    errors: tuple[str, ...] = ()
    history, exists = History(), False
    try:
        exists = store.is_there()
        if trouble := find_trouble(store):
            raise StoreError(trouble)
        history = History.read(store, registrations, now, leading=leading)
    except StoreError as error:
        errors = (str(error),)
    in_order = sorted(registrations, key=lambda each: each.job_id)
    jobs = tuple(_job_forecast(each, registrations, registry, history, config, now) for each in in_order)
    budgets = tuple(_budget_forecasts(registrations, jobs, config.budgets))
    owners = registry.collectors
    doubt = doubt_about(store.path, read_mounts())
    return Forecast(
        configuration=None,
        database=str(store.path),
        database_exists=exists,
        leader_pid=history.pid if leading else None,
        errors=errors,
        warnings=(*([doubt] if doubt else ()), *_warnings(jobs, budgets, registrations)),
        plugins=tuple(registry.plugins.values()),
        jobs=jobs,
        not_scheduled=tuple(
            NotScheduled(name, owners[name].plugin, reason) for name, reason in registry.not_scheduled.items()
        ),
        budgets=budgets,
    )


# -- What the store says -----------------------------------------------------------------------------------------------


def find_trouble(store: Store) -> str | None:
    """Return why a start could not use the store, as far as that can be told without writing; None if nothing is known
    against it."""
    folder = store.path.parent
    if objection := objection_to(store.path, read_mounts()):
        return objection
    if not folder.is_dir():
        return f"{store.path}: the folder {folder} is not there"
    if not is_writable(folder):
        return f"{store.path}: this user may not write in the folder {folder}, and SQLite needs files beside the store"
    if not store.is_there():
        return None
    if not is_writable(store.path):
        return f"{store.path}: this user may not write the file"
    newer = store.newer()
    return None if newer is None else f"{store.path}: written by a newer geckosched ({newer}), upgrade this one"


class Measured(NamedTuple):
    """What a job's latest runs asked: how many they were, the slots that they served, their calls, the first and the
    last start. Retries and probes count for the slot that they repeat; what somebody triggered is left out."""

    runs: int = 0
    slots: int = 0
    calls: int = 0
    first: str = ""
    last: str = ""

    @property
    def calls_per_slot(self) -> float | None:
        """The mean calls for a slot; None if the history is too short to go by."""
        if self.slots < 3:
            return None
        lasted = from_text(self.last) - from_text(self.first)
        return self.calls / self.slots if lasted >= HOUR or self.runs >= MANY else None


@dataclass(frozen=True, slots=True)
class History:
    """What a store knows of jobs: their rows as the next leader would find them, and what their latest runs asked."""

    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    pid: int | None = None

    @classmethod
    def read(cls, store: Store, registrations: Iterable[Registration], now: int, *, leading: bool) -> History:
        rows = {row["job_id"]: dict(row) for row in store.read(_RESTORE_SQL)}
        for run in () if leading else store.read(_ORPHANS_SQL):
            if row := rows.get(run["job_id"]):
                _close_orphan(row, run)
        asking = [each for each in registrations if each.job_id in rows and _may_call(each)]
        measured = dict(_measure(store, asking, to_text(now - DAY)))
        last = store.read("SELECT pid FROM geckosched_instances ORDER BY rowid DESC LIMIT 1")
        return cls(rows, measured, last[0]["pid"] if last else None)


# INDEXED BY: the one index that has the open runs and nothing else, as in `views`.
_ORPHANS_SQL = """
    SELECT job_id, scheduled_for, started_at FROM geckosched_runs INDEXED BY geckosched_runs_open
     WHERE outcome IS NULL ORDER BY id"""

# Of each job its latest runs by the index, whatever the table's size; of them those of the last day.
_MEASURE_SQL = """
    SELECT j.value AS job_id,
           (SELECT json_array(count(*), total(reason IN ('scheduled', 'catchup', 'first')), total(calls),
                              min(started_at), max(started_at)) FROM
             (SELECT reason, calls, started_at, outcome FROM geckosched_runs r WHERE r.job_id = j.value
               ORDER BY id DESC LIMIT ?1)
             WHERE started_at >= ?2 AND outcome IS NOT NULL AND reason <> 'triggered') AS measured
      FROM json_each(?3) j"""


def _measure(store: Store, jobs: Iterable[Registration], since: str) -> Iterator[tuple[str, Measured]]:
    """Measure jobs by their runs since a moment: of each as many as four hours have, in one query for each interval."""
    by_interval: dict[int, list[str]] = {}
    for job in jobs:
        by_interval.setdefault(job.every, []).append(job.job_id)
    for every, job_ids in by_interval.items():
        latest = min(2 * MANY, max(100, 4 * HOUR // every))
        for row in store.read(_MEASURE_SQL, (latest, since, json.dumps(job_ids))):
            yield row["job_id"], Measured(*json.loads(row["measured"]))


def _close_orphan(row: dict[str, Any], run: sqlite3.Row) -> None:
    """Do in memory what the next leader does first: close a run that a killed process left, as interrupted."""
    slots = [slot for slot in (row["last_scheduled_for"], run["scheduled_for"]) if slot is not None]
    row.update(
        outcome_before=row["last_outcome"],
        last_outcome=Outcome.INTERRUPTED,
        last_slot=run["scheduled_for"],
        last_finished=run["started_at"],
        last_scheduled_for=max(slots, default=None),
        runs=row["runs"] + 1,
    )


# -- A job's calls -----------------------------------------------------------------------------------------------------


def _may_call(registration: Registration) -> bool:
    """Whether a job's calls are worth a look: it has a budget, or declares some."""
    declared = inspect.getattr_static(registration.collector, "calls_per_run", 0)
    return registration.budget is not None or not isinstance(declared, int | float) or declared > 0


def _job_forecast(job: Registration, registrations: Sequence[Registration], registry: CollectorRegistry,
                  history: History, config: SchedulerConfig, now: int) -> JobForecast:  # fmt: skip
    row = history.rows.get(job.job_id)
    if row is not None and row["collector"] != job.name:
        row = None  # the leader starts such a job anew
    delays = [parse_duration(each) for each in (config.error_recovery_delay, config.max_recovery_delay)]
    found = restored(job, row, delays, now)
    planned = first_run(found, row, config.catchup == "latest", now) if found.active else None
    declared, error = _guard(lambda: declared_calls(job, registrations))
    said = "" if error is None else registry.secrets.one_line(error)
    measured = None if row is None else history.measured.get(job.job_id, Measured()).calls_per_slot
    calls = declared if measured is None else measured
    if calls is None and error is None and job.budget is None:
        calls = 0.0
    return JobForecast(
        job_id=job.job_id,
        collector=job.name,
        plugin=job.plugin,
        every=format_duration(job.every),
        at=job.at,
        priority=job.priority,
        off=_why_off(job, found.disabled_at, registry),
        next_run_at=None if planned is None else to_datetime(planned.due),
        next_reason=None if planned is None else planned.reason,
        budget=None if job.budget is None else job.budget.name,
        calls_declared=declared,
        calls_measured=measured,
        calls_from="measured" if measured is not None else None if declared is None else "declared",
        calls_per_hour=None if calls is None else calls * HOUR / job.every,
        problem=None if error is None else f"calls_per_run: {said.removeprefix('ConfigError: ')}",
    )


def _why_off(job: Registration, disabled_at: int | None, registry: CollectorRegistry) -> str | None:
    if disabled_at is not None:
        return "disabled by the operator"
    if job.enabled:
        return None
    return OFF_BY_DEFAULT if job.job_id in registry.off_by_default else "disabled in the configuration"


def _setup(job: Registration, registrations: Iterable[Registration]) -> Setup:
    others = (each for each in registrations if each.plugin == job.plugin and each is not job)
    options = {each.job_id: each.options for each in others} if job.plugin is not None else {}
    return Setup(MappingProxyType(dict(job.settings)), MappingProxyType(options))


def declared_calls(job: Registration, registrations: Iterable[Registration]) -> float | None:
    """Return the calls per run that a job's collector declares; None if it declares none. Runs plugin code.

    Raises what a function raises, and ConfigError for what is no number from 0 up.
    """
    declared = _declaration(job)
    if callable(declared):
        setup = (_setup(job, registrations),) if _takes_setup(declared) else ()
        declared = declared(job.options, *setup)
    elif isinstance(declared, int) and declared == 0:
        return None
    if not isinstance(declared, int | float) or isinstance(declared, bool) or not 0 <= declared < math.inf:
        raise ConfigError(f"found {declared!r}, allowed is a number from 0 up, or a function that returns one")
    return float(declared)


def _declaration(job: Registration) -> Any:
    """Return `calls_per_run` of a collector, ready to be called if it is a function.

    A plain function in the body of a class is one of the options, unless its first parameter is `self`: then it is a
    method of the job's own instance.
    """
    made = job.collector
    static = inspect.getattr_static(made, "calls_per_run", 0)
    if not isinstance(static, FunctionType):
        return getattr(made, "calls_per_run", 0)
    if next(iter(inspect.signature(static).parameters), "") == "self":
        return job.make().calls_per_run
    return static


def _takes_setup(function: Callable[..., Any]) -> bool:
    """Whether a function has a second positional parameter that is `setup`, or that has to be given."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        found = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    except ValueError:  # a builtin that doesn't say
        return False
    return len(found) > 1 and (found[1].name == "setup" or found[1].default is inspect.Parameter.empty)


# -- Budgets -----------------------------------------------------------------------------------------------------------


def _budget_forecasts(registrations: Sequence[Registration], jobs: Sequence[JobForecast],
                      overrides: Mapping[str, Mapping[str, Any]]) -> Iterator[BudgetForecast]:  # fmt: skip
    named: dict[str, Budget] = {}
    for each in registrations:  # of two that differ the later one holds, as in the core
        if each.budget is not None:
            named[each.budget.name] = replace(each.budget, **overrides.get(each.budget.name, {}))
    for name, budget in sorted(named.items()):
        ours = [job for job in jobs if job.budget == name and job.off is None]
        gives = budget.calls * HOUR / budget.window
        asked = sum(job.calls_per_hour or 0.0 for job in ours)
        unknown = tuple(job.job_id for job in ours if job.calls_per_hour is None)
        names = tuple(job.job_id for job in ours)
        yield BudgetForecast(name, budget.rate, budget.burst, gives, asked, asked / gives, names, unknown)


def _warnings(jobs: Sequence[JobForecast], budgets: Iterable[BudgetForecast],
              registrations: Iterable[Registration]) -> Iterator[str]:  # fmt: skip
    yield from (f"{job.job_id}: {job.problem}" for job in jobs if job.problem)
    said: dict[str, set[Budget]] = {}
    for each in registrations:
        if each.budget is not None:
            said.setdefault(each.budget.name, set()).add(each.budget)
    for budget in budgets:
        if len(said[budget.name]) > 1:
            yield f"budget {budget.name}: its collectors declare it in different ways; {budget.rate} holds"
        if budget.asked > budget.gives:
            yield _overdrawn(budget, [job for job in jobs if job.job_id in budget.jobs])


def _overdrawn(budget: BudgetForecast, jobs: Iterable[JobForecast]) -> str:
    """Say that more is asked of a budget than it gives, and who asks most: the last by priority will hardly run."""
    asking = sorted(((job.calls_per_hour or 0.0, job.job_id) for job in jobs), reverse=True)
    alone = [job_id for calls, job_id in asking if calls > budget.gives]
    most = ", ".join(f"{job_id} {calls:.0f}" for calls, job_id in asking[:_FEW])
    by_itself = f"; {' and '.join(alone[:_FEW])} would alone" if alone else ""
    return (f"budget {budget.name}: the jobs ask for {budget.asked:.0f} calls an hour, {budget.rate} gives"
            f" {budget.gives:.0f} ({most}{by_itself})")  # fmt: skip
