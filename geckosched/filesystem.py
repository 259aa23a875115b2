"""What the operating system says of the store's file: the file system it lies on, and who holds its lock.

SQLite's WAL is memory that all who open the file share, and the lead is a lock on a file beside it: neither reaches
from one machine to another. A store on a network file system is therefore refused, one in a folder that a virtual
machine shares with its host is warned of. Both are told from Linux's /proc; elsewhere nothing is said.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
_SHARED_BY_MACHINES = frozenset((
    "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.blobfuse", "fuse.blobfuse2", "fuse.ceph", "fuse.ceph-fuse",
    "fuse.curlftpfs", "fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.lizardfs",
    "fuse.moosefs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
))  # fmt: skip
_SHARED_WITH_A_HOST = frozenset((
    "9p", "drvfs", "fakeowner", "fuse.grpcfuse", "fuse.osxfs", "fuse.vmhgfs-fuse", "prl_fs", "vboxsf", "virtiofs",
    "vmhgfs",
))  # fmt: skip
_WAL_WRITE_LOCK = 120  # the byte of the -shm file that a writer locks


class Mount(NamedTuple):
    """A line of the kernel's list."""

    number: str
    parent: str
    place: Path
    kind: str


def read_mounts() -> list[Mount]:
    """Return this process's mounts as the kernel lists them; none where there is no such list."""
    return parse_mounts(_read(MOUNTS))


def parse_mounts(text: str) -> list[Mount]:
    """Read the text of a mountinfo; lines that are none are passed over."""
    mounts = []
    for line in text.splitlines():
        mounted, _, described = line.partition(" - ")
        match mounted.split(" "), described.split(" "):
            case [number, parent, _, _, place, *_], [kind, source, *_]:
                path = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))
                if kind == "fuse" and source.startswith(("http://", "https://")):  # as davfs2 mounts
                    kind = "davfs"
                mounts.append(Mount(number, parent, path, kind))
    return mounts


def filesystem_of(path: Path, mounts: Sequence[Mount]) -> str | None:
    """Return the type of the file system that holds an absolute path without links; None if the list doesn't say.

    The way leads as the kernel goes it, from the root through each mount into those that were mounted in it: what lies
    below a place that was mounted over later is hidden.
    """
    numbers = {mount.number for mount in mounts}
    found: Mount | None = None
    for place in (*reversed(path.parents), path):
        here = [mount for mount in mounts if mount.place == place]
        while here:
            inner = [mount for mount in here
                     if mount.parent == (found.number if found else mount.number) or mount.parent not in numbers]
            if not inner:
                break
            found = inner[-1]
            here.remove(found)
    return found.kind if found else None


def objection_to(path: Path, mounts: Sequence[Mount]) -> str | None:
    """Return why a store may not lie there; None if nothing is known against it."""
    kind = filesystem_of(path, mounts)
    if kind not in _SHARED_BY_MACHINES:
        return None
    return (f"{path}: lies on a network file system ({kind}), where SQLite's locks and shared memory don't hold; "
            "put the store on a local disk")


def doubt_about(path: Path, mounts: Sequence[Mount]) -> str | None:
    """Return why a store should not lie there; None if nothing is known against it."""
    kind = filesystem_of(path, mounts)
    if kind not in _SHARED_WITH_A_HOST:
        return None
    return (f"{path}: lies in a folder that this machine shares with its host ({kind}): SQLite's locks may not hold "
            "there, and a program at the other side must not open it; a volume or disk of this machine is safe")


def lock_holder(path: Path) -> str | None:
    """Name the other process that holds the store's write lock; None if that can't be told."""
    for pid in _writers(path, _read(Path("/proc/locks"))):
        name = _read(Path(f"/proc/{pid}/comm")).strip()
        if name and pid != os.getpid():
            return f"process {pid} ({name})"
    return None


def _writers(path: Path, locks: str) -> list[int]:
    """Return who holds the write lock, from a text like `1: POSIX ADVISORY WRITE 4711 fe:00:131 120 120`."""
    try:
        shared = path.with_name(path.name + "-shm").stat()
    except OSError:
        return []
    place = f"{os.major(shared.st_dev):02x}:{os.minor(shared.st_dev):02x}:{shared.st_ino}"
    writers = []
    for line in locks.splitlines():
        match line.split():
            case [_, _, _, "WRITE", pid, where, first, last] if where == place and pid.isdigit() and last.isdigit():
                writers += [int(pid)] if int(first) <= _WAL_WRITE_LOCK <= int(last) else []
    return writers


def _read(path: Path) -> str:
    text = ""
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return text
