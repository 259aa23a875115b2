"""The auto rule: young pools that others have collected and that are worth watching.

`AutoRule.choose` decides and is told the time; `judge` asks the store for what it needs to know. A pool is taken by its
figures in `gt_pools` and held until a day has passed without a trade; that it grows older than `max_age`, or quieter
than the minima, is no reason to let go of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from geckosched import RunContext, from_datetime, to_text

__all__ = ["AutoRule", "Candidate", "Held", "judge"]

FRESH = timedelta(hours=1)
"""Figures of `gt_pools` that are older say nothing about whether a pool trades."""

HELD_FOR = timedelta(days=1)
"""Time without a trade after which a pool is let go."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool whose fresh figures reach the minima; `seen_at` is when they were collected, None: not known."""

    address: str
    name: str | None
    volume_usd: float
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """A pool that the rule has taken, and the last sign that it trades: at first, that it was taken."""

    address: str
    note: str | None
    added_at: datetime
    traded_at: datetime


@dataclass(frozen=True, slots=True)
class AutoRule:
    """What makes a pool worth watching, and how many are watched at a time."""

    min_liquidity_usd: float
    min_volume_usd: float
    max_age: timedelta
    most: int

    def choose(
        self, held: Iterable[Held], candidates: Iterable[Candidate], removed: Mapping[str, datetime], now: datetime
    ) -> dict[str, str | None]:
        """Return the pools to watch, with their names.

        What is held stays until its day without a trade; where `most` was lowered, those taken last go first. Then the
        busiest candidates. One that was let go, at its time in `removed`, is taken again only by figures of later.
        """
        first_taken = sorted(held, key=lambda each: (each.added_at, each.address))
        staying = [each for each in first_taken if now - each.traded_at < HELD_FOR]
        chosen = {each.address: each.note for each in staying[: self.most]}
        taken = {each.address for each in first_taken}
        for each in sorted(candidates, key=lambda each: (-each.volume_usd, each.address)):
            if len(chosen) >= self.most:
                break
            since = removed.get(each.address)
            news = since is None or (each.seen_at is not None and each.seen_at > since)
            if news and each.address not in taken:
                chosen[each.address] = each.name
        return chosen


def judge(
    run: RunContext, rule: AutoRule, network: str, known: Sequence[Mapping[str, Any]], named: Collection[str]
) -> dict[str, str | None] | None:
    """Return the pools that the rule watches, None while nobody has collected the figures to judge by.

    `known` are the rows of `gt_watchlist`, `named` the pools that other sources name: those are no auto pools.
    """
    columns = {row["name"] for row in run.query("SELECT name FROM pragma_table_info('gt_pools')")}
    if not columns >= {"pool_created_at", "reserve_in_usd", "volume_usd_h24", "transactions_h24_buys", "gone_at"}:
        return None
    now = run.now()
    elsewhere = {row["address"] for row in known if row["removed_at"] is None and row["source"] != "auto"}
    others = elsewhere.union(named)
    mine = [row for row in known if row["removed_at"] is None and row["address"] not in others]
    removed = {row["address"]: _moment(row["removed_at"]) for row in known if row["removed_at"] is not None}
    held = [_held(run, network, row, now) for row in mine]
    candidates = [each for each in _candidates(run, rule, network, now) if each.address not in others]
    return rule.choose(held, candidates, removed, now)


def _candidates(run: RunContext, rule: AutoRule, network: str, now: datetime) -> list[Candidate]:
    rows = run.query(
        "SELECT pool.address, pool.name, CAST(pool.volume_usd_h24 AS REAL) AS volume, run.started_at AS seen_at"
        " FROM gt_pools AS pool LEFT JOIN geckosched_runs AS run ON run.id = pool.run_id"
        " WHERE pool.network = ? AND pool.pool_created_at BETWEEN ? AND ? AND pool.gone_at IS NULL"
        " AND CAST(pool.reserve_in_usd AS REAL) >= ? AND CAST(pool.volume_usd_h24 AS REAL) >= ?"
        " AND (run.started_at IS NULL OR run.started_at >= ?)",
        (
            network,
            _as_the_api(now - rule.max_age),
            _as_the_api(now),
            rule.min_liquidity_usd,
            rule.min_volume_usd,
            to_text(from_datetime(now - FRESH)),
        ),
    )
    return [
        Candidate(each["address"], each["name"], each["volume"], each["seen_at"] and _moment(each["seen_at"]))
        for each in rows
    ]


def _held(run: RunContext, network: str, row: Mapping[str, Any], now: datetime) -> Held:
    """Find the last sign that a pool trades: a stored trade, or fresh figures that count some in their 24 hours."""
    signs = [added_at := _moment(row["added_at"])]
    key = (network, row["address"])
    fresh = run.query(
        "SELECT 1 FROM gt_pools AS pool JOIN geckosched_runs AS run ON run.id = pool.run_id"
        " WHERE pool.network = ? AND pool.address = ? AND run.started_at >= ?"
        " AND coalesce(pool.transactions_h24_buys, 0) + coalesce(pool.transactions_h24_sells, 0) > 0",
        (*key, to_text(from_datetime(now - FRESH))),
    )
    if fresh:
        signs.append(now)
    if run.query("SELECT 1 FROM sqlite_master WHERE name = 'gt_trades'"):
        sql = "SELECT max(block_timestamp) AS newest FROM gt_trades WHERE network = ? AND pool = ?"
        if newest := run.query(sql, key)[0]["newest"]:
            signs.append(_moment(newest))
    return Held(row["address"], row["note"], added_at, max(signs))


def _as_the_api(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
