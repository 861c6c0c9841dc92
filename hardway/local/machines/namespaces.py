"""The commands that make an instance's namespaces and hold them open: by bubblewrap, or by util-linux's `unshare`."""

from __future__ import annotations

from collections.abc import Sequence

UID = 1000
"""The number of an instance's user in the instance. On the host it is the user who runs the daemon."""
POWER = "run/hardway/power"
"""The pipe, in an instance's directory, on which its processes ask to power off or reboot."""
# Writes here change the kernel's settings. Few of these places require a capability of the host's root. For the others
# root's number is enough, and instances have it where root runs the daemon.
KERNEL = ("acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "latency_stats", "mtrr", "scsi", "sys",
          "sysrq-trigger", "tty")  # fmt: skip
"""The places in an instance's /proc that are read only."""
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
View = Sequence[tuple[str, str, str]]
"""The mounts over the host's tree: ("rw" or "ro", path on the host, path in the instance)."""

# The first process of the namespaces. It reaps orphans, and ends with its stdin, hence with the daemon. Any process in
# there may kill its child (kill -9 -1), but not itself: then it starts another child, and tells the daemon itself, by a
# descriptor that never waits for a reader.
HOLD = f"exec 3<&0; echo ready; while {{ read x <&3; }} & wait $!; [ $? -gt 128 ]; do echo again 1<>/{POWER}; done"

# Mounts as bubblewrap does: a copy of the host's tree, read only, with the instance's own on top, becomes /.
UNSHARE = r"""
set -eu
hostname "$1"
new=$2 hold=$3 devices=$4 kernel=$5; shift 5
mount --make-rprivate /
mount --rbind / "$new"
listed=$(printf %s "$new" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g')
while read -r _ _ _ _ point _; do
  case $point in
    "$listed"/proc|"$listed"/proc/*|"$listed"/dev|"$listed"/dev/*) ;;
    "$listed"|"$listed"/*) mount -o remount,bind,ro "$(printf '%b' "$point")" 2>/dev/null || : ;;
  esac
done </proc/self/mountinfo
mount -t proc proc "$new/proc"
for name in $kernel; do
  [ -e "$new/proc/$name" ] || continue
  mount --bind "$new/proc/$name" "$new/proc/$name"
  mount -o remount,bind,ro "$new/proc/$name"
done
mount -t tmpfs -o mode=755 tmpfs "$new/dev"
for name in $devices; do
  : >"$new/dev/$name"
  mount --bind "/dev/$name" "$new/dev/$name"
done
mkdir "$new/dev/shm" "$new/dev/pts"
mount -t tmpfs tmpfs "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
ln -s fd/0 "$new/dev/stdin"
ln -s fd/1 "$new/dev/stdout"
ln -s fd/2 "$new/dev/stderr"
while [ $# -ge 3 ]; do
  if [ -d "$2" ]; then mkdir -p "$new$3"; elif [ ! -e "$new$3" ]; then mkdir -p "$new${3%/*}"; : >"$new$3"; fi
  mount --bind "$2" "$new$3"
  [ "$1" = rw ] || mount -o remount,bind,ro "$new$3"
  shift 3
done
cd "$new"
pivot_root . .
umount -l .
cd /
exec unshare --user --map-user=1000 --map-group=1000 sh -c "$hold"
"""


def holder_command(level: str, hostname: str, new: str, view: View) -> list[str]:
    """The command whose process holds an instance's namespaces: it says "ready", and ends when its stdin does.

    `level` is bwrap or unshare; `new` an empty directory of the instance.
    """
    return _bwrap(hostname, view) if level == "bwrap" else _unshare(hostname, new, view)


def _bwrap(hostname: str, view: View) -> list[str]:
    options = ["--die-with-parent", "--unshare-user", "--uid", str(UID), "--gid", str(UID)]
    options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", hostname]
    options += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for mode, source, target in view:
        options += ["--bind" if mode == "rw" else "--ro-bind", source, target]
    for path in (f"/proc/{name}" for name in KERNEL):
        options += ["--ro-bind-try", path, path]
    return ["bwrap", *options, "--chdir", "/", "--as-pid-1", "/bin/sh", "-c", HOLD]


def _unshare(hostname: str, new: str, view: View) -> list[str]:
    namespaces = ["--user", "--map-root-user", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    arguments = [hostname, new, HOLD, " ".join(DEVICES), " ".join(KERNEL), *(text for entry in view for text in entry)]
    return ["unshare", *namespaces, "/bin/sh", "-c", UNSHARE, "sh", *arguments]
