"""The README's examples: its configuration is taken, and its queries find what was collected."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from geckosched_geckoterminal.simulator import Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched.testing import FakeClock

if TYPE_CHECKING:
    from conftest import House

    Open = Callable[..., House]

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL)
(POOL, OTHER) = tomllib.loads(BLOCKS[0][1])["collectors"]["geckoterminal-watchlist"]["pools"]


def blocks(kind: str) -> list[str]:
    return [text for each, text in BLOCKS if each == kind]


@pytest.fixture
def collected(house: Open, clock: FakeClock) -> tuple[House, str]:
    """Return a house with some hours of a market's busiest pools in it, and the address of the pool to ask about."""
    market = SyntheticMarket(pools=9, births=600, born=clock.now() // 1_000_000)
    busy = [pool.address for pool in market.founders[:3]]
    with Simulator(market, clock, rate=0) as simulator:
        home = house(base_url=simulator.base_url, clock=clock, calls=1000, watchlist={"pools": busy})
        home.run("watchlist")
        for _ in range(14):
            for name in ("trades", "new-pools", "top-pools", "ohlcv"):
                home.run(name)
            home.advance(600)
        home.run("audit")
    return home, busy[0]


def test_its_queries_find_what_was_collected_and_its_candles_are_a_frame(
    collected: tuple[House, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, pool = collected
    empty = [text for text in blocks("sql") if not home.rows(text.replace(POOL, pool))]
    # the last asks for the last hour of the machine's clock, which is not the market's
    assert empty == blocks("sql")[-1:]
    shutil.copy(home.database, home.database.with_name("market.db"))
    monkeypatch.chdir(home.database.parent)
    names: dict[str, Any] = {}
    exec(blocks("python")[0].replace(POOL, pool), names)
    candles = names["candles"]
    assert list(candles.columns) == ["open", "high", "low", "close", "volume"]
    assert len(candles) >= 2
    assert candles.index[-1].minute == 0
    assert candles.index.is_monotonic_increasing


def test_each_table_of_its_configuration_is_taken(house: Open, tmp_path: Path) -> None:
    for text in blocks("toml"):
        tables = tomllib.loads(text).get("collectors", {})
        options = {name.removeprefix("geckoterminal-").replace("-", "_"): table for name, table in tables.items()}
        assert house(**options).scheduler.registry.plugins["geckoterminal"].ok
