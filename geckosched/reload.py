"""What another configuration changes, and the loop that reads it.

Plain data first. A `Plan` compares two sets of settings, and the jobs that a configuration asked for with those that
the next one asks for; a job that differs is a `Change`, which knows which of its settings differ. The scheduler hands
the changes to whoever owns the jobs, which puts each onto the job as it is by then: an operator may have rescheduled,
enabled or unregistered it. A setting that the configuration changes wins over the operator, any other stays as the
operator left it. So the last word on each setting holds, and a reload that doesn't touch a job undoes nothing of it.

Then the `Reloader`: a thread that reads the configuration again and has it applied, when a signal or another process
asks for it. One after the other, each reading begins after what asked for it; what asks meanwhile asks for one more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geckosched.core import (
    CollectionScheduler,
    Configurable,
    GeckoschedError,
    Inbox,
    PluginSetup,
    Record,
    Registration,
    SchedulerConfig,
    _guard,
    fitted,
    parse_duration,
)

__all__ = ["Applied", "Change", "NeedsRestart", "Plan", "Reloader"]

_DURATIONS = frozenset(
    ("error_recovery_delay", "max_recovery_delay", "timeout", "shutdown_timeout", "health_check_interval")
)
_OF_JOBS = frozenset(("timezone", "timeout", "max_consecutive_errors"))  # settings that are in jobs' registrations
_KINDS = ("added", "changed", "removed")
_FEW = 10  # of many names, in one line

# -- What came of it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NeedsRestart(Record):
    """Something that differs and holds from the next start on only; `reason` says why, or what holds until then."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Applied(Record):
    """What another configuration changed: ids of jobs, names of settings (`max_workers`, `budgets.weather`), and what
    needs a restart. `str()` of it is one line."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    restart: tuple[NeedsRestart, ...] = ()

    def __str__(self) -> str:
        said = [f"{kind} {_listed(names)}" for kind in (*_KINDS, "settings") if (names := getattr(self, kind))]
        reasons: dict[str, list[str]] = {}
        for each in self.restart:
            reasons.setdefault(each.reason, []).append(each.name)
        waits = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
        said = said or ["nothing differs" if not waits else "nothing else differs"]
        return "; ".join([*said, *([f"needs a restart: {', '.join(waits)}"] if waits else [])])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


# -- The comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What a configuration changes of one job: `fields` of its registration differ. It is new if there is nothing
    `before`, and goes if there is nothing `after`."""

    job_id: str
    before: Registration | None
    after: Registration | None
    config: SchedulerConfig
    fields: frozenset[str] = frozenset()

    @property
    def is_of_another(self) -> bool:
        """Whether the job is another collector's from now on."""
        return "name" in self.fields

    def onto(self, current: Registration | None) -> Registration | None:
        """Return what becomes of a job that is `current` by now; the same object if nothing does. The job is not there
        any more if an operator unregistered it; it comes back if its own table says something new."""
        after = self.after
        if after is None or self.before is None:
            return after
        if current is None:
            return after if self.fields - after.by_default - {"grid"} else None
        if self.is_of_another:  # what was done to the old one says nothing about it
            return after
        values = {name: getattr(after, name) for name in self.fields - {"grid"}}
        changed: dict[str, Any] = {
            name: value for name, value in values.items() if name == "options" or value != getattr(current, name)
        }
        return fitted(dataclasses.replace(current, **changed) if changed else current, self.config)

    @staticmethod
    def word(before: Registration | None, after: Registration | None) -> str:
        """Return the word for what became of a job; an empty one if nothing did."""
        if after is before:
            return ""
        return "added" if before is None else "removed" if after is None else "changed"


@dataclass(frozen=True, slots=True)
class Plan:
    """What another configuration changes of a scheduler. `config` is what it goes on with: the new settings, but for
    those that need a restart."""

    config: SchedulerConfig
    settings: tuple[str, ...]
    restart: tuple[NeedsRestart, ...]

    @classmethod
    def of(cls, old: SchedulerConfig, new: SchedulerConfig, store: Path) -> Plan:
        """Compare settings; `store` is the file that the scheduler has."""
        restart = []
        if new.database != old.database and Path(os.path.realpath(Path(new.database).expanduser())) != store:
            restart.append(NeedsRestart("database", f"until then it is {store}"))
        if new.executor != old.executor:
            restart.append(NeedsRestart("executor", f"until then it is {old.executor}"))
        config = dataclasses.replace(new, database=old.database, executor=old.executor)
        return cls(config, tuple(_settings_that_differ(old, config)), tuple(restart))

    def changes(
        self,
        configured: Mapping[str, Registration],
        wanted: Mapping[str, Registration] | None,
        registrations: Mapping[str, Registration],
    ) -> list[Change]:
        """Compare the jobs that the configuration asked for, `configured`, with those that it asks for now, `wanted`
        (None: the same). Other `registrations` change only by the settings that they have as defaults."""
        found: dict[str, Change] = {}
        wanted = configured if wanted is None else wanted
        for job_id in configured.keys() | wanted.keys():
            before, after = configured.get(job_id), wanted.get(job_id)
            if before is None or after is None:
                found[job_id] = Change(job_id, before, after, self.config)
            elif fields := differences(before, after):
                found[job_id] = Change(job_id, before, after, self.config, fields)
        for job_id, each in registrations.items() if _OF_JOBS.intersection(self.settings) else ():
            if job_id not in found and (fit := fitted(each, self.config)) is not each:
                found[job_id] = Change(job_id, each, fit, self.config, differences(each, fit))
        return [found[job_id] for job_id in sorted(found)]

    def applied(
        self, changes: Sequence[Change], words: Sequence[str], loaded: PluginSetup | None, plugins: PluginSetup | None
    ) -> Applied:
        """Say what came of it: of each change its word. `loaded` are the plugins of the start, `plugins` those that
        the configuration asks for now (None: it doesn't say)."""
        restart = [*self.restart, *_plugins_that_differ(loaded, plugins)]
        came = list(zip(changes, words, strict=True))
        jobs = {kind: tuple(each.job_id for each, word in came if word == kind) for kind in _KINDS}
        return Applied(**jobs, settings=self.settings, restart=tuple(restart))


def differences(one: Registration, other: Registration) -> frozenset[str]:
    """Return the names of the fields in which two registrations of a job differ."""
    names = (each.name for each in dataclasses.fields(Registration))
    return frozenset(name for name in names if not _is_same(name, getattr(one, name), getattr(other, name)))


def _is_same(name: str, one: Any, other: Any) -> bool:
    if name == "collector":
        return one is other
    if dataclasses.is_dataclass(one) and type(one) is type(other):  # whether or not they compare as such
        values = ([getattr(each, f.name, None) for f in dataclasses.fields(one)] for each in (one, other))
        one, other = values
    return bool(_guard(lambda: bool(one == other))[0])  # options are plugin code


def _settings_that_differ(old: SchedulerConfig, new: SchedulerConfig) -> Iterator[str]:
    for each in dataclasses.fields(SchedulerConfig):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.name in _DURATIONS:
            before, after = (parse_duration(value, zero=True) for value in (before, after))
        if each.name == "budgets":
            names = sorted(before.keys() | after.keys())
            yield from (f"budgets.{name}" for name in names if before.get(name) != after.get(name))
        elif each.name == "secrets":
            yield from ("secrets",) if set(after) - set(before) else ()
        elif before != after:
            yield each.name


def _plugins_that_differ(old: PluginSetup | None, new: PluginSetup | None) -> Iterator[NeedsRestart]:
    if old is None or new is None:
        return
    names = [f"[plugins] {key}" for key in ("load", "disable") if set(getattr(old, key)) != set(getattr(new, key))]
    names += ["GECKOSCHED_LOAD_PLUGINS"] if old.only != new.only else []
    tables = sorted(old.settings.keys() | new.settings.keys())
    names += [f"[plugins.{name}]" for name in tables if old.settings.get(name, {}) != new.settings.get(name, {})]
    yield from (NeedsRestart(name, "plugins are loaded at a start only") for name in names)


# -- The loop ----------------------------------------------------------------------------------------------------------

_STOP, _SIGNAL = "stop", "signal"


class Source(Configurable, Protocol):
    """A configuration that was read from a file, if there is one."""

    @property
    def path(self) -> Path | None: ...


class Reloader:
    """Reloads the configuration of a scheduler while it runs. What its signal handler and other processes do is to put
    a message here; a thread of its own reads the configuration, where plugins' code may take its time."""

    def __init__(self) -> None:
        self._inbox = Inbox()
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup: it shall outlive its terminal
        self._of_terminal = _has_terminal() and not ignored

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Take a SIGHUP for a wish to reload, also before there is a scheduler. For the main thread."""
        before = signal.signal(signal.SIGHUP, lambda *_: self._inbox.put(_SIGNAL))
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    @contextmanager
    def serving(
        self,
        scheduler: CollectionScheduler,
        read: Callable[[], Source],
        announce: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[None]:
        """Reload when a signal or another process asks for it. `read` reads the configuration again; `announce` is
        entered around a reload."""
        self._scheduler, self._log = scheduler, scheduler.registry.log
        self._read, self._announce = read, announce
        thread = threading.Thread(target=self._listen, name="geckosched-reload", daemon=True)
        scheduler.on_reload = self._inbox.put
        thread.start()
        try:
            yield
        finally:
            scheduler.on_reload = None
            self._inbox.put(_STOP)
            thread.join(1.0)  # it may be in plugin code

    def _listen(self) -> None:
        while self.turn():
            pass

    def turn(self) -> bool:
        """Wait until somebody asks, reload, and answer all who had asked before; False at the end."""
        self._inbox.wait(None)
        asked = self._inbox.drain()
        if _STOP in asked:
            return False
        if _SIGNAL in asked and self._of_terminal and not _has_terminal():
            self._log.info("the terminal is gone, stopping")
            self._scheduler.stop()
            return False
        answer = self.reload()
        for request in asked:
            if request != _SIGNAL:
                self._scheduler.answer_request(request, answer)
        return True

    def reload(self) -> str:
        """Read the configuration again and have it applied; returns and logs in one line what came of it. With anything
        wrong nothing is changed, and the answer begins with `refused`, with a line for each thing that is wrong."""
        said, error = _guard(self._reloaded)
        if error is None:
            return str(said)
        if isinstance(error, GeckoschedError):
            self._log.error("not reloaded, nothing has changed: %s", "; ".join(str(error).splitlines()))
            return f"refused: {error}"
        line = self._scheduler.secrets.one_line(error)
        self._log.error("not reloaded: %s; this is a bug of geckosched", line, exc_info=error)
        return f"refused: {line}"

    def _reloaded(self) -> str:
        with self._announce():
            source = self._read()
            applied = self._scheduler.apply(source)
        said = f"reloaded{'' if source.path is None else f' {source.path}'}: {applied}"
        self._log.log(logging.WARNING if applied.restart else logging.INFO, "%s", said)
        return said


def _has_terminal() -> bool:
    """Whether this process is in a terminal's session; a SIGHUP also tells that the terminal is gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
