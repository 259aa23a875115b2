"""Why a job is as it is: one sentence from stored facts, for `geckosched why JOB` and for a `trigger` that has to wait.

`read_facts` gathers what the store, the configuration and, where it takes them, the plugins say of one job; `explain`
makes the sentence, and is a pure function of these facts. Of several reasons the first of this list is said, what keeps
a job from running before what puts it off, and what lasts before what passes; the others follow where they matter:

    1  it is no job: retired, in need of options, not made by the configuration, unknown to the process that leads
    2  it runs now
    3  it is off: by an operator, in the configuration, by default
    4  its plugin is broken, or the process that leads has not loaded it
    5  nobody leads
    6  the process that leads gives no sign of life: it hangs, or can't write the store
    7  `--only` leaves it out
    8  its run is due, or somebody triggered it, and it waits: for runs that hang, its budget, a worker, the store
    9  its breaker is open, or its service asked for a pause
    10 its budget is closed beyond its next run
    11 it tries again, after an error or since SkipRun asked for another look
    12 its next slot

What the process that leads keeps in memory only is told from what it stored: a job waits if its stored next run has
passed and no run of it is open. The budget of a job is known to its plugin alone, so plugins are loaded for a job that
waits while a budget is closed; with nobody leading they are loaded too, since the next start goes by them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from geckosched import screens
from geckosched.config import Configuration
from geckosched.core import (
    MOST_ABANDONED,
    BreakerState,
    CollectionScheduler,
    CollectorRegistry,
    Grid,
    Health,
    LeaderLock,
    Outcome,
    PluginStatus,
    Reason,
    Run,
    SchedulerState,
    Store,
    from_datetime,
    from_text,
    parse_duration,
    to_text,
)
from geckosched.forecast import OFF_BY_DEFAULT, Forecast, JobForecast
from geckosched.rendering import clean, count, in_words, span
from geckosched.views import JobStatus, SchedulerInfo

_STALE = timedelta(seconds=10)  # of a heartbeat, which is written every 2 s
_ABOUT_TO = timedelta(seconds=2)  # a run that has been due for less is about to start
_MOST = 200  # characters of an error; `geckosched runs ID` has all of it


# -- The facts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one job; `job` is None if there is none of this id.

    `stored` is False for a job that is registered here and not in the store. `missed` slots came while a run went on,
    the one that still does or else the last one. `others` are the runs that go on, with their jobs and when they began.
    `trigger` is when somebody asked who still waits. `closed` budgets are all there are, `budget` is the job's.

    The rest is known once plugins are loaded: `plan` is what a start would do, `absence` why it would make no such job,
    `refusal` why there would be no start; `sharing` runs have the job's budget, of `share` that may.
    """

    job_id: str
    now: datetime
    scheduler: SchedulerInfo
    job: JobStatus | None = None
    stored: bool = True
    at: str | None = None
    retired_at: datetime | None = None
    hanging: int = 0
    rate_limits: int = 0
    open_run: Run | None = None
    last_run: Run | None = None
    failure: Run | None = None
    missed: int = 0
    trigger: datetime | None = None
    disabled_by: str | None = None
    plugins: tuple[PluginStatus, ...] = ()
    closed: Mapping[str, datetime] = field(default_factory=dict)
    others: tuple[tuple[str, datetime], ...] = ()
    stopped_at: datetime | None = None
    awaited: bool = False
    obstacle: str | None = None
    off_by_default: bool = False
    off_at: str | None = None
    workers: int | None = None
    loaded: bool = False
    plugins_here: tuple[PluginStatus, ...] = ()
    plan: JobForecast | None = None
    absence: str | None = None
    refusal: str = ""
    sharing: int = 0
    share: int | None = None

    @property
    def plugin(self) -> PluginStatus | None:
        """The job's plugin: as the process that leads has it, or would at a start."""
        plugins = self.plugins_here if self.loaded and not self.led else self.plugins
        return next((each for each in plugins if self.job is not None and each.name == self.job.plugin), None)

    @property
    def led(self) -> bool:
        return self.scheduler.state is not SchedulerState.STOPPED

    @property
    def leader(self) -> str:
        info = self.scheduler
        return "another process" if info.pid is None else f"process {info.pid} on {info.host}"

    @property
    def silent_for(self) -> timedelta | None:
        """How long the process that leads has given no sign of life; None if it does."""
        since = self.scheduler.heartbeat_at
        silence = None if since is None or not self.led else self.now - since
        return silence if silence is not None and silence > _STALE else None

    @property
    def due_since(self) -> datetime | None:
        """When a run of it was due that has not begun; None if none was."""
        due = self.job.next_run_at if self.job is not None and self.led and self.open_run is None else None
        return due if due is not None and due <= self.now else None

    @property
    def off(self) -> str | None:
        """Why no slot of it comes up, in the words of `JobForecast.off`; as a start would see it if nobody leads."""
        if self.job is None or (self.plan is not None and not self.led):
            return None if self.plan is None else self.plan.off
        if self.job.disabled_at is not None:
            return "disabled by the operator"
        if self.job.enabled:
            return None
        return OFF_BY_DEFAULT if self.off_by_default else "disabled in the configuration"

    @property
    def is_late(self) -> bool:
        """Whether a run of it has been due for longer than a start takes."""
        return self.due_since is not None and self.now - self.due_since >= _ABOUT_TO

    @property
    def budget(self) -> str | None:
        return None if self.plan is None else self.plan.budget

    @property
    def needs_plugins(self) -> bool:
        """Whether plugins can tell more: of a job that isn't stored, of what a start would do, of its budget."""
        return self.job is None or not self.led or bool(self.closed) or self.is_late

    @property
    def is_known(self) -> bool:
        """Whether there is something to say; else no job is called so."""
        return self.job is not None or self.retired_at is not None or self.absence is not None


# -- The sentence ------------------------------------------------------------------------------------------------------


def explain(facts: Facts) -> str:
    """Say in one sentence why a job runs next when it does, or why it does not."""
    return f"{facts.job_id} {next(said for decide in _DECIDERS if (said := decide(facts)))}"


def explain_wait(facts: Facts) -> str:
    """Say in one sentence why a run that somebody asked for waits."""
    return f"{facts.job_id} waits: {_hold_up(facts)}"


def _is_no_job(facts: Facts) -> str | None:
    if facts.job is not None:
        if facts.stored or not facts.led:
            return None
        if facts.scheduler.pid is None:  # it has just begun, or its file was deleted or replaced
            why = f": {facts.obstacle}" if facts.obstacle else ""
            return f"does not run: the process that leads has written nothing into this store yet{why}"
        return f"does not run: {facts.leader} leads and does not have it, geckosched reload takes it in"
    if facts.retired_at is not None:
        why = f": {facts.absence}" if facts.absence else ""
        return f"was retired {_when(facts.retired_at, facts)}, since nothing made it a job any more{why}"
    return f"is not scheduled: {facts.absence}"


def _runs(facts: Facts) -> str | None:
    run = facts.open_run
    if run is None or not facts.led:
        return None
    began = _BEGAN[run.reason]
    if run.reason is Reason.SCHEDULED and run.scheduled_for is not None:
        began = f"at its slot of {_clock(run.scheduled_for, facts)}"
    said = [f"has been running for {_since(run.started_at, facts)} (run {run.id}), {began}"]
    if facts.silent_for is not None:
        said.append(_silence(facts))
    elif facts.budget in facts.closed:
        said.append(f"its calls wait, {_closed(facts.budget, facts)}")
    if facts.trigger is not None:
        said.append("a trigger waits for its end")
    if facts.missed:
        said.append(_missed(facts))
    if facts.off is not None:
        said.append("no slot of it comes up afterwards, since it is disabled")
    return "; ".join(said)


_BEGAN = {
    Reason.SCHEDULED: "at its slot",
    Reason.CATCHUP: "to catch up with what was missed",
    Reason.FIRST: "as its first run",
    Reason.RETRY: "as a retry",
    Reason.PROBE: "as the probe of its open breaker",
    Reason.TRIGGERED: "since somebody triggered it",
}


def _is_off(facts: Facts) -> str | None:
    job, off = facts.job, facts.off
    if job is None or off is None:
        return None
    if job.disabled_at is not None:
        by = f" from {facts.disabled_by}" if facts.disabled_by else ""
        how = f"geckosched enable {facts.job_id} turns it on"
        said = f"is disabled: an operator did that {_when(job.disabled_at, facts)}{by}, {how}"
    elif off == OFF_BY_DEFAULT:
        said = f"is off by default: enabled = true in [collectors.{facts.job_id}] turns it on"
    else:
        said = f"is {off}{f' ({facts.off_at} says enabled = false)' if facts.off_at else ''}"
    if facts.trigger is not None:
        return f"{said}; a trigger of it waits, {_hold_up(facts)}"
    return said if facts.led else f"{said}; nobody leads either"


def _lacks_its_plugin(facts: Facts) -> str | None:
    job, plugin = facts.job, facts.plugin
    if job is None or job.plugin is None:
        return None
    if plugin is not None and not plugin.ok:
        also = "" if facts.led else "; nobody leads either"
        return f"can't run: plugin {plugin.name} is broken: {_briefly(plugin.error or '')}{also}"
    if plugin is None and facts.led and job.next_run_at is None:
        return f"does not run: {facts.leader} leads and has not loaded its plugin {job.plugin}"
    return None


def _nobody_leads(facts: Facts) -> str | None:
    if facts.led:
        return None
    if facts.awaited:
        return "does not run: nobody leads at this moment, a process that stands by takes over within seconds"
    info = facts.scheduler
    if info.started_at is None:
        last = f"no scheduler has run yet{'' if info.database in facts.refusal else f' on {info.database}'}"
    elif facts.stopped_at is not None:
        last = f"nobody leads, {facts.leader} stopped {_when(facts.stopped_at, facts)}"
    else:
        seen = info.heartbeat_at or info.started_at
        last = f"nobody leads, {facts.leader} was killed or crashed, its last sign of life {_when(seen, facts)}"
    return f"does not run: {last}; {_at_a_start(facts)}"


def _at_a_start(facts: Facts) -> str:
    plan = facts.plan
    if facts.refusal:
        return f"a start would be refused: {_briefly(facts.refusal.splitlines()[0])}"
    if facts.absence is not None:
        return f"a start would not run it: {facts.absence}"
    if plan is None or plan.next_run_at is None:
        return "it runs when a scheduler is started"
    why = _PLANNED[plan.next_reason or Reason.SCHEDULED]
    if plan.next_reason is Reason.CATCHUP and facts.open_run is not None:
        why = f"since run {facts.open_run.id} was cut short"
    elif plan.next_reason is Reason.CATCHUP and facts.last_run and facts.last_run.outcome is Outcome.INTERRUPTED:
        why = f"since run {facts.last_run.id} was interrupted"
    if plan.next_run_at <= facts.now or plan.next_reason in (Reason.FIRST, Reason.CATCHUP):
        return f"geckosched run would run it at once, {why}"
    return f"geckosched run would run it {_when(plan.next_run_at, facts)}, {why}"


_PLANNED = {
    Reason.SCHEDULED: "at its slot",
    Reason.CATCHUP: "since a slot of it passed",
    Reason.FIRST: "since it never ran",
    Reason.RETRY: "as a retry",
    Reason.PROBE: "as the probe of its open breaker",
}


def _leader_is_silent(facts: Facts) -> str | None:
    return None if facts.silent_for is None else f"does not run: {_silence(facts)}"


def _silence(facts: Facts) -> str:
    why = f"can't write the store ({facts.obstacle})" if facts.obstacle else "hangs or is stopped"
    seconds = (facts.silent_for or timedelta()).total_seconds()
    return f"{facts.leader}, which leads, {why}: no sign of life for {span(seconds)}"


def _is_left_out(facts: Facts) -> str | None:
    if facts.trigger is not None or facts.job is None or facts.job.next_run_at is not None:
        return None
    return f"does not run: {facts.leader}, which leads, was started with --only, and that leaves it out"


def _waits(facts: Facts) -> str | None:
    if facts.trigger is not None:
        return f"waits, somebody triggered it {_when(facts.trigger, facts)}: {_hold_up(facts)}"
    due = facts.due_since
    if due is None:
        return None
    if not facts.is_late and _obstruction(facts) is None:
        return f"is about to run, it is due since {_clock(due, facts)}"
    return f"waits since {_clock(due, facts)} ({span((facts.now - due).total_seconds())}): {_hold_up(facts)}"


def _hold_up(facts: Facts) -> str:
    """Say what a run that is due waits for."""
    return _obstruction(facts) or "for its turn, others go first"


def _obstruction(facts: Facts) -> str | None:
    longest = facts.others[0] if facts.others else None
    if facts.open_run is not None and facts.led:
        return f"run {facts.open_run.id} of it goes on, for {_since(facts.open_run.started_at, facts)}"
    if facts.hanging >= MOST_ABANDONED:
        return f"{facts.hanging} runs of it hang past their time limit"
    if facts.obstacle is not None:
        return f"the store can't be written: {facts.obstacle}"
    if facts.budget in facts.closed:
        return _closed(facts.budget, facts)
    if facts.workers is not None and longest is not None and len(facts.others) >= facts.workers:
        runs = f"{_go_on(len(facts.others))}, {longest[0]} for {_since(longest[1], facts)}"
        return f"no worker is free ({runs})"
    if facts.share is not None and facts.sharing >= facts.share:
        return f"budget {facts.budget} has its share of the workers, {_go_on(facts.sharing)} with it"
    if facts.closed and facts.plan is None:
        each = ", ".join(f"{name} until {_clock(until, facts)}" for name, until in sorted(facts.closed.items()))
        return f"for a worker or its budget (closed: {each})"
    return None


def _go_on(runs: int) -> str:
    return f"{count(runs, 'run')} go{'es' if runs == 1 else ''} on"


def _is_held(facts: Facts) -> str | None:
    job = facts.job
    if job is None or job.next_run_at is None:
        return None
    if job.breaker is not BreakerState.CLOSED:
        errors = count(job.consecutive_errors, "error") + (" in a row" if job.consecutive_errors > 1 else "")
        why = f"its breaker is open after {errors}, the last: {_error(facts)}"
        sooner = f"once that is mended, geckosched trigger {facts.job_id} tries it now"
        return f"runs next {_when(job.next_run_at, facts)}, as a probe: {why}; {sooner}"
    if facts.rate_limits:
        times = f" {facts.rate_limits} times in a row" if facts.rate_limits > 1 else ""
        return f"runs next {_when(job.next_run_at, facts)}: its service asked for a pause{times}, {_last(facts)}"
    return None


def _budget_is_closed(facts: Facts) -> str | None:
    job, until = facts.job, facts.closed.get(facts.budget or "")
    if job is None or job.next_run_at is None or until is None or until <= job.next_run_at:
        return None
    why = f"budget {facts.budget} is closed until then, since its service asked for a pause"
    return f"runs next {_when(until, facts)} or later: {why}"


def _tries_again(facts: Facts) -> str | None:
    job = facts.job
    if job is None or job.next_run_at is None or job.next_run_at != job.retry_at:
        return None
    if job.consecutive_errors and job.last_outcome is not Outcome.SKIPPED:
        return f"runs next {_when(job.next_run_at, facts)}, as retry {job.consecutive_errors} after {_error(facts)}"
    return f"runs next {_when(job.next_run_at, facts)}, as its last run asked for: {_last(facts)}"


def _has_a_slot(facts: Facts) -> str:
    job = facts.job
    if job is None or job.next_run_at is None:
        return "does not run"
    every = f"every {job.every}{f' at {facts.at}' if facts.at else ''}"
    said = [f"runs next {_when(job.next_run_at, facts)}, at its slot ({every})"]
    if job.consecutive_errors:
        said.append(f"{count(job.consecutive_errors, 'error')} since it was well, the last: {_error(facts)}")
    elif job.last_outcome in (Outcome.PARTIAL, Outcome.INTERRUPTED, Outcome.RATE_LIMITED, Outcome.SKIPPED):
        said.append(f"last {_last(facts)}")
    if job.health in (Health.DEGRADED, Health.UNHEALTHY) and not job.consecutive_errors:
        said.append(f"it is {job.health}: {job.reason}")
    if facts.missed:
        said.append(_missed(facts))
    return "; ".join(said)


_DECIDERS: tuple[Callable[[Facts], str | None], ...] = (
    _is_no_job, _runs, _is_off, _lacks_its_plugin, _nobody_leads, _leader_is_silent, _is_left_out, _waits, _is_held,
    _budget_is_closed, _tries_again, _has_a_slot,
)  # fmt: skip


# -- Its parts ---------------------------------------------------------------------------------------------------------


def _missed(facts: Facts) -> str:
    slots = "a slot of it" if facts.missed == 1 else f"{facts.missed} slots of it"
    when = "meanwhile" if facts.open_run is not None else "while its last run went on"
    return f"{slots} came {when} and {'counts' if facts.missed == 1 else 'count'} as missed"


def _closed(budget: str | None, facts: Facts) -> str:
    until = facts.closed[budget or ""]
    why = "since its service asked for a pause"
    return f"budget {budget} is closed until {_clock(until, facts)} ({in_words(until, facts.now)}), {why}"


def _error(facts: Facts) -> str:
    """Say what went wrong last, and in which run."""
    run, job = facts.failure, facts.job
    if run is None:  # pruned
        return _briefly((job.last_error if job is not None else None) or "an error that the history has no more")
    error = f"{run.error_type}: {run.error}" if run.error_type else run.error or ""
    how = "" if run.outcome is Outcome.FAILED and error else f"{(run.outcome or '').replace('_', ' ')}{error and ': '}"
    return f"{how}{_briefly(error)} (run {run.id})"


def _last(facts: Facts) -> str:
    """Say how the last run ended, and why."""
    run = facts.last_run
    if run is None or run.outcome is None:
        return "run: not in the history any more"
    why = _briefly(next(iter((run.error or run.detail or "").splitlines()), ""))
    return f"run {run.id} was {run.outcome.replace('_', ' ')}{why and f': {why}'}"


def _briefly(text: str) -> str:
    text = clean(text)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def _when(moment: datetime, facts: Facts) -> str:
    return f"{in_words(moment, facts.now)} ({_clock(moment, facts)})"


def _since(moment: datetime, facts: Facts) -> str:
    return span(max(0.0, (facts.now - moment).total_seconds()))


def _clock(moment: datetime, facts: Facts) -> str:
    is_near = abs(moment - facts.now) < timedelta(days=1)
    return f"{moment:{'%H:%M:%S' if is_near else '%Y-%m-%d %H:%M'}} UTC"


# -- Reading the facts -------------------------------------------------------------------------------------------------

_TRIGGER_SQL = """
    SELECT requested_at FROM geckosched_requests
     WHERE action = 'trigger' AND job_id = ?1 AND run_id IS NULL AND requested_at >= ?2
       AND (answered_at IS NULL OR answer = 'accepted' OR answer LIKE 'waits %') ORDER BY id LIMIT 1"""
_DISABLED_SQL = """
    SELECT requested_by FROM geckosched_requests
     WHERE action = 'disable' AND job_id = ?1 AND answer = 'done' AND requested_at <= ?2 AND answered_at >= ?2
     ORDER BY id DESC LIMIT 1"""
_OPEN_SQL = """
    SELECT job_id, started_at FROM geckosched_runs INDEXED BY geckosched_runs_open
     WHERE outcome IS NULL ORDER BY id"""


def read_facts(
    scheduler: CollectionScheduler, job_id: str, now: datetime, configuration: Configuration | None
) -> Facts:
    """Return what the store says of a job, and the configuration, if it can be used. Loads no plugin; see
    `Facts.needs_plugins`."""
    store, found = Store(scheduler.config.database), scheduler.get_status(job_id)
    job = next(iter(found.jobs), None)
    facts = Facts(job_id, now, found.scheduler, job, plugins=found.plugins)
    with store.in_words():
        facts = dataclasses.replace(facts, **_stored(store, facts))
    if configuration is not None and job is not None:
        says = configuration.table_of(job_id).get("enabled")
        facts = dataclasses.replace(
            facts,
            workers=configuration.scheduler.max_workers,
            off_by_default=not job.enabled and says is None and job.plugin is not None,
            off_at=configuration.where(job_id, "enabled") if says is False else None,
        )
    is_unknown = facts.led and facts.scheduler.pid is None
    if is_unknown or facts.silent_for is not None or facts.trigger is not None or facts.is_late:
        facts = dataclasses.replace(facts, obstacle=store.obstacle())
    return facts


def _stored(store: Store, facts: Facts) -> dict[str, Any]:
    """Return the facts that the store has of a job beyond its status."""
    rows = store.read("SELECT * FROM geckosched_jobs WHERE job_id = ?", (facts.job_id,))
    last = store.read("SELECT stopped_at FROM geckosched_instances ORDER BY rowid DESC LIMIT 1")
    closed = store.read("SELECT name, closed_until FROM geckosched_budgets WHERE closed_until > ?",
                        (to_text(from_datetime(facts.now)),))  # fmt: skip
    said = {
        "stored": bool(rows) and rows[0]["retired_at"] is None,
        "stopped_at": _moment(last[0]["stopped_at"]) if last else None,
        "closed": {row["name"]: datetime.fromisoformat(row["closed_until"]) for row in closed},
        "others": tuple((row["job_id"], datetime.fromisoformat(row["started_at"])) for row in store.read(_OPEN_SQL)),
        "awaited": not facts.led and LeaderLock(store.path).is_awaited(),
    }
    return {**said, **_of_row(store, dict(rows[0]), facts)} if rows else said


def _of_row(store: Store, row: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    job_id, started = row["job_id"], facts.scheduler.started_at
    ids = (row["last_run_id"], row["last_failure_id"])
    runs = {run.id: run for run in store.runs("id IN (?, ?)", ids)}
    # The plus keeps SQLite from the job's whole history: the index of the open runs is the small one.
    open_run = next(iter(store.runs("+job_id = ? AND outcome IS NULL", (job_id,), 1)), None)
    since = to_text(from_datetime(started)) if facts.led and started is not None else None
    asked = store.read(_TRIGGER_SQL, (job_id, since)) if since is not None else []
    by = store.read(_DISABLED_SQL, (job_id, row["disabled_at"])) if row["disabled_at"] is not None else []
    return {
        "at": row["at"],
        "retired_at": _moment(row["retired_at"]),
        "hanging": row["abandoned"],
        "rate_limits": row["consecutive_rate_limits"],
        "open_run": open_run,
        "last_run": runs.get(row["last_run_id"]),
        "failure": runs.get(row["last_failure_id"]),
        "missed": _count_missed(row, open_run, runs.get(row["last_run_id"]), facts.now),
        "trigger": _moment(asked[0]["requested_at"]) if asked else None,
        "disabled_by": "process {} on {}".format(*by[0]["requested_by"].split("@", 1)) if by else None,
    }


def _count_missed(row: Mapping[str, Any], open_run: Run | None, last_run: Run | None, now: datetime) -> int:
    """Return how many slots came while a run went on and are in no run's `missed` yet. Days have no such slots."""
    told, grid = row["last_scheduled_for"], Grid(row["job_id"], parse_duration(row["every"]))
    if row["at"] is not None:
        return 0
    if open_run is not None:
        return grid.count(from_datetime(open_run.started_at), from_datetime(now))
    if last_run is None or last_run.finished_at is None or told is None:
        return 0
    slot = from_text(told)
    if grid.before(slot) != slot:  # its interval is another one now
        return 0
    began = from_datetime(last_run.started_at)  # those before came while its breaker was open, say
    return grid.count(max(slot, began), from_datetime(last_run.finished_at))


def with_plugins(
    facts: Facts, scheduler: CollectionScheduler, configuration: Configuration, refusal: str
) -> Facts:
    """Add what a scheduler that has loaded the plugins knows; `refusal` is what is wrong with the configuration."""
    registry, forecast = scheduler.registry, scheduler.get_forecast()
    plan = next((each for each in forecast.jobs if each.job_id == facts.job_id), None)
    facts = dataclasses.replace(
        facts,
        loaded=True,
        plugins_here=tuple(registry.plugins.values()),
        plan=plan,
        job=next(iter(scheduler.get_status(facts.job_id).jobs), None),
        refusal=refusal or next(iter(forecast.errors), ""),
    )
    if plan is None:
        return dataclasses.replace(facts, absence=_absence(facts, registry, configuration))
    return facts if plan.budget is None else dataclasses.replace(facts, **_shares(facts, plan, forecast))


def _shares(facts: Facts, plan: JobForecast, forecast: Forecast) -> dict[str, Any]:
    """Return how many runs go on that have a job's budget, and how many may when it comes up."""
    alike = {each.job_id: each.priority for each in forecast.jobs if each.budget == plan.budget}
    urgent = plan.priority >= max(alike.values())
    half = max(1, facts.workers // 2) if facts.workers else None
    return {
        "sharing": sum(job_id in alike for job_id, _ in facts.others),
        "share": half if half is None or urgent or half == 1 else half - 1,
    }


def _absence(facts: Facts, registry: CollectorRegistry, configuration: Configuration) -> str | None:
    """Say why the configuration makes no such job; None if nothing is known of one."""
    job_id, job = facts.job_id, facts.job
    if job_id in registry.not_scheduled:
        return f"it {screens.with_place(job_id, registry.not_scheduled[job_id])}"
    for line in facts.refusal.splitlines():
        if f"[collectors.{job_id}]" in line:
            return line
    name = str(configuration.table_of(job_id).get("use", job_id if job is None else job.collector))
    if job is not None and job.plugin is None:
        return "it is of no plugin, the program that registers it runs it"
    owner = next((each.name for each in facts.plugins if name in each.collectors), None) if job is None else job.plugin
    if owner is not None:
        return _absence_of(owner, registry.plugins.get(owner), configuration)
    if job_id not in configuration.collectors:
        return None
    broken = [each.name for each in registry.plugins.values() if not each.ok]
    return f"no plugin here has a collector {name}{f', unless {broken[0]}, which is broken' if broken else ''}"


def _absence_of(name: str, plugin: PluginStatus | None, configuration: Configuration) -> str:
    """Say why a plugin does not make a job that it made once."""
    if name in configuration.disable:
        return f"plugin {name} is disabled by [plugins] disable"
    if configuration.only_plugins is not None and name not in configuration.only_plugins:
        return f"plugin {name} is not in GECKOSCHED_LOAD_PLUGINS"
    if plugin is None:
        return f"plugin {name} is not installed"
    if not plugin.ok:
        return f"plugin {name} is broken: {_briefly(plugin.error or '')}"
    return f"neither plugin {name} nor the configuration makes such a job any more"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
