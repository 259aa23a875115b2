"""docs/container/Dockerfile, as far as a machine without a Docker daemon can try it.

Its instructions are read, and those that build and run the image are done by hand in a folder of the test: pip installs
what COPY would bring, without what is installed here already; then the container's process and its health check run as
Docker would run them, configured by the environment alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from geckosched import SchedulerConfig, parse_duration
from geckosched.core import SECOND
from tests.shell import Ended, finish, wait_until

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docs" / "container" / "Dockerfile"
LITTER = shutil.ignore_patterns("__pycache__", ".venv", "build", "tests", "*.db*")


class Instruction(NamedTuple):
    word: str
    rest: str


def read_stages(text: str) -> list[list[Instruction]]:
    """Return the instructions of each stage, the way Docker reads them: comments are dropped, then lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                stages.append([])
            stages[-1].append(Instruction(word, rest.strip()))
    return stages


BUILD, IMAGE = read_stages(DOCKERFILE.read_text(encoding="utf-8"))


def all_of(stage: list[Instruction], word: str) -> list[str]:
    return [each.rest for each in stage if each.word == word]


def one_of(stage: list[Instruction], word: str) -> str:
    [rest] = all_of(stage, word)
    return rest


def environment_of(stage: list[Instruction]) -> dict[str, str]:
    words = [word for rest in all_of(stage, "ENV") for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_runs_as_a_user_of_its_own_and_keeps_the_store_on_a_volume() -> None:
    """The process is no root, its user owns the volume, and the store lies there unless somebody says otherwise."""
    user, volume = one_of(IMAGE, "USER"), one_of(IMAGE, "VOLUME")
    made = " ".join(all_of(IMAGE, "RUN"))
    assert user not in ("root", "0")
    assert re.search(rf"\buseradd\b.* {user}\b", made)
    assert re.search(rf"\binstall -d -o {user} -g {user} -m \d+ {volume}\b", made)
    assert Path(environment_of(IMAGE)["GECKOSCHED_SCHEDULER__DATABASE"]).parent == Path(volume)
    words = [each.word for each in IMAGE]
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_signals_reach_the_scheduler() -> None:
    """Exec form, so that no shell stands between Docker and process 1; SIGTERM, which waits for the runs; and the line
    that starts the container gives it more time than that takes."""
    command = json.loads(one_of(IMAGE, "ENTRYPOINT")) + json.loads(one_of(IMAGE, "CMD"))
    assert command == ["geckosched", "run"]
    assert one_of(IMAGE, "STOPSIGNAL") == "SIGTERM"
    [given] = re.findall(r"--stop-timeout (\d+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert int(given) > parse_duration(SchedulerConfig().shutdown_timeout) / SECOND + 1


def test_its_sources_are_there() -> None:
    """What it copies lies in the checkout, and what pip needs of it is among that."""
    copied = [word.removeprefix("./") for rest in all_of(BUILD, "COPY") for word in rest.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"pyproject.toml", "README.md", "LICENSE", "geckosched"} <= set(copied)
    plugins = shlex.split(one_of(BUILD, "ARG").partition("=")[2])
    assert all((ROOT / plugin / "pyproject.toml").exists() for plugin in " ".join(plugins).split())


def test_every_command_is_one_that_a_shell_understands() -> None:
    """Those that would change this machine are at least read by the shell."""
    for command in all_of(BUILD, "RUN") + all_of(IMAGE, "RUN"):
        subprocess.run(["/bin/sh", "-n", "-c", command], check=True)


# -- by hand -----------------------------------------------------------------------------------------------------------


class Container:
    """The image and one container of it, in a folder: /opt, /data and /etc lie there."""

    def __init__(self, folder: Path, installed: list[Path]) -> None:
        self._folder = folder
        self.workdir = Path(self.inside(one_of(IMAGE, "WORKDIR")))
        for each in (self.workdir, Path(self.inside(one_of(IMAGE, "VOLUME")))):
            each.mkdir(parents=True)
        self._build()
        [packages] = self._folder.glob("opt/geckosched/lib/python*/site-packages")
        (packages / "installed.pth").write_text("\n".join(map(str, installed)))

    def inside(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|data|etc/geckosched|src)\b", rf"{self._folder}/\1", text)

    def _build(self) -> None:
        source = Path(self.inside(one_of(BUILD, "WORKDIR")))
        source.mkdir()
        for rest in all_of(BUILD, "COPY"):
            *names, target = rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / target, ignore=LITTER)
                else:
                    shutil.copy(ROOT / name, source / target)
        arguments = dict(word.split("=", 1) for word in shlex.split(one_of(BUILD, "ARG")))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        given = {**os.environ, **arguments, "PATH": path}
        given.pop("PYTHONPATH", None)
        for command in all_of(BUILD, "RUN"):
            command = self.inside(command).replace("pip install", "pip install --quiet --no-deps")
            subprocess.run(["/bin/sh", "-c", command], cwd=source, env=given, check=True, timeout=300)

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a process in the container: in its folder, with its environment and no other, without a terminal."""
        own = {name: self.inside(value) for name, value in environment_of(IMAGE).items()}
        own["PATH"] = own["PATH"].replace("$PATH", os.environ["PATH"])
        return subprocess.Popen(
            command, cwd=self.workdir, env={**own, **environment}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            executable=shutil.which(command[0], path=own["PATH"]),
        )  # fmt: skip

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        command = json.loads(one_of(IMAGE, "ENTRYPOINT")) + json.loads(one_of(IMAGE, "CMD"))
        process = self.start(command, **environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def check(self, **environment: str) -> Ended:
        """Do the health check, as Docker does with one that is no JSON list."""
        return finish(self.start(["/bin/sh", "-c", one_of(IMAGE, "HEALTHCHECK").split(" CMD ")[1]], **environment))


def test_a_container_by_hand(site: Path, tmp_path: Path) -> None:
    """The image builds; its process runs with no file of configuration; its health check objects in one line to a
    wrong configuration, while a job is unhealthy, and after the stop, and to nothing else, by the exit code that Docker
    has for that; SIGTERM ends it with 0."""
    container = Container(tmp_path / "root", [site, Path(sysconfig.get_path("purelib"))])
    given = {
        "GECKOSCHED_LOAD_PLUGINS": "fake",
        "GECKOSCHED_COLLECTORS__BROKEN__MAX_CONSECUTIVE_ERRORS": "1",
        "GECKOSCHED_COLLECTORS__WEATHER__CITIES": '["Oslo", "Rome"]',
    }

    def objection(**more: str) -> str:
        checked = container.check(**given, **more)
        assert (checked.code, checked.out) == (1 if checked.err else 0, "")
        return checked.err

    wrong = objection(GECKOSCHED_SCHEDULER__MAX_WORKERS="ten")
    assert wrong.startswith("geckosched: GECKOSCHED_SCHEDULER__MAX_WORKERS: ")
    with container.running(**given) as process:
        sick = wait_until(lambda: process.poll() is None and "broken" in (said := objection()) and said)
        assert re.fullmatch(r"geckosched: unhealthy: broken \(breaker open until .* UTC\)\n", sick)
        assert finish(container.start(["geckosched", "disable", "broken"], **given)).code == 0
        assert objection() == ""
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    assert ended.code == 0, ended.err
    assert objection() == "geckosched: nobody leads\n"
    stores = [path.relative_to(tmp_path / "root") for path in (tmp_path / "root").rglob("*.db")]
    assert stores == [Path("data/geckosched.db")], "on the volume"
