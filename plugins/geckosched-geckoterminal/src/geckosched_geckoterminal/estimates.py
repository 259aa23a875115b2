"""What the collectors ask of the API before there is a history to tell: for `calls_per_run`, and so `geckosched check`.

Hours of simulated markets were counted. What the others make decides how much is left for the backfill.
"""

from __future__ import annotations

import math

from geckosched import Setup

from .client import BUDGET, Settings
from .pools import MOST_ADDRESSES
from .watch_csv import pool_list, read_file
from .watchlist import WatchlistOptions

__all__ = ["backfill_calls", "candle_calls", "exchanges", "pools_watched", "trade_calls"]

SPARE = 0.8
"""The part of the rate that all of the plugin's calls together may reach with the backfill's."""

TIMEFRAMES_HOURLY = 3 + 1 / 24
"""Calls an hour that a pool's candles take by default: three timeframes each hour, one each day."""

OTHER_CALLS = 120 + 12 + 1
"""Calls an hour of new pools, top pools and tokens."""


def pools_watched(setup: Setup) -> int:
    """Count the pools that the watchlist names; those of the auto rule as the most that it takes.

    A CSV file that can't be read counts nothing: the run will say what is wrong with it.
    """
    named: set[str] = set()
    found = 0
    for options in setup.options.values():
        if isinstance(options, WatchlistOptions):
            named.update(pool for pool in options.pools if isinstance(pool, str))
            found += options.auto_max if options.auto else 0
            named |= _listed(options, setup)
    return found + len(named)


def trade_calls(pools: int) -> float:
    """Return the calls an hour for the trades of so many pools, most of them quiet."""
    return min(2.2 * pools, 28 + 1.2 * pools)


def candle_calls(pools: int, pauses: list[float]) -> float:
    """Return the calls an hour for the candles of so many pools, each timeframe asked once in its pause of seconds."""
    return pools * sum(3600 / seconds for seconds in pauses)


def backfill_calls(setup: Setup) -> float:
    """Return the calls an hour that the others leave, as long as there is history to fetch."""
    pools = pools_watched(setup)
    watched = 30 * min(math.ceil(pools / MOST_ADDRESSES), 2)
    others = trade_calls(pools) + watched + OTHER_CALLS + TIMEFRAMES_HOURLY * pools
    return max(0.0, SPARE * 60 * BUDGET.calls - others) if pools else 0.0


def exchanges(setup: Setup) -> int:
    """Count the exchanges of the settings."""
    return len(Settings.read(setup.settings).dexes)


def _listed(options: WatchlistOptions, setup: Setup) -> set[str]:
    if options.csv is None:
        return set()
    try:
        return set(pool_list(read_file(options.csv), Settings.read(setup.settings).network).pools)
    except (OSError, ValueError):
        return set()
