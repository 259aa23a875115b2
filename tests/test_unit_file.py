"""docs/service/geckosched.service: systemd takes every line of it, and its commands do what it relies on.

The tests do systemd's part: they start what ExecStart says in the environment that the unit describes, with the paths
of a test's folder, hear it, and end it as a watchdog does.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from geckosched import Outcome, SchedulerConfig, parse_duration
from geckosched.core import SECOND
from tests.shell import finish, geckosched, runs_of_store, wait_until
from tests.test_service import SystemD, systemd

__all__ = ["systemd"]  # a fixture

UNIT = Path(__file__).parents[1] / "docs" / "service" / "geckosched.service"
SCRIPTS = sysconfig.get_path("scripts")
ANALYZE = shutil.which("systemd-analyze")

installed = pytest.mark.skipif(
    not Path(SCRIPTS, "geckosched").exists(), reason="no command geckosched beside this Python: it is not installed"
)
analyzed = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")

STUCK = '''
import ctypes
from pathlib import Path
from geckosched import collector, hookimpl

@collector("stuck", every="1d", enabled=False)
def hold_the_interpreter(run):
    """Never return to the interpreter and let nobody else have it, as a library in C may."""
    Path("held").touch()
    ctypes.PyDLL(None).pause()

@hookimpl
def register_collectors(register, settings):
    register(hold_the_interpreter)
'''


class Unit:
    """The unit file, moved into a folder: what lies in /etc and /var/lib is there, the commands are this Python's."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.lib = folder / "etc", folder / "lib"
        moved = {"/opt/geckosched/bin": SCRIPTS, "/etc/geckosched": self.etc, "/var/lib/geckosched": self.lib}
        self.text = UNIT.read_text(encoding="utf-8")
        for old, new in moved.items():
            assert old in self.text
            self.text = self.text.replace(old, str(new))
        for each in (self.etc, self.lib):
            each.mkdir()
        self.configure("")

    def configure(self, more: str) -> None:
        """Write the configuration, as the unit's head says it must be, with more lines."""
        says = next(line for line in self.text.splitlines() if "it says database =" in line)
        self.etc.joinpath("geckosched.toml").write_text(f"[scheduler]\n{says.split('it says ')[1]}\n{more}")

    def values(self, key: str) -> list[str]:
        return [line.split("=", 1)[1] for line in self.text.splitlines() if line.startswith(f"{key}=")]

    def value(self, key: str) -> str:
        [value] = self.values(key)
        return value

    def seconds(self, key: str) -> float:
        """Return a time of systemd's, in the words that geckosched's durations use as well."""
        return parse_duration(self.value(key).replace("min", "m")) / SECOND

    def begin(self, key: str, **environment: str) -> subprocess.Popen[str]:
        """Begin the command of ExecStart or ExecReload, where and with what the unit says; plugins that are installed
        here stay out of it."""
        own = dict(each.split("=", 1) for each in self.values("Environment"))
        ours = {"PATH": os.environ["PATH"], "GECKOSCHED_LOAD_PLUGINS": "stuck"}
        return subprocess.Popen(
            shlex.split(self.value(key)), cwd=self.value("WorkingDirectory"), env=ours | own | environment,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @contextmanager
    def started(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Run ExecStart."""
        process = self.begin("ExecStart", **environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


@analyzed
@installed
def test_systemd_takes_every_line(unit: Unit, tmp_path: Path) -> None:
    """No line is unknown, misspelt or of a later systemd than this one, also with the secret that is commented out;
    and systemd finds that the service has hardly more rights than it needs."""
    assert ANALYZE is not None
    path = tmp_path / UNIT.name
    path.write_text(unit.text.replace("#LoadCredential=", "LoadCredential="))
    assert len(unit.values("#LoadCredential")) == 1
    verified = subprocess.run([ANALYZE, "verify", "--man=no", path], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    judged = subprocess.run([ANALYZE, "security", "--offline=true", "--threshold=20", "--no-pager", path],
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-300:]


@installed
def test_a_scheduler_that_hangs_is_ended_says_where_and_is_started_anew(
    unit: Unit, systemd: SystemD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that keeps the interpreter to itself stops the ticker: no WATCHDOG=1 comes any more. What SIGABRT then
    leaves in the journal names the line. The next start leads at once, and the run that hung is interrupted."""
    (unit.etc / "stuck.py").write_text(STUCK)
    unit.configure('[plugins]\nload = ["./stuck.py"]')
    monkeypatch.chdir(unit.lib)
    monkeypatch.setenv("GECKOSCHED_CONFIG", str(unit.etc / "geckosched.toml"))
    assert (unit.value("Type"), unit.value("NotifyAccess")) == ("notify", "main")
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    with unit.started(**environment) as process:
        systemd.until("READY=1")
        systemd.until("WATCHDOG=1")
        systemd.until("WATCHDOG=1")
        assert geckosched("trigger", "stuck", "--no-wait").code == 0
        wait_until(lambda: (unit.lib / "held").exists())
        assert any(not systemd.hear(1.0) for _ in range(20)), "it is fed all the same"
        assert systemd.hear(1.0) == []
        process.send_signal(signal.SIGABRT)
        ended = finish(process)
        assert ended.code == -signal.SIGABRT
        line = 1 + STUCK.splitlines().index("    ctypes.PyDLL(None).pause()")
        assert f'stuck.py", line {line} in hold_the_interpreter' in ended.err
    with unit.started(**environment) as process:
        systemd.heard.clear()
        systemd.until("READY=1")
        wait_until(lambda: [run.outcome for run in runs_of_store("stuck")] == [Outcome.INTERRUPTED])
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 0
        systemd.until("STOPPING=1")


@installed
def test_a_reload_is_told_and_answered(unit: Unit, systemd: SystemD) -> None:
    """ExecReload ends with 0 once the new configuration holds, and fails with the line of one that is wrong. By SIGHUP
    as well systemd hears RELOADING=1 with the moment, as Type=notify-reload wants it, and READY=1 afterwards."""

    def hear_a_reload() -> None:
        systemd.until("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in systemd.heard)
        systemd.until("READY=1")
        systemd.heard.clear()

    with unit.started(NOTIFY_SOCKET=systemd.address) as process:
        systemd.until("READY=1")
        unit.configure("max_workers = 3")
        done = finish(unit.begin("ExecReload"))
        hear_a_reload()
        unit.configure("max_wrokers = 3")
        refused = finish(unit.begin("ExecReload"))
        hear_a_reload()
        unit.configure("")
        process.send_signal(signal.SIGHUP)
        hear_a_reload()
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 0
    assert (done.code, refused.code > 0) == (0, True), done.err
    assert 'unknown key, did you mean "max_workers"?' in refused.err


@installed
def test_a_wrong_configuration_is_not_tried_again(unit: Unit) -> None:
    """It ends with the exit code that RestartPreventExitStatus names, and says the line; an error of the store with
    another, since that may go away."""
    unit.configure("max_wrokers = 3")
    with unit.started() as process:
        wrong = finish(process)
    unit.configure("")
    (unit.lib / "geckosched.db").mkdir()
    with unit.started() as process:
        broken = finish(process)
    assert wrong.code == int(unit.value("RestartPreventExitStatus")) != broken.code != 0
    assert 'unknown key, did you mean "max_workers"?' in wrong.err
    assert unit.value("Restart") == "on-failure"


def test_times_of_the_unit_fit_the_scheduler(unit: Unit) -> None:
    """A stop may take `shutdown_timeout` and a second; the watchdog waits longer than what a turn may take, and the
    start longer than what a foreign lock may hold it up."""
    stop = parse_duration(SchedulerConfig().shutdown_timeout) / SECOND
    assert stop + 1 < unit.seconds("TimeoutStopSec") < unit.seconds("WatchdogSec")
    assert unit.seconds("TimeoutStartSec") > 90, "what systemd waits for by itself"
