"""What a configuration takes from outside of its file: settings in the environment, and secrets.

A variable `GECKOSCHED_COLLECTORS__GECKOTERMINAL_TRADES__EVERY` stands for the key `every` of
`[collectors.geckoterminal-trades]`. Names are compared folded (no case, `-` and `.` as `_`), and a name may itself hold
the `__` that parts names, so a way through the tables is found by what is known at each step: what the file has there,
and what the caller says may be there (`Known`). pydantic-settings does not do this: it knows names of a model's fields
only, passes over a variable that it does not know, and job ids, budgets and options are the plugins' to say.

A value `env:NAME` or `file:PATH` is a secret, wherever it stands (`resolve`). What comes from outside is text (`Text`,
`Secret`), and is read by its declared type once that is known (`typed`).
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import TypeAdapter, ValidationError

from geckosched.core import ConfigError, Secrets

__all__ = [
    "PREFIX",
    "Secret",
    "Text",
    "Variable",
    "fold",
    "holds_secret",
    "overlay",
    "place_of",
    "plain",
    "resolve",
    "settings_of",
    "typed",
    "unknown_variables",
    "variables",
    "words_of",
]

PREFIX = "GECKOSCHED_"
_ALONE = ("config", "load_plugins")  # GECKOSCHED_CONFIG and GECKOSCHED_LOAD_PLUGINS are no settings of a table
# What Kubernetes and Docker define in every container beside a service, or linked to one, that is called geckosched.
_OF_CONTAINERS = re.compile(
    r"port(_\d+_(tcp|udp|sctp)(_(addr|port|proto))?)?|service_host|service_port(_\w+)?|name|env_\w+"
)

_SECRET = ("env:", "file:")

Way = tuple[str, ...]
Known = Callable[[Way, Mapping[str, Any]], Iterable[str]]


class Text(str):
    """A value from the environment, to be read by its declared type."""

    __slots__ = ()


class Secret(Text):
    """A value that must not be shown, to be read by its declared type."""

    __slots__ = ()


# -- Variables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of ours: `way` is what follows `GECKOSCHED_`, folded."""

    name: str
    way: str
    value: str = field(repr=False)


def fold(name: str) -> str:
    """Return a name as it is compared: without case, `-` and `.` as `_`."""
    return re.sub("[-.]", "_", name).lower()


def variables(environ: Mapping[str, str]) -> dict[str, Variable]:
    """Return the variables that begin as ours do, by their ways. Raises ConfigError for two that say the same."""
    found: dict[str, Variable] = {}
    for name in sorted(environ):
        if fold(name).startswith(PREFIX.lower()):
            way = fold(name)[len(PREFIX) :]
            if way in found:
                raise ConfigError(f"{name}: {found[way].name} means the same, leave one of them out")
            found[way] = Variable(name, way, environ[name])
    return {way: variable for way, variable in found.items() if not _OF_CONTAINERS.fullmatch(way)}


def settings_of(found: Mapping[str, Variable], tables: Iterable[str]) -> list[Variable]:
    """Return the variables that lead into one of our tables, in the order in which they are put there."""
    ways = tuple(f"{table}__" for table in tables)
    ours = [each for each in found.values() if each.way.startswith(ways) and each.way not in ways]
    return sorted(ours, key=lambda each: (not each.way.endswith("__use"), each.way))  # `use` says which keys there are


def unknown_variables(found: Mapping[str, Variable], tables: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Yield what is wrong with variables that are no settings: nothing that begins with our name is passed over."""
    for variable in found.values():
        table, _, key = variable.way.partition("__")
        if table in tables and not key:
            yield f"{variable.name}: a table, allowed are its keys: {PREFIX}{table.upper()}__KEY"
        elif table not in tables and variable.way not in _ALONE:
            yield f"{variable.name}: unknown, {_meant(variable.way, tables)}"


def _meant(way: str, tables: Mapping[str, Iterable[str]]) -> str:
    table, parted, rest = way.partition("__")
    if parted and (near := difflib.get_close_matches(table, tables, n=1)):
        return f"did you mean {PREFIX}{near[0].upper()}__{rest.upper()}?"
    ways = {key: f"{table}__{key}" for table, keys in tables.items() for key in keys}  # the table may be left out
    if near := difflib.get_close_matches(way, [*_ALONE, *ways.values(), *ways], n=1):
        return f"did you mean {PREFIX}{ways.get(near[0], near[0]).upper()}?"
    allowed = (*_ALONE, *(f"{each}__key" for each in tables))
    return f"allowed: {', '.join(PREFIX + each.upper() for each in allowed)}"


def overlay(
    document: Mapping[str, Any], found: Iterable[Variable], known: Known
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return a document with the variables' values in it; which place has its value from which variable; what is wrong.

    `known(way, table)` says which keys may be in the table at the end of a way, besides those that it has.
    """
    merged: dict[str, Any] = _copy(document)
    origins: dict[str, str] = {}
    wrong: list[str] = []
    for variable in found:
        try:
            way = _put(merged, variable, known)
        except ConfigError as error:
            wrong.append(str(error))
        else:
            origins[place_of(way)] = variable.name
            if len(way) > 2 and way[1] not in document.get(way[0], {}):  # the whole table comes from the environment
                origins.setdefault(f"[{way[0]}.{way[1]}]", variable.name)
    return merged, origins, wrong


def place_of(way: tuple[str | int, ...]) -> str:
    """Write a way through the tables as errors do: `[collectors.x] weights.oslo`, `[plugins] load[0]`."""
    depth = 2 if way[0] != "scheduler" and len(way) > 2 and isinstance(way[2], str) else 1
    keys = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way[depth:])
    return f"[{'.'.join(map(str, way[:depth]))}] {keys.removeprefix('.')}"


def _copy(value: Any) -> Any:
    return {key: _copy(each) for key, each in value.items()} if isinstance(value, dict) else value


def _put(table: dict[str, Any], variable: Variable, known: Known) -> Way:
    """Put a variable's value into the table that it leads to; returns the way."""
    way: Way = ()
    rest = variable.way
    while True:
        name, rest = _next_step(variable, rest, way, [*table, *known(way, table)])
        way = (*way, name)
        if not rest:
            break
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{variable.name}: {place_of(way)} is no table, so it has no key {rest}")
    if len(way) < 3 and way[0] in ("collectors", "budgets"):
        raise ConfigError(f"{variable.name}: a table, allowed are its keys: {variable.name.upper()}__KEY")
    table[name] = Text(variable.value)
    return way


def _next_step(variable: Variable, rest: str, way: Way, known: Iterable[str]) -> tuple[str, str]:
    """Return which of the names is the next on a variable's way, and what follows; an unknown one is taken as it is."""
    fitting = [name for name in dict.fromkeys(known) if f"{rest}__".startswith(f"{fold(name)}__")]
    if len(fitting) > 1:
        may = " or ".join(f'"{name}"' for name in fitting)
        where = f" of [{'.'.join(way)}]" if way else ""
        raise ConfigError(f"{variable.name}: may mean {may}{where}, so give it in the file instead")
    if fitting:
        return fitting[0], rest[len(fold(fitting[0])) + 2 :]
    name, _, rest = rest.partition("__")
    return name, rest


# -- Secrets -----------------------------------------------------------------------------------------------------------


def resolve(
    value: Any, way: tuple[str | int, ...], folder: Path, environ: Mapping[str, str], wrong: list[str]
) -> Any:
    """Return a value with each `env:NAME` and `file:PATH` in it read; what can't be read is said, and left as it is."""
    if isinstance(value, dict):
        return {key: resolve(each, (*way, key), folder, environ, wrong) for key, each in value.items()}
    if isinstance(value, list):
        return [resolve(each, (*way, at), folder, environ, wrong) for at, each in enumerate(value)]
    if isinstance(value, Text) and any(each.startswith(_SECRET) for each in _texts(_from_json(value))):
        return resolve(_from_json(value), way, folder, environ, wrong)
    if not isinstance(value, str) or not value.startswith(_SECRET):
        return value
    try:
        return Secret(_read_secret(value, folder, environ))
    except ConfigError as error:
        wrong.append(f"{place_of(way)}: {value}: {error}")
        return value


def _read_secret(value: str, folder: Path, environ: Mapping[str, str]) -> str:
    kind, _, where = value.partition(":")
    if kind == "env" and where not in environ:
        raise ConfigError("no variable has this name" if where else "the name of a variable is missing")
    try:
        text = environ[where] if kind == "env" else (folder / Path(where).expanduser()).read_text(encoding="utf-8-sig")
        text.encode()
    except UnicodeError as error:
        raise ConfigError("not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from error
    except (ValueError, RuntimeError) as error:  # a NUL in its name, no home
        raise ConfigError(str(error)) from error
    text = text if kind == "env" else re.sub(r"\r?\n\Z", "", text)
    if not Secrets.LEAST <= (length := len(text.strip())) <= Secrets.MOST:
        raise ConfigError(f"a secret of {length:,} characters, allowed are {Secrets.LEAST} to {Secrets.MOST:,}")
    return text


def words_of(value: Any) -> Iterator[str]:
    """Yield each secret in a value, and of one that is a JSON list or table each text and number in it that is long
    enough."""
    if isinstance(value, Secret):
        yield str(value)
        yield from (text for text in _texts(_from_json(value)) if len(text.strip()) >= Secrets.LEAST)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from words_of(each)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from (str(each),) if isinstance(each, str | int | float) else _texts(each)


def holds_secret(value: Any) -> bool:
    """Whether a secret is in a value."""
    return next(words_of(value), None) is not None


# -- By their declared types -------------------------------------------------------------------------------------------


def typed(value: Any, hint: Any) -> Any:
    """Return a value with the texts from outside in it read by a type: numbers, true and false as they are written,
    lists and tables as JSON. What doesn't fit stays text, which the type's own check then refuses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return typed(value, arguments[0])
    if origin in (Union, types.UnionType):
        return value if isinstance(value, Text) and str in arguments else _first_that_fits(value, arguments)
    if isinstance(value, Text):
        return _read(value, hint, origin, arguments)
    if isinstance(value, list) and arguments:
        return [typed(each, arguments[0]) for each in value]
    if isinstance(value, dict) and len(arguments) == 2:
        return {key: typed(each, arguments[1]) for key, each in value.items()}
    return value


def _first_that_fits(value: Any, hints: Iterable[Any]) -> Any:
    read = (typed(value, hint) for hint in hints)
    return next((each for each in read if each != value or type(each) is not type(value)), value)


def _read(text: Text, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin is Literal:
        return next((each for each in arguments if str(each) == text), text)
    if hint in (int, float, bool):
        try:
            return TypeAdapter(hint).validate_strings(str(text))
        except ValidationError:
            return text
    kind = origin or hint
    is_plural = isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, str | bytes)
    return _from_json(text) if is_plural else text


def _from_json(text: str) -> Any:
    """Return the list or table that a text is in JSON, else the text."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def plain(value: Any) -> Any:
    """Return a value whose types nobody declares: text from outside stays text, but for a JSON list or table in the
    environment."""
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, Text):
        read = _from_json(value)
        return str(read) if isinstance(read, str) else read
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
