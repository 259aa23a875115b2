"""T4 end to end: a job with `at`, a store and the nights on which clocks change, with and without a restart in them.

What is expected is written out by hand. test_intervals.py has the grid alone, test_clock_steps.py jobs of all kinds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from geckosched import CollectionScheduler, Reason, RunContext, collector
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_clock_steps import quiet, runs_of


class Night(NamedTuple):
    """When `at` comes that night and the next, in UTC. `again`: when local clocks show it a second time."""

    zone: str
    at: str
    slot: str
    again: str | None
    tomorrow: str


NIGHTS = [
    # skipped: 02:00 -> 03:00, in Lord Howe 02:00 -> 02:30
    Night("Europe/Berlin", "02:30", "2026-03-29T01:00Z", None, "2026-03-30T00:30Z"),
    Night("America/New_York", "02:30", "2026-03-08T07:00Z", None, "2026-03-09T06:30Z"),
    Night("Australia/Lord_Howe", "02:15", "2026-10-03T15:30Z", None, "2026-10-04T15:15Z"),
    # twice: 03:00 -> 02:00, 02:00 -> 01:00, 02:00 -> 01:30
    Night("Europe/Berlin", "02:30", "2026-10-25T00:30Z", "2026-10-25T01:30Z", "2026-10-26T01:30Z"),
    Night("America/New_York", "01:30", "2026-11-01T05:30Z", "2026-11-01T06:30Z", "2026-11-02T06:30Z"),
    Night("Australia/Lord_Howe", "01:45", "2026-04-04T14:45Z", "2026-04-04T15:15Z", "2026-04-05T15:15Z"),
]
TEN_MINUTES = timedelta(minutes=10)


@collector("nightly")
def nightly(run: RunContext) -> None:
    """Does nothing."""


class Watched:
    """A scheduler with the job, taken from moment to moment."""

    def __init__(self, new_scheduler: NewScheduler, night: Night) -> None:
        self.slot, self.tomorrow = moment(night.slot), moment(night.tomorrow)
        self.again = self.slot + timedelta(hours=1) if night.again is None else moment(night.again)
        self._new, self._night = new_scheduler, night
        self._clock = FakeClock(self.slot - timedelta(hours=9))
        self.start()

    def start(self) -> None:
        self.scheduler: CollectionScheduler = self._new(clock=self._clock, timezone=self._night.zone)
        self.scheduler.register_collector(nightly, "1d", at=self._night.at)
        self.scheduler.start()
        quiet(self.scheduler)

    def go_to(self, when: datetime) -> None:
        now = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self._clock.now())
        self._clock.advance((when - now).total_seconds())
        if self.scheduler.lead is not None:
            quiet(self.scheduler)

    @property
    def next_run_at(self) -> datetime | None:
        """What `status` says."""
        return self.scheduler.get_collector_status("nightly").next_run_at

    @property
    def runs(self) -> list[tuple[Reason, datetime | None, int]]:
        return [(run.reason, run.scheduled_for, run.missed) for run in runs_of(self.scheduler, "nightly")]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


nights = pytest.mark.parametrize("night", NIGHTS, ids=lambda night: f"{night.zone} {night.slot[5:10]}")


@nights
@pytest.mark.parametrize("restart", [False, True])
def test_once_in_the_night_also_across_a_restart_in_it(
    new_scheduler: NewScheduler, night: Night, restart: bool
) -> None:
    """The job runs at its slot, the first instant after the gap or the first of the two hours; not before it, and not
    when the hour comes again, though the process was started anew in between. `status` says the next run rightly."""
    watched = Watched(new_scheduler, night)
    assert watched.next_run_at == watched.slot
    watched.go_to(watched.slot - timedelta(seconds=1))
    assert watched.runs == []
    watched.go_to(watched.slot)
    once = (Reason.SCHEDULED, watched.slot, 0)
    assert watched.runs == [once]
    if restart:
        watched.go_to(watched.slot + TEN_MINUTES)
        watched.scheduler.stop(5)
        watched.start()
    assert watched.next_run_at == watched.tomorrow
    for when in (watched.again, watched.again + timedelta(hours=2), watched.tomorrow - timedelta(seconds=1)):
        watched.go_to(when)
        assert watched.runs == [once]
    watched.go_to(watched.tomorrow)
    assert watched.runs == [once, (Reason.SCHEDULED, watched.tomorrow, 0)]


@nights
def test_a_night_that_began_without_a_scheduler(new_scheduler: NewScheduler, night: Night) -> None:
    """Down at the slot and up ten minutes later, in the twice told hour before it comes again: one run, which makes up
    for that slot, and none when the hour comes again."""
    watched = Watched(new_scheduler, night)
    watched.go_to(watched.slot - TEN_MINUTES)
    watched.scheduler.stop(5)
    watched.go_to(watched.slot + TEN_MINUTES)
    watched.start()
    once = (Reason.CATCHUP, watched.slot, 0)
    assert watched.runs == [once]
    assert watched.next_run_at == watched.tomorrow
    watched.go_to(watched.again)
    assert watched.runs == [once]
    watched.go_to(watched.tomorrow)
    assert watched.runs == [once, (Reason.SCHEDULED, watched.tomorrow, 0)]
