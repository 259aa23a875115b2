"""Which pool's trades to ask for next, decided without a clock, a network or a store.

The API shows a pool's newest 300 trades of the last 24 hours and nothing older: whatever a pool
trades beyond that between two polls is gone. `TradeRotation` is told the time and what each answer
held, predicts how full every pool's window is by now, and names the pools that are worth a call,
the most urgent first.

All times are epoch seconds, all rates trades per second unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["DAY", "PAGE", "Loss", "TradeRotation"]

PAGE = 300
"""Trades in a full answer (api.md, 3.2)."""

DAY = 86_400.0
"""How far back an answer reaches at most, in seconds (api.md, 3.2)."""

LATE = 120.0
"""How much older than the newest trade of an answer one may be that is not in it yet, in seconds.

A trade shows up 2 to 61 s after its block (measured over the recorded series), and an answer
may have lain in the API's cache for up to 60 s.
"""

WORTH_FILL = 0.25
"""Part of a window that must be full for a call to be worth it."""

WAITED_FILL = 0.5
"""What a wait of `max_wait` adds to the part of a window that is full."""

MEAN_SECONDS = 4 * 3600.0
"""Memory of the mean rate."""

BURST_SECONDS = 15 * 60.0
"""How long a burst lasts: what exceeds the mean rate fades with this time constant."""

RECENT_SECONDS = 10 * 60.0
"""The newest stretch of an answer that tells the present rate."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Trades that the API had and no longer shows.

    `count` is an estimate, at least 1. Every lost trade's `block_timestamp` lies within
    `since` and `until`, both included (epoch seconds).
    """

    count: int
    since: float
    until: float


@dataclass(slots=True)
class _Pool:
    """What is known of one pool; `None` where nothing is known yet."""

    expected: float = 0.0  # trades a day, from elsewhere; 0: unknown
    polled_at: float | None = None
    newest: float | None = None  # block time of the newest trade seen
    mean: float = 0.0
    burst: float = 0.0  # excess over the mean at polled_at
    not_before: float | None = None

    def waited(self, now: float) -> float:
        """Seconds since the last poll; endless if there was none, or if it lies in the future.

        A poll in the future means that the clock was set back: how long ago it really was is
        unknown, and to wait until the clock has caught up could take for ever.
        """
        if self.polled_at is None or self.polled_at > now:
            return math.inf
        return now - self.polled_at

    def fill(self, now: float) -> float:
        """Predicted new trades since the last poll, in windows of 300; only after a first poll."""
        waited = self.waited(now)
        fading = BURST_SECONDS * -math.expm1(-waited / BURST_SECONDS)
        return (self.mean * waited + self.burst * fading) / PAGE


class TradeRotation:
    """Spread few calls over many pools so that as few trades as possible are lost.

    Each pool has a mean rate and a burst above it that fades within a quarter of an hour; both
    come from the times of the trades in its answers, which tell the present rate even when an
    answer is full. A pool is worth a call when its window is predicted to be at least `fill`
    full, when it was never asked, or when it has waited `max_wait`. Equal input gives equal
    output: there is no clock and no randomness inside.
    """

    def __init__(self, pools: Mapping[str, float], *, max_wait: float = 6 * 3600.0) -> None:
        """Watch `pools`: trades expected a day by pool, 0 where unknown.

        `max_wait` is in seconds.
        """
        self.max_wait = max_wait
        self._pools = {name: _Pool(expected=float(expected)) for name, expected in pools.items()}

    def pick(self, now: float, calls: int, *, fill: float = WORTH_FILL) -> list[str]:
        """Name at most `calls` pools that are worth a call now, the most urgent first.

        Pools that have waited `max_wait` come first, the longest wait before the others;
        then the fullest. A pool that was never asked counts as just full: it goes before all
        that still have room, and after those that lose trades already. Waiting counts a little
        too, so that quiet pools are spread over the calls that nobody needs.
        """
        if calls <= 0:
            return []
        ranked: list[tuple[float, float, float, str]] = []
        for name, pool in self._pools.items():
            if pool.not_before is not None and now < pool.not_before <= now + DAY:
                continue
            waited, urgency = pool.waited(now), self.fill(name, now)
            overdue = self.max_wait <= waited < math.inf
            if waited < math.inf:
                urgency += WAITED_FILL * waited / self.max_wait
            if overdue or urgency >= fill:
                ranked.append((-waited if overdue else 0.0, -urgency, -pool.expected, name))
        return [name for *_, name in sorted(ranked)[:calls]]

    def fill(self, pool: str, now: float) -> float:
        """Return how many windows of 300 a pool has filled since its last poll, as predicted.

        More than 1 means that it loses trades by now; a pool that was never asked counts as 1.
        """
        known = self._pools[pool]
        return 1.0 if math.isinf(known.waited(now)) else known.fill(now)

    def defer(self, pool: str, until: float) -> None:
        """Leave `pool` out until `until`, at most a day ahead, or until it is observed."""
        self._pools[pool].not_before = until

    def observe(self, pool: str, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
        """Take in an answer; return what it shows to be lost, `None` if nothing is.

        `times` are the block times of the answer's trades, newest first, at most 300;
        `overlap` says that the answer reaches back to what is stored.

        A full answer without overlap is a loss, unless it is the pool's first: nothing was
        expected before. So is, where the pool trades at all, the time between the last poll
        and 24 hours ago if that poll is longer ago. A full answer *with* overlap is no loss.
        It can hide one: trades that appear late have older blocks than some that are stored
        already, and fall off the page first. On the recorded day that takes 301 to some 330
        trades between two polls, happens in 1 of 200 such cases, and concerns at most 9
        trades; nothing in the answer tells it from a page that just fitted.

        The span of a loss begins 120 s before the newest trade stored, because late trades are
        lost too (see `LATE`), and ends at the oldest one shown.
        """
        known = self._pools[pool]
        page_rate = _page_rate(now, times)
        loss = _loss(known, now, times, overlap)
        _learn(known, now, times, page_rate, saturated=len(times) >= PAGE and not overlap)
        known.polled_at = now
        known.not_before = None
        if times:
            newest = min(max(times), now)  # a block from the future would hide all that follow
            known.newest = newest if known.newest is None else max(known.newest, newest)
        return loss

    def snapshot(self) -> dict[str, Any]:
        """Return all that is known, as JSON values for `run.state`."""
        return {"pools": {name: asdict(pool) for name, pool in self._pools.items()}}

    @classmethod
    def restore(
        cls,
        snapshot: Mapping[str, Any],
        pools: Mapping[str, float] | None = None,
        *,
        max_wait: float = 6 * 3600.0,
    ) -> TradeRotation:
        """Build the rotation that `snapshot()` described.

        `pools`, where given, says what is watched now: what is known of other pools is
        forgotten, pools that the snapshot lacks are new.
        """
        stored: Mapping[str, Mapping[str, Any]] = snapshot.get("pools", {})
        if pools is None:
            pools = {name: state.get("expected", 0.0) for name, state in stored.items()}
        rotation = cls(pools, max_wait=max_wait)
        names = {field.name for field in fields(_Pool)} - {"expected"}
        for name, pool in rotation._pools.items():
            for key, value in stored.get(name, {}).items():
                if key in names:
                    setattr(pool, key, value)
        return rotation


def _page_rate(now: float, times: Sequence[float]) -> float:
    """Mean rate since the oldest trade of an answer.

    A pool that is minutes old has not been silent for the rest of the 24 hours that an answer
    covers; a few trades in as many seconds are no rate yet, though.
    """
    if not times:
        return 0.0
    shortest = 1.0 if len(times) >= PAGE else BURST_SECONDS
    return len(times) / max(now - min(times), shortest)


def _recent_rate(now: float, times: Sequence[float], page_rate: float) -> float:
    """Rate over the newest ten minutes of an answer, or all of it if it is shorter."""
    if len(times) >= PAGE and min(times) > now - RECENT_SECONDS:
        return page_rate
    return _since(times, now - RECENT_SECONDS) / RECENT_SECONDS


def _since(times: Iterable[float], moment: float) -> int:
    return sum(time > moment for time in times)


def _learn(pool: _Pool, now: float, times: Sequence[float], page_rate: float, *, saturated: bool) -> None:
    """Update the pool's rates from an answer."""
    waited = pool.waited(now)
    if math.isinf(waited):
        pool.mean = page_rate
    elif waited > 0:
        rate = page_rate
        if not saturated:
            fresh = len(times) if pool.newest is None else _since(times, pool.newest)
            rate = fresh / waited
        pool.mean += (rate - pool.mean) * -math.expm1(-waited / MEAN_SECONDS)
    pool.burst = max(0.0, _recent_rate(now, times, page_rate) - pool.mean)


def _loss(pool: _Pool, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
    """Tell what an answer shows to be lost, counted by the rate next to the gap."""
    if pool.polled_at is None:
        return None
    before = pool.polled_at if pool.newest is None else pool.newest
    since = before - LATE
    if len(times) >= PAGE and not overlap:
        until = max(min(times), since)
        rate = len(times) / max(max(times) - min(times), 1.0)
        return Loss(max(1, round(rate * (until - before))), since, until)
    aged = now - DAY
    count = round(pool.mean * (aged - pool.polled_at))
    if count < 1:
        return None
    return Loss(count, pool.polled_at - LATE, aged)
