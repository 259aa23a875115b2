"""Where the time of a burst goes, by thread: `python -m tests.benchmarks --profile`.

A sampling profiler outside the process (py-spy, to be installed by hand) slows nothing down and sees all threads;
cProfile sees one, and doubles what short functions cost. Counted is who holds the interpreter's lock: Python code, not
SQLite at work, and nobody who waits. (What each loop costs with SQLite is among the burst's figures.)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from tests.benchmarks.measurements import Sizes, a_store, await_runs, one_row, with_jobs

SHOWN = 30  # lines of each loop


def profile_burst(sizes: Sizes) -> str:
    """Sample a burst of one-row runs in a process of its own; return a table for each loop."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        return "--profile: needs py-spy (pip install py-spy)\n"
    with tempfile.TemporaryDirectory() as directory:
        stacks = Path(directory) / "stacks"
        sampled = [sys.executable, "-m", "tests.benchmarks.profiling", str(sizes.burst)]
        options = ["--rate", "500", "--threads", "--gil", "--format", "raw", "--output", str(stacks)]
        subprocess.run([spy, "record", *options, "--", *sampled], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return table(stacks.read_text(encoding="utf-8").splitlines())


def table(stacks: list[str]) -> str:
    """Count samples, `thread;frame;...;frame count` a line, by loop and line of code; its own and with calls."""
    whole: dict[str, Counter[str]] = defaultdict(Counter)
    own: dict[str, Counter[str]] = defaultdict(Counter)
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not frames:
            continue
        loop = thread.rpartition("geckosched-")[2] if "geckosched-" in thread else "others"
        own[loop][frames[-1]] += int(count)
        for frame in set(frames):
            whole[loop][frame] += int(count)
    total = sum(sum(counts.values()) for counts in own.values())
    text = ""
    for loop, counts in sorted(own.items(), key=lambda item: -sum(item[1].values())):
        text += f"\n{loop}: {sum(counts.values()) / total:.0%} of all\n\n| line | with what it calls | its own |\n"
        text += "|---|---:|---:|\n"
        for frame, samples in whole[loop].most_common(SHOWN):
            text += f"| {frame} | {samples / total:.1%} | {counts[frame] / total:.1%} |\n"
    return text


def run_burst(jobs: int) -> None:
    """What is sampled: a burst of one-row runs on the default 10 workers."""
    with a_store() as path:
        scheduler = with_jobs(path, jobs, "1d", one_row)
        scheduler.start()
        await_runs(path, jobs)
        scheduler.stop()


if __name__ == "__main__":
    run_burst(int(sys.argv[1]))
