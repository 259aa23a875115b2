"""A stretch of a simulated market collected by the whole plugin in a process of its own, and held against the market.

Scheduler and simulator share one `SpeedClock`; the scheduler's process may be killed on the way. The market knows every
trade that ever was, so that `judge` can say what is missing in the store, and whether a loss row owns up to it:

    python plugins/geckosched-geckoterminal/tests/market_hour.py --pools 200 --faults 0.1 --kills 20
    python plugins/geckosched-geckoterminal/tests/market_hour.py --replay ../shared/geckoterminal/samples/series
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from geckosched_geckoterminal.faults import Fault
from geckosched_geckoterminal.market import (
    Activity,
    Candle,
    Currency,
    Dex,
    Figures,
    Market,
    Network,
    Pool,
    Side,
    Token,
    Trade,
)
from geckosched_geckoterminal.replay import ReplayMarket
from geckosched_geckoterminal.simulator import Request, Simulator
from geckosched_geckoterminal.synthetic import SyntheticMarket

from geckosched import CollectionScheduler, SchedulerConfig, UnknownJob
from geckosched.testing import SpeedClock

DAY, FOR_EVER = 86_400, 2**40
START = datetime(2026, 9, 28, 12, tzinfo=UTC)

COLLECTOR = """
import json, sys
from datetime import datetime
from geckosched import CollectionScheduler, SchedulerConfig
from geckosched.testing import SpeedClock

plan = json.loads(sys.argv[1])
clock = SpeedClock(datetime.fromisoformat(plan["start"]), plan["speed"], plan["anchor"])
scheduler = CollectionScheduler(SchedulerConfig(database=plan["database"], budgets=plan["budgets"]), clock=clock)
settings = {"geckoterminal": plan["settings"]}
scheduler.load_plugins(only=["geckoterminal"], settings=settings, collectors=plan["collectors"])
for plugin in scheduler.registry.plugins.values():
    if not plugin.ok:
        sys.exit(f"plugin {plugin.name}: {plugin.error}")
scheduler.run_forever()
"""

TRIGGERED = ("geckoterminal-trades", "geckoterminal-ohlcv", "geckoterminal-top-pools")

RESPONSE_PROBLEMS = {"AnswerError", "ApiError", "GoneError", "HTTPError", "ConnectionError", "ReadTimeout"}
"""What a collector may say of an answer; anything else is an error of its own."""


@dataclass(frozen=True)
class Stretch:
    """What happens: so many seconds of a market at a speed; `kills` and `triggers` fall at moments drawn from `seed`.

    `replay` is a folder of recorded rows; the recorded pools that trade are then watched beside the synthetic ones.
    """

    pools: int = 200
    seconds: float = 3600
    speed: float = 120
    rate: float = 10
    births: float = 30
    faults: float = 0.0
    kills: int = 0
    triggers: int = 0
    seed: int = 1
    replay: Path | None = None
    collectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class JoinedMarket:
    """A recorded market with synthetic pools beside its own."""

    def __init__(self, recorded: ReplayMarket, synthetic: SyntheticMarket) -> None:
        self._markets = (recorded, synthetic)
        self.networks: Sequence[Network] = recorded.networks
        self.recorded = frozenset(recorded.pools("solana", FOR_EVER))

    def dexes(self, network: str) -> Sequence[Dex]:
        return tuple({dex.id: dex for market in self._markets for dex in market.dexes(network)}.values())

    def pools(self, network: str, now: int) -> Mapping[str, Pool]:
        return {address: pool for market in self._markets for address, pool in market.pools(network, now).items()}

    def pool(self, network: str, address: str, now: int) -> Pool | None:
        found = (market.pool(network, address, now) for market in self._markets)
        return next((pool for pool in found if pool is not None), None)

    def searchable(self, network: str, now: int) -> Mapping[str, Pool]:
        return {address: pool for market in self._markets for address, pool in market.searchable(network, now).items()}

    def token(self, network: str, address: str, now: int) -> Token | None:
        found = (market.token(network, address, now) for market in self._markets)
        return next((token for token in found if token is not None), None)

    def pools_of(self, network: str, token: str, now: int) -> Sequence[Pool]:
        return [pool for market in self._markets for pool in market.pools_of(network, token, now)]

    def activity(self, pool: Pool, now: int, span: int = DAY) -> Activity:
        return self._of(pool).activity(pool, now, span)

    def at_most(self, pool: Pool) -> float:
        return self._of(pool).at_most(pool)

    def heat(self, pool: Pool, now: int, span: int) -> float:
        return self._of(pool).heat(pool, now, span)

    def reserve(self, pool: Pool, now: int) -> str | None:
        return self._of(pool).reserve(pool, now)

    def figures(self, pool: Pool, now: int) -> Figures:
        return self._of(pool).figures(pool, now)

    def trades(self, pool: Pool, now: int, above: float = 0.0) -> Iterator[Trade]:
        return self._of(pool).trades(pool, now, above)

    def candles(
        self, pool: Pool, step: int, since: int, until: int, now: int, side: Side = "base", currency: Currency = "usd"
    ) -> Iterator[Candle]:
        return self._of(pool).candles(pool, step, since, until, now, side, currency)

    def _of(self, pool: Pool) -> Market:
        return next(market for market in self._markets if market.pool(pool.network, pool.address, FOR_EVER))


@dataclass
class Verdict:
    """What was found; `violations` are broken promises, in words."""

    violations: list[str] = field(default_factory=list)
    stored: int = 0
    true: int = 0
    lost: int = 0
    lost_by_pool: Counter[str] = field(default_factory=Counter)
    estimated: int = 0
    candles: int = 0
    candles_missing: int = 0
    births: int = 0
    births_missing: int = 0
    births_estimated: int = 0
    hours: int = 0
    whole_hours: int = 0
    problems: int = 0
    asked: float = 0.0
    seconds: float = 3600
    calls: int = 0
    busiest_minute: int = 0
    calls_by_job: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        ratio = f"{self.estimated / self.lost:.2f}" if self.lost else "-"
        lines = [
            f"trades  {self.true:,} to be had, {self.stored:,} stored, {self.lost:,} lost",
            f"        {dict(self.lost_by_pool.most_common(5))}",
            f"losses  {self.estimated:,} said, {ratio} of the truth",
            f"candles {self.candles:,} held against the market, {self.candles_missing:,} between them still to come",
            f"births  {self.births:,} to be seen, {self.births_missing:,} of them not, {self.births_estimated:,} said",
            f"hours   {self.hours:,} audited, {self.whole_hours:,} of them without a loss",
            f"calls   {self.asked:.0f} an hour by `geckosched check`, {self.calls * 3600 / self.seconds:.0f} made",
            f"        {self.calls:,}, at most {self.busiest_minute} in a minute; {dict(self.statuses)}",
            f"        {dict(self.calls_by_job)}",
            f"runs    {dict(self.outcomes)}; {self.problems} problems",
            *(f"BROKEN  {each}" for each in self.violations[:40]),
            f"{len(self.violations)} promises broken",
        ]
        return "\n".join(lines)


def collect(folder: Path, stretch: Stretch) -> Verdict:
    """Let the market's time pass and the plugin collect, then judge what is stored."""
    market, pools, begins = _market(stretch)
    for pool in pools:  # a day of trades is made, so that the first answers don't take minutes of market time
        market.activity(pool, begins)
        list(islice(market.trades(pool, begins), 300))
    clock = SpeedClock(datetime.fromtimestamp(begins, UTC), stretch.speed)
    database = folder / "market.db"
    with Simulator(market, clock, rate=stretch.rate, faults=stretch.faults, seed=stretch.seed) as simulator:
        plan = {
            "start": clock.start.isoformat(),
            "speed": stretch.speed,
            "anchor": clock.anchor,
            "database": str(database),
            "budgets": {"geckoterminal": {"rate": f"{stretch.rate:g}/m"}},
            "settings": {"base_url": simulator.base_url},
            "collectors": {
                "geckoterminal-watchlist": {"pools": [pool.address for pool in pools]},
                **stretch.collectors,
            },
        }
        asked = _asked(plan)
        codes = list(_processes(plan, stretch, clock))
        requests = simulator.requests
    verdict = judge(database, market, requests, end=clock.now() // 1_000_000)
    verdict.asked, verdict.seconds = asked, stretch.seconds
    verdict.violations += [f"a process ended with {code}" for code in codes if code not in (0, -signal.SIGKILL)]
    return verdict


def _asked(plan: Mapping[str, Any]) -> float:
    """Return the calls an hour that the configuration asks of the budget, as `geckosched check` says before a start."""
    scheduler = CollectionScheduler(SchedulerConfig(database=plan["database"], budgets=plan["budgets"]))
    settings = {"geckoterminal": plan["settings"]}
    scheduler.load_plugins(only=["geckoterminal"], settings=settings, collectors=plan["collectors"])
    (budget,) = scheduler.get_forecast().budgets
    return budget.asked


def _market(stretch: Stretch) -> tuple[Market, list[Pool], int]:
    """Return the market, the pools to watch, and the epoch second at which it begins."""
    if stretch.replay is None:
        begins = int(START.timestamp())
        market = SyntheticMarket(stretch.seed, stretch.pools, born=begins, births=stretch.births)
        return market, list(market.founders), begins
    recorded = ReplayMarket(stretch.replay)
    begins = recorded.begins
    traded = [pool for pool in recorded.pools("solana", FOR_EVER).values() if any(recorded.trades(pool, FOR_EVER))]
    beside = SyntheticMarket(stretch.seed, stretch.pools, born=begins, births=stretch.births)
    return JoinedMarket(recorded, beside), [*traded, *beside.founders], begins


def _processes(plan: Mapping[str, Any], stretch: Stretch, clock: SpeedClock) -> Iterator[int]:
    """Run one process after the other until the stretch is over, all but the last killed; yield how they ended."""
    draw = random.Random(stretch.seed)
    kills = sorted(draw.uniform(0.02, 0.95) for _ in range(stretch.kills))
    triggers = sorted((draw.uniform(0.02, 0.95), draw.choice(TRIGGERED)) for _ in range(stretch.triggers))
    outside = CollectionScheduler(SchedulerConfig(database=plan["database"]), clock=clock)
    for share in (*kills, 1.0):
        with _process(plan, outside) as process:
            while triggers and triggers[0][0] < share:
                moment, job_id = triggers.pop(0)
                _pass(process, plan["anchor"] + moment * stretch.seconds / stretch.speed)
                with contextlib.suppress(UnknownJob):  # nobody led just then
                    outside.execute_collector_now(job_id, wait=False)
            _pass(process, plan["anchor"] + share * stretch.seconds / stretch.speed)
            process.send_signal(signal.SIGTERM if share == 1.0 else signal.SIGKILL)
            yield process.wait(60)


@contextlib.contextmanager
def _process(plan: Mapping[str, Any], outside: CollectionScheduler) -> Iterator[subprocess.Popen[str]]:
    """Start a process that collects, and wait until it leads; it ends with the block, whatever happens there."""
    with subprocess.Popen([sys.executable, "-c", COLLECTOR, json.dumps(plan)], text=True) as process:
        try:
            while process.poll() is None and outside.get_status().scheduler.pid != process.pid:
                _pass(process, time.time() + 0.05)
            yield process
        finally:
            process.kill()


def _pass(process: subprocess.Popen[str], until: float) -> None:
    """Let the process run until a moment of life, or its end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, until - time.time()))


# ---------------------------------------------------------------------------------------------
# The judge


def judge(database: Path, market: Market, requests: Sequence[Request], end: int) -> Verdict:
    """Hold the store against the market; `end` is the market's time in epoch seconds."""
    verdict = Verdict()
    with contextlib.closing(sqlite3.connect(database)) as store:
        store.row_factory = sqlite3.Row
        _judge_runs(store, verdict)
        _judge_trades(store, market, requests, end, verdict)
        _judge_candles(store, market, end, verdict)
        _judge_births(store, market, end, verdict)
        _judge_hours(store, market, verdict)
    counted = [request for request in requests if not request.cached]
    verdict.calls = len(counted)
    times = sorted(request.time for request in counted)
    verdict.busiest_minute = max(bisect_left(times, at + 60_000_000) - place for place, at in enumerate(times))
    for request in requests:
        verdict.statuses[f"{request.status}{' ' + request.fault if request.fault else ''}"] += 1
    return verdict


def _judge_runs(store: sqlite3.Connection, verdict: Verdict) -> None:
    """Every run ends in an outcome that an answer explains, and no error is one of the plugin's own."""
    for row in store.execute("SELECT id, job_id, calls, outcome, error_type, error, detail FROM geckosched_runs"):
        verdict.outcomes[row["outcome"]] += 1
        verdict.calls_by_job[row["job_id"].removeprefix("geckoterminal-")] += row["calls"]
        where = f"run {row['id']} of {row['job_id']}"
        if row["outcome"] in (None, "timed_out"):
            verdict.violations.append(f"{where}: {row['outcome']}, {row['detail']}")
        if row["outcome"] == "failed" and not _is_of_an_answer(row["error_type"] or row["detail"]):
            verdict.violations.append(f"{where}: {row['error_type']}: {row['error']}")
        if row["outcome"] == "partial":
            problems = row["detail"].splitlines()[1:]
            verdict.problems += len(problems)
            verdict.violations += [f"{where}: {line}" for line in problems if not _is_of_an_answer(line)]


def _is_of_an_answer(problem: str) -> bool:
    return re.search(rf"\b({'|'.join(RESPONSE_PROBLEMS)})\b", problem) is not None


def _judge_trades(
    store: sqlite3.Connection, market: Market, requests: Sequence[Request], end: int, verdict: Verdict
) -> None:
    """Every trade from the first poll's oldest to the last poll is stored once, or within a loss row's span."""
    stored: dict[str, set[tuple[str, int]]] = defaultdict(set)
    oldest: dict[str, int] = {}
    for pool, tx_hash, n, at in store.execute("SELECT pool, tx_hash, n, block_timestamp FROM gt_trades"):
        verdict.stored += 1
        if (tx_hash, n) in stored[pool]:
            verdict.violations.append(f"{pool}: {tx_hash} {n} is stored twice")
        stored[pool].add((tx_hash, n))
        oldest[pool] = min(oldest.get(pool, end), _epoch(at))
    losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sql = "SELECT target, count, since, until FROM geckosched_losses WHERE job_id = 'geckoterminal-trades'"
    for target, count, since, until in store.execute(sql):
        losses[target].append((_epoch(since), _epoch(until)))
        verdict.estimated += count
    polled = _last_polls(store, requests)
    for pool, first in oldest.items():
        found = market.pool("solana", pool, end)
        assert found is not None, f"{pool} is no pool of the market"
        _judge_pool(found, market, stored[pool], losses[pool], (first, polled[pool], end), verdict)


def _judge_pool(
    pool: Pool,
    market: Market,
    stored: set[tuple[str, int]],
    losses: Sequence[tuple[float, float]],
    moments: tuple[int, int, int],
    verdict: Verdict,
) -> None:
    first, polled, end = moments
    known: set[tuple[str, int]] = set()
    for trade in market.trades(pool, end + 120):
        if trade.block_time < first:
            break
        key = (trade.tx_hash, trade.n)
        known.add(key)
        if trade.block_time == first or trade.visible_at > polled:
            continue  # a full first page may have cut its oldest second
        verdict.true += 1
        if key in stored:
            continue
        verdict.lost += 1
        verdict.lost_by_pool[pool.name] += 1
        if not any(since <= trade.block_time <= until for since, until in losses):
            moment, late = datetime.fromtimestamp(trade.block_time, UTC), trade.visible_at - trade.block_time
            verdict.violations.append(f"{pool.name}: a trade of {moment:%H:%M:%S}, {late} s late, is in no loss")
    verdict.violations += [f"{pool.name}: {key} was never traded" for key in stored - known]


def _last_polls(store: sqlite3.Connection, requests: Sequence[Request]) -> dict[str, int]:
    """Return the moment, in epoch seconds, of the last answer of each pool that was stored."""
    (text,) = store.execute("SELECT state FROM geckosched_jobs WHERE job_id = 'geckoterminal-trades'").fetchone()
    observed = {pool: known.get("polled_at", 0) for pool, known in json.loads(text)["rotation"]["pools"].items()}
    made: dict[str, int] = {}
    moments: dict[str, int] = {}
    for request in requests:
        path = request.path.partition("?")[0]
        if request.status != 200 or not path.endswith("/trades"):
            continue
        if not request.cached:
            made[request.path] = request.time // 1_000_000
        pool = path.split("/")[-2]
        if request.fault is not Fault.TRUNCATED and request.time / 1e6 <= observed.get(pool, 0):
            moments[pool] = made[request.path]
    return moments


def _judge_candles(store: sqlite3.Connection, market: Market, end: int, verdict: Verdict) -> None:
    """Every final candle of the last day is the market's."""
    steps = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "12h": 43200, "1d": 86400}
    wanted: dict[tuple[str, str], dict[int, tuple[float, ...]]] = defaultdict(dict)
    sql = "SELECT pool, timeframe, ts, open, high, low, close, volume FROM gt_ohlcv WHERE final AND ts >= ?"
    for pool, timeframe, ts, *values in store.execute(sql, (end - 86400,)):
        wanted[pool, timeframe][ts] = tuple(values)
    to_come = _candles_to_come(store, steps)
    for (address, timeframe), candles in wanted.items():
        pool, step = market.pool("solana", address, end), steps[timeframe]
        assert pool is not None
        true = {
            candle.ts: tuple(candle)[1:]
            for candle in market.candles(pool, step, min(candles), max(candles) + step, end + 120)
        }
        verdict.candles += len(candles)
        verdict.violations += [
            f"{pool.name} {timeframe}: the candle of {ts} is {values}, the market's {true.get(ts)}"
            for ts, values in candles.items()
            if values != true.get(ts)
        ]
        missing = true.keys() - candles.keys()
        verdict.candles_missing += len(missing)
        verdict.violations += [
            f"{pool.name} {timeframe}: the candle of {ts} is missing, and in no hole"
            for ts in sorted(missing)
            if not any(after < ts < before for after, before in to_come[address, timeframe])
        ]


def _candles_to_come(
    store: sqlite3.Connection, steps: Mapping[str, int]
) -> Mapping[tuple[str, str], list[tuple[float, float]]]:
    """Return the stretches (after, before) that the collectors of candles know to be missing, or said to be lost."""
    stretches: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    jobs = "('geckoterminal-ohlcv', 'geckoterminal-backfill')"
    for (state,) in store.execute(f"SELECT state FROM geckosched_jobs WHERE job_id IN {jobs}"):
        for pool, names in json.loads(state).get("pairs", {}).items():
            for name, pair in names.items():
                for each in [*pair.get("holes", ()), *pair.get("gaps", ())]:
                    stretches[pool, name].append((each["after"], each["before"]))
                if pair.get("final") is not None:  # what is newer comes with the next answer
                    stretches[pool, name].append((pair["final"], FOR_EVER))
    losses = f"SELECT target, since, until FROM geckosched_losses WHERE job_id IN {jobs}"
    for target, since, until in store.execute(losses):
        pool, name = target.split(" ")
        stretches[pool, name].append((_epoch(since) - steps[name], _epoch(until)))
    return stretches


def _judge_births(store: sqlite3.Connection, market: Market, end: int, verdict: Verdict) -> None:
    """Every pool born between the first list and the last complete one is stored, or within a loss row's span."""
    stored = {address for (address,) in store.execute("SELECT address FROM gt_new_pools")}
    (first,) = store.execute("SELECT min(first_seen_at) FROM gt_new_pools").fetchone()
    sql = "SELECT state FROM geckosched_jobs WHERE job_id = 'geckoterminal-new-pools'"
    known = json.loads(store.execute(sql).fetchone()[0]).get("known", {}).get("solana")
    if first is None or known is None:
        verdict.violations.append("no list of new pools was read")
        return
    sql = "SELECT count, since, until FROM geckosched_losses WHERE job_id = 'geckoterminal-new-pools'"
    losses = [(count, _epoch(since), _epoch(until)) for count, since, until in store.execute(sql)]
    verdict.births_estimated = sum(count for count, *_ in losses)
    for pool in market.pools("solana", end).values():
        if pool.created_at is None or not _epoch(first) <= pool.created_at < known["at"]:
            continue
        verdict.births += 1
        if pool.address in stored:
            continue
        verdict.births_missing += 1
        if not any(since <= pool.created_at <= until for _, since, until in losses):
            born = datetime.fromtimestamp(pool.created_at, UTC)
            verdict.violations.append(f"{pool.name}: born at {born:%H:%M:%S}, is neither stored nor in a loss")
    strangers = stored - market.pools("solana", end).keys()
    verdict.violations += [
        f"{address} was never born" for address in strangers if market.pool("solana", address, end) is None
    ]


def _judge_hours(store: sqlite3.Connection, market: Market, verdict: Verdict) -> None:
    """An hour that the audit has judged, and that no loss touches, has a share of 1.

    But for hours with a trade whose volume an answer told as null: the first answer that shows a trade is kept. And for
    recorded pools: their candles count the small trades, which the recording lacks.
    """
    recorded = market.recorded if isinstance(market, JoinedMarket) else frozenset()
    sql = "SELECT DISTINCT pool, substr(block_timestamp, 1, 13) FROM gt_trades WHERE volume_in_usd IS NULL"
    without_volume = {(pool, f"{hour}:00:00Z") for pool, hour in store.execute(sql)}
    losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sql = "SELECT target, since, until FROM geckosched_losses WHERE job_id = 'geckoterminal-trades'"
    for target, since, until in store.execute(sql):
        losses[target].append((_epoch(since), _epoch(until)))
    if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'gt_completeness'").fetchone():
        return
    for pool, hour, share, trades in store.execute("SELECT pool, hour, share, trades FROM gt_completeness"):
        verdict.hours += 1
        begins = _epoch(hour)
        touched = any(since < begins + 3600 and begins <= until for since, until in losses[pool])
        if touched or (pool, hour) in without_volume or pool in recorded:
            continue
        verdict.whole_hours += 1
        if not (trades == 0 if share is None else abs(share - 1) < 1e-6):
            verdict.violations.append(f"{pool}: the hour {hour} without a loss has a share of {share}")


def _epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "kills", "triggers", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Stretch, name))
    for name in ("seconds", "speed", "rate", "births", "faults"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Stretch, name))
    parser.add_argument("--replay", type=Path, help="a folder of recorded rows, played back beside the synthetic pools")
    parser.add_argument("--keep", type=Path, help="a folder for the database, instead of one that is removed")
    options = vars(parser.parse_args())
    keep = options.pop("keep")
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        verdict = collect(folder, Stretch(**options))
    sys.stdout.write(f"{verdict}\n")
    return bool(verdict.violations)


if __name__ == "__main__":
    raise SystemExit(main())
