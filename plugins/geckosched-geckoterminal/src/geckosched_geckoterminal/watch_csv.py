"""A watchlist in a CSV file: which pools its rows name, and what is wrong with those that name none.

A pure reading of the file's bytes: every row is a pool, a problem with the number of its line, or blank. Two rules keep
a slip from ending the collection of a pool. A file that names nothing (missing, empty, half written) is no empty list.
And a row that can't be read is no removed row: the pool that it most likely meant, by its symbol or by what is left of
its address, stays watched (`PoolList.kept`).
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .rows import bare

__all__ = ["COLUMNS", "PoolList", "address_fault", "pool_list", "read_file"]

COLUMNS = ("tokenSymbol", "tokenName", "chain", "dex", "poolAddress", "networkAddress")
"""Columns of a watchlist, in any order and case; others are ignored. `networkAddress` is the base token's address."""

LARGEST_BYTES = 1_000_000
"""A larger file is no list of pools but a mistaken path."""

SIMILAR = 0.8
"""From this share of equal characters on an unreadable cell counts as a slip of the pen for an address."""

CHAINS: Mapping[str, frozenset[str]] = {
    "solana": frozenset({"sol"}),
    "eth": frozenset({"ethereum"}),
    "bsc": frozenset({"bnb"}),
    "polygon_pos": frozenset({"polygon", "matic"}),
    "avax": frozenset({"avalanche"}),
}
"""What exports of other sites call a network in `chain`, beside its id."""

EVM = frozenset(
    ("arbitrum", "avax", "base", "blast", "bsc", "celo", "eth", "ftm", "linea", "mantle", "opbnb", "optimism",
     "polygon_pos", "pulsechain", "scroll", "xdai", "zksync")
)  # fmt: skip
"""Networks whose addresses begin with 0x; other ids of api.md are not judged by their form."""


@dataclass(slots=True)
class PoolList:
    """What a file says: a note (symbol or name) by bare address, and the problems, by line; None: the whole file.

    `names_pools` is whether it can be taken for a list at all; `cut` whether it seems to be half written.
    """

    pools: dict[str, str | None] = field(default_factory=dict)
    problems: list[tuple[int | None, str]] = field(default_factory=list)
    names_pools: bool = False
    cut: bool = False
    unread: list[Sequence[str]] = field(default_factory=list)

    def kept(self, watched: Mapping[str, str | None]) -> dict[str, str | None]:
        """Return those of the pools watched so far that the file doesn't name, but that an unreadable row may mean."""
        missing = {address: note for address, note in watched.items() if address not in self.pools}
        if self.cut:
            return missing
        return {
            address: note
            for address, note in missing.items()
            if any(_may_mean(cell.strip(), address, note) for cells in self.unread for cell in cells)
        }


class _Row(NamedTuple):
    """A row: the line on which it begins, and its cells; what is no CSV is one cell, with the reason in `fault`."""

    line: int
    cells: list[str]
    fault: str | None = None


class _Header(NamedTuple):
    """The place of each known column, and how many there are."""

    places: Mapping[str, int]
    width: int


class _BadRow(ValueError):
    """A row that doesn't say which pool it means."""


class _NotOurs(ValueError):
    """A row that names a pool, but none to take from it."""


def read_file(path: Path) -> bytes:
    """Return a file's content. Raises `OSError` that says what is wrong with it as a watchlist."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep the run waiting
        raise OSError(f"{path} is no regular file")
    if found.st_size > LARGEST_BYTES:
        raise OSError(f"{path} has {found.st_size:,} bytes, a watchlist at most {LARGEST_BYTES:,}")
    return path.read_bytes()


def pool_list(content: bytes, network: str) -> PoolList:
    """Read the bytes of a file: UTF-8, with a header, lines ended by LF or CRLF."""
    found = PoolList()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        found.problems.append((None, "is UTF-16, not UTF-8; no pool is let go"))
        return found
    # What is no UTF-8 becomes lone surrogates, which the rows are searched for: one bad byte spoils one row only.
    text = content.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    rows = _rows(list(io.StringIO(text, newline="")))
    if (first := next(rows, None)) is None:
        found.problems.append((None, "is empty; no pool is let go"))
        return found
    header = _header(found, first)
    if header is None:
        return found
    row, read, lines = first, True, dict[str, int]()
    for row in rows:
        read = _take(found, row, header, network, lines)
    if row is first:
        found.problems.append((None, "has no rows; no pool is let go (to watch none, take the option out)"))
    if not read and not text.endswith(("\n", "\r")):
        found.cut = True
        found.problems.append((None, "ends within an unreadable row, as if half written; no pool is let go"))
    return found


def address_fault(network: str, address: str, *, stand_ins: bool = False) -> str | None:
    """Say why a bare address can't be one of the network, None if it can.

    Addresses are opaque, so only what is sure is said. `stand_ins`, short names such as tests and examples have, may be
    allowed: then letters and lengths aren't judged.
    """
    shown = _short(address)
    if "://" in address:
        return f"{shown} is a URL; only the address is wanted"
    if not address.isascii() or not address.isprintable() or re.search(r"[\s/,?#%]", address):
        return f"{shown} holds a character that no address has"
    if prefix := _foreign_prefix(network, address):
        return f"{shown} bears the network {prefix}, not {network}"
    if network == "solana" and address.startswith("0x"):
        return f"{shown} is of another network than solana, whose addresses don't begin with 0x"
    return None if stand_ins else _form_fault(network, address)


def _form_fault(network: str, address: str) -> str | None:
    shown = _short(address)
    if network == "solana" and (odd := re.search(r"[^1-9A-HJ-NP-Za-km-z]", address)):
        return f"{shown} has a {odd[0]!r}, which no address of solana has (base58)"
    if network == "solana" and not 32 <= len(address) <= 44:
        return f"{shown} has {len(address)} characters, an address of solana 32 to 44"
    if network in EVM and not re.fullmatch(r"0x(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})(?:[-_:].+)?", address):
        return f"{shown} is none of {network}, which are 0x and 40 or 64 hexadecimal digits"
    return None


def _foreign_prefix(network: str, address: str) -> str | None:
    """Return the network's id that an address still bears, as in `eth_0x88e6...`."""
    for name in (*EVM, *CHAINS, "sui-network", "ton"):
        if name != network and address.startswith(f"{name}_"):
            return name
    return None


def _rows(lines: Sequence[str]) -> Iterator[_Row]:
    """Yield the rows; blank ones are passed over.

    A cell may hold line breaks. But a quote that is opened by mistake swallows the rows that follow: where that leads
    to no row as wide as the header, its first line is a row of its own, and reading goes on at the next one.
    """
    start, width = 0, 0
    while start < len(lines):
        begin = start
        reader = csv.reader((lines[index] for index in range(begin, len(lines))), strict=True)
        try:
            for cells in reader:
                end = begin + reader.line_num
                if end - start > 1 and len(cells) < width:
                    raise csv.Error("a quote is opened and not closed on its line")
                if any(cell.strip() for cell in cells):
                    width = width or len(cells)
                    yield _Row(start + 1, cells)
                start = end
        except csv.Error as error:  # the csv module calls a quote that is never closed the "unexpected end of data"
            fault = str(error).replace("unexpected end of data", "a quote is opened and not closed")
            yield _Row(start + 1, [lines[start].rstrip("\r\n")], f"no row of a CSV file: {fault}")
            start += 1


def _header(found: PoolList, row: _Row) -> _Header | None:
    """Read the header, say what it lacks; without `poolAddress` it is none."""
    names = [cell.strip().casefold() for cell in row.cells]
    places = {name: names.index(name.casefold()) for name in COLUMNS if name.casefold() in names}
    missing = [name for name in COLUMNS if name not in places]
    if missing:
        hint = "" if len(names) > 1 else " (columns are separated by commas)"
        end = "" if "poolAddress" in places else "; no pool is let go"
        text = f"the header {_short(', '.join(row.cells))} has no column {', '.join(missing)}{hint}{end}"
        found.problems.append((row.line, text))
    return _Header(places, len(names)) if "poolAddress" in places else None


def _take(found: PoolList, row: _Row, header: _Header, network: str, lines: dict[str, int]) -> bool:
    """Add a row's pool, or its problem; `lines` are where the pools stand. Returns whether the row could be read."""
    try:
        address, note = _pool(row, header, network)
        if address in lines:
            raise _NotOurs(f"poolAddress {_short(address)} stands on line {lines[address]} already, which counts")
    except _NotOurs as error:
        found.problems.append((row.line, str(error)))
    except _BadRow as error:
        found.problems.append((row.line, str(error)))
        found.unread.append(row.cells)
        return False
    else:
        found.pools[address] = note
        lines[address] = row.line
    found.names_pools = True
    return True


def _pool(row: _Row, header: _Header, network: str) -> tuple[str, str | None]:
    """Return the bare address and the note of a row."""
    if fault := row.fault or _cells_fault(row.cells, header.width):
        raise _BadRow(fault)
    cells = {name: row.cells[place].strip() for name, place in header.places.items()}
    chain = cells.get("chain", "").casefold()
    if chain and chain != network.casefold() and chain not in CHAINS.get(network, ()):
        raise _NotOurs(f"chain {_short(cells['chain'])} is another network than {network}, which is collected")
    address = bare(network, cells["poolAddress"])
    if not address:
        raise _BadRow("poolAddress is empty")
    if fault := address_fault(network, address):
        raise _BadRow(f"poolAddress {fault}")
    note = cells.get("tokenSymbol") or cells.get("tokenName") or ""
    return address, " ".join(note.split()) or None


def _cells_fault(cells: Sequence[str], width: int) -> str | None:
    if len(cells) < width or any(cell.strip() for cell in cells[width:]):
        return f"{len(cells)} cells where the header has {width}: is a comma missing, or one too many without quotes?"
    text = "".join(cells)
    if re.search("[\udc80-\udcff]", text):
        return "bytes that are no UTF-8"
    return "a NUL byte" if "\0" in text else None


def _may_mean(cell: str, address: str, note: str | None) -> bool:
    """Tell whether a cell of an unreadable row may be a watched pool's symbol, or its address with a slip."""
    if not cell:
        return False
    if cell == note or address in cell:
        return True
    if len(cell) < 8:
        return False
    return address.startswith(cell) or difflib.SequenceMatcher(None, cell, address).ratio() >= SIMILAR


def _short(text: str) -> str:
    shown = ascii(text) if not text.isprintable() else repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
