"""Read `geckosched.toml` into the values that the core takes.

The way of a file: find it (`find_configuration`), parse it, put into it what the environment says and the secrets
that it names (`geckosched.outside`), check every table against its pydantic model, and hand back a frozen
`Configuration`. What stands in `[collectors.X]` beside our own keys belongs to the collector, whose `Options` are known
only when its plugin is loaded: the core then calls `read_options`. What a variable of the environment means may also be
known only then (a job that has no table, an option, a budget), so the tables of collectors and budgets are made anew.

Whatever is wrong with a file is one `ConfigError`, with a line for each thing that is wrong, so that nobody mends a
file in as many rounds; a line says where (file, table, key), what was found and what is allowed::

    geckosched.toml: [collectors.weather] evry: unknown key, did you mean "every"?

Within this module a line begins with table and key; `_Errors` puts the file before it or, where the value came from the
environment, the variable in their place, and hides secrets.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import json
import logging
import operator
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from geckosched.core import (
    OUR_OPTIONS,
    Budget,
    CollectionScheduler,
    CollectorRegistry,
    ConfigError,
    PluginSetup,
    SchedulerConfig,
    Secrets,
    _one_line,
    missing_options,
    parse_at,
    parse_duration,
)
from geckosched.outside import (
    PREFIX,
    Text,
    Variable,
    holds_secret,
    overlay,
    plain,
    resolve,
    settings_of,
    typed,
    unknown_variables,
    variables,
    words_of,
)
from geckosched.reload import Applied

__all__ = [
    "DEFAULT_FILE",
    "Configuration",
    "find_configuration",
    "find_database",
    "installed_plugins",
    "load_configuration",
    "read_configuration",
    "read_options",
]

log = logging.getLogger("geckosched")

DEFAULT_FILE = Path("geckosched.toml")

Table = Mapping[str, Any]

# -- What may stand in which table -------------------------------------------------------------------------------------


def _duration(value: object, *, zero: bool = False) -> object:
    """Check a duration; a bare number is refused, since it could mean seconds as well as minutes."""
    if not isinstance(value, str) or re.fullmatch(r"\s*[+-]?[\d.]+\s*", value):
        raise ValueError(f'found {_found(value)}, a duration needs a unit, such as "30s"')
    try:
        parse_duration(value, zero=zero)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("duration: ")) from error
    return value


def _time_of_day(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f'found {_found(value)}, a time of the day needs quotes, such as "02:30"')
    return value


_Duration = Annotated[str, BeforeValidator(_duration)]
_DurationOrZero = Annotated[str, BeforeValidator(lambda value: _duration(value, zero=True))]
_TimeOfDay = Annotated[str, BeforeValidator(_time_of_day)]
_AtLeastOne = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    """A table whose keys are all ours; a key that the file leaves out stays unset."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _SchedulerTable(_Table):
    database: str = ""
    timezone: str = ""
    max_workers: _AtLeastOne = 1
    executor: str = ""
    max_consecutive_errors: _AtLeastOne = 1
    error_recovery_delay: _Duration = ""
    max_recovery_delay: _Duration = ""
    timeout: _Duration = ""
    catchup: Literal["latest", "none"] = "latest"
    shutdown_timeout: _DurationOrZero = ""
    health_check_interval: _Duration = ""
    retention_days: _AtLeastOne = 1
    retention_runs: _AtLeastOne = 1


class _PluginsTable(_Table):
    disable: list[str] = []
    load: list[str] = []


class _BudgetTable(_Table):
    rate: str = ""
    burst: _AtLeastOne = 1


class _CollectorTable(_Table):
    """Our part of `[collectors.X]`; the rest is the collector's Options."""

    use: str = ""
    every: _Duration = ""
    at: _TimeOfDay = ""
    timeout: _Duration = ""
    priority: int = 0
    max_consecutive_errors: _AtLeastOne = 1
    quiet: _Duration = ""
    enabled: bool = True


_KEYS: dict[str, Iterable[str]] = {
    "scheduler": _SchedulerTable.model_fields,
    "plugins": _PluginsTable.model_fields,
    "budgets": (),  # a name comes first
    "collectors": (),
}
_TABLES = tuple(_KEYS)


# -- The result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a configuration says, checked as far as it can be without loading a plugin.

    `collectors` maps job ids to their tables, ours and the collector's options together; `plugin_settings` maps plugin
    names to theirs. `path` is None without a file. Secrets are read, and listed in `scheduler.secrets`.
    """

    path: Path | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    disable: tuple[str, ...] = ()
    load: tuple[Path, ...] = ()
    only_plugins: tuple[str, ...] | None = None
    plugin_settings: Mapping[str, Table] = field(default_factory=dict, repr=False)
    collectors: Mapping[str, Table] = field(default_factory=dict, repr=False)
    sources: Sources = field(default_factory=lambda: Sources(), repr=False, compare=False)

    def load_plugins(self, scheduler: CollectionScheduler) -> None:
        """Have a scheduler load the plugins and schedule their collectors as this configuration says.

        What only the plugins can tell is judged here: a collector that isn't installed, an option that it doesn't
        know. Raises ConfigError with the file's name.
        """
        errors = self.sources.errors()
        resolved = self

        def tables(registry: CollectorRegistry) -> Mapping[str, Table]:
            nonlocal resolved
            resolved = self.resolved(registry, errors)
            scheduler.config = dataclasses.replace(scheduler.config, budgets=resolved.scheduler.budgets)
            return {name: _for_collector(name, table, registry) for name, table in resolved.collectors.items()}

        with errors.kept():
            scheduler.load_plugins(
                self.only_plugins,
                disable=self.disable,
                load=self.load,
                settings=self.plugin_settings,
                collectors=tables,
                read_options=functools.partial(read_options, folder=self.sources.folder),
            )
        with errors.kept():
            resolved._check_free_options(scheduler)
        self._warn_of_unknown_plugins(scheduler)
        if errors.found:
            raise ConfigError("\n".join(f"{line}{self._about_disabled(line)}" for line in errors.lines))
        resolved._warn_of_unused_budgets(scheduler)

    def apply_to(self, scheduler: CollectionScheduler) -> Applied:
        """Have a scheduler go on with this configuration, as `CollectionScheduler.apply` does; its plugins stay as they
        are. Raises one ConfigError of all that is wrong, before anything is changed."""
        scheduler.secrets.add(self.scheduler.secrets)  # first: whatever goes wrong is said without them
        errors, registry = self.sources.errors(), scheduler.registry
        resolved = self.resolved(registry, errors)
        tables = {name: _for_collector(name, table, registry) for name, table in resolved.collectors.items()}
        reader = functools.partial(read_options, folder=self.sources.folder)
        jobs = scheduler.draft_jobs(tables, reader, resolved.scheduler)
        errors.found += [line for error in jobs.errors for line in str(error).splitlines()]
        with errors.kept():
            resolved._check_free_options(scheduler)
        if errors.found:
            hints = (f"{self._about_disabled(line)}{self._about_restart(line, scheduler)}" for line in errors.lines)
            raise ConfigError("\n".join(map("".join, zip(errors.lines, hints, strict=True))))
        applied = scheduler.apply(resolved.scheduler, jobs=jobs, plugins=self.plugin_setup)
        if any(name.startswith("budgets.") for name in applied.settings):
            resolved._warn_of_unused_budgets(scheduler)
        return applied

    @property
    def plugin_setup(self) -> PluginSetup:
        """Which plugins it loads, and with what."""
        return PluginSetup(self.only_plugins, self.disable, self.load, self.plugin_settings)

    def read_again(self, environ: Mapping[str, str] = os.environ) -> Configuration:
        """Read it anew, from the file that it was read from. Without one it is looked for as at the start. Raises
        ConfigError, also if the file is gone: nobody means that by taking it away."""
        if self.path is not None and not self.path.exists():
            raise ConfigError(f"{self.path}: no such file any more")
        return load_configuration(self.path, environ)

    def resolved(self, registry: CollectorRegistry, errors: _Errors | None = None) -> Configuration:
        """Return it with the tables of collectors and budgets as they are once the plugins are known: a variable of
        the environment may mean a job, an option or a budget that only they can name. Raises ConfigError, if what is
        wrong is not gathered in `errors`."""
        if not self.sources.depend_on_plugins:
            return self
        found = errors or self.sources.errors()
        merged = self.sources.merged(found, registry)
        budgets = _read_budgets(merged["budgets"], found)
        collectors = _read_collectors(merged["collectors"], found)
        if errors is None:
            found.check()
        return dataclasses.replace(
            self, scheduler=dataclasses.replace(self.scheduler, budgets=budgets), collectors=collectors
        )

    def table_of(self, job_id: str) -> Table:
        """Return `[collectors.JOB_ID]`, also where only the environment has it; an empty one if there is none."""
        if job_id in self.collectors or not self.sources.depend_on_plugins:
            return self.collectors.get(job_id, {})
        errors = self.sources.errors()
        return _read_collectors(self.sources.merged(errors, jobs=(job_id,))["collectors"], errors).get(job_id, {})

    def where(self, job_id: str, key: str) -> str:
        """Return where a key of a job stands, for people: the variable, or the file."""
        return self.sources.variable_of(job_id, key) or str(self.path)

    def _check_free_options(self, scheduler: CollectionScheduler) -> None:
        """Refuse near misses of our keys where the collector takes any option, having declared none."""
        errors = []
        for job_id, table in self.collectors.items():
            known = scheduler.registry.collectors.get(table.get("use", job_id))
            if known is None or getattr(known.collector, "Options", None) is not None:
                continue
            for key in sorted(table.keys() - OUR_OPTIONS):
                if difflib.get_close_matches(key, OUR_OPTIONS, n=1, cutoff=0.88):
                    errors.append(ConfigError(f"[collectors.{job_id}] {key}: {_unknown_key(key, OUR_OPTIONS)}"))
        if errors:
            raise ConfigError.of_all(errors)

    def _warn_of_unknown_plugins(self, scheduler: CollectionScheduler) -> None:
        """Say which `[plugins.NAME]` and entries of `disable` reach nobody; no error, since a plugin that is gone stops
        nothing."""
        known, place = [*scheduler.registry.plugins, *self.disable], self._place
        for name in self.plugin_settings.keys() - known if self.only_plugins is None else ():
            log.warning("%s[plugins.%s] no installed plugin has this name%s", place, name, _near(name, known))
        installed = installed_plugins() if self.disable else ()
        for name in self.disable:
            if name not in installed:
                hint = _near(name, installed)
                log.warning('%s[plugins] disable: no installed plugin is called "%s"%s', place, name, hint)

    def _warn_of_unused_budgets(self, scheduler: CollectionScheduler) -> None:
        """Say which `[budgets.NAME]` change no scheduled collector's budget. Quiet while collectors are missing."""
        registry = scheduler.registry
        if self.only_plugins is not None or not all(plugin.ok for plugin in registry.plugins.values()):
            return
        scheduled = [each.collector for name, each in registry.collectors.items() if name not in registry.not_scheduled]
        used = {collector.budget.name for collector in scheduled if getattr(collector, "budget", None) is not None}
        for name in sorted(self.scheduler.budgets.keys() - used):
            hint = _near(name, used)
            log.warning("%s[budgets.%s] no scheduled collector has this budget%s", self._place, name, hint)

    @property
    def _place(self) -> str:
        return f"{self.path}: " if self.path else ""

    def _about_restart(self, line: str, scheduler: CollectionScheduler) -> str:
        """Return a hint for an error about a missing collector: its plugin may have come after the start."""
        missing = "no installed collector is called" in line and "did you mean" not in line
        return " (a plugin that is new needs a restart)" if missing and not scheduler.registry.broken else ""

    def _about_disabled(self, line: str) -> str:
        """Return a hint for an error about a missing collector: a plugin that the file disables may bring it."""
        if not self.disable or "no installed collector is called" not in line:
            return ""
        return f" (disabled by [plugins] disable: {', '.join(self.disable)})"


def _for_collector(job_id: str, table: Table, registry: CollectorRegistry) -> Table:
    """Return a job's table for the core: where nobody declares the options' types, what is from outside is plain."""
    known = registry.collectors.get(str(table.get("use", job_id)))
    declared = known is None or getattr(known.collector, "Options", None) is not None
    return table if declared else {key: plain(value) for key, value in table.items()}


class _Errors:
    """What is wrong with a configuration, gathered while the rest of it is still looked at."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.path: Path | None = None
        self.origins: dict[str, str] = {}  # places whose values are variables'
        self.unread: dict[str, str] = {}  # what is wrong with secrets, by their places
        self.secrets = Secrets()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the ConfigError that ends this block."""
        try:
            yield
        except ConfigError as error:
            self.found += str(error).splitlines()

    @property
    def lines(self) -> list[str]:
        """What is wrong, each with where it is, and once."""
        found = (line for line in self.found if self.unread.get(line.partition(": ")[0], line) == line)
        return list(dict.fromkeys(self.secrets.hide(self._placed(line)) for line in found))

    def _placed(self, line: str) -> str:
        for place, variable in sorted(self.origins.items(), key=lambda item: -len(item[0])):
            if line.startswith(place) and line[len(place) :][:1] in (":", ".", "["):
                return f"{variable}{line[len(place) :]}"
            if line.startswith(f"{place} "):  # of a table that only the environment has
                return f"{variable}: {line}"
            if place.startswith(f"{line.partition(': ')[0]}."):  # it put a key where no table is allowed
                return f"{variable}: {line}"
        is_placed = self.path is None or line.startswith((f"{self.path}: ", *PREFIX, PREFIX.lower()))
        return line if is_placed else f"{self.path}: {line}"

    def check(self) -> None:
        """Raise one ConfigError for all of them, if there are any. It is chained to none: those may show a secret."""
        if self.found:
            raise ConfigError("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Sources:
    """What a configuration was made of: the file's tables, and the environment's variables."""

    path: Path | None = None
    document: Table = field(default_factory=dict)
    variables: tuple[Variable, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self.path.parent if self.path else Path()

    @property
    def depend_on_plugins(self) -> bool:
        """Whether plugins may tell more of what the variables mean."""
        return any(each.way.startswith(("collectors__", "budgets__")) for each in self.variables)

    def errors(self) -> _Errors:
        """Return what gathers errors about these sources."""
        errors = _Errors()
        errors.path = self.path
        self.merged(errors)
        errors.found.clear()
        return errors

    def variable_of(self, job_id: str, key: str) -> str | None:
        """Return the variable that a key of a job has its value from; None if the file says it."""
        known = functools.partial(_known, jobs=(job_id,))
        return overlay(self._tables(_Errors()), self.variables, known)[1].get(f"[collectors.{job_id}] {key}")

    def _tables(self, errors: _Errors) -> dict[str, Table]:
        tables: dict[str, Table] = {}
        for name in _TABLES:
            with errors.kept():
                tables[name] = _expect_table(f"[{name}]", self.document.get(name, {}))
        return {name: tables.get(name, {}) for name in _TABLES}

    def merged(
        self, errors: _Errors, registry: CollectorRegistry | None = None, jobs: Iterable[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Return our tables with the variables' values in them and the secrets read. `registry` tells what the plugins
        know; `jobs` are job ids that are known besides."""
        known = functools.partial(_known, registry=registry, jobs=tuple(jobs))
        merged, errors.origins, wrong = overlay(self._tables(errors), self.variables, known)
        unread: list[str] = []
        for name, table in merged.items():
            merged[name] = resolve(table, (name,), self.folder, self.environ, unread)
        errors.unread = {line.partition(": ")[0]: line for line in unread}
        errors.found += [*wrong, *unread]
        errors.secrets.add(words_of(merged))
        return merged


def _known(
    way: tuple[str, ...], table: Table, registry: CollectorRegistry | None = None, jobs: Iterable[str] = ()
) -> Iterable[str]:
    """Return which keys may be in a table, for variables that lead through it."""
    brought = registry.withheld | registry.collectors if registry else {}
    if len(way) < 2:
        names: Iterable[str] = _KEYS.get(way[0], ()) if way else _TABLES
        if way == ("plugins",):
            names = [*names, *installed_plugins(), *(Path(each).stem for each in table.get("load", ()))]
        if way == ("collectors",):
            names = [*jobs, *brought]
        if way == ("budgets",):
            budgets = (getattr(each.collector, "budget", None) for each in brought.values())
            names = [each.name for each in budgets if each is not None]
        return names
    if way[0] == "budgets":
        return _BudgetTable.model_fields
    if way[0] != "collectors" or len(way) > 2:
        return ()
    used = brought.get(str(table.get("use", way[1])))
    options = getattr(used.collector, "Options", None) if used else None
    return [*OUR_OPTIONS, *(each.name for each in dataclasses.fields(options))] if options else OUR_OPTIONS


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f', did you mean "{near[0]}"?' if near else ""


def installed_plugins() -> list[str]:
    """Return the names of the installed plugins, without importing one."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group="geckosched")})


def find_configuration(named: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file to read: `named`, else `GECKOSCHED_CONFIG`, else `./geckosched.toml` if it is there.

    A file that somebody named and that is missing is an error; having none at all is not.
    """
    from_environment = variables(environ).get("config")
    if named is not None:
        path, source = named, "--config"
    elif from_environment and from_environment.value:
        path, source = Path(from_environment.value), "GECKOSCHED_CONFIG"
    else:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    try:
        path.stat()
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"{path}: {what}, named by {source}") from error
    return path


def load_configuration(named: Path | None = None, environ: Mapping[str, str] = os.environ) -> Configuration:
    """Read and check the configuration that `find_configuration` finds. Raises one ConfigError of all that is wrong."""
    errors = _Errors()
    configuration = _read(named, environ, errors)
    errors.check()
    return configuration or Configuration()


def read_configuration(
    named: Path | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[Configuration | None, list[str]]:
    """Return the configuration as far as it can be used, and the lines of what is wrong with it.

    For `geckosched check`, which then looks for what only the plugins can tell. Tables of ours that are wrong are left
    out. There is none if the file can't be read, or can't be trusted to say which plugins must not be loaded.
    """
    errors = _Errors()
    configuration = _read(named, environ, errors)
    return configuration, errors.lines


def _read(named: Path | None, environ: Mapping[str, str], errors: _Errors) -> Configuration | None:
    sources = None
    with errors.kept():
        sources = _read_sources(named, environ)
    if sources is None:
        return None
    errors.path = sources.path
    errors.found += unknown_variables(variables(environ), _KEYS)
    errors.found += [_unknown_table(name, value) for name, value in sources.document.items() if name not in _TABLES]
    merged = sources.merged(errors)
    plugins: _PluginsTable | None = None
    with errors.kept():
        plugins, settings = _read_plugins(merged["plugins"])
    scheduler = SchedulerConfig(secrets=tuple(dict.fromkeys(words_of(merged))))
    budgets = _read_budgets(merged["budgets"], errors)
    with errors.kept():
        scheduler = _read_scheduler(merged["scheduler"], sources.folder, budgets=budgets, secrets=scheduler.secrets)
    collectors = _read_collectors(merged["collectors"], errors)
    if plugins is None:
        return None
    only = variables(environ).get("load_plugins")
    names = None if only is None or not only.value else only.value.split(",")
    return Configuration(
        path=sources.path,
        scheduler=scheduler,
        disable=tuple(plugins.disable),
        load=tuple(sources.folder / entry for entry in plugins.load),
        only_plugins=None if names is None else tuple(name.strip() for name in names if name.strip()),
        plugin_settings=settings,
        collectors=collectors,
        sources=sources,
    )


def find_database(named: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the database that a configuration names although something in it is wrong, else None.

    For `geckosched status`, which has something to show while an operator is still mending the file, and for `reload`,
    whose leader is to say what is wrong. A file that is no TOML is searched for its `[scheduler]`.
    """
    try:
        sources = _read_sources(named, environ, _parse_what_can_be)
        database = sources.merged(_Errors())["scheduler"]["database"]
        return Path(_read_scheduler({"database": database}, sources.folder).database)
    except (ConfigError, LookupError, TypeError):
        return None


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows may put a byte order mark in front
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, which TOML has to be") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The place stands at the end of the message, on Python 3.11 to 3.13 there only.
        said = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
        if said is None:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
        line = said[2] or str(text.count("\n") + 1)
        raise ConfigError(f"{path}: line {line}: not valid TOML: {said[1]}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: a whole number in it has too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: its lists or tables are nested too deeply") from error


def _parse_what_can_be(path: Path) -> Table:
    """Parse a file or, if it is no TOML, its `[scheduler]` or just where that says `database`. Raises ConfigError."""
    try:
        return _parse(path)
    except ConfigError:
        text = ""
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
        table = re.search(r"^\s*\[scheduler\].*?(?=^\s*\[|\Z)", text, re.DOTALL | re.MULTILINE)
        lines = re.findall(r"^\s*database\s*=.*$", table[0], re.MULTILINE) if table else []
        for part in (table[0], "\n".join(["[scheduler]", *lines])) if table else ():
            with suppress(tomllib.TOMLDecodeError, ValueError, RecursionError):
                return tomllib.loads(part)
        raise


def _read_sources(
    named: Path | None, environ: Mapping[str, str], parse: Callable[[Path], Table] = _parse
) -> Sources:
    path = find_configuration(named, environ)
    document = {} if path is None else parse(path)
    return Sources(path, document, tuple(settings_of(variables(environ), _TABLES)), dict(environ))


def _read_scheduler(table: Table, folder: Path, **elsewhere: Any) -> SchedulerConfig:
    values = _read_table(_SchedulerTable, table, "[scheduler]").model_dump(exclude_unset=True)
    if values.get("database") not in (None, "", ":memory:"):
        values["database"] = folder / values["database"]
    try:
        return SchedulerConfig(**values, **elsewhere)
    except ConfigError as error:
        raise ConfigError(f"[scheduler] {error}") from error


def _read_budgets(tables: Table, errors: _Errors) -> dict[str, dict[str, Any]]:
    """Return the keys that each table has; what it leaves out is as the collectors say."""
    budgets = {}
    for name, table in tables.items():
        where = f"[budgets.{name}]"
        with errors.kept():
            values = _read_table(_BudgetTable, _expect_table(where, table), where).model_dump(exclude_unset=True)
            try:
                Budget(name, **values)
            except ConfigError as error:
                raise ConfigError(f"{where} {str(error).removeprefix(f'budget {name} ')}") from error
            budgets[name] = values
    return budgets


def _read_collectors(tables: Table, errors: _Errors) -> dict[str, Table]:
    """Return the tables of the jobs; of one with errors only the options, for the plugins to judge."""
    collectors: dict[str, Table] = {}
    for job_id, table in tables.items():
        where = f"[collectors.{job_id}]"
        with errors.kept():
            kept = {key: _expect_table(where, table)[key] for key in table if key not in OUR_OPTIONS}
            use = {"use": table["use"]} if isinstance(table.get("use"), str) else {}
            collectors[job_id] = {**kept, **use}  # if something of ours is wrong, its options are judged all the same
            collectors[job_id] = {**table, **_check_collector(table, where)}
    return collectors


def _check_collector(table: Table, where: str) -> Table:
    """Return our keys of a job's table, checked."""
    ours = _read_table(_CollectorTable, {key: table[key] for key in table if key in OUR_OPTIONS}, where)
    try:
        if "at" in table:  # without `every` the collector's own interval counts, which is judged at registration
            parse_at(ours.at, parse_duration(ours.every or "1d"))
    except ConfigError as error:
        raise ConfigError(f"{where} {error}") from error
    return {key: plain(each) for key, each in ours.model_dump(exclude_unset=True).items()}


def _read_plugins(table: Table) -> tuple[_PluginsTable, Mapping[str, Table]]:
    """Part `[plugins]` into our keys and the plugins' own tables, which are theirs to check."""
    settings: dict[str, Table] = {name: plain(value) for name, value in table.items() if isinstance(value, dict)}
    for key in _PluginsTable.model_fields:
        if key in settings:
            raise ConfigError(f"[plugins] {key}: found a table, allowed is a list")
    ours = {key: value for key, value in table.items() if key not in settings}
    return _read_table(_PluginsTable, ours, "[plugins]"), settings


# -- A collector's options ---------------------------------------------------------------------------------------------


def read_options(options_type: type, table: Table, where: str, *, folder: Path = Path()) -> Any:
    """Build a collector's `Options` from the keys of its table that are not ours.

    Values must have the field's declared type: text, whole and other numbers, true and false, `timedelta` (a
    duration such as "6h"), `Path` (relative to `folder`, the configuration's), `Literal`, and optional
    values, lists and dicts of these. Unknown and missing keys, wrong types and whatever `__post_init__` objects
    to raise ConfigError; its text begins with `where`, and an unknown key is compared with our keys too.
    """
    fields = {each.name: each for each in dataclasses.fields(options_type) if each.init}
    unknown = [key for key in table if key not in fields]
    wrong = [f"{_name(key)}: {_unknown_key(key, [*fields, *OUR_OPTIONS])}" for key in unknown]
    meant = {near for key in unknown for near in difflib.get_close_matches(key, fields, n=1)}
    missing = [name for name in missing_options(options_type, table) if name not in meant]
    wrong += [f"{name}: missing; the collector needs it" for name in missing]
    values = {}
    known = [key for key in table if key in fields]
    for key, (hint, adapter) in _option_adapters(options_type, known, folder, where).items():
        found = typed(table[key], hint)
        try:
            # As JSON, which has TOML's types, so that strict means strict and a list can still be a tuple.
            values[key] = adapter.validate_json(json.dumps(found, default=str), strict=True)
        except ValidationError as error:
            wrong += _errors_of(error, {key: found}, (key,), table)
    if wrong:
        raise ConfigError("\n".join(f"{where} {each}" for each in wrong))
    try:
        return options_type(**values)
    except (Exception, SystemExit) as error:  # __post_init__ is plugin code
        said = _one_line(error).removeprefix("ValueError: ").removeprefix("ConfigError: ")
        raise ConfigError(f"{where}{'' if said.partition(':')[0] in fields else ':'} {said}") from error


def _option_adapters(
    options_type: type, keys: Iterable[str], folder: Path, where: str
) -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    """Return each field's type and what reads it; the types are the plugin author's, so they can be wrong, too."""
    try:
        hints = typing.get_type_hints(options_type, include_extras=True)
        return {key: (hints[key], TypeAdapter(_as_in_toml(hints[key], folder))) for key in keys}
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError, TypeError) as error:
        text = f"the types of {options_type.__qualname__} can't be read: {_one_line(error)}"
        raise ConfigError(f"{where}: {text}") from error


def _as_in_toml(hint: Any, folder: Path) -> Any:
    """Return the type with every `timedelta` in it read as a duration, every `Path` relative to `folder`."""
    if hint is timedelta:
        return Annotated[timedelta, BeforeValidator(_to_timedelta)]
    if hint is Path:
        return Annotated[Path, AfterValidator(lambda path: folder / path)]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_as_in_toml(arguments[0], folder), *arguments[1:])]
    inner = tuple(_as_in_toml(each, folder) for each in arguments)
    return functools.reduce(operator.or_, inner) if origin in (Union, types.UnionType) else origin[inner]


def _to_timedelta(value: object) -> object:
    return timedelta(microseconds=parse_duration(_duration(value)))


# -- Errors in one line ------------------------------------------------------------------------------------------------

_Model = TypeVar("_Model", bound=_Table)

_ALLOWED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
}


def _read_table(model: type[_Model], table: Table, where: str) -> _Model:
    unknown = [key for key in table if key not in model.model_fields]
    wrong = [f"{_name(key)}: {_unknown_key(key, model.model_fields)}" for key in unknown]
    hints = {key: each.annotation for key, each in model.model_fields.items()}
    values = {key: typed(table[key], hints[key]) for key in table if key not in unknown}
    try:
        read = model.model_validate(values)
    except ValidationError as error:
        wrong += _errors_of(error, values, (), table)
    if wrong:
        raise ConfigError("\n".join(f"{where} {each}" for each in wrong))
    return read


def _expect_table(where: str, value: object) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: found {_found(value)}, allowed is a table")
    return value


def _errors_of(error: ValidationError, table: Table, above: tuple[str, ...], written: Table) -> list[str]:
    """Say what is wrong, a line for each place: where, what is allowed, what was found.

    A union reports each of its types, with the type's name in the place; what the place then no longer leads to
    is left out, and the types are joined by "or". `written` is the table as it was written: with a secret in it
    nothing of a key's value is shown.
    """
    wrong: dict[str, list[str]] = {}
    for each in error.errors(include_url=False):
        steps = (*above, *each["loc"])
        value, place = _follow(table, steps)
        found = "***" if holds_secret(written[str(steps[0])]) else _found(value)
        said = wrong.setdefault(place, [])
        if each["type"] == "value_error":  # a check of ours, in our words
            text = str(each["ctx"]["error"])
            said.append(text.replace(_found(value), found).replace(repr(str(value)), found) if found == "***" else text)
            continue
        allowed = _ALLOWED.get(each["type"]) or each["msg"].removeprefix("Input should be ")
        allowed = allowed.replace("greater than or equal to", "at least")
        if each["type"] in ("list_type", "dict_type") and isinstance(value, Text):
            allowed += " as JSON"
        said.append(allowed if said else f"found {found}, allowed is {allowed}")
    lines = (f"{place}: {' or '.join(dict.fromkeys(said))}" for place, said in wrong.items())
    return [" ".join(line.split()) for line in lines]


def _follow(table: Any, steps: Iterable[str | int]) -> tuple[Any, str]:
    """Return what is at a place in a table, and the place as far as it leads there."""
    value, place = table, ""
    for step in steps:
        if isinstance(value, str):
            break
        try:
            value = value[step]
        except (LookupError, TypeError):
            break
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else str(step)
    return value, place


def _name(key: str) -> str:
    """Show a key on one line."""
    return key if key.isprintable() else json.dumps(key)


def _unknown_table(name: str, value: object) -> str:
    if isinstance(value, dict):
        near = difflib.get_close_matches(name, _TABLES, n=1)
        advice = f"did you mean [{near[0]}]?" if near else "allowed: " + ", ".join(f"[{each}]" for each in _TABLES)
        return f"[{_name(name)}]: unknown table, {advice}"
    if name in _SchedulerTable.model_fields:
        return f"{name}: outside of any table, it belongs into [scheduler]"
    return f"{_name(name)}: outside of any table, allowed: " + ", ".join(f"[{each}]" for each in _TABLES)


def _unknown_key(key: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f'unknown key, did you mean "{near[0]}"?' if near else f"unknown key, allowed: {', '.join(known)}"


def _found(value: object) -> str:
    """Show a value as the file has it, shortened."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (date, time)):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
