"""`geckoterminal-watchlist`: which pools the other collectors look after.

`gt_watchlist` is the one place where that stands. Several sources may name pools (so far the
option `pools`); a row belongs to the first source that names it, and only its own source lets go
of it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from geckosched import Batch, Collector, ConfigError, RunContext, SkipRun

from .client import Settings
from .rows import bare

__all__ = ["Source", "Watchlist", "changes", "gone_batch", "stored", "watched"]

WATCHED_AGAIN_AFTER = 5
"""Seconds until a collector looks again for pools to look after."""


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
    `7bqJG2ZdMKbEkgSmfuqNVBvqEvWavgL8UEo33ZqdL3NP` or `solana_7bqJG2...`.
    """

    pools: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.pools, str):
            raise ConfigError(f"pools: {self.pools!r} is a text, not a list of addresses")


class Watchlist(Collector):
    """Keep `gt_watchlist` in step with the lists of pools. Makes no call."""

    name = "geckoterminal-watchlist"
    every = "1m"
    priority = 50
    Options = WatchlistOptions

    def collect(self, run: RunContext) -> Iterator[Batch]:
        """Yield the rows that differ: pools added, taken over by another source, and let go."""
        network = Settings.read(run.settings).network
        sources = [Source("pools", dict.fromkeys(_addresses(run, network)))]
        with run.target("watchlist"):
            known = stored(run, "SELECT * FROM gt_watchlist WHERE network = ?", network)
            rows = changes(sources, known, network=network, now=run.now())
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

    Raises `SkipRun` for a few seconds while there is none: at a first start the watchlist is
    filled by a collector of its own.
    """
    found = stored(
        run,
        "SELECT address FROM gt_watchlist WHERE network = ? AND removed_at IS NULL ORDER BY address",
        network,
    )
    if not found:
        raise SkipRun(f"no pool of {network} is watched", again_after=WATCHED_AGAIN_AFTER)
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


_NO_ADDRESS = re.compile(r"[\s/,?#%]")


def _addresses(run: RunContext, network: str) -> Iterator[str]:
    """Read the option `pools`; what can't be an address is a problem, named by its place."""
    for place, entry in enumerate(run.options.pools, 1):
        address = bare(network, entry.strip()) if isinstance(entry, str) else ""
        if not address or _NO_ADDRESS.search(address):
            run.problem(f"pools {place}", ValueError(f"{entry!r} is no address of a pool"))
        else:
            yield address
