"""The command line: parse, call the core, render. No threads and no SQL live here.

Data goes to stdout, talk (log lines, "triggered ...", errors) to stderr. Exit codes: 0 done (succeeded, partial,
skipped), 1 the thing asked for failed or was refused, 2 usage, configuration or an unknown job, 130 interrupted;
SIGTERM ends `run` with 0, and with 1 what had not done yet what was asked for. Our errors are one line without a
traceback.

In this order: how a command ends · the commands · what they share · plugins' code and commands · the console script.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from geckosched import live, logs, screens
from geckosched.config import (
    Configuration,
    find_configuration,
    find_database,
    installed_plugins,
    load_configuration,
    read_configuration,
)
from geckosched.core import (
    SECOND,
    BreakerState,
    CollectionScheduler,
    ConfigError,
    GeckoschedError,
    Health,
    Outcome,
    PluginError,
    PluginStatus,
    Run,
    SchedulerConfig,
    SchedulerState,
    Secrets,
    Store,
    StoreError,
    UnknownJob,
    __version__,
    parse_duration,
)
from geckosched.forecast import Forecast
from geckosched.logs import LogFormat, LogLevel, complain, say
from geckosched.reload import Reloader
from geckosched.rendering import (
    count,
    data_to_stdout,
    print_json,
    put,
    stdout,
)
from geckosched.service import ServiceManager
from geckosched.views import JobStatus, Status
from geckosched.why import explain, explain_wait, read_facts, with_plugins

__all__ = ["app", "main"]

DONE, FAILED, USAGE = 0, 1, 2  # and 130, which typer makes of a KeyboardInterrupt

_GOOD = frozenset((Outcome.SUCCEEDED, Outcome.PARTIAL, Outcome.SKIPPED))  # for an exit code
_MOST_RUNS = 1_000_000  # that `runs` shows
_SWITCH = 0.001  # seconds that a collector which burns CPU keeps the other threads waiting, instead of Python's 0.005


log = logging.getLogger("geckosched")

# -- How a command ends ------------------------------------------------------------------------------------------------


class _Terminated(KeyboardInterrupt):
    """SIGTERM. A KeyboardInterrupt, because that is what the core lets pass while plugin code runs on this thread."""


class _UsageError(GeckoschedError):
    """The command line can't be understood."""


class _Commands(TyperGroup):
    """Our commands and, under its name, each plugin's own. Whatever they raise ends here as one line and a code."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run one command and leave with its exit code; tests and the console script end in the same way."""
        extra["standalone_mode"] = False  # else a usage error is several lines
        words = next(iter(args), None) or extra.get("args")
        voice = logs.begin(sys.argv[1:] if words is None else list(words))
        with voice.speaking(), data_to_stdout():
            try:
                code = super().main(*args, **extra) or DONE
            except typer.TyperException as error:
                code = error.exit_code
                context = getattr(error, "ctx", None)
                where = context.command_path if context else "geckosched"
                complain(f"{error.format_message().rstrip('.')} (see {where} --help)")
            except GeckoschedError as error:
                code = USAGE if isinstance(error, ConfigError | UnknownJob | _UsageError) else FAILED
                _complain_of(error)
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. SIGTERM is how `run` ends, and maybe a plugin's command; another of ours is cut short."""
        try:
            return super().invoke(ctx)
        except _Terminated:
            word = ctx.invoked_subcommand
            if word in self.commands and word != "run":
                raise GeckoschedError(f"{word}: ended by SIGTERM before it was done") from None
            raise typer.Exit(DONE) from None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Name the installed plugins, which may bring commands; none is loaded for it, so nobody knows which do."""
        names = ", ".join(installed_plugins())
        self.epilog = (
            "A plugin may bring commands of its own: geckosched PLUGIN --help shows them, if it does. "
            f"Installed plugins: {names or 'none'}."
        )
        super().format_epilog(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Look a word up among our commands; only if it is none of them are the plugins loaded and asked."""
        return super().get_command(ctx, cmd_name) or _plugin_commands(cmd_name, list(self.commands))


def _complain_of(error: GeckoschedError) -> None:
    """Say an error; a configuration's has a line for each thing that is wrong."""
    for line in str(error).splitlines() if isinstance(error, ConfigError) else [str(error)]:
        complain(line)


# -- The commands ------------------------------------------------------------------------------------------------------

app = typer.Typer(
    name="geckosched",
    cls=_Commands,
    help="Run data collectors on schedule, and see what happened.",
    add_completion=False,
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="F", help="Configuration; else $GECKOSCHED_CONFIG, else ./geckosched.toml."),
]
Database = Annotated[
    Path | None, typer.Option("--database", metavar="F", help="SQLite file, instead of the configured.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB")]


@app.callback(invoke_without_command=True)
def geckosched(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False
) -> None:
    """Answer `--version`, and with nothing asked for show what can be."""
    if version:
        typer.echo(f"geckosched {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
        raise typer.Exit(USAGE)


@app.command()
def run(
    ctx: typer.Context,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="JOB", help="Only this job; repeatable.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Run every enabled job once, then end.")] = False,
    for_: Annotated[str | None, typer.Option("--for", metavar="30s", help="End by itself after this long.")] = None,
    log_format: Annotated[  # noqa: ARG001 - heard before the command line is parsed, by logs.begin
        LogFormat, typer.Option("--log-format", help="Log lines for people, or a JSON object a line for programs.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="Log this and what is more important.")
    ] = LogLevel.INFO,
    plain: Annotated[bool, typer.Option("--plain", help="Log lines only, no table below them on a terminal.")] = False,
    config: Config = None,
    database: Database = None,
) -> None:
    """Run the jobs in the foreground.

    While another process runs them this one stands by, and takes over when that one ends. A first Ctrl-C or SIGTERM
    waits for the runs, a second one does not. SIGHUP reads the configuration again, as `geckosched reload` does.
    """
    if once and for_:
        raise _UsageError("--once ends by itself, so it doesn't go with --for")
    seconds = None if for_ is None else parse_duration(for_, "--for") / SECOND
    log.setLevel(log_level.upper())
    is_service = "NOTIFY_SOCKET" in os.environ
    manager = ServiceManager.take(os.environ)  # before a plugin can start a program that would inherit it
    reloader = Reloader()
    if not once:
        ctx.with_resource(reloader.hearing())
    configuration = _configure(config, database)
    scheduler = _load(configuration)
    logs.hide(scheduler.secrets)  # those of a reload, too
    found = scheduler.get_status()
    chosen = {job.job_id for job in found.jobs}.intersection(only or ())
    jobs = f"{len(chosen)} of {count(len(found.jobs), 'job')} (--only)" if only else count(len(found.jobs), "job")
    log.info("%s, store %s, times in UTC", jobs, found.scheduler.database)
    if not scheduler.registry.plugins:
        log.warning("no plugin is loaded, so nothing will run: install one, or name its file in [plugins] load")
    for name, reason in scheduler.registry.not_scheduled.items():
        log.info("not scheduled: %s %s", name, screens.with_place(name, reason))
    for name in sorted(scheduler.registry.off_by_default):
        log.info("off by default: %s (%s)", name, screens.how_to_turn_on(name))
    with nullcontext() if plain or is_service else _live_view(scheduler):
        if once:
            raise typer.Exit(_run_once(scheduler, only or ()))
        read = functools.partial(_read_again, configuration, database)
        with manager.watching(scheduler), reloader.serving(scheduler, read, manager.reloading):
            scheduler.run_forever(seconds, only=only or None)


def _live_view(scheduler: CollectionScheduler) -> AbstractContextManager[None]:
    """Show the jobs below the log, if it is for people and on a terminal."""
    voice = logs.voice()
    if voice.as_json or not live.can_be_painted(voice.stream):
        return nullcontext()
    return live.LiveView(live.RunView(scheduler).look, voice, voice.stream).showing()


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Show this job in full.")] = None,
    as_json: AsJson = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit 1 if a job (or JOB) is unhealthy, nobody leads or the heartbeat is stale."),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every 2 s, until q or Ctrl-C.")] = False,
    config: Config = None,
    database: Database = None,
) -> None:
    """Show the scheduler and every job.

    That is what the store says, whether a scheduler runs or not. A wrong configuration is said, and the exit code is
    then 2.
    """
    if watch and (as_json or check):
        raise _UsageError(f"--watch is for people, so it doesn't go with {'--json' if as_json else '--check'}")
    if watch and not live.can_be_painted(sys.stdout):
        raise _UsageError("--watch needs a terminal on stdout that can move its cursor; status --json is for programs")
    configuration, settings, code = _read_anyway(config, database)
    scheduler = CollectionScheduler(settings)
    found = scheduler.get_status(job)
    if job is not None and not found.jobs:
        found = dataclasses.replace(found, jobs=(scheduler.get_collector_status(job),))  # or UnknownJob, in words
    now = datetime.now(UTC)
    obstacle = _obstacle(found, now) if screens.is_led(found) and not (as_json or watch) else ""
    if watch:
        _watch(scheduler, job)
    elif as_json:
        more = {} if job is None else {"statistics": scheduler.get_statistics(job).as_dict()}
        print_json({**found.as_dict(), **more})
    elif job is not None:
        shown = found.jobs[0]
        if configuration is not None and _is_off_by_default(shown, configuration):
            shown = dataclasses.replace(shown, reason=f"off by default: {screens.how_to_turn_on(job)}")
        screens.print_job(shown, found, now, obstacle=obstacle)
        screens.print_statistics(scheduler.get_statistics(job), now)
    else:
        screens.print_status(found, now, obstacle=obstacle)
    _remark_on_store(settings)
    if check and (objections := _objections(found, now)):
        complain("; ".join(objections))
        code = code or FAILED
    raise typer.Exit(code)


def _watch(scheduler: CollectionScheduler, job: str | None) -> None:
    with suppress(_Terminated):  # there is nothing that is not done
        live.watch(live.StatusView(scheduler, job, _obstacle).look, sys.stdout)


@app.command()
def trigger(
    job: JobId,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return as soon as the leader has taken it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run it here, show what it would store, and store nothing.")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
    database: Database = None,
) -> None:
    """Run a job now and wait for its end.

    The process that leads runs it or, with none, this one. A dry run works only while no process leads; the calls that
    it makes count in their budget.
    """
    if dry_run and no_wait:
        raise _UsageError("--dry-run shows how the run ended, so it doesn't go with --no-wait")
    _divert_stdout()
    configuration = _configure(config, database)
    scheduler = CollectionScheduler(configuration.scheduler)
    found = scheduler.get_status()
    if dry_run:
        raise typer.Exit(_dry_run(job, configuration, found, as_json))
    how = "" if no_wait else ", waiting for its end"
    if not screens.is_led(found):
        if no_wait:
            raise GeckoschedError(f"nobody runs the jobs of {found.scheduler.database}, so --no-wait is refused")
        scheduler, how = _load(configuration), ": nobody leads, running it here"
        found = scheduler.get_status()
    _expect_plugin(_expect_job(job, found, scheduler.registry.not_scheduled), found)
    say(f"triggered {job}{how}")
    _say_what_delays(found)

    def say_why() -> None:
        say(_why_it_waits(job, configuration))

    try:
        try:
            with _no_word_of_the_end(job):
                result = scheduler.execute_collector_now(job, wait=not no_wait, on_wait=say_why)
        except UnknownJob:  # the leader has ended meanwhile, and here no plugin is loaded yet
            say("the leader has ended, running it here")
            here = _load(configuration)
            with _no_word_of_the_end(job):
                result = here.execute_collector_now(job, on_wait=say_why)
    except KeyboardInterrupt as error:
        if not isinstance(error, _Terminated):
            complain(f"interrupted; {_after_an_interrupt(job, scheduler)}")
        raise
    if as_json:
        print_json(result.as_dict() if result else None)
    else:
        put(f"{job}: {screens.result_in_words(result) if result else 'waits for its turn'}")
    if result is not None and _has_failed(result):
        raise typer.Exit(FAILED)


def _why_it_waits(job: str, configuration: Configuration) -> str:
    """Say why a run that was asked for has to wait for its turn."""
    facts = read_facts(CollectionScheduler(configuration.scheduler), job, datetime.now(UTC), configuration)
    if facts.needs_plugins:
        scheduler = CollectionScheduler(configuration.scheduler)
        with _kept_warnings(), suppress(ConfigError):
            configuration.load_plugins(scheduler)
        facts = with_plugins(facts, scheduler, configuration, "")
    return explain_wait(facts)


def _after_an_interrupt(job: str, scheduler: CollectionScheduler) -> str:
    """Say what became of a run that was waited for: the leader's goes on, one of this process has ended with it."""
    if not scheduler.is_led():
        return f"the run was here, and has ended with it (see geckosched runs {job})"
    goes_on = scheduler.get_collector_status(job).running_for is not None
    return "the run goes on in the process that leads" if goes_on else f"see geckosched runs {job}"


def _dry_run(job: str, configuration: Configuration, found: Status, as_json: bool) -> int:
    """Run a job here and show what it would store; return the exit code."""
    if screens.is_led(found):
        who = f"process {found.scheduler.pid} runs the jobs of {found.scheduler.database}"
        raise GeckoschedError(f"{who}, so --dry-run is refused: stop it first, or name another --database")
    scheduler = _load(configuration)
    found = scheduler.get_status()
    _expect_plugin(_expect_job(job, found, scheduler.registry.not_scheduled), found)
    say(f"dry run of {job}: nothing of it is stored but its calls")
    with _collectors_heard():
        result = scheduler.dry_run(job)
    if as_json:
        print_json(result.as_dict())
    else:
        screens.print_dry_run(job, result)
    return FAILED if _has_failed(result.run) else DONE


@app.command()
def runs(
    job_or_id: Annotated[str | None, typer.Argument(metavar="JOB or ID", help="One job's runs, or one run.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help=f"At most so many, to {_MOST_RUNS:,}.")] = 20,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only runs that are failed, timed_out, partial, rate_limited or interrupted."),
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
    database: Database = None,
) -> None:
    """Show the history, newest first.

    One run is shown in full, with its traceback; as JSON it is a list, too.
    """
    if not 1 <= limit <= _MOST_RUNS:
        raise _UsageError(f"--limit: found {limit}, allowed is 1 to {_MOST_RUNS:,}")
    _, settings, code = _read_anyway(config, database)
    scheduler = CollectionScheduler(settings)
    run_id = int(job_or_id) if job_or_id is not None and re.fullmatch("[0-9]{1,18}", job_or_id) else None
    found = (scheduler.get_runs(job_or_id, limit, failed=failed) if run_id is None else
             _one_run(scheduler, run_id))  # fmt: skip
    now = datetime.now(UTC)
    if as_json:
        print_json([each.as_dict() for each in found])
    elif run_id is not None:
        orphan = bool(_orphans(scheduler, found))
        screens.print_run(found[0], now, scheduler.get_losses(run_id), is_orphan=orphan)
    else:
        screens.print_runs(found, now, _orphans(scheduler, found))
    _remark_on_store(settings)
    raise typer.Exit(code)


@app.command()
def why(job: JobId, config: Config = None, database: Database = None) -> None:
    """Say why a job runs next when it does, or why it does not.

    That is what the store says, whether a scheduler runs or not. A wrong configuration is said, and the exit code is
    then 2.
    """
    configuration, settings, code = _read_anyway(config, database)
    scheduler = CollectionScheduler(settings)
    facts = read_facts(scheduler, job, datetime.now(UTC), configuration)
    if configuration is not None and facts.needs_plugins:
        _divert_stdout()
        scheduler, refusal = CollectionScheduler(settings), ""
        with _kept_warnings():
            try:
                configuration.load_plugins(scheduler)
            except ConfigError as error:
                refusal, code = str(error), USAGE
                _complain_of(error)
        facts = with_plugins(facts, scheduler, configuration, refusal)
    if configuration is None:
        facts = dataclasses.replace(facts, refusal="the configuration can't be used")
    if not facts.is_known:
        for plugin in scheduler.registry.plugins.values():
            if not plugin.ok:
                complain(f"plugin {plugin.name} is broken: {plugin.error}")
        _expect_job(job, scheduler.get_status(), scheduler.registry.not_scheduled)
    put(explain(facts))
    _remark_on_store(settings)
    raise typer.Exit(code)


@app.command()
def plugins(as_json: AsJson = False, config: Config = None, database: Database = None) -> None:
    """Show the plugins, and what is broken and why.

    That is what loading them shows, here and now, with their collectors and with the last errors of their hooks that
    the leader kept. The exit code is 0 also if some are broken.
    """
    _divert_stdout()
    code = DONE
    try:
        configuration = _configure(config, database)
    except ConfigError as error:  # it would say which plugins must not be imported, so none is
        _complain_of(error)
        screens.show_plugins(_unloaded_plugins(), {}, (), as_json)
        raise typer.Exit(USAGE) from error
    scheduler = CollectionScheduler(configuration.scheduler)
    try:
        with _no_word_of_broken_plugins():
            configuration.load_plugins(scheduler)
    except ConfigError as error:
        code = USAGE
        _complain_of(error)
    found = tuple(scheduler.registry.plugins.values())
    try:
        found = tuple(each for each in scheduler.get_status().plugins if each.name in scheduler.registry.plugins)
    except StoreError as error:
        code = code or FAILED
        complain(f"{error}, so errors of hooks are not shown")
    screens.show_plugins(found, scheduler.registry.not_scheduled, scheduler.registry.off_by_default, as_json)
    if not as_json:
        screens.print_left_out(configuration)
    raise typer.Exit(code)


@app.command()
def check(as_json: AsJson = False, config: Config = None, database: Database = None) -> None:
    """Show what a start would do, and what is wrong.

    That is the jobs with their next runs, and how many calls an hour they ask of each budget against what it gives.
    Everything that is wrong with the configuration is said, not only the first. Nothing is run and nothing is written;
    a store that is there tells when jobs run next and how many calls they made. The exit code is 0 with warnings, too,
    1 if a plugin is broken or the store can't be used, 2 if the configuration is wrong.
    """
    _divert_stdout()
    found, code = _forecast(config, database)
    for line in found.errors:
        complain(line)
    for line in found.warnings:
        complain(f"warning: {line}")
    if as_json:
        print_json(found.as_dict())
    else:
        screens.print_forecast(found, datetime.now(UTC))
    raise typer.Exit(code)


@app.command()
def enable(job: JobId, config: Config = None, database: Database = None) -> None:
    """Let a disabled job run again.

    Its slots come up again, from the next one on; what passed meanwhile is not made up for.
    """
    configuration = _configure(config, database)
    switched_off = configuration.table_of(job).get("enabled") is False
    if switched_off and not screens.is_led(CollectionScheduler(configuration.scheduler).get_status()):
        where = configuration.where(job, "enabled")
        raise GeckoschedError(f"{where} says that {job} is enabled = false, so change it there")
    scheduler, before, found = _reach(job, configuration, database)
    off_by_default = _is_off_by_default(before, configuration)
    if off_by_default and not screens.is_led(found):
        how = screens.how_to_turn_on(job)
        raise GeckoschedError(f"{job} is off by default, and would be again at the next start: {how}")
    after, found = _operate(scheduler, job, found, CollectionScheduler.enable_collector)
    if not screens.is_active(after):
        raise GeckoschedError(f"enable {job}: {_NOT_YET}")
    said = screens.will_run(after, found)
    if switched_off:
        where = configuration.where(job, "enabled")
        said += f"; {where} says enabled = false, which holds again from the next start on"
    elif off_by_default:
        how = screens.how_to_turn_on(job)
        said += f"; it is off by default, which holds again from the next start on, unless {how}"
    put(f"{job} was enabled already: {said}" if screens.is_active(before) else f"enabled {job}: {said}")


@app.command()
def disable(job: JobId, config: Config = None, database: Database = None) -> None:
    """Let a job's slots pass until it is enabled.

    Breaker, configuration and restarts change nothing about that. A run in progress goes on to its end, and `trigger`
    still runs the job.
    """
    scheduler, before, found = _reach(job, _configure(config, database), database)
    after, found = _operate(scheduler, job, found, CollectionScheduler.disable_collector)
    if after.disabled_at is None:
        raise GeckoschedError(f"disable {job}: {_NOT_YET}")
    said = screens.will_run(after, found)
    put(f"{job} was disabled already: {said}" if before.disabled_at else f"disabled {job}: {said}")


@app.command()
def reset(job: JobId, config: Config = None, database: Database = None) -> None:
    """Close a job's breaker, forget its errors.

    For when what made it fail has been mended: its slots come up again without waiting for the probe.
    """
    scheduler, before, found = _reach(job, _configure(config, database), database)
    after, found = _operate(scheduler, job, found, CollectionScheduler.reset_breaker)
    if after.breaker is not BreakerState.CLOSED:  # not written yet, or the next run has failed already
        breaker = screens.breaker_in_words(after.breaker)
        raise GeckoschedError(f"reset {job}: its breaker is {breaker}; see geckosched status {job}")
    needless = before.breaker is BreakerState.CLOSED and not before.consecutive_errors and before.retry_at is None
    said = f"breaker closed; {screens.will_run(after, found)}"
    put(f"{job} needed no reset: {said}" if needless else f"reset {job}: {said}")


@app.command()
def reload(config: Config = None, database: Database = None) -> None:
    """Have the process that runs the jobs read its configuration again.

    All of it is checked first: with an error nothing changes. Only what differs is touched, and what needs a restart is
    said. With nobody leading there is nothing to reload, and the configuration is judged as `check` does.
    """
    find_configuration(config)  # one that was named must be there; whatever is wrong in it, the leader judges
    place = database or find_database(config) or SchedulerConfig().database
    scheduler = CollectionScheduler(SchedulerConfig(database=place))
    _say_what_delays(scheduler.get_status())
    if (answer := scheduler.request_reload()) is None:
        raise typer.Exit(_nothing_to_reload(scheduler, config, database))
    kind, _, lines = answer.partition(": ")
    if kind not in ("refused", "expired"):
        put(answer)
        return
    for line in lines.splitlines() or ["the leader did not answer within a minute, it hangs or is stopped"]:
        complain(f"not reloaded: {line}")
    raise typer.Exit(FAILED)


def _nothing_to_reload(scheduler: CollectionScheduler, config: Path | None, database: Path | None) -> int:
    """Judge the configuration as `check` does; return the exit code."""
    place = scheduler.get_status().scheduler.database
    unread = not (database or find_database(config)) and read_configuration(config)[0] is None
    which = " (the default, since the configuration can't be read)" if unread else ""
    hint = "if a scheduler runs on another store, name it: --database"
    complain(f"nobody leads {place}{which}, so there is nothing to reload; {hint}")
    _divert_stdout()
    found, code = _forecast(config, database)
    for line in (*found.errors, *(f"warning: {each}" for each in found.warnings)):
        complain(line)
    if not code:
        say("the configuration is fine; geckosched check shows what a start would do")
    return code or FAILED


# -- What the commands share -------------------------------------------------------------------------------------------

_NOT_YET = "asked for, but the store does not say so yet; see geckosched status"


def _configure(config: Path | None, database: Path | None) -> Configuration:
    configuration = load_configuration(config)
    logs.hide(Secrets(configuration.scheduler.secrets))
    return _on_database(configuration, database)


def _read_again(configuration: Configuration, database: Path | None) -> Configuration:
    return _on_database(configuration.read_again(), database)


def _on_database(configuration: Configuration, database: Path | None) -> Configuration:
    """Return a configuration with the store that was named instead of its own, if one was."""
    if database is None:
        return configuration
    return dataclasses.replace(configuration, scheduler=dataclasses.replace(configuration.scheduler, database=database))


def _read_anyway(config: Path | None, database: Path | None) -> tuple[Configuration | None, SchedulerConfig, int]:
    """Return the configuration, for a command that answers from the store whatever is wrong with it: that is said, and
    the settings are then no more than where the store is. The third is the exit code."""
    try:
        configuration = _configure(config, database)
    except ConfigError as error:
        place = database or find_database(config)
        settings = SchedulerConfig(database=place) if place else SchedulerConfig()
        _complain_of(ConfigError(f"{error}{'' if place else f'; showing ./{settings.database}, the default'}"))
        return None, settings, USAGE
    return configuration, configuration.scheduler, DONE


def _remark_on_store(settings: SchedulerConfig) -> None:
    """Say what is odd about a store that can be shown all the same."""
    store = Store(settings.database)
    if not store.path.parent.is_dir():
        complain(f"{store.path}: the folder {store.path.parent} is not there")
    elif newer := store.newer():
        complain(f"{store.path}: written by a newer geckosched ({newer}), shown as far as this one understands it")


def _forecast(config: Path | None, database: Path | None) -> tuple[Forecast, int]:
    """Return what `check` shows, and its exit code. With a wrong configuration no job would run, so none is shown."""
    configuration, wrong = read_configuration(config)
    place = database or (find_database(config) if wrong else None)
    if configuration is None:  # it would say which plugins must not be imported, so none is
        path, place = None, (place or Path(SchedulerConfig().database)).resolve()
        with suppress(ConfigError):  # it is among the errors
            path = find_configuration(config)
        name = str(path) if path else None
        return Forecast(name, str(place), place.exists(), None, tuple(wrong), plugins=_unloaded_plugins()), USAGE
    settings = configuration.scheduler
    logs.hide(Secrets(settings.secrets))
    scheduler = CollectionScheduler(dataclasses.replace(settings, database=place) if place else settings)
    with _kept_warnings() as warnings:
        try:
            configuration.load_plugins(scheduler)
        except ConfigError as error:
            wrong += [line for line in str(error).splitlines() if line not in wrong]
    found = scheduler.get_forecast()
    broken = [f"plugin {each.name} is broken: {each.error}" for each in found.plugins if not each.ok]
    found = dataclasses.replace(
        found,
        configuration=str(configuration.path) if configuration.path else None,
        errors=(*wrong, *broken, *found.errors),
        warnings=(*warnings, *found.warnings),
    )
    if wrong:
        return dataclasses.replace(found, warnings=tuple(warnings), jobs=(), not_scheduled=(), budgets=()), USAGE
    return found, FAILED if found.errors else DONE


def _load(configuration: Configuration) -> CollectionScheduler:
    scheduler = CollectionScheduler(configuration.scheduler)
    configuration.load_plugins(scheduler)
    return scheduler


def _expect_job(name: str, found: Status, not_scheduled: Mapping[str, str]) -> JobStatus:
    """Return the job of this name. Raises if there is none."""
    jobs = {job.job_id: job for job in found.jobs}
    if name in not_scheduled:
        raise ConfigError(f"{name} is not scheduled: it {screens.with_place(name, not_scheduled[name])}")
    if name not in jobs:
        why = None if jobs or not_scheduled else "is not known: there are no jobs yet"
        if screens.is_led(found) and found.scheduler.pid is None:
            why = f"is not known: {screens.UNWRITTEN}"
        raise UnknownJob(name, [*jobs, *not_scheduled], why)
    return jobs[name]


def _expect_plugin(job: JobStatus, found: Status) -> None:
    """Raise if a job can't run, as far as can be told before it is asked to."""
    for plugin in found.plugins:
        if plugin.name == job.plugin and not plugin.ok:
            raise PluginError(f"{job.job_id} can't run: plugin {plugin.name} is broken: {plugin.error}")


def _reach(
    job: str, configuration: Configuration, database: Path | None
) -> tuple[CollectionScheduler, JobStatus, Status]:
    """Return what an operator's switch of a job goes through, the job as it is, and the status. `database` is the store
    that the operator named, who then wants that one: it must be there.

    A switch must not need the job's plugin: they are loaded only for a job that the store does not know.
    """
    scheduler = CollectionScheduler(configuration.scheduler)
    found = scheduler.get_status()
    if database is not None and not database.exists():
        raise _UsageError(f"{database}: no such file, named by --database")
    if not screens.is_led(found) and job not in (each.job_id for each in found.jobs):
        _divert_stdout()
        scheduler = _load(configuration)
        found = scheduler.get_status()
    return scheduler, _expect_job(job, found, scheduler.registry.not_scheduled), found


def _operate(
    scheduler: CollectionScheduler, job: str, found: Status, ask: Callable[[CollectionScheduler, str], None]
) -> tuple[JobStatus, Status]:
    """Have the leader or, with none, this process do something to a job. Returns the job and the status afterwards."""
    _say_what_delays(found)
    ask(scheduler, job)
    found = scheduler.get_status()
    return _expect_job(job, found, {}), found


def _is_off_by_default(job: JobStatus, configuration: Configuration) -> bool:
    """Whether a job is off since its collector's author says so, as far as can be told without its plugin."""
    table = configuration.table_of(job.job_id)
    return not job.enabled and job.disabled_at is None and job.plugin is not None and "enabled" not in table


def _say_what_delays(found: Status) -> None:
    """Warn that a leader which gives no sign of life will hardly answer: callers wait for it for a minute."""
    if silence := screens.silence(found.scheduler, datetime.now(UTC)):
        say(f"{silence}; waiting up to a minute for its answer")


def _objections(found: Status, now: datetime) -> list[str]:
    """Return what `status --check` objects to."""
    said = _objections_to_leader(found, now)
    if screens.is_led(found) or Path(found.scheduler.database).exists():
        said.append(_obstacle(found, now))
    sick = [job for job in found.jobs if job.health is Health.UNHEALTHY]
    if sick:
        few = ", ".join(f"{job.job_id} ({job.reason})" for job in sick[:screens.FEW])
        said.append(f"unhealthy: {few}{f' and {len(sick) - screens.FEW} more' if len(sick) > screens.FEW else ''}")
    return [each for each in said if each]


def _obstacle(found: Status, now: datetime) -> str:
    """Return why the store can't be written. That is tried only where it may be why the leader is silent: while all is
    well, who looks reads."""
    if not _objections_to_leader(found, now):
        return ""
    return Store(Path(found.scheduler.database)).obstacle() or ""


def _objections_to_leader(found: Status, now: datetime) -> list[str]:
    if not screens.is_led(found):
        return ["nobody leads"]
    if found.scheduler.heartbeat_at is None:  # it has only just begun, or another file lies where its store was
        return [screens.UNWRITTEN]
    silence = screens.silence(found.scheduler, now)
    return [silence] if silence else []


def _unloaded_plugins() -> tuple[PluginStatus, ...]:
    """Return the installed plugins without importing one."""
    found = sorted(importlib.metadata.entry_points(group="geckosched"), key=lambda entry: entry.name)
    where = [(each.dist.name, each.dist.version) if each.dist is not None else (None, None) for each in found]
    return tuple(
        PluginStatus(entry.name, distribution, version, False, screens.NOT_LOADED, ())
        for entry, (distribution, version) in zip(found, where, strict=True)
    )


@contextmanager
def _no_word_of_broken_plugins() -> Iterator[None]:
    """Leave out the warnings that plugins are broken, where that is what is shown."""

    def is_other(record: logging.LogRecord) -> bool:
        return not re.match(r"plugin .+ is broken: ", record.getMessage())

    with _filtered(is_other):
        yield


@contextmanager
def _collectors_heard() -> Iterator[None]:
    """Let `run.log` be heard from info on, where otherwise only trouble is."""
    collectors = log.getChild("job")
    before = collectors.level
    collectors.setLevel(logging.INFO)
    try:
        yield
    finally:
        collectors.setLevel(before)


def _no_word_of_the_end(job: str) -> AbstractContextManager[None]:
    """Leave out the line that the log has when a run of a job ends, where its result is shown anyway."""
    return _filtered(lambda record: getattr(record, "job_id", None) != job or not hasattr(record, "outcome"))


@contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """Keep the warnings, but those that plugins are broken, instead of logging them."""
    kept: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        kept.append(record.getMessage())
        return False

    with _no_word_of_broken_plugins(), _filtered(keep):  # the first filter that refuses a record ends the matter
        yield kept


@contextmanager
def _filtered(by: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    log.addFilter(by)
    try:
        yield
    finally:
        log.removeFilter(by)


def _orphans(scheduler: CollectionScheduler, runs: Sequence[Run]) -> frozenset[int]:
    """Return the ids of those runs that are open although nobody leads: their process is gone."""
    ids = frozenset(each.id for each in runs if each.outcome is None)
    return frozenset() if not ids or scheduler.is_led() else ids


def _has_failed(run: Run) -> bool:
    return run.outcome is not None and run.outcome not in _GOOD


def _one_run(scheduler: CollectionScheduler, run_id: int) -> list[Run]:
    try:
        return [scheduler.get_run(run_id)]
    except UnknownJob as error:
        raise _UsageError(f"no run has the id {run_id}") from error


def _run_once(scheduler: CollectionScheduler, only: Sequence[str]) -> int:
    """Trigger every enabled job, here or through the leader, and wait until each has run; returns the exit code.

    The scheduler starts without any job's slots, so that no first or overdue run comes on top. A job that was skipped
    and asked to be run again soon is: it may wait for what another has stored by now.
    """
    scheduler.start(only=())
    try:
        found = CollectionScheduler(scheduler.config).get_status()  # the leader's jobs, not our registrations
        jobs = {job.job_id: job for job in found.jobs}
        for name in only:
            if name not in jobs:
                raise UnknownJob(name, jobs)
        wanted = {name for name, job in jobs.items() if screens.is_active(job) and (not only or name in only)}
        disabled = set(only) - wanted
        for name in sorted(disabled):
            log.warning("%s is disabled: geckosched enable %s, or trigger it", name, name)
        leader = found.scheduler.started_at
        refused, ended = _run_each(scheduler, wanted, leader)
        soon = {job.job_id for job in ended if job.last_outcome is Outcome.SKIPPED and job.retry_at is not None}
        if soon:
            again = _run_each(scheduler, soon, leader)
            refused |= again[0]
            ended = [job for job in ended if job.job_id not in soon] + again[1]
        if scheduler.state is SchedulerState.STANDBY:  # else the core has told of each run
            for job in ended:
                log.info("%s: %s", job.job_id, "; ".join(filter(None, (job.last_outcome, screens.note_of_job(job)))))
    finally:
        _stop(scheduler)
    return FAILED if refused or disabled or any(job.last_outcome not in _GOOD for job in ended) else DONE


def _run_each(
    scheduler: CollectionScheduler, wanted: AbstractSet[str], leader: datetime | None
) -> tuple[set[str], list[JobStatus]]:
    """Trigger jobs and wait until each has run; returns those that were refused, and how the others are."""
    asked_at = datetime.now(UTC)
    refused = {name for name in sorted(wanted) if not _trigger(scheduler, name)}
    while True:
        found = scheduler.get_status()
        ended = [job for job in found.jobs if job.job_id in wanted - refused and _has_run(job, asked_at)]
        if len(ended) == len(wanted - refused):
            return refused, ended
        if found.scheduler.started_at != leader:
            raise GeckoschedError("the leader ended before every job had run")
        time.sleep(0.2)


def _stop(scheduler: CollectionScheduler) -> None:
    """Stop as `run_forever` does: a signal meanwhile, as a rule the second, ends the wait for the runs. It raises only
    afterwards: Python 3.11 takes a thread for dead whose `join` was interrupted, and no run would be closed."""
    signals: list[int] = []

    def on_signal(number: int, _: object) -> None:
        signals.append(number)
        scheduler.hurry()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        scheduler.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


def _trigger(scheduler: CollectionScheduler, job: str) -> bool:
    try:
        scheduler.execute_collector_now(job, wait=False)
    except UnknownJob:
        log.warning("%s can't run: its collector isn't there", job)
        return False
    return True


def _has_run(job: JobStatus, since: datetime) -> bool:
    return job.last_outcome is not None and job.last_started_at is not None and job.last_started_at >= since


# -- Plugins' code and commands ----------------------------------------------------------------------------------------


def _divert_stdout() -> Callable[[], None]:
    """From now on let what plugins print go to stderr, in whatever way they write to stdout; `put` still reaches it.

    Called where plugin code may run and data is printed, and not undone there, since a plugin's thread may print until
    the process ends. What is returned undoes it.
    """
    before, number, kept = sys.stdout, -1, -1
    with suppress(OSError, ValueError):  # no file, as in tests
        before.flush()
        number, kept = before.fileno(), os.dup(before.fileno())
        os.dup2(sys.stderr.fileno(), number)
    if kept >= 0:
        stdout.set(os.fdopen(kept, "w", encoding=before.encoding, errors=before.errors))
    sys.stdout = sys.stderr

    def undo() -> None:
        sys.stdout = before
        if kept >= 0:
            os.dup2(kept, number)
        stdout.set(before)

    return undo


def _plugin_commands(word: str, ours: Sequence[str]) -> TyperGroup:
    """Return what the plugin called `word` adds by `register_commands(app)`, to a typer app of its own: a plugin can
    replace neither our commands nor another plugin's."""
    undo = _divert_stdout()
    try:
        registry = _load(_configure(None, None)).registry
    finally:
        undo()
    plugin = registry.plugins.get(word)
    if plugin is None:
        known = [*ours, *registry.plugins]
        near = difflib.get_close_matches(word, known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(known)}"
        raise _UsageError(f'no command and no plugin is called "{word}", {hint}')
    if not plugin.ok:
        raise PluginError(f"plugin {word} is broken: {plugin.error}")
    commands = typer.Typer(name=word, help=f"Commands of the plugin {word}.", rich_markup_mode=None)
    registry.call(word, "register_commands", app=commands)
    if not commands.registered_commands and not commands.registered_groups:
        raise _UsageError(f"plugin {word} has no commands")
    return typer.main.get_group(commands)


# -- The console script ------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Run the command line and leave by `os._exit`: a collector that hangs, or a thread that a plugin left behind, must
    not keep the process (trap 26)."""
    _open_closed_streams()
    sys.setswitchinterval(_SWITCH)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    signal.signal(signal.SIGTERM, _on_sigterm)
    code: object = FAILED
    try:
        typer.main.get_command(app).main(prog_name="geckosched")
    except SystemExit as end:
        code = end.code
    except _Terminated:  # while the command line was still being put together
        code = DONE
    except OSError as error:  # stdout is full or gone
        with suppress(OSError):
            complain(str(error) if error.filename else f"stdout: {error.strerror or error}")
    except BaseException:
        say(traceback.format_exc().rstrip(), logging.ERROR)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code if isinstance(code, int) else FAILED)


def _open_closed_streams() -> None:
    """Put what was closed (`geckosched status >&-`) on the null device: no file may get the number of a stream."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _on_sigterm(*_: object) -> NoReturn:
    raise _Terminated
