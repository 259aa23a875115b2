"""What the commands show: a store's status, runs, plugins and plans, as tables and sentences for people.

Everything here shows what it is given; nothing here reads a store. Of each screen there is a function `..._lines` that
returns it as lines which fit a width (and a height, where it is watched), and one `print_...` that prints these.
Nothing hangs on colour, and everything is readable in 80 columns and in ASCII: `geckosched.rendering` sees to that.

In this order: sentences that several commands say · signs · status · status JOB · enable, disable, reset · plugins ·
check · dry runs · runs · how a run ended.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.text import Text

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
    cell_width,
    clean,
    count,
    encodable,
    fully,
    in_words,
    labelled,
    lasting,
    line,
    path_line,
    print_json,
    print_lines,
    print_table,
    put,
    span,
    table_lines,
    table_rows,
    terminal_width,
    verbatim,
    wrapped,
)
from geckosched.statistics import JobStatistics
from geckosched.views import JobStatus, RunLoss, SchedulerInfo, Status

GONE = "interrupted (process gone)"  # a run that is open though nobody leads; the next leader closes it as interrupted
_STALE = timedelta(seconds=10)  # of a heartbeat, which is written every 2 s
_HANGS = "the leader hangs, is stopped or can't write the store"  # why a heartbeat is stale
FEW = 10  # of many jobs, in one line
UNWRITTEN = "the leader has written nothing into this store (was it moved or replaced?)"
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


def breaker_in_words(state: BreakerState) -> str:
    return state.replace("_", " ")


def with_place(collector: str, reason: str) -> str:
    return f"{reason} (set {'them' if ', ' in reason else 'it'} in [collectors.{collector}])"


# -- Signs: colours repeat what they say -------------------------------------------------------------------------------

_COLOURS: Mapping[str, str] = {
    Health.HEALTHY: "green", Health.DEGRADED: "yellow", Health.UNHEALTHY: "red", Health.DISABLED: "bright_black",
    Outcome.SUCCEEDED: "green", Outcome.PARTIAL: "yellow", Outcome.RATE_LIMITED: "yellow",
    Outcome.FAILED: "red", Outcome.TIMED_OUT: "red", Outcome.INTERRUPTED: "magenta",
}  # fmt: skip
_HEALTHS = {Health.UNHEALTHY: "x", Health.DEGRADED: "!", Health.PENDING: "?", Health.HEALTHY: "+", Health.DISABLED: "-"}
_RUNS = {  # a dot is a run as it should be, a capital letter an error that the breaker counts
    Outcome.SUCCEEDED: ".", Outcome.PARTIAL: "p", Outcome.FAILED: "F", Outcome.TIMED_OUT: "T", Outcome.SKIPPED: "s",
    Outcome.RATE_LIMITED: "r", Outcome.INTERRUPTED: "i",
}  # fmt: skip
_ALARM = "bold red"


def health_sign(health: Health) -> Text:
    """Return the sign of a health, one character: x unhealthy, ! degraded, ? pending, + healthy, - disabled."""
    return Text(_HEALTHS[health], _COLOURS.get(health, ""))


def strip(outcomes: Iterable[Outcome]) -> Text:
    """Return a character for each run: . succeeded, p partial, F failed, T timed out, s skipped, r rate limited,
    i interrupted."""
    alike = [(each, len(list(group))) for each, group in itertools.groupby(outcomes)]
    return Text.assemble(*((_RUNS[each] * number, _COLOURS.get(each, "")) for each, number in alike))


def _legend(outcomes: AbstractSet[Outcome]) -> str:
    return " ".join(f"{sign}={outcome}" for outcome, sign in _RUNS.items() if outcome in outcomes)


def summary(jobs: Iterable[JobStatus]) -> Text:
    """Count jobs by health, trouble first: 1 unhealthy, 2 degraded, 9 healthy."""
    counts = Counter(job.health for job in jobs)
    each = [Text(f"{counts[health]:,} {health}", _COLOURS.get(health, "")) for health in _HEALTHS if counts[health]]
    return Text(", ").join(each)


# -- status ------------------------------------------------------------------------------------------------------------


def print_status(found: Status, now: datetime, *, obstacle: str = "") -> None:
    print_lines(status_lines(found, now, terminal_width(), obstacle=obstacle))


def status_lines(
    found: Status, now: datetime, width: int = 80, height: int | None = None, *, obstacle: str = ""
) -> list[Text]:
    """Return the screen of `status`: who leads, how many jobs are how, what is broken, and the jobs, trouble first.

    Of `height` lines at most, if it is given: then the notes are of one line, and the jobs that don't fit are counted.
    `obstacle` says why the store can't be written, if somebody knows.
    """
    lines = [*heading_lines(found, now, width, obstacle=obstacle), Text("")]
    left = None if height is None else max(0, height - len(lines))
    lines = [*lines, *jobs_lines(found.jobs, now, width, left, led=is_led(found))][:height]
    if height is not None:
        for each in lines:  # the path of the store may be wider
            each.truncate(width)
    return lines


def heading_lines(found: Status, now: datetime, width: int = 80, *, obstacle: str = "") -> list[Text]:
    """Return who leads, which store it is, how many jobs are how, and which plugins are broken."""
    info = found.scheduler
    alarms = _alarms(info, now, obstacle)
    pairs: list[tuple[str, Text | str]] = [("scheduler", _leader(info, now))]
    pairs.append(("database", _place(info.database, Path(info.database).exists())))
    if found.jobs:
        pairs.append(("jobs", Text(f"{len(found.jobs):,}: ").append_text(summary(found.jobs))))
    alarms += [f"plugin {each.name} is broken: {each.error}" for each in found.plugins if not each.ok]
    alarms += [f"plugin {each.name}: a hook failed: {each.error}" for each in found.plugins if each.ok and each.error]
    return [*labelled(pairs, width, 11), *_warning(alarms, width)]


def _place(database: str, exists: bool) -> Text:
    return path_line(database, "" if exists else " (not there yet)")


def _warning(texts: Iterable[str], width: int) -> list[Text]:
    """Return lines for what is wrong with more than one job."""
    return labelled((("!", line(each, _ALARM)) for each in texts), width, 2)


def _alarms(info: SchedulerInfo, now: datetime, obstacle: str) -> list[str]:
    """Say what keeps every job from running although somebody leads."""
    return [each for each in (silence(info, now), obstacle and f"the store can't be written: {obstacle}") if each]


def _leader(info: SchedulerInfo, now: datetime) -> str:
    """Say who leads and since when, or that nobody does."""
    if info.state is not SchedulerState.STOPPED:
        if info.pid is None or info.started_at is None:
            return f"{info.state}: {UNWRITTEN}"
        since = span((now - info.started_at).total_seconds())
        beat = f"heartbeat {in_words(info.heartbeat_at, now)}" if info.heartbeat_at else "no heartbeat yet"
        if info.state is SchedulerState.RUNNING:
            return f"{info.state} for {since}: process {info.pid} on {info.host}, {beat}"
        return f"{info.state}: process {info.pid} on {info.host}, started {since} ago, {beat}"
    if info.heartbeat_at is None:
        return f"{info.state}: nobody leads, and nobody has yet"
    return f"{info.state}: nobody leads; the last sign of life was {fully(info.heartbeat_at, now)}"


_NAME = 20  # cells that are kept for a job's name before a column is left out


def jobs_lines(
    jobs: Sequence[JobStatus], now: datetime, width: int = 80, height: int | None = None, *, led: bool = True
) -> list[Text]:
    """Return the table of jobs, trouble first, and what the letters of the strip mean.

    As many columns as fit. With `height`, the jobs that don't fit are counted in the last line.
    """
    if not jobs:
        return wrapped(line("no jobs yet: geckosched run schedules what the plugins bring"), width)[:height]
    order = list(_HEALTHS)
    jobs = sorted(jobs, key=lambda job: (order.index(job.health), job.job_id))
    shown = jobs if height is None else jobs[:height]
    columns = _columns_that_fit(shown, now, width, led)
    notes = {index: [note] for index, job in enumerate(shown) if (note := note_of_job(job, led))}
    most = _NOTE if height is None else 1
    cells = list(zip(*(column for _, column in columns), strict=True))
    found = table_rows([title for title, _ in columns], cells, notes, width, 4, most)
    kinds = {each for job in shown for each in job.last_outcomes}
    has_strip = any(title == ">LAST RUNS" for title, _ in columns)
    legend = wrapped(line(f"last runs, oldest first: {_legend(kinds)}", "dim"), width) if kinds and has_strip else []
    return _within(found, jobs, legend, width, height)


_NOTE = 3  # lines of a note in the list; all of it is in `status JOB`


def _within(
    rows: Sequence[list[Text]], jobs: Sequence[JobStatus], legend: list[Text], width: int, height: int | None
) -> list[Text]:
    """Return the titles and as many rows as fit, what became of the others, and the legend."""
    if height is None or (sum(map(len, rows)) + len(legend) <= height and len(rows) > len(jobs)):
        return [each for row in rows for each in row] + legend
    if height < sum(map(len, rows[:2])) + 1 + len(legend):  # the first job is worth more than the legend
        legend, rows = [], [rows[0], *(row[:1] for row in rows[1:])]
    lines: list[Text] = []
    room, fitting = height - len(legend) - 1, 0
    for row in rows:
        if len(lines) + len(row) > room:
            break
        lines += row
        fitting += 1
    others = jobs[max(0, fitting - 1):]
    more = Text(f"... and {len(others):,} more: ").append_text(summary(others))
    more.truncate(width)
    return ([*lines, more, *legend])[:height]


Column = tuple[str, list[Text | str]]


def _columns_that_fit(jobs: Sequence[JobStatus], now: datetime, width: int, led: bool) -> list[Column]:
    """Return those columns of the table of jobs, in their order, which there is room for: the most important ones
    before the others, and the last ones only if no name has to do with less for them.

    Where words change from second to second, their column is as wide as they get: in a live view nothing jumps.
    """
    columns: dict[str, Callable[[JobStatus], Text | str]] = {
        "  JOB": lambda job: Text.assemble(health_sign(job.health), " ", line(job.job_id)),
        "HEALTH": lambda job: Text(job.health, _COLOURS.get(job.health, "")),
        ">LAST RUNS": lambda job: strip(job.last_outcomes),
        "STARTED  ": lambda job: in_words(job.last_started_at, now) if job.last_started_at else "never",
        "NEXT RUN     ": lambda job: next_in_words(job, now, led),
        ">LOST/DAY": lambda job: f"{job.lost_lately:,}",
        ">SUCCESS": lambda job: percent(job.success_rate),
        ">RUNS": lambda job: f"{job.runs:,}",
        ">ERRORS": lambda job: f"{job.errors:,}",
        ">ROWS": lambda job: f"{job.rows:,}",
        ">LOST": lambda job: f"{job.lost:,}",
    }
    order = ["  JOB", "HEALTH", "NEXT RUN     ", ">LAST RUNS", ">LOST/DAY", "STARTED  ", *list(columns)[6:]]
    if not any(job.lost_lately for job in jobs):
        order.remove(">LOST/DAY")
    cells: dict[str, list[Text | str]] = {}
    left, longest = width + 2, 0
    for title in order:
        found = [columns[title](job) for job in jobs]
        wide = max(map(cell_width, (title.removeprefix(">"), *found)))
        if title == order[0]:
            longest, wide = wide, min(wide, _NAME)
        elif title == ">SUCCESS":
            left -= max(0, longest - _NAME)
        left -= wide + 2
        if left < 0:
            break
        cells[title] = found
    return [(title, cells[title]) for title in columns if title in cells]


def next_in_words(job: JobStatus, now: datetime, led: bool = True) -> str:
    """Say in a few words when a job runs next: in 8m, retry in 30s, probe in 1h, running 12s, waits 5m."""
    if not led:
        return "-" if job.health is Health.DISABLED else "when started"
    if job.running_for is not None:
        return f"running {span(job.running_for)}"
    if job.next_run_at is None:
        return "-"
    seconds = (job.next_run_at - now).total_seconds()
    if seconds <= 0:
        return f"waits {span(-seconds)}" if seconds < -_AT_ONCE else "now"
    return f"{_out_of_turn(job)}{in_words(job.next_run_at, now)}"


_AT_ONCE = 2  # seconds that pass until a run that is due has begun, and that has been stored


def _out_of_turn(job: JobStatus) -> str:
    """Say what the next run is, if it is no slot."""
    if job.retry_at is None or job.next_run_at != job.retry_at:
        return ""
    if job.breaker is not BreakerState.CLOSED:
        return "probe "
    return "retry " if job.consecutive_errors or job.last_outcome is Outcome.RATE_LIMITED else ""


def note_of_job(job: JobStatus, led: bool = True) -> str:
    """Say why a job is not healthy, and what is not as it should be with its last run."""
    said = []
    if job.running_for is not None and not led:
        said.append(GONE)
    if job.health in (Health.UNHEALTHY, Health.DEGRADED):
        said.append(job.reason)
    elif job.breaker is not BreakerState.CLOSED:  # of a job that is disabled
        said.append(f"breaker {breaker_in_words(job.breaker)}")
    said.append(_last_ending(job))
    return clean("; ".join(filter(None, said)))


def _last_ending(job: JobStatus) -> str:
    """Say how the last run ended, and why, unless it succeeded."""
    if job.last_outcome in (None, Outcome.SUCCEEDED):
        return ""
    is_error = job.last_outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    why = clean(job.last_error or "") if is_error else first_lines(job.last_detail)
    return f"{job.last_outcome}: {why}" if why else str(job.last_outcome)


# -- status JOB --------------------------------------------------------------------------------------------------------

_LABEL = 17  # cells of a label and the blanks after it


def print_job(job: JobStatus, found: Status, now: datetime, *, obstacle: str = "") -> None:
    print_lines(job_lines(job, found, now, terminal_width(), obstacle=obstacle))


def job_lines(job: JobStatus, found: Status, now: datetime, width: int = 80, *, obstacle: str = "") -> list[Text]:
    """Return all there is of a job, in the order in which an operator asks: how it is and why, what comes next, what
    its last runs were, what it is, what it did; the last error of several lines comes last."""
    lines = labelled(_how_it_is(job, found, now), width, _LABEL)
    lines += _warning(_alarms(found.scheduler, now, obstacle), width)
    for part in (_what_it_did(job, now), _what_it_is(job, now)):
        lines += [Text(""), *labelled(part, width, _LABEL)]
    if "\n" in (job.last_error or ""):
        lines += _part("last error", (job.last_error or "").splitlines(), width)
    return lines


Pairs = list[tuple[str, Text | str]]


def _how_it_is(job: JobStatus, found: Status, now: datetime) -> Pairs:
    led = is_led(found)
    health = Text.assemble(health_sign(job.health), " ", (job.health, _COLOURS.get(job.health, "")))
    if reason := job.reason.removeprefix(job.health).strip():
        health.append("" if reason != job.reason else ":").append(" ").append_text(line(reason))
    errors = count(job.consecutive_errors, "error") if job.consecutive_errors else "no error"
    running = "no" if job.running_for is None else f"for {span(job.running_for)}" if led else GONE
    return [
        ("job", Text.assemble((encodable(job.job_id), "bold"))),
        ("health", health),
        ("running", running),
        ("next run", _next_in_full(job, now, led)),
        ("breaker", f"{breaker_in_words(job.breaker)}, {errors} in a row"),
        ("retry", fully(None if _comes_too_late(job) else job.retry_at, now)),
    ]


def _comes_too_late(job: JobStatus) -> bool:
    """Whether a slot comes up before the retry, which then never is."""
    return job.retry_at is not None and job.next_run_at is not None and job.next_run_at < job.retry_at


def _next_in_full(job: JobStatus, now: datetime, led: bool) -> str:
    if not led:
        return f"{next_in_words(job, now, led)}: nobody leads"
    if job.next_run_at is None:
        return "none while it is disabled" if not is_active(job) else "-"
    moment = f"({job.next_run_at:%Y-%m-%d %H:%M:%S} UTC)"
    if job.running_for is not None or job.next_run_at > now:
        return f"{_out_of_turn(job)}{in_words(job.next_run_at, now)} {moment}"
    return f"{next_in_words(job, now, led)} {moment}; geckosched why {job.job_id} says for what"


def _what_it_did(job: JobStatus, now: datetime) -> Pairs:
    kinds = set(job.last_outcomes)
    runs = strip(job.last_outcomes)
    runs.append(f"  oldest first: {_legend(kinds)}" if kinds else "none")
    pairs: Pairs = [("last runs", runs), ("last run", "never")]
    if job.last_started_at is not None:
        took = "" if job.last_seconds is None else f", took {lasting(job.last_seconds)}"
        pairs[1] = ("last run", f"{job.last_outcome or 'running'}, started {fully(job.last_started_at, now)}{took}")
    error = clean(job.last_error or "")
    if (said := first_lines(job.last_detail)) and said not in error:
        pairs.append(("  it said", said))
    last = error if "\n" not in (job.last_error or "") else _shortened(error)
    return [
        *pairs,
        ("last error", last or "none"),
        ("last success", fully(job.last_success_at, now) if job.last_success_at else "never"),
        ("last new rows", fully(job.last_rows_at, now) if job.last_rows_at else "never"),
        ("lost", f"{job.lost_lately:,} in the last day, {job.lost:,} in all"),
    ]


_GLANCE = 160  # characters of a text that is shown whole further down


def _what_it_is(job: JobStatus, now: datetime) -> Pairs:
    plugin = f" of plugin {job.plugin}" if job.plugin else ""
    if job.disabled_at is not None:
        enabled = f"no: disabled by geckosched disable, {fully(job.disabled_at, now)}"
        if not job.enabled:
            enabled += "; and in the configuration"
    else:
        enabled = "yes" if job.enabled else "no: disabled in the configuration"
    in_all = f"{count(job.runs, 'run')}, {count(job.errors, 'error')}, success rate {percent(job.success_rate)}, "
    return [
        ("collector", f"{job.collector}{plugin}"),
        ("every", job.every),
        ("enabled", enabled),
        ("in all", f"{in_all}{count(job.rows, 'row')} new or changed, {count(job.missed, 'slot')} missed"),
    ]


def print_statistics(found: JobStatistics, now: datetime) -> None:
    print_lines([Text(""), *statistics_lines(found, now, terminal_width())])


def statistics_lines(found: JobStatistics, now: datetime, width: int = 80) -> list[Text]:
    """Return how a job does, over the last day and in all, and from how many runs and since when that is."""
    day, in_all = found.last_day, found.in_all
    rows = [
        ("runs", f"{day.runs:,}", f"{in_all.runs:,}"),
        ("success rate", percent(day.success_rate), percent(in_all.success_rate)),
        *((label, f"{getattr(day, name):,}", f"{getattr(in_all, name):,}") for label, name in _COUNTS),
        *((f"{strip([Outcome(name)])} {name} *", f"{day.outcomes.get(name, 0):,}", f"{number:,}")
          for name, number in in_all.outcomes.items()),
        *((f"{what} {name} *", lasting(getattr(of_day, name)), lasting(getattr(of_all, name)))
          for what, of_day, of_all, names in (
              ("run time,", day.seconds, in_all.seconds, ("last", "median", "p95", "max")),
              ("lateness,", day.lateness, in_all.lateness, ("last", "median", "p95", "max")))
          for name in names),
    ]  # fmt: skip
    kept = f"of the latest {'run' if in_all.sampled == 1 else f'{in_all.sampled:,} runs'} kept"
    kept += f", since {fully(in_all.since, now)}" if in_all.since else ""
    said = [f"* in all: {kept}"]
    if in_all.sampled == day.sampled < in_all.runs:  # the history is shorter than a day, or not looked at any further
        said.append(f"last day: all figures {kept}")
    if not found.counted:
        said.append("* also success rate and calls, since the store is of an older version")
    table = table_lines(("STATISTICS", ">LAST DAY", ">IN ALL"), rows, {}, width)
    return [*table, *(part for each in said for part in wrapped(line(each), width))]


_COUNTS = (("errors", "errors"), ("rows new or changed", "rows"), ("calls", "calls"), ("lost", "lost"),
           ("slots missed", "missed"))  # fmt: skip


def percent(share: float | None) -> str:
    """Write a share, rounded down: only what is whole is 100%."""
    if share is None:
        return "-"
    return "100%" if share == 1 else f"{int(share * 1000) / 10:.1f}%"


# -- enable, disable, reset --------------------------------------------------------------------------------------------


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


# -- plugins -----------------------------------------------------------------------------------------------------------


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


def print_left_out(configuration: Configuration) -> None:
    """Say which installed plugins were not loaded because somebody said so."""
    installed, only = installed_plugins(), configuration.only_plugins
    disabled = [name for name in installed if name in configuration.disable]
    others = [name for name in installed if only is not None and name not in (*only, *disabled)]
    for reason, names in (("disabled by [plugins] disable", disabled), ("not in GECKOSCHED_LOAD_PLUGINS", others)):
        if names:
            print_lines(wrapped(line(f"{reason}: {', '.join(names)}"), terminal_width()))


# -- check -------------------------------------------------------------------------------------------------------------


def print_forecast(found: Forecast, now: datetime) -> None:
    print_lines(forecast_lines(found, now, terminal_width()))


def forecast_lines(found: Forecast, now: datetime, width: int = 80) -> list[Text]:
    """Return what a start would do: the jobs, those that can't be scheduled, and what is asked of each budget."""
    pairs: Pairs = [
        ("configuration", path_line(found.configuration or "none")),
        ("database", _place(found.database, found.database_exists)),
        ("plugins", ", ".join(map(_plugin_in_words, found.plugins)) or "none"),
    ]
    if found.leader_pid is not None:
        said = f"process {found.leader_pid} leads; this is how it will be after its next start"
        pairs.insert(2, ("scheduler", said))
    lines = labelled(pairs, width, 15)
    if found.jobs:
        lines += [Text(""), *_planned_lines(found.jobs, now, width)]
    for each in found.not_scheduled:
        lines += wrapped(line(f"not scheduled: {each.collector} {with_place(each.collector, each.reason)}"), width)
    if not found.jobs and not found.not_scheduled:
        none = "no jobs: a plugin brings collectors, or a file named in [plugins] load"
        lines.append(line("no jobs are shown until what is wrong is mended" if found.errors else none))
    if found.budgets:
        lines += [Text(""), *_budget_lines(found.budgets, width)]
    return lines


def _plugin_in_words(plugin: PluginStatus) -> str:
    wrong = "" if plugin.ok else " (not loaded)" if plugin.error == NOT_LOADED else " (broken)"
    return f"{plugin.name} {plugin.version or ''}".strip() + wrong


def _planned_lines(jobs: Sequence[JobForecast], now: datetime, width: int) -> list[Text]:
    """Return a row for each job; the calls of one that is off stand in parentheses, since no budget counts them."""
    rows = [
        (job.job_id, f"{job.every} {job.at}" if job.at else job.every, _planned(job, now), str(job.priority),
         job.budget or "-", f"({_figure(job.calls_per_hour)})" if job.off else _figure(job.calls_per_hour),
         job.calls_from or "-")
        for job in jobs
    ]  # fmt: skip
    notes = {index: [note] for index, job in enumerate(jobs) if (note := _note_of_plan(job))}
    return table_lines(("JOB", "EVERY", "NEXT (UTC)", ">PRIO", "BUDGET", ">CALLS/H", "FROM"), rows, notes, width)


def _planned(job: JobForecast, now: datetime) -> str:
    if job.next_run_at is None:
        return "off"
    if job.next_run_at <= now:
        return "at once"
    return f"{_WHY_NEXT.get(job.next_reason, '') if job.next_reason else ''}{briefly(job.next_run_at, now)}"


_WHY_NEXT = {Reason.RETRY: "retry ", Reason.PROBE: "probe "}


def _note_of_plan(job: JobForecast) -> str:
    """Say why a job is off, and what is to be known of its calls."""
    said = [job.problem or ""]
    if job.off == OFF_BY_DEFAULT:
        said.append(f"{job.off}: {how_to_turn_on(job.job_id)}")
    elif job.off:
        said.append(job.off)
    declared, measured = job.calls_declared, job.calls_measured
    if declared is not None and measured is not None and abs(declared - measured) > max(declared, measured) / 2:
        said.append(f"it declares {_figure(declared)} calls a run, the last day's made {_figure(measured)}")
    return clean("; ".join(filter(None, said)))


def _budget_lines(budgets: Sequence[BudgetForecast], width: int) -> list[Text]:
    rows = [
        (each.name, each.rate, str(each.burst), _figure(each.gives), _figure(each.asked), f"{each.share:.0%}")
        for each in budgets
    ]
    notes = {
        index: [f"not counted, since they don't say how many calls they make: {', '.join(each.unknown[:FEW])}"
                f"{f' and {len(each.unknown) - FEW} more' if len(each.unknown) > FEW else ''}"]
        for index, each in enumerate(budgets)
        if each.unknown
    }  # fmt: skip
    return table_lines(("BUDGET", "RATE", ">BURST", ">GIVES/H", ">ASKED/H", ">SHARE"), rows, notes, width)


def _figure(number: float | None) -> str:
    """Write a number of calls: whole if it is or is large, else with a digit that says something."""
    if number is None:
        return "?"
    return f"{number:.0f}" if number >= 100 or number == round(number) else f"{number:.2g}"


# -- trigger --dry-run -------------------------------------------------------------------------------------------------


def print_dry_run(job: str, result: DryRun) -> None:
    print_lines(dry_run_lines(job, result, terminal_width()))


def dry_run_lines(job: str, result: DryRun, width: int = 80) -> list[Text]:
    """Return how a dry run ended, each batch with its first rows, what was lost, the calls and the cursor, which can be
    copied: it is not wrapped."""
    run, said = result.run, []
    reason, calls = why_it_ended(run), count(run.calls, "call")
    said.append((0, f"{job}: {run.outcome}, would store {count(run.rows, 'row')}, {calls} in {lasting(run.seconds)}"
                    f"{reason and f': {reason}'}"))  # fmt: skip
    for batch in result.batches:
        key = f" by {', '.join(batch.pk)}, {batch.on_conflict}" if batch.pk else ", appended"
        said += [(0, ""), (0, f"{batch.table}: {count(len(batch.rows), 'row')}, {batch.changed} new or changed{key}")]
        said += [(2, ", ".join(f"{name}={value!r}" for name, value in row.items())) for row in batch.rows[:FEW]]
        if len(batch.rows) > FEW:
            said.append((2, f"... {len(batch.rows) - FEW} more (all of them: --json)"))
    for loss in result.losses:
        between = f"between {loss['since']} and {loss['until']}"
        said += [(0, ""), (0, f"lost {loss['count']} of {loss['target']} {between}")]
    lines = [part for indent, text in said for part in wrapped(line(text), width, indent)]
    lines += [Text(""), *verbatim(f"state {json.dumps(result.state, ensure_ascii=False)}", indent=0)]
    return [*lines, *_traceback(run)]


# -- runs --------------------------------------------------------------------------------------------------------------


def print_runs(runs: Sequence[Run], now: datetime, orphans: Collection[int] = ()) -> None:
    print_lines(runs_lines(runs, now, terminal_width(), orphans))


def runs_lines(runs: Sequence[Run], now: datetime, width: int = 80, orphans: Collection[int] = ()) -> list[Text]:
    """Return the table of runs, and below each that did not just succeed why it ended as it did.

    `orphans` are the ids of those that are open though their process is gone.
    """
    if not runs:
        return [line("no runs")]
    rows = [
        (str(each.id), each.job_id, _below_sign(_ending(each, each.id in orphans)), briefly(each.started_at, now),
         "-" if each.seconds is None else lasting(each.seconds), f"{each.rows:,}", f"{each.calls:,}")
        for each in runs
    ]  # fmt: skip
    notes = {index: [_note_of_run(each, each.id in orphans)] for index, each in enumerate(runs)}
    notes = {index: said for index, said in notes.items() if said[0]}
    headers = (">ID", "JOB", "  OUTCOME", "STARTED (UTC)", ">TOOK", ">ROWS", ">CALLS")
    return table_lines(headers, rows, notes, width, 4, _NOTE)


def _ending(run: Run, is_orphan: bool) -> Text:
    outcome = Outcome.INTERRUPTED if is_orphan else run.outcome
    if outcome is None:
        return Text("running")
    return Text(f"{_RUNS[outcome]} {outcome}", _COLOURS.get(outcome, ""))


_PROCESS_GONE = "its process is gone; the next leader closes it"


def _below_sign(ending: Text) -> Text:
    return ending if ending.plain[1] == " " else Text("  ").append_text(ending)


def _note_of_run(run: Run, is_orphan: bool) -> str:
    said = [_PROCESS_GONE if is_orphan else why_it_ended(run)]
    said.append(f"{run.lost:,} lost" if run.lost else "")
    said.append(f"{count(run.missed, 'slot')} missed before it" if run.missed else "")
    return "; ".join(filter(None, said))


def print_run(run: Run, now: datetime, losses: Sequence[RunLoss] = (), *, is_orphan: bool = False) -> None:
    print_lines(run_lines(run, now, terminal_width(), losses, is_orphan=is_orphan))


def run_lines(
    run: Run, now: datetime, width: int = 80, losses: Sequence[RunLoss] = (), *, is_orphan: bool = False
) -> list[Text]:
    """Return all there is of a run: how it ended and why, when it ran, what it did; then what it said of itself, what
    was lost, and the traceback, whose lines are as they are, however wide."""
    ending, why = _ending(run, is_orphan), _PROCESS_GONE if is_orphan else why_it_ended(run)
    if why:
        ending.append(": ").append_text(line(_shortened(why)))
    took = "" if run.seconds is None else f", took {lasting(run.seconds)}"
    ended = f"{fully(run.finished_at, now)}{took}" if run.finished_at else "not yet"
    pairs: Pairs = [
        ("run", Text(str(run.id), "bold")),
        ("job", run.job_id),
        ("outcome", ending),
        ("reason", f"{run.reason}: {_REASONS[run.reason]}"),
        ("slot", fully(run.scheduled_for, now) + _lateness(run) if run.scheduled_for else "none"),
        ("started", fully(run.started_at, now)),
        ("ended", ended),
        ("rows", f"{run.rows:,} new or changed"),
        ("calls", f"{run.calls:,}"),
        ("lost", f"{run.lost:,}"),
        ("slots missed", f"{run.missed:,} before it"),
        ("led by", f"instance {run.instance_id}"),
    ]
    lines = labelled(pairs, width, _LABEL)
    for name, text in (("detail", run.detail or ""), ("error", ": ".join(filter(None, (run.error_type, run.error))))):
        if text != why or text != _shortened(why):  # else it has been said
            lines += _part(name, text.splitlines(), width)
    lines += _part("lost", list(map(_loss, losses)), width)
    return [*lines, *_traceback(run)]


_REASONS = {
    Reason.SCHEDULED: "its slot came up",
    Reason.CATCHUP: "a slot passed while it could not run",
    Reason.FIRST: "it had never run",
    Reason.RETRY: "the run before failed, or asked for it",
    Reason.PROBE: "its breaker was open, this run was to see whether it can close",
    Reason.TRIGGERED: "somebody asked for it",
}


def _traceback(run: Run) -> list[Text]:
    return [Text(""), Text("traceback:", "bold"), *verbatim(run.traceback)] if run.traceback else []


def _shortened(text: str) -> str:
    return text if len(text) <= _GLANCE else f"{text[:_GLANCE]}..."


def _part(title: str, texts: Sequence[str], width: int) -> list[Text]:
    """Return a part of several lines, with its title; nothing if there is nothing to say."""
    if not texts:
        return []
    return [Text(""), Text(f"{title}:", "bold"), *(part for each in texts for part in wrapped(line(each), width, 2))]


def _lateness(run: Run) -> str:
    if run.scheduled_for is None or run.reason is not Reason.SCHEDULED:
        return ""
    return f", started {lasting((run.started_at - run.scheduled_for).total_seconds())} late"


def _loss(loss: RunLoss) -> str:
    since, until = (f"{each:%Y-%m-%d %H:%M:%S}" for each in (loss.since, loss.until))
    return f"{loss.count:,} of {loss.target}, between {since} and {until} UTC"


# -- How a run ended ---------------------------------------------------------------------------------------------------


def result_in_words(run: Run) -> str:
    """Say how a run ended, in one line."""
    if run.outcome is None:
        return f"runs as run {run.id}"
    reason = why_it_ended(run)
    return f"{run.outcome}, {count(run.rows, 'row')} in {lasting(run.seconds)} (run {run.id}){reason and f': {reason}'}"


def why_it_ended(run: Run) -> str:
    """Say why a run ended as it did, in one line: its error, else the first lines of its detail."""
    if run.error:
        return clean(f"{run.error_type}: {run.error}" if run.error_type else run.error)
    if run.detail:
        return first_lines(run.detail)
    return "it gave no reason" if run.outcome is Outcome.SKIPPED else ""


def first_lines(detail: str | None) -> str:
    first, more = (lines := (detail or "").splitlines())[:3], len(lines) - 3
    return clean("; ".join([*first, f"{more} more"] if more > 0 else first))
