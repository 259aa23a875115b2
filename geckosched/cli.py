"""The command line: parse, call the core, render. No threads and no SQL live here.

Data goes to stdout and talk (log lines, "triggered ...", errors) to stderr. Exit codes: 0 done (succeeded, partial,
skipped), 1 the thing asked for failed or was refused, 2 usage, configuration or an unknown job, 130 interrupted;
SIGTERM ends `geckosched run` with 0. Our errors are one line without a traceback.

In order: errors and plugins' commands · options that all commands share · the commands · rendering · the console
script.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from geckosched import __version__
from geckosched.config import Configuration, find_database, load_configuration
from geckosched.core import (
    CollectionScheduler,
    ConfigError,
    GeckoschedError,
    JobStatus,
    Outcome,
    Run,
    SchedulerState,
    Status,
    UnknownJob,
    parse_duration,
)

__all__ = ["app", "main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_DONE_WELL = {Outcome.SUCCEEDED, Outcome.PARTIAL, Outcome.SKIPPED}

# -- Errors and plugins' commands ------------------------------------------------------------------------------


def _complain(text: str) -> None:
    """Say on stderr what is wrong, in one line."""
    typer.echo(f"geckosched: {_clean(text)}", err=True)


class _Commands(TyperGroup):
    """Our commands and, under its name, each plugin's own; every error ends here in one line and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> NoReturn:
        """Run one command and leave with its exit code."""
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except typer.TyperException as error:
            _complain(f"{error.format_message()} (see geckosched --help)")
            code = error.exit_code
        except GeckoschedError as error:
            _complain(str(error))
            code = USAGE if isinstance(error, (ConfigError, UnknownJob)) else FAILED
        sys.exit(code or DONE)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Look a word up among our commands; only if it is none of them load the plugins and ask them."""
        return self.commands.get(cmd_name) or _plugin_command(cmd_name, list(self.commands))


def _plugin_command(word: str, ours: Sequence[str]) -> TyperGroup:
    """Return the commands that the plugin called `word` registers.

    Plugins see `register_commands(app)` with a typer app of their own, so they can neither replace our commands nor
    each other's.
    """
    scheduler = _load(load_configuration())
    plugins = scheduler.registry.plugins
    if word not in plugins:
        near = difflib.get_close_matches(word, [*ours, *plugins], n=1)
        advice = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(ours)}, or a plugin's name"
        raise typer.BadParameter(f'no command or plugin "{word}", {advice}')
    if not plugins[word].ok:
        raise GeckoschedError(f"plugin {word} is broken: {plugins[word].error}")
    commands = typer.Typer(name=word, help=f"Commands of the plugin {word}.", rich_markup_mode=None)
    scheduler.registry.call(word, "register_commands", app=commands)
    if not commands.registered_commands and not commands.registered_groups:
        raise typer.BadParameter(f"plugin {word} has no commands")
    return typer.main.get_group(commands)
