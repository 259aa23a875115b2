"""Budgets: what is refused, and that the far side never counts more than the rate, whatever happens."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from geckosched.core import DAY, HOUR, MINUTE, SECOND, Budget, ConfigError, Ledger, SchedulerConfig

QUICK = settings(derandomize=True, max_examples=150, deadline=None)
NOW = 1_795_448_734_123_456
RATES = ("1/m", "2/m", "7/m", "10/m", "30/m", "5/s", "100/h")

# -- Budget ------------------------------------------------------------------------------------------------------------


def test_a_budget() -> None:
    """Budget(name, rate="10/m", burst=5) is a frozen value."""
    budget = Budget("weather")
    assert (budget.rate, budget.burst) == ("10/m", 5)
    assert budget == Budget("weather", rate="10/m", burst=5)
    assert len({budget, Budget("weather"), Budget("weather", "30/m")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.rate = "100/m"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("rate", "calls", "window"),
    [("10/m", 10, MINUTE), ("1/s", 1, SECOND), ("1000/h", 1000, HOUR), ("5/d", 5, DAY)],
)
def test_rates(rate: str, calls: int, window: int) -> None:
    """A rate is calls per unit; its pause is the unit divided by the calls."""
    budget = Budget("weather", rate)
    assert (budget.calls, budget.window, budget.pause) == (calls, window, window // calls)


NO_RATES = ["", "banana", "0/m", "-1/m", "1.5/m", "nan/m", "10", "10/", "/m", "10/x", "10/min", "10 /m", "10/2m"]


@pytest.mark.parametrize("rate", [*NO_RATES, "10/m ", "9999999999/s", None, 10, 10.0, True, b"10/m"])
def test_invalid_rates_are_refused(rate: Any) -> None:
    """T5: a rate that is none is refused where it is written, naming the budget."""
    with pytest.raises(ConfigError, match=r"^budget weather rate: found "):
        Budget("weather", rate)


@pytest.mark.parametrize("burst", [0, -1, True, False, 1.5, "5", None, float("inf")])
def test_invalid_bursts_are_refused(burst: Any) -> None:
    """T5: a burst is a whole number from 1."""
    with pytest.raises(ConfigError, match=r"^budget weather burst: found "):
        Budget("weather", burst=burst)


@pytest.mark.parametrize("name", ["", None, 5, b"weather"])
def test_invalid_names_are_refused(name: Any) -> None:
    """T5: what shares a budget is its name, so it needs one."""
    with pytest.raises(ConfigError, match=r"name: found "):
        Budget(name)


@pytest.mark.parametrize("table", [{"rat": "1/m"}, {"rate": "often"}, {"burst": 0}, Budget("x"), "30/m"])
def test_invalid_overrides_are_refused(table: Any) -> None:
    """T5: what overrides a budget is a table of rate and burst, checked when the configuration is made."""
    with pytest.raises(ConfigError, match="x"):
        SchedulerConfig(budgets={"x": table})


# -- B4: the far side --------------------------------------------------------------------------------------------------


class FarSide:
    """Who counts: a call is received at some moment from when it was sent until its answer, nobody knows when."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.ended: dict[int, int] = {}  # call -> the last moment at which it may have been received

    def receive(self, now: int) -> int:
        self.sent.append(now)
        return len(self.sent) - 1

    def most_in(self, window: int, now: int) -> int:
        """Return how many calls may have been counted in one window, at worst."""
        spans = [(sent, self.ended.get(call, now)) for call, sent in enumerate(self.sent)]
        return max((sum(sent < x + window and x <= end for sent, end in spans) for _, x in spans), default=0)

    def check(self, budget: Budget, now: int) -> None:
        assert self.most_in(budget.window, now) <= budget.calls
        assert_paced(self.sent, budget)


def assert_paced(sent: Sequence[int], budget: Budget) -> None:
    """After `burst` calls each further one needs the rate's pause."""
    for first, begin in enumerate(sent):
        for more, end in enumerate(sent[first + budget.burst : first + 3 * budget.burst + 10], 1):
            assert end - begin >= more * budget.pause


class BudgetMachine(RuleBasedStateMachine):
    """B4: over latencies, 429s, restarts and a clock set back, no window sees more calls than the rate."""

    @initialize(rate=st.sampled_from(RATES), burst=st.integers(1, 12))
    def begin(self, rate: str, burst: int) -> None:
        self.budget = Budget("weather", rate, burst)
        self.ledger = Ledger(self.budget)
        self.far = FarSide()
        self.now = NOW  # the true time; the machine's clock is behind it by:
        self.behind = 0
        self.in_flight: dict[int, int] = {}  # place -> call
        self.save()

    @property
    def wall(self) -> int:
        return self.now - self.behind

    def save(self) -> None:
        self.stored = self.ledger.dump(), self.ledger.closed_until

    def take(self) -> None:
        place = self.ledger.take(self.wall)
        self.save()  # a place is committed before its call is sent
        self.in_flight[place] = self.far.receive(self.now)

    @rule(seconds=st.floats(0, 2), windows=st.booleans())
    def time_passes(self, seconds: float, windows: bool) -> None:
        self.now += round(seconds * (self.budget.window if windows else SECOND))

    @rule()
    def as_many_as_may_go(self) -> None:
        free = self.ledger.free(self.wall)
        for _ in range(free):
            assert self.ledger.next_free(self.wall) == self.wall
            self.take()
        assert self.ledger.next_free(self.wall) != self.wall
        assert self.ledger.free(self.wall) == 0

    @rule()
    def one_as_soon_as_it_may_go(self) -> None:
        soonest = self.ledger.next_free(self.wall)
        if soonest is None:
            assert len(self.in_flight) > 0, "waits for answers of which none is on the way"
            return
        assert soonest >= self.wall
        self.now += soonest - self.wall
        assert self.ledger.free(self.wall) >= 1
        self.take()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), kind=st.sampled_from(["answer", "429", "none"]), retry_after=st.integers(0, 10 * MINUTE))
    def a_call_ends(self, data: st.DataObject, kind: str, retry_after: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.far.ended[self.in_flight.pop(place)] = self.now
        refused = kind == "429"
        self.ledger.answered(place, self.wall, refused=refused, heard=kind != "none", retry_after=retry_after * refused)
        if refused:
            assert self.ledger.free(self.wall) == 0
            assert self.ledger.closed_until >= self.wall + max(retry_after, 1)
            soonest = self.ledger.next_free(self.wall)
            assert soonest is None or soonest >= self.ledger.closed_until
        if data.draw(st.booleans()):  # the answer is committed, or not yet
            self.save()

    @rule(downtime=st.integers(0, 3 * MINUTE), set_back=st.just(0) | st.integers(1, DAY))
    def the_process_restarts(self, downtime: int, set_back: int) -> None:
        self.now += downtime
        self.behind += set_back
        for call in self.in_flight.values():
            self.far.ended[call] = self.now  # sent before the kill; nobody will hear the answer
        self.in_flight.clear()
        self.ledger = Ledger(self.budget)
        self.ledger.load(*self.stored, self.wall)
        self.save()

    @rule(step=st.integers(1, DAY))
    def the_clock_is_set_back(self, step: int) -> None:
        self.behind += step
        self.ledger.mend(self.wall)

    def teardown(self) -> None:
        if hasattr(self, "far"):
            self.far.check(self.budget, self.now)


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(QUICK, stateful_step_count=60)


def simulate(
    budget: Budget, seed: int, hours: int, *, latency: tuple[float, float], restarts: int, refusals: float
) -> FarSide:
    """Let somebody who always has a call to make work for some hours; a 429 asks for nothing."""
    chance, far, ledger = random.Random(seed), FarSide(), Ledger(budget)
    now, end = NOW, NOW + hours * HOUR
    kills = sorted(chance.randrange(NOW, end) for _ in range(restarts))
    answers: dict[int, tuple[int, int]] = {}  # place -> (when its answer comes, call)
    stored = ledger.dump(), ledger.closed_until
    while now < end:
        moments = [when for when, _ in answers.values()]
        if (free := ledger.next_free(now)) is not None:
            moments.append(free)
        now = min([*moments, *kills[:1]])
        if kills and now == kills[0]:
            kills.pop(0)
            far.ended.update((call, now) for _, call in answers.values())
            answers.clear()
            ledger = Ledger(budget)
            ledger.load(*stored, now)
        for place in [place for place, (when, _) in answers.items() if when <= now]:
            far.ended[answers.pop(place)[1]] = now
            ledger.answered(place, now, refused=chance.random() < refusals)
        while ledger.next_free(now) == now:
            place = ledger.take(now)
            stored = ledger.dump(), ledger.closed_until
            answers[place] = now + round(chance.uniform(*latency) * SECOND), far.receive(now)
    return far


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rate", "burst"), [("10/m", 5), ("30/m", 1), ("7/m", 50)])
def test_an_hour_under_fire(rate: str, burst: int, seed: int) -> None:
    """B4: an hour of slow answers, 429s and twenty restarts shows the far side no more than the rate in any window."""
    budget = Budget("weather", rate, burst)
    far = simulate(budget, seed, 1, latency=(0, 90), restarts=20, refusals=0.1)
    assert len(far.sent) > 20
    far.check(budget, NOW + 2 * HOUR)


@pytest.mark.parametrize(("rate", "burst"), [("10/m", 5), ("30/m", 5), ("10/m", 1), ("7/m", 50), ("600/h", 20)])
def test_the_rate_gets_used(rate: str, burst: int) -> None:
    """Whoever always has a call to make gets at least nine tenths of the rate, and never more than the rate."""
    budget = Budget("weather", rate, burst)
    hours = 3 if budget.window == HOUR else 1
    far = simulate(budget, 1, hours, latency=(0.1, 0.3), restarts=0, refusals=0)
    assert 0.9 <= len(far.sent) / (budget.calls * hours * HOUR / budget.window) <= 1.02
    far.check(budget, NOW + DAY)


def test_a_place_is_held_until_a_minute_after_its_answer() -> None:
    """B4: the way is as long as it is: a call counts from before it is sent until a window after its answer."""
    ledger = Ledger(Budget("weather", "2/m", burst=2))
    first, second = ledger.take(NOW), ledger.take(NOW)
    assert ledger.next_free(NOW + HOUR) is None
    ledger.answered(first, NOW + HOUR)
    assert ledger.next_free(NOW + HOUR) == NOW + HOUR + MINUTE
    ledger.answered(second, NOW + HOUR + 5)
    assert ledger.free(NOW + HOUR + MINUTE - 1) == 0
    assert ledger.free(NOW + HOUR + MINUTE) == 1
    assert ledger.free(NOW + HOUR + MINUTE + 5) == 2


def test_a_burst_and_then_the_pause() -> None:
    """No more than `burst` calls follow each other without the rate's pause."""
    ledger = Ledger(Budget("weather", "10/m", burst=3))
    for _ in range(3):
        assert ledger.next_free(NOW) == NOW
        ledger.answered(ledger.take(NOW), NOW)
    for n in range(1, 8):
        assert ledger.next_free(NOW + (n - 1) * 6 * SECOND) == NOW + n * 6 * SECOND
        ledger.answered(ledger.take(NOW + n * 6 * SECOND), NOW + n * 6 * SECOND)


def test_a_call_that_nobody_heard_the_end_of_may_have_been_sent_until_the_restart() -> None:
    """B4: after a kill, calls on the way count from the restart on."""
    ledger, fresh = (Ledger(Budget("weather", "2/m", burst=2)) for _ in range(2))
    ledger.take(NOW)
    ledger.take(NOW)
    fresh.load(ledger.dump(), ledger.closed_until, NOW + 50 * SECOND)
    assert fresh.next_free(NOW + 50 * SECOND) == NOW + 110 * SECOND


def test_a_lower_rate_after_a_restart() -> None:
    """B4: the rate of today counts the calls of before."""
    ledger, fresh = Ledger(Budget("weather", "10/m", burst=10)), Ledger(Budget("weather", "4/m", burst=4))
    for n in range(10):
        ledger.answered(ledger.take(NOW + n), NOW + n)
    fresh.load(ledger.dump(), ledger.closed_until, NOW + SECOND)
    assert fresh.free(NOW + SECOND) == 0
    assert fresh.next_free(NOW + SECOND) == NOW + MINUTE + 6


# -- 429 ---------------------------------------------------------------------------------------------------------------


def refuse(ledger: Ledger, now: int, retry_after: int = 0) -> int:
    """Have a call refused; returns for how long the ledger closes."""
    ledger.answered(ledger.take(now), now, refused=True, retry_after=retry_after)
    return ledger.closed_until - now


@pytest.mark.parametrize(("rate", "first"), [("10/m", 6), ("30/m", 2), ("1/m", 60), ("600/h", 6)])
def test_a_429_closes_with_a_delay_that_doubles(rate: str, first: int) -> None:
    """The delay starts at 60 s divided by the rate, doubles up to 5 minutes, and is for everyone who shares it."""
    ledger, now = Ledger(Budget("weather", rate)), NOW
    for n in range(12):
        delay = refuse(ledger, now)
        assert delay == min(first * 2**n, 300) * SECOND
        assert ledger.free(now) == ledger.free(now + delay - 1) == 0
        now += delay


def test_the_larger_of_retry_after_and_the_delay() -> None:
    """Retry-After counts where it is longer than our own delay, which doubles all the same."""
    ledger = Ledger(Budget("weather", "10/m"))
    assert refuse(ledger, NOW, 10 * MINUTE) == 10 * MINUTE
    assert refuse(ledger, NOW + HOUR, SECOND) == 12 * SECOND
    assert refuse(ledger, NOW + 2 * HOUR) == 24 * SECOND


def test_a_second_429_closes_it_no_shorter() -> None:
    """A refusal that asks for less, of a call that was on the way, opens nothing."""
    ledger = Ledger(Budget("weather", "10/m"))
    place = ledger.take(NOW)
    refuse(ledger, NOW, HOUR)
    ledger.answered(place, NOW + SECOND, refused=True)
    assert ledger.closed_until == NOW + HOUR
    assert ledger.next_free(NOW + SECOND) == NOW + HOUR


def test_another_answer_resets_the_delay() -> None:
    """The first answer that is no 429 sets the delay back; no answer at all says nothing."""
    ledger = Ledger(Budget("weather", "10/m"))
    refuse(ledger, NOW)
    refuse(ledger, NOW)
    ledger.answered(ledger.take(NOW + HOUR), NOW + HOUR, heard=False)
    assert refuse(ledger, NOW + HOUR) == 24 * SECOND
    ledger.answered(ledger.take(NOW + 2 * HOUR), NOW + 2 * HOUR)
    assert refuse(ledger, NOW + 2 * HOUR) == 6 * SECOND


def test_a_429_survives_a_restart() -> None:
    """B2: what is closed stays closed, and the delay goes on doubling."""
    ledger, fresh = (Ledger(Budget("weather", "10/m")) for _ in range(2))
    refuse(ledger, NOW)
    refuse(ledger, NOW, HOUR)
    fresh.load(ledger.dump(), ledger.closed_until, NOW + SECOND)
    assert fresh.free(NOW + HOUR - 1) == 0
    assert fresh.next_free(NOW + SECOND) == NOW + HOUR
    assert refuse(fresh, NOW + 2 * HOUR) == 24 * SECOND


# -- The clock is set back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_places_after_the_clock_was_set_back(restart: bool) -> None:
    """T3, B4: nothing is held longer than a window from now, and nothing is free sooner than it was."""
    budget = Budget("weather", "10/m", burst=10)
    ledger, early = Ledger(budget), NOW - 12 * HOUR
    for _ in range(10):
        ledger.answered(ledger.take(NOW), NOW)
    if restart:
        stored, ledger = (ledger.dump(), ledger.closed_until), Ledger(budget)
        ledger.load(*stored, early)
    else:
        ledger.mend(early)
    assert ledger.next_free(early) == early + MINUTE
    assert ledger.free(early + MINUTE) == 10


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("retry_after", [0, 10 * MINUTE])
def test_a_429_after_the_clock_was_set_back(retry_after: int, restart: bool) -> None:
    """T3: a budget that a 429 closed is closed for no longer than it was going to be."""
    budget = Budget("weather", "10/m")
    ledger, early = Ledger(budget), NOW - 12 * HOUR
    delay = refuse(ledger, NOW, retry_after)
    if restart:
        stored, ledger = (ledger.dump(), ledger.closed_until), Ledger(budget)
        ledger.load(*stored, early)
    else:
        ledger.mend(early)
    soonest = ledger.next_free(early)
    assert soonest is not None
    assert soonest <= early + max(delay, MINUTE)
