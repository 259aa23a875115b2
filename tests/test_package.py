"""The package as a whole: what an import costs, core.py on its own, and that the public names are documented."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import geckosched

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_none_of_the_heavy_libraries() -> None:
    """`import geckosched` loads neither typer, rich, pydantic, requests nor sqlite_utils, and starts no thread."""
    heavy = ("typer", "rich", "pydantic", "requests", "sqlite_utils")
    code = (
        f"import sys, threading, geckosched; print([m for m in {heavy} if m in sys.modules], threading.active_count())"
    )
    assert run_python(code).strip() == "[] 1"


ALONE = """
import sys, time
sys.path.insert(0, ".")
import core

@core.collector("tick", every="1s")
def tick(run):
    yield core.Batch("ticks", [{"at": run.now()}])

scheduler = core.CollectionScheduler(core.SchedulerConfig(database="alone.db"))
scheduler.register_collector(tick)
done = core.Inbox()
with scheduler:
    while len(scheduler.get_runs("tick")) < 3:
        done.wait(0.05)
runs = [run for run in scheduler.get_runs("tick") if run.outcome == "succeeded"]
print(len(runs) >= 2, [m for m in sys.modules if m.split(".")[0] in ("geckosched", "requests", "typer")])
"""


def test_core_works_when_copied_alone(tmp_path: Path) -> None:
    """core.py in an empty folder, beside pluggy, schedule and sqlite-utils, runs a collector on schedule."""
    shutil.copy(ROOT / "geckosched" / "core.py", tmp_path)
    assert run_python(ALONE, cwd=tmp_path).strip() == "True []"


def test_public_names_are_sorted_and_documented() -> None:
    """`__all__` is sorted, and every class and function in it has a docstring."""
    names = list(geckosched.__all__)
    assert names == sorted(names)
    assert [name for name in names if name != "__version__" and not getattr(geckosched, name).__doc__] == []
