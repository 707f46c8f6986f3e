"""Finds, in what strace(1) wrote of a process, the system calls that may wait without a deadline.

Law: a call is allowed by a rule that says why it cannot wait, or it is a fault; what nobody has thought of is one too.
`strace -yy` tells what each descriptor stands for, and a descriptor is known not to block by its flags at the beginning
of the trace and by the calls that have changed them since.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LINE = re.compile(r"^(\w+)\((.*)\)\s+= (.+)$")
FD = re.compile(r"^(-?\d+)(?:<(.*?)>(?:\(deleted\))?)?(?:,|$)")
O_NONBLOCK = 0o4000

NEVER = set(
    """
    alarm arch_prctl brk capget clock_gettime clock_nanosleep close dup dup2 dup3 epoll_create1 eventfd2 exit
    exit_group fstat getcwd getegid geteuid getgid getpeername getpgid getpid getppid getrandom getrlimit getsid
    getsockname getsockopt gettid gettimeofday getuid ioctl kill listen lseek madvise memfd_create mmap mprotect
    mremap munmap pipe pipe2 prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigreturn sched_getaffinity sched_yield set_robust_list setitimer setpgid setsockopt shutdown sigaltstack
    socket socketpair sysinfo timer_create timer_delete timer_settime timerfd_create times umask uname clone clone3
    """.split()
)
"""They ask the kernel for what it has in memory, or start a process without waiting for it."""
PATHS = ("/proc/", "/dev/null", "/sys/", "/etc/localtime")
"""What is in memory, and a file of the root's file system that the C library looks at for each date."""
OWN_MEMORY = ("/memfd:", "/proc/", "/dev/null", "/dev/zero", "/sys/fs/cgroup/", "/sys/devices/system/cpu/")


class Trace:
    """The calls of one process, as they come; `faults` are those that may wait. `own` are paths on a file system that
    the server's own sockets and files are on: their names are looked up and removed at the end."""

    def __init__(self, flags: dict[int, int], own: Iterable[str] = ()) -> None:
        self.faults: list[str] = []
        self.names: dict[str, int] = {}
        self._free = {fd for fd, flag in flags.items() if flag & O_NONBLOCK}
        self._ready: set[int] = set()
        self._own = tuple(own)

    def take(self, line: str) -> None:
        """One line of strace's output."""
        match = LINE.match(line)
        if match is None:
            return  # a signal, or the end
        name, arguments, result = match.groups()
        self.names[name] = self.names.get(name, 0) + 1
        rule = RULES.get(name)
        allowed = name in NEVER if rule is None else rule(self, arguments, result)
        if name in ("clone", "clone3", "vfork", "fork") and "CLONE_VFORK" in arguments:
            allowed = False  # it waits for exec(2)
        if not allowed:
            self.faults.append(line[:300])
        self._note(name, arguments, result)

    def _note(self, name: str, arguments: str, result: str) -> None:
        fd = number(arguments)
        if name == "close":
            self._free.discard(fd)
            self._ready.discard(fd)
        elif (name == "ioctl" and "FIONBIO, [1]" in arguments) or (
            name == "fcntl" and "F_SETFL" in arguments and "O_NONBLOCK" in arguments
        ):
            self._free.add(fd)
        elif (name == "ioctl" and "FIONBIO, [0]" in arguments) or (name == "fcntl" and "F_SETFL" in arguments):
            self._free.discard(fd)
        elif "NONBLOCK" in arguments and name in ("openat", "socket", "socketpair", "pipe2", "accept4", "eventfd2"):
            made = result if name in ("openat", "socket", "accept4", "eventfd2") else arguments
            self._free |= {int(each) for each in re.findall(r"(?:^|\[|, )(\d+)<", made)}
        elif name == "poll":
            self._ready = {int(each) for each in re.findall(r"\{fd=(\d+)[^}]*revents=", result)}
        elif name == "fcntl" and "F_DUPFD" in arguments and fd in self._free:
            self._free.add(number(result))

    # The rules: each says whether a call cannot wait.

    def by_path(self, arguments: str, result: str) -> bool:
        """It looks up a name, on a file system that cannot hang: or of a descriptor alone."""
        if '"", ' in arguments and "AT_EMPTY_PATH" in arguments:
            return True
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)
        folder = FD.match(arguments)
        inside = folder[2] or "" if folder else ""
        whole = [each if each.startswith("/") or folder is None else f"{inside}/{each}" for each in paths]
        return bool(whole) and all(
            each.startswith(PATHS) or any(within(each, own) for own in self._own) for each in whole
        )

    def by_descriptor(self, arguments: str, result: str) -> bool:
        """The descriptor does not block, is ready, or stands for memory."""
        fd = number(arguments)
        what = (FD.match(arguments) or ["", "", ""])[2] or ""
        if fd in self._ready and "write" not in arguments[:5]:
            self._ready.discard(fd)  # once: how much there is nobody has said
            return True
        return fd in self._free or "MSG_DONTWAIT" in arguments or what.startswith(OWN_MEMORY)

    def with_timeout(self, arguments: str, result: str) -> bool:
        return not arguments.rstrip().endswith((", -1", ", NULL"))

    def without_a_wait(self, arguments: str, result: str) -> bool:
        return "WNOHANG" in arguments or "LOCK_NB" in arguments or "LOCK_UN" in arguments or "FUTEX_WAKE" in arguments

    def of_locks(self, arguments: str, result: str) -> bool:
        return "SETLKW" not in arguments or "F_UNLCK" in arguments


RULES: dict[str, Callable[[Trace, str, str], bool]] = {
    **dict.fromkeys(
        """
        open openat openat2 stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat unlink unlinkat
        rename renameat2 mkdir mkdirat chdir fchdir chmod chown fchownat statfs inotify_add_watch execve
        """.split(),
        Trace.by_path,
    ),
    **dict.fromkeys(
        """
        read readv pread64 write writev pwrite64 recvfrom recvmsg sendto sendmsg accept accept4 connect ftruncate
        sendfile splice fsync fdatasync fchmod fchown getdents64
        """.split(),
        Trace.by_descriptor,
    ),
    **dict.fromkeys("poll ppoll epoll_wait epoll_pwait select pselect6".split(), Trace.with_timeout),
    **dict.fromkeys("wait4 waitid flock futex".split(), Trace.without_a_wait),
    "fcntl": Trace.of_locks,
}


def number(text: str) -> int:
    """The descriptor that an argument or a result begins with; -1 if there is none."""
    match = re.match(r"-?\d+", text)
    return int(match[0]) if match else -1


def within(path: str, folder: str) -> bool:
    """Whether a path is a folder, in it, or on the way to it."""
    path = re.sub("/+", "/", path)
    return path.startswith(folder) or f"{folder}/".startswith(path.rstrip("/") + "/")


@contextmanager
def traced(pid: int, file: Path, own: Iterable[str] = ()) -> Iterator[Trace]:
    """The calls of a process alone, not of its children, from here to its end; they are in the trace afterwards."""
    command = ["strace", "-p", str(pid), "-o", str(file), "-yy", "-s", "80"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        assert b"attached" in said, said
        trace = Trace(flags_of(pid), own)
        yield trace
        tracer.wait(30)
        for line in file.read_text(errors="replace").splitlines():
            trace.take(line)
    finally:
        tracer.kill()
        tracer.wait()
        tracer.stderr.close()


def flags_of(pid: int) -> dict[int, int]:
    """The flags of each open descriptor (proc(5), fdinfo)."""
    found = {}
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = each.read_text()
        except FileNotFoundError:
            continue
        found[int(each.name)] = int(re.findall(r"flags:\s+(\d+)", text)[0], 8)
    return found


def able(pid: int) -> bool:
    """Whether strace is there and may look at a process."""
    try:
        probe = subprocess.Popen(
            ["strace", "-p", str(pid), "-o", "/dev/null"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return False
    assert probe.stderr is not None
    said = probe.stderr.readline()
    probe.terminate()
    probe.wait()
    probe.stderr.close()
    time.sleep(0)
    return b"attached" in said
