"""Every measurement by its name."""

from __future__ import annotations

from tests.benchmarks.history import history
from tests.benchmarks.measurements import Figure, Measurement, Sizes, burst, lateness, start, status, sustained
from tests.benchmarks.pruning import pruning

ALL: dict[str, Measurement] = {
    "burst": burst, "sustained": sustained, "lateness": lateness, "start": start, "status": status, "history": history,
    "pruning": pruning,
}


def measure(name: str, sizes: Sizes) -> list[Figure]:
    """Return one measurement's figures; called in a fresh process."""
    return list(ALL[name](sizes))
