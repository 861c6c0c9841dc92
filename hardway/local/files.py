"""What SFTP and scp see of an instance: its own home, /tmp and the like, the rest of the host read only.

The server runs outside the instance, so paths are walked here, symbolic links included, as a process inside would walk
them. The protocol is asyncssh's.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import asyncssh
from asyncssh import sftp

from hardway.local.sandbox import UID, Sandbox

MAX_LINKS = 40


class Files(asyncssh.SFTPServer):
    """One SFTP or scp session of `user`, in whose home directory it starts."""

    def __init__(self, channel: Any, sandbox: Sandbox, user: str) -> None:
        super().__init__(channel)
        self._user = user
        self._home = os.fsencode(sandbox.home(user))
        view = sandbox.view()
        self._view = sorted(
            ((os.fsencode(inside), os.fsencode(host), mode == "rw") for mode, host, inside in view),
            key=lambda entry: -len(entry[0]),
        )

    def _host(self, path: bytes) -> tuple[bytes, bool]:
        """Where a path without links lies on the host, and whether it may be changed there."""
        for inside, host, writable in self._view:
            if path == inside or path.startswith(inside + b"/"):
                return host + path[len(inside) :], writable
        return path, False

    def _walk(self, path: bytes, follow: bool = True) -> bytes:
        """The path inside the instance with every link followed; `follow` is about the last name only."""
        todo = [name for name in reversed(os.path.join(self._home, path).split(b"/")) if name]
        done = b""
        links = 0
        while todo:
            name = todo.pop()
            if name == b".":
                continue
            if name == b"..":
                done = done.rpartition(b"/")[0]
                continue
            step = done + b"/" + name
            try:
                target = os.readlink(self._host(step)[0]) if todo or follow else None
            except OSError:
                target = None
            if target is None:
                done = step
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                done = b""
            todo += [name for name in reversed(target.split(b"/")) if name]
        return done or b"/"

    def _look(self, path: bytes, follow: bool = True) -> bytes:
        return self._host(self._walk(path, follow))[0]

    def _change(self, path: bytes, follow: bool = False) -> bytes:
        host, writable = self._host(self._walk(path, follow))
        if not writable:
            raise PermissionError(errno.EACCES, "read only in a local instance")
        return host

    def map_path(self, path: bytes) -> bytes:
        return self._look(path)

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        reading, writing = pflags & sftp.FXF_READ, pflags & (sftp.FXF_WRITE | sftp.FXF_APPEND)
        flags = (os.O_RDWR if reading else os.O_WRONLY) if writing else os.O_RDONLY
        for asked, flag in (
            (sftp.FXF_APPEND, os.O_APPEND),
            (sftp.FXF_CREAT, os.O_CREAT),
            (sftp.FXF_TRUNC, os.O_TRUNC),
            (sftp.FXF_EXCL, os.O_EXCL),
        ):
            if pflags & asked:
                flags |= flag
        host = self._change(path, follow=True) if writing or flags & os.O_CREAT else self._look(path)
        mode = 0o666 if attrs.permissions is None else attrs.permissions & 0o7777
        # non-blocking: a pipe nobody writes to must not stop the whole cloud
        descriptor = os.open(host, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        return os.fdopen(descriptor, ("ab+" if reading else "ab") if pflags & sftp.FXF_APPEND
                         else "rb+" if reading and writing else "wb" if writing else "rb", buffering=0)  # fmt: skip

    def lstat(self, path: bytes) -> Any:
        return os.lstat(self._look(path, follow=False))

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        return super().setstat(self._changed(path, follow=True), self._own(attrs))

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._changed(path, follow=False)
        return super().lsetstat(path, self._own(attrs))

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> Any:
        return super().fsetstat(file_obj, self._own(attrs))

    def remove(self, path: bytes) -> None:
        os.remove(self._change(path))

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        os.mkdir(self._change(path), 0o777 if attrs.permissions is None else attrs.permissions & 0o7777)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._change(path))

    def realpath(self, path: bytes) -> Any:
        return self._walk(path)

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        old, new = self._change(oldpath), self._change(newpath)
        if os.path.lexists(new):
            raise asyncssh.SFTPFailure("File already exists")
        os.rename(old, new)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        os.replace(self._change(oldpath), self._change(newpath))

    def readlink(self, path: bytes) -> Any:
        return os.readlink(self._look(path, follow=False))

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        os.symlink(oldpath, self._change(newpath))

    def link(self, oldpath: bytes, newpath: bytes) -> None:
        os.link(self._change(oldpath), self._change(newpath), follow_symlinks=False)

    def exit(self) -> None:
        # asyncssh ends SFTP without an exit status, and OpenSSH's scp takes that for a failure
        if self.channel.get_subsystem() == "sftp":
            self.channel.exit(0)

    def format_user(self, uid: int | None) -> str:
        return self._user if uid == os.getuid() else super().format_user(uid)

    def format_group(self, gid: int | None) -> str:
        return self._user if gid == os.getgid() else super().format_group(gid)

    def _changed(self, path: bytes, follow: bool) -> bytes:
        self._change(path, follow)
        return path

    def _own(self, attrs: asyncssh.SFTPAttrs) -> asyncssh.SFTPAttrs:
        """Attributes without an owner: everything belongs to the one user there is, and can't be given away."""
        if attrs.uid is not None and attrs.uid not in (UID, os.getuid()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        attrs.uid = attrs.gid = None
        return attrs
