"""`geckosched geckoterminal chart`: a pool's candles and volume, read from the store.

`find_pool` finds out which pool is meant, `read_chart` reads its newest candles, whether a scheduler runs or not, and
`drawing.py` draws them in the terminal or as a PNG. A chart is a row of slots, one for each step of the timeframe:
where nobody traded there is no candle, and its slot stays empty. All times are UTC.
"""

from __future__ import annotations

import difflib
import math
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from geckosched import GeckoschedError
from geckosched.config import load_configuration

from .client import Settings
from .rows import TIMEFRAMES, bare

__all__ = ["Candle", "Chart", "ChartError", "Pool", "UnknownPoolError", "find_pool", "opened", "read_chart",
           "show_chart"]  # fmt: skip

PICTURE_SLOTS = 120
"""Steps that a picture shows unless told otherwise."""

NAMED_IN_AN_ERROR = 5
"""Pools that an error names at most."""


class ChartError(GeckoschedError):
    """There is nothing to draw, or nothing to draw with."""


class UnknownPoolError(ChartError):
    """No pool that has candles, or more than one, is meant."""


class Pool(NamedTuple):
    """A pool that has candles; its name is None while nobody has stored one."""

    address: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.name else self.address


class Candle(NamedTuple):
    """One candle, its prices and volume in USD; `slot` is its place on the time axis, counted from 0."""

    slot: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def rose(self) -> bool:
        """Whether the price did not fall."""
        return self.close >= self.open


@dataclass(frozen=True, slots=True)
class Chart:
    """The candles of `slots` steps of a timeframe, from epoch second `since` on; the last slot has the newest."""

    pool: Pool
    network: str
    timeframe: str
    since: int
    slots: int
    candles: Sequence[Candle]

    @property
    def step(self) -> int:
        """Seconds of a slot."""
        return TIMEFRAMES[self.timeframe].step

    @property
    def prices(self) -> tuple[float, float]:
        """The lowest and the highest price."""
        return min(each.low for each in self.candles), max(each.high for each in self.candles)

    @property
    def change_percent(self) -> float:
        """The price's change over the chart; NaN if it began at 0."""
        first, last = self.candles[0].open, self.candles[-1].close
        return (last / first - 1) * 100 if first else math.nan

    def span(self) -> str:
        """Say from when to when the chart reaches, the last slot's end."""
        begin, end = (self.moment(slot) for slot in (0, self.slots))
        return f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"

    def moment(self, slot: int) -> datetime:
        """Return when a slot begins."""
        return datetime.fromtimestamp(self.since + slot * self.step, UTC)

    def newest(self, slots: int) -> Chart:
        """Return a chart of the newest `slots` slots at most."""
        skipped = max(0, self.slots - slots)
        candles = [each._replace(slot=each.slot - skipped) for each in self.candles if each.slot >= skipped]
        since = self.since + skipped * self.step
        return Chart(self.pool, self.network, self.timeframe, since, self.slots - skipped, candles)


def show_chart(
    wanted: str,
    timeframe: str,
    slots: int | None = None,
    png: Path | None = None,
    network: str | None = None,
    config: Path | None = None,
    database: Path | None = None,
) -> None:
    """Draw what is stored of a pool to stdout, and as a picture to `png`.

    `slots` are the newest steps to show, None: as many as fit. Network and database are the configuration's unless
    named. Raises `ChartError`, and `ConfigError` for a configuration that can't be read.
    """
    from . import drawing

    configuration = load_configuration(config)
    network = network or Settings.read(configuration.plugin_settings.get("geckoterminal", {})).network
    file = Path(database or configuration.scheduler.database)
    fitting = drawing.text_slots()
    with opened(file) as store:
        pool = find_pool(store, network, wanted)
        chart = read_chart(store, network, pool, timeframe, slots or max(fitting, PICTURE_SLOTS))
    drawn = drawing.text_chart(chart, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    if png is not None:
        drawing.save_png(chart if slots else chart.newest(PICTURE_SLOTS), png)
    sys.stdout.write(f"{drawn}\n")
    if slots and chart.slots > fitting:
        sys.stderr.write(f"the terminal has room for the newest {fitting} of {chart.slots} steps\n")
    if png is not None:
        sys.stderr.write(f"wrote {png}\n")


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a store read-only. What is wrong with it, then or later, is a `ChartError`."""
    if not file.exists():
        raise ChartError(f"{file}: no such file; geckosched run fills it")
    try:
        store = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            store.row_factory = sqlite3.Row
            yield store
        finally:
            store.close()
    except sqlite3.Error as error:
        raise ChartError(f"{file}: {error}") from error


def find_pool(store: sqlite3.Connection, network: str, wanted: str) -> Pool:
    """Return the pool with candles that is meant by an address, bare or prefixed, its beginning, or a name.

    A name is the pool's, as in `HWA / SOL`, its base token's symbol, or its note in the watchlist, in whatever case.
    """
    pools = _pools_with_candles(store, network)
    wanted = wanted.strip()
    address = bare(network, wanted)
    for meant in (
        [pool for pool in pools if address == pool.address],
        [pool for pool, names in pools.items() if _folded(wanted) in names],
        [pool for pool in pools if address and pool.address.startswith(address)],
        [pool for pool in pools if address and pool.address.lower().startswith(address.lower())],
    ):
        if len(meant) > 1:
            raise UnknownPoolError(f'"{wanted}" may be {_listed(meant)}: name one by its address, or its beginning')
        if meant:
            return meant[0]
    raise UnknownPoolError(_nothing_of(store, network, wanted, pools))


def read_chart(store: sqlite3.Connection, network: str, pool: Pool, timeframe: str, slots: int) -> Chart:
    """Read the candles of the newest `slots` steps, counted back from the newest candle."""
    step = TIMEFRAMES[timeframe].step
    key = (network, pool.address, timeframe)
    found = store.execute(
        "SELECT ts, open, high, low, close, volume FROM gt_ohlcv WHERE network = ? AND pool = ? AND timeframe = ?"
        " AND ts > (SELECT max(ts) FROM gt_ohlcv WHERE network = ? AND pool = ? AND timeframe = ?) - ? ORDER BY ts",
        (*key, *key, slots * step),
    )
    rows = [row for row in found if all(isinstance(value, int | float) for value in row)]
    if not rows:
        raise ChartError(f"no {timeframe} candles of {pool}; {_timeframes(store, network, pool)}")
    since = rows[0]["ts"]
    candles = [Candle((ts - since) // step, *map(float, figures)) for ts, *figures in rows]
    return Chart(pool, network, timeframe, since, candles[-1].slot + 1, candles)


def _timeframes(store: sqlite3.Connection, network: str, pool: Pool) -> str:
    """Say which candles of a pool there are."""
    sql = "SELECT timeframe, count(*) FROM gt_ohlcv WHERE network = ? AND pool = ? GROUP BY timeframe"
    counts = dict(store.execute(sql, (network, pool.address)).fetchall())
    return "there are " + ", ".join(f"{counts[name]:,} of {name}" for name in TIMEFRAMES if name in counts)


def _pools_with_candles(store: sqlite3.Connection, network: str) -> dict[Pool, set[str]]:
    """Return what pools there are, each with all that it may be called."""
    found: dict[Pool, set[str]] = {}
    for address in _distinct(store, "gt_ohlcv", "pool", network):
        name = _cell(store, "gt_pools", "name", network, address)
        note = _cell(store, "gt_watchlist", "note", network, address)
        names = {name, name and name.partition("/")[0], note}
        found[Pool(address, _printable(name or note))] = {_folded(each) for each in names if each}
    return found


def _distinct(store: sqlite3.Connection, table: str, column: str, network: str | None = None) -> list[str]:
    """Return a key's values by going from one to the next in its index: a scan of millions of candles takes seconds."""
    if not _has(store, table):
        return []
    where, parameters = ("network = ? AND ", [network]) if network is not None else ("", [])
    sql = f"SELECT min({column}) FROM {table} WHERE {where}{column} > ?"
    values: list[str] = []
    while (value := store.execute(sql, [*parameters, values[-1] if values else ""]).fetchone()[0]) is not None:
        values.append(value)
    return values


def _cell(store: sqlite3.Connection, table: str, column: str, network: str, address: str) -> str | None:
    """Return one value of a row, None without the row, its column or the table."""
    if not store.execute(f"SELECT 1 FROM pragma_table_info('{table}') WHERE name = ?", (column,)).fetchone():
        return None
    sql = f"SELECT {column} FROM {table} WHERE network = ? AND address = ?"
    row = store.execute(sql, (network, address)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def _has(store: sqlite3.Connection, table: str) -> bool:
    return store.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None


def _nothing_of(store: sqlite3.Connection, network: str, wanted: str, pools: Mapping[Pool, set[str]]) -> str:
    """Say why no pool is found, and what to ask for instead."""
    if gone_at := _cell(store, "gt_pools", "gone_at", network, bare(network, wanted)):
        return f"no candles of {wanted} are stored: the API doesn't know that pool, as was found on {gone_at}"
    collected = "geckoterminal-ohlcv collects those of watched pools"
    others = [each for each in _distinct(store, "gt_ohlcv", "network") if each != network]
    elsewhere = f"; there are some of {', '.join(others)}: see --network" if others else ""
    if not pools:
        return f"no candles of {network} are stored{elsewhere or f': {collected}'}"
    for table in ("gt_pools", "gt_watchlist"):
        if _cell(store, table, "address", network, bare(network, wanted)):
            return f"no candles of {wanted} are stored: {collected}"
    spelt = {name: pool for pool, names in pools.items() for name in (_folded(pool.address), *names)}
    close = difflib.get_close_matches(_folded(wanted), spelt, n=3)
    if close:
        return f'no candles of a pool "{wanted}", did you mean {_listed([spelt[name] for name in close])}?'
    return f'no candles of a pool "{wanted}"; there are some of {_listed(list(pools))}{elsewhere}'


def _listed(pools: Sequence[Pool]) -> str:
    named = [str(pool) for pool in dict.fromkeys(pools)]
    more = len(named) - NAMED_IN_AN_ERROR
    return ", ".join(named[:NAMED_IN_AN_ERROR]) + (f" and {more} more" if more > 0 else "")


def _folded(name: str) -> str:
    """Return a name without what people leave out: blanks and case."""
    return "".join(name.split()).casefold()


def _printable(text: str | None) -> str | None:
    """Put a name, which anybody may have chosen, into one line without control characters."""
    return text and " ".join("".join(each if each.isprintable() else " " for each in text).split())
