"""The files of an instance for SFTP and scp: its own home, /tmp and the like, the rest of the host read only.

The server runs outside the instance. So it walks a path itself, symbolic links included, as a process inside would. The
end of the walk is opened beneath the instance's directory, without following any link: a change meanwhile is an error.
/proc, /dev and /sys are not served: they would be the daemon's own. The protocol is asyncssh's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncssh
from asyncssh import sftp

from hardway.local import beneath
from hardway.local.machines.asyncssh_internals import set_attributes
from hardway.local.machines.namespaces import UID
from hardway.local.machines.root_disk import RootDisk

MAX_LINKS = 40
MOST_CHARACTERS = 4096
"""The longest path that the kernel takes at once."""
NOT_SERVED = (b"/proc", b"/dev", b"/sys")


class InstanceFiles(asyncssh.SFTPServer):
    """One SFTP or scp session of `user`, in whose home directory it starts."""

    def __init__(self, channel: Any, disk: RootDisk, user: str) -> None:
        super().__init__(channel)
        self._user = user
        self._home = os.fsencode(disk.home(user))
        view = disk.view()
        self._view = sorted(
            ((os.fsencode(inside), os.fsencode(host), mode == "rw") for mode, host, inside in view),
            key=lambda entry: -len(entry[0]),
        )

    def _host(self, path: bytes) -> tuple[bytes, bytes, bool]:
        """Find a path without links: a directory or file of the host that no instance can exchange, the path beneath
        it, and whether the instance may change what is there.
        """
        for inside, host, writable in self._view:
            if path == inside or path.startswith(inside + b"/"):
                return host, path[len(inside) + 1 :], writable
        if any(path == top or path.startswith(top + b"/") for top in NOT_SERVED):
            raise PermissionError(errno.EACCES, "not served over SFTP by a local instance")
        return b"/", path[1:], False

    @contextlib.contextmanager
    def _at(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory on the host in which a path without links lies; give its name there, too."""
        top, below, _ = self._host(path)
        if not below:
            top, _, name = top.rpartition(b"/")
            above = b""
        else:
            above, _, name = below.rpartition(b"/")
        with beneath.directory(top or b"/", above) as parent:
            yield parent, name or b"."

    @contextlib.contextmanager
    def _change(self, path: bytes, follow: bool = False) -> Iterator[tuple[int, bytes]]:
        """Walk a path and open its directory as `_at`, to make, remove or rename something there."""
        walked = self._walk(path, follow)
        _, below, writable = self._host(walked)
        if not writable:
            raise PermissionError(errno.EACCES, "read only in a local instance")
        if not below:  # the top of the instance's tree can't be changed
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        with self._at(walked) as place:
            yield place

    def _walk(self, path: bytes, follow: bool = True) -> bytes:
        """The path inside the instance with every link followed; `follow` is about the last name only."""
        if len(path) > MOST_CHARACTERS:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
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
            target = self._link(step) if todo or follow else None
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

    def _link(self, path: bytes) -> bytes | None:
        try:
            with self._at(path) as (parent, name):
                return os.readlink(name, dir_fd=parent)
        except OSError:
            return None

    def map_path(self, path: bytes) -> bytes:
        # for what asyncssh does by a path alone
        raise PermissionError(errno.EACCES, "not in a local instance")

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
        mode = 0o666 if attrs.permissions is None else attrs.permissions & 0o7777
        changing = writing or flags & (os.O_CREAT | os.O_TRUNC)
        with self._change(path, follow=True) if changing else self._at(self._walk(path)) as (parent, name):
            # non-blocking: a pipe nobody writes to must not stop the whole cloud
            descriptor = os.open(name, flags | beneath.ALWAYS, mode, dir_fd=parent)
        if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFREG, stat.S_IFIFO):
            os.close(descriptor)
            raise PermissionError(errno.EACCES, "not a file")
        return os.fdopen(descriptor, ("ab+" if reading else "ab") if pflags & sftp.FXF_APPEND
                         else "rb+" if reading and writing else "wb" if writing else "rb", buffering=0)  # fmt: skip

    def read(self, file_obj: object, offset: int, size: int) -> Any:
        return super().read(file_obj, offset, min(size, sftp.MAX_SFTP_READ_LEN))

    def stat(self, path: bytes) -> Any:
        return self._stat(self._walk(path))

    def lstat(self, path: bytes) -> Any:
        return self._stat(self._walk(path, follow=False))

    def _stat(self, path: bytes) -> os.stat_result:
        with self._at(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._set(path, attrs, follow=True)

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._set(path, attrs, follow=False)

    def _set(self, path: bytes, attrs: asyncssh.SFTPAttrs, follow: bool) -> None:
        walked = self._walk(path, follow)
        if not self._host(walked)[2]:
            raise PermissionError(errno.EACCES, "read only in a local instance")
        attrs = self._own(attrs)
        with self._at(walked) as (parent, name):
            found = os.open(name, os.O_PATH | beneath.ALWAYS, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(found).st_mode):
                raise asyncssh.SFTPOpUnsupported("a link has no attributes of its own here")
            set_attributes(f"/proc/self/fd/{found}".encode(), attrs)
        finally:
            os.close(found)

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> Any:
        return super().fsetstat(file_obj, self._own(attrs))

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        with self._at(self._walk(path)) as (parent, name):
            descriptor = os.open(name, beneath.DIRECTORY, dir_fd=parent)
        try:
            for special in (b".", b".."):
                status = os.stat(special if special == b"." else b".", dir_fd=descriptor)
                yield asyncssh.SFTPName(special, attrs=asyncssh.SFTPAttrs.from_local(status))
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        attrs = asyncssh.SFTPAttrs.from_local(status)
                        yield asyncssh.SFTPName(os.fsencode(entry.name), attrs=attrs)
        finally:
            os.close(descriptor)

    def remove(self, path: bytes) -> None:
        with self._change(path) as (parent, name):
            os.remove(name, dir_fd=parent)

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        with self._change(path) as (parent, name):
            os.mkdir(name, 0o777 if attrs.permissions is None else attrs.permissions & 0o7777, dir_fd=parent)

    def rmdir(self, path: bytes) -> None:
        with self._change(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def realpath(self, path: bytes) -> Any:
        return self._walk(path)

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        with self._change(oldpath) as (old_parent, old), self._change(newpath) as (new_parent, new):
            with contextlib.suppress(FileNotFoundError):
                os.stat(new, dir_fd=new_parent, follow_symlinks=False)
                raise asyncssh.SFTPFailure("File already exists")
            os.rename(old, new, src_dir_fd=old_parent, dst_dir_fd=new_parent)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        with self._change(oldpath) as (old_parent, old), self._change(newpath) as (new_parent, new):
            os.replace(old, new, src_dir_fd=old_parent, dst_dir_fd=new_parent)

    def readlink(self, path: bytes) -> Any:
        with self._at(self._walk(path, follow=False)) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        with self._change(newpath) as (parent, name):
            os.symlink(oldpath, name, dir_fd=parent)

    def link(self, oldpath: bytes, newpath: bytes) -> None:
        with self._change(oldpath) as (old_parent, old), self._change(newpath) as (new_parent, new):
            os.link(old, new, src_dir_fd=old_parent, dst_dir_fd=new_parent, follow_symlinks=False)

    def statvfs(self, path: bytes) -> Any:
        with self._at(self._walk(path)) as (parent, name):
            descriptor = os.open(name, os.O_PATH | beneath.ALWAYS, dir_fd=parent)
        try:
            return os.statvfs(descriptor)
        finally:
            os.close(descriptor)

    def exit(self) -> None:
        # asyncssh ends SFTP without an exit status, and OpenSSH's scp takes that for a failure
        if self.channel.get_subsystem() == "sftp":
            self.channel.exit(0)

    def format_user(self, uid: int | None) -> str:
        return self._user if uid == os.getuid() else super().format_user(uid)

    def format_group(self, gid: int | None) -> str:
        return self._user if gid == os.getgid() else super().format_group(gid)

    def _own(self, attrs: asyncssh.SFTPAttrs) -> asyncssh.SFTPAttrs:
        """Attributes without an owner: everything belongs to the one user there is, and can't be given away."""
        if attrs.uid is not None and attrs.uid not in (UID, os.getuid()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        attrs.uid = attrs.gid = None
        return attrs
