"""What the commands show: a store's status, runs, plugins and plans, as tables and sentences for people.

Everything here prints what it is given; nothing here reads a store. Tables and sentences are readable in 80 columns,
without colour, and in ASCII: `geckosched.rendering` sees to that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from geckosched.config import Configuration, installed_plugins
from geckosched.core import (
    BreakerState,
    DryRun,
    Health,
    Outcome,
    PluginStatus,
    Reason,
    Run,
    SchedulerState,
)
from geckosched.forecast import OFF_BY_DEFAULT, BudgetForecast, Forecast, JobForecast
from geckosched.rendering import (
    briefly,
    clean,
    count,
    fully,
    in_seconds,
    in_words,
    print_json,
    print_table,
    printable,
    put,
    span,
)
from geckosched.statistics import JobStatistics
from geckosched.views import JobStatus, SchedulerInfo, Status

GONE = "interrupted (process gone)"  # a run that is open though nobody leads; the next leader closes it as interrupted
_STALE = timedelta(seconds=10)  # of a heartbeat, which is written every 2 s
_HANGS = "the leader hangs, is stopped or can't write the store"  # why a heartbeat is stale
FEW = 10  # of many jobs, in one line
_WHOLE = frozenset((Outcome.SUCCEEDED, Outcome.SKIPPED))  # all that was to do was done; `runs --failed` shows the rest
NOT_LOADED = "not loaded: the configuration can't be used"  # a plugin's error


def is_active(job: JobStatus) -> bool:
    return job.enabled and job.disabled_at is None


def is_led(found: Status) -> bool:
    return found.scheduler.state is not SchedulerState.STOPPED


def how_to_turn_on(job: str) -> str:
    return f"enabled = true in [collectors.{job}] turns it on"


def silence(info: SchedulerInfo, now: datetime) -> str:
    """Say that the leader gives no sign of life; nothing if it does, or if nobody leads."""
    if info.state is SchedulerState.STOPPED or info.heartbeat_at is None or now - info.heartbeat_at <= _STALE:
        return ""
    return f"heartbeat is {(now - info.heartbeat_at).total_seconds():.0f} s old: {_HANGS}"


def with_place(collector: str, reason: str) -> str:
    return f"{reason} (set {'them' if ', ' in reason else 'it'} in [collectors.{collector}])"


def print_status(found: Status, reasons: Mapping[str, str], now: datetime) -> None:
    print_scheduler(found.scheduler, now)
    print_jobs(found.jobs, now, led=is_led(found), reasons=reasons)
    for plugin in found.plugins:
        if not plugin.ok:
            put(f"plugin {plugin.name} is broken: {clean(plugin.error or '')}")


def print_scheduler(info: SchedulerInfo, now: datetime) -> None:
    running = info.state is not SchedulerState.STOPPED
    who = f", process {info.pid} on {info.host}, started {fully(info.started_at, now)}" if running else ""
    put(f"scheduler  {info.state}{who}")
    if info.heartbeat_at is not None:
        put(f"heartbeat  {fully(info.heartbeat_at, now)}")
        if silence(info, now):
            put(f"  stale: {_HANGS}")
    put(f"database   {info.database}{'' if Path(info.database).exists() else ' (not there yet)'}")


def print_jobs(
    jobs: Sequence[JobStatus], now: datetime, *, led: bool = True, reasons: Mapping[str, str] | None = None
) -> None:
    if not jobs:
        put("\nno jobs yet: geckosched run schedules what the plugins bring")
        return
    put("")
    headers = ["JOB", "HEALTH", "LAST (UTC)", "NEXT (UTC)", ">RUNS", ">ERRORS"]
    rows = [
        [job.job_id, job.health, briefly(job.last_started_at, now), _next(job, now, led), str(job.runs),
         str(job.errors)]
        for job in jobs
    ]  # fmt: skip
    if any(job.lost for job in jobs):
        headers.append(">LOST")
        for row, job in zip(rows, jobs, strict=True):
            row.append(str(job.lost))
    notes = {index: note_of_job(job, led, (reasons or {}).get(job.job_id)) for index, job in enumerate(jobs)}
    print_table(headers, rows, notes)


def _next(job: JobStatus, now: datetime, led: bool) -> str:
    if not led:
        return "-" if job.health is Health.DISABLED else "when started"
    if job.running_for is not None:
        return f"running {span(job.running_for)}"
    overdue = job.next_run_at is not None and job.next_run_at < now
    return f"overdue {job.next_run_at:%H:%M}" if overdue else briefly(job.next_run_at, now)


def note_of_job(job: JobStatus, led: bool = True, reason: str | None = None) -> str:
    """Say why a job is unhealthy, and what is not as it should be with its last run."""
    outcome, said = job.last_outcome, []
    if outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        said.append(f"{outcome}: {job.last_error}" if job.last_error else outcome)
    elif outcome not in (None, Outcome.SUCCEEDED):
        said.append(f"{outcome}: {reason}" if reason else outcome)
    if job.health is Health.UNHEALTHY:
        said.insert(0, job.reason)
    elif job.breaker is not BreakerState.CLOSED:  # of a job that is disabled
        said.insert(0, f"breaker {breaker_in_words(job.breaker)}")
    if job.running_for is not None and not led:
        said.insert(0, GONE)
    return clean("; ".join(said))


def print_job(job: JobStatus, found: Status, reasons: Mapping[str, str], now: datetime) -> None:
    instead = {}
    if not is_led(found):
        instead["next_run_at"] = _next(job, now, False)
        if job.running_for is not None:
            instead["running_for"] = GONE
    if reason := reasons.get(job.job_id):
        instead["last_outcome"] = f"{job.last_outcome}: {reason}"
    print_details(job, now, instead, job.reason)
    if silent := silence(found.scheduler, now):
        put(f"scheduler: {silent}")


def print_statistics(found: JobStatistics, now: datetime) -> None:
    """Print how a job does, over the last day and in all, and from how many runs and since when that is."""
    day, in_all = found.last_day, found.in_all
    rows = [
        ("runs", str(day.runs), str(in_all.runs)),
        ("success rate", *(_percent(each.success_rate) for each in (day, in_all))),
        *((name, str(getattr(day, name)), str(getattr(in_all, name)))
          for name in ("errors", "rows", "calls", "lost", "missed")),
        *((f"{name.replace('_', ' ')} *", str(day.outcomes.get(name, 0)), str(number))
          for name, number in in_all.outcomes.items()),
        *((f"{what} {name} *", _in_seconds(getattr(of_day, name)), _in_seconds(getattr(of_all, name)))
          for what, of_day, of_all, names in (
              ("run time", day.seconds, in_all.seconds, ("last", "median", "p95")),
              ("late", day.lateness, in_all.lateness, ("median", "p95", "max")))
          for name in names),
    ]  # fmt: skip
    put("")
    print_table(("STATISTICS", ">LAST DAY", ">IN ALL"), rows, {})
    since = f", since {fully(in_all.since, now)}" if in_all.since else ""
    put(f"* in all: of the latest {count(in_all.sampled, 'run')} kept{since}")
    if not found.counted:
        put("  so are success rate and calls: the store is of an older version")


def _percent(share: float | None) -> str:
    """Write a share, rounded down: only what is whole is 100.00%."""
    return "-" if share is None else f"{int(share * 10_000) / 100:.2f}%"


def _in_seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f} s"


def will_run(job: JobStatus, found: Status) -> str:
    """Say when a job runs next, or what keeps it from running."""
    now, led = datetime.now(UTC), is_led(found)
    runs_now = led and job.running_for is not None
    if not is_active(job):
        waits = f"no slot of it runs until geckosched enable {job.job_id}"
        return f"{waits}; the run in progress goes on" if runs_now else waits
    if runs_now:
        said = "it runs at this moment"
    elif not led:
        said = "it runs when a scheduler is started"
    elif job.next_run_at is None or job.next_run_at <= now:
        said = "next run as soon as it can"
    else:
        moment = f"{job.next_run_at:%H:%M}" if job.next_run_at - now < timedelta(days=1) else f"{job.next_run_at:%m-%d}"
        said = f"next run {in_words(job.next_run_at, now)} ({moment} UTC)"
    return f"{said}; {job.reason}" if job.health is Health.UNHEALTHY else said


def show_plugins(
    found: Sequence[PluginStatus], not_scheduled: Mapping[str, str], off: Collection[str], as_json: bool
) -> None:
    if as_json:
        print_json([each.as_dict() for each in found])
    elif not found:
        put("no plugins: install one beside geckosched, or name a file in [plugins] load")
    else:
        print_plugins(found, not_scheduled, off)


def print_plugins(
    found: Sequence[PluginStatus], not_scheduled: Mapping[str, str], off: Collection[str] = ()
) -> None:
    """Print a row for each collector, the first with its plugin, and below the last what is wrong with the plugin."""
    rows: list[tuple[str, str, str]] = []
    notes: dict[int, str] = {}
    for plugin in found:
        name, version = plugin.name, plugin.version or "-"
        if plugin.distribution is not None:
            version += f" ({plugin.distribution})"
        for each in plugin.collectors or ("-",):
            if each in not_scheduled:
                notes[len(rows)] = f"not scheduled: {each} {with_place(each, not_scheduled[each])}"
            elif each in off:
                notes[len(rows)] = f"off by default: {how_to_turn_on(each)}"
            rows.append((name, version, each))
            name = version = ""
        if plugin.error:
            what = "" if plugin.error == NOT_LOADED else "a hook failed: " if plugin.ok else "broken: "
            others = notes.get(len(rows) - 1)
            notes[len(rows) - 1] = "; ".join(filter(None, (others, what + clean(plugin.error))))
    print_table(("NAME", "VERSION", "COLLECTORS"), rows, notes)


def print_forecast(found: Forecast, now: datetime) -> None:
    put(f"configuration  {found.configuration or 'none'}")
    put(f"database       {found.database}{'' if found.database_exists else ' (not there yet)'}")
    if found.leader_pid is not None:
        put(f"scheduler      process {found.leader_pid} leads; this is how it will be after its next start")
    put(f"plugins        {', '.join(map(_plugin_in_words, found.plugins)) or 'none'}")
    if found.jobs:
        put("")
        _print_planned(found.jobs, now)
    for each in found.not_scheduled:
        put(f"not scheduled: {each.collector} {with_place(each.collector, each.reason)}")
    if not found.jobs and not found.not_scheduled and not found.errors:
        put("no jobs: a plugin brings collectors, or a file named in [plugins] load")
    if found.budgets:
        put("")
        _print_budgets(found.budgets)


def _plugin_in_words(plugin: PluginStatus) -> str:
    wrong = "" if plugin.ok else " (not loaded)" if plugin.error == NOT_LOADED else " (broken)"
    return f"{plugin.name} {plugin.version or ''}".strip() + wrong


def _print_planned(jobs: Sequence[JobForecast], now: datetime) -> None:
    """Print a row for each job; the calls of one that is off stand in parentheses, since no budget counts them."""
    rows = [
        (job.job_id, f"{job.every} {job.at}" if job.at else job.every, _planned(job, now), str(job.priority),
         job.budget or "-", f"({_figure(job.calls_per_hour)})" if job.off else _figure(job.calls_per_hour),
         job.calls_from or "-")
        for job in jobs
    ]  # fmt: skip
    notes = {index: _note_of_plan(job) for index, job in enumerate(jobs)}
    print_table(("JOB", "EVERY", "NEXT (UTC)", ">PRIO", "BUDGET", ">CALLS/H", "FROM"), rows, notes)


def _planned(job: JobForecast, now: datetime) -> str:
    if job.next_run_at is None:
        return "off"
    return "at once" if job.next_run_at <= now else briefly(job.next_run_at, now)


_WHY_NEXT = {
    Reason.CATCHUP: "a slot of it passed, which it catches up with",
    Reason.RETRY: "its last run asked to be tried again",
    Reason.PROBE: "its breaker is open: the next run is the probe",
}


def _note_of_plan(job: JobForecast) -> str:
    """Say why a job is off, why it runs out of turn, and what is to be known of its calls."""
    said = [_WHY_NEXT.get(job.next_reason, "") if job.next_reason else "", job.problem or ""]
    if job.off == OFF_BY_DEFAULT:
        said.append(f"{job.off}: {how_to_turn_on(job.job_id)}")
    elif job.off:
        said.append(job.off)
    declared, measured = job.calls_declared, job.calls_measured
    if declared is not None and measured is not None and abs(declared - measured) > max(declared, measured) / 2:
        said.append(f"it declares {_figure(declared)} calls a run, the last day's made {_figure(measured)}")
    return clean("; ".join(filter(None, said)))


def _print_budgets(budgets: Sequence[BudgetForecast]) -> None:
    rows = [
        (each.name, each.rate, str(each.burst), _figure(each.gives), _figure(each.asked), f"{each.share:.0%}")
        for each in budgets
    ]
    notes = {
        index: f"not counted, since they don't say how many calls they make: {', '.join(each.unknown[:FEW])}"
        f"{f' and {len(each.unknown) - FEW} more' if len(each.unknown) > FEW else ''}"
        for index, each in enumerate(budgets)
        if each.unknown
    }
    print_table(("BUDGET", "RATE", ">BURST", ">GIVES/H", ">ASKED/H", ">SHARE"), rows, notes)


def _figure(number: float | None) -> str:
    """Write a number of calls: whole if it is or is large, else with a digit that says something."""
    if number is None:
        return "?"
    return f"{number:.0f}" if number >= 100 or number == round(number) else f"{number:.2g}"


def print_left_out(configuration: Configuration) -> None:
    """Say which installed plugins were not loaded because somebody said so."""
    installed, only = installed_plugins(), configuration.only_plugins
    disabled = [name for name in installed if name in configuration.disable]
    others = [name for name in installed if only is not None and name not in (*only, *disabled)]
    for reason, names in (("disabled by [plugins] disable", disabled), ("not in GECKOSCHED_LOAD_PLUGINS", others)):
        if names:
            put(f"{reason}: {', '.join(names)}")


def print_dry_run(job: str, result: DryRun) -> None:
    """Print how a dry run ended, each batch with its first rows, what was lost, the calls and the cursor."""
    run = result.run
    reason, calls = _reason(run), count(run.calls, "call")
    put(f"{job}: {run.outcome}, would store {count(run.rows, 'row')}, {calls} in {in_seconds(run.seconds)} s"
         f"{reason and f': {reason}'}")  # fmt: skip
    for batch in result.batches:
        key = f" by {', '.join(batch.pk)}, {batch.on_conflict}" if batch.pk else ", appended"
        put(f"\n{batch.table}: {count(len(batch.rows), 'row')}, {batch.changed} new or changed{key}")
        for row in batch.rows[:FEW]:
            put("  " + ", ".join(f"{clean(name)}={clean(repr(value))}" for name, value in row.items()))
        if len(batch.rows) > FEW:
            put(f"  ... {len(batch.rows) - FEW} more (all of them: --json)")
    for loss in result.losses:
        put(f"\nlost {loss['count']} of {clean(loss['target'])} between {loss['since']} and {loss['until']}")
    put(f"\nstate {json.dumps(result.state, ensure_ascii=False)}")
    if run.traceback:
        put("\n  ".join(["\ntraceback:", *(printable(line).rstrip() for line in run.traceback.splitlines())]))


def print_runs(runs: Sequence[Run], now: datetime, orphans: Collection[int] = ()) -> None:
    if not runs:
        put("no runs")
        return
    rows = [
        (str(each.id), each.job_id, _outcome(each, orphans), briefly(each.started_at, now), in_seconds(each.seconds),
         str(each.rows), str(each.calls))
        for each in runs
    ]  # fmt: skip
    notes = {
        index: GONE if each.id in orphans else _reason(each)
        for index, each in enumerate(runs)
        if each.id in orphans or each.outcome not in (None, *_WHOLE)
    }
    print_table((">ID", "JOB", "OUTCOME", "STARTED (UTC)", ">SECONDS", ">ROWS", ">CALLS"), rows, notes)


def _outcome(run: Run, orphans: Collection[int]) -> str:
    return Outcome.INTERRUPTED if run.id in orphans else run.outcome or "running"


def print_details(record: JobStatus | Run, now: datetime, instead: Mapping[str, str], because: str = "") -> None:
    """Print every field of a job or a run, some in other words; text of several lines (a traceback) comes last.

    `because`, why a job's health is what it is, is a row of its own after `health`.
    """
    shown = [each.name for each in dataclasses.fields(record) if each.metadata.get("json", True)]
    fields = {name: getattr(record, name) for name in shown}
    fields.update(instead)
    long = {name: value for name, value in fields.items() if isinstance(value, str) and "\n" in value}
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        if name not in long:
            put(f"{name.replace('_', ' '):{width}}{_show(value, now)}")
        if name == "health" and because:
            put(f"{'because':{width}}{because}")
    for name, value in long.items():
        lines = (printable(line).rstrip() for line in value.splitlines())
        put("\n  ".join([f"{name.replace('_', ' ')}:", *lines]))


def _show(value: object, now: datetime) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return fully(value, now)
    return f"{value:.3f}" if isinstance(value, float) else clean(str(value))


def breaker_in_words(state: BreakerState) -> str:
    return state.replace("_", " ")


def result_in_words(run: Run) -> str:
    """Say how a run ended, in one line."""
    if run.outcome is None:
        return f"runs as run {run.id}"
    reason = _reason(run)
    rows, seconds = count(run.rows, "row"), in_seconds(run.seconds)
    return f"{run.outcome}, {rows} in {seconds} s (run {run.id}){reason and f': {reason}'}"


def _reason(run: Run) -> str:
    """Say why a run ended as it did: its error, else the first lines of its detail."""
    if run.error:
        return clean(f"{run.error_type}: {run.error}" if run.error_type else run.error)
    return first_lines(run.detail)


def first_lines(detail: str | None) -> str:
    first, more = (lines := (detail or "").splitlines())[:3], len(lines) - 3
    return clean("; ".join([*first, f"{more} more"] if more > 0 else first))
