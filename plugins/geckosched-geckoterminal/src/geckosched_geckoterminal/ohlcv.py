"""`geckoterminal-ohlcv`: candles of the watched pools, from the newest final one to now, and what is missing between.

`CandlePlan` (candle_plan.py) decides which pool and timeframe is asked next and for how much; here it is asked and
stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from geckosched import Batch, Collector, ConfigError, RunContext, Setup, parse_duration

from .candle_plan import Ask, CandlePlan
from .client import BUDGET, ApiError, Client, GoneError, PlanLimitError, Settings
from .estimates import candle_calls, pools_watched
from .rows import TIMEFRAMES, CandlePage, candle_page
from .stretches import Stretch
from .watchlist import gone_batch, stored, watched

__all__ = ["TIMEFRAMES_DEFAULT", "CandlePlan", "Ohlcv", "OhlcvOptions", "ask_page", "candle_batch", "checked", "lose"]

TIMEFRAMES_DEFAULT = ("1m", "15m", "1h", "1d")
"""Timeframes that are collected unless asked otherwise."""

BACKLOG = 12
"""Pairs and holes that may be due without a run's waiting for more than one call."""

LONGEST_RUN = 50
"""Seconds after which a run starts no further call: the next slot is near."""


@dataclass
class OhlcvOptions:
    """Options of `geckoterminal-ohlcv`.

    `timeframes` are of 1m 5m 15m 1h 4h 12h 1d. Each is asked for once in `refresh`, those of more
    than that once in their own length.
    """

    timeframes: list[str] = field(default_factory=lambda: list(TIMEFRAMES_DEFAULT))
    refresh: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        self.timeframes = checked(self.timeframes)
        self.refresh = timedelta(microseconds=parse_duration(self.refresh, "refresh"))
        if self.refresh < timedelta(minutes=1):
            raise ConfigError(f"refresh: {self.refresh} is less than 1m")


def checked(timeframes: Sequence[str]) -> list[str]:
    """Return the option `timeframes`, each once; raise `ConfigError` for what the public plan doesn't have."""
    if isinstance(timeframes, str) or not timeframes:
        raise ConfigError(f"timeframes: {timeframes!r} is no list of at least one")
    for name in timeframes:
        if name not in TIMEFRAMES:
            raise ConfigError(f"timeframes: {name!r} is none of {' '.join(TIMEFRAMES)}")
    return list(dict.fromkeys(timeframes))


class Ohlcv(Collector):
    """Ask for the candles that are missing, the most overdue pool and timeframe first.

    A pool and a timeframe together are a target and a transaction. A run waits for one call, and goes on while calls
    are free; while more than `BACKLOG` pairs and holes are due it waits for further ones, behind all that is more
    urgent.
    """

    name = "geckoterminal-ohlcv"
    every = "1m"
    priority = 10
    timeout = "5m"
    budget = BUDGET
    Options = OhlcvOptions

    @staticmethod
    def calls_per_run(options: OhlcvOptions, setup: Setup) -> float:
        """Count the calls of a run for the watched pools, none of them quiet."""
        pauses = [max(TIMEFRAMES[name].step, options.refresh.total_seconds()) for name in options.timeframes]
        return candle_calls(pools_watched(setup), pauses) / 60

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
            while (ask := plan.next(_now(run), traded)) and _goes_on(run, calls, plan.backlog):
                calls += 1
                saved = False
                with run.target(f"{ask.pool} {ask.timeframe}"):
                    batches = _ask(run, client, network, ask, plan)
                    plan.save(run.state)
                    yield batches
                    saved = True
        if not saved:  # the last call failed: remember when to try again
            plan.save(run.state)
            yield None


def ask_page(
    run: RunContext,
    client: Client,
    network: str,
    pool: str,
    name: str,
    *,
    limit: int,
    before: int | None = None,
) -> tuple[CandlePage, float]:
    """Ask for a pool's candles, those older than `before`; return them, and when the answer was made.

    A candle that can't be read is a problem. Raises what `Client.ask` and `candle_page` raise.
    """
    timeframe = TIMEFRAMES[name]
    path = ("networks", network, "pools", pool, "ohlcv", timeframe.unit)
    params = {"aggregate": timeframe.aggregate, "limit": limit}
    if before is not None:
        params["before_timestamp"] = before
    body, made_at = client.ask(*path, **params)
    at = made_at.timestamp()
    page = candle_page(body, network=network, pool=pool, timeframe=timeframe, at=at, run_id=run.id)
    for row in page.bad:
        run.problem(f"{pool} {name} {row.where}", row.error)
    return page, at


def candle_batch(page: CandlePage) -> Batch:
    """Return a page's rows for the table that they are stored in."""
    return Batch("gt_ohlcv", page.rows, pk=("network", "pool", "timeframe", "ts"), stamp=("run_id",))


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


def lose(run: RunContext, pool: str, name: str, lost: Stretch | None) -> None:
    """Announce candles that can't be had any more."""
    if lost is not None:
        step = TIMEFRAMES[name].step
        run.lost(f"{pool} {name}", lost.estimate(step), lost.after + step, lost.before)


def _now(run: RunContext) -> float:
    return run.now().timestamp()


def _goes_on(run: RunContext, calls: int, backlog: int) -> bool:
    """Tell whether the run makes another call: the first may wait, those that follow are free or long overdue."""
    if run.stopping or run.now() - run.started_at > timedelta(seconds=LONGEST_RUN):
        return False
    return calls == 0 or backlog > BACKLOG or run.calls_free() > 0


def _ask(run: RunContext, client: Client, network: str, ask: Ask, plan: CandlePlan) -> list[Batch]:
    """Make one call and tell the plan how it went; return what is to be stored."""
    pool, name, hole = ask
    if plan.is_new(ask) and (final := _newest_final(run, network, pool, name)) is not None:
        plan.begin(ask, final)
    limit = plan.limit(ask, _now(run))
    plan.defer(ask, _now(run))  # until it is observed
    try:
        before = None if hole is None else hole.before
        page, at = ask_page(run, client, network, pool, name, limit=limit, before=before)
    except GoneError:
        run.log.info("%s is gone; asked again in a day", pool)
        return [gone_batch(run, network, pool, plan.gone.mark(pool, _now(run)))]
    except PlanLimitError as error:
        run.log.info("%s %s: %s", pool, name, error)
        lose(run, pool, name, plan.beyond(ask, _now(run)))
        return []
    except ApiError:
        plan.refused(ask, _now(run))
        raise
    lose(run, pool, name, plan.observe(ask, _now(run), at, limit, page))
    batches = [candle_batch(page)]
    if plan.gone.back(pool):
        batches.append(gone_batch(run, network, pool, None))
    return batches


def _newest_final(run: RunContext, network: str, pool: str, name: str) -> int | None:
    """Return `ts` of a pair's newest final candle in the store: it may have been watched before."""
    found = stored(
        run,
        "SELECT ts FROM gt_ohlcv WHERE network = ? AND pool = ? AND timeframe = ? AND final = 1"
        " ORDER BY ts DESC LIMIT 1",
        network,
        pool,
        name,
    )
    return found[0]["ts"] if found else None
