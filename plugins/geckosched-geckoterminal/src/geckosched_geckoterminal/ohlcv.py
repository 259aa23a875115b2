"""`geckoterminal-ohlcv`: candles of the watched pools, from the newest final one to now.

`CandlePlan` decides which pool and timeframe is asked next and for how much; it is told the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext, parse_duration

from .client import BUDGET, ApiError, Client, GoneError, PlanLimitError, Settings
from .rows import TIMEFRAMES, CandlePage, candle_page
from .watchlist import gone_batch, stored, watched

__all__ = ["CandlePlan", "Ohlcv"]

LARGEST_LIMIT = 1000
"""Candles of one answer at most (api.md, 3.1)."""

DAY = 86_400.0
"""Seconds after which a quiet pool, or one that is gone, is asked again."""

QUIET = 3600.0
"""Seconds without a trade that make a pool a quiet one."""

AGAIN_AFTER = 300.0
"""Seconds until a pair whose call failed is asked again."""

LONGEST_RUN = 50
"""Seconds after which a run starts no further call: the next slot is near."""


@dataclass
class OhlcvOptions:
    """Options of `geckoterminal-ohlcv`.

    `timeframes` are of 1m 5m 15m 1h 4h 12h 1d. Each is asked for once in `refresh`, those of more
    than that once in their own length.
    """

    timeframes: list[str] = field(default_factory=lambda: ["1m", "15m", "1h", "1d"])
    refresh: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if isinstance(self.timeframes, str) or not self.timeframes:
            raise ConfigError(f"timeframes: {self.timeframes!r} is no list of at least one")
        for name in self.timeframes:
            if name not in TIMEFRAMES:
                raise ConfigError(f"timeframes: {name!r} is none of {' '.join(TIMEFRAMES)}")
        self.timeframes = list(dict.fromkeys(self.timeframes))
        self.refresh = timedelta(microseconds=parse_duration(self.refresh, "refresh"))
        if self.refresh < timedelta(minutes=1):
            raise ConfigError(f"refresh: {self.refresh} is less than 1m")


class Ohlcv(Collector):
    """Ask for the candles that are missing, the most overdue pool and timeframe first.

    A pool and a timeframe together are a target and a transaction. A run makes one call, and goes
    on while calls are free.
    """

    name = "geckoterminal-ohlcv"
    every = "1m"
    priority = 10
    timeout = "5m"
    budget = BUDGET
    calls_per_run = 2
    Options = OhlcvOptions

    def collect(self, run: RunContext) -> Iterator[list[Batch] | None]:
        """Yield the candles of one pool and timeframe at a time."""
        settings = Settings.read(run.settings)
        network = settings.network
        plan = CandlePlan.restore(
            run.state,
            watched(run, network),
            run.options.timeframes,
            refresh=run.options.refresh.total_seconds(),
        )
        traded = _Traded(run, network)
        saved, calls = True, 0
        with Client(run, settings) as client:
            while _goes_on(run, calls) and (pair := plan.next(_now(run), traded)):
                calls += 1
                plan.defer(*pair, _now(run) + AGAIN_AFTER)  # until it is observed
                saved = False
                with run.target(" ".join(pair)):
                    batches = _ask(run, client, network, *pair, plan)
                    plan.save(run.state)
                    yield batches
                    saved = True
        if not saved:  # the last call failed: remember when to try again
            plan.save(run.state)
            yield None


@dataclass(slots=True)
class _Pair:
    """What is known of a pool's candles of one timeframe; times in epoch seconds."""

    asked_at: float | None = None
    final: int | None = None  # ts of the newest candle that is stored as final
    newest: int | None = None  # ts of the newest candle seen
    quiet: bool = False  # nothing new at the last answer, and nothing in the hour before it
    not_before: float | None = None

    def rests(self, now: float) -> bool:
        """Tell whether a quiet pool's day since it was asked is not over yet."""
        return self.quiet and self.asked_at is not None and self.asked_at <= now < self.asked_at + DAY


class CandlePlan:
    """Decide which candles to ask for next.

    A pair of pool and timeframe is due once max(step, `refresh`) has passed since it was last
    asked; a quiet pool's after a day, unless it is known to trade again. A pool that is gone is
    asked once a day, for one of them. All times are epoch seconds.
    """

    def __init__(self, pools: Iterable[str], timeframes: Sequence[str], *, refresh: float = 3600.0) -> None:
        self.refresh = refresh
        self._timeframes = list(timeframes)
        self._pairs = {(pool, name): _Pair() for pool in pools for name in timeframes}
        self._gone: dict[str, float] = {}  # since when
        self._gone_asked: dict[str, float] = {}

    def next(self, now: float, traded: Callable[[str, float], bool]) -> tuple[str, str] | None:
        """Return pool and timeframe of the most overdue pair, `None` if none is due.

        `traded(pool, since)` tells whether a trade of the pool is known that is newer than
        `since`; it is asked of quiet pools only.
        """
        due: list[tuple[float, int, str]] = []
        for (pool, name), pair in self._pairs.items():
            if pair.not_before is not None and now < pair.not_before <= now + DAY:
                continue
            if self._left_alone(pool, now):
                continue
            due_at = self._due_at(pair, name, now)
            if due_at > now:
                continue
            if pair.rests(now) and not traded(pool, now - QUIET):
                continue
            due.append((due_at, self._timeframes.index(name), pool))
        if not due:
            return None
        _, place, pool = min(due)
        return pool, self._timeframes[place]

    def missing(self, pool: str, name: str, now: float) -> int:
        """Return how many candles to ask for: from the newest final one to now, at most 1000.

        The newest final one is among them. That leaves room for the running candle's coming
        twice, and shows that nothing lies between.
        """
        final, step = self._pairs[pool, name].final, TIMEFRAMES[name].step
        if final is None:
            return LARGEST_LIMIT
        return min(max(int(now // step) - final // step + 1, 1), LARGEST_LIMIT)

    def observe(self, pool: str, name: str, now: float, page: CandlePage) -> None:
        """Take in an answer."""
        pair, step = self._pairs[pool, name], TIMEFRAMES[name].step
        known = -math.inf if pair.newest is None else pair.newest
        found = -math.inf if page.newest is None else page.newest
        pair.quiet = found <= known and max(found, known) + step <= now - QUIET
        pair.asked_at = now
        pair.not_before = None
        if page.newest is not None:
            pair.newest = page.newest if pair.newest is None else max(pair.newest, page.newest)
        if page.newest_final is not None:
            final = page.newest_final
            pair.final = final if pair.final is None else max(pair.final, final)

    def refused(self, pool: str, name: str, now: float) -> None:
        """Take in that the API won't answer: the pair is asked again when it is due."""
        self._pairs[pool, name].asked_at = now
        self._pairs[pool, name].not_before = None

    def defer(self, pool: str, name: str, until: float) -> None:
        """Leave a pair out until `until`, at most a day ahead, or until it is observed."""
        self._pairs[pool, name].not_before = until

    def gone(self, pool: str, now: float) -> float:
        """Take in that the API doesn't know the pool; return since when."""
        self._gone_asked[pool] = now
        return self._gone.setdefault(pool, now)

    def back(self, pool: str) -> bool:
        """Take in that the API knows the pool; return whether it was gone."""
        self._gone_asked.pop(pool, None)
        return self._gone.pop(pool, None) is not None

    def save(self, state: MutableMapping[str, Any]) -> None:
        """Write all that is known into `run.state`."""
        pairs: dict[str, dict[str, Any]] = {}
        for (pool, name), pair in self._pairs.items():
            pairs.setdefault(pool, {})[name] = asdict(pair)
        state["pairs"] = pairs
        state["gone"] = self._gone
        state["gone_asked"] = self._gone_asked

    @classmethod
    def restore(
        cls,
        state: Mapping[str, Any],
        pools: Iterable[str],
        timeframes: Sequence[str],
        *,
        refresh: float = 3600.0,
    ) -> CandlePlan:
        """Read what `save` wrote, as far as it concerns these pools and timeframes."""
        plan = cls(pools, timeframes, refresh=refresh)
        for (pool, name), pair in plan._pairs.items():
            for key, value in state.get("pairs", {}).get(pool, {}).get(name, {}).items():
                setattr(pair, key, value)
        watching = {pool for pool, _ in plan._pairs}
        for pool in watching & state.get("gone", {}).keys():
            plan._gone[pool] = state["gone"][pool]
            plan._gone_asked[pool] = state["gone_asked"][pool]
        return plan

    def _left_alone(self, pool: str, now: float) -> bool:
        """Tell whether a pool is gone and was asked within the last day, for whatever timeframe."""
        asked_at = self._gone_asked.get(pool)
        return asked_at is not None and asked_at <= now < asked_at + DAY

    def _due_at(self, pair: _Pair, name: str, now: float) -> float:
        """Return when a pair is due; one asked in the future (the clock was set back) is now."""
        if pair.asked_at is None or pair.asked_at > now:
            return -math.inf
        return pair.asked_at + max(TIMEFRAMES[name].step, self.refresh)


class _Traded:
    """Ask the stored trades once a run whether a pool traded lately."""

    def __init__(self, run: RunContext, network: str) -> None:
        self._run, self._network = run, network
        self._newest: dict[str, str] = {}

    def __call__(self, pool: str, since: float) -> bool:
        if pool not in self._newest:
            found = stored(
                self._run,
                "SELECT max(block_timestamp) AS newest FROM gt_trades WHERE network = ? AND pool = ?",
                self._network,
                pool,
            )
            self._newest[pool] = (found[0]["newest"] if found else None) or ""
        return self._newest[pool] > f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _now(run: RunContext) -> float:
    return run.now().timestamp()


def _goes_on(run: RunContext, calls: int) -> bool:
    """Tell whether the run makes another call: the first may wait, those that follow are free."""
    if run.stopping or run.now() - run.started_at > timedelta(seconds=LONGEST_RUN):
        return False
    return calls == 0 or run.calls_free() > 0


def _ask(run: RunContext, client: Client, network: str, pool: str, name: str, plan: CandlePlan) -> list[Batch]:
    """Ask for one pool's candles of one timeframe; return what is to be stored."""
    timeframe = TIMEFRAMES[name]
    try:
        body, made_at = client.ask(
            "networks",
            network,
            "pools",
            pool,
            "ohlcv",
            timeframe.unit,
            aggregate=timeframe.aggregate,
            limit=plan.missing(pool, name, _now(run)),
        )
    except GoneError:
        run.log.info("%s is gone; asked again in a day", pool)
        return [gone_batch(run, network, pool, plan.gone(pool, _now(run)))]
    except PlanLimitError as error:
        run.log.info("%s %s: %s", pool, name, error)
        plan.refused(pool, name, _now(run))
        return []
    except ApiError:
        plan.refused(pool, name, _now(run))
        raise
    at = made_at.timestamp()
    page = candle_page(body, network=network, pool=pool, timeframe=timeframe, at=at, run_id=run.id)
    for row in page.bad:
        run.problem(f"{pool} {name} {row.where}", row.error)
    plan.observe(pool, name, _now(run), page)
    batches = [Batch("gt_ohlcv", page.rows, pk=("network", "pool", "timeframe", "ts"), stamp=("run_id",))]
    if plan.back(pool):
        batches.append(gone_batch(run, network, pool, None))
    return batches
