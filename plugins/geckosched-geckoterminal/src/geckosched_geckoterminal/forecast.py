"""What one pool's answers tell of its trades: how many it has had since, and what a call is worth.

A pool trades at its usual rate, and at times in a burst above it. The *usual* rate is what came over
the last hours. The *burst* is what the newest stretch of the last answer shows beyond that, and ends
at a moment nobody knows. Bursts that nobody has seen yet are reckoned with as well: so many times the
usual rate, or as high as the pool's remembered peak, and a silent pool may wake up; how often is
learnt for each pool.

What a call is worth is a Whittle index, the price of a call at which it makes no difference whether
the pool is asked now or later: with G(t) trades expected to be lost in t seconds without a call it is
t G'(t) - G(t). A window that is certainly full is worth 300 trades; one that is half full is worth
next to nothing, unless a burst may overflow it.

All times are epoch seconds, all rates trades per second unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["DAY", "HOUR", "PAGE", "Forecast", "as_of", "reach", "unseen"]

PAGE = 300
"""Trades in a full answer (api.md, 3.2)."""

HOUR = 3600.0

DAY = 86_400.0
"""How far back an answer reaches at most, in seconds (api.md, 3.2)."""

CACHED = 60.0
"""How old an answer may be, in seconds: so long a silence at its newer end means nothing."""

MEMORY_SECONDS = 3 * HOUR
"""Memory of the usual rate."""

LAG_LEAST, LAG_MORE = 2.0, 4.0
"""A trade shows up these seconds after its block, and so many more on average: the recorded ones 6.8 in all."""

SHORTEST = 3.0
"""Seconds' worth of trades from which a rate may be told: less says more about lateness."""

LAG_STRAGGLERS, LAG_EARLY, LAG_LATEST = 0.02, 20.0, 61.0
"""A share of the trades takes longer, evenly between these seconds."""

EVIDENCE_SECONDS = DAY
"""Memory of bursts and of the peak."""

BURST_SECONDS = 15 * 60.0
"""How long a burst goes on, on average."""

BURST_FACTORS = (4.0, 7.0, 10.5)
"""By what a burst that comes may multiply the usual rate."""

BURST_HOURS = 8.0
"""Hours to the next burst of a pool of which nothing is known."""

BURSTS_KNOWN = 3.0
"""So many bursts that a pool has had itself weigh as much as that."""

CERTAIN = 0.99
"""Chance from which on a window is full."""

A_BURST = 2.5
"""What is above so many times the usual rate counts as a burst."""

WAKING_RATES = ((120 / HOUR, 0.6), (600 / HOUR, 0.3), (3000 / HOUR, 0.1))
"""How busy a silent pool may become, and how likely it is."""

WAKING_HOURS = 12.0
"""Hours until a pool of which nothing is known wakes up."""

WAKING_SECONDS = HOUR
"""How long it stays awake."""

REMAINING = (0.134, 0.47, 0.98, 2.08)
"""A burst's remaining time in parts of the mean, at four equally likely places of the exponential law."""

DRIFT = 0.08
"""Relative error of a rate that is known exactly, an answer later."""

SIGNIFICANT = 3.0
"""Standard deviations by which the newer part of an answer must differ to be a rate of its own."""

FEWEST = 20
"""Trades from which a rate may be told."""

PEAK_TRADES = 60
"""Trades over which a peak is measured."""

URGENT_SECONDS = 60.0
"""Of two full windows the busier one goes first: so many seconds of its trades are added."""


@dataclass(slots=True)
class Forecast:
    """What is known of one pool; `None` where nothing is known yet."""

    expected: float = 0.0  # trades a day, from elsewhere; 0: unknown
    since: float | None = None  # when it was first reckoned with
    polled_at: float | None = None
    newest: float | None = None  # block time of the newest trade seen
    not_before: float | None = None
    trades: float = 0.0  # trades that tell the usual rate,
    seconds: float = 0.0  # and the time they took
    mean: float = 0.0  # rate with all bursts and losses, over hours
    burst: float = 0.0  # rate above the usual at known_at; below 0 in a lull
    known_at: float | None = None  # moment of `burst` and `carried`
    carried: float = 0.0  # trades since the last poll, at known_at
    peak: float = 0.0
    bursts: float = 0.0  # seen in
    watched: float = 0.0  # so many seconds

    def asked_before(self, now: float) -> bool:
        """Tell whether it is known when it was polled: not if never, nor if the clock was set back since.

        How long ago a poll in the future really was is unknown, and to wait until the clock has
        caught up could take for ever.
        """
        return self.polled_at is not None and self.polled_at <= now

    def usual(self) -> float:
        return self.trades / self.seconds if self.seconds else 0.0

    def count(self, now: float) -> float:
        """Predict the new trades since the last poll."""
        passed = self._passed(now)
        return self.carried + self.usual() * passed + self.burst * _faded(passed)

    def worth(self, now: float, chance: float) -> float:
        """Return what a call is worth now if the next one can be at `chance`, in trades.

        That is up to 300 and a minute of the rate. A window that is to overflow in between counts
        for as much of the time as it will be full.
        """
        passed, ahead = self._passed(now), max(0.0, chance - now)
        full, losing, count = self._known(passed)
        full_then, _, count_then = self._known(passed + ahead) if full < CERTAIN else (1.0, 0.0, count)
        worth = PAGE * (full + full_then) / 2 * min(1.0, count / PAGE) + URGENT_SECONDS * losing
        if full_then < CERTAIN:
            room, passed = PAGE - (count + count_then) / 2, passed + ahead / 2
            worth += (1 - full_then) * self._of_bursts(room, passed)
        return worth

    def take(self, now: float, times: Sequence[float], lost: float, *, saturated: bool) -> None:
        """Take in an answer: the block times of its trades, newest first, and what was `lost` before it."""
        before, usual, bursting = self.polled_at, self.usual(), self.burst > 0
        first = before is None or before > now
        fresh = len(times) if self.newest is None or saturated or first else _newer(times, self.newest)
        self._learn_rates(now, times, fresh, lost, first=first, saturated=saturated)
        present, counted = present_rate(now, times)
        peak = max(_peak(times[:fresh]), present if counted >= FEWEST else 0.0)
        self._learn_bursts(now, times, peak, usual, first=first, bursting=bursting)
        usual = self.usual()
        noise = math.sqrt(present**2 / max(counted, 1) + usual**2 / (self.trades + 1))
        self.burst = present - usual if counted and abs(present - usual) > 2 * noise else 0.0
        self.polled_at = self.known_at = now
        self.carried, self.not_before = 0.0, None
        if times:
            newest = min(max(times), now)  # a block from the future would hide all that follow
            self.newest = newest if self.newest is None else max(self.newest, newest)

    def hint(self, now: float, trades: float, seconds: float, fresh: float | None = None) -> None:
        """Take in how many trades there were in the `seconds` up to `now`, from elsewhere.

        `fresh`, if known, is how many there were since the last poll.
        """
        if not self.asked_before(now) or self.known_at is None or now <= self.known_at:
            return
        since = max(self.known_at, now - seconds)
        self.carried = self.count(since) + trades * (now - since) / seconds if fresh is None else fresh
        present, usual = trades / seconds, self.usual()
        noise = math.sqrt(max(trades, 1.0)) / seconds + usual / math.sqrt(self.trades + 1)
        self.burst = present - usual if abs(present - usual) > 2 * noise else 0.0
        self.known_at = now

    def stored(self) -> dict[str, Any]:
        """Return what differs from nothing, as JSON values; times to the millisecond, the rest to six digits."""
        return {
            field.name: round(value, 3) if abs(value) > 1e6 else float(f"{value:.6g}")
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value != field.default
        }

    def read(self, stored: Mapping[str, Any]) -> None:
        """Take over what `stored` returned, now or in an earlier version; what isn't a number is left out."""
        for field in fields(self):
            value = stored.get(field.name)
            if field.name != "expected" and isinstance(value, int | float) and math.isfinite(value):
                setattr(self, field.name, float(value))
        if self.polled_at is not None:
            if not self.seconds:
                self._read_first_version(stored)
            if self.known_at is None:
                self.known_at = self.polled_at

    def _read_first_version(self, stored: Mapping[str, Any]) -> None:
        """Take over the rate that the first version kept."""
        mean = stored.get("mean")
        if isinstance(mean, int | float) and math.isfinite(mean):
            self.trades, self.seconds = mean * MEMORY_SECONDS, MEMORY_SECONDS

    def _passed(self, now: float) -> float:
        return max(0.0, now - self.known_at) if self.known_at is not None else 0.0

    def _known(self, passed: float) -> tuple[float, float, float]:
        """Return the chance that the window is full, the rate at which it loses then, and the count predicted."""
        usual, error = self.usual(), DRIFT**2 + 1 / (self.trades + 1)
        steady = self.carried + usual * passed
        if self.burst <= 0:
            count = max(0.0, steady + self.burst * _faded(passed))
            full = _full(count, error)
            return full, full * max(0.0, usual + self.burst * math.exp(-passed / BURST_SECONDS)), count
        chance = losing = count = 0.0
        for part in REMAINING:
            lasts = part * BURST_SECONDS
            predicted = steady + self.burst * min(passed, lasts)
            full = _full(predicted, error)
            chance += full
            losing += full * (usual + self.burst if passed < lasts else usual)
            count += predicted
        return chance / 4, losing / 4, count / 4

    def _of_bursts(self, room: float, passed: float) -> float:
        """Return the index of the bursts that may have begun since: `room` trades overflow the window."""
        usual, hours = self.usual(), self.watched / HOUR
        often = 1 / (BURSTS_KNOWN * BURST_HOURS + hours) / HOUR
        worth = 0.0
        for factor in BURST_FACTORS:
            chance = (BURSTS_KNOWN + self.bursts) * often / len(BURST_FACTORS)
            worth += _coming(room, passed, (factor - 1) * usual, chance, BURST_SECONDS)
        worth += _coming(room, passed, self.peak - usual, self.bursts * often, BURST_SECONDS)
        for rate, share in WAKING_RATES:
            worth += _coming(room, passed, rate, share / (WAKING_HOURS + hours) / HOUR, WAKING_SECONDS)
        return worth

    def _learn_rates(
        self, now: float, times: Sequence[float], fresh: int, lost: float, *, first: bool, saturated: bool
    ) -> None:
        """Update the usual and the mean rate."""
        if self.polled_at is None or first:
            self.trades, self.seconds = len(times) or 0.5, reach(now, times)
            self.mean = self.trades / self.seconds
            return
        waited = max(now - self.polled_at, 1.0)
        kept = math.exp(-waited / MEMORY_SECONDS)
        trades, seconds = (len(times), reach(now, times)) if saturated else (fresh, waited)
        self.trades, self.seconds = self.trades * kept + trades, self.seconds * kept + seconds
        self.mean += ((fresh + lost) / waited - self.mean) * (1 - kept)

    def _learn_bursts(
        self, now: float, times: Sequence[float], peak: float, usual: float, *, first: bool, bursting: bool
    ) -> None:
        """Count a burst that wasn't there before, and remember the peak; both fade within days."""
        passed = now - (min(times) if times else now) if first or self.polled_at is None else now - self.polled_at
        kept = math.exp(-passed / EVIDENCE_SECONDS)
        self.watched = self.watched * kept + min(passed, DAY)
        new = peak > A_BURST * (self.usual() if first else usual) and not bursting
        self.bursts = self.bursts * kept + new
        self.peak = max(self.peak * kept, peak)


def present_rate(now: float, times: Sequence[float]) -> tuple[float, int]:
    """Tell the rate at the newer end of an answer, and how many trades tell it.

    The newer half of a stretch counts on its own where its rate differs from the older half's.
    """
    if not times:
        return 0.0, 0
    newest_first = sorted(times, reverse=True)
    end = as_of(now, newest_first[0])
    count, span = len(times), reach(now, times)
    rate = count / span
    while count >= 2 * FEWEST:
        half = count // 2
        newer_span = shown(end - newest_first[half])
        if newer_span < LAG_EARLY:  # what is missing there yet says more about lateness than about the rate
            break
        newer, older = half / newer_span, (count - half) / max(span - newer_span, 1.0)
        if abs(newer - older) <= SIGNIFICANT * math.sqrt(newer**2 / half + older**2 / (count - half)):
            break
        rate, count, span = newer, half, newer_span
    silence = end - newest_first[0] - LAG_LEAST - 0.5
    return (1 / silence, 1) if silence * rate > 5 else (rate, count)


def reach(now: float, times: Sequence[float]) -> float:
    """Return the seconds' worth of trades that an answer shows.

    A pool that is minutes old has not been silent for the rest of the 24 hours that an answer
    covers; a few trades in as many seconds are no rate yet, though.
    """
    if not times:
        return DAY
    return max(shown(as_of(now, max(times)) - min(times)), 0.0 if len(times) >= PAGE else BURST_SECONDS)


def unseen(age: float) -> float:
    """Return how many seconds' worth of the trades that are older than `age` seconds don't show yet."""
    usual = LAG_MORE * math.exp(-max(0.0, age - LAG_LEAST) / LAG_MORE) + max(0.0, LAG_LEAST - age)
    late = max(0.0, LAG_LATEST - max(age, LAG_EARLY)) ** 2 / (2 * (LAG_LATEST - LAG_EARLY)) + max(0.0, LAG_EARLY - age)
    return (1 - LAG_STRAGGLERS) * usual + LAG_STRAGGLERS * late


def shown(age: float) -> float:
    """Return how many seconds' worth of the trades that are at most `age` seconds old show by now."""
    return max(age - unseen(0.0) + unseen(age), SHORTEST)


def as_of(now: float, newest: float | None) -> float:
    """Return the moment that an answer shows, told by its newest trade; at most a minute ago."""
    return now if newest is None else min(now, max(newest + LAG_LEAST + 0.5, now - CACHED))


def _newer(times: Sequence[float], moment: float) -> int:
    return sum(time > moment for time in times)


def _peak(times: Sequence[float]) -> float:
    """Return the highest rate over 60 trades in a row."""
    rates = [
        PEAK_TRADES / max(times[place] - times[place + PEAK_TRADES], 1.0)
        for place in range(0, len(times) - PEAK_TRADES, PEAK_TRADES // 4)
    ]
    return max(rates, default=0.0)


def _faded(passed: float) -> float:
    """Return the seconds for which a burst has gone on after so many, on average."""
    return BURST_SECONDS * -math.expm1(-passed / BURST_SECONDS)


def _full(count: float, error: float) -> float:
    """Return the chance of 300 trades where `count` are predicted with a relative variance of `error`."""
    deviation = math.sqrt(count + count * count * error + 1)
    return 0.5 * math.erfc((PAGE - count) / (deviation * math.sqrt(2)))


def _coming(room: float, passed: float, rate: float, chance: float, length: float) -> float:
    """Return the index of one kind of burst: it overflows the window if it began longer ago than `needs`."""
    if rate * passed <= room or room <= 0:
        return 0.0
    needs = room / rate
    lost_rate = chance * rate * length * (math.exp(-needs / length) - math.exp(-passed / length))
    return lost_rate * (passed + needs) / 2
