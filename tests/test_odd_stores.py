"""What the reading commands answer when something is odd: no store, an empty one, one of another version or no store at
all; no configuration or a wrong one; a broken plugin; a file or a folder that may not be read.

Each answers in one clear line for each thing that is wrong, with the file's name and the exit code of the command line,
shows what can be shown all the same, and changes nothing on disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from geckosched.core import Store
from tests.conftest import an_unprivileged_user
from tests.schemas import add_job, first_schema, written_by_a_newer_version
from tests.shell import PLUGIN, geckosched, invoke

DATABASE = Path("geckosched.db")
COMMANDS = ("status", "status --json", "status tick", "why tick", "runs", "runs --json", "runs tick", "plugins",
            "plugins --json", "check", "check --json")  # fmt: skip


class Scene(NamedTuple):
    """Something odd, made by `make` in the working directory. `codes` are the exit codes that aren't 0, by command or
    its first word; `says` stands in the first line on stderr of the commands in `told` (by first word). `shown`: its
    jobs and runs are shown all the same."""

    make: Callable[[], object]
    codes: Mapping[str, int] = {}
    says: str = ""
    told: str = "status why runs plugins check"
    shown: bool = False


def with_rows() -> None:
    """Make a store as a run leaves it."""
    with closing(Store(DATABASE).open_writer()) as connection:
        add_job(connection, "tick", "ssfp", collector="tick", plugin="fake")
        began, ended = "2026-11-20T00:00:00.000000Z", "2026-11-20T00:05:00.000000Z"
        plugins = [{"name": "fake", "distribution": None, "version": None, "ok": True, "error": None,
                    "collectors": ["broken", "daily", "tick", "weather"]}]  # fmt: skip
        connection.execute("INSERT INTO geckosched_instances VALUES ('x', 12, 'box', '0', ?, ?, ?, 0, ?)",
                           (began, ended, ended, json.dumps(plugins)))  # fmt: skip


def of_the_first_version() -> None:
    with closing(first_schema(DATABASE)) as connection:
        add_job(connection, "tick", "ssfp", collector="tick", plugin="fake")


def newer() -> None:
    with_rows()
    written_by_a_newer_version(DATABASE)


def newer_with_other_columns() -> None:
    newer()
    with closing(sqlite3.connect(DATABASE)) as connection:
        connection.execute("ALTER TABLE geckosched_jobs RENAME COLUMN every TO interval")
        connection.execute("ALTER TABLE geckosched_runs RENAME COLUMN outcome TO ended_as")
        connection.execute("ALTER TABLE geckosched_instances RENAME COLUMN pid TO process")


def damaged() -> None:
    with_rows()
    whole = DATABASE.read_bytes()
    DATABASE.write_bytes(whole[:4096] + b"Z" * (len(whole) - 4096))


def of_another_program() -> None:
    with closing(sqlite3.connect(DATABASE)) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def configured(text: str, *, store: bool = True) -> Callable[[], None]:
    def make() -> None:
        if store:
            with_rows()
        Path("geckosched.toml").write_text(text, encoding="utf-8")

    return make


ALL_1 = dict.fromkeys(("status", "why", "runs", "plugins", "check"), 1)
ALL_2 = dict.fromkeys(ALL_1, 2)
NO_ROWS = {"status tick": 2, "runs tick": 2}

SCENES = {
    "no store": Scene(lambda: None, NO_ROWS),
    "an empty file": Scene(DATABASE.touch, NO_ROWS),
    "a store without rows": Scene(lambda: Store(DATABASE).open_writer().close(), NO_ROWS),
    "another program's SQLite file": Scene(of_another_program, NO_ROWS),
    "a store that is well": Scene(with_rows, shown=True),
    "an older store": Scene(of_the_first_version, shown=True),
    "a newer store": Scene(newer, {"check": 1}, "geckosched.db: written by a newer geckosched (m999_of_tomorrow), ",
                           "status why runs check", shown=True),
    "a newer store with other columns": Scene(
        newer_with_other_columns, ALL_1, "geckosched.db: written by a newer geckosched (m999_of_tomorrow), upgrade"),
    "no SQLite file": Scene(lambda: DATABASE.write_text("a shopping list\n" * 500), ALL_1,
                            "geckosched.db: file is not a database ("),
    "a folder": Scene(DATABASE.mkdir, ALL_1, "geckosched.db: disk I/O error (it is a folder)"),
    "a damaged store": Scene(damaged, ALL_1, "geckosched.db: database disk image is malformed ("),
    "no folder": Scene(configured('[scheduler]\ndatabase = "no/where.db"\n', store=False), {**NO_ROWS, "check": 1},
                       "where.db: the folder ", "check"),
    "no TOML": Scene(configured("[scheduler\n"), ALL_2, "geckosched.toml: line 1: not valid TOML: ", shown=True),
    "an unknown key": Scene(
        configured("[scheduler]\nmax_worker = 1\n"), ALL_2,
        'geckosched.toml: [scheduler] max_worker: unknown key, did you mean "max_workers"?', shown=True),
    "a bad value": Scene(configured("[scheduler]\nmax_workers = 0\n"), ALL_2,
                         "geckosched.toml: [scheduler] max_workers: found 0, allowed is at least 1", shown=True),
    "wrong options": Scene(configured('[collectors.weather]\ncitis = ["Oslo"]\n'),
                           {"why tick": 2, "plugins": 2, "check": 2},
                           'geckosched.toml: [collectors.weather] citis: unknown key, did you mean "cities"?',
                           "why plugins check", shown=True),
    "a disabled plugin": Scene(configured('[plugins]\ndisable = ["fake"]\n'), shown=True),
}  # fmt: skip


def files() -> dict[str, bytes]:
    """Return what is in the working directory, but for the files that SQLite keeps beside a store that it reads, and
    the mark that the plugin leaves where it is imported."""
    found = {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(("-wal", "-shm", "imported"))}


def answers(scene: Scene, **where: str) -> dict[str, str]:
    """Give every command, check what holds for each, and return what they print."""
    said = {}
    before = files()
    for command in COMMANDS:
        words = command.split()
        result = invoke(*words, *(f"--{name}={value}" for name, value in where.items()))
        code = scene.codes.get(command, scene.codes.get(words[0], 0))
        assert result.exit_code == code, f"{command}: {result.exit_code}\n{result.output}"
        lines = result.stderr.splitlines()
        assert result.stdout or lines, f"{command} is silent"
        assert all(line.startswith("geckosched: ") for line in lines), f"{command}: {result.stderr}"
        assert len(lines) <= 1 + (code == 2), f"{command}: {result.stderr}"
        if words[0] in scene.told.split():
            assert scene.says in "".join(lines[:1]), f"{command}: {result.stderr}"
        if "--json" in words and result.stdout:
            json.loads(result.stdout)
        said[command] = result.stdout
    assert files() == before
    return said


@pytest.mark.usefixtures("fake_plugin")
@pytest.mark.parametrize("name", SCENES)
def test_every_command_answers(name: str) -> None:
    """A wrong configuration or a store of another version keeps nobody from seeing the jobs and the history."""
    scene = SCENES[name]
    scene.make()
    said = answers(scene)
    if scene.shown:
        assert [job["job_id"] for job in json.loads(said["status --json"])["jobs"]] == ["tick"]
        assert [run["id"] for run in json.loads(said["runs --json"])] == [4, 3, 2, 1]
        assert said["why tick"].startswith("tick does not run: ")


@pytest.mark.usefixtures("fake_plugin")
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("no store", "geckosched.db; geckosched run would run it at once, since it never ran"),
        ("a store that is well", "geckosched run would run it at once, since a slot of it passed"),
        ("a newer store", "written by a newer geckosched (m999_of_tomorrow), upgrade this one"),
        ("a bad value", "a start would be refused: the configuration can't be used"),
        ("wrong options", 'geckosched.toml: [collectors.weather] citis: unknown key, did you mean "cities"?'),
        ("a disabled plugin", "a start would not run it: plugin fake is disabled by [plugins] disable"),
    ],
)
def test_why_says_what_a_start_would_do(name: str, ends: str) -> None:
    """With nobody leading, the sentence ends with what a start would make of it."""
    SCENES[name].make()
    result = invoke("why", "tick")
    assert result.stdout.endswith(f"{ends}\n"), result.stdout


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (geckosched_fake.py:1)"),
        (PLUGIN.replace("    for each in (tick", "    raise OSError('not today')\n    for each in (tick"),
         "PluginError: plugin fake: register_collectors: OSError: not today (geckosched_fake.py:40)"),
    ],
)  # fmt: skip
def test_a_broken_plugin(fake_plugin: Path, source: str, error: str) -> None:
    """`why`, `plugins` and `check` say which and why; the store is shown all the same."""
    fake_plugin.write_text(source, encoding="utf-8")
    scene = Scene(with_rows, {"check": 1}, f"plugin fake is broken: {error}", "check")
    with_rows()
    said = answers(scene)
    assert said["why tick"] == f"tick can't run: plugin fake is broken: {error}; nobody leads either\n"
    assert f"broken: {error}" in " ".join(said["plugins"].split())
    assert invoke("why", "weather").stdout == f"weather is not scheduled: plugin fake is broken: {error}\n"
    unknown = invoke("why", "nosuch")
    assert unknown.stderr.startswith(f"geckosched: plugin fake is broken: {error}\ngeckosched: no job is called ")
    assert unknown.exit_code == 2


@pytest.mark.usefixtures("fake_plugin")
def test_check_shows_no_more_than_it_knows() -> None:
    """A plugin that a wrong configuration keeps it from loading is not called broken, and no job is a word, too."""
    configured("[scheduler\n", store=False)()
    assert "plugins        fake 1.2 (not loaded)" in invoke("check").stdout
    configured('[plugins]\ndisable = ["fake"]\n', store=False)()
    assert "\nno jobs: " in invoke("check").stdout


@pytest.mark.usefixtures("fake_plugin")
def test_an_option_that_is_wrong_is_why_its_job_is_not_scheduled() -> None:
    SCENES["wrong options"].make()
    wrong = 'geckosched.toml: [collectors.weather] citis: unknown key, did you mean "cities"?'
    result = invoke("why", "weather")
    assert (result.exit_code, result.stdout) == (2, f"weather is not scheduled: {wrong}\n")


@pytest.mark.usefixtures("fake_plugin")
@pytest.mark.parametrize("place", ["config", "database"])
def test_a_place_that_is_not_there(place: str) -> None:
    """A configuration that somebody names must be there; a store need not be yet, but a start needs its folder."""
    with_rows()
    if place == "config":
        answers(Scene(with_rows, ALL_2, "no/where: no such file, named by --config"), config="no/where")
    else:
        scene = Scene(with_rows, {**NO_ROWS, "check": 1}, "where: the folder ", "check")
        said = answers(scene, database="no/where")
        assert "(not there yet)" in said["status"]
        assert "not there" in invoke("status", "--database", "no/where").stderr


@pytest.mark.usefixtures("fake_plugin")
@pytest.mark.parametrize(
    ("closed", "says"),
    [
        ("store/geckosched.db", "geckosched.db: unable to open database file (this user may not read it)"),
        ("store", "geckosched.db: Permission denied (this user may not look into its folder)"),
        ("geckosched.toml", "geckosched.toml: Permission denied"),
    ],
)
def test_what_this_user_may_not_read(closed: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store, a folder or a configuration without the right to read it: one line that names it. (`check` says first
    what keeps a start from writing.)"""
    for each in (tmp_path, *tmp_path.parents):
        if not each.stat().st_mode & 0o077:  # pytest's, which are its user's only
            each.chmod(0o755)
    Path().chmod(0o777)  # the plugin leaves its mark here
    Path("store").mkdir()
    Path("geckosched.toml").write_text('[scheduler]\ndatabase = "store/geckosched.db"\n', encoding="utf-8")
    monkeypatch.chdir("store")
    with_rows()
    monkeypatch.chdir("..")
    Path(closed).chmod(0)
    try:
        with an_unprivileged_user():
            for command in ("status", "why tick", "runs", "plugins", *([] if closed.endswith("db") else ["check"])):
                result = invoke(*command.split())
                assert says in result.stderr.splitlines()[0], f"{command}: {result.stderr}"
                assert result.exit_code == (2 if closed.endswith("toml") else 1), command
    finally:
        Path(closed).chmod(0o755)


@pytest.mark.usefixtures("site")
def test_a_real_process_with_nothing() -> None:
    """Without a store and a configuration there is an answer, and no file afterwards but the plugin's mark."""
    ended = geckosched("why", "tick")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("tick does not run: no scheduler has run yet on ")
    assert [path.name for path in Path().iterdir()] == ["imported"]
