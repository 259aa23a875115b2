"""What the tests share: a store of their own, schedulers that are stopped, and no thread left behind."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from geckosched import Clock, CollectionScheduler, SchedulerConfig
from tests.shell import make_site
from tests.workbench import Workbench

PATIENCE = 5.0  # seconds for the threads of a stopped scheduler to end

NewScheduler = Callable[..., CollectionScheduler]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hangs: hangs a collector on purpose, so threads of ours may outlive the test")


@pytest.fixture(autouse=True)
def _no_thread_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a thread of ours alive fails, unless it is marked `hangs`."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("hangs") is not None:
        return
    until = time.monotonic() + PATIENCE
    ours = [t for t in threading.enumerate() if t.name.startswith("geckosched-") and t not in before]
    for thread in ours:
        thread.join(max(0.0, until - time.monotonic()))
    left = [thread.name for thread in ours if thread.is_alive()]
    if left:
        pytest.fail(f"threads left alive: {', '.join(left)}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that holds the plugin `fake`; the working directory is an empty one beside it."""
    return make_site(tmp_path, monkeypatch)


@pytest.fixture
def fake_plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of the plugin `fake`, which commands in this process find, too; a test may write another into it."""
    monkeypatch.syspath_prepend(str(site))
    sys.modules.pop("geckosched_fake", None)
    yield site / "geckosched_fake.py"
    sys.modules.pop("geckosched_fake", None)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where this test's store is, or will be."""
    return tmp_path / "store.db"


@pytest.fixture
def new_scheduler(store_path: Path) -> Iterator[NewScheduler]:
    """Make schedulers on this test's store: `new_scheduler(clock=FakeClock(), max_workers=4)`. All are stopped."""
    made: list[CollectionScheduler] = []

    def new(*, clock: Clock | None = None, **settings: Any) -> CollectionScheduler:
        config = SchedulerConfig(**{"database": store_path, "max_workers": 2, **settings})
        made.append(CollectionScheduler(config, clock=clock))
        return made[-1]

    yield new
    for scheduler in made:
        scheduler.stop(PATIENCE)


@contextmanager
def an_unprivileged_user() -> Iterator[None]:
    """Be somebody whom file modes stop, also where root runs the tests."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(was)


@contextmanager
def without_the_right_to_write(folder: Path) -> Iterator[None]:
    """Make a folder read-only, and be somebody whom that stops."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        with an_unprivileged_user():
            yield
    finally:
        folder.chmod(mode)


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold a store's write lock, as a backup or another program does."""
    with closing(sqlite3.connect(store, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        yield
        foreign.execute("ROLLBACK")


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that can't be written, also where root runs the tests."""
    with tempfile.TemporaryDirectory() as name, without_the_right_to_write(Path(name)):
        yield Path(name)


@pytest.fixture
def bench(new_scheduler: NewScheduler, store_path: Path) -> Workbench:
    """A started scheduler with one worker and one job that runs what the test gives it."""
    return Workbench(new_scheduler(max_workers=1), store_path)
