"""`geckoterminal-watchlist`: which pools the other collectors look after.

`gt_watchlist` is the one place where that stands. Three sources may name pools: the option `pools`, a CSV file
(watch_csv.py) and the auto rule (watch_auto.py). A row belongs to the first of them that names it. A source that can't
be read is left out of a run, so that it lets go of nothing; one that is switched off names nothing.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext, SkipRun, parse_duration

from .client import Settings
from .rows import bare
from .watch_auto import AutoRule, judge
from .watch_csv import address_fault, pool_list, read_file

__all__ = ["Source", "Watchlist", "changes", "gone_batch", "stored", "watched"]

WAITED_FOR = 3
"""Runs of the watchlist after which one that is empty is empty on purpose."""

WATCHED_AGAIN_AFTER = 5
"""Seconds until a collector looks again for pools to look after."""

SAID_ONE_BY_ONE = 12
"""Bad rows of a file that have a problem each. A run's record keeps 20, so further ones share one with their lines."""


@dataclass(frozen=True, slots=True)
class Source:
    """One list of pools as it stands now: a note, or None, by bare address.

    A source that could not be read is left out of the run: an unreadable list is not an empty one.
    """

    name: str
    pools: Mapping[str, str | None]


@dataclass
class WatchlistOptions:
    """Options of `geckoterminal-watchlist`.

    `pools` are addresses of the network in the plugin's settings, bare or with its prefix, as in
    `7bqJG2ZdMKbEkgSmfuqNVBvqEvWavgL8UEo33ZqdL3NP` or `solana_7bqJG2...`. `csv` is a file that lists more of them. With
    `auto`, at most `auto_max` pools younger than `max_age` are watched that reach both minima, the busiest first.
    """

    pools: list[str] = field(default_factory=list)
    csv: Path | None = None
    auto: bool = False
    min_liquidity_usd: float = 1000
    min_volume_usd: float = 100
    max_age: timedelta = timedelta(hours=24)
    auto_max: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.pools, str):
            raise ConfigError(f"pools: {self.pools!r} is a text, not a list of addresses")
        if self.csv is not None:
            if not isinstance(self.csv, str | os.PathLike) or not str(self.csv).strip():
                raise ConfigError(f"csv: {self.csv!r} is no path of a file")
            self.csv = Path(self.csv)
            if self.csv.is_dir():
                raise ConfigError(f"csv: {self.csv} is a folder, not a file")
        if not isinstance(self.auto, bool):
            raise ConfigError(f"auto: {self.auto!r} is neither true nor false")
        for name in ("min_liquidity_usd", "min_volume_usd"):
            amount = getattr(self, name)
            if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
                raise ConfigError(f"{name}: {amount!r} is no amount from 0 up")
        self.max_age = timedelta(microseconds=parse_duration(self.max_age, "max_age"))
        if isinstance(self.auto_max, bool) or not isinstance(self.auto_max, int) or self.auto_max < 1:
            raise ConfigError(f"auto_max: {self.auto_max!r} is no number from 1 up")


class Watchlist(Collector):
    """Keep `gt_watchlist` in step with the lists of pools. Makes no call."""

    name = "geckoterminal-watchlist"
    every = "1m"
    priority = 50
    Options = WatchlistOptions

    def collect(self, run: RunContext) -> Iterator[Batch]:
        """Yield the rows that differ: pools added, taken over by another source, and let go."""
        network = Settings.read(run.settings).network
        with run.target("watchlist"):
            known = stored(run, "SELECT * FROM gt_watchlist WHERE network = ?", network)
            rows = changes(_sources(run, network, known), known, network=network, now=run.now())
            if rows:
                yield Batch(
                    "gt_watchlist",
                    [row | {"run_id": run.id} for row in rows],
                    pk=("network", "address"),
                    stamp=("run_id",),
                )


def changes(
    sources: Iterable[Source], known: Iterable[Mapping[str, Any]], *, network: str, now: datetime
) -> list[dict[str, Any]]:
    """Return the rows by which `known`, the table's rows of `network`, differ from `sources`.

    A pool that comes back after it was let go is added anew, at the row's old place.
    """
    sources = list(sources)
    rows = {row["address"]: row for row in known}
    wanted: dict[str, tuple[str, str | None]] = {}
    for source in sources:
        for address, note in source.pools.items():
            wanted.setdefault(address, (source.name, note))
    found: list[dict[str, Any]] = []
    for address, (name, note) in wanted.items():
        row = rows.get(address)
        new = {"network": network, "address": address, "source": name, "note": note}
        if row is None or row["removed_at"] is not None:
            found.append(new | {"added_at": now, "removed_at": None})
        elif (row["source"], row["note"]) != (name, note):
            found.append(new)
    names = {source.name for source in sources}
    for address, row in rows.items():
        if row["removed_at"] is None and row["source"] in names and address not in wanted:
            found.append({"network": network, "address": address, "removed_at": now})
    return found


def watched(run: RunContext, network: str) -> list[str]:
    """Return the bare addresses of the pools to look after, in order of their addresses.

    Raises `SkipRun` while there is none, at a first start for a few seconds: the watchlist is filled by a collector of
    its own. Once that has run some times there is nothing to wait for but the next slot.
    """
    found = stored(
        run,
        "SELECT address FROM gt_watchlist WHERE network = ? AND removed_at IS NULL ORDER BY address",
        network,
    )
    if not found:
        sql = "SELECT 1 FROM geckosched_jobs WHERE collector = ? AND runs >= ?"
        often = run.query(sql, (Watchlist.name, WAITED_FOR))
        raise SkipRun(f"no pool of {network} is watched", again_after=None if often else WATCHED_AGAIN_AFTER)
    return [row["address"] for row in found]


def stored(run: RunContext, sql: str, *parameters: object) -> list[dict[str, Any]]:
    """Query the store; what nobody has stored yet, a table or a column, has no rows."""
    try:
        return run.query(sql, parameters)
    except sqlite3.OperationalError as error:
        if str(error).startswith(("no such table:", "no such column:")):
            return []
        raise


def gone_batch(run: RunContext, network: str, pool: str, since: float | None) -> Batch:
    """Mark a pool that the API doesn't know any more, `since` in epoch seconds; None: it is back."""
    gone_at = None if since is None else datetime.fromtimestamp(since, UTC)
    row = {"network": network, "address": pool, "gone_at": gone_at, "run_id": run.id}
    return Batch("gt_pools", [row], pk=("network", "address"), stamp=("run_id",))


def _sources(run: RunContext, network: str, known: Sequence[Mapping[str, Any]]) -> list[Source]:
    """Read the sources, the first to count first; one that can't be read is left out."""
    found = [Source("pools", dict.fromkeys(_addresses(run, network)))]
    if (listed := _listed(run, network, known)) is not None:
        found.append(Source("csv", listed))
    named = {address for source in found for address in source.pools}
    if (chosen := _chosen(run, network, known, named)) is not None:
        found.append(Source("auto", chosen))
    return found


def _addresses(run: RunContext, network: str) -> Iterator[str]:
    """Read the option `pools`; what can't be an address is a problem, named by its place."""
    for place, entry in enumerate(run.options.pools, 1):
        address = bare(network, entry.strip()) if isinstance(entry, str) else ""
        fault = address_fault(network, address, stand_ins=True) if address else f"{entry!r} is no address of a pool"
        if fault:
            run.problem(f"pools {place}", fault)
        else:
            yield address


def _listed(run: RunContext, network: str, known: Sequence[Mapping[str, Any]]) -> dict[str, str | None] | None:
    """Read the file of the option `csv`, and say what is wrong with it; None if it is no list of pools."""
    path = run.options.csv
    if path is None:
        return {}
    try:
        found = pool_list(read_file(path), network)
    except OSError as error:
        said = f"{error.strerror}: {path.absolute()}" if error.strerror else error
        run.problem(path.name, f"{said}; no pool is let go")
        return None
    _say(run, path.name, found.problems)
    if not found.names_pools:
        return None
    watched = {row["address"]: row["note"] for row in known if row["source"] == "csv" and row["removed_at"] is None}
    return found.pools | found.kept(watched)


def _say(run: RunContext, file: str, problems: Sequence[tuple[int | None, str]]) -> None:
    """Make each line a problem, further ones together one: a run's record would leave them out."""
    for line, text in problems:
        if line is None:
            run.problem(file, text)
    lines = [(line, text) for line, text in problems if line is not None]
    for line, text in lines[:SAID_ONE_BY_ONE]:
        run.problem(f"{file} line {line}", text)
    if more := lines[SAID_ONE_BY_ONE:]:
        numbers = ", ".join(str(line) for line, _ in more)
        run.problem(f"{file}, {len(more)} more bad lines", f"{numbers}; the first: {more[0][1]}")


def _chosen(
    run: RunContext, network: str, known: Sequence[Mapping[str, Any]], named: set[str]
) -> dict[str, str | None] | None:
    """Ask the auto rule; None if it can't tell. An error of it is no error of the other sources."""
    options = run.options
    if not options.auto:
        return {}
    with run.target("auto"):
        rule = AutoRule(options.min_liquidity_usd, options.min_volume_usd, options.max_age, options.auto_max)
        return judge(run, rule, network, known, named)
    return None
