"""`geckoterminal-audit`: how much of each pool's volume the stored trades account for, hour by hour.

A candle's volume is the sum of its trades', so an hour whose trades were all collected has a share of 1. An hour is
judged once its candles can't change any more and none of them is missing, and once trades from after it are stored or
it is more than a day old: `geckoterminal-ohlcv` and `geckoterminal-backfill` keep in their states up to when candles
were read, and what is missing. Trades and candles that come late change an hour for two days, in which it is judged
anew; an hour that could not be judged by then is looked at until it can.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from geckosched import Batch, Collector, RunContext

from .backfill import Backfill, oldest_stored
from .client import Settings
from .ohlcv import Ohlcv
from .rows import FINAL_LAG, TIMEFRAMES
from .stretches import DAY, REACH
from .watchlist import stored, watched

__all__ = ["Audit", "Known", "hours_to_judge", "judgeable"]

HOUR = 3600

AGAIN_FOR = 2 * DAY
"""Seconds for which an hour is judged again: a trade shows for a day, and then the next poll may be late."""

FINEST_FIRST = tuple(name for name, each in TIMEFRAMES.items() if HOUR % each.step == 0)
"""Timeframes that make up an hour."""


class Audit(Collector):
    """Compare the stored trades of each watched pool with its candles. Makes no call.

    A pool is a target and a transaction. `gt_completeness` has for an hour both volumes in USD, `share`, which is the
    trades' part of the candles' (NULL where these have no volume), how many `trades` there are, and the `timeframe` of
    the candles. With `min_volume_usd` above 0 small trades are not collected, and shares stay below 1.
    """

    name = "geckoterminal-audit"
    every = "1h"

    def collect(self, run: RunContext) -> Iterator[Batch]:
        """Yield the hours of one pool at a time."""
        network = Settings.read(run.settings).network
        pools = watched(run, network)
        candles = _known_candles(run, network)
        known = run.state.get("pools", {})
        run.state["pools"] = {pool: known[pool] for pool in pools if pool in known}
        for pool in pools:
            with run.target(pool):
                yield _completeness(run, network, pool, candles.get(pool, {}))


@dataclass(slots=True)
class Known:
    """From when on and up to when all candles of a timeframe are stored, but for the `missing` (from, before)."""

    oldest: int | None = None
    read_at: float | None = None
    missing: list[tuple[int, int]] = field(default_factory=list)

    def covers(self, hour: int) -> bool:
        """Tell whether all candles of an hour are stored and final."""
        if self.oldest is None or self.read_at is None:
            return False
        if not self.oldest <= hour <= self.read_at - HOUR - FINAL_LAG:
            return False
        return not any(begins < hour + HOUR and hour < before for begins, before in self.missing)


def judgeable(hour: int, now: float, newest_trade: float, candles: Mapping[str, Known]) -> str | None:
    """Return the timeframe by which to judge an hour, None if it can't be judged yet.

    A trade that is at least a minute younger shows that the pool was polled after the hour's last trades appeared;
    where there is none, a day must have passed, after which the API shows none of them any more.
    """
    if newest_trade < hour + HOUR + FINAL_LAG and now < hour + HOUR + DAY:
        return None
    return next((name for name in FINEST_FIRST if name in candles and candles[name].covers(hour)), None)


def hours_to_judge(now: float, first: int, until: int | None, left: Collection[int]) -> list[int]:
    """Return the whole hours to look at, oldest first, each by its beginning.

    These are the ones since `first` that are new (from `until` on, `None`: all), of the last two days, or were `left`.
    """
    ended = int(now) // HOUR * HOUR
    begins = first if until is None else max(first, min(until, ended - AGAIN_FOR))
    reachable = max(first, ended - REACH)  # the candles of what is older won't come any more
    return sorted({*range(begins, ended, HOUR), *(hour for hour in left if reachable <= hour < ended)})


def _completeness(run: RunContext, network: str, pool: str, candles: Mapping[str, Known]) -> Batch:
    """Return a pool's hours as they are now, and remember those that could not be judged."""
    now = run.now().timestamp()
    first, newest = _traded(run, network, pool)
    rows: list[dict[str, Any]] = []
    if first is not None:
        known = run.state.setdefault("pools", {}).get(pool, {})
        hours = hours_to_judge(now, first, known.get("until"), known.get("left", ()))
        judged = {hour: name for hour in hours if (name := judgeable(hour, now, newest, candles))}
        rows = list(_rows(run, network, pool, judged))
        left = [hour for hour in hours if hour not in judged]
        run.state["pools"][pool] = {"until": int(now) // HOUR * HOUR, "left": left}
    return Batch("gt_completeness", rows, pk=("network", "pool", "hour"), stamp=("run_id",))


def _traded(run: RunContext, network: str, pool: str) -> tuple[int | None, float]:
    """Return the first whole hour after the oldest trade stored since the pool is watched, and the newest trade's time.

    The first poll showed up to a day of trades from before that.
    """
    found = stored(run, TRADED, network, pool)
    if not found or found[0]["oldest"] is None:
        return None, 0.0
    oldest, newest = (datetime.fromisoformat(found[0][name]).timestamp() for name in ("oldest", "newest"))
    return -(-int(oldest) // HOUR) * HOUR, newest


def _rows(run: RunContext, network: str, pool: str, judged: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of hours, judged by these timeframes."""
    for begins, ends, name in _spans(judged):
        trades = _trades_by_hour(run, network, pool, begins, ends)
        volumes = _volume_by_hour(run, network, pool, name, begins, ends)
        for hour in range(begins, ends, HOUR):
            count, traded = trades.get(_text(hour), (0, 0.0))
            volume = volumes.get(hour, 0.0)
            yield {
                "network": network,
                "pool": pool,
                "hour": _text(hour),
                "timeframe": name,
                "trades": count,
                "trade_volume": traded,
                "candle_volume": volume,
                "share": traded / volume if volume else None,
                "run_id": run.id,
            }


def _spans(judged: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """Join hours that follow each other and have the same timeframe: begin, end, timeframe."""
    span: tuple[int, int, str] | None = None
    for hour, name in sorted(judged.items()):
        if span is not None and span[1:] == (hour, name):
            span = span[0], hour + HOUR, name
            continue
        if span is not None:
            yield span
        span = hour, hour + HOUR, name
    if span is not None:
        yield span


TRADED = """
SELECT
  (SELECT min(block_timestamp) FROM gt_trades WHERE network = ?1 AND pool = ?2
   AND block_timestamp >= strftime('%Y-%m-%dT%H:%M:%SZ', added_at, '-1 day')) AS oldest,
  (SELECT max(block_timestamp) FROM gt_trades WHERE network = ?1 AND pool = ?2) AS newest
FROM gt_watchlist
WHERE network = ?1 AND address = ?2
"""

TRADES_BY_HOUR = """
SELECT substr(block_timestamp, 1, 13) || ':00:00Z' AS hour,
       count(*) AS trades, total(CAST(volume_in_usd AS REAL)) AS volume
FROM gt_trades
WHERE network = ? AND pool = ? AND block_timestamp >= ? AND block_timestamp < ?
GROUP BY hour
"""

VOLUME_BY_HOUR = """
SELECT ts - ts % 3600 AS hour, total(volume) AS volume
FROM gt_ohlcv
WHERE network = ? AND pool = ? AND timeframe = ? AND ts >= ? AND ts < ?
GROUP BY hour
"""


def _trades_by_hour(
    run: RunContext, network: str, pool: str, begins: int, ends: int
) -> dict[str, tuple[int, float]]:
    found = stored(run, TRADES_BY_HOUR, network, pool, _text(begins), _text(ends))
    return {row["hour"]: (row["trades"], row["volume"]) for row in found}


def _volume_by_hour(run: RunContext, network: str, pool: str, name: str, begins: int, ends: int) -> dict[int, float]:
    found = stored(run, VOLUME_BY_HOUR, network, pool, name, begins, ends)
    return {row["hour"]: row["volume"] for row in found}


def _known_candles(run: RunContext, network: str) -> dict[str, dict[str, Known]]:
    """Return by pool and timeframe which candles are stored, as the jobs that collect them have it in their states."""
    known: dict[str, dict[str, Known]] = {}
    for row in oldest_stored(run, network, FINEST_FIRST):
        known.setdefault(row["pool"], {})[row["timeframe"]] = Known(row["oldest"])
    sql = "SELECT state FROM geckosched_jobs WHERE collector IN (?, ?) AND retired_at IS NULL"
    jobs = run.query(sql, (Ohlcv.name, Backfill.name))
    for pool, name, pair in _pairs(json.loads(job["state"]) for job in jobs):
        each = known.get(pool, {}).get(name)
        if each is None:
            continue
        each.read_at = max(each.read_at or 0.0, pair.get("read_at") or 0.0) or None
        gaps = [*pair.get("holes", ()), *pair.get("gaps", ())]
        each.missing += [(gap["after"] + TIMEFRAMES[name].step, gap["before"]) for gap in gaps]
    return known


def _pairs(states: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for state in states:
        for pool, names in state.get("pairs", {}).items():
            for name, pair in names.items():
                yield pool, name, pair


def _text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
