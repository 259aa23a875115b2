"""Where a store lies, and who holds its lock, as Linux tells it: network file systems are refused in one line, folders
that a virtual machine shares with its host are warned of."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from geckosched import SchedulerState, StoreError, filesystem
from geckosched.core import Store
from geckosched.filesystem import doubt_about, filesystem_of, lock_holder, objection_to, parse_mounts, read_mounts
from tests.conftest import NewScheduler
from tests.shell import invoke

RECORDED = parse_mounts(r"""22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334524k,nr_inodes=3083631,mode=755
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684096k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 8:17 / /data rw,relatime shared:20 - xfs /dev/sdb1 rw
41 40 0:50 / /data/nas rw,relatime shared:21 - nfs4 nas:/export rw,vers=4.2,addr=10.0.0.2
42 41 8:17 /local /data/nas/local rw,relatime shared:20 - xfs /dev/sdb1 rw
43 27 0:51 / /mnt/my\040share\134\011new rw,relatime - cifs //server/my\040share rw,vers=3.1.1
44 27 0:52 / /net rw,relatime shared:30 - autofs /etc/auto.net rw,fd=6
45 44 0:53 / /net/home rw,relatime shared:31 - nfs home:/home rw
46 27 0:54 / /home/ann/remote rw,nosuid,nodev,relatime - fuse.sshfs ann@host: rw,user_id=1000
47 27 0:50 /stores /srv/stores rw,relatime shared:21 - nfs4 nas:/export rw,vers=4.2
48 27 0:55 / /cloud rw - fuse https://dav.example.org/files rw
49 27 0:56 / /archive rw - fuse /dev/sdc1 rw
50 27 0:57 / /old rw - nfs old:/ rw
51 50 8:33 / /old rw - ext4 /dev/sdd1 rw
52 27 0:58 / /new rw - ext4 /dev/sdd2 rw
53 52 0:59 / /new rw - smb3 //server/new rw
60 27 0:60 / /hidden/deep rw - nfs nas:/deep rw
61 27 8:49 / /hidden rw - ext4 /dev/sde1 rw
70 27 0:70 / /mnt/c rw,noatime - 9p C:\134 rw,aname=drvfs
71 27 0:71 / /shared rw - virtiofs tag rw
72 27 0:72 / /media/sf_work rw - vboxsf work rw
a line that means nothing

""")


@pytest.mark.parametrize(("path", "kind"), [
    ("/var/lib/store.db", "ext4"),
    ("/data/store.db", "xfs"),
    ("/data/nas/store.db", "nfs4"),
    ("/data/nas", "nfs4"),
    ("/data/nasty/store.db", "xfs"),  # no part of a name is a folder
    ("/data/nas/local/store.db", "xfs"),  # a local folder, bound into the network's
    ("/srv/stores/store.db", "nfs4"),  # a folder of the network's, bound elsewhere
    ("/mnt/my share\\\tnew/store.db", "cifs"),  # blanks, backslashes and tabs are octal in the list
    ("/net/store.db", "autofs"),
    ("/net/home/store.db", "nfs"),
    ("/cloud/store.db", "davfs"),
    ("/archive/store.db", "fuse"),
    ("/old/store.db", "ext4"),  # mounted over a network's
    ("/new/store.db", "smb3"),  # a network's mounted over it
    ("/hidden/deep/store.db", "ext4"),  # the mount there is below one that came later
])  # fmt: skip
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    """The way from the root leads through mounts into those that were mounted in them; the last at a place counts."""
    assert filesystem_of(Path(path), RECORDED) == kind


@pytest.mark.parametrize(("text", "kind"), [
    ("", None),
    ("1 1 0:2 / / rw - rootfs rootfs rw\n20 1 254:0 / / rw - ext4 /dev/vda rw", "ext4"),
    ("60 50 254:0 /jail/srv /srv rw - xfs /dev/vda rw", "xfs"),  # in a jail the root is no mount of its own
    ("60 50 254:0 /jail/srv /srv rw", None),
])  # fmt: skip
def test_lists_of_other_kinds(text: str, kind: str | None) -> None:
    """A root that is its own parent, a list without the root, an empty list, half a line."""
    assert filesystem_of(Path("/srv/store.db"), parse_mounts(text)) == kind


def test_this_machines_list_is_read() -> None:
    """The kernel's own list says where this test runs, and has nothing against it."""
    if not filesystem.MOUNTS.exists():
        pytest.skip("Linux only")
    assert filesystem_of(Path("/proc/self"), read_mounts()) == "proc"
    assert filesystem_of(Path("/dev/shm/store.db"), read_mounts()) in ("tmpfs", "devtmpfs", "overlay")


@pytest.mark.parametrize("kind", [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "ceph", "fuse.ceph-fuse", "glusterfs",
    "fuse.glusterfs", "lustre", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "davfs", "fuse.davfs",
])  # fmt: skip
def test_network_file_systems_are_objected_to(kind: str) -> None:
    """The line names the file, the kind, and what to do."""
    mounts = parse_mounts(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /net rw - {kind} b rw")
    said = objection_to(Path("/net/store.db"), mounts) or ""
    assert said.startswith(f"/net/store.db: lies on a network file system ({kind})")
    assert "put the store on a local disk" in said
    assert doubt_about(Path("/net/store.db"), mounts) is None
    assert objection_to(Path("/store.db"), mounts) is None


@pytest.mark.parametrize("path", ["/mnt/c/store.db", "/shared/store.db", "/media/sf_work/store.db"])
def test_folders_shared_with_a_host_are_warned_of(path: str) -> None:
    """No refusal: many work there for years; but the line says what is not safe."""
    assert objection_to(Path(path), RECORDED) is None
    said = doubt_about(Path(path), RECORDED) or ""
    assert said.startswith(f"{path}: lies in a folder that this machine shares with its host (")
    assert doubt_about(Path("/data/store.db"), RECORDED) is None


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel's list say that the temporary folder is of another kind, which a test can't bring about."""
    listed = tmp_path / "mountinfo"
    monkeypatch.setattr(filesystem, "MOUNTS", listed)
    place = str(tmp_path).replace(" ", r"\040")
    listed.write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {place}/net rw - nfs4 nas:/ rw\n"
                      f"3 1 0:3 / {place}/host rw - virtiofs tag rw\n", encoding="utf-8")
    for name in ("net", "host"):
        (tmp_path / name).mkdir()


@pytest.mark.usefixtures("mounted")
def test_a_start_on_a_network_file_system_is_refused(new_scheduler: NewScheduler, tmp_path: Path) -> None:
    """Nothing is written there, and the scheduler is as it was."""
    scheduler = new_scheduler(database=tmp_path / "net" / "store.db")
    with pytest.raises(StoreError, match=r"net/store\.db: lies on a network file system \(nfs4\)"):
        scheduler.start()
    assert scheduler.state is SchedulerState.STOPPED
    assert not (tmp_path / "net" / "store.db").exists()


@pytest.mark.usefixtures("mounted")
def test_a_link_does_not_hide_where_the_store_lies(new_scheduler: NewScheduler, tmp_path: Path) -> None:
    """It is the place of the file that counts, not that of its name."""
    (tmp_path / "link").symlink_to(tmp_path / "net")
    with pytest.raises(StoreError, match=r"net/store\.db: lies on a network file system"):
        new_scheduler(database=tmp_path / "link" / "store.db").start()


@pytest.mark.usefixtures("mounted")
def test_a_start_in_a_shared_folder_warns(
    new_scheduler: NewScheduler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once a start, and all works."""
    scheduler = new_scheduler(database=tmp_path / "host" / "store.db")
    scheduler.start()
    assert scheduler.state is SchedulerState.RUNNING
    [said] = [record for record in caplog.records if "shares with its host (virtiofs)" in record.getMessage()]
    assert said.levelno == logging.WARNING


@pytest.mark.usefixtures("mounted")
def test_check_says_where_the_store_lies(site: Path, tmp_path: Path) -> None:
    """`check` objects to the one and warns of the other, before anything is started or written."""
    refused = invoke("check", "--database", str(tmp_path / "net" / "store.db"))
    assert refused.exit_code == 1
    assert "net/store.db: lies on a network file system (nfs4)" in refused.stderr
    warned = invoke("check", "--database", str(tmp_path / "host" / "store.db"))
    assert warned.exit_code == 0
    assert "warning: " in warned.stderr
    assert "shares with its host (virtiofs)" in warned.stderr


def test_who_holds_the_lock(store_path: Path) -> None:
    """Another process that writes is named by its id and name; nobody is while nobody writes, and never oneself."""
    with closing(Store(store_path).open_writer()) as connection:
        assert lock_holder(store_path) is None
        connection.execute("BEGIN IMMEDIATE")
        assert lock_holder(store_path) is None
        connection.execute("ROLLBACK")
        code = ("import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
                "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()")  # fmt: skip
        command = [sys.executable, "-c", code, str(store_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            assert (lock_holder(store_path) or "").startswith(f"process {process.pid} (")
            process.kill()
        assert lock_holder(store_path) is None
        assert lock_holder(store_path.with_name("none.db")) is None
