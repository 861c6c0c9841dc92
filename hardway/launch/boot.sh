#!/bin/sh
# The script of an instance, run as root. Without an argument, at each boot, before all else in its user data: start
# the watch, format and mount its instance storage. The file `ends` holds the time of its end, whatever a tag may say.
#
#   look            end the instance if its time is up: a timer of systemd's calls it each minute
#   start           at each later boot, by systemd: what a boot is to do, should cloud-init not run this time
#   extend SECONDS  move the end to this number of seconds from now
#   again           start the watch again after all was killed, without systemd
#
# A launch sets these below the first line: seconds, 0 for never; who logs in; sshd's port; whether more user data
# comes behind this, whose end is waited for. HARDWAY_ROOT stands in front
# of every path and command that changes something; HARDWAY_ADDRESS is the one whose connections count, else any;
# HARDWAY_GRACE is in seconds.
#
# All that ends the instance is on its disk after the first boot. A later boot writes nothing anew: the disk may be full.
limit=${limit:-0} idle=${idle:-0} user=${user:-root} port=${port:-22}
root=${HARDWAY_ROOT-}
etc=$root/etc/hardway run=$root/run/hardway sbin=${root:+$root/sbin/}
[ -z "${1-}" ] || etc=${0%/*}
id=${INSTANCE_ID:--}
now=$(date +%s)
# Seconds since the boot, for a clock may be set back.
read -r up _ </proc/uptime
up=${up%%.*}
changed=

boot() {
  mkdir -p "$run"
  ${init:+touch "$run/init"}
  mkdir -p "$etc" 2>/dev/null
  # On a full disk the old file stays. On a read-only disk all is in memory until the next boot.
  if ! put "$etc/watch" "$(cat "$0")" && [ ! -s "$etc/watch" ]; then
    etc=$run/state
    mkdir -p "$etc"
    put "$etc/watch" "$(cat "$0")"
  fi
  machine
  put "$etc/machine" "$machine"
  touch "$run/here"
  rm -f "$run/ending"
  instance=
  [ ! -s "$etc/instance" ] || read -r instance <"$etc/instance"
  # An image made of another instance holds that one's files.
  if [ "$instance" != "$id" ]; then
    rm -f "$etc/ends" "$run/ends"
    [ "$limit" -eq 0 ] || write_end "$limit"
    put "$etc/instance" "$id"
    touch "$run/started"
  fi
  start
  guard
  storage
}

# Write a file whole or not at all, and only if it would change.
put() {
  [ "$(cat "$1" 2>/dev/null)" != "$2" ] || return 0
  changed=1
  if { printf '%s\n' "$2" >"$1.new"; } 2>/dev/null && mv "$1.new" "$1"; then return 0; fi
  rm -f "$1.new"
  return 1
}

# The machine's identity without metadata: the instance's id on Nitro, a number on Xen.
machine() {
  for file in board_asset_tag product_uuid; do
    machine=
    [ ! -r "$root/sys/class/dmi/id/$file" ] || read -r machine <"$root/sys/class/dmi/id/$file"
    case $file$machine in *tagi-* | *uuid?*) break ;; esac
  done
}

# A machine that somebody has started from an image of this instance isn't ours, unless its user data is ours.
ours() {
  [ ! -e "$run/here" ] || return 0
  machine
  [ -n "$machine" ] && [ "$machine" = "$(cat "$etc/machine" 2>/dev/null)" ]
}

# A person who starts the instance again when its time is up has ten minutes to extend the time.
start() {
  if [ ! -e "$run/started" ]; then
    mkdir -p "$run"
    touch "$run/started"
    read_end
    [ -z "$ends" ] || [ "$ends" -ge $((now + 600)) ] || write_end 600
  fi
}

guard() {
  if [ -s "$etc/ends" ] || [ -s "$run/ends" ] || [ "$idle" -gt 0 ]; then watch; fi
}

# The end by the clock, and by the seconds since the boot: a clock that is set back must not make it later.
read_end() {
  ends='' until='' of=''
  for file in "$run/ends" "$etc/ends"; do
    [ ! -s "$file" ] || read -r ends <"$file"
    case $ends in '' | *[!0-9]*) ends='' ;; *) break ;; esac
  done
  [ -n "$ends" ] || return 0
  [ ! -s "$run/until" ] || read -r of until <"$run/until"
  [ "$of" != "$ends" ] || return 0
  until=$((up + ends - now))
  echo "$ends $until" >"$run/until"
}

# Overwrite the old file, which needs no room on a full disk. On a read-only disk the change lasts until the next boot.
write_end() {
  if { echo $((now + $1)) 1<>"$etc/ends"; } 2>/dev/null; then rm -f "$run/ends"; else echo $((now + $1)) >"$run/ends"; fi
}

# No default dependencies: user data may never end. Installers of drivers isolate a target, and must not end the watch.
watch() {
  if [ ! -d "$root/run/systemd/system" ]; then
    # A zombie would be alive to `kill -0`.
    if grep -qs 'State:.[^Z]' "/proc/$(cat "$run/loop" 2>/dev/null)/status"; then return; fi
    looked
    (exec </dev/null >>"$run/log" 2>&1 && loop) &
    echo $! >"$run/loop"
    return
  fi
  units=$root/etc/systemd/system
  [ "${etc#"$run"}" = "$etc" ] || units=$root/run/systemd/system
  mkdir -p "$units/sysinit.target.wants" "$units/emergency.target.wants"
  # A hanging look, or the remains of on-timeout.sh, must not keep it from looking again.
  put "$units/hardway.service" "[Unit]
Description=End this instance if its time is up
DefaultDependencies=no
IgnoreOnIsolate=yes
After=hardway-boot.service
[Service]
Type=oneshot
TimeoutStartSec=20min
TimeoutStopSec=5s
ExecStart=/bin/sh $etc/watch look"
  put "$units/hardway.timer" "[Unit]
Description=Look each minute if the time of this instance is up
DefaultDependencies=no
IgnoreOnIsolate=yes
Conflicts=shutdown.target
Before=shutdown.target
[Timer]
OnActiveSec=1s
OnUnitActiveSec=1min
AccuracySec=1s
[Install]
WantedBy=sysinit.target emergency.target"
  put "$units/hardway-boot.service" "[Unit]
Description=Mount the instance storage
DefaultDependencies=no
IgnoreOnIsolate=yes
After=systemd-remount-fs.service systemd-udev-trigger.service
Before=cloud-init.service cloud-init-network.service
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=5min
ExecStart=/bin/sh $etc/watch start
[Install]
WantedBy=sysinit.target emergency.target"
  for link in sysinit emergency; do
    for unit in hardway.timer hardway-boot.service; do
      [ -L "$units/$link.target.wants/$unit" ] || ln -s "../$unit" "$units/$link.target.wants/$unit"
    done
  done
  [ -z "$changed" ] || "${sbin}sync"
  "${sbin}systemctl" daemon-reload
  "${sbin}systemctl" start --no-block hardway.timer && looked
}

# Without systemd.
loop() {
  trap '' HUP
  while [ -d "$etc" ]; do
    look
    pause=60
    [ "$idle" -eq 0 ] || [ "$idle" -ge 240 ] || pause=$((idle / 4 + 1))
    [ -z "$ends" ] || [ $((ends - now)) -ge $pause ] || pause=$((ends > now ? ends - now : 1))
    sleep $pause
    now=$(date +%s)
    read -r up _ </proc/uptime
    up=${up%%.*}
  done
}

look() {
  read_end
  if [ -n "$ends" ] && { [ "$now" -ge "$ends" ] || [ "$up" -ge "$until" ]; }; then
    end "its time is up"
  elif [ "$idle" -gt 0 ] && unused; then
    end "nobody has used it for $idle s"
  fi
  looked
}

looked() {
  echo "$up" >"$run/looked"
}

end() {
  echo "hardway: $1: this instance ends"
  # Once: while the machine goes down it would find half of it gone.
  if [ -f "$etc/on-timeout.sh" ] && [ ! -e "$run/ending" ]; then
    echo "$now" >"$run/ending"
    before=$ends
    set -- bash "$etc/on-timeout.sh"
    [ ! -x "$2" ] || shift
    # systemd gives a service of its own neither of these.
    (cd "${root:-/}" && export HOME="${HOME:-$root/root}" USER=root LOGNAME=root &&
      exec timeout -k 2 "${HARDWAY_GRACE:-60}" "$@" </dev/null)
    read_end
    # Somebody has extended it meanwhile.
    [ "$ends" = "$before" ] || return 0
  fi
  if [ ! -d "$root/run/systemd/system" ]; then
    "${sbin}poweroff" || "${sbin}shutdown" -h now
    return
  fi
  # logind, which poweroff asks, refuses while any program holds a lock. systemd itself gives services their time.
  "${sbin}systemctl" start --no-block --job-mode=replace-irreversibly poweroff.target ||
    "${sbin}poweroff" || "${sbin}shutdown" -h now
  # Nothing stops this look while the machine goes down.
  "${sbin}sleep" 600
  "${sbin}systemctl" --force poweroff
  "${sbin}sleep" 60
  # Sync, mount read-only, power off.
  for key in s u o; do
    echo $key >"$root/proc/sysrq-trigger"
    "${sbin}sleep" 3
  done
}

# Whether for `idle` seconds there was no connection, no agent of pmap, and less than a tenth of a CPU in use.
unused() {
  since=$up was=0 at=0
  [ ! -s "$run/seen" ] || read -r since was at <"$run/seen"
  # In hundredths of a second, of what runs and of what that has waited for.
  spent=$(cat /proc/[0-9]*/stat 2>/dev/null |
    awk '{ sub(/.*\) /, ""); t += $12 + $13 + $14 + $15 } END { printf "%.0f", t }')
  if [ $((spent - was)) -gt $(((up - at) * 10)) ] || connected || agents; then since=$up; fi
  echo "$since $spent $up" >"$run/seen"
  [ $((up - since)) -ge "$idle" ]
}

connected() {
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$port" -v address="${HARDWAY_ADDRESS-}" '
    BEGIN {
      here = sprintf(":%04X$", port)
      if (split(address, b, ".") == 4) here = sprintf("%02X%02X%02X%02X", b[4], b[3], b[2], b[1]) here
    }
    $4 == "01" && $2 ~ here { found = 1 }
    END { exit !found }'
}

# An agent holds its job's lock as long as it lives.
agents() {
  for lock in "$root"/root/.hardway/*/lock "$root"/home/*/.hardway/*/lock; do
    if [ -f "$lock" ]; then flock -sn 8 8<"$lock" || return 0; fi
  done
  return 1
}

# Each disk becomes a file system of its own, at /mnt, /mnt1, ...: what that needs is there on any image.
storage() {
  # A boot and systemd may both come here.
  exec 9>"$run/storage"
  flock 9
  number='' disks=''
  for block in "$root"/sys/block/nvme*; do
    model=
    [ ! -r "$block/device/model" ] || read -r model <"$block/device/model"
    [ "$model" = "Amazon EC2 NVMe Instance Storage" ] || continue
    disk "$root/dev/${block##*/}" "$number" </dev/null &
    disks="$disks $!" number=$((number + 1))
  done
  # shellcheck disable=SC2086
  [ -z "$disks" ] || wait $disks
}

disk() {
  found=$("${sbin}blkid" -p -o export "$1")
  case $?$found in
    2) "${sbin}mkfs.ext4" -q -m 0 -E nodiscard -L "hardway$2" "$1" || return ;;
    0*LABEL=hardway*)
      # From before a reboot, where it may have had another name.
      found=${found##*LABEL=hardway}
      set -- "$1" "${found%%[!0-9]*}"
      ;;
    *) return 0 ;;
  esac
  mkdir -p "$root/mnt$2"
  if mountpoint -q "$root/mnt$2"; then return 0; fi
  "${sbin}mount" -o noatime "$1" "$root/mnt$2" || return
  if "${sbin}chown" "$user" "$root/mnt$2" 2>/dev/null; then return 0; fi
  # cloud-init goes on when all our descriptors are closed.
  (exec >/dev/null 2>&1 9>&- && own "$root/mnt$2") &
}

# cloud-init makes the user only after this, and not always as the first one, who has the number 1000.
own() {
  looks=0
  until "${sbin}chown" "$user" "$1"; do
    looks=$((looks + 1))
    if [ $looks -ge 1500 ]; then exec "${sbin}chown" 1000 "$1"; fi
    sleep 0.2
  done
}

case ${1-} in
  '') boot ;;
  look) if ours; then look; fi ;;
  start) if ours; then start && storage; fi ;;
  again) guard ;;
  extend) write_end "$2" && rm -f "$run/ending" "$run/seen" && watch ;;
esac
