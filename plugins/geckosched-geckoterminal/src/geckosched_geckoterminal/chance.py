"""Chance that is a function: what the synthetic market draws depends on the seed and a label, and on nothing else.

So any moment of the market can be made at any time, in any order and in any process, and is always the same.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from hashlib import blake2b, shake_256

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}


class Chance:
    """Numbers, waves and addresses of one seed, by label."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._node = lru_cache(maxsize=65536)(self.unit)

    def rng(self, label: str) -> random.Random:
        """Return a generator of its own for what needs many numbers; seeding by text needs no `hash()`."""
        return random.Random(f"{self.seed}/{label}")

    def number(self, label: str, size: int) -> int:
        """Return a number of `size` bytes."""
        return int.from_bytes(shake_256(f"{self.seed}/{label}".encode()).digest(size))

    def unit(self, label: str, node: int = 0) -> float:
        """Return a number in [0, 1)."""
        key = f"{self.seed}/{label}/{node}".encode()
        return int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64

    def wave(self, label: str, time: float, period: int) -> float:
        """Return a smooth wave in [0, 1): random heights, one per period, joined by curves."""
        node, rest = divmod(time, period)
        share = rest / period
        share = share * share * (3 - 2 * share)
        left, right = self._node(label, int(node)), self._node(label, int(node) + 1)
        return left + (right - left) * share

    def address(self, label: str, size: int = 32) -> str:
        """Return an address (32 bytes) or the hash of a transaction (64 bytes)."""
        return base58(self.number(label, size))


def base58(number: int) -> str:
    """Write a number in the letters of Solana's addresses; ten at a time, for large numbers are slow to divide."""
    tens: list[str] = []
    while number:
        number, ten = divmod(number, 58**10)
        pairs = []
        for _ in range(5):
            ten, pair = divmod(ten, 58**2)
            pairs.append(_PAIRS[pair])
        tens.append("".join(reversed(pairs)))
    return "".join(reversed(tens)).lstrip(_ALPHABET[0])


def unbase58(text: str) -> int | None:
    """Read what `base58` wrote; None for what can't be that."""
    number = 0
    for letter in text[:64]:
        value = _VALUES.get(letter)
        if value is None:
            return None
        number = number * 58 + value
    return number


def poisson(rng: random.Random, mean: float) -> int:
    """Draw a count; large means by the normal approximation."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count
