"""What the figures of pools tell the rotation: `geckoterminal-pools` stores how many trades each window counts.

A burst shows in the five minutes up to a snapshot before a window of 300 overflows. And a window that reaches back
beyond a pool's last poll counts what it has had since: less what is stored of that window, and less what is known to
be lost of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from geckosched import RunContext

from .rotation import TradeRotation
from .watchlist import stored

__all__ = ["take_hints"]

FRESH = timedelta(minutes=10)
"""How old a pool's figures may be to say anything about now."""

SECONDS = {"m5": 300, "m15": 900, "m30": 1800, "h1": 3600}
"""The windows that are looked at."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """Trades of one pool in each window up to `at`, in epoch seconds."""

    pool: str
    at: float
    trades: Mapping[str, int]

    def covering(self, moment: float) -> str | None:
        """Return the shortest window that reaches back to a moment."""
        return next((name for name in self.trades if self.at - SECONDS[name] <= moment <= self.at), None)


def take_hints(run: RunContext, network: str, rotation: TradeRotation) -> None:
    """Tell `rotation` what the newest snapshot of each watched pool counts, where that is newer than its last poll."""
    for figures in _figures(run, network):
        polled_at = rotation.polled_at(figures.pool)
        if polled_at is None or polled_at >= figures.at or "m5" not in figures.trades:
            continue
        fresh = None
        if window := figures.covering(polled_at):
            since = figures.at - SECONDS[window]
            fresh = max(0, figures.trades[window] - _known(run, network, figures.pool, since))
        rotation.hint(figures.pool, figures.at, figures.trades["m5"], SECONDS["m5"], fresh)


def _figures(run: RunContext, network: str) -> Iterator[_Figures]:
    """Yield the fresh figures of the watched pools: by `CROSS JOIN` one look each, else SQLite reads all snapshots."""
    counts = ", ".join(f"{_counted(name)} AS {name}" for name in SECONDS)
    for row in stored(
        run,
        f"SELECT seen.address AS address, seen.at AS at, {counts} FROM gt_watchlist AS watched"
        " CROSS JOIN gt_pool_snapshots AS seen ON seen.network = watched.network AND seen.address = watched.address"
        " AND seen.at = (SELECT max(at) FROM gt_pool_snapshots"
        " WHERE network = watched.network AND address = watched.address)"
        " WHERE watched.network = ? AND watched.removed_at IS NULL AND seen.at > ?",
        network,
        f"{run.now() - FRESH:%Y-%m-%dT%H:%M:%S.%fZ}",
    ):
        yield _Figures(row["address"], datetime.fromisoformat(row["at"]).timestamp(), _whole(row))


def _counted(window: str) -> str:
    """Return SQL for a window's trades, NULL where the answer told no number: SQLite would take any text for one."""
    buys, sells = f"transactions_{window}_buys", f"transactions_{window}_sells"
    whole = " AND ".join(f"typeof(seen.{side}) = 'integer' AND seen.{side} >= 0" for side in (buys, sells))
    return f"CASE WHEN {whole} THEN seen.{buys} + seen.{sells} END"


def _whole(row: Mapping[str, Any]) -> dict[str, int]:
    return {name: row[name] for name in SECONDS if isinstance(row[name], int)}


def _known(run: RunContext, network: str, pool: str, since: float) -> float:
    """Return how many trades after `since` are stored, or in a loss, as if that were spread evenly over its span."""
    moment = datetime.fromtimestamp(since, UTC)
    (trades,) = stored(
        run,
        "SELECT count(*) AS n FROM gt_trades WHERE network = ? AND pool = ? AND block_timestamp > ?",
        network,
        pool,
        f"{moment:%Y-%m-%dT%H:%M:%SZ}",
    ) or [{"n": 0}]
    losses = stored(
        run,
        'SELECT count, since, "until" FROM geckosched_losses WHERE job_id = ? AND target = ? AND "until" > ?',
        run.job_id,
        pool,
        f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}",
    )
    return float(trades["n"] + sum(loss["count"] * _part_after(since, loss) for loss in losses))


def _part_after(moment: float, loss: Mapping[str, Any]) -> float:
    """Return the part of a loss that lies after a moment: one of a whole night says little of the last five minutes."""
    begins, ends = (datetime.fromisoformat(loss[name]).timestamp() for name in ("since", "until"))
    return min(1.0, (ends - moment) / (ends - begins)) if ends > begins else 1.0
