"""What the system tells of another process: command line, user, parent, start, and the unit or container it is in.

Law: nothing is guessed, and what the system keeps to itself is left out. On Linux /proc is read (proc(5)), which is
open to every user as a rule; elsewhere psutil asks. A command line is another user's text: it is escaped and capped
here.
"""

from __future__ import annotations

import os
import pwd
import re
from typing import NamedTuple

from pronghorn.errors import printable

LONGEST_COMMAND = 100  # characters
MOST_READ = 4096
MOST_FOLDERS = 20_000  # of control groups that are looked through for one
ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
CONTAINER = re.compile(r"(?:(docker|libpod|crio|cri-containerd|nerdctl)[-/])?([0-9a-f]{64})(?:\.scope)?")
TOOLS = {"docker": "docker", "libpod": "podman", "nerdctl": "nerdctl"}


class Group(NamedTuple):
    """Where a control group's path says that its processes are (cgroups(7)): in a unit of systemd, which may be one of
    a user's own manager, or in a container, whose `tool` is the command that stops it; empty where they are not."""

    unit: str = ""
    of_user: bool = False
    container: str = ""
    tool: str = ""

    @property
    def words(self) -> str:
        """`nginx.service`, `container 0123456789ab`, or nothing."""
        return f"container {self.container}" if self.container else self.unit


class ProcessFacts(NamedTuple):
    """A process, as far as this user may know it. `command` is printable and short; `started` counts seconds since
    1970; `group_leader` is the process id of the first process of its group."""

    pid: int
    command: str = ""
    uid: int | None = None
    parent: int | None = None
    group_leader: int | None = None
    started: float | None = None
    group: Group = Group()
    suspended: bool = False
    """Whether a signal has stopped it, as Ctrl-Z does in a shell: it goes on with SIGCONT."""


def process_facts(pid: int) -> ProcessFacts:
    """What is known of that process; nothing but its number once it is gone."""
    try:
        if not os.path.exists("/proc/self/stat"):
            return _by_psutil(pid)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(MOST_READ)
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
        with open(f"/proc/{pid}/status", "rb") as file:
            uids = next((line.split() for line in file if line.startswith(b"Uid:")), [])
        fields = rest.split()
        words = os.fsdecode(command.rstrip(b"\0").replace(b"\0", b" ") or name).strip()
        started = _booted() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        uid = int(uids[2]) if len(uids) > 2 else None
        group = group_of_path(_path_of(pid), ours=_path_of(None))
        suspended = fields[0] == b"T"
        return ProcessFacts(pid, short(words), uid, int(fields[1]), int(fields[2]), started, group, suspended)
    except (OSError, ValueError, IndexError):
        return ProcessFacts(pid)


def short(command: str) -> str:
    """A command line, or part of one, for a terminal or a log."""
    if len(command) > LONGEST_COMMAND:
        command = f"{command[:LONGEST_COMMAND].rstrip()}…"
    return printable(command, 8 * LONGEST_COMMAND, kept="")


def user_name(uid: int) -> str:
    """`root`, or the number where it has no name."""
    try:
        return printable(pwd.getpwuid(uid).pw_name, 32, kept="")
    except (KeyError, OverflowError):
        return str(uid)


def group_of_path(path: str, ours: str = "") -> Group:
    """What the path of a control group says; a container that this process is in as well is left out, and so is the
    user's manager itself."""
    found = [each for each in CONTAINER.finditer(path) if each[0] not in ours]
    if found:
        tool = "crictl" if "kubepods" in path else TOOLS.get(found[-1][1] or "", "")
        return Group(container=found[-1][2][:12], tool=tool)
    units = [each for each in path.split("/") if each.endswith(".service")]
    managers = [each for each in units if each.startswith("user@")]
    own = [each for each in units if each not in managers]
    return Group(printable(own[-1], 256, kept=""), bool(managers)) if own else Group()


def group_of_id(number: int) -> Group:
    """The control group whose folder has that inode: as the kernel names the one that a socket was made in. Every user
    may look for it, in control groups of version 2."""
    left = MOST_FOLDERS
    for root in ROOTS if number > 1 else ():  # 1 is the root of all groups
        waiting = [root]
        while waiting and left > 0:
            left -= 1
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    below = [each for each in entries if each.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            for each in below:
                if each.inode() == number:
                    return group_of_path(each.path.removeprefix(root), ours=_path_of(None))
            waiting += [each.path for each in below]
    return Group()


def _path_of(pid: int | None) -> str:
    """The paths of a process's control groups; of this process's without an argument."""
    try:
        with open(f"/proc/{'self' if pid is None else pid}/cgroup", "rb") as file:
            return os.fsdecode(b" ".join(line.rstrip(b"\n").split(b":", 2)[2] for line in file))
    except (OSError, IndexError):
        return ""


def _booted() -> float:
    with open("/proc/stat", "rb") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(b"btime"))


def _by_psutil(pid: int) -> ProcessFacts:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = " ".join(process.cmdline()).strip() or process.name()
            return ProcessFacts(
                pid,
                short(words),
                process.uids().effective,
                process.ppid(),
                os.getpgid(pid),
                process.create_time(),
                suspended=process.status() == psutil.STATUS_STOPPED,
            )
    except (psutil.Error, OSError):
        return ProcessFacts(pid)
