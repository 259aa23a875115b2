"""Which pools the synthetic market has, when each is born and dies, and how busy it is at a moment.

*Founders* are there from the beginning, `pools` of them, with rates as real ones have; some die. *Newborns* keep
appearing for ever, `births` an hour: most on a launchpad, busy in their first minutes and dead within the hour. All
but the first founder, which has surges instead, now and then have a *burst*.

Nothing is kept of newborns that can't be made again: the number of one is written in its address, and in its token's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from .chance import Chance, base58, unbase58
from .market import WRAPPED_SOL, Pool, Token

RATES = (
    *(0.0, 0.0, 0.4, 0.9, 1.4, 1.9, 4.2, 6.8, 7.1, 8.5, 15.6, 19.2, 19.2, 20.0, 20.9, 21.8),
    *(22.4, 31.8, 32.6, 44.8, 59.0, 83.0, 108.0, 143.0, 164.0, 309.0, 1586.0),
)
"""Real trades per hour of 27 watched Solana pools on 2025-09-10: the shape of the market."""

HOUR, DAY = 3600, 86400

SURGE_EVERY, SURGE_FOR, SURGE_RATE = 20, 3, 400.0
"""The hottest pool: out of 20 minutes 3 with about 400 trades each, more than one answer holds."""

BURST_SLOT, BURST_SHARE = 6 * HOUR, 0.5
"""In every six hours of a pool's life there is a burst or not."""
BURST_SECONDS, BURST_FACTOR = (600, 1200), (3.0, 12.0)
"""How long a burst is, and by what it multiplies the rate."""

DEATHS, DYING = 0.2, 18 * HOUR
"""Share of the founders that die, and after how long on average."""

LONGEST_LIFE = 6 * HOUR
"""No newborn lives longer."""
NEWBORNS_LISTED = 2000
"""Lists of the busiest pools look at so many newborns at most, the youngest."""

LAUNCHPADS = (("pump-fun", 0.8), ("raydium-launchlab", 0.88), ("pumpswap", 0.96), ("raydium", 1.0))
"""Where newborns appear: exchanges with the cumulated share of each."""

UNKNOWN_SHARE, UNKNOWN_SECONDS = 0.06, (120.0, 1200.0)
"""Share of the newborns whose token lists know only in part at first, and for how long."""
UNKNOWN = (("symbol", "decimals"), ("decimals",), ("symbol",))
"""What such a token lacks."""

SUPPLY = 1_000_000_000
"""Whole tokens that there are of each token, as launchpads make them."""

_NUMBER_BYTES, _TAIL_BYTES = 8, 24


@dataclass(frozen=True, slots=True)
class Life:
    """A pool, when it lives, and what it is like; times in epoch seconds.

    `rate` is trades an hour in ordinary times. A newborn's first `launch` seconds are `rush` times as busy.
    """

    pool: Pool
    born_at: int
    died_at: int | None
    rate: float
    price: float
    reserve: float
    crowd: int
    launch: int = 0
    rush: float = 1.0
    surges: bool = False

    def lives(self, now: int) -> bool:
        return self.born_at <= now and (self.died_at is None or now < self.died_at)

    def last(self, now: int) -> int:
        """Return the latest moment up to `now` at which a trade can have been."""
        return now if self.died_at is None else min(now, self.died_at)


class Burst(NamedTuple):
    """A span of epoch seconds in which a pool is `factor` times as busy."""

    since: int
    until: int
    factor: float


class Stretch(NamedTuple):
    """A span of epoch seconds over which trades come evenly, `rate` an hour."""

    since: int
    until: int
    rate: float


class Population:
    """The pools of one network; `born` is when the founders' ages count from, in epoch seconds."""

    def __init__(self, chance: Chance, network: str, *, founders: int, births: float, born: int) -> None:
        if founders < 1:
            raise ValueError(f"pools: {founders} found, at least 1 allowed")
        if not 0 <= births < math.inf:
            raise ValueError(f"births: {births} found, allowed is 0 or more an hour")
        self._chance, self._network, self._births = chance, network, births
        lives = [self._founder(rank, founders, born) for rank in range(founders)]
        self._founders = {life.pool.address: life for life in lives}
        self.basket = self._made_basket(born)
        self._newborn = lru_cache(maxsize=2 * NEWBORNS_LISTED)(self._made_newborn)
        self._read = lru_cache(maxsize=2 * NEWBORNS_LISTED)(self._number)
        self._at_most = lru_cache(maxsize=2 * NEWBORNS_LISTED)(self._bounded)
        self._burst = lru_cache(maxsize=8 * NEWBORNS_LISTED)(self._made_burst)
        self._of_token = {life.pool.base.address: life for life in lives}
        self._of_token |= {token.address: self.basket for token in self.basket.pool.tokens if token != WRAPPED_SOL}

    @property
    def founders(self) -> Sequence[Life]:
        """The pools that are there from the beginning, the hottest first."""
        return tuple(self._founders.values())

    def life(self, address: str) -> Life | None:
        """Return the life of any pool that ever is; None for an address that is nobody's."""
        if founder := self._founders.get(address):
            return founder
        if address == self.basket.pool.address:
            return self.basket
        number = self._read("newborn", address)
        if number is None:
            return None
        life = self._newborn(number)
        return life if life.pool.address == address else None

    def of_token(self, address: str) -> Life | None:
        """Return the life of the one pool that ever has a token, which is not SOL."""
        if life := self._of_token.get(address):
            return life
        number = self._read("newborn/token", address)
        if number is None:
            return None
        life = self._newborn(number)
        return life if life.pool.base.address == address else None

    def listed(self, now: int) -> Mapping[str, Pool]:
        """Return the pools born by `now`, without newborns that have been dead for a day."""
        lives = [life for life in self._founders.values() if life.born_at <= now]
        for life in self._newborns(now - DAY - LONGEST_LIFE, now):
            if life.last(now) > now - DAY:
                lives.append(life)
        return {life.pool.address: life.pool for life in lives}

    def bursts(self, life: Life, since: int, until: int) -> Iterator[Burst]:
        """Yield the bursts of a pool that touch a span, in order of time."""
        if life.surges:
            return
        if life.launch and since < life.born_at + life.launch and life.born_at < until:
            yield Burst(life.born_at, life.born_at + life.launch, life.rush)
        for slot in range(since // BURST_SLOT, (until - 1) // BURST_SLOT + 1):
            burst = self._burst(life.pool.address, slot)
            if burst and since < burst.until and burst.since < until:
                yield burst

    def is_founder(self, address: str) -> bool:
        return address in self._founders

    def at_most(self, address: str) -> float:
        """Return a number of trades that a newborn never exceeds; infinity for a founder, whose life is long."""
        return math.inf if self.is_founder(address) else self._at_most(address)

    def expected(self, life: Life, since: int, until: int) -> float:
        """Return how many trades are to be expected in a span."""
        return sum((each.until - each.since) * each.rate for each in self.stretches(life, since, until)) / HOUR

    def _bounded(self, address: str) -> float:
        """Add up the rates of a whole life, in the hours in which trades are made.

        The bound is ten times the spread above that, and more where it is little: a chance below 1e-20.
        """
        life = self.life(address)
        if life is None or life.died_at is None:
            return math.inf
        hours = range(life.born_at // HOUR, life.died_at // HOUR + 1)
        expected = sum(self.expected(life, hour * HOUR, (hour + 1) * HOUR) for hour in hours)
        return expected + 10 * math.sqrt(expected) + 30

    def stretches(self, life: Life, since: int, until: int) -> Iterator[Stretch]:
        """Cut a span into stretches of one rate; there is none before the birth and after the death."""
        since, until = max(since, life.born_at), life.last(until)
        if since >= until or not life.rate:
            return
        bursts = list(self.bursts(life, since, until))
        cuts = {since, until}
        for burst in bursts:
            cuts |= {time for time in (burst.since, burst.until) if since < time < until}
        if life.surges:
            cuts |= set(range(-(-since // 60) * 60, until, 60))
        for start, end in pairwise(sorted(cuts)):
            factor = max((burst.factor for burst in bursts if burst.since <= start < burst.until), default=1.0)
            yield Stretch(start, end, self._rate(life, start) * factor)

    def _rate(self, life: Life, time: int) -> float:
        if life.surges and (time // 60 + self._chance.seed) % SURGE_EVERY < SURGE_FOR:
            return SURGE_RATE * 60
        return life.rate * (0.5 + self._chance.wave(f"{life.pool.address}/mood", time, DAY))

    def _made_burst(self, address: str, slot: int) -> Burst | None:
        """Return the burst of one slot, if there is one; it lies wholly within the slot."""
        unit, label = self._chance.unit, f"{address}/burst"
        if unit(label, slot) >= BURST_SHARE:
            return None
        length = _between(BURST_SECONDS, unit(f"{label}/length", slot))
        since = slot * BURST_SLOT + int(unit(f"{label}/since", slot) * (BURST_SLOT - BURST_SECONDS[1]))
        return Burst(since, since + int(length), _between(BURST_FACTOR, unit(f"{label}/factor", slot)))

    # -- founders

    def _founder(self, rank: int, founders: int, born: int) -> Life:
        """Make the founder of one rank; rank 0 is the hottest, and never dies."""
        rng = self._chance.rng(f"pool/{rank}")
        share = rank / (founders - 1) if founders > 1 else 0.0
        rate = RATES[round((1 - share) * (len(RATES) - 1))]
        age = min(150 * DAY, 8000 / max(rate, 1) * HOUR) if rank else 2 * HOUR
        symbol = "".join(rng.choices("ABCDEFGHIKLMNOPRSTUVWXY", k=rng.randint(3, 6)))
        born_at = born - int(age * rng.uniform(0.5, 1.0)) - 60
        dex, address = ("pumpswap", "raydium")[rank % 2], self._chance.address(f"pool/{rank}")
        price, reserve = 10 ** rng.uniform(-6, -3), 10 ** rng.uniform(3.5, 5.5)
        died_at = born + 600 + int(rng.expovariate(1 / DYING)) if rank and rng.random() < DEATHS else None
        pool = self._pool(address, symbol, dex, self._chance.address(f"token/{rank}"), born_at)
        return Life(pool, born_at, died_at, rate, price, reserve, crowd=40 + int(rate), surges=rank == 0)

    def _made_basket(self, born: int) -> Life:
        """Make the one pool of three tokens; no list shows it."""
        first, third = (self._token(self._chance.address(f"basket/{n}"), f"BASKET{n}") for n in (1, 2))
        address, born_at = self._chance.address("basket"), born - 30 * DAY
        name = f"{first.symbol} / {third.symbol} / SOL"
        pool = Pool(self._network, address, name, "orca", first, WRAPPED_SOL, born_at, others=(third,))
        return Life(pool, born_at, None, rate=20.0, price=1e-4, reserve=20_000.0, crowd=60)

    # -- newborns

    def _newborns(self, since: int, until: int) -> Iterator[Life]:
        """Yield the newborns of a span, oldest first; of very many the youngest."""
        if not self._births:
            return
        gap = HOUR / self._births
        last = int(until / gap)
        for number in range(max(int(since / gap) - 1, last - NEWBORNS_LISTED, 0), last + 1):
            life = self._newborn(number)
            if since < life.born_at <= until:
                yield life

    def _made_newborn(self, number: int) -> Life:
        """Make a newborn: the n-th comes in the n-th gap since the epoch, somewhere."""
        rng = self._chance.rng(f"newborn/{number}")
        born_at = int((number + rng.random()) * HOUR / (self._births or 1))
        place = rng.random()
        dex = next(dex for dex, share in LAUNCHPADS if place < share)
        life = min(LONGEST_LIFE, 90 + int(rng.lognormvariate(math.log(20 * 60), 1.3)))
        rate = min(600.0, rng.lognormvariate(math.log(40), 1.0))
        symbol = "".join(rng.choices("ABCDEFGHIKLMNOPRSTUVWXY", k=rng.randint(3, 6)))
        address, token = self._written("newborn", number), self._written("newborn/token", number)
        pool = self._pool(address, symbol, dex, token, born_at)
        return Life(
            self._known_in_part(pool, number),
            born_at,
            born_at + life,
            rate,
            price=10 ** rng.uniform(-6, -4),
            reserve=10 ** rng.uniform(3.0, 4.5),
            crowd=20 + int(rate),
            launch=int(rng.uniform(90, 900)),
            rush=_between(BURST_FACTOR, rng.random()),
        )

    def _known_in_part(self, pool: Pool, number: int) -> Pool:
        """Let some tokens be known to lists only in part at first."""
        share = self._chance.unit("newborn/unknown", number) / UNKNOWN_SHARE
        if share >= 1:
            return pool
        known_at = (pool.created_at or 0) + int(_between(UNKNOWN_SECONDS, share))
        return replace(pool, unknown=UNKNOWN[number % len(UNKNOWN)], known_at=known_at)

    def _written(self, kind: str, number: int) -> str:
        """Return the address of a newborn or its token: its number, veiled by what follows it."""
        tail = self._chance.number(f"{kind}/address/{number}", _TAIL_BYTES)
        return base58((number ^ self._veil(kind, tail)) << 8 * _TAIL_BYTES | tail)

    def _number(self, kind: str, address: str) -> int | None:
        """Read the number of a newborn off an address; another address gives none, or one of another pool."""
        number = unbase58(address)
        if not self._births or number is None or number >> 8 * (_NUMBER_BYTES + _TAIL_BYTES):
            return None
        tail = number & (1 << 8 * _TAIL_BYTES) - 1
        found = (number >> 8 * _TAIL_BYTES) ^ self._veil(kind, tail)
        return found if found < 2**40 else None

    def _veil(self, kind: str, tail: int) -> int:
        return self._chance.number(f"{kind}/veil/{tail}", _NUMBER_BYTES)

    # -- both

    def _pool(self, address: str, symbol: str, dex: str, token: str, born_at: int) -> Pool:
        base = self._token(token, symbol)
        return Pool(self._network, address, f"{symbol} / SOL", dex, base, WRAPPED_SOL, born_at)

    def _token(self, address: str, symbol: str) -> Token:
        image = f"https://assets.geckoterminal.com/simulated/{symbol.lower()}"
        return Token(address, symbol.title(), symbol, 6, image, supply=SUPPLY)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share
