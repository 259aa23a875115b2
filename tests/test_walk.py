"""The walk of the documents, walked: its files are written, its commands run, and each prints what the page shows.

What differs from day to day (times, durations, ids, process numbers, the folder) is made alike on both sides. A
command that only looks is asked again until it shows what the page does, as an operator would; one that does something
runs once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.documents import DOCS, ROOT, blocks
from tests.shell import wait_until

WALK = DOCS / "walk.md"
FOLDER = "/home/you/walk"  # where the page's reader is
PORT = "8000"
LOOKS = re.compile(r"geckosched (status|why|runs|check|plugins)\b|sqlite3 ")
PATIENCE = 60  # seconds for a command to show what the page shows
SQLITE = """
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print(*row, sep="|")
"""  # for a machine without the command: it shows a query's rows as that does


def steps() -> Iterator[tuple[str, str]]:
    """Yield the page's commands in order, each with what it is shown to print; a file to write has no command."""
    page = WALK.read_text(encoding="utf-8").split("## Three jobs")[1]
    for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL):
        if block[0] != "console":
            yield "", block[1]
            continue
        for step in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


class Walker:
    """A reader at a shell, in a folder that is empty at first."""

    def __init__(self, folder: Path, port: int, ending: ExitStack) -> None:
        self.folder = folder
        self.port = str(port)
        self.transcript: list[str] = []
        self._ending = ending
        self._last = ""

    def write(self, text: str) -> None:
        """Write a file, which the block begins with the name of."""
        name = text.split("\n", 1)[0].removeprefix("# ")
        (self.folder / name).write_text(text.replace(PORT, self.port), encoding="utf-8")

    def take(self, command: str, shown: str) -> None:
        """Run a command, and hold what it prints against what the page shows."""
        command = re.sub(r"(?<=geckosched runs )\d+", lambda _: self._id_shown_last(), command)
        if command == "geckosched run" or command.endswith(" &"):
            log = self._start(command.removesuffix(" &"))
            lines = [alike(line) for line in shown.splitlines()]
            wait_until(lambda: all(line in self._lines_of(log) for line in lines), PATIENCE)
            self._note(command, log.read_text())
            return
        if LOOKS.match(command):
            with suppress(AssertionError):  # what it is then is said below
                wait_until(lambda: alike(shown) == alike(self._run(command)), PATIENCE)
        else:
            self._run(command)
        self._note(command, self._last)
        assert alike(self._last) == alike(shown), f"$ {command}\n{self._last}"

    def _note(self, command: str, printed: str) -> None:
        self.transcript.append(f"$ {command}\n{self._as_shown(printed)}")

    def _id_shown_last(self) -> str:
        return str(re.findall(r"^ *(\d+) ", self._last, re.MULTILINE)[0])

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=120
        )
        self._last = self._as_shown(done.stdout)
        return self._last

    def _start(self, command: str) -> Path:
        log = self.folder / f"terminal{len(self.transcript)}.txt"
        with log.open("w") as output:
            words = shlex.split(command.replace(PORT, self.port).split(" > ")[0])
            process = subprocess.Popen(words, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT)
        self._ending.callback(process.wait, 60)
        self._ending.callback(process.send_signal, signal.SIGINT)
        return log

    def _lines_of(self, log: Path) -> list[list[str]]:
        return [alike(line) for line in self._as_shown(log.read_text()).splitlines()]

    def _as_shown(self, text: str) -> str:
        """Put the page's names of folder, host and port in the place of ours."""
        text = text.replace(f"{ROOT}/geckosched/", f"{FOLDER}/.venv/lib/python3.12/site-packages/geckosched/")
        text = text.replace(str(self.folder), FOLDER).replace(f":{self.port}", f":{PORT}")
        return text.replace(f" on {socket.gethostname()}", " on station")


def alike(text: str) -> list[str]:
    """Return the words, what differs from one day to the next made alike: where a line breaks depends on that, too."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "0", text)  # an instance
    text = re.sub(r"\.{2,}(?= )", ".", text)  # a strip of runs that succeeded
    return re.sub(r"(?:\d+(?:[.:-]\d+)*(?: ?(?:ms|[smhd])(?![a-z]))?)+", "0", text).split()


@contextmanager
def walker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walker]:
    """A reader for whom `geckosched` is the one under test, and the only plugin that of the page."""
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True)
    programs = {"geckosched": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m geckosched "$@"\n'}
    if shutil.which("sqlite3") is None:
        programs["sqlite3"] = f"#!{sys.executable}\n{SQLITE}"
    for name, text in programs.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GECKOSCHED_LOAD_PLUGINS", "feeds")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("GECKOSCHED_CONFIG", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as ending:
        yield Walker(folder, port, ending)


def test_the_walk_is_as_the_page_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the walk prints what the page shows."""
    with tempfile.TemporaryDirectory() as folder, walker(Path(folder), monkeypatch) as reader:  # a short name
        for command, shown in steps():
            if command:
                reader.take(command, shown)
            else:
                reader.write(shown)
    assert {block.file for block in blocks("python", WALK)} == {"feeds.py"}
