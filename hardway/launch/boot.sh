#!/bin/sh
# What an instance does for itself, as root. Without an argument, at each boot, before all else in its user data: start
# the watch, format and mount its instance storage. The file `ends` holds the time it ends, whatever a tag may say.
#
#   look            end the instance if its time is up: a timer of systemd's calls it each minute
#   extend SECONDS  move the end to so many seconds from now
#   again           start the watch again after all was killed, without systemd
#
# A launch sets these below the first line: seconds, 0 for never; who logs in; sshd's port; whether more user data
# comes behind this, whose end is waited for. HARDWAY_ROOT stands in front
# of every path and command that changes something; HARDWAY_ADDRESS is the one whose connections count, else any;
# HARDWAY_GRACE is in seconds.
limit=${limit:-0} idle=${idle:-0} user=${user:-root} port=${port:-22}
root=${HARDWAY_ROOT-}
etc=$root/etc/hardway run=$root/run/hardway units=$root/run/systemd/system sbin=${root:+$root/sbin/}
id=${INSTANCE_ID:--}
now=$(date +%s)

boot() {
  [ -d "$etc" ] || mkdir -p "$etc"
  [ -d "$run" ] || mkdir -p "$run"
  ${init:+touch "$run/init"}
  cp "$0" "$etc/watch"
  rm -f "$run/ending"
  read_end
  instance=
  [ ! -s "$etc/instance" ] || read -r instance <"$etc/instance"
  # An image made of another instance holds that one's files.
  if [ "$instance" != "$id" ]; then
    rm -f "$etc/ends"
    [ "$limit" -eq 0 ] || echo $((now + limit)) >"$etc/ends"
    echo "$id" >"$etc/instance"
  # Who starts it again when its time is up has ten minutes to extend that.
  elif [ -n "$ends" ] && [ "$ends" -lt $((now + 600)) ]; then
    write_end 600
  fi
  guard
  storage
}

guard() {
  if [ -s "$etc/ends" ] || [ "$idle" -gt 0 ]; then watch; fi
}

read_end() {
  ends=
  [ ! -s "$etc/ends" ] || read -r ends <"$etc/ends"
}

# Renamed: a full disk must not make the end never.
write_end() {
  echo $((now + $1)) >"$etc/ends.new" && mv "$etc/ends.new" "$etc/ends"
}

# No default dependencies: user data may never end. Installers of drivers isolate a target, and must not end the watch.
watch() {
  if [ ! -d "$units" ]; then
    # A zombie would be alive to `kill -0`.
    if grep -qs 'State:.[^Z]' "/proc/$(cat "$run/loop" 2>/dev/null)/status"; then return; fi
    (exec </dev/null >>"$run/log" 2>&1 && loop) &
    echo $! >"$run/loop"
    return
  fi
  cat >"$units/hardway.service" <<EOF
[Unit]
Description=End this instance if its time is up
DefaultDependencies=no
IgnoreOnIsolate=yes
[Service]
Type=oneshot
ExecStart=/bin/sh $etc/watch look
EOF
  cat >"$units/hardway.timer" <<EOF
[Unit]
Description=Look each minute if the time of this instance is up
DefaultDependencies=no
IgnoreOnIsolate=yes
Conflicts=shutdown.target
Before=shutdown.target
[Timer]
OnBootSec=1min
OnUnitActiveSec=1min
AccuracySec=5s
EOF
  "${sbin}systemctl" daemon-reload
  "${sbin}systemctl" start --no-block hardway.timer
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
  done
}

look() {
  read_end
  if [ -n "$ends" ] && [ "$now" -ge "$ends" ]; then
    end "its time is up"
  elif [ "$idle" -gt 0 ] && unused; then
    end "nobody has used it for $idle s"
  fi
}

end() {
  echo "hardway: $1: this instance ends"
  # Once: while the machine goes down it would find half of it gone.
  if [ -f "$etc/on-timeout.sh" ] && [ ! -e "$run/ending" ]; then
    echo "$now" >"$run/ending"
    before=$ends
    set -- bash "$etc/on-timeout.sh"
    [ ! -x "$2" ] || shift
    timeout -k 2 "${HARDWAY_GRACE:-60}" "$@" </dev/null
    read_end
    # Somebody has extended it meanwhile.
    [ "$ends" = "$before" ] || return 0
  fi
  "${sbin}poweroff" || "${sbin}shutdown" -h now
}

# Whether for `idle` seconds there was no connection, no agent of pmap, and less than a tenth of a CPU in use.
unused() {
  since=$now was=0 at=0
  [ ! -s "$run/seen" ] || read -r since was at <"$run/seen"
  # In hundredths of a second, of what runs and of what that has waited for.
  spent=$(cat /proc/[0-9]*/stat 2>/dev/null |
    awk '{ sub(/.*\) /, ""); t += $12 + $13 + $14 + $15 } END { printf "%.0f", t }')
  if [ $((spent - was)) -gt $(((now - at) * 10)) ] || connected || agents; then since=$now; fi
  echo "$since $spent $now" >"$run/seen"
  [ $((now - since)) -ge "$idle" ]
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
  ! mountpoint -q "$root/mnt$2" || return
  "${sbin}mount" -o noatime "$1" "$root/mnt$2" || return
  # cloud-init makes the user only after this: the first one is 1000.
  "${sbin}chown" "$user" "$root/mnt$2" 2>/dev/null || "${sbin}chown" 1000 "$root/mnt$2"
}

case ${1-} in
  '') boot ;;
  look) look ;;
  again) guard ;;
  extend) write_end "$2" && rm -f "$run/ending" "$run/seen" && watch ;;
esac
