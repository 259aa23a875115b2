"""`geckosched geckoterminal demo`: the plugin collects from a simulated market, without a network.

Scheduler and simulator share one `SpeedClock`, so that half a minute of life is half an hour of the market. The clock
starts as far back as it gains: the demo ends at the present.
"""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from geckosched import Clock, CollectionScheduler, SchedulerConfig, SchedulerState, format_duration, to_datetime
from geckosched.testing import SpeedClock

from .market import Pool
from .simulator import Request, Simulator
from .synthetic import SyntheticMarket

__all__ = ["run_demo"]

DATABASE = Path("geckosched-demo.db")
APPLICATION_ID = 0x67636B64
"""Marks a database file (`PRAGMA application_id`) as a demo's, which the next demo may replace."""

TOLD_EVERY = 3.0
"""Real seconds between two lines of what has come in."""


def run_demo(seconds: float = 30, speed: float = 60, database: Path | None = None) -> int:
    """Run for `seconds`, in which `speed` times as much passes on the market; tell what comes in.

    `database` (default `geckosched-demo.db` here) is replaced if a demo made it, and refused otherwise. Returns an exit
    code: 0 if trades, candles or pools were collected, 1 if none were or the file can't be used, 130 if interrupted.
    """
    file = database or DATABASE
    try:
        _prepare(file)
    except (OSError, sqlite3.Error) as error:
        sys.stderr.write(f"geckosched: {file}: {error}\n")
        return 1
    start = datetime.now(UTC) - timedelta(seconds=seconds * (speed - 1))
    clock = SpeedClock(start, speed)
    market = SyntheticMarket(born=int(start.timestamp()))
    pools = {pool.address: pool for pool in market.founders}
    scheduler = CollectionScheduler(SchedulerConfig(database=file, shutdown_timeout="5s"), clock=clock)
    with Simulator(market, clock) as simulator:
        scheduler.load_plugins(
            ["geckoterminal"],
            settings={"geckoterminal": {"base_url": simulator.base_url}},
            collectors={"geckoterminal-watchlist": {"pools": list(pools)}},
        )
        _say(f"A simulated market of {len(pools)} pools, {speed:g} times faster than life; {file} takes what comes in.")
        interrupted = _collect(scheduler, clock, file, seconds * speed)
        passed = min(seconds * speed, (to_datetime(clock.now()) - start).total_seconds())
        requests = simulator.requests
    found = Findings.read(file)
    broken = [f"plugin {each.name}: {each.error}" for each in scheduler.registry.plugins.values() if not each.ok]
    for line in broken:
        sys.stderr.write(f"geckosched: {line}\n")
    _say(_summary(found, requests, pools, passed))
    if interrupted:
        return 130
    if not (found.trades or found.candles or found.pools):
        sys.stderr.write("geckosched: nothing was collected\n")
        return 1
    _say(_further(file))
    return 0


@dataclass(frozen=True, slots=True)
class Findings:
    """What a demo's database holds: counts of rows, lost trades by pool, runs by outcome."""

    trades: int
    candles: int
    pools: int
    lost: Mapping[str, int]
    outcomes: Mapping[str, int]

    @classmethod
    def read(cls, file: Path) -> Findings:
        """Count; what has no table yet counts nothing."""
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as store:
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

            def counted(table: str, key: str, count: str) -> dict[str, int]:
                if table not in tables:
                    return {}
                sql = f"SELECT {key}, {count} FROM {table} WHERE {key} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
                return dict(store.execute(sql).fetchall())

            return cls(
                trades=sum(counted("gt_trades", "network", "count(*)").values()),
                candles=sum(counted("gt_ohlcv", "network", "count(*)").values()),
                pools=sum(counted("gt_pools", "network", "count(*)").values()),
                lost=counted("geckosched_losses", "target", "sum(count)"),
                outcomes=counted("geckosched_runs", "outcome", "count(*)"),
            )


def _prepare(file: Path) -> None:
    """Make an empty database with the demo's mark, in place of an earlier demo's; raise if another file is there."""
    if file.exists() and file.stat().st_size:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as store:
            [mark] = store.execute("PRAGMA application_id").fetchone()
        if mark != APPLICATION_ID:
            raise FileExistsError("is no demo's database; name a new file")
        if CollectionScheduler(SchedulerConfig(database=file)).get_status().scheduler.state is SchedulerState.RUNNING:
            raise FileExistsError("another demo is running on it")
    for each in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
        each.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as store:
        store.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _collect(scheduler: CollectionScheduler, clock: Clock, file: Path, seconds: float) -> bool:
    """Run the scheduler for `seconds` of its clock while a thread tells what comes in; True if interrupted."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(TOLD_EVERY):
            _say(_progress(Findings.read(file), to_datetime(clock.now())))

    teller = threading.Thread(target=tell, name="demo-progress", daemon=True)
    teller.start()
    try:
        scheduler.run_forever(seconds)
    except KeyboardInterrupt:
        return True
    finally:
        ended.set()
        teller.join()
    return False


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _progress(found: Findings, now: datetime) -> str:
    lost = sum(found.lost.values())
    counts = f"{found.trades:>7,} trades {found.candles:>7,} candles {found.pools:>4,} pools {lost:>6,} lost"
    return f"  {now:%H:%M} UTC {counts} {sum(found.outcomes.values()):>5,} runs"


def _summary(found: Findings, requests: Sequence[Request], pools: Mapping[str, Pool], span: float) -> str:
    """Say what was collected in `span` seconds of market time, what got away, and what the simulator counted."""
    lost = ", ".join(
        f"{count:,} of {pools[target].name if target in pools else target}" for target, count in found.lost.items()
    )
    runs = ", ".join(f"{count:,} {outcome}" for outcome, count in found.outcomes.items())
    calls = [request for request in requests if not request.cached]
    refused = sum(request.status == 429 for request in calls)
    lines = {
        "trades": f"{found.trades:,}",
        "candles": f"{found.candles:,}",
        "pools": f"{found.pools:,}",
        "lost": f"{lost}: more trades between two calls than the 300 that the API shows" if lost else "nothing",
        "runs": runs or "none",
        "calls": f"{len(calls):,}, at most {_busiest_minute(calls)} in a minute, {refused} refused",
    }
    passed = format_duration(round(span) * 1_000_000)
    return "\n".join([f"\nCollected in {passed} of market time:", *(f"  {k:<8} {v}" for k, v in lines.items())])


def _busiest_minute(calls: Sequence[Request]) -> int:
    """Return the most calls that any 60 seconds of market time saw, at the far side."""
    most, window = 0, deque[int]()
    for call in calls:
        window.append(call.time)
        while window[0] <= call.time - 60_000_000:
            window.popleft()
        most = max(most, len(window))
    return most


def _further(file: Path) -> str:
    """Name commands to look at what was collected, as they can be typed in the shell that ran this one."""
    name, program = shlex.quote(str(file)), Path(sys.argv[0])
    typed = program.name == "geckosched" and shutil.which("geckosched") != str(program)
    folder = f"{shlex.quote(str(program.parent))}/" if typed else ""
    sql = (
        "select pool, count(*) trades, round(sum(volume_in_usd)) usd from gt_trades group by pool order by trades desc"
    )
    return "\n".join(
        [
            "\nLook further:",
            f"  {folder}geckosched status --database {name}",
            f"  {folder}geckosched runs geckoterminal-trades --limit 10 --database {name}",
            f'  {folder}sqlite-utils query {name} "{sql}" --table',
        ]
    )
