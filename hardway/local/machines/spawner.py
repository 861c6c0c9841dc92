"""Starts the processes of the local cloud's instances: a small process of its own, standard library only, one file.

The daemon is big and threaded, so it doesn't fork: it sends a request with file descriptors over a socket, and this
process forks, enters the instance's namespaces and executes. It owns all that it started: when the daemon is gone,
however it died, everything here is killed. `sandbox` and `machine` decide on all else.

A request is one message on a SOCK_SEQPACKET socket with descriptors attached: the request as JSON in a memory file, the
status socket, and, unless a terminal is asked for, stdin, stdout and stderr. The status socket answers in lines:
`{"pid": N}`, with the terminal's master attached where one was asked for, then `{"status": N}` as
`os.waitstatus_to_exitcode` has it; or `{"error": "..."}` and nothing more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypedDict

MARK = "HARDWAY_LOCAL"
"""Environment variable in every process of an instance; its value is the instance's directory."""

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000)  # fmt: skip
NS_GET_USERNS = 0xB701
PR_SET_CHILD_SUBREAPER = 36
# the mount calls below have these numbers on every architecture
SYS_OPEN_TREE, SYS_MOVE_MOUNT = 428, 429
OPEN_TREE_CLONE, AT_RECURSIVE, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 1, 0x8000, -100, 4
AT_EMPTY_PATH = 0x1000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
KILL = {"x86_64": (0xC000003E, 62), "aarch64": (0xC00000B7, 129), "riscv64": (0xC00000F3, 129)}
"""The number of an architecture in the kernel's audit, and the number of kill(2) there."""

TERMINAL_MODES: dict[int, tuple[str, str]] = {
    number: (kind, name)
    for kind, first, names in (
        ("cc", 1, "VINTR VQUIT VERASE VKILL VEOF VEOL VEOL2 VSTART VSTOP VSUSP - VREPRINT VWERASE VLNEXT"),
        ("cc", 18, "VDISCARD"),
        ("iflag", 30, "IGNPAR PARMRK INPCK ISTRIP INLCR IGNCR ICRNL IUCLC IXON IXANY IXOFF IMAXBEL IUTF8"),
        ("lflag", 50, "ISIG ICANON XCASE ECHO ECHOE ECHOK ECHONL NOFLSH TOSTOP IEXTEN ECHOCTL ECHOKE PENDIN"),
        ("oflag", 70, "OPOST OLCUC ONLCR OCRNL ONOCR ONLRET"),
        ("cflag", 90, "CS7 CS8 PARENB PARODD"),
    )
    for number, name in enumerate(names.split(), first)
}
"""The numbers of encoded terminal modes: RFC 4254, section 8."""

EXECUTE_SECONDS = 1.0
"""How long to wait for one process to become its program: others wait meanwhile, and a stopped one never does."""
CHANGED_SIGNALS = (
    signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class Terminal(TypedDict):
    """`size` is rows, columns, width and height in pixels; `modes` are RFC 4254's numbers with their values."""

    size: list[int]
    modes: list[tuple[int, int]]


class Bind(TypedDict):
    """A directory of the host to show at a path in the instance, read and write, if it is still the same one."""

    source: str
    target: str
    device: int
    inode: int


class ProcessRequest(TypedDict):
    """A process to start. Texts may hold surrogate escapes for bytes that aren't UTF-8.

    argv: the first element is the path to execute, `name` what the process is called.
    cwd: the first of these that can be entered is where it starts.
    holder: a process whose namespaces to enter, 0 for none.
    root: become uid 0 of the instance, as far as its namespaces go.
    binds: directories of the host to show there.
    spare: refuse it kill(-1): without a namespace of its own it would kill everything of this user.
    terminal: None for the three descriptors sent along.
    """

    argv: list[str]
    name: str
    env: dict[str, str]
    cwd: list[str]
    holder: int
    root: bool
    binds: list[Bind]
    spare: bool
    terminal: Terminal | None


def send(control: socket.socket, request: ProcessRequest, descriptors: list[int]) -> None:
    """Send a request; `descriptors` are the status socket and, without a terminal, stdin, stdout and stderr."""
    body = os.memfd_create("request")
    try:
        os.write(body, json.dumps(request).encode())
        socket.send_fds(control, [b"S"], [body, *descriptors])
    finally:
        os.close(body)


def marked(prefix: str) -> list[int]:
    """Return the processes whose mark is `prefix` or below it, and their descendants, as far as /proc shows them."""
    wanted = f"{MARK}={prefix}".encode()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for pid in _processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().split(b"\0")
            if any(entry == wanted or entry.startswith(wanted + b"/") for entry in entries):
                found.add(pid)
        except OSError:
            pass
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state == b"Z":
                found.discard(pid)
            children.setdefault(int(parent), []).append(pid)
    todo = list(found)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    found.discard(os.getpid())
    return sorted(found)


def kill_marked(prefix: str, seconds: float = 5.0) -> list[int]:
    """Kill what `marked` finds until it finds nothing; returns what is left after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := marked(prefix):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)  # a killed process takes a moment to go, and only its parent is told
    return left


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


class _Namespaces:
    """The namespaces of a process, opened; the owner is the user namespace that may change the mounts."""

    def __init__(self, pid: int) -> None:
        self.files = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in
                      ("user", "mnt", "uts", "ipc", "pid")}  # fmt: skip
        self.owner = fcntl.ioctl(self.files["mnt"], NS_GET_USERNS)

    def enter_owner(self) -> None:
        if not os.path.sameopenfile(self.owner, os.open("/proc/self/ns/user", os.O_RDONLY)):
            _check(_libc.setns(self.owner, CLONE_NEWUSER), "enter user namespace")

    def enter(self) -> None:
        for kind, flag in (("uts", CLONE_NEWUTS), ("ipc", CLONE_NEWIPC), ("pid", CLONE_NEWPID), ("mnt", CLONE_NEWNS)):
            _check(_libc.setns(self.files[kind], flag), f"enter {kind} namespace")

    def become_user(self) -> None:
        if not os.path.sameopenfile(self.owner, self.files["user"]):
            _check(_libc.setns(self.files["user"], CLONE_NEWUSER), "enter user namespace")


def _clone_trees(binds: Iterable[Bind]) -> list[tuple[int, str]]:
    """Take a copy of each host directory's mount that outlives leaving the host's mount namespace."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare mounts")
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH | os.O_CLOEXEC
    trees = []
    for bind in binds:
        found = os.open(bind["source"], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(found)
        if (status.st_dev, status.st_ino) != (bind["device"], bind["inode"]):
            raise OSError(f"{bind['source']} has been exchanged")
        tree = _libc.syscall(SYS_OPEN_TREE, found, b"", flags)
        trees.append((_check(tree, f"open {bind['source']}"), bind["target"]))
    return trees


def _attach_trees(trees: Iterable[tuple[int, str]]) -> None:
    for tree, target in trees:
        os.makedirs(target, mode=0o700, exist_ok=True)
        there, wanted = os.stat(target), os.fstat(tree)
        writable = not os.statvfs(target).f_flag & os.ST_RDONLY
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) and writable:
            continue
        _check(
            _libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
            f"attach {target}",
        )


def _map_root() -> None:
    """Become uid 0 of a user namespace of one's own: what `unshare --map-root-user` does."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER), "unshare users")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _spare_others() -> None:
    """Have kill(-1) refused, to this process and its children: seccomp's way, see its page of the kernel's manual."""
    arch, number = KILL.get(os.uname().machine, (0, 0))
    if not arch:
        return
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 4, arch),
        (load, 0, 0, 0),  # the number of the call
        (equal, 0, 2, number),
        (load, 0, 0, 16),  # the lower half of its first argument
        (equal, 1, 0, 0xFFFFFFFF),
        (answer, 0, 0, SECCOMP_RET_ALLOW),
        (answer, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up privileges")
    # where the kernel has no filters, it has none
    _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program), 0, 0)


def _open_terminal(terminal: Terminal, status: socket.socket) -> tuple[int, str]:
    """Open a terminal where we stand, so that its name is right for us; report the pid with its master."""
    master, slave = os.openpty()
    modes = termios.tcgetattr(slave)
    for number, value in terminal["modes"]:
        kind, name = TERMINAL_MODES.get(number, ("", ""))
        bit = getattr(termios, name, None)
        if bit is None:
            continue
        if kind == "cc":
            modes[6][bit] = bytes([value & 0xFF]) if value != 0xFF else b"\0"
        else:
            index = ("iflag", "oflag", "cflag", "lflag").index(kind)
            modes[index] = modes[index] | bit if value else modes[index] & ~bit
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal["size"]))
    socket.send_fds(status, [b'{"terminal": true}\n'], [master])
    os.close(master)
    return slave, os.ttyname(slave)


def _execute(request: ProcessRequest, status: socket.socket, stdio: list[int], nofile: tuple[int, int]) -> NoReturn:
    """Become the program: the last step, in the process itself."""
    os.setsid()
    env = request["env"]
    if request["terminal"] is not None:
        slave, env["SSH_TTY"] = _open_terminal(request["terminal"], status)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        stdio = [slave, slave, slave]
    for target, source in enumerate(stdio):
        os.dup2(source, target, inheritable=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
    for name in CHANGED_SIGNALS:
        signal.signal(name, signal.SIG_DFL)
    os.umask(0o022)
    for directory in request["cwd"]:
        with contextlib.suppress(OSError):
            os.chdir(directory)
            break
    path = request["argv"][0]
    if request["spare"]:
        _spare_others()
    try:
        os.execve(path, [request["name"], *request["argv"][1:]], env)
    except OSError as error:
        os.write(2, os.fsencode(f"{path}: {error.strerror}\n"))
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _start(
    request: ProcessRequest, status: socket.socket, stdio: list[int], nofile: tuple[int, int], report: int
) -> None:
    """Enter the instance and go on in a child, which is then in the instance's process namespace. Runs in a fork.

    The descriptor `report` closes as the process becomes the program: until then no signal would reach it.
    """
    if not request["holder"]:
        os.write(report, str(os.getpid()).encode())
        _execute(request, status, stdio, nofile)
    namespaces = _Namespaces(request["holder"])
    namespaces.enter_owner()
    trees = _clone_trees(request["binds"]) if request["binds"] else []
    namespaces.enter()
    _attach_trees(trees)
    namespaces.become_user()
    child = os.fork()
    if child:
        # the child becomes the spawner's own as this process ends: see PR_SET_CHILD_SUBREAPER
        os.write(report, str(child).encode())
        return
    try:
        if request["root"]:
            _map_root()
        _execute(request, status, stdio, nofile)
    except BaseException as error:
        os.write(2, os.fsencode(f"hardway: {error}\n"))
    finally:
        os._exit(126)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.statuses: dict[int, socket.socket] = {}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.nofile = (soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become subreaper")

    def serve(self) -> None:
        """Serve requests until the daemon is gone, then kill what is left."""
        awake, wake = socket.socketpair()
        awake.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # the daemon ends us
        selector = selectors.DefaultSelector()
        selector.register(self.control, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        alive = True
        while alive:
            for key, _ in selector.select():
                if key.fileobj is awake:
                    awake.recv(4096)
                else:
                    alive = self.request()
            self.reap()

    def request(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self.control, 1, 8)
        if not data:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        body, status, *stdio = descriptors
        with open(body, "rb") as file:
            file.seek(0)
            self.spawn(json.load(file), socket.socket(fileno=status), stdio)
        for descriptor in stdio:
            os.close(descriptor)
        return True

    def spawn(self, request: ProcessRequest, status: socket.socket, stdio: list[int]) -> None:
        read, write = os.pipe()
        first = os.fork()
        if not first:
            try:
                # other processes of its namespaces may look into it before it executes: it holds no other socket
                self.control.close()
                for other in self.statuses.values():
                    other.close()
                _start(request, status, stdio, self.nofile, write)
                os._exit(0)
            except BaseException as error:
                os.write(write, f"!{error}".encode())
            finally:
                os._exit(1)
        os.close(write)
        answer = os.read(read, select.PIPE_BUF)
        executed = select.poll()
        executed.register(read, 0)  # tells only of its end
        executed.poll(EXECUTE_SECONDS * 1000)
        os.close(read)
        if request["holder"]:
            os.waitpid(first, 0)
        if answer[:1].isdigit():
            pid = int(answer)
            self.statuses[pid] = status
            self.tell(status, {"pid": pid})
        else:
            self.tell(status, {"error": answer[1:].decode(errors="replace") or "died while starting"})
            status.close()

    def kill_children(self) -> None:
        """Kill what is left: processes that lost their mark end up here when their parents end."""
        while children := _children(os.getpid()):
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)

    def tell(self, status: socket.socket, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the daemon may be gone
            status.send(json.dumps(message).encode() + b"\n")

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if asked := self.statuses.pop(pid, None):
                self.tell(asked, {"status": os.waitstatus_to_exitcode(status)})
                asked.close()


def main() -> None:
    """Serve on the socket whose descriptor is the first argument; the second is the directory our mark starts with."""
    descriptor, prefix = int(sys.argv[1]), sys.argv[2]
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
    server = _Server(socket.socket(fileno=descriptor))
    try:
        server.serve()
    finally:
        kill_marked(prefix)
        server.kill_children()


if __name__ == "__main__":
    main()
