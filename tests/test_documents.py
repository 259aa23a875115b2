"""The documents are true: they build, their examples run, and they name all that there is and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import pydantic
import pytest
import typer

from geckosched import (
    Batch,
    BreakerState,
    CollectionScheduler,
    JobStatus,
    Outcome,
    PluginStatus,
    Reason,
    Run,
    RunContext,
    SchedulerConfig,
    SchedulerInfo,
    cli,
    collector,
    config,
    core,
    outside,
    screens,
)
from geckosched.reload import Plan
from geckosched.statistics import JobStatistics, PeriodStatistics, Spread
from tests.documents import DOCS, PAGES, README, ROOT, Block, blocks, code, names, page, sections, table
from tests.shell import geckosched

COMMANDS: dict[str, Any] = vars(typer.main.get_command(cli.app))["commands"]
CODES = {cli.DONE, cli.FAILED, cli.USAGE, 130}  # the last is typer's own for a KeyboardInterrupt


def same(documented: Iterable[str], there: Collection[str]) -> bool:
    """Whether the documents name each of these once, and nothing else; what differs is in the test's output."""
    listed = list(documented)
    print("not documented:", sorted(set(there) - set(listed)), "not there:", sorted(set(listed) - set(there)))  # noqa: T201
    return sorted(listed) == sorted(there)


# -- The site ----------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the contents, every link and every name of the reference leads somewhere."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "get_collector_status" in (tmp_path / "api.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files of the repository, and sections that the file has."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(_slug, headings), target


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- Examples ----------------------------------------------------------------------------------------------------------


def _programs() -> list[Block]:
    return [block for block in blocks("python") if block.file is None]


@pytest.mark.parametrize("block", _programs(), ids=lambda block: block.name)
def test_examples_run(block: Block, tmp_path: Path) -> None:
    """Each Python block runs as a program of its own, warnings being errors."""
    (tmp_path / "example.py").write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert ("succeeded" in done.stdout) is ("execute_collector_now" in block.text)


@pytest.mark.parametrize("name", ["core", "http", "config", "testing", "cli"])
def test_examples_in_docstrings_run(name: str) -> None:
    """Every `>>>` in a docstring shows what it says it shows."""
    assert doctest.testmod(importlib.import_module(f"geckosched.{name}")).failed == 0


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.name)
def test_configurations_are_read(block: Block, tmp_path: Path) -> None:
    """Each TOML block is a configuration that passes our own check, or the pyproject.toml of a plugin."""
    if "[project]" in block.text:
        assert tomllib.loads(block.text)["project"]["entry-points"]["geckosched"] == {"weather": "geckosched_weather"}
        return
    text, environ = block.text, dict.fromkeys(re.findall(r'"env:(\w+)"', block.text), "a secret of the example")
    for number, path in enumerate(re.findall(r'"file:([^"]+)"', text)):
        (tmp_path / f"secret{number}").write_text("a secret of the example")
        text = text.replace(path, f"secret{number}")
    (tmp_path / "geckosched.toml").write_text(text)
    found, wrong = config.read_configuration(tmp_path / "geckosched.toml", environ)
    assert wrong == []
    assert found is not None
    if "geckoterminal" in text and "geckoterminal" in config.installed_plugins():
        _expect_plugins_take(found, tmp_path)


def test_the_example_file_is_read(tmp_path: Path) -> None:
    """`geckosched.toml` of the repository passes our own check, and the plugin takes what it says."""
    pytest.importorskip("geckosched_geckoterminal", reason="needs the plugin")
    _expect_plugins_take(config.load_configuration(ROOT / "geckosched.toml"), tmp_path)


def _expect_plugins_take(found: config.Configuration, tmp_path: Path) -> None:
    """Load the plugins with a configuration: no setting, collector or option of it is unknown to them."""
    scheduler = CollectionScheduler(SchedulerConfig(database=tmp_path / "none.db"))
    found.load_plugins(scheduler)
    assert [plugin.error for plugin in scheduler.registry.plugins.values() if not plugin.ok] == []


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A store in which a job has succeeded, failed, lost something and been disabled, opened for reading."""
    path = tmp_path_factory.mktemp("history") / "geckosched.db"
    scheduler = CollectionScheduler(SchedulerConfig(database=path, catchup="none"))

    @collector("weather", every="1d")
    def weather(run: RunContext) -> Any:
        run.lost("Oslo", 2, run.started_at, run.now())
        yield Batch("forecast", [{"city": "Oslo"}], pk="city")

    @collector("broken", every="1d")
    def broken(run: RunContext) -> Any:
        raise ValueError("no such city")

    for each in (weather, broken):
        scheduler.register_collector(each)
        scheduler.execute_collector_now(str(each.name))
    scheduler.disable_collector("broken")
    scheduler.stop()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


@pytest.mark.parametrize("block", blocks("sql"), ids=lambda block: block.name)
def test_queries_run(block: Block, history: sqlite3.Connection) -> None:
    """Each query runs on a real store and finds something; where it looks for what this one lacks, nothing."""
    rare = ("geckosched_requests", "reason = 'scheduled'")
    found = history.execute(block.text).fetchall()
    assert bool(found) is not any(word in block.text for word in rare)


def test_ready_queries_say_what_they_are_for(history: sqlite3.Connection) -> None:
    """The failed run is what "what failed in the last day" finds, the disabled job what was disabled."""
    failed, per_day, *_, disabled, _, _ = (block.text for block in blocks("sql") if block.page.stem == "store")
    assert [row["job_id"] for row in history.execute(failed)] == ["broken"]
    counts = [tuple(row)[:6] for row in history.execute(per_day)]
    assert counts == [("broken", 1, 1, 0, 0, 0), ("weather", 1, 0, 1, 0, 2)]
    assert [row["job_id"] for row in history.execute(disabled)] == ["broken"]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the command sqlite3")
def test_backups_are_whole(history: sqlite3.Connection, tmp_path: Path) -> None:
    """The commands that copy, shrink and save a store leave stores that `status` reads, jobs and all."""
    [[_, _, place]] = history.execute("PRAGMA database_list").fetchall()
    shutil.copy(place, tmp_path / "geckosched.db")
    text = "".join(block.text for block in blocks("console", DOCS / "store.md"))
    commands = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
    copies = sorted(tmp_path.glob("*.db"))
    assert [path.name for path in copies] == ["backup.db", "geckosched.db", "recovered.db", "small.db"]
    for path in copies:
        jobs = CollectionScheduler(SchedulerConfig(database=path)).get_status().jobs
        assert [job.job_id for job in jobs] == ["broken", "weather"]


# -- The README --------------------------------------------------------------------------------------------------------


def test_the_first_example_is_twelve_lines() -> None:
    """The first example fits a glance."""
    lines = [line for line in blocks("python", README)[0].text.split("\n") if line.strip()]
    assert len(lines) <= 12


def test_quick_start_is_two_blocks_of_one_line() -> None:
    """Quick start holds exactly two sh blocks of one line each, and they are the README's only ones."""
    start = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8").split("## Quick start")[1], re.DOTALL)
    assert [block.text for block in blocks("sh", README)] == start
    assert [block.count("\n") for block in start] == [1, 1]
    assert "demo" in start[0]
    assert "pytest" in start[1]


def test_the_readme_names_every_command_once() -> None:
    """The README's table has every command, with options that the command has."""
    rows = table(README.read_text(encoding="utf-8"), "command")
    words = [re.sub(r"^geckosched ", "", each).split()[0] for row in rows for each in code(row[0])]
    assert same(words, COMMANDS)
    for row in rows:
        known = {option for each in code(row[0]) for option in _options(re.sub("^geckosched ", "", each).split()[0])}
        assert {each.split()[0] for each in code(row[1]) if each.startswith("--")} <= known, row


def test_the_readme_leads_to_every_page() -> None:
    """Every page of docs/ but the table of contents is linked."""
    linked = set(re.findall(r"\]\(docs/(\w+)\.md\)", README.read_text(encoding="utf-8")))
    assert linked == {path.stem for path in PAGES if path.parent != ROOT} - {"index"}


# -- Configuration -----------------------------------------------------------------------------------------------------

TABLES: dict[str, type[pydantic.BaseModel]] = {
    "[scheduler]": config._SchedulerTable,
    "[plugins]": config._PluginsTable,
    "[budgets.NAME]": config._BudgetTable,
    "[collectors.JOB]": config._CollectorTable,
}


@pytest.mark.parametrize("title", TABLES)
def test_every_setting_is_documented(title: str) -> None:
    """The reference has each key that a table takes, and no other."""
    assert same(names(sections(page("configuration"))[title], "setting"), TABLES[title].model_fields)


def test_every_table_is_documented() -> None:
    """The reference has a section for each table of the file."""
    documented = {title.strip("[]").split(".")[0] for title in sections(page("configuration")) if title[0] == "["}
    assert documented == set(config._TABLES)


def test_the_defaults_are_those_of_the_scheduler() -> None:
    """The defaults of [scheduler] are SchedulerConfig's, and every field of that but those of other tables is there."""
    rows = table(sections(page("configuration"))["[scheduler]"], "setting")
    shown = {code(row[0])[0]: ast.literal_eval(code(row[2])[0]) for row in rows}
    defaults, elsewhere = SchedulerConfig(), ("budgets", "secrets")  # tables of their own, and what stands as env:NAME
    fields = [field.name for field in dataclasses.fields(defaults) if field.name not in elsewhere]
    assert shown == {name: getattr(defaults, name) for name in fields}


def test_what_needs_a_restart_is_documented() -> None:
    """The column "reload" says of each setting of [scheduler] what a reload does with a changed one."""
    rows = table(sections(page("configuration"))["[scheduler]"], "setting")
    other = {"database": "other.db", "executor": "processes", "timezone": "Europe/Berlin", "catchup": "none"}
    old = SchedulerConfig()
    for name, said in ((code(row[0])[0], row[4]) for row in rows):
        new = dataclasses.replace(old)
        object.__setattr__(new, name, other.get(name, 7 if isinstance(getattr(old, name), int) else "7s"))
        plan = Plan.of(old, new, Path("geckosched.db").resolve())
        assert {"yes": plan.settings, "restart": tuple(each.name for each in plan.restart)}[said] == (name,)


def test_every_variable_of_the_documents_is_one() -> None:
    """Every `GECKOSCHED_...` that a page names is a setting's, or one of the two that are none."""
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    found = set(re.findall(r"GECKOSCHED_\w*[A-Z](?!\.\.\.)\b", text))
    known = outside.variables(dict.fromkeys(found, "1"))
    assert found >= {"GECKOSCHED_CONFIG", "GECKOSCHED_LOAD_PLUGINS", "GECKOSCHED_SCHEDULER__MAX_WORKERS"}
    assert list(outside.unknown_variables(known, config._KEYS)) == []
    alone = names(sections(page("configuration"))["The environment"], "variable")
    assert same(alone, [f"{outside.PREFIX}{name.upper()}" for name in outside._ALONE])


# -- Commands ----------------------------------------------------------------------------------------------------------


def _options(command: str) -> set[str]:
    return {name for each in COMMANDS[command].params for name in each.opts if name.startswith("--")}


def _shared() -> set[str]:
    return set.intersection(*(_options(command) for command in COMMANDS))


def test_every_command_has_a_section() -> None:
    """The reference has a section for each command, and for no other."""
    titles = [title.removeprefix("geckosched ") for title in sections(page("commands")) if title.startswith("geckosc")]
    assert same(titles, COMMANDS)


def test_the_options_of_every_command_are_documented() -> None:
    """What all commands take stands at the top."""
    documented = {name.split()[0] for name in names(page("commands").split("\n## ")[0], "option")}
    assert documented == _shared() | {"--help"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_are_written_as_they_are(path: Path) -> None:
    """Every `geckosched ...` of a page, in a sentence or a block, is a command of ours with options that it has."""
    for word, rest in re.findall(r"(?:^|[\s/`])geckosched (?!geckosched )([a-z]+)([^`\n]*)", _commands_in(path)):
        assert word in {*COMMANDS, *OTHERS}, f"geckosched {word}"
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.split(" | ")[0]))
        assert word in OTHERS or options <= _options(word) | {"--help"}, f"geckosched {word}{rest}"


OTHERS = ("geckoterminal",)  # a plugin's own commands, which its documents speak of


def _commands_in(path: Path) -> str:
    """Return what a page has in backticks and in the blocks that show a shell, a line for each."""
    text = path.read_text(encoding="utf-8")
    shells = [each.text for language in ("console", "sh", "text", "yaml") for each in blocks(language, path)]
    return "\n".join([*shells, *(each.replace("\n", " ") for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    """A command's section has each of its own options, in the table and in the line that shows how it is called."""
    own = _options(command) - _shared()
    section = sections(page("commands"))[f"geckosched {command}"]
    documented = [name.split()[0] for name in names(section, "option")] if own else []
    assert same(documented, own)
    assert own or "| option |" not in section
    [usage] = re.findall(rf"^## geckosched {command}\n\n```text\n(.+)\n```", page("commands"), re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", usage)) == own
    arguments = [each.metavar for each in COMMANDS[command].params if not each.opts[0].startswith("--")]
    shown = re.sub(r"\[--.*?\](\.\.\.)?", "", usage).removeprefix(f"geckosched {command}")
    assert shown.strip(" []") == " ".join(arguments)


def test_every_exit_code_is_documented() -> None:
    """The table has the codes that commands end with, and no other."""
    assert {int(row[0]) for row in table(page("commands"), "code")} == CODES


@pytest.mark.parametrize(
    ("title", "kind"), [("`scheduler`", SchedulerInfo), ("`jobs`", JobStatus), ("`plugins`", PluginStatus)]
)
def test_every_field_of_the_json_is_documented(title: str, kind: Any) -> None:
    """`status --json` has the fields that the reference names."""
    text = sections(page("commands"), 3)["The JSON of status"]
    part = re.split(r"^(?=`\w+`, )", text, flags=re.MULTILINE)  # "`jobs`, a list:" and its table
    [found] = [each for each in part if each.startswith(title)]
    printed = [field.name for field in dataclasses.fields(kind) if field.metadata.get("json", True)]
    assert same(names(found, "field"), printed)


def test_every_field_of_the_statistics_is_documented() -> None:
    """`status JOB --json` has the statistics that the reference names."""
    text = sections(page("commands"), 3)["The JSON of status"].split("`statistics`")[1]
    assert same(names(text, "field"), [field.name for field in dataclasses.fields(PeriodStatistics)])
    around = {*code(text.split("| field |")[0]), "statistics"}
    assert {field.name for field in dataclasses.fields(JobStatistics)} <= around
    [spread] = [row for row in table(text, "field") if row[0] == "`seconds`"]
    assert same(code(spread[1]), [field.name for field in dataclasses.fields(Spread)])


def test_every_field_of_a_json_log_is_documented(site: Path) -> None:
    """What `run --log-format json` writes of a run that succeeds and of one that fails has the documented fields."""
    ended = geckosched("run", "--once", "--only", "tick", "--only", "broken", "--log-format", "json")
    seen = {name for line in ended.err.splitlines() for name in json.loads(line)}
    documented = set(names(sections(page("commands"), 3)["The log"], "field"))
    assert {"job_id", "run_id", "outcome", "error"} <= seen <= documented
    assert documented - seen <= {"health", "exception", "stack"}


# -- The store ---------------------------------------------------------------------------------------------------------


def _schema(connection: sqlite3.Connection) -> dict[str, list[tuple[str, str]]]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'geckosched_%'")
    tables = [row[0] for row in found]
    columns = "SELECT name, type FROM pragma_table_info(?)"
    return {name: [tuple(row) for row in connection.execute(columns, (name,))] for name in tables}


def test_every_table_and_column_of_the_store_is_documented(history: sqlite3.Connection) -> None:
    """The schema's pages are those of a real store: each table, each column with its type, and nothing else."""
    documented = {
        title: [f"{code(row[0])[0]} {row[1]}" for row in table(text, "column")]
        for title, text in sections(page("store"), 3).items()
        if title.startswith("geckosched_")
    }
    schema = _schema(history)
    assert same(documented, schema)
    assert [name for name in schema if not same(documented[name], [" ".join(each) for each in schema[name]])] == []


def test_a_run_has_the_columns_of_its_table(history: sqlite3.Connection) -> None:
    """`--json` of a run prints the columns of geckosched_runs, as the pages say."""
    columns = [name for name, _ in _schema(history)["geckosched_runs"]]
    assert [field.name for field in dataclasses.fields(Run)] == columns


@pytest.mark.parametrize(
    ("where", "first", "kind"),
    [("store", "outcome", Outcome), ("store", "reason", Reason)],
)
def test_every_word_is_documented(where: str, first: str, kind: type[StrEnum]) -> None:
    """Outcomes and reasons have a row for each word."""
    assert same(names(page(where), first), list(kind))


@pytest.mark.parametrize(("first", "signs"), [("sign", screens._HEALTHS), ("in the strip", screens._RUNS)])
def test_every_sign_of_status_is_documented(first: str, signs: Mapping[StrEnum, str]) -> None:
    """What `status` shows of health and of the last runs is explained, sign by sign."""
    rows = table(page("commands"), first)
    assert {code(row[1])[0]: code(row[0])[0] for row in rows} == {str(word): sign for word, sign in signs.items()}


def test_words_of_columns_are_documented() -> None:
    """A breaker's states and the actions of a request stand in their columns' rows."""
    text = sections(page("store"), 3)
    [breaker] = [row for row in table(text["geckosched_jobs"], "column") if row[0] == "`breaker`"]
    assert same(code(breaker[2]), list(BreakerState))
    [action] = [row for row in table(text["geckosched_requests"], "column") if row[0] == "`action`"]
    assert same(code(action[2]), core._ACTIONS)


# -- For those who write collectors ------------------------------------------------------------------------------------


def test_what_the_page_says_a_run_has_is_there() -> None:
    """Every attribute and method that "The rest of `run`" names exists."""
    text = page("plugins").split("**The rest of `run`**")[1].split("Take the time")[0]
    found = re.findall(r"`(\w+)(?:\([^)]*\))?`", text)
    attributes = set(dir(RunContext)) | set(inspect.signature(RunContext.__init__).parameters) | {"id", "state"}
    assert len(found) >= 14
    assert set(found) <= attributes


def test_every_hook_is_documented_with_its_signature() -> None:
    """The page on plugins shows each hook as it is called."""
    hooks = [each for each in vars(core.HookSpecifications).values() if callable(each)]
    assert len(hooks) >= 6
    for hook in hooks:
        signature = f"{hook.__name__}({', '.join(list(inspect.signature(hook).parameters)[1:])})"
        assert signature in page("plugins") + README.read_text(encoding="utf-8"), signature
