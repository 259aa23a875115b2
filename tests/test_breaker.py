"""The two tables of the design that are functions: what a run's end does to the breaker, and who is admitted."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from geckosched.core import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Admission,
    Breaker,
    BreakerState,
    NextRun,
    Outcome,
    RateLimited,
    Reason,
    RunStopped,
    SkipRun,
    admit,
    conclude,
    next_run,
    outcome_of,
    to_text,
)

QUICK = settings(derandomize=True, max_examples=100, deadline=None)
NOW = 1_795_448_734_123_456

GOOD = (Outcome.SUCCEEDED, Outcome.PARTIAL)
BAD = (Outcome.FAILED, Outcome.TIMED_OUT)
NEUTRAL = (Outcome.SKIPPED, Outcome.INTERRUPTED)


def as_row(breaker: Breaker) -> dict[str, Any]:
    """Return what the store keeps of a breaker: columns of geckosched_jobs."""
    return {
        "breaker": breaker.state.value,
        "consecutive_errors": breaker.consecutive_errors,
        "consecutive_rate_limits": breaker.consecutive_rate_limits,
        "opened_at": None if breaker.opened_at is None else to_text(breaker.opened_at),
        "retry_at": None if breaker.retry_at is None else to_text(breaker.retry_at),
    }


def fields(breaker: Breaker) -> dict[str, Any]:
    names = ("state", "consecutive_errors", "consecutive_rate_limits", "opened_at", "retry_at")
    return {name: getattr(breaker, name) for name in names}


def restored(breaker: Breaker, now: int, threshold: int | None = None) -> Breaker:
    """Return the breaker of the next process."""
    fresh = Breaker(threshold or breaker.threshold, breaker.delay, breaker.longest)
    fresh.restore(as_row(breaker), now)
    return fresh


def heard(*outcomes: Outcome, threshold: int = 3, now: int = NOW, retry_after: int = SECOND) -> Breaker:
    """Return a breaker that heard these ends, each from a run that was let through."""
    breaker = Breaker(threshold, MINUTE, HOUR)
    for outcome in outcomes:
        breaker.probe()
        conclude(outcome, breaker, now, retry_after=retry_after)
    return breaker


# -- B1: the first table, as a state machine ---------------------------------------------------------------------------


class End(NamedTuple):
    """A run's end that the breaker heard, and what it was asked to wait for."""

    outcome: Outcome
    at: int
    retry_after: int


class Model:
    """The first table told from history: the ends since the last success, nothing else."""

    def __init__(self, threshold: int, delay: int, longest: int) -> None:
        self.threshold, self.delay, self.longest = threshold, delay, longest
        self.ends: list[End] = []
        self.counts_as: int | None = None  # the retry, where the clock was set back since

    def hear(self, end: End) -> None:
        self.ends = [] if end.outcome in GOOD else [*self.ends, end]
        self.counts_as = None

    @property
    def errors(self) -> int:
        return sum(end.outcome in BAD for end in self.ends)

    @property
    def limits(self) -> int:
        """How many rate limits there were in a row, up to now."""
        count = 0
        for end in reversed(self.ends):
            if end.outcome is not Outcome.RATE_LIMITED:
                break
            count += 1
        return count

    @property
    def is_open(self) -> bool:
        return self.errors >= self.threshold

    def doubled(self, n: int) -> int:
        delay = self.delay
        for _ in range(n - 1):
            delay = min(2 * delay, self.longest)
        return min(delay, self.longest)

    @property
    def delays(self) -> list[int]:
        """How long after the last end the job is to be left in peace: the longest of these."""
        last, delays = self.ends[-1], []
        if last.outcome in BAD or self.is_open:
            delays.append(self.doubled(self.errors))
        if last.outcome is Outcome.RATE_LIMITED:
            delays += [last.retry_after, self.doubled(self.limits)]
        return delays

    @property
    def retry(self) -> int | None:
        if self.counts_as is not None or not self.ends or not self.delays:
            return self.counts_as
        return self.ends[-1].at + max(self.delays)

    def set_back(self, now: int) -> None:
        if self.retry is not None and self.retry - now > max(self.delays):
            self.counts_as = now

    def next_run(self, slot: int) -> NextRun:
        if self.is_open and self.retry is not None:
            return NextRun(self.retry, Reason.PROBE, True)
        if self.limits and self.retry is not None:
            return NextRun(self.retry, Reason.RETRY, True)
        if self.retry is not None and self.retry < slot:
            return NextRun(self.retry, Reason.RETRY, False)
        return NextRun(slot, Reason.SCHEDULED, False)


class BreakerMachine(RuleBasedStateMachine):
    """B1, B2: errors open it, a probe's success closes it, an error doubles the delay, a neutral end leaves it."""

    @initialize(threshold=st.integers(1, 5), delay=st.integers(1, 5 * MINUTE), longest=st.integers(1, 2 * HOUR))
    def begin(self, threshold: int, delay: int, longest: int) -> None:
        self.now = NOW
        self.breaker = Breaker(threshold, delay, longest)
        self.model = Model(threshold, delay, longest)

    @rule(seconds=st.integers(0, 3 * HOUR))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(outcome=st.sampled_from(Outcome) | st.sampled_from(BAD), retry_after=st.integers(SECOND, 5 * HOUR))
    def a_run_ends(self, outcome: Outcome, retry_after: int) -> None:
        self.breaker.probe()
        assert self.breaker.state is (BreakerState.HALF_OPEN if self.model.is_open else BreakerState.CLOSED)
        conclude(outcome, self.breaker, self.now, retry_after=retry_after)
        self.model.hear(End(outcome, self.now, retry_after))

    @rule(outcome=st.sampled_from(Outcome))
    def a_run_of_a_disabled_job_ends(self, outcome: Outcome) -> None:
        before = fields(self.breaker)
        conclude(outcome, self.breaker, self.now, heard=False, retry_after=DAY)
        assert fields(self.breaker) == before

    @rule()
    def an_operator_resets(self) -> None:
        self.breaker.reset()
        self.model.ends, self.model.counts_as = [], None

    @rule(downtime=st.integers(0, DAY))
    def the_process_restarts(self, downtime: int) -> None:
        self.now += downtime
        before = fields(self.breaker)
        self.breaker = restored(self.breaker, self.now)
        assert fields(self.breaker) == before

    @precondition(lambda self: not self.model.limits)  # those have tests of their own, below
    @rule(step=st.integers(1, HOUR) | st.integers(1, 400 * DAY), restart=st.booleans())
    def the_clock_is_set_back(self, step: int, restart: bool) -> None:
        self.now -= step
        if restart:
            self.breaker = restored(self.breaker, self.now)
        else:
            self.breaker.mend(self.now)
        self.model.set_back(self.now)

    @invariant()
    def both_agree(self) -> None:
        assert self.breaker.state is (BreakerState.OPEN if self.model.is_open else BreakerState.CLOSED)
        assert self.breaker.consecutive_errors == self.model.errors
        assert self.breaker.consecutive_rate_limits == self.model.limits
        assert (self.breaker.opened_at is not None) == self.model.is_open
        for slot in (self.now + 1, self.now + 5 * MINUTE, self.now + 30 * DAY):
            assert next_run(self.breaker, slot) == self.model.next_run(slot)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(QUICK, max_examples=150, stateful_step_count=40)


# -- The first table, row by row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", GOOD)
def test_success(outcome: Outcome) -> None:
    """succeeded, partial | success | next slot."""
    breaker = heard(Outcome.FAILED, Outcome.RATE_LIMITED, Outcome.FAILED, outcome)
    assert fields(breaker) == fields(heard())
    assert next_run(breaker, NOW + DAY) == NextRun(NOW + DAY, Reason.SCHEDULED, False)


@pytest.mark.parametrize("outcome", BAD)
def test_error(outcome: Outcome) -> None:
    """failed, timed_out | error | retry: a daily job that failed does not wait for tomorrow."""
    breaker = heard(outcome)
    assert breaker.state is BreakerState.CLOSED
    assert next_run(breaker, NOW + DAY) == NextRun(NOW + MINUTE, Reason.RETRY, False)
    assert next_run(breaker, NOW + 10 * SECOND) == NextRun(NOW + 10 * SECOND, Reason.SCHEDULED, False)
    assert next_run(heard(Outcome.FAILED, outcome), NOW + DAY).due == NOW + 2 * MINUTE


def test_rate_limited() -> None:
    """rate_limited | neither | after the larger of retry_after and the doubling; only the doubling is capped."""
    limits = [Outcome.RATE_LIMITED] * 12
    delays = [next_run(heard(*limits[:n]), NOW + 1).due - NOW for n in range(1, 10)]
    assert delays == [MINUTE * m for m in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
    assert next_run(heard(Outcome.RATE_LIMITED, retry_after=10 * HOUR), NOW + 1).due == NOW + 10 * HOUR
    breaker = heard(*limits, threshold=1)
    assert (breaker.state, breaker.consecutive_errors) == (BreakerState.CLOSED, 0)
    assert next_run(breaker, NOW + 1).held


def test_rate_limits_leave_the_errors_in_a_row() -> None:
    """A rate limit is neither success nor error: errors before and after it are in a row."""
    breaker = heard(Outcome.FAILED, Outcome.FAILED, Outcome.RATE_LIMITED, Outcome.FAILED)
    assert (breaker.state, breaker.consecutive_errors) == (BreakerState.OPEN, 3)


@pytest.mark.parametrize("between", [*BAD, *NEUTRAL, *GOOD])
def test_rate_limits_in_a_row(between: Outcome) -> None:
    """The delay doubles for the n-th rate limit in a row; any other end ends the row."""
    breaker = heard(Outcome.RATE_LIMITED, Outcome.RATE_LIMITED, between, Outcome.RATE_LIMITED)
    assert next_run(breaker, NOW + 1).due == NOW + MINUTE


@pytest.mark.parametrize("outcome", NEUTRAL)
def test_neutral(outcome: Outcome) -> None:
    """skipped, interrupted | neither | next slot."""
    assert next_run(heard(outcome), NOW + DAY) == NextRun(NOW + DAY, Reason.SCHEDULED, False)
    assert heard(Outcome.FAILED, Outcome.FAILED, outcome).consecutive_errors == 2
    assert next_run(heard(Outcome.FAILED, outcome), NOW + DAY) == NextRun(NOW + DAY, Reason.SCHEDULED, False)


def test_skipped_with_again_after() -> None:
    """skipped | neither | `again_after`, if that is sooner than the next slot."""
    breaker = Breaker(3, MINUTE, HOUR)
    conclude(Outcome.SKIPPED, breaker, NOW, again_after=2 * MINUTE)
    assert next_run(breaker, NOW + DAY) == NextRun(NOW + 2 * MINUTE, Reason.RETRY, False)
    assert next_run(breaker, NOW + MINUTE) == NextRun(NOW + MINUTE, Reason.SCHEDULED, False)
    breaker.mend(NOW - DAY)
    assert next_run(breaker, NOW).due == NOW - DAY, "the clock was set back: it counts as now"


def test_again_after_does_not_pass_an_open_breaker() -> None:
    """A probe that is skipped leaves the breaker open, whatever it asks for."""
    breaker = heard(Outcome.FAILED, threshold=1)
    conclude(Outcome.SKIPPED, breaker, NOW, again_after=SECOND)
    assert next_run(breaker, NOW + DAY) == NextRun(NOW + MINUTE, Reason.PROBE, True)


# -- The breaker, in words ---------------------------------------------------------------------------------------------


def test_errors_open_it_at_the_threshold() -> None:
    """From `max_consecutive_errors` on it is open, and `retry_at` is the next run even when slots come sooner."""
    assert heard(*[Outcome.FAILED] * 2).state is BreakerState.CLOSED
    breaker = heard(*[Outcome.FAILED] * 3)
    assert (breaker.state, breaker.opened_at) == (BreakerState.OPEN, NOW)
    assert next_run(breaker, NOW + SECOND) == NextRun(NOW + 4 * MINUTE, Reason.PROBE, True)
    assert next_run(breaker, NOW + DAY) == NextRun(NOW + 4 * MINUTE, Reason.PROBE, True)


def test_a_probe() -> None:
    """Half-open: success closes the breaker, an error doubles the delay, a neutral end leaves it."""
    opened = [Outcome.FAILED] * 3
    assert heard(*opened, Outcome.SUCCEEDED).state is BreakerState.CLOSED
    for outcome, minutes in [(Outcome.FAILED, 8), (Outcome.SKIPPED, 4), (Outcome.INTERRUPTED, 4)]:
        breaker = heard(*opened, outcome)
        assert breaker.state is BreakerState.OPEN
        assert next_run(breaker, NOW + 1) == NextRun(NOW + minutes * MINUTE, Reason.PROBE, True)


def test_a_probe_that_is_rate_limited() -> None:
    """A rate limit leaves the breaker open, and the job in peace for as long as either asks."""
    breaker = heard(*[Outcome.FAILED] * 3, Outcome.RATE_LIMITED)
    assert breaker.state is BreakerState.OPEN
    assert next_run(breaker, NOW + 1) == NextRun(NOW + 4 * MINUTE, Reason.PROBE, True)
    breaker = heard(*[Outcome.FAILED] * 3, Outcome.RATE_LIMITED, retry_after=HOUR)
    assert next_run(breaker, NOW + 1) == NextRun(NOW + HOUR, Reason.PROBE, True)


def test_when_it_opened_stays() -> None:
    """`opened_at` is the moment of the error that opened it, whatever its probes do since."""
    breaker = heard(*[Outcome.FAILED] * 3)
    breaker.probe()
    conclude(Outcome.FAILED, breaker, NOW + HOUR)
    assert breaker.opened_at == NOW


@QUICK
@given(st.integers(1, 200), st.integers(1, DAY), st.integers(1, DAY))
def test_retry_delays_double_up_to_the_longest(n: int, delay: int, longest: int) -> None:
    """After the k-th error in a row the job runs again after `delay * 2^(k-1)`, at most the longest."""
    breaker = Breaker(1, delay, longest)
    for _ in range(n):
        breaker.error(NOW)
    assert breaker.retry_at == NOW + min(delay * 2 ** (n - 1), longest)


def test_a_new_threshold_leaves_an_open_breaker_open() -> None:
    """B2: a configuration that allows more errors does not close what is open: only the success of a probe does."""
    breaker = restored(heard(*[Outcome.FAILED] * 3), NOW, threshold=10)
    assert breaker.state is BreakerState.OPEN
    breaker.probe()
    conclude(Outcome.FAILED, breaker, NOW)
    assert breaker.state is BreakerState.OPEN
    assert next_run(breaker, NOW + 1) == NextRun(NOW + 8 * MINUTE, Reason.PROBE, True)


def test_a_lower_threshold_opens_it() -> None:
    """The threshold of today counts: whoever allows fewer errors finds the breaker open after the restart."""
    breaker = restored(heard(*[Outcome.FAILED] * 3, threshold=5), NOW, threshold=2)
    assert breaker.state is BreakerState.OPEN
    assert next_run(breaker, NOW + 1).held


def test_a_crash_during_the_probe() -> None:
    """B2: a process that dies half-open leaves the breaker open, and its probe is due when it was."""
    breaker = heard(*[Outcome.FAILED] * 3)
    breaker.probe()
    again = restored(breaker, NOW + HOUR)
    assert again.state is BreakerState.OPEN
    assert next_run(again, NOW + DAY) == NextRun(NOW + 4 * MINUTE, Reason.PROBE, True)


@pytest.mark.parametrize("outcomes", [[Outcome.FAILED], [Outcome.FAILED] * 3], ids=["closed", "open"])
def test_a_retry_after_the_clock_was_set_back(outcomes: list[Outcome]) -> None:
    """T3: a stored time further ahead than its own delay counts as now; one that may be true stays."""
    breaker = heard(*outcomes)
    early = NOW - 12 * HOUR
    assert next_run(restored(breaker, early), NOW).due == early
    assert next_run(restored(breaker, NOW), NOW + DAY) == next_run(breaker, NOW + DAY)
    before = fields(breaker)
    breaker.mend(NOW)
    assert fields(breaker) == before
    breaker.mend(early)
    assert next_run(breaker, NOW).due == early


@pytest.mark.parametrize("retry_after", [SECOND, 10 * HOUR], ids=["doubling", "asked for"])
def test_a_rate_limit_after_the_clock_was_set_back(retry_after: int) -> None:
    """T3: the pause after a rate limit, too, counts as now once it lies further ahead than it ever was."""
    breaker = heard(Outcome.RATE_LIMITED, retry_after=retry_after)
    breaker.mend(NOW)
    assert next_run(breaker, NOW + DAY).due == NOW + max(MINUTE, retry_after)
    breaker.mend(NOW - 12 * HOUR)
    assert next_run(breaker, NOW + DAY).due == NOW - 12 * HOUR


# -- The second table: admission ---------------------------------------------------------------------------------------

IDLE = {"running": False, "enabled": True, "held": False, "free": True}

ADMISSION = [
    # row                                          what is different            a slot             a trigger
    ("idle", {}, Admission.RUN, Admission.RUN),
    ("already running", {"running": True}, Admission.MISSED, Admission.AFTERWARDS),
    ("breaker open", {"held": True}, Admission.NEVER, Admission.RUN),
    ("disabled", {"enabled": False}, Admission.NEVER, Admission.RUN),
    ("no worker free", {"free": False}, Admission.WAIT, Admission.WAIT),
    ("a budget closed or the store not writable", {"free": False}, Admission.WAIT, Admission.WAIT),
]


@pytest.mark.parametrize(("row", "different", "slot", "trigger"), ADMISSION, ids=[row[0] for row in ADMISSION])
def test_admission(row: str, different: dict[str, bool], slot: Admission, trigger: Admission) -> None:
    """The admission table of the design, row by row."""
    assert admit(triggered=False, **{**IDLE, **different}) is slot, row
    assert admit(triggered=True, **{**IDLE, **different}) is trigger, row


@pytest.mark.parametrize(("running", "enabled", "held", "free"), list(product([False, True], repeat=4)))
def test_admission_where_rows_meet(running: bool, enabled: bool, held: bool, free: bool) -> None:
    """Where several rows hold, the stricter one wins; a trigger is never lost."""
    given_ = {"running": running, "enabled": enabled, "held": held, "free": free}
    slot, trigger = admit(triggered=False, **given_), admit(triggered=True, **given_)
    assert trigger is (Admission.AFTERWARDS if running else Admission.RUN if free else Admission.WAIT)
    if running or held or not enabled:
        assert slot in (Admission.MISSED, Admission.NEVER)
        assert running or slot is Admission.NEVER
    else:
        assert slot is trigger


# -- What a run's end is called ----------------------------------------------------------------------------------------

LIMIT, SHUTDOWN = "time limit", "shutdown"

ENDS: list[tuple[str, BaseException | None, int, int, str | None, Outcome]] = [
    ("returned, no target at all", None, 0, 0, None, Outcome.SUCCEEDED),
    ("returned, no target failed", None, 0, 5, None, Outcome.SUCCEEDED),
    ("returned, some targets failed", None, 2, 3, None, Outcome.PARTIAL),
    ("raised", ValueError("no"), 0, 5, None, Outcome.FAILED),
    ("raised SystemExit", SystemExit(0), 0, 0, None, Outcome.FAILED),
    ("raised KeyboardInterrupt", KeyboardInterrupt(), 0, 0, None, Outcome.FAILED),
    ("raised after a target failed", ValueError("no"), 1, 5, None, Outcome.FAILED),
    ("every target failed", None, 5, 0, None, Outcome.FAILED),
    ("RunStopped at its time limit", RunStopped(), 0, 1, LIMIT, Outcome.TIMED_OUT),
    ("RunStopped at its time limit, a target failed", RunStopped(), 1, 0, LIMIT, Outcome.TIMED_OUT),
    ("RunStopped at the stop", RunStopped(), 0, 1, SHUTDOWN, Outcome.INTERRUPTED),
    ("RunStopped unasked", RunStopped(), 0, 1, None, Outcome.FAILED),
    ("RateLimited", RateLimited(30), 0, 3, None, Outcome.RATE_LIMITED),
    ("RateLimited, every target failed before", RateLimited(30), 3, 0, None, Outcome.RATE_LIMITED),
    ("SkipRun", SkipRun("nothing new"), 0, 0, None, Outcome.SKIPPED),
    ("SkipRun, a target failed before", SkipRun("nothing new"), 1, 0, None, Outcome.SKIPPED),
    ("asked to stop and returned in time", None, 0, 3, LIMIT, Outcome.SUCCEEDED),
    ("asked to stop and returned in time, some targets failed", None, 1, 3, SHUTDOWN, Outcome.PARTIAL),
]


@pytest.mark.parametrize(("what", "error", "failed", "good", "stop", "outcome"), ENDS, ids=[end[0] for end in ENDS])
def test_outcomes(
    what: str, error: BaseException | None, failed: int, good: int, stop: str | None, outcome: Outcome
) -> None:
    """The `when` column of the first table, row by row."""
    assert outcome_of(error, failed, good, stop) is outcome, what
