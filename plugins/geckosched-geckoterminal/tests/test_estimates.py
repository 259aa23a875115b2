"""What `geckosched check` is told before there is a history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from geckosched_geckoterminal.estimates import backfill_calls, exchanges, pools_watched
from geckosched_geckoterminal.watchlist import WatchlistOptions

from geckosched import Setup

if TYPE_CHECKING:
    from conftest import House

    Open = Callable[..., House]

HEADER = "tokenSymbol,tokenName,chain,dex,poolAddress,networkAddress\n"
ADDRESS = "Cnd9CKtG6meUJqKu9NkSeriAgzPSbQpZV5qwq5B44Spz"


def setup(**options: object) -> Setup:
    return Setup({}, {"watch": WatchlistOptions(**options), "other": object()})  # type: ignore[arg-type]


def test_pools_of_all_sources_are_counted_once(tmp_path: Path) -> None:
    csv = tmp_path / "pools.csv"
    csv.write_text(HEADER + f"UNE,Unemployed,solana,pumpswap,{ADDRESS},x\n")
    assert pools_watched(setup(pools=["A", "B", "A"])) == 2
    assert pools_watched(setup(pools=["A", ADDRESS], csv=csv)) == 2
    assert pools_watched(setup(pools=["A"], auto=True, auto_max=7)) == 8
    assert pools_watched(setup(pools=["A"], csv=tmp_path / "none.csv")) == 1
    assert pools_watched(Setup({}, {})) == 0


def test_the_backfill_takes_what_is_left_of_80_percent() -> None:
    few, many = (backfill_calls(setup(pools=[f"P{k}" for k in range(count)])) for count in (2, 27))
    assert 0 < many < few < 480
    assert backfill_calls(setup(pools=[f"P{k}" for k in range(500)])) == 0
    assert backfill_calls(setup(pools=[])) == 0


def test_exchanges_are_those_of_the_settings() -> None:
    assert exchanges(Setup({}, {})) == 2
    assert exchanges(Setup({"dexes": ["orca"]}, {})) == 1


def test_a_forecast_knows_every_collectors_calls(house: Open) -> None:
    """27 pools ask 80 % of the rate, the backfill's part included, and more pools leave it less."""
    home = house(watchlist={"pools": [f"P{k}" for k in range(27)]})
    forecast = home.scheduler.get_forecast()
    (budget,) = forecast.budgets
    assert budget.asked == pytest.approx(480, abs=1)
    assert budget.unknown == ()
    calls = {job.job_id.removeprefix("geckoterminal-"): job.calls_per_hour for job in forecast.jobs}
    assert {name for name, count in calls.items() if not count} == {"watchlist", "audit"}
    assert calls["new-pools"] == 120
    assert calls["ohlcv"] == pytest.approx(27 * (3 + 1 / 24))
