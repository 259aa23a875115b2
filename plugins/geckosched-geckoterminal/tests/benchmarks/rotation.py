"""Measure which share of the trades a rotation captures, as a ratio to one that knows the future.

`python plugins/geckosched-geckoterminal/tests/benchmarks/rotation.py [--quick] [--seeds 3] [--series FOLDER]` prints
the tables of docs/rotation.md. Nothing here is asserted, and pytest does not collect it.

A market is made beforehand: block times of each pool, and when each trade shows up. A policy is asked at every call
whom to ask, and gets what the API would show. The clairvoyant knows all trades to come; it is the best of three: whose
window overflows first; the same, but of those that have overflowed the busiest; and the fullest first. None of them is
optimal, so a ratio may exceed 1. Every run starts with all rates unknown; "cold" counts from there, "warm" from an hour
later.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from pathlib import Path
from typing import NamedTuple, Protocol

from geckosched_geckoterminal.lateness import Sight
from geckosched_geckoterminal.population import RATES
from geckosched_geckoterminal.replay import ReplayMarket
from geckosched_geckoterminal.rotation import DAY, PAGE, Loss, TradeRotation
from geckosched_geckoterminal.rows import TradePage

START = 1_790_628_400.0
HOUR, MINUTE = 3600.0, 60.0
LATEST = 61.0
SERIES = Path(__file__).resolve().parents[5] / "shared/geckoterminal/samples/series"
RECORDED = 25
"""Place in `RATES` of the pool for which the recorded one stands: 221 trades an hour instead of 309."""

# -- markets


class Pool(NamedTuple):
    """All trades of a pool, by block time, and when each shows up."""

    blocks: list[float]
    visible: list[float]


@dataclass
class Market:
    pools: list[Pool]
    calls: list[float]
    end: float


@dataclass(frozen=True)
class Kind:
    """What a market is like; `every` is hours between a pool's bursts, `down` hours without a call in the middle."""

    name: str
    pools: int
    calls: int
    load: float
    shape: str = "pareto"
    every: float = 12.0
    deaths: float = 0.0
    down: float = 0.0


KINDS = (
    Kind("60 pools, load 0.4", 60, 10, 0.4),
    Kind("100 pools, load 0.6", 100, 10, 0.6, "lognormal"),
    Kind("100 pools, load 0.8", 100, 10, 0.8),
    Kind("120 pools, load 0.8", 120, 20, 0.8, "lognormal"),
    Kind("200 pools, load 0.6", 200, 30, 0.6, "lognormal"),
    Kind("stormy, 100 pools, load 0.4", 100, 10, 0.4, every=4),
    Kind("stormy, 100 pools, load 0.8", 100, 10, 0.8, every=4),
)
HARD = (
    Kind("half of the pools die", 100, 10, 0.8, deaths=0.5),
    Kind("overload 1.5", 100, 10, 1.5),
    Kind("down for 2 h", 100, 10, 0.6, down=2),
    Kind("down for 8 h", 60, 10, 0.6, down=8),
    Kind("down for 26 h", 60, 10, 0.3, down=26),
)


def made(kind: Kind, seed: int, hours: float) -> Market:
    """Make a market; its heavy-tailed rates are scaled so that their sum is `load` times what the calls can carry."""
    rng = random.Random(f"{kind.name}/{seed}")
    if kind.shape == "pareto":
        weights = [min(rng.paretovariate(1.1), 300) for _ in range(kind.pools)]
    else:
        weights = [math.exp(rng.gauss(0, 1.8)) for _ in range(kind.pools)]
    total = kind.load * PAGE * kind.calls / MINUTE
    end = START + (hours + kind.down) * HOUR
    pools = []
    for weight in weights:
        rate = weight / sum(weights) * total
        dies = rng.uniform(START, end) if rng.random() < kind.deaths else end
        pools.append(traded(rng, rate, START - min(DAY, max(3 * HOUR, 600 / rate)), dies, kind.every))
    middle = START + hours / 2 * HOUR
    calls = [START + place * MINUTE / kind.calls for place in range(int((end - START) / MINUTE * kind.calls))]
    calls = [time for time in calls if not middle < time < middle + kind.down * HOUR]
    return Market(pools, calls, end)


def traded(rng: random.Random, rate: float, start: float, end: float, every: float) -> Pool:
    """Make a pool's trades: bursts of 10 to 20 minutes at 3 to 12 times the rate, which swings by a half in a day."""
    bursts, at = [], start
    while every and (at := at + rng.expovariate(1 / (every * HOUR))) < end:
        bursts.append((at, at + rng.uniform(600, 1200), rng.uniform(3, 12)))
    phase, period = rng.uniform(0, math.tau), rng.uniform(6, 24) * HOUR
    blocks: list[float] = []
    step = MINUTE
    time = start
    while time < end:
        factor = max((factor for since, until, factor in bursts if since <= time < until), default=1.0)
        swing = 1 + 0.5 * math.sin(phase + time * math.tau / period) if every else 1.0
        mean = rate * factor * swing * step
        count = poisson(rng, mean)
        blocks.extend(sorted(float(int(time + rng.random() * step)) for _ in range(count)))
        time += step
    blocks.sort()
    return Pool(blocks, [block + lag(rng) for block in blocks])


def poisson(rng: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def lag(rng: random.Random) -> float:
    """Say how long after its block a trade shows up, by the law of `fills`."""
    if rng.random() < 0.02:
        return float(rng.randint(20, 61))
    return min(LATEST, 2 + int(rng.expovariate(1 / 4)))


def recorded(series: Path, seed: int, per_hour: float) -> Market:
    """Make a day of the 27 real rates, one of them the recorded pool, which is silent for the first half hour."""
    rng = random.Random(f"real/{seed}")
    market = ReplayMarket(series)
    prints = max(market._prints.values(), key=len)
    begins = market.begins - HOUR / 2 + seed * HOUR
    end = begins + DAY
    pools = [traded(rng, rate / HOUR, begins - DAY, end, 0) if rate else Pool([], []) for rate in RATES]
    pools[RECORDED] = Pool(
        [float(known.trade.block_time) for known in prints], [float(known.trade.visible_at) for known in prints]
    )
    calls = [begins + minute * MINUTE for minute in range(1440) for _ in range(min(4, poisson(rng, per_hour / 60)))]
    return Market(pools, calls, end)


# -- the API


@dataclass
class Api:
    """Answers as the API does, and counts what each pool's answers held for the first time."""

    market: Market
    seen: list[bytearray] = field(init=False)
    newest: dict[int, list[int]] = field(default_factory=dict)
    polled: dict[int, float] = field(default_factory=dict)
    horizon: dict[int, tuple[float, float]] = field(default_factory=dict)
    sights: dict[int, Sight] = field(default_factory=dict)
    longest: float = 0.0

    def __post_init__(self) -> None:
        self.seen = [bytearray(len(pool.blocks)) for pool in self.market.pools]

    def ask(self, place: int, now: float) -> tuple[TradePage, bool]:
        """Return what is shown of the trades, and whether one of the newest 20 of the last answer is among them."""
        blocks, visible = self.market.pools[place]
        settled, last = bisect_left(blocks, now - LATEST), bisect_right(blocks, now)
        fresh = [index for index in range(settled, last) if visible[index] <= now][-PAGE:]
        first = max(settled - (PAGE - len(fresh)), bisect_left(blocks, now - DAY))
        shown = [*range(first, settled), *fresh]
        for index in shown:
            self.seen[place][index] = 1
        overlap = not set(self.newest.get(place, ())).isdisjoint(shown)
        if shown:
            self.newest[place] = shown[-20:]
        self.horizon.setdefault(place, (now, blocks[shown[0]] if len(shown) == PAGE else now - DAY))
        self.longest = max(self.longest, now - self.polled.get(place, self.market.calls[0]))
        self.polled[place] = now
        lags = [visible[index] - blocks[index] for index in shown]
        seen = max((visible[index] for index in shown), default=None)
        return TradePage(times=[blocks[index] for index in reversed(shown)], lags=lags, seen=seen), overlap

    def captured(self, since: float) -> int:
        """Count the trades with blocks from `since` on that some answer showed."""
        pools = zip(self.market.pools, self.seen, strict=True)
        return sum(sum(seen[bisect_left(pool.blocks, since) :]) for pool, seen in pools)

    def lost(self, place: int) -> list[float]:
        """Return the blocks of a pool that no answer showed, since its first answer."""
        if place not in self.horizon:
            return []
        asked, oldest = self.horizon[place]
        blocks, visible = self.market.pools[place]
        return [
            block
            for block, shown, seen in zip(blocks, visible, self.seen[place], strict=True)
            if not seen and block >= oldest and asked < shown <= self.market.end
        ]

    def total(self, since: float) -> int:
        end = self.market.end
        return sum(
            block >= since and shown <= end for pool in self.market.pools for block, shown in zip(*pool, strict=True)
        )


# -- policies


class Policy(Protocol):
    """Says whom to ask, and is told the answer."""

    def next(self, now: float, /) -> int | None: ...

    def told(self, place: int, now: float, times: Sequence[float], overlap: bool, /) -> Loss | None: ...


class Rotation:
    """The plugin's own, for which every call is free."""

    def __init__(self, market: Market, fill: float = 0.0) -> None:
        self.names = [f"pool{place:03}" for place in range(len(market.pools))]
        self.places = {name: place for place, name in enumerate(self.names)}
        self.rotation, self.fill = TradeRotation(dict.fromkeys(self.names, 0)), fill

    def next(self, now: float) -> int | None:
        picked = self.rotation.pick(now, 1, fill=self.fill)
        return self.places[picked[0]] if picked else None

    def told(self, place: int, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
        return self.rotation.observe(self.names[place], now, times, overlap)


class RotationWithFigures(Rotation):
    """The same, told every two minutes how many trades each pool had, as the collector is by `geckoterminal-pools`."""

    def __init__(self, market: Market, fill: float = 0.0) -> None:
        super().__init__(market, fill)
        self.pools, self.polled, self.looked_at = market.pools, dict[int, float](), -math.inf

    def next(self, now: float) -> int | None:
        if now >= self.looked_at + 2 * MINUTE:
            self.looked_at = now
            for place, polled in self.polled.items():
                self.look(place, polled, now)
        return super().next(now)

    def told(self, place: int, now: float, times: Sequence[float], overlap: bool) -> Loss | None:
        self.polled[place] = now
        return super().told(place, now, times, overlap)

    def look(self, place: int, polled: float, now: float) -> None:
        blocks, visible = self.pools[place]
        hour = range(bisect_left(blocks, now - HOUR), bisect_right(blocks, now))
        shown = [index for index in hour if visible[index] <= now]
        recent = sum(blocks[index] > now - 5 * MINUTE for index in shown)
        fresh = sum(visible[index] > polled for index in shown) if polled > now - HOUR else None
        self.rotation.hint(self.names[place], now, recent, 5 * MINUTE, fresh)


class RoundRobin:
    def __init__(self, market: Market) -> None:
        self.places = cycle(range(len(market.pools)))

    def next(self, _now: float) -> int | None:
        return next(self.places)

    def told(self, _place: int, _now: float, _times: Sequence[float], _overlap: bool) -> Loss | None:
        return None


class EarliestPredicted:
    """Whose window overflows first, as predicted from a rate that is smoothed over answers."""

    def __init__(self, market: Market) -> None:
        self.rates: dict[int, float] = {}
        self.ends = dict.fromkeys(range(len(market.pools)), 0.0)

    def next(self, _now: float) -> int | None:
        return min(self.ends, key=lambda place: self.ends[place])

    def told(self, place: int, now: float, times: Sequence[float], _overlap: bool) -> Loss | None:
        rate = len(times) / max(now - times[-1], 1.0) if times else 1 / DAY
        self.rates[place] = 0.5 * rate + 0.5 * self.rates.get(place, rate)
        self.ends[place] = now + PAGE / self.rates[place]
        return None


class Clairvoyant:
    """Knows when every trade will show up; what it has asked for counts as seen."""

    def __init__(self, market: Market) -> None:
        self.shown = [sorted(pool.visible) for pool in market.pools]
        self.seen = [max(0, bisect_right(shown, START) - PAGE) for shown in self.shown]

    def told(self, place: int, now: float, _times: Sequence[float], _overlap: bool) -> Loss | None:
        self.seen[place] = bisect_right(self.shown[place], now)
        return None


class FirstToOverflow(Clairvoyant):
    def next(self, _now: float) -> int | None:
        return min(range(len(self.shown)), key=self.overflows)

    def overflows(self, place: int) -> float:
        shown, last = self.shown[place], self.seen[place] + PAGE
        return shown[last] if last < len(shown) else math.inf


class BusiestFull(FirstToOverflow):
    def next(self, now: float) -> int | None:
        return min(range(len(self.shown)), key=lambda place: self.order(place, now))

    def order(self, place: int, now: float) -> tuple[bool, float]:
        overflows = self.overflows(place)
        if overflows > now:
            return True, overflows
        shown = self.shown[place]
        return False, bisect_right(shown, now) - bisect_right(shown, now + MINUTE)


class FullestFirst(Clairvoyant):
    def next(self, now: float) -> int | None:
        return max(range(len(self.shown)), key=lambda place: self.worth(place, now))

    def worth(self, place: int, now: float) -> int:
        shown = self.shown[place]
        count = bisect_right(shown, now) - self.seen[place]
        return count if count < PAGE else PAGE + bisect_right(shown, now + MINUTE) - count - self.seen[place]


# -- measuring


def run(market: Market, policy: Policy) -> tuple[Api, dict[int, list[Loss]]]:
    """Spend all calls; return what was shown, and the losses told for each pool."""
    api, losses = Api(market), dict[int, list[Loss]]()
    for now in market.calls:
        place = policy.next(now)
        if place is not None:
            ask(api, policy, place, now, losses)
    return api, losses


def ask(api: Api, policy: Policy, place: int, now: float, losses: dict[int, list[Loss]]) -> None:
    page, overlap = api.ask(place, now)
    sight = api.sights.setdefault(place, Sight())
    loss = policy.told(place, now, page.times, overlap) or (sight.loss(page) if overlap else None)
    sight.observe(page)
    if loss:
        losses.setdefault(place, []).append(loss)


class Estimate(NamedTuple):
    """Losses told against the true ones; `outside` are true ones in no span, `false` the spans without one."""

    truth: int
    told: int
    outside: int
    spans: int
    false: int


def estimated(api: Api, policy: Policy, losses: dict[int, list[Loss]]) -> Estimate:
    """Compare the losses told with the true ones, after a last look at every pool."""
    truth = outside = false = 0
    for place in range(len(api.market.pools)):
        ask(api, policy, place, api.market.end, losses)
        lost = api.lost(place)
        truth += len(lost)
        spans = losses.get(place, [])
        covered = [(bisect_left(lost, loss.since), bisect_right(lost, loss.until)) for loss in spans]
        false += sum(first == last for first, last in covered)
        marks = [0] * (len(lost) + 1)
        for first, last in covered:
            marks[first] += 1
            marks[last] -= 1
        outside += sum(depth == 0 for depth in list(accumulate(marks))[: len(lost)])
    told = [loss.count for spans in losses.values() for loss in spans]
    return Estimate(truth, sum(told), outside, len(told), false)


CLAIRVOYANTS: tuple[type[FirstToOverflow | FullestFirst], ...] = FirstToOverflow, BusiestFull, FullestFirst

POLICIES: dict[str, Callable[[Market], Policy]] = {
    "rotation": Rotation,
    "rotation, with figures": RotationWithFigures,
    "earliest predicted overflow": EarliestPredicted,
    "round robin": RoundRobin,
}


def ratios(kind: Kind, seed: int, hours: float) -> dict[str, tuple[float, float, float]]:
    """Return each policy's captured share as a ratio to the clairvoyant, cold and warm, and the longest wait in h."""
    market = made(kind, seed, hours)
    since = START, START + min(HOUR, hours / 3 * HOUR)
    knowing = [run(market, policy(market))[0] for policy in CLAIRVOYANTS]
    best = [max(api.captured(moment) for api in knowing) for moment in since]
    found = {"clairvoyant, of all trades": (*(b / knowing[0].total(s) for b, s in zip(best, since, strict=True)), 0.0)}
    for name, policy in POLICIES.items():
        api, _ = run(market, policy(market))
        cold, warm = (api.captured(s) / b for b, s in zip(best, since, strict=True))
        found[name] = cold, warm, api.longest / HOUR
    return {name: (figures[0], figures[1], figures[2]) for name, figures in found.items()}


def table_of_ratios(seeds: int, hours: float, kinds: Sequence[Kind]) -> Iterator[str]:
    yield "| market | policy | cold, mean (worst) | warm, mean (worst) | longest wait, h |"
    yield "|---|---|---:|---:|---:|"
    for kind in kinds:
        runs = [ratios(kind, seed, hours) for seed in range(seeds)]
        for name in runs[0]:
            cold, warm, waits = zip(*(found[name] for found in runs), strict=True)
            shares = " | ".join(f"{sum(of) / seeds:.3f} ({min(of):.3f})" for of in (cold, warm))
            yield f"| {kind.name} | {name} | {shares} | {max(waits):.1f} |"


def table_of_losses(seeds: int, hours: float, kinds: Sequence[Kind]) -> Iterator[str]:
    yield "| market | told / truth by seed | all | in no span | spans | without a loss |"
    yield "|---|---|---:|---:|---:|---:|"
    for kind in kinds:
        found = []
        for seed in range(100, 100 + seeds):
            market = made(kind, seed, hours)
            policy = RotationWithFigures(market)
            api, losses = run(market, policy)
            found.append(estimated(api, policy, losses))
        by_seed = ", ".join(f"{one.told / max(one.truth, 1):.2f}" for one in found)
        total = Estimate(*(sum(column) for column in zip(*found, strict=True)))
        yield (
            f"| {kind.name} | {by_seed} | {total.told / max(total.truth, 1):.2f} "
            f"| {total.outside / max(total.truth, 1):.2%} | {total.spans} | {total.false} |"
        )


def table_of_the_real_day(series: Path, seeds: int) -> Iterator[str]:
    """Run the 27 real rates at 40 free calls an hour; a run without one waits where a window is about to overflow."""
    yield "| seed | trades | policy | lost | calls/h | longest wait, h |"
    yield "|---|---:|---|---:|---:|---:|"
    for seed in range(seeds):
        market = recorded(series, seed, 40)
        total = Api(market).total(market.end - DAY)
        for name, policy, waits in (
            ("free calls only", Rotation, False),
            ("a run may wait", Rotation, True),
            ("a run may wait, and pools' figures are known", RotationWithFigures, True),
        ):
            lost, calls, wait = of_the_real_day(market, policy(market), waits=waits)
            yield f"| {seed} | {total} | {name} | {lost} | {calls:.1f} | {wait:.1f} |"


def of_the_real_day(market: Market, policy: Rotation, *, waits: bool) -> tuple[int, float, float]:
    """Return the trades lost, the calls an hour, and the longest wait in hours."""
    api, losses = Api(market), dict[int, list[Loss]]()
    asked = 0
    for minute in range(1440):
        slot = market.end - DAY + minute * MINUTE
        free = bisect_right(market.calls, slot) - bisect_left(market.calls, slot)
        policy.fill, now = (0.003, slot) if free else (0.1, slot + 20)
        for place in range(free or int(waits)):
            chosen = policy.next(now + place)
            if chosen is None:
                break
            ask(api, policy, chosen, now + place, losses)
            asked += 1
    for place in range(len(market.pools)):
        api.ask(place, market.end)
    return sum(len(api.lost(place)) for place in range(len(market.pools))), asked / 24, api.longest / HOUR


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the rotation of trades.")
    parser.add_argument("--quick", action="store_true", help="one seed, two markets, an hour: to see that it works")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="markets of each kind")
    parser.add_argument("--series", type=Path, default=SERIES, help="folder of the recorded day")
    options = parser.parse_args()
    seeds, hours = (1, 1.0) if options.quick else (options.seeds, 3.0)
    kinds, hard = (KINDS[:2], HARD[2:3]) if options.quick else (KINDS, (*KINDS[1:3], KINDS[-1], *HARD))
    tables = [table_of_ratios(seeds, hours, kinds), table_of_losses(seeds, hours, hard)]
    if options.series.is_dir():
        tables.insert(0, table_of_the_real_day(options.series, seeds))
    for table in tables:
        for line in table:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
