"""B4, counted where it matters: at the far side. A service keeps count of what reaches it, over restarts, kills, two
leaders in turn, 429s, clock steps and many collectors; no window of the rate may see more calls than the rate."""

from __future__ import annotations

import contextlib
import http.server
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from geckosched import Budget, CollectionScheduler, RateLimited, RunContext, SchedulerState, collector
from geckosched.core import SECOND
from geckosched.testing import FakeClock
from tests.conftest import NewScheduler
from tests.test_scheduler import settle, until

SECONDS = 60


class FarSide:
    """A service that notes when each call reached it, and answers as the test draws."""

    def __init__(self, clock: FakeClock, seed: int = 0) -> None:
        self.arrived: list[int] = []  # the clock's monotonic time: what the far side's own watch shows
        self.refuses = 0.0
        self._clock = clock
        self._draw = random.Random(seed)
        self._lock = threading.Lock()

    def call(self) -> None:
        with self._lock:
            self.arrived.append(self._clock.monotonic())
            refused = self._draw.random() < self.refuses
        if refused:
            raise RateLimited(self._draw.choice([1, 5, 70]))


def most(moments: list[float], window: float) -> int:
    """Return the most calls that any window saw: [t, t + window) for every call's t."""
    return max(sum(t <= other < t + window for other in moments) for t in moments)


def check(far_side: FarSide, budget: Budget) -> None:
    assert most([float(moment) for moment in far_side.arrived], SECONDS * SECOND) <= budget.calls


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def start(new_scheduler: NewScheduler, clock: FakeClock, far_side: FarSide, *budgets: Budget) -> CollectionScheduler:
    """Start a scheduler with two collectors for each budget, which call whenever they may."""

    def caller(name: str, budget: Budget) -> Any:
        @collector(name, every="20s", budget=budget, priority=len(name) % 3, timeout="1h")
        def collect(run: RunContext) -> None:
            for _ in range(3):
                with run.call():
                    far_side.call()

        return collect

    scheduler = new_scheduler(clock=clock, max_workers=8, error_recovery_delay="1s", max_recovery_delay="5s")
    for number in range(4):
        scheduler.register_collector(caller("caller" + "x" * number, budgets[number % len(budgets)]))
    scheduler.start()
    return scheduler


def go_on(scheduler: CollectionScheduler, clock: FakeClock, seconds: int) -> None:
    """Let time pass second by second, each with all that it brings: the far side's clock stands while calls are on
    their way, so that no arrival is put into the wrong second."""
    for _ in range(seconds):
        clock.advance(1)
        if scheduler.lead is not None:
            quiet(scheduler)


def quiet(scheduler: CollectionScheduler) -> None:
    """Wait until every run has ended or waits for a call: nothing is on its way."""
    assert scheduler.lead is not None
    ticker = scheduler.lead.ticker

    def rests() -> bool:
        settle(scheduler)
        services = list(ticker._calls._services.values())
        waiting = {entry[2] for service in services for entry in list(service.waiting)}
        held = any(None in service.ledger._places.values() for service in services)
        return not held and set(ticker._running) <= waiting

    until(rests, "calls at rest")


@pytest.mark.parametrize(("rate", "burst"), [("6/m", 6), ("10/m", 2), ("1/m", 1)])
def test_many_collectors_and_429s(new_scheduler: NewScheduler, clock: FakeClock, rate: str, burst: int) -> None:
    """Four collectors share one budget for half an hour, a tenth of their calls answered 429: never more than the rate,
    and the service is used all the same."""
    budget, far_side = Budget("api", rate, burst), FarSide(clock)
    scheduler = start(new_scheduler, clock, far_side, budget)
    quiet(scheduler)
    go_on(scheduler, clock, 600)
    undisturbed = len(far_side.arrived)
    far_side.refuses = 0.1
    go_on(scheduler, clock, 600)
    check(far_side, budget)
    assert undisturbed >= 9 * budget.calls
    assert len(far_side.arrived) > undisturbed


@pytest.mark.parametrize("seed", range(2))
def test_restarts_and_two_leaders_in_turn(new_scheduler: NewScheduler, clock: FakeClock, seed: int) -> None:
    """The ledger is the store's: whoever leads next, a standby or a new program, counts what the last one called."""
    budget, far_side, draw = Budget("api", "6/m", 6), FarSide(clock, seed), random.Random(seed)
    far_side.refuses = 0.03
    scheduler = start(new_scheduler, clock, far_side, budget)
    standby = start(new_scheduler, clock, far_side, budget)
    for _ in range(6):
        assert (scheduler.state, standby.state) == (SchedulerState.RUNNING, SchedulerState.STANDBY)
        quiet(scheduler)
        go_on(scheduler, clock, draw.choice([1, 5, 20, 59]))
        scheduler.stop()
        until(lambda: standby.state is SchedulerState.RUNNING, "the take-over")  # noqa: B023
        scheduler, standby = standby, scheduler
        if draw.random() < 0.5:
            clock.advance(draw.choice([1, 30]))
        standby.start()
    quiet(scheduler)
    go_on(scheduler, clock, 60)
    check(far_side, budget)
    assert len(far_side.arrived) > 3 * budget.calls


@pytest.mark.parametrize("seed", range(2))
def test_budgets_while_the_clock_is_set(new_scheduler: NewScheduler, clock: FakeClock, seed: int) -> None:
    """The far side's watch goes on while ours is set back and forward by seconds to days: never more than the rate, and
    no minute-long wait becomes one of hours."""
    budgets, draw = (Budget("a", "6/m", 6), Budget("b", "4/m", 1)), random.Random(seed)
    sides = {budget.name: FarSide(clock) for budget in budgets}
    scheduler = new_scheduler(clock=clock, max_workers=8)

    def caller(budget: Budget) -> Any:
        @collector(f"caller-{budget.name}", every="5s", budget=budget, timeout="1h")
        def collect(run: RunContext) -> None:
            with run.call():
                sides[budget.name].call()

        return collect

    for budget in budgets:
        scheduler.register_collector(caller(budget))
    with scheduler:
        quiet(scheduler)
        for _ in range(15):
            go_on(scheduler, clock, draw.choice([3, 20, 45]))
            clock.step(draw.choice([-1, 1]) * draw.choice([2, 30, 3600, 43_200, 200_000]))
            clock.advance(1)
            quiet(scheduler)
        counts = {name: len(side.arrived) for name, side in sides.items()}
        go_on(scheduler, clock, 122)
    for budget in budgets:
        side = sides[budget.name]
        check(side, budget)
        assert len(side.arrived) >= counts[budget.name] + budget.calls, "it does not go on"
        assert max(later - sooner for sooner, later in pairwise(side.arrived)) <= 600 * SECOND


def test_small_steps_forward(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """A clock that gains 0.9 s every second, each step too small to be called one, opens no budget early."""
    budget, far_side = Budget("api", "6/m", 6), FarSide(clock)
    scheduler = start(new_scheduler, clock, far_side, budget)
    quiet(scheduler)
    for _ in range(120):
        clock.step(0.9)
        go_on(scheduler, clock, 1)
    check(far_side, budget)


def test_a_step_forward_and_a_restart(new_scheduler: NewScheduler, clock: FakeClock) -> None:
    """What the step did to the ledger is stored: a restart after it takes no place for free."""
    budget, far_side = Budget("api", "6/m", 6), FarSide(clock)
    scheduler = start(new_scheduler, clock, far_side, budget)
    quiet(scheduler)
    assert len(far_side.arrived) == budget.calls
    clock.step(12 * 3600)
    go_on(scheduler, clock, 2)
    scheduler.stop()
    scheduler = start(new_scheduler, clock, far_side, budget)
    quiet(scheduler)
    go_on(scheduler, clock, 30)
    check(far_side, budget)


# -- a real far side ---------------------------------------------------------------------------------------------------

CHILD = """
import sys, urllib.error, urllib.request
from geckosched import Budget, CollectionScheduler, RateLimited, SchedulerConfig, collector

API = Budget("api", "8/s", 8)

def caller(name):
    @collector(name, every="50ms", budget=API)
    def collect(run):
        for _ in range(3):
            try:
                with run.call():
                    try:
                        urllib.request.urlopen(sys.argv[2], timeout=5).read()
                    except urllib.error.HTTPError as error:
                        if error.code == 429:
                            raise RateLimited(1) from None
                        raise
            except RateLimited:
                pass
    return collect

config = SchedulerConfig(database=sys.argv[1], max_workers=8, error_recovery_delay=0.01, max_recovery_delay=0.05)
scheduler = CollectionScheduler(config)
for number in range(4):
    scheduler.register_collector(caller(f"caller-{number}"))
scheduler.start()
print(scheduler.state, flush=True)
for line in sys.stdin:
    pass
"""


class Counter(http.server.ThreadingHTTPServer):
    """A service on the loopback that notes each request's arrival, and answers every 25th with 429."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.arrived: list[float] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, name="far-side", daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Counter

    def do_GET(self) -> None:
        self.server.arrived.append(time.monotonic())
        self.send_response(429 if len(self.server.arrived) % 25 == 0 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def counter() -> Iterator[Counter]:
    made = Counter()
    yield made
    made.shutdown()
    made.server_close()


def test_processes_killed_one_after_the_other(counter: Counter, store_path: Path) -> None:
    """Two processes lead in turn, each killed (SIGKILL) amid its calls and replaced: by its own watch the service, over
    HTTP, never sees more than the rate in any window."""
    draw, processes = random.Random(4), []

    def add() -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store_path), counter.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in ("running", "standby")

    try:
        add()
        add()
        for _ in range(4):
            count = len(counter.arrived)
            until(lambda: len(counter.arrived) >= count + draw.choice([1, 4, 9, 20]), "calls")  # noqa: B023
            first = processes.pop(0)
            first.send_signal(signal.SIGKILL)
            first.communicate()
            add()
        count = len(counter.arrived)
        until(lambda: len(counter.arrived) >= count + 10, "calls")
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()
    assert len(counter.arrived) > 30
    assert most(counter.arrived, 1.0) <= 8
