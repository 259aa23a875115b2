"""Run the benchmarks and print one table, as markdown: `python -m tests.benchmarks [NAME]... [--quick] [--repeat 3]`.

Nothing here is asserted, and pytest does not collect it: figures of time belong to the machine that they are from. Run
it with nothing else at work; where something is, compare processor time, not runs per second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.benchmarks.catalogue import ALL, measure
from tests.benchmarks.measurements import FULL, QUICK, Sizes
from tests.benchmarks.profiling import profile_burst


def repeated(name: str, sizes: Sizes, times: int) -> dict[tuple[str, str], list[float]]:
    """Measure so many times, each in a process of its own; the values of each figure."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    fresh = multiprocessing.get_context("spawn")
    for _ in range(times):
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            for what, value, unit in pool.submit(measure, name, sizes).result():
                values[what, unit].append(value)
    return values


def machine() -> str:
    """Say what was measured, and on what."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = "unknown"
    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
            f"SQLite {sqlite3.sqlite_version}, load before {load:.1f}, revision {revision}")


def number(value: float) -> str:
    """Write a value with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(what: str, unit: str, values: list[float]) -> str:
    """Write a row of the table: the median, and the range if it was measured more than once."""
    spread = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return f"| {what} | {number(statistics.median(values))}{spread} | {unit} |"


def main() -> None:
    names = ", ".join(ALL)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure geckosched.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (default: all of {names})")
    parser.add_argument("--quick", action="store_true", help="small sizes: half a minute, to see that it works")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="measure N times, show median and range")
    parser.add_argument("--profile", action="store_true", help="say where the burst's time goes, by thread (py-spy)")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"found {unknown[0]!r}, allowed: {names}")
    if options.profile:
        sys.stdout.write(profile_burst(sizes))
        return
    sys.stdout.write(f"{machine()}\n\n| measured | result | unit |\n|---|---:|---|\n")
    for name in options.names or ALL:
        for (what, unit), values in repeated(name, sizes, options.repeat).items():
            sys.stdout.write(row(what, unit, values) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
