"""Which pool's trades to ask for next, decided without a clock, a network or a store.

The API shows a pool's newest 300 trades of the last 24 hours and nothing older: whatever a pool
trades beyond that between two polls is gone. `TradeRotation` is told the time and what each answer
held, and names the pools that are worth a call, the most urgent first. What is known of one pool,
and what a call to it is worth, is in `forecast`.

All times are epoch seconds, all rates trades per second unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .forecast import DAY, HOUR, PAGE, Forecast, as_of, reach, unseen

__all__ = ["DAY", "PAGE", "Loss", "TradeRotation"]

LATE = 120.0
"""How much older than the newest trade of an answer one may be that is not in it yet, in seconds.

A trade shows up 2 to 61 s after its block (measured over the recorded series), and an answer
may have lain in the API's cache for up to 60 s.
"""

WORTH_FILL = 0.01
"""Part of a window that a call must be expected to save."""

WAITED = 3.0
"""Trades that a wait of `max_wait` adds to what a call is worth."""

LONGEST_GAP = 900.0
"""Seconds between two calls beyond which the collector was not running."""

LONGEST_LOOK_AHEAD = 300.0
"""Seconds to the next chance that are reckoned with at most."""

PACE_MEMORY = 0.03
"""Weight of the newest gap in the mean of the gaps between calls."""

RESERVE = 2.0
"""Calls are counted to come so many times as slowly as they do, so that none is needed in the last moment."""

CAN_WAIT = 0.9
"""Part of `max_wait` that must be left for a pool to be none that cannot wait."""

GAP_SECONDS = 15 * 60.0
"""How far into a gap the rates at its ends reach."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Trades that the API had and no longer shows.

    `count` is an estimate, at least 1. Every lost trade's `block_timestamp` lies within
    `since` and `until`, both included (epoch seconds).
    """

    count: int
    since: float
    until: float


class TradeRotation:
    """Spread few calls over many pools so that as few trades as possible are lost.

    The pool whose call is worth most goes first: see `forecast`. It is reckoned with the next
    chance, not with now, because a window that would overflow before it cannot wait. Pools whose
    `max_wait` ends go before all others, and early enough that the calls suffice for all of them.
    Equal input gives equal output: there is no clock and no randomness inside.
    """

    def __init__(self, pools: Mapping[str, float], *, max_wait: float = 6 * HOUR) -> None:
        """Watch `pools`: trades expected a day by pool, 0 where unknown.

        `max_wait` is in seconds.
        """
        self.max_wait = max_wait
        self._pools = {name: Forecast(expected=float(expected)) for name, expected in pools.items()}
        self._pace = _Pace()

    def pick(self, now: float, calls: int, *, fill: float = WORTH_FILL) -> list[str]:
        """Name at most `calls` pools that are worth a call now, the most urgent first.

        Pools that have waited nearly `max_wait` come first, the longest wait before the others;
        then those whose call is expected to save most trades, at least `fill` windows of 300. A
        pool that was never asked counts as just full.
        """
        if calls <= 0:
            return []
        asked = {name: pool for name, pool in self._pools.items() if not _deferred(pool, now)}
        for pool in asked.values():
            if pool.since is None or pool.since > now:
                pool.since = now
        picked = self._cannot_wait(asked, now)[:calls]
        if len(picked) == calls:
            return picked
        chance = now + self._pace.look_ahead()
        ranked = [
            (-worth, -pool.expected, name)
            for name, pool in asked.items()
            if name not in picked and (worth := self._worth(pool, now, chance)) >= fill * PAGE
        ]
        return picked + [name for *_, name in sorted(ranked)[: calls - len(picked)]]

    def fill(self, pool: str, now: float) -> float:
        """Return how many windows of 300 a pool has filled since its last poll, as predicted.

        More than 1 means that it loses trades by now; a pool that was never asked counts as 1.
        """
        known = self._pools[pool]
        return known.count(now) / PAGE if known.asked_before(now) else 1.0

    def defer(self, pool: str, until: float) -> None:
        """Leave `pool` out until `until`, at most a day ahead, or until it is observed."""
        self._pools[pool].not_before = until

    def hint(self, pool: str, now: float, trades: float, seconds: float, fresh: float | None = None) -> None:
        """Take in that `pool` had so many `trades` in the `seconds` up to `now`, as seen elsewhere.

        `fresh` is how many of all its trades came since its last poll, `None` where that is not known.
        """
        self._pools[pool].hint(now, trades, seconds, fresh)

    def polled_at(self, pool: str) -> float | None:
        """Return when `pool` was last polled, `None` if never."""
        return self._pools[pool].polled_at

    def observe(self, pool: str, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
        """Take in an answer; return what it shows to be lost, `None` if nothing is.

        `times` are the block times of the answer's trades, newest first, at most 300;
        `overlap` says that the answer reaches back to what is stored.

        A full answer without overlap is a loss, unless it is the pool's first: nothing was
        expected before. So is, where the pool trades at all, the time between the last poll
        and 24 hours ago if that poll is longer ago. A full answer *with* overlap is no loss;
        what it may hide nevertheless is for `lateness` to say.

        The span of a loss begins 120 s before the newest trade stored, because late trades are
        lost too (see `LATE`), and ends at the oldest one shown.
        """
        known = self._pools[pool]
        loss = _loss(known, now, times, overlap)
        saturated = len(times) >= PAGE and not overlap
        known.take(now, times, loss.count if loss else 0, saturated=saturated)
        self._pace.called(now)
        return loss

    def snapshot(self) -> dict[str, Any]:
        """Return all that is known, as JSON values for `run.state`."""
        return {
            "pools": {name: pool.stored() for name, pool in self._pools.items()},
            "pace": self._pace.stored(),
        }

    @classmethod
    def restore(
        cls,
        snapshot: Mapping[str, Any],
        pools: Mapping[str, float] | None = None,
        *,
        max_wait: float = 6 * HOUR,
    ) -> TradeRotation:
        """Build the rotation that `snapshot()` described.

        `pools`, where given, says what is watched now: what is known of other pools is
        forgotten, pools that the snapshot lacks are new.
        """
        stored: Mapping[str, Mapping[str, Any]] = snapshot.get("pools", {})
        if pools is None:
            pools = {name: state.get("expected", 0.0) for name, state in stored.items()}
        rotation = cls(pools, max_wait=max_wait)
        rotation._pace.read(snapshot.get("pace", {}))
        for name, pool in rotation._pools.items():
            pool.read(stored.get(name, {}))
        return rotation

    def _worth(self, pool: Forecast, now: float, chance: float) -> float:
        """Return the trades that a call now is expected to save, and a little for having waited."""
        if not pool.asked_before(now) or pool.polled_at is None:
            return PAGE + pool.expected / DAY
        return pool.worth(now, chance) + WAITED * (now - pool.polled_at) / self.max_wait

    def _cannot_wait(self, pools: Mapping[str, Forecast], now: float) -> list[str]:
        """Name the pools that must be asked now if no pool shall wait longer than `max_wait`.

        Of the pools in the order in which their time is up, the first k need k calls by then. Who
        has waited for less than a tenth of it can wait, even if the calls don't suffice.
        """
        ends = sorted((self._ends(pool, now), name) for name, pool in pools.items())
        pace = RESERVE * self._pace.mean
        needed = 0
        for place, (end, _) in enumerate(ends, 1):
            if end - now > CAN_WAIT * self.max_wait:
                break
            if end <= now:
                needed = place
            elif pace:
                needed = max(needed, place - int((end - now) / pace))
        return [name for _, name in ends[:needed]]

    def _ends(self, pool: Forecast, now: float) -> float:
        since = pool.polled_at if pool.asked_before(now) else pool.since
        return (now if since is None else since) + self.max_wait


@dataclass(slots=True)
class _Pace:
    """How calls follow each other: mean gap and mean square of the gaps, in seconds."""

    at: float | None = None
    mean: float = 0.0
    square: float = 0.0

    def called(self, now: float) -> None:
        if self.at is not None and now >= self.at:
            gap = min(now - self.at, LONGEST_GAP)
            weight = PACE_MEMORY if self.square else 1.0
            self.mean += (gap - self.mean) * weight
            self.square += (gap * gap - self.square) * weight
        self.at = now

    def look_ahead(self) -> float:
        """Return how long the next chance may be off: twice what is left of a gap on average.

        That is one gap where calls come evenly, and nearly the pause where they come in bunches.
        """
        return min(self.square / self.mean, LONGEST_LOOK_AHEAD) if self.mean else 0.0

    def stored(self) -> dict[str, float]:
        return {} if self.at is None else {"at": self.at, "mean": self.mean, "square": self.square}

    def read(self, stored: Mapping[str, Any]) -> None:
        values = [stored.get(name) for name in ("at", "mean", "square")]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            self.at, self.mean, self.square = (float(value) for value in values if value is not None)


def _deferred(pool: Forecast, now: float) -> bool:
    return pool.not_before is not None and now < pool.not_before <= now + DAY


def _loss(pool: Forecast, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
    """Tell what an answer shows to be lost."""
    if pool.polled_at is None:
        return None
    since = (pool.polled_at if pool.newest is None else pool.newest) - LATE
    if len(times) >= PAGE:
        return None if overlap else Loss(max(1, round(_between(pool, now, times))), since, max(min(times), since))
    aged = now - DAY
    count = round(pool.usual() * (aged - pool.polled_at))
    if count < 1:
        return None
    return Loss(count, pool.polled_at - LATE, aged)


def _between(pool: Forecast, now: float, times: Sequence[float]) -> float:
    """Estimate the trades that neither the last answer shows nor this one, where this one is full.

    Where the pool's figures were seen since, what they count is not estimated; the rest of the gap is.
    """
    oldest = min(times)
    if pool.polled_at is None or pool.known_at is None or pool.known_at <= pool.polled_at:
        shown_at = now if pool.polled_at is None else as_of(pool.polled_at, pool.newest)
        late = unseen(max(0.0, shown_at - oldest)) - unseen(as_of(now, max(times)) - oldest)
        return _in_gap(pool, shown_at, now, times, late)
    counted = pool.carried - sum(time <= pool.known_at for time in times)
    return counted if oldest <= pool.known_at else counted + _in_gap(pool, pool.known_at, now, times)


def _in_gap(pool: Forecast, since: float, now: float, times: Sequence[float], late: float = 0.0) -> float:
    """Estimate the trades between a moment whose rate is known and the oldest that an answer shows.

    The rates at both ends of the gap reach some way into it, and meet the mean rate in its middle. What showed up after
    the last answer but is older than all that this one shows is lost too: so many seconds' worth is `late`.
    """
    gap = max(0.0, min(times) - since)
    after, before = len(times) / reach(now, times), max(0.0, pool.usual() + pool.burst)
    bent = GAP_SECONDS * math.tanh(gap / (2 * GAP_SECONDS))
    return pool.mean * gap + (before + after - 2 * pool.mean) * bent + late * math.sqrt(before * after)
