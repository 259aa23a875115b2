"""Intervals, grids and the timetable: what is refused, where slots lie, and what comes up when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as dt_time
from functools import cache
from itertools import pairwise
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
import schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from geckosched.core import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    WEEK,
    ConfigError,
    Grid,
    Timetable,
    TimetableJob,
    find_timezone,
    format_duration,
    from_datetime,
    parse_at,
    parse_duration,
    parse_every,
    to_datetime,
)

ZONES = ("Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "UTC")
LONGEST = 3660 * DAY

QUICK = settings(derandomize=True, max_examples=100, deadline=None)
THOROUGH = settings(QUICK, max_examples=300)


def every(n: Any = 1) -> schedule.Job:
    """Begin a schedule job on a scheduler of its own, so that nothing global changes."""
    return schedule.Scheduler().every(n)


def utc(*parts: int) -> int:
    return from_datetime(datetime(*parts, tzinfo=UTC))  # type: ignore[arg-type,misc]


# -- Durations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("45s", 45 * SECOND),
        ("30m", 30 * MINUTE),
        ("1h", HOUR),
        ("1d", DAY),
        ("1w", WEEK),
        ("1h30m", 90 * MINUTE),
        (" 1H30M ", 90 * MINUTE),
        (45, 45 * SECOND),
        (0.5, SECOND // 2),
        (timedelta(minutes=5), 5 * MINUTE),
        (timedelta(days=3660), LONGEST),
    ],
)
def test_durations(value: object, found: int) -> None:
    """A duration is text with units, seconds, or a timedelta."""
    assert parse_duration(value) == found


INVALID = [
    *(0, -1, 0.0, -0.5, 0.0001, "0s", "-5m", "-0s", timedelta(0), timedelta(seconds=-1)),
    *(float("nan"), float("inf"), float("-inf"), 1e308, pytest.param(10**400, id="a number of 400 digits")),
    *("", " ", "5", "5.0", "1.5h", "1e3s", "banana", "10x", "s", "h1", "1h-5m", "1h 30m", "1h,30m", "1h5"),
    pytest.param("9" * 5000 + "s", id="a text of 5,000 digits"),
    *("nan", "inf", "3661d", timedelta.max, True, False, None, [], (), {}, b"5m", object(), 1 + 1j),
]


@pytest.mark.parametrize("value", INVALID)
def test_invalid_durations_are_refused(value: object) -> None:
    """T5: zero, negative, nonsense, no unit, not finite, too long: a ConfigError that says where."""
    with pytest.raises(ConfigError, match=r"^every: found "):
        parse_duration(value, "every")
    with pytest.raises(ConfigError, match=r"^every: found "):
        parse_every(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0s", "found '0s', allowed are durations from 1ms to ten years (3660d)"),
        ("9999d", "found '9999d', allowed are durations from 1ms to ten years (3660d)"),
        (-1, "found -1, allowed are durations from 1ms to ten years (3660d)"),
        ("5", "found '5', a duration needs a unit, such as \"30s\""),
        ("soon", "found 'soon', allowed are durations such as \"45s\" or \"1h30m\" (units us, ms, s, m, h, d, w)"),
        (True, "found True, allowed are durations such as \"45s\" or \"1h30m\" (units us, ms, s, m, h, d, w)"),
    ],
)
def test_a_refused_duration_says_what_is_wrong_with_it(value: object, said: str) -> None:
    """Out of range, without a unit or no duration at all: what is allowed is said of that."""
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "--for")
    assert str(caught.value) == f"--for: {said}"


@QUICK
@given(st.text("0123456789smhdw.-+e ", max_size=12) | st.text(max_size=8) | st.floats() | st.integers())
def test_a_duration_is_read_or_refused(value: object) -> None:
    """T5: whatever is given, the answer is a duration of one millisecond to ten years, or a ConfigError."""
    try:
        found = parse_duration(value)
    except ConfigError:
        return
    assert 1000 <= found <= LONGEST


def test_zero_only_where_it_is_allowed() -> None:
    """A limit may be zero where that has a meaning; an interval never."""
    assert parse_duration(0, zero=True) == parse_duration("0s", zero=True) == 0
    with pytest.raises(ConfigError):
        parse_duration(-1, zero=True)


@QUICK
@given(st.integers(1, LONGEST // SECOND))
def test_what_is_written_can_be_read(seconds: int) -> None:
    """`format_duration` writes what `parse_duration` reads as the same duration."""
    assert parse_duration(format_duration(seconds * SECOND)) == seconds * SECOND


@QUICK
@given(st.floats(0.001, 10_000))
def test_what_is_written_can_be_read_below_a_second(seconds: float) -> None:
    """Python durations may have fractions of a second; the store keeps `every` as text and reads it back."""
    found = parse_duration(seconds)
    assert parse_duration(format_duration(found)) == found


def test_durations_are_written_short() -> None:
    """What `status` shows is what one would have written."""
    assert [format_duration(n) for n in (45 * SECOND, 90 * MINUTE, DAY, WEEK)] == ["45s", "1h30m", "1d", "1w"]


# -- Intervals, also as a schedule job ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "found"),
    [
        (every(10).minutes, (10 * MINUTE, None)),
        (every(45).seconds, (45 * SECOND, None)),
        (every().second, (SECOND, None)),
        (every().hour, (HOUR, None)),
        (every(2).days, (2 * DAY, None)),
        (every(2).weeks, (2 * WEEK, None)),
        (every().day.at("02:30"), (DAY, "02:30")),
        (every(3).days.at("23:59"), (3 * DAY, "23:59")),
        (every().monday.at("02:30"), (WEEK, "02:30")),
    ],
)
def test_unfinished_schedule_jobs(job: schedule.Job, found: tuple[int, str | None]) -> None:
    """An embedder may say `every` in schedule's words."""
    assert parse_every(job) == found


REFUSED: dict[str, Callable[[], Any]] = {
    "to": lambda: every(5).to(10).minutes,
    "until": lambda: every(5).minutes.until(timedelta(hours=1)),
    "do": lambda: every(5).minutes.do(print),
    "tag": lambda: every(5).minutes.tag("prices"),
    "another weekday": lambda: every().tuesday,
    "another weekday at a time": lambda: every().sunday.at("02:30"),
    "no unit": lambda: every(5),
    "zero": lambda: every(0).minutes,
    "negative": lambda: every(-5).minutes,
    "fraction": lambda: every(1.5).minutes,
    "bool": lambda: every(True).minutes,
    "text": lambda: every("5").minutes,
    "too long": lambda: every(10**9).weeks,
    "seconds of an hour": lambda: every().hour.at(":30"),
    "seconds of a minute": lambda: every().minute.at(":15"),
    "seconds of a day": lambda: every().day.at("02:30:15"),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_schedule_jobs_that_cannot_be_honoured(make: Callable[[], Any]) -> None:
    """T5: what cannot be honoured of a schedule job is refused, not dropped."""
    with pytest.raises(ConfigError, match=r"^every: found "):
        parse_every(make())


def test_a_time_zone_of_a_schedule_job_is_refused() -> None:
    """The scheduler has one time zone; a schedule job that brings another is refused."""
    job = every().day.at("02:30")
    job.at_time_zone = ZoneInfo("Europe/Berlin")  # what at(..., tz) sets when pytz is there
    with pytest.raises(ConfigError, match="time zone"):
        parse_every(job)


def test_monday_means_monday() -> None:
    """`every().monday` without a time is refused, or each of its slots is a Monday."""
    try:
        interval, at = parse_every(every().monday)
    except ConfigError:
        return
    for name in ("weather", "trades", "pools"):
        grid = Grid(name, interval, None if at is None else parse_at(at, interval))
        assert to_datetime(grid.after(utc(2026, 1, 1))).weekday() == 0


@pytest.mark.parametrize(("at", "found"), [("00:00", (0, 0)), ("02:30", (2, 30)), ("23:59", (23, 59))])
def test_at(at: str, found: tuple[int, int]) -> None:
    """`at` is a time of day, for whole days and weeks."""
    assert parse_at(at, DAY) == parse_at(at, 2 * WEEK) == found


NO_TIMES = ["", "24:00", "02:60", "2:3", "-1:30", "02:30:00", "0230", "02.30", "banana", "02:30\n", None, 150]


@pytest.mark.parametrize("at", NO_TIMES)
def test_invalid_times_of_day(at: Any) -> None:
    """T5: anything but "HH:MM" is refused."""
    with pytest.raises(ConfigError, match=r"^at: found "):
        parse_at(at, DAY)


@pytest.mark.parametrize("interval", [SECOND, HOUR, 12 * HOUR, 36 * HOUR, DAY + SECOND])
def test_a_time_of_day_needs_whole_days(interval: int) -> None:
    """T5: `at` beside an interval that is no whole number of days is refused."""
    with pytest.raises(ConfigError, match="whole days"):
        parse_at("02:30", interval)


@pytest.mark.parametrize("name", ["", "Europe", "Europe/Nowhere", "../etc/passwd", "Europe/Berlin\0", None, 5])
def test_invalid_zones(name: Any) -> None:
    """T5: an unknown time zone is refused in words."""
    with pytest.raises(ConfigError, match=r"^timezone: found "):
        find_timezone(name)


# -- Grids -------------------------------------------------------------------------------------------------------------


@cache
def days_of_change(zone: str) -> list[int]:
    """Return the days (since the epoch) from 1985 to 2040 on which a zone's offset changes."""
    days = range(15 * 365, 70 * 365)
    offsets = [to_datetime(day * DAY).astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, (before, after) in zip(days, pairwise(offsets), strict=False) if before != after]


@st.composite
def plain_grids(draw: st.DrawFn) -> Grid:
    return Grid(draw(st.text(max_size=8)), draw(st.integers(1000, 10 * DAY)))


@st.composite
def daily_grids(draw: st.DrawFn) -> tuple[Grid, int]:
    """Draw a grid with `at`, and a moment, often near a change of its zone's offset."""
    zone = draw(st.sampled_from(ZONES))
    notable = st.sampled_from([(0, 0), (2, 0), (2, 15), (2, 30), (3, 0), (23, 30)])
    at = draw(notable | st.tuples(st.integers(0, 23), st.integers(0, 59)))
    days = draw(st.just(1) | st.sampled_from([7, 14]) | st.integers(1, 40))
    near = days_of_change(zone)
    day = draw(st.sampled_from(near) | st.integers(5_000, 25_000) if near else st.integers(5_000, 25_000))
    moment = day * DAY + draw(st.integers(-2 * DAY, 3 * DAY))
    return Grid("job", days * DAY, at, ZoneInfo(zone)), moment


MOMENTS = st.integers(0, 25_000 * DAY)


def holds_at(grid: Grid, moment: int) -> None:
    k = grid.index(moment)
    assert grid.slot(k) <= moment < grid.slot(k + 1)
    assert (grid.before(moment), grid.after(moment)) == (grid.slot(k), grid.slot(k + 1))
    assert grid.before(grid.slot(k)) == grid.slot(k)
    assert grid.after(grid.slot(k) - 1) == grid.slot(k) or grid.slot(k - 1) == grid.slot(k)


@QUICK
@given(plain_grids(), MOMENTS)
def test_a_moment_lies_between_two_slots(grid: Grid, moment: int) -> None:
    """The last slot at or before a moment and the first after it are neighbours."""
    holds_at(grid, moment)


@THOROUGH
@given(daily_grids())
def test_a_moment_lies_between_two_local_slots(drawn: tuple[Grid, int]) -> None:
    """The same with `at`, in every zone, on the nights on which its clocks change too."""
    grid, moment = drawn
    holds_at(grid, moment)


@THOROUGH
@given(daily_grids())
def test_local_slots_are_at_their_time_of_day(drawn: tuple[Grid, int]) -> None:
    """A slot with `at` shows that time on its wall clock, or is the first instant after the gap that swallowed it."""
    grid, moment = drawn
    zone, at = cast(ZoneInfo, grid._zone), dt_time(*cast(tuple[int, int], grid._at))
    slot = grid.after(moment)
    shown, just_before = (to_datetime(m).astimezone(zone) for m in (slot, slot - 1))
    if shown.time() != at:
        days = (just_before.date(), just_before.date() + timedelta(days=1), shown.date())
        gap = just_before.replace(tzinfo=None), shown.replace(tzinfo=None)
        assert any(gap[0] < datetime.combine(day, at) < gap[1] for day in days)
    assert shown.fold == 0


@QUICK
@given(st.one_of(plain_grids().flatmap(lambda grid: st.tuples(st.just(grid), MOMENTS)), daily_grids()), st.data())
def test_counting_slots(drawn: tuple[Grid, int], data: st.DataObject) -> None:
    """`count` counts each slot in (after, until] once, and neighbouring spans add up."""
    grid, a = drawn
    b, c = (a + n for n in sorted(data.draw(st.tuples(*[st.integers(0, 12 * grid.every)] * 2))))
    middle = grid.index(a)
    slots = [grid.slot(k) for k in range(middle - 3, middle + 17)]
    assert grid.count(a, b) == sum(a < slot <= b for slot in slots)
    assert grid.count(a, b) + grid.count(b, c) == grid.count(a, c)
    assert grid.count(c, a) == 0


def test_the_phase_belongs_to_the_job() -> None:
    """The same job id has the same slots in every process, after every restart, and in later versions."""
    assert Grid("weather", HOUR).phase == 2_580_111_576
    assert Grid("geckoterminal-trades", MINUTE).phase == 42_075_630
    assert Grid("weather", HOUR).slot(1000) == Grid("weather", HOUR).slot(1000) == 2_580_111_576 + 1000 * HOUR
    assert Grid("\ud800", HOUR).phase < HOUR  # a lone surrogate is no reason to fail


def test_equal_intervals_spread() -> None:
    """A thousand jobs of one interval don't all come up at the same moment."""
    phases = [Grid(f"job-{n}", HOUR).phase for n in range(1000)]
    assert len(set(phases)) == 1000
    tenths = [sum(phase * 10 // HOUR == tenth for phase in phases) for tenth in range(10)]
    assert min(tenths) > 60
    assert max(tenths) < 140


@QUICK
@given(st.sampled_from(ZONES), st.integers(1, 8), st.integers(10_000, 25_000))
def test_weeks_count_from_monday(zone: str, weeks: int, day: int) -> None:
    """A job of whole weeks with `at` runs on Mondays, local time."""
    grid = Grid("job", weeks * WEEK, (12, 0), ZoneInfo(zone))
    assert to_datetime(grid.after(day * DAY)).astimezone(ZoneInfo(zone)).weekday() == 0


# -- T4: the two nights ------------------------------------------------------------------------------------------------

NIGHTS = [
    ("Europe/Berlin", "02:30", date(2026, 3, 29), utc(2026, 3, 29, 1, 0)),  # 02:00 -> 03:00
    ("Europe/Berlin", "02:00", date(2026, 3, 29), utc(2026, 3, 29, 1, 0)),
    ("Europe/Berlin", "03:00", date(2026, 3, 29), utc(2026, 3, 29, 1, 0)),
    ("Europe/Berlin", "01:59", date(2026, 3, 29), utc(2026, 3, 29, 0, 59)),
    ("Europe/Berlin", "02:30", date(2026, 10, 25), utc(2026, 10, 25, 0, 30)),  # 03:00 -> 02:00: the first of the two
    ("Europe/Berlin", "02:00", date(2026, 10, 25), utc(2026, 10, 25, 0, 0)),
    ("Europe/Berlin", "03:00", date(2026, 10, 25), utc(2026, 10, 25, 2, 0)),
    ("America/St_Johns", "02:30", date(2026, 3, 8), utc(2026, 3, 8, 5, 30)),
    ("Australia/Lord_Howe", "02:15", date(2026, 10, 4), utc(2026, 10, 3, 15, 30)),  # half an hour: 02:00 -> 02:30
    ("Australia/Lord_Howe", "01:45", date(2026, 4, 5), utc(2026, 4, 4, 14, 45)),  # 02:00 -> 01:30
    ("America/Havana", "00:30", date(2026, 3, 8), utc(2026, 3, 8, 5, 0)),  # 00:00 -> 01:00
]


@pytest.mark.parametrize(("zone", "at", "day", "moment"), NIGHTS)
def test_one_run_on_the_nights_on_which_clocks_change(zone: str, at: str, day: date, moment: int) -> None:
    """T4: at the first instant after the gap, and not twice in the fold."""
    grid = Grid("nightly", DAY, parse_at(at, DAY), ZoneInfo(zone))
    slots = [grid.slot(grid.index(moment) + n) for n in range(-3, 4)]
    assert [slot for slot in slots if to_datetime(slot).astimezone(ZoneInfo(zone)).date() == day] == [moment]
    assert grid.count(moment - 1, moment) == 1
    assert grid.count(moment, moment + 20 * HOUR) == 0


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("at", ["00:00", "01:45", "02:30", "23:30"])
def test_a_daily_job_runs_once_a_day(zone: str, at: str) -> None:
    """T4: over a year exactly 365 runs, each on its own day."""
    grid = Grid("nightly", DAY, parse_at(at, DAY), ZoneInfo(zone))
    start, end = (from_datetime(datetime(year, 1, 1, tzinfo=ZoneInfo(zone))) - 1 for year in (2026, 2027))
    assert grid.count(start, end) == 365
    slot, days = start, []
    while (slot := grid.after(slot)) <= end:
        days.append(to_datetime(slot).astimezone(ZoneInfo(zone)).date())
    assert len(days) == len(set(days)) == 365


def test_a_day_that_a_zone_left_out() -> None:
    """Samoa had no 30 December 2011: its run is at the first instant after, and the next one keeps its own time."""
    grid = Grid("nightly", DAY, (2, 30), ZoneInfo("Pacific/Apia"))
    first = grid.index(utc(2011, 12, 29, 20))
    slots = [to_datetime(grid.slot(first + n)).astimezone(ZoneInfo("Pacific/Apia")) for n in range(3)]
    assert [f"{slot:%d %H:%M}" for slot in slots] == ["29 02:30", "31 00:00", "31 02:30"]


def test_a_date_that_comes_back_is_no_second_run() -> None:
    """T4: where clocks go back over midnight (St. John's until 2011, at 00:01) a slot at midnight is served once."""
    grid = Grid("nightly", DAY, (0, 0), ZoneInfo("America/St_Johns"))
    first = utc(2010, 11, 7, 2, 30)  # 00:00 of the 7th; a minute later it is 23:01 of the 6th again
    indices = [grid.index(first + minutes * MINUTE) for minutes in range(-2, 120)]
    assert indices == sorted(indices)
    assert grid.after(first) == utc(2010, 11, 8, 3, 30)
    assert grid.after(first + 30 * MINUTE) == utc(2010, 11, 8, 3, 30)


# -- The timetable -----------------------------------------------------------------------------------------------------


class Board:
    """A timetable on a clock that the test moves, and what came up."""

    def __init__(self, now: int = utc(2026, 1, 1)) -> None:
        self.now = now
        self.came: list[tuple[str, int]] = []
        self.timetable = Timetable(lambda: self.now)

    def add(self, name: str, interval: int = MINUTE, due: int | None = None) -> TimetableJob:
        job = self.timetable.add(Grid(name, interval), lambda due: self.came.append((name, due)))
        if due is not None:
            self.timetable.set_due(job, due)
        return job

    def run(self) -> list[tuple[str, int]]:
        self.came.clear()
        self.timetable.run_pending()
        return list(self.came)


def test_it_speaks_schedule() -> None:
    """The Timetable is a schedule.Scheduler, and each of its jobs a schedule.Job that can be shown."""
    board = Board()
    job = board.add("weather", due=board.now)
    assert isinstance(board.timetable, schedule.Scheduler)
    assert isinstance(job, schedule.Job)
    assert board.timetable.get_jobs() == board.timetable.jobs == [job]
    assert str(job)
    assert repr(job)


@pytest.fixture(params=["UTC", "Asia/Kathmandu", "America/St_Johns"])
def _zone_of_the_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_zone_of_the_machine")
def test_next_run_is_utc() -> None:
    """`next_run` is naive as schedule has it, and UTC wherever the machine stands."""
    board = Board()
    job = board.add("weather", due=utc(2026, 7, 1, 12) + 5)
    board.add("later", due=utc(2026, 7, 2))
    assert job.next_run == board.timetable.next_run == datetime(2026, 7, 1, 12, 0, 0, 5)  # noqa: DTZ001
    board.now = utc(2026, 7, 1, 12) + 5
    assert board.run() == [("weather", board.now)]
    assert job.next_run == datetime(1970, 1, 1) + timedelta(microseconds=job.grid.after(board.now))  # noqa: DTZ001


def test_the_soonest_next_run_beside_a_job_without_one() -> None:
    """A job that has no next run (disabled, running) does not break `next_run` of the others."""
    board = Board()
    board.add("disabled")
    board.add("weather", due=utc(2026, 7, 1))
    assert board.timetable.next_due() == utc(2026, 7, 1)
    assert board.timetable.next_run == datetime(2026, 7, 1)  # noqa: DTZ001


def test_a_job_without_a_moment_never_comes_up() -> None:
    """A job is off the timetable until it gets a moment."""
    board = Board()
    board.add("weather")
    board.now += 10 * DAY
    assert board.run() == []
    assert board.timetable.next_due() is None


def test_a_late_job_comes_up_once_and_keeps_its_grid() -> None:
    """T1: however late a job is, it comes up once, and its next slot is where it always was."""
    board = Board()
    grid = Grid("weather", MINUTE)
    due = grid.after(board.now)
    job = board.add("weather", MINUTE, due)
    board.now = due + 1000 * MINUTE + 17 * SECOND
    assert board.run() == [("weather", due)]
    assert job.due == grid.slot(grid.index(due) + 1001)
    assert board.run() == []


def test_a_backlog_comes_up_in_order_and_whole() -> None:
    """All that is due comes up in one turn, earliest first, however much it is."""
    board = Board()
    start = board.now
    for n in range(5000):
        board.add(f"job-{n}", DAY, start + (n * 7919) % 5000)
    board.now = start + 2499
    came = board.run()
    assert [due - start for _, due in came] == list(range(2500))
    board.now = start + 4999
    assert [due - start for _, due in board.run()] == list(range(2500, 5000))


def test_due_comes_up_at_its_moment() -> None:
    """A job comes up at its moment, not a microsecond before."""
    board = Board()
    board.add("weather", due=board.now + 1)
    assert board.run() == []
    board.now += 1
    assert len(board.run()) == 1


def test_moving_a_job_leaves_nothing_behind() -> None:
    """A job that is moved a million times comes up once, and its old moments don't pile up."""
    board = Board()
    job = board.add("weather", DAY)
    for n in range(20_000):
        board.timetable.set_due(job, board.now + n % 977)
    board.timetable.set_due(job, board.now + 500)
    assert len(board.timetable._heap) < 100
    assert board.timetable.next_due() == board.now + 500
    board.now += 1000
    assert board.run() == [("weather", board.now - 500)]


def test_what_asks_for_now_again_waits_for_the_next_turn() -> None:
    """A job whose run plans it for this very moment comes up once a turn: the ticker hears its inbox in between."""
    board = Board()

    def again(due: int) -> None:
        board.came.append(("weather", due))
        assert len(board.came) < 10, "run_pending does not come back"
        board.timetable.set_due(job, board.now)

    job = board.timetable.add(Grid("weather", HOUR), again)
    board.timetable.set_due(job, board.now)
    assert len(board.run()) == 1
    assert len(board.run()) == 1


def test_a_clock_that_is_set_back_in_the_middle_of_a_turn() -> None:
    """T3: when the clock is set back between two jobs of one turn, each still comes up once."""
    board = Board()
    start = board.now

    def came(due: int) -> None:
        board.came.append(("a", due))
        assert len(board.came) < 10, "run_pending does not come back"

    for n in range(2):
        job = board.timetable.add(Grid(f"job-{n}", MINUTE), came)
        board.timetable.set_due(job, start)
    readings = iter([start])
    board.timetable.now = lambda: next(readings, start - HOUR)
    assert len(board.run()) == 2


def test_a_job_may_cancel_another_that_is_due() -> None:
    """What is taken off the timetable while a turn goes on does not come up in it."""
    board = Board()
    other = board.add("other", due=board.now + 1)
    first = board.timetable.add(Grid("first", HOUR), lambda _: board.timetable.cancel_job(other))
    board.timetable.set_due(first, board.now)
    board.now += 10
    assert board.run() == []
    assert board.timetable.jobs == [first]


class TimetableMachine(RuleBasedStateMachine):
    """Whatever is added, moved and cancelled: what is due comes up once, in order, and goes to its next slot."""

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.due: dict[str, int | None] = {}
        self.slots: dict[str, TimetableJob] = {}

    @rule(target=jobs, interval=st.sampled_from([SECOND, MINUTE, HOUR]))
    def add(self, interval: int) -> str:
        name = f"job-{len(self.due)}"
        self.due[name] = None
        self.slots[name] = self.board.add(name, interval)
        return name

    @rule(job=jobs, ahead=st.none() | st.integers(-MINUTE, 10 * MINUTE))
    def move(self, job: str, ahead: int | None) -> None:
        self.due[job] = None if ahead is None else self.board.now + ahead
        self.board.timetable.set_due(self.slots[job], self.due[job])

    @rule(job=consumes(jobs))
    def cancel(self, job: str) -> None:
        self.due[job] = None
        self.board.timetable.cancel_job(self.slots[job])
        assert self.slots[job] not in self.board.timetable.jobs

    @rule(seconds=st.integers(0, 5 * MINUTE))
    def run(self, seconds: int) -> None:
        self.board.now += seconds
        expected = {name: due for name, due in self.due.items() if due is not None and due <= self.board.now}
        came = self.board.run()
        assert dict(came) == expected
        assert len(came) == len(expected)
        assert [due for _, due in came] == sorted(expected.values())
        for name in expected:
            job = self.slots[name]
            self.due[name] = job.due
            assert job.due == job.grid.after(self.board.now)

    @invariant()
    def the_soonest_is_known(self) -> None:
        soonest = min((due for due in self.due.values() if due is not None), default=None)
        assert self.board.timetable.next_due() == soonest


TestTimetable = TimetableMachine.TestCase
TestTimetable.settings = settings(QUICK, max_examples=40, stateful_step_count=40)
