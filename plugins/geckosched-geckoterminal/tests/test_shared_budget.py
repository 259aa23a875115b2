"""All collectors share one budget: what one of them is told holds for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest
from geckosched_geckoterminal.client import BUDGET

from geckosched import Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

PATHS = {
    "top-pools": "/dexes/pumpswap/pools",
    "new-pools": "/new_pools",
    "pools": "/pools/multi/A",
    "ohlcv": "/pools/A/ohlcv/day",
}


@pytest.mark.parametrize("other", PATHS)
def test_a_429_of_one_leaves_the_others_waiting(house: Open, api: FakeApi, clock: FakeClock, other: str) -> None:
    """The API says `retry-after: 0` and is not believed: a minute divided by the rate passes before anybody calls."""
    moments: list[int] = []

    def answer(_query: Mapping[str, str]) -> Answer:
        moments.append(clock.now())
        return 404, {"errors": [{"title": "Not Found"}]}

    api.answers[PATHS[other]] = answer
    api.answers["/pools/A/trades"] = (429, {"status": {"error_code": 429}})
    home = house(settings={"dexes": ["pumpswap"]}, watchlist={"pools": ["A"]}, ohlcv={"timeframes": ["1d"]})
    home.run("watchlist")
    assert home.run("trades").outcome == Outcome.RATE_LIMITED
    refused = clock.now()
    run = threading.Thread(target=home.run, args=(other,))
    run.start()
    while run.is_alive():
        run.join(0.05)
        clock.advance(1)
    assert len(moments) == 1
    assert moments[0] - refused >= 6_000_000


PRIORITIES = {
    "watchlist": 50,
    "trades": 40,
    "new-pools": 30,
    "pools": 20,
    "top-pools": 10,
    "ohlcv": 10,
    "catalog": 0,
    "tokens": 0,
    "audit": 0,
    "trending": 0,
    "backfill": -10,
}


def test_trades_go_before_candles_and_candles_before_the_backfill(house: Open) -> None:
    """Calls of one budget wait by priority; whoever makes any, makes them of this one."""
    known = {name: each.collector for name, each in house().scheduler.registry.collectors.items()}
    assert {name.removeprefix("geckoterminal-"): each.priority for name, each in known.items()} == PRIORITIES
    callers = {name for name, each in known.items() if each.budget == BUDGET}
    assert known.keys() - callers == {"geckoterminal-watchlist", "geckoterminal-audit"}
