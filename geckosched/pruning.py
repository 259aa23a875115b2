"""How the store is kept from growing for ever: what of its history goes, in portions that delay nobody.

Once a minute the watcher of the leading process begins a round. Runs that began more than `retention_days` ago go,
oldest first, and of each job those beyond its newest `retention_runs`, with their losses. What stays: a job's last
run, last success and last failure, what is still open, losses of the last day, which health counts, and the run before
an interrupted one, by which a start tells a collector that kills its process. Answered requests and processes of the
past go by age alone. The counts in `geckosched_jobs` are of all that ever ran and stay.

A round reads, on the watcher's connection, which rows go, and has the writer delete a portion, as one of the messages
that it commits together. A portion is as large as the writer commits in a few milliseconds, which the last one showed,
and the next comes when a multiple of that has passed. In between the watcher moves the pages that changed from the WAL
into the file: they lie all over it, and the writer, whose turn that is at every 1,000 pages, would be at it for longer
than a run should wait; it can commit meanwhile. A round begins where the last one stopped, once an hour at the
oldest row again: what stayed may have become old.

Age is not judged by the clock alone, which may be wrong: it counts from a day after the newest run that is over a day
old. So a clock that is set years ahead by mistake costs a day's history, unless it stays wrong for a day; and what ran
under it, being of the future once the clock is right again, goes by number.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from geckosched.core import DAY, HOUR, MINUTE, Inbox, Lead, Message, Writer, from_text, to_text

Read = Callable[[str, Sequence[Any]], list[sqlite3.Row]]


class Portion(NamedTuple):
    """Rows of one table that go, by their ids, and of which runs losses go with them; maybe none, after a look that
    found nothing."""

    table: str
    ids: list[Any]
    with_losses: Sequence[int] = ()


class Deletion(Message):
    """Deletes a portion; tells `reply` how many seconds that took the writer, its commit included: infinitely many if
    the store refused it."""

    __slots__ = ("_began", "_portion", "_reply")

    def __init__(self, portion: Portion, reply: Inbox) -> None:
        self._portion = portion
        self._reply = reply
        self._began = 0.0

    def write(self, writer: Writer) -> None:
        self._began = time.monotonic()
        table, ids, with_losses = self._portion
        execute = writer.connection.execute
        if with_losses:
            execute("DELETE FROM geckosched_losses WHERE run_id IN (SELECT value FROM json_each(?))",
                    (json.dumps(with_losses),))
        execute(f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))

    def done(self) -> None:
        self._reply.put(time.monotonic() - self._began)

    def refused(self, error: BaseException) -> None:
        super().refused(error)
        self._reply.put(math.inf)


class Pruner:
    """Deletes what is old, a portion at a turn. `pause` is how long the watcher may wait before the next turn."""

    EVERY = MINUTE  # of the scheduler's time, between two rounds
    IDLE = 0.5  # seconds: nothing is to be done
    BREATH = 0.01  # ... between two portions, at least
    SHARE = 5  # of the writer's time at most every fifth moment
    AIM = 0.004  # seconds of the writer's time for a portion
    MOST = 500  # rows

    def __init__(self) -> None:
        self.pause = self.IDLE
        self._size = 20
        self._next = 0
        self._round: Iterator[Portion] | None = None
        self._reply: Inbox | None = None
        self._walked = 0  # all runs up to this one were looked at
        self._walk_again = 0  # when to begin at the first run once more
        self._looked_at: dict[str, int] = {}  # how many runs a job had when its surplus was looked for
        self._share = 0  # ... and how many it might keep
        self._beside: sqlite3.Connection | None = None

    def turn(self, lead: Lead) -> None:
        """Put the next portion, if it is time and the last one is committed."""
        if self._reply is not None and not self._is_committed(self._reply):
            if self._reply is None:
                self._checkpoint(lead)
            return
        self.pause = self.IDLE
        if lead.momentary or lead.writer.trouble is not None:
            return
        if self._round is None and lead.clock.monotonic() >= self._next:
            self._next = lead.clock.monotonic() + self.EVERY
            self._round = self._portions(lead)
        if self._round is not None:
            self._go_on(lead, self._round)

    def _is_committed(self, reply: Inbox) -> bool:
        for seconds in reply.drain():
            self._reply = None
            if seconds == math.inf:  # the next round tries it again
                self._round, self.pause = None, self.IDLE
                return False
            self._size = max(1, self._size // 2) if seconds > self.AIM else min(self.MOST, self._size + 10)
            self.pause = max(self.BREATH, self.SHARE * seconds)
            return False  # the pause comes first
        return self._reply is None

    def _go_on(self, lead: Lead, portions: Iterator[Portion]) -> None:
        self.pause = self.BREATH
        portion = next(portions, None)
        if portion is None:
            self._round, self.pause = None, self.IDLE
        elif portion.ids:
            self._reply = Inbox()
            lead.writer.inbox.put(Deletion(portion, self._reply))

    def _checkpoint(self, lead: Lead) -> None:
        if lead.writer.trouble is None:
            self._beside = self._beside or lead.keep_open(lead.store.open_beside())
            began = time.monotonic()
            with lead.store.gate:
                self._beside.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.pause = max(self.pause, time.monotonic() - began)  # half of the disk's time is for others

    def _portions(self, lead: Lead) -> Iterator[Portion]:
        now, read, config = lead.clock.now(), lead.read, lead.config
        if (counts_from := age_counts_from(now, read)) is not None:
            before = to_text(counts_from - config.retention_days * DAY)
            if lead.clock.monotonic() >= self._walk_again:
                self._walked, self._walk_again = 0, lead.clock.monotonic() + HOUR
            yield from self._old_runs(read, before, now)
            yield from self._aged(read, "geckosched_requests", "answered_at", before)
            yield from self._aged(read, "geckosched_instances", "heartbeat_at", before)
        yield from self._surplus(read, now, config.retention_runs)

    def _old_runs(self, read: Read, before: str, now: int) -> Iterator[Portion]:
        """Walk from the oldest run on: ids ascend with time. Those of the future are passed over."""
        lately, today = to_text(now - DAY), to_text(now)
        while rows := read(_OLDEST_SQL, (lately, self._walked, self._size)):
            young = next((n for n, row in enumerate(rows) if before <= row["started_at"] <= today), None)
            old = rows[:young]
            yield _portion([row for row in old if row["started_at"] < before])
            self._walked = old[-1]["id"] if old else self._walked
            if young is not None:
                return

    def _aged(self, read: Read, table: str, column: str, before: str) -> Iterator[Portion]:
        """Walk from a table's oldest row to the first that is young; its newest stays, and what is not answered."""
        sql = (f"SELECT rowid AS place, id, {column} AS at FROM {table} WHERE rowid > ? "
               f"AND rowid < (SELECT max(rowid) FROM {table}) ORDER BY rowid LIMIT ?")
        after = 0
        while rows := read(sql, (after, self._size)):
            after = rows[-1]["place"]
            dated = [row for row in rows if row["at"] is not None]
            yield Portion(table, [row["id"] for row in dated if row["at"] < before])
            if any(row["at"] >= before for row in dated):
                return

    def _surplus(self, read: Read, now: int, most: int) -> Iterator[Portion]:
        """Find, of the jobs that ran a twentieth more than their share since the last look, the runs beyond it."""
        if most != self._share:  # a reload changed it
            self._share, self._looked_at = most, {}
        after = ""
        while jobs := read(_JOBS_SQL, (after,)):
            after = jobs[-1]["job_id"]
            for job_id, runs in jobs:
                if runs > most and not 0 <= runs - self._looked_at.get(job_id, -runs) <= most // 20:
                    self._looked_at[job_id] = runs
                    yield from self._surplus_of(read, job_id, most, to_text(now - DAY))
            yield Portion("geckosched_runs", [])

    def _surplus_of(self, read: Read, job_id: str, most: int, lately: str) -> Iterator[Portion]:
        first = read(_FIRST_SURPLUS_SQL, (job_id, most))
        after, last = 0, first[0]["id"] if first else 0
        while rows := read(_SURPLUS_SQL, (lately, job_id, after, last, self._size)):
            after = rows[-1]["id"]
            yield _portion(rows)


def _portion(rows: list[sqlite3.Row]) -> Portion:
    going = [row for row in rows if row["goes"]]
    return Portion("geckosched_runs", [row["id"] for row in going], [row["id"] for row in going if row["lost"]])


def age_counts_from(now: int, read: Read) -> int | None:
    """Return the moment from which the age of runs counts: a day after the newest run that is over a day old, which is
    found by halving, and at most now. None if there is no such run, or the runs are of all sorts of times."""
    low, high = tuple(read("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM geckosched_runs", ())[0])
    if low > high:  # nothing ran yet
        return now
    day_ago, today, found = to_text(now - DAY), to_text(now), None
    while low <= high:
        middle = (low + high) // 2
        [row] = read("SELECT id, started_at FROM geckosched_runs WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        if day_ago < row["started_at"] <= today:
            high = middle - 1
        else:
            found, low = row["started_at"], row["id"] + 1
    return None if found is None or found > today else min(now, from_text(found) + DAY)


# What of the runs `r` of the jobs `j` goes; the first parameter is a day ago.
_GOES = """
    r.outcome IS NOT NULL
    AND (j.job_id IS NULL OR r.id NOT IN (coalesce(j.last_run_id, 0), coalesce(j.last_success_id, 0),
                                          coalesce(j.last_failure_id, 0)))
    AND (r.lost = 0 OR NOT EXISTS (SELECT 1 FROM geckosched_losses l WHERE l.run_id = r.id AND l.until >= ?))
    AND (j.job_id IS NULL OR r.outcome <> 'interrupted' OR EXISTS (
        SELECT 1 FROM geckosched_runs b WHERE b.job_id = r.job_id AND b.id > r.id AND b.id < j.last_run_id))"""
_OLDEST_SQL = f"""
    SELECT r.id, r.started_at, r.lost, {_GOES} AS goes
      FROM geckosched_runs r LEFT JOIN geckosched_jobs j ON j.job_id = r.job_id
     WHERE r.id > ? ORDER BY r.id LIMIT ?"""
_FIRST_SURPLUS_SQL = "SELECT id FROM geckosched_runs WHERE job_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
_SURPLUS_SQL = f"""
    SELECT r.id, r.lost, {_GOES} AS goes
      FROM geckosched_runs r LEFT JOIN geckosched_jobs j ON j.job_id = r.job_id
     WHERE r.job_id = ? AND r.id > ? AND r.id <= ? ORDER BY r.id LIMIT ?"""
_JOBS_SQL = "SELECT job_id, runs FROM geckosched_jobs WHERE job_id > ? ORDER BY job_id LIMIT 1000"
