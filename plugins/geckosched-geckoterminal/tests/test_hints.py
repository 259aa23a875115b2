"""Figures of pools, as `geckoterminal-pools` stores them, tell the rotation what came since the last poll."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from geckosched import Outcome
from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import Answer, FakeApi, House

    Open = Callable[..., House]

HOUR = 3600


def times(clock: FakeClock, *spans: tuple[float, float, int]) -> list[float]:
    """Return so many block times in each span of seconds before now, newest first."""
    now = clock.now() / 1e6
    found = [now - older + (older - newer) * (k + 0.5) / count for older, newer, count in spans for k in range(count)]
    return sorted(found, reverse=True)


def show(api: FakeApi, clock: FakeClock, blocks: list[float]) -> None:
    """Let the API show the newest 300 of a pool's trades, and count all of them in its figures."""
    now = clock.now() / 1e6

    def trade(block: float) -> dict[str, Any]:
        moment = f"{datetime.fromtimestamp(block, UTC):%Y-%m-%dT%H:%M:%SZ}"
        return {
            "id": f"solana_1_tx{block:.2f}_1_{int(block) + 3}",
            "type": "trade",
            "attributes": {"tx_hash": f"tx{block:.2f}", "block_timestamp": moment, "kind": "buy"},
        }

    def trades(_query: Mapping[str, str]) -> Answer:
        return 200, {"data": [trade(block) for block in blocks[:300]]}

    counts = {
        name: {"buys": sum(block > now - seconds for block in blocks), "sells": 0}
        for name, seconds in {"m5": 300, "m15": 900, "m30": 1800, "h1": HOUR}.items()
    }
    api.answers["/pools/A/trades"] = trades
    pool = {"id": "solana_A", "attributes": {"transactions": counts}}
    api.answers["/pools/multi/A"] = (200, {"data": [pool]})


@pytest.mark.parametrize("pause", [240, 780, 1700, 3000])
def test_a_burst_between_two_polls_is_lost_to_the_trade_where_figures_count_it(
    house: Open, api: FakeApi, clock: FakeClock, pause: int
) -> None:
    """500 trades in half a minute, of which the answer shows none: its 300 came after. Its rate says little of it."""
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    before = times(clock, (5 * HOUR, 0, 200))
    show(api, clock, before)
    home.run("trades")
    home.advance(pause)
    blocks = sorted(before + times(clock, (200, 170, 500), (150, 1, 310)), reverse=True)
    show(api, clock, blocks)
    home.run("pools")
    run = home.run("trades")
    assert run.rows == 300
    assert run.lost == pytest.approx(500 + 310 - 300, abs=6)


def test_what_was_lost_before_is_not_lost_again(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """The window that reaches back beyond the last poll counts the trades that were lost before that one, too."""
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    blocks = times(clock, (5 * HOUR, 0, 200))
    show(api, clock, blocks)
    home.run("trades")
    lost = []
    for _ in range(3):
        home.advance(240)
        blocks = sorted(blocks + times(clock, (200, 1, 700)), reverse=True)
        show(api, clock, blocks)
        home.run("pools")
        lost.append(home.run("trades").lost)
    assert lost == pytest.approx([400, 400, 400], abs=8)


def test_figures_from_before_the_last_poll_say_nothing(house: Open, api: FakeApi, clock: FakeClock) -> None:
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    show(api, clock, times(clock, (200, 1, 290)))
    home.run("pools")
    home.advance(30)
    home.run("trades")
    home.advance(30)
    assert home.run("trades").calls == 0


def test_a_loss_of_hours_is_not_taken_for_one_of_the_last_minutes(house: Open, api: FakeApi, clock: FakeClock) -> None:
    """After a pause of two hours the pool goes on as before: what it trades in every 200 seconds is asked for."""
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    blocks = times(clock, (300, 0, 1500))
    show(api, clock, blocks)
    home.run("trades")
    lost = []
    for pause in (2 * HOUR, 200, 200):
        home.advance(pause)
        blocks = sorted(blocks + times(clock, (pause - 0.5, 0.5, 5 * pause)), reverse=True)
        show(api, clock, blocks)
        home.run("pools")
        run = home.run("trades")
        lost.append((run.calls, run.lost))
    assert [calls for calls, _ in lost] == [1, 1, 1]
    assert [count for _, count in lost] == pytest.approx([5 * 2 * HOUR - 300, 700, 700], rel=0.15)


@pytest.mark.parametrize("buys", [-50, "12", "x", None, 0.5, 2**62, 10**30, float("inf")])
def test_figures_that_are_no_numbers_of_trades_say_nothing(
    house: Open, api: FakeApi, clock: FakeClock, buys: object
) -> None:
    home = house(watchlist={"pools": ["A"]})
    home.run("watchlist")
    blocks = times(clock, (300, 0, 300))
    show(api, clock, blocks)
    home.run("trades")
    for _ in range(2):
        home.advance(250)
        blocks = sorted(blocks + times(clock, (250, 0.5, 250)), reverse=True)
        show(api, clock, blocks)
        counts = {name: {"buys": buys, "sells": 0} for name in ("m5", "m15", "m30", "h1", "h6", "h24")}
        pool = {"id": "solana_A", "attributes": {"transactions": counts}}
        api.answers["/pools/multi/A"] = (200, {"data": [pool]})
        assert home.run("pools").outcome == Outcome.SUCCEEDED
        run = home.run("trades")
        assert (run.outcome, run.rows) == (Outcome.SUCCEEDED, 250)
