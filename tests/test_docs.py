"""The documents are true: every example in the README runs, and what it names is there."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from geckosched import RunContext, SchedulerConfig
from geckosched.config import load_configuration

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n")[0])
def test_examples_run(code: str, tmp_path: Path) -> None:
    """Each Python block runs as a program of its own, warnings being errors."""
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert ("succeeded" in done.stdout) is ("execute_collector_now" in code)


def test_the_first_example_is_twelve_lines() -> None:
    """The first example fits a glance."""
    lines = [line for line in blocks("python")[0].split("\n") if line.strip()]
    assert len(lines) <= 12


def test_quick_start_is_two_blocks_of_one_line() -> None:
    """Quick start holds exactly two sh blocks of one line each, and they are the only ones."""
    start = README.split("## Quick start")[1].split("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", start, re.S)
    assert [block.count("\n") for block in found] == [1, 1]
    assert blocks("sh") == found
    assert "demo" in found[0]
    assert "pytest" in found[1]


def test_the_configuration_in_the_readme_and_the_example_file_are_read(tmp_path: Path) -> None:
    """Both configurations pass our own check."""
    shown = next(block for block in blocks("toml") if "[scheduler]\n" in block)
    (tmp_path / "geckosched.toml").write_text(shown)
    assert load_configuration(tmp_path / "geckosched.toml").scheduler.timezone == "Europe/Berlin"
    assert "geckoterminal-trades" in load_configuration(ROOT / "geckosched.toml").collectors
    assert tomllib.loads(blocks("toml")[0])["project"]["entry-points"]["geckosched"] == {
        "weather": "geckosched_weather"
    }


@pytest.mark.parametrize("command", re.findall(r"^\| `geckosched (\w+)", README, re.M))
def test_commands_of_the_table_exist_with_their_options(command: str) -> None:
    """Every command and option that the table names is in that command's help."""
    row = next(line for line in README.split("\n") if line.startswith(f"| `geckosched {command}"))
    words = [command, "demo"] if " demo" in row else [command]
    done = subprocess.run(
        [sys.executable, "-m", "geckosched", *words, "--help"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"--[a-z-]+", row.split("|")[1]):
        assert option in done.stdout


def test_links_lead_somewhere() -> None:
    """Relative links of the README name files of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", ["core", "http", "config", "testing", "cli"])
def test_examples_in_docstrings_run(name: str) -> None:
    """Every `>>>` in a docstring shows what it says it shows."""
    assert doctest.testmod(importlib.import_module(f"geckosched.{name}")).failed == 0


def test_the_settings_are_those_of_the_scheduler_with_their_defaults() -> None:
    """The table of settings has every field of SchedulerConfig that [scheduler] takes, with its default."""
    shown: dict[str, object] = {}
    for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`[^|]+`) \|", README, re.M):
        values = [ast.literal_eval(value) for value in row[1].replace("`", "").split(", ")]
        shown |= dict(zip(re.findall(r"\w+", row[0]), values, strict=True))
    config, elsewhere = SchedulerConfig(), ("budgets", "secrets")  # tables of their own, and what stands as env:NAME
    assert shown == {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in elsewhere}


def test_what_the_readme_says_a_run_has_is_there() -> None:
    """Every attribute and method that "The rest of `run`" names exists."""
    text = README.split("**The rest of `run`**")[1].split("Take the time")[0]
    names = re.findall(r"`(\w+)(?:\([^)]*\))?`", text)
    attributes = set(dir(RunContext)) | set(inspect.signature(RunContext.__init__).parameters) | {"id", "state"}
    assert len(names) >= 14
    assert set(names) <= attributes
