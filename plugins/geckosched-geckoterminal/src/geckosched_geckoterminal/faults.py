"""What goes wrong on purpose: the faults that the simulator answers with, and which request meets which.

`Faults` decides by the seed, the number of a request and its path, and on nothing else: the same requests in the same
order meet the same faults.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any

from .chance import Chance

__all__ = ["BURST", "ERRORS", "LATENCY", "Fault", "Faults"]


class Fault(StrEnum):
    """The kinds of faults. A request that meets one is marked with it in `Simulator.requests`."""

    LATENCY = "latency"
    """The answer is right and comes late: after 20 s of the market, at most 0.2 s of life."""
    SERVER_ERROR = "5xx"
    """500, 502, 503, 504 or 520 with a page of HTML, as a CDN shows it."""
    RESET = "reset"
    """The connection is reset before a byte of the answer came (status 0 in `Simulator.requests`)."""
    TRUNCATED = "truncated"
    """200 with the first part of the JSON, and a Content-Length that fits it."""
    NULLS = "nulls"
    """Prices and amounts in USD, windows too, that are "NaN", null or missing; in candles null or a bare NaN."""
    DUPLICATES = "duplicates"
    """Candles that come twice, first as they were some trades ago; the later one is right (only candles)."""
    RATE_LIMITED = "429"
    """Three requests in a row are refused, whatever the rate was, with `retry-after: 0`."""


BURST = 3
"""Requests of a burst of 429."""

LATENCY = 20.0, 0.2
"""The longest delay: in seconds of market time, and of life, whichever ends first."""

ERRORS = (500, 502, 503, 504, 520)


class Faults:
    """Tells which fault a request meets; `rate` is the share of requests that meet one, of those `kinds`."""

    def __init__(self, rate: float, seed: int = 0, kinds: Sequence[Fault] = tuple(Fault)) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"faults: {rate} found, allowed is a share from 0 to 1")
        self.rate, self._kinds = rate, tuple(kinds)
        self._chance = Chance(seed)

    def meets(self, number: int, path: str) -> Fault | None:
        """Return the fault that request `number` (from 0) for `path` meets, if any.

        Bursts of 429 lie in blocks of `BURST` requests; the rest of the rate falls on the other requests one by one.
        """
        if not self.rate or not self._kinds:
            return None
        refused = self.rate / len(self._kinds) if Fault.RATE_LIMITED in self._kinds else 0.0
        if self._chance.unit("fault/burst", number // BURST) < refused:
            return Fault.RATE_LIMITED
        if refused == 1 or self._chance.unit("fault", number) >= (self.rate - refused) / (1 - refused):
            return None
        kinds = [kind for kind in self._kinds if kind is not Fault.RATE_LIMITED and _fits(kind, path)]
        return kinds[int(self._chance.unit("fault/kind", number) * len(kinds))] if kinds else None

    def error(self, number: int) -> int:
        """Return the status of a 5xx."""
        return ERRORS[int(self._chance.unit("fault/status", number) * len(ERRORS))]

    def spoiled(self, kind: Fault, number: int, content: bytes) -> bytes | None:
        """Return the body of a success as `kind` leaves it; None where there is nothing to spoil."""
        if kind is Fault.TRUNCATED:
            return content[: 1 + int(self._chance.unit("fault/cut", number) * (len(content) - 2))]
        return _spoiled(kind, content, lambda place: self._chance.unit(f"fault/{number}", place))


def _fits(kind: Fault, path: str) -> bool:
    return kind is not Fault.DUPLICATES or "/ohlcv/" in path


def _spoiled(kind: Fault, content: bytes, draw: Callable[[int], float]) -> bytes | None:
    """Spoil the rows of a body; `draw` gives a number in [0, 1) for each place."""
    body = json.loads(content)
    candles = _candles(body)
    if kind is Fault.DUPLICATES:
        changed = _doubled(candles, draw)
    elif candles:
        changed = _without_prices(candles, draw)
    else:
        changed = _without_values(body, draw)
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() if changed else None


def _candles(body: Any) -> list[Any]:
    data = body.get("data")
    found = data.get("attributes", {}).get("ohlcv_list", []) if isinstance(data, dict) else []
    return found if isinstance(found, list) else []


def _doubled(candles: list[Any], draw: Callable[[int], float]) -> bool:
    """Put an older state before some candles, the newest always; their volume and close were others then."""
    whole, changed = list(candles), False
    candles.clear()
    for place, candle in enumerate(whole):
        if not place or draw(place) < 0.05:
            ts, opened, high, low, _, volume = candle
            candles.append([ts, opened, high, low, opened, volume / 2])
            changed = True
        candles.append(candle)
    return changed


def _without_prices(candles: list[Any], draw: Callable[[int], float]) -> bool:
    """Take a number out of some candles, one at least."""
    first = int(draw(-1) * len(candles))
    for place, candle in enumerate(candles):
        chance = draw(place)
        if place == first or chance < 0.05:
            candle[1 + int(chance * 1000) % 5] = (None, math.nan)[int(chance * 10000) % 2]
    return True


def _without_values(body: Any, draw: Callable[[int], float]) -> bool:
    """Take numbers in USD and prices out of some rows, windows too: "NaN", null, or not there at all."""
    changed = False
    for place, attributes in enumerate(_attributes(body)):
        for turn, (holder, name) in enumerate(_numbers(attributes)):
            chance = draw(100 * place + turn)
            if chance < 0.05:
                del holder[name]
            elif chance < 0.2:
                holder[name] = "NaN" if chance < 0.12 else None
            changed |= chance < 0.2
    return changed


def _numbers(attributes: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return where the numbers in USD and the prices of a row are: an object, and a name in it."""
    named = [name for name in attributes if "usd" in name or "price" in name]
    plain = [(attributes, name) for name in named if not isinstance(attributes[name], dict)]
    maps = [attributes[name] for name in named if isinstance(attributes[name], dict)]
    return plain + [(windows, name) for windows in maps for name in windows]


def _attributes(body: Any) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each row."""
    data = body.get("data")
    for row in data if isinstance(data, list) else [data]:
        if isinstance(row, dict) and isinstance(row.get("attributes"), dict):
            yield row["attributes"]
