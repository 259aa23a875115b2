"""What is shown to people: it fits the width, in ASCII and without colour; trouble is first, and nothing is lost."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from geckosched import (
    BreakerState,
    CollectionScheduler,
    Health,
    JobStatus,
    Outcome,
    Reason,
    Run,
    RunContext,
    RunLoss,
    SchedulerConfig,
    collector,
    rendering,
    screens,
)
from geckosched.core import DryBatch, DryRun, PluginStatus, SchedulerState
from geckosched.rendering import span
from geckosched.screens import job_lines, run_lines, runs_lines, statistics_lines, status_lines
from geckosched.statistics import JobStatistics, PeriodStatistics, Spread
from geckosched.views import SchedulerInfo, Status
from tests.shell import invoke

NOW = datetime(2026, 11, 23, 15, 45, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

FINE = JobStatus(
    job_id="fine", collector="fine", plugin="geckoterminal", every="10m", enabled=True, disabled_at=None,
    health=Health.HEALTHY, next_run_at=NOW + 8 * MINUTE, last_outcome=Outcome.SUCCEEDED,
    last_started_at=NOW - 2 * MINUTE, last_seconds=1.5, last_success_at=NOW - 2 * MINUTE,
    last_rows_at=NOW - 2 * MINUTE, runs=9000, success_rate=1.0, rows=123456, last_outcomes=(Outcome.SUCCEEDED,) * 10,
)  # fmt: skip
SICK = dataclasses.replace(
    FINE, job_id="geckoterminal-top-pools", health=Health.UNHEALTHY, breaker=BreakerState.OPEN, consecutive_errors=5,
    retry_at=NOW + 55 * MINUTE, next_run_at=NOW + 55 * MINUTE, last_outcome=Outcome.FAILED,
    last_error="HTTPError: 500\nServer Error" + " x" * 200, errors=123, success_rate=0.98, lost=700, lost_lately=70,
    missed=11, reason="breaker open until 2026-11-23 16:40:30 UTC", last_outcomes=tuple(Outcome), running_for=12.0,
    last_success_at=NOW - 3 * DAY,
)  # fmt: skip
LONG_NAME = "geckoterminal-watchlist-of-all-the-pools-that-somebody-named"
STRANGE = dataclasses.replace(
    FINE, job_id="天気予報-東京", health=Health.DEGRADED, last_outcome=Outcome.PARTIAL, reason="1 error",
    last_detail="1 of 2 targets failed\n大阪: " + "応答がありません" * 30, last_outcomes=(Outcome.PARTIAL,),
)  # fmt: skip
JOBS = [
    FINE,
    dataclasses.replace(FINE, job_id="off", health=Health.DISABLED, disabled_at=NOW - 2 * DAY, next_run_at=None),
    dataclasses.replace(FINE, job_id="new", health=Health.PENDING, runs=0, last_outcomes=(), last_started_at=None),
    dataclasses.replace(FINE, job_id=LONG_NAME),
    dataclasses.replace(FINE, job_id="שלום"),
    dataclasses.replace(FINE, job_id="n" * 200),
    STRANGE,
    SICK,
]
BAD = PluginStatus("bad", None, None, False, "ImportError: " + "no such module " * 10, ())

RUN = Run(
    id=17, job_id="geckoterminal-top-pools", reason=Reason.SCHEDULED, scheduled_for=NOW, started_at=NOW + MINUTE / 2,
    finished_at=NOW + 2 * MINUTE, outcome=Outcome.FAILED, rows=1000, calls=12, missed=3, lost=70,
    detail="asked to stop\nand it did", error_type="HTTPError", error="500 for " + "pool " * 100,
    traceback='Traceback (most recent call last):\n  File "x.py", line 3\n    ' + "get(url) + " * 20 + "\n",
    instance_id="0a1b2c",
)  # fmt: skip
RUNS = [
    dataclasses.replace(RUN, id=number, job_id=name, outcome=outcome, finished_at=None if outcome is None else NOW)
    for number, (name, outcome) in enumerate(itertools.product(("a", LONG_NAME, "天気予報"), (None, *Outcome)))
]
LOSS = RunLoss("pool " + "A" * 100, 70, NOW - HOUR, NOW)
FIGURES = Spread(100, 1.234, 1.5, 12.5, 250.0)
PERIOD = PeriodStatistics(
    144, 0.9799, 3, 12345, 9144, 70, 0, dict.fromkeys(Outcome, 1), FIGURES, FIGURES, 144, NOW - DAY
)
STATISTICS = JobStatistics("fine", PERIOD, PERIOD, False, NOW - 20 * DAY)


def status_of(*jobs: JobStatus, state: SchedulerState = SchedulerState.RUNNING, beat: float | None = 1) -> Status:
    heartbeat = None if beat is None else NOW - timedelta(seconds=beat)
    return Status(SchedulerInfo(state, 42, "host", NOW - 3 * DAY, heartbeat, "/data/app.db", "0.1"), jobs, (BAD,))


def every_screen(width: int) -> dict[str, list[Text]]:
    """Return each screen, with all that can be in it."""
    found, full = status_of(*JOBS), "database or disk is full " * 8
    return {
        "status": status_lines(found, NOW, width, obstacle=full),
        "stopped": status_lines(status_of(*JOBS, state=SchedulerState.STOPPED, beat=7200), NOW, width),
        "empty": status_lines(status_of(state=SchedulerState.STOPPED, beat=None), NOW, width),
        "short": status_lines(found, NOW, width, 12),
        "statistics": statistics_lines(STATISTICS, NOW, width),
        "runs": runs_lines(RUNS, NOW, width, orphans=[0]),
        "no runs": runs_lines([], NOW, width),
        "run": run_lines(dataclasses.replace(RUN, traceback=None), NOW, width, [LOSS]),
        **{f"job {job.job_id}": job_lines(job, found, NOW, width, obstacle=full) for job in JOBS},
    }


def plain(lines: Sequence[Text]) -> str:
    return "\n".join(each.plain for each in lines)


def in_one_line(lines: Sequence[Text]) -> str:
    return " ".join(plain(lines).split())


@pytest.fixture
def ascii_only() -> Iterator[None]:
    """A stdout that knows ASCII only."""
    token = rendering.stdout.set(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    yield
    rendering.stdout.reset(token)


# -- Every screen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    """Whatever names and errors are: long, of several lines, in wide characters, from right to left."""
    for name, lines in every_screen(width).items():
        assert lines, name
        wide = [each.plain for each in lines if each.cell_len > width]
        assert wide == [], name


@pytest.mark.usefixtures("ascii_only")
@pytest.mark.parametrize("width", [50, 80])
def test_in_an_ascii_terminal_every_line_is_ascii_and_fits(width: int) -> None:
    """What the encoding lacks is an escape before it is measured."""
    for name, lines in every_screen(width).items():
        assert plain(lines).isascii(), name
        assert [each.plain for each in lines if each.cell_len > width] == [], name
    assert "\\u5929\\u6c17" in plain(every_screen(80)["status"])


def test_nothing_foreign_writes_to_the_terminal() -> None:
    """Escape sequences, bells, carriage returns, line breaks and turned text come out as blanks."""
    evil = "red \x1b[31mx\x07y\rz\nback\u202eturn\x9b2J\u2028"
    job = dataclasses.replace(SICK, last_error=evil, last_detail=evil, reason=evil)
    run = dataclasses.replace(RUN, error=evil, detail=evil, traceback=evil)
    found = status_of(job)
    loss = dataclasses.replace(LOSS, target=evil)
    lines = [*status_lines(found, NOW), *job_lines(job, found, NOW), *runs_lines([run], NOW)]
    lines += run_lines(run, NOW, 80, [loss])
    for each in lines:
        assert each.plain.isprintable(), each.plain
    assert plain(lines).count("red [31mx") >= 6


def test_a_name_from_right_to_left_turns_nothing_around() -> None:
    """It stands between two marks, so that what follows it in the row goes on from left to right."""
    *_, row, _ = status_lines(status_of(dataclasses.replace(FINE, job_id="שלום")), NOW)
    assert re.match("\u200e\\+ שלום\u200e +healthy", row.plain)


def test_the_configurations_secrets_are_hidden_before_lines_are_broken() -> None:
    """One that a line break would cut in two is no longer found afterwards."""

    class Hide:
        def hide(self, text: str) -> str:
            return text.replace("secret with blanks", "***")

    token = rendering.secrets.set(Hide())  # type: ignore[arg-type]
    try:
        texts = [every_screen(80)]
        job = dataclasses.replace(SICK, last_error=f"{'x' * 60} secret with blanks", reason="")
        texts_of_job = in_one_line([*status_lines(status_of(job), NOW), *job_lines(job, status_of(job), NOW)])
    finally:
        rendering.secrets.reset(token)
    assert texts
    assert "blanks" not in texts_of_job
    assert texts_of_job.count("***") == 2


# -- status ------------------------------------------------------------------------------------------------------------


def test_every_health_and_every_outcome_has_its_own_sign() -> None:
    """One ASCII character each, so nothing hangs on colour; a capital letter is an error that the breaker counts."""
    healths = [screens.health_sign(each).plain for each in Health]
    outcomes = {each: screens.strip([each]).plain for each in Outcome}
    for signs in (healths, list(outcomes.values())):
        assert len(set(signs)) == len(signs)
        assert all(len(sign) == 1 and sign.isascii() and not sign.isspace() for sign in signs)
    assert {each for each, sign in outcomes.items() if sign.isupper()} == {Outcome.FAILED, Outcome.TIMED_OUT}


def test_the_strip_is_in_the_order_of_the_runs_and_explained() -> None:
    """Oldest first; what occurs in a list is explained below it, what doesn't is not."""
    outcomes = (Outcome.FAILED, Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.SKIPPED)
    job = dataclasses.replace(FINE, last_outcomes=outcomes)
    *_, row, legend = status_lines(status_of(job), NOW)
    assert " F..s " in row.plain
    assert legend.plain == "last runs, oldest first: .=succeeded F=failed s=skipped"


def test_trouble_is_seen_first() -> None:
    """Unhealthy, degraded, pending, healthy, disabled, and by name; the line above counts them."""
    healths = enumerate([*Health] * 2)
    jobs = [dataclasses.replace(FINE, job_id=f"job{number}", health=health) for number, health in healths]
    lines = [each.plain for each in status_lines(status_of(*jobs), NOW)]
    shown = [tuple(line.split()[1:3]) for line in lines if re.match(r". job\d", line)]
    order = ["unhealthy", "degraded", "pending", "healthy", "disabled"]
    assert [health for _, health in shown] == [each for each in order for _ in range(2)]
    assert shown == sorted(shown, key=lambda each: (order.index(each[1]), each[0]))
    assert "jobs       10: 2 unhealthy, 2 degraded, 2 pending, 2 healthy, 2 disabled" in lines
    assert next(line for line in lines if line.startswith("! plugin bad is broken: ImportError"))


def test_a_job_says_what_is_wrong_with_it() -> None:
    """Why it is unhealthy or degraded, and why its last run did not just succeed, the reason of a skip as well; three
    lines at most."""
    sick = [each.plain for each in status_lines(status_of(SICK), NOW)]
    row = next(index for index, line in enumerate(sick) if re.match("x geckoterminal-top-pools +unhealthy ", line))
    notes = list(itertools.takewhile(lambda line: line.startswith("    "), sick[row + 1:]))
    assert len(notes) == 3
    assert notes[0].startswith("    breaker open until 2026-11-23 16:40:30 UTC; failed: HTTPError: 500 Server")
    assert notes[-1].endswith(" ...")
    skipped = dataclasses.replace(FINE, last_outcome=Outcome.SKIPPED, last_detail="nothing new")
    partial = dataclasses.replace(FINE, health=Health.DEGRADED, reason="70 lost in the last day",
                                  last_outcome=Outcome.PARTIAL, last_detail="a\nb\nc\nd\ne")  # fmt: skip
    quiet = dataclasses.replace(FINE, last_outcome=Outcome.TIMED_OUT, last_error=None)
    assert screens.note_of_job(skipped) == "skipped: nothing new"
    assert screens.note_of_job(partial) == "70 lost in the last day; partial: a; b; c; 2 more"
    assert screens.note_of_job(quiet) == "timed_out"
    assert screens.note_of_job(FINE) == ""
    assert screens.note_of_job(dataclasses.replace(FINE, running_for=3.0), led=False) == "interrupted (process gone)"


def test_the_next_run_in_words() -> None:
    """A slot, a retry, a probe; a run that is due waits, it is not overdue; with nobody leading nothing is promised."""
    soon = NOW + 2 * MINUTE
    retry = dataclasses.replace(FINE, consecutive_errors=1, retry_at=soon, next_run_at=soon)
    limited = dataclasses.replace(FINE, last_outcome=Outcome.RATE_LIMITED, retry_at=soon, next_run_at=soon)
    again = dataclasses.replace(FINE, last_outcome=Outcome.SKIPPED, retry_at=soon, next_run_at=soon)
    slot = dataclasses.replace(retry, retry_at=soon + HOUR)
    said = {
        "in 8m": FINE,
        "retry in 2m": retry,
        "in 2m": slot,
        "probe in 2m": dataclasses.replace(retry, breaker=BreakerState.OPEN),
        "running 1m40s": dataclasses.replace(retry, running_for=100.0),
        "waits 5m": dataclasses.replace(FINE, next_run_at=NOW - 5 * MINUTE),
        "now": dataclasses.replace(FINE, next_run_at=NOW),
        "-": dataclasses.replace(FINE, next_run_at=None),
    }
    assert {screens.next_in_words(job, NOW): words for words, job in said.items()} == {words: words for words in said}
    assert (screens.next_in_words(limited, NOW), screens.next_in_words(again, NOW)) == ("retry in 2m", "in 2m")
    assert screens.next_in_words(SICK, NOW, led=False) == "when started"
    assert screens.next_in_words(dataclasses.replace(SICK, health=Health.DISABLED), NOW, led=False) == "-"


def test_who_leads_is_said_or_that_nobody_does() -> None:
    """Since when; the last leader's process is not shown as if it were alive; what stops all jobs stands out."""
    running = in_one_line(status_lines(status_of(FINE), NOW))
    assert running.startswith("scheduler running for 3d: process 42 on host, heartbeat 1s ago database /data/app.db")
    stopped = plain(status_lines(status_of(FINE, state=SchedulerState.STOPPED, beat=7200), NOW))
    assert stopped.startswith("scheduler  stopped: nobody leads; the last sign of life was 2h ago (2026-11-23")
    assert "42" not in stopped
    never = plain(status_lines(status_of(state=SchedulerState.STOPPED, beat=None), NOW))
    assert never.startswith("scheduler  stopped: nobody leads, and nobody has yet\n")
    assert "no jobs yet: geckosched run" in never
    found = status_of(FINE)
    silent = dataclasses.replace(found, scheduler=dataclasses.replace(found.scheduler, pid=None, heartbeat_at=None))
    assert plain(status_lines(silent, NOW)).startswith("scheduler  running: the leader has written nothing into this")
    stale = plain(status_lines(status_of(FINE, beat=14), NOW, obstacle="database or disk is full"))
    assert "\n! heartbeat is 14 s old: the leader hangs, is stopped or can't write the store\n" in stale
    assert "\n! the store can't be written: database or disk is full\n" in stale
    assert "\n!" not in running.replace("! plugin", "")


def test_losses_of_the_last_day_have_a_column_if_there_are_any() -> None:
    """And it costs no more than 80 columns."""
    some, none = status_lines(status_of(SICK, FINE), NOW), status_lines(status_of(FINE), NOW)
    [row] = [each.plain for each in some if each.plain.startswith("x ")]
    assert "LOST/DAY" in plain(some)
    assert row.split()[-1] == "70"
    assert "LOST/DAY" not in plain(none)


def test_a_wider_terminal_shows_more() -> None:
    """Success rate, runs, errors, rows and losses of all its runs; in a narrow one health and next run stay."""
    wide, narrow = plain(status_lines(status_of(SICK), NOW, 140)), plain(status_lines(status_of(SICK), NOW, 50))
    for figure in ("98.0%", "9,000", "123", "123,456", "700"):
        assert re.search(rf" {figure}\b|{figure} ", wide.replace("breaker", ""))
    assert "unhealthy" in narrow
    assert "running 12s" in narrow


def test_a_long_name_is_whole_and_its_row_goes_on_below() -> None:
    """Who wants to copy it can; the columns of the others stay where they are."""
    lines = [each.plain for each in status_lines(status_of(dataclasses.replace(FINE, job_id=LONG_NAME), SICK), NOW)]
    at = lines.index(f"+ {LONG_NAME}")
    [other] = [line for line in lines if line.startswith("x ")]
    assert lines[at + 1].index("healthy") == other.index("unhealthy")


def test_columns_stand_below_each_other() -> None:
    """In cells of the terminal, of which an East Asian character takes two and a mark of direction none."""
    lines = [each.plain for each in status_lines(status_of(*JOBS), NOW, 100)]
    ends = {cell_len(found[1]) for each in lines if (found := re.match(r"(.* )(?:HEALTH|\w+) +\S* +\w+ ago +", each))}
    assert len(ends) == 1


@pytest.mark.parametrize("height", range(1, 40))
def test_a_screen_has_its_height_and_counts_what_it_leaves_out(height: int) -> None:
    """For a live view: never a line more; trouble stays, a note is one line, every job is shown or counted."""
    jobs = [*JOBS[-2:], *(dataclasses.replace(FINE, job_id=f"job{number:03}") for number in range(200))]
    lines = [each.plain for each in status_lines(status_of(*jobs), NOW, 80, height)]
    assert len(lines) <= height
    shown = len([line for line in lines if re.match(r"[x!?+-] \S+ +\w", line) and "plugin" not in line])
    left_out = [int(found[1]) for line in lines if (found := re.match(r"\.\.\. and (\d+) more: ", line))]
    if height >= 10:
        assert shown + sum(left_out) == len(jobs)
    if height >= 14:
        assert next(line for line in lines if line.startswith("x geckoterminal-top-pools"))
        assert lines[-1].endswith(" i=interrupted")


def test_a_low_screen_shows_the_first_job() -> None:
    """On a terminal of eight lines the job that is worst, rather than what the letters of the strip mean."""
    jobs = [SICK, *(dataclasses.replace(FINE, job_id=f"job{number}") for number in range(4))]
    found = dataclasses.replace(status_of(*jobs), plugins=())
    lines = [each.plain for each in status_lines(found, NOW, 80, 7)]
    assert [each[:25] for each in lines[-2:]] == ["x geckoterminal-top-pools", "... and 4 more: 4 healthy"]


def test_a_narrow_screen_explains_only_what_it_shows() -> None:
    """Where there is no room for the strip of the last runs, its letters need no legend."""
    narrow, wide = (plain(status_lines(status_of(FINE), NOW, width)) for width in (40, 80))
    assert ("LAST RUNS" in narrow, "oldest first" in narrow) == (False, False)
    assert ("LAST RUNS" in wide, "oldest first" in wide) == (True, True)


def test_a_screen_that_is_high_enough_leaves_nothing_out() -> None:
    """No line is given away for a count of nothing."""
    whole = status_lines(status_of(FINE, JOBS[1]), NOW, 80)
    assert plain(status_lines(status_of(FINE, JOBS[1]), NOW, 80, len(whole))) == plain(whole)


# -- status JOB --------------------------------------------------------------------------------------------------------


def test_a_job_in_full_has_all_there_is() -> None:
    """Every field of JobStatus is seen: changing it changes what is shown; what is for people as well."""
    other: dict[str, Any] = {
        "job_id": "other", "collector": "other", "plugin": "other", "every": "99m", "enabled": False,
        "disabled_at": NOW - DAY, "health": Health.DEGRADED, "breaker": BreakerState.HALF_OPEN,
        "consecutive_errors": 77, "retry_at": NOW + 3 * DAY, "next_run_at": NOW + 2 * DAY, "running_for": 99.0,
        "last_outcome": Outcome.TIMED_OUT, "last_started_at": NOW - 9 * DAY, "last_seconds": 66.6,
        "last_success_at": NOW - 5 * DAY,
        "last_rows_at": NOW - 6 * DAY, "last_error": "other", "runs": 11, "errors": 12, "success_rate": 0.5, "rows": 13,
        "lost": 14, "missed": 15, "reason": "other", "last_outcomes": (Outcome.SKIPPED,), "last_detail": "other",
        "lost_lately": 16,
    }  # fmt: skip
    found, base = status_of(SICK), dataclasses.replace(SICK, retry_at=NOW + MINUTE)
    assert set(other) == {each.name for each in dataclasses.fields(JobStatus)}
    for name, value in other.items():
        changed = dataclasses.replace(base, **{name: value})
        assert plain(job_lines(changed, found, NOW)) != plain(job_lines(base, found, NOW)), name


def test_a_job_in_full_says_first_how_it_is_and_why() -> None:
    """Then what comes next, in words and UTC; an error of several lines is whole, its lines kept."""
    lines = [each.plain for each in job_lines(SICK, status_of(SICK), NOW)]
    assert lines[:4] == [
        "job              geckoterminal-top-pools",
        "health           x unhealthy: breaker open until 2026-11-23 16:40:30 UTC",
        "running          for 12s",
        "next run         probe in 55m (2026-11-23 16:40:30 UTC)",
    ]
    at = lines.index("last error:")
    assert lines[at + 1] == "  HTTPError: 500"
    assert " ".join(lines[at + 2:]).split() == ["Server", "Error", *["x"] * 200]


def test_a_retry_that_a_slot_forestalls_is_not_shown() -> None:
    """A job of a few seconds keeps its slots after an error."""
    for retry_at, said in ((NOW + MINUTE, "-"), (NOW + MINUTE / 2, "in 30s (2026-11-23 15:46:00 UTC)")):
        job = dataclasses.replace(FINE, consecutive_errors=1, next_run_at=NOW + MINUTE / 2, retry_at=retry_at)
        lines = [each.plain for each in job_lines(job, status_of(job), NOW)]
        assert f"retry            {said}" in lines


def test_a_reason_is_not_said_twice() -> None:
    """`disabled since` needs no `disabled:` before it."""
    off = dataclasses.replace(JOBS[1], reason="disabled since 2026-11-21 15:45:30 UTC")
    assert job_lines(off, status_of(off), NOW)[1].plain == "health           - disabled since 2026-11-21 15:45:30 UTC"


def test_statistics_never_round_up_to_all() -> None:
    """99.99% of the runs is not all of them; figures have their units."""
    assert [screens.percent(each) for each in (None, 0.0, 0.99999, 1.0)] == ["-", "0.0%", "99.9%", "100%"]
    shown = in_one_line(statistics_lines(STATISTICS, NOW))
    assert "success rate 97.9% 97.9%" in shown
    assert "run time, median * 1.50 s 1.50 s" in shown
    assert "of the latest 144 runs kept, since 24h ago" in shown.replace("1d ago", "24h ago")


def test_the_last_day_says_if_the_history_is_shorter() -> None:
    """Where runs of the last day were pruned its figures are not all of it; else nothing is said. One run is one."""
    kept = dataclasses.replace(PERIOD, runs=1, sampled=1, since=NOW - HOUR)
    in_all = dataclasses.replace(kept, runs=144)
    shown = in_one_line(statistics_lines(dataclasses.replace(STATISTICS, last_day=kept, in_all=in_all), NOW))
    said = "of the latest run kept, since 1h ago (2026-11-23 14:45:30 UTC)"
    assert f"* in all: {said}" in shown
    assert f"last day: all figures {said}" in shown
    assert "last day:" not in in_one_line(statistics_lines(STATISTICS, NOW))


def test_statistics_have_every_figure_of_a_spread() -> None:
    """What the JSON has of run times and lateness."""
    shown = in_one_line(statistics_lines(STATISTICS, NOW))
    for what in ("run time", "lateness"):
        assert all(f"{what}, {name} *" in shown for name in ("last", "median", "p95", "max"))


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"outcome": Outcome.SUCCEEDED, "error": None, "detail": None}, ""),
        ({"outcome": Outcome.FAILED, "error": "no\nanswer", "error_type": "OSError"}, "OSError: no answer"),
        ({"outcome": Outcome.SKIPPED, "error": None, "detail": "nothing new"}, "nothing new"),
        ({"outcome": Outcome.SKIPPED, "error": None, "detail": None}, "it gave no reason"),
        ({"outcome": Outcome.PARTIAL, "error": None, "detail": "1\n2\n3\n4\n5"}, "1; 2; 3; 2 more"),
        ({"outcome": Outcome.RATE_LIMITED, "error": None, "detail": "retry after 60 s"}, "retry after 60 s"),
    ],
)
def test_why_a_run_ended_as_it_did(run: dict[str, str | None], said: str) -> None:
    """In the list below the run, and in full; a skip without a reason says that."""
    ended = dataclasses.replace(RUN, missed=0, lost=0, **run)  # type: ignore[arg-type]
    assert screens.why_it_ended(ended) == said
    assert [each.plain.strip() for each in runs_lines([ended], NOW)[2:]] == ([said] if said else [])
    assert (f": {said}" in run_lines(ended, NOW)[2].plain) is bool(said)


def test_a_run_in_the_list_says_what_it_lost_and_missed() -> None:
    """Below it, also if it succeeded; one whose process is gone is not shown as running."""
    well = dataclasses.replace(RUN, outcome=Outcome.SUCCEEDED, error=None, detail=None, missed=1)
    gone = dataclasses.replace(RUN, id=18, outcome=None, finished_at=None, error=None, detail=None, missed=0, lost=0)
    shown = [each.plain for each in runs_lines([gone, well], NOW, 80, orphans=[18])]
    assert shown[1].split()[:4] == ["18", "geckoterminal-top-pools", "i", "interrupted"]
    assert shown[2] == "    its process is gone; the next leader closes it"
    assert shown[4] == "    70 lost; 1 slot missed before it"
    assert "  running " in plain(runs_lines([gone], NOW))


def test_a_run_in_full_has_all_there_is() -> None:
    """Every field of Run is seen: changing it changes what is shown."""
    other: dict[str, Any] = {
        "id": 99, "job_id": "other", "reason": Reason.PROBE, "scheduled_for": NOW - DAY, "started_at": NOW - HOUR,
        "finished_at": NOW + HOUR, "outcome": Outcome.PARTIAL, "rows": 1, "calls": 2, "missed": 4, "lost": 5,
        "detail": "other", "error_type": "Other", "error": "other", "traceback": "other", "instance_id": "other",
    }  # fmt: skip
    assert set(other) == {each.name for each in dataclasses.fields(Run)}
    for name, value in other.items():
        changed = dataclasses.replace(RUN, **{name: value})
        assert plain(run_lines(changed, NOW)) != plain(run_lines(RUN, NOW)), name
    assert f"70 of {LOSS.target}, between 2026-11-23 14:45:30 and" in in_one_line(run_lines(RUN, NOW, 200, [LOSS]))


def test_a_traceback_keeps_its_lines() -> None:
    """However wide: a line of code that a screen breaks can't be read or copied."""
    shown = plain(run_lines(RUN, NOW))
    assert RUN.traceback is not None
    assert shown.endswith("\n".join(f"  {each}".rstrip() for each in RUN.traceback.splitlines()))


def test_a_short_reason_is_not_repeated_below() -> None:
    """One line of detail that the outcome has said has no part of its own; one of several lines has."""
    short = dataclasses.replace(RUN, outcome=Outcome.SKIPPED, detail="nothing new", error=None, error_type=None)
    assert plain(run_lines(short, NOW)).count("nothing new") == 1
    assert "\ndetail:\n  asked to stop\n  and it did\n" in plain(run_lines(RUN, NOW))


def test_losses_of_a_run_are_read_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs ID` says of what it lost how much; a run that lost nothing has none."""
    monkeypatch.chdir(tmp_path)

    @collector("pools", every="1d")
    def pools(run: RunContext) -> Iterator[None]:
        run.lost("SOL/USDC", 7, NOW - HOUR, NOW)
        yield

    scheduler = CollectionScheduler(SchedulerConfig())
    run = scheduler.execute_collector_now(scheduler.register_collector(pools))
    assert run is not None
    assert scheduler.get_losses(run.id) == [RunLoss("SOL/USDC", 7, NOW - HOUR, NOW)]
    assert scheduler.get_losses(run.id + 1) == []
    said = "  7 of SOL/USDC, between 2026-11-23 14:45:30 and 2026-11-23 15:45:30 UTC\n"
    assert said in invoke("runs", str(run.id)).stdout


def test_a_dry_run_fits_and_its_state_can_be_copied() -> None:
    """Rows are wrapped; the state is one line as it is."""
    batch = DryBatch("pools", ("id",), "update", tuple({"id": n, "text": "x " * 60} for n in range(12)), 12)
    lines = screens.dry_run_lines("pools", DryRun(RUN, (batch,), (), {"cursor": "c  c" * 50}), 80)
    state = next(each.plain for each in lines if each.plain.startswith("state "))
    assert state == 'state {"cursor": "' + "c  c" * 50 + '"}'
    assert all(each.cell_len <= 80 for each in itertools.takewhile(lambda each: each.plain != state, lines))
    assert "... 2 more (all of them: --json)" in plain(lines)


# -- How it is printed -------------------------------------------------------------------------------------------------


def test_piped_output_is_plain_and_as_wide_as_columns_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns if it says nothing, no escape sequences even where colour is asked for."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    widest = {}
    for columns in ("", "60", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        screens.print_status(status_of(SICK, FINE), NOW)
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        widest[columns] = max(map(len, shown.splitlines()))
    assert widest[""] in range(70, 81)
    assert widest["60"] in range(50, 61)
    assert widest["120"] in range(110, 121)


def test_colours_are_for_terminals_that_want_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal rich colours healths and outcomes; NO_COLOR and TERM=dumb are heard, and lose no word."""
    monkeypatch.setattr(rendering, "is_terminal", lambda: True)
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    words = set()
    for term, no_color in (("xterm", ""), ("xterm", "1"), ("dumb", "")):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("NO_COLOR", no_color)
        screens.print_status(status_of(SICK, FINE), NOW)
        shown = capsys.readouterr().out
        assert ("\x1b[31munhealthy" in shown) is ((term, no_color) == ("xterm", ""))
        words.add(re.sub(r"\x1b\[[\d;]*m", "", shown))
    assert len(words) == 1


def test_a_warning_is_one_line_for_programs_and_wrapped_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between words, its further lines indented."""
    rendering.talk("warning: " + "word " * 40)
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    rendering.talk("warning: " + "word " * 40)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: word")
    assert others
    assert all(each.startswith("  word") and len(each) <= 60 for each in others)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"), (0.4, "0s"), (59.4, "59s"), (59.6, "1m"), (100, "1m40s"), (599, "9m59s"), (601, "10m"),
        (3569, "59m"), (3599, "1h"), (5400, "1h30m"), (36_000, "10h"), (86_399, "1d"), (100_000, "1d4h"),
        (14 * 86_400, "14d"),
    ],
)  # fmt: skip
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    """Two units at most."""
    assert span(seconds) == words


def test_lengths_of_time_are_never_far_off() -> None:
    """What is said is what it was, give or take a twentieth: 90 s are not two minutes."""
    units = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
    for seconds in [*range(20, 200_000, 7), *range(200_000, 5_000_000, 997)]:
        said = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(\w)", span(seconds)))
        assert abs(said - seconds) <= seconds / 20, span(seconds)


def test_times_in_words() -> None:
    """Ago and in; and how long a run took, with its unit."""
    assert rendering.in_words(NOW - 5 * MINUTE, NOW) == "5m ago"
    assert rendering.in_words(NOW + MINUTE / 2, NOW) == "in 30s"
    lasted = [rendering.lasting(each) for each in (None, 0.0001, 0.0123, 0.9999, 1.234, 45.67, 99.99, 250)]
    assert lasted == ["-", "<1 ms", "12 ms", "1.00 s", "1.23 s", "45.7 s", "1m40s", "4m10s"]


def test_one_is_not_plural() -> None:
    """One row, one job; none and two have the plural, and thousands are set apart."""
    assert [rendering.count(number, "row") for number in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]
