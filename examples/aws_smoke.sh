#!/bin/bash
# Does hardway work in your AWS account? It takes ten minutes and less than five cents:
#
#   examples/aws_smoke.sh [--max-cost USD] [--type TYPE] [--timer-minutes MINUTES]
#
# One instance on demand and one spot are started in a VPC of their own, tried, and removed with all else that was made,
# however this ends: should this machine go down meanwhile, the instances end themselves within half an hour. The
# report at the end has no ids, addresses or names of yours. `--type` is one with NVMe disks, so that they are tried.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PATH=$PWD:$PATH

max_cost=0.05 type=c6gd.medium minutes=5
while [ $# -gt 0 ]; do
  case $1 in
    --max-cost | --type | --timer-minutes) [ $# -gt 1 ] || set -- "$1" '' ;;&
    --max-cost) max_cost=$2 ;;
    --type) type=$2 ;;
    --timer-minutes) minutes=$2 ;;
    *) set -- '' '' ;;
  esac
  if [ -z "$2" ]; then
    echo "usage: examples/aws_smoke.sh [--max-cost USD] [--type TYPE] [--timer-minutes MINUTES]" >&2
    exit 2
  fi
  shift 2
done
for number in "$max_cost" "$minutes"; do
  [[ $number =~ ^[0-9]*\.?[0-9]+$ ]] || { echo "$number is no number" >&2; exit 2; }
done
# The first instance may live for HOURS and cost three quarters, the second as long as its timer is set.
HOURS=0.4
share() { awk -v usd="$max_cost" -v part="$1" 'BEGIN { printf "%.6f", usd * part }'; }
timer_hours=$(awk -v minutes="$minutes" 'BEGIN { printf "%.5f", minutes / 60 }')

# A signal may come in a step, whose output is the log.
exec 3>&1 4>&2
work=$(mktemp -d) || exit
log=$work/log report=$work/report name=hardway-smoke-$RANDOM$RANDOM
# A key and an owner of this run's own: so `ec2.cleanup` removes what it has made, and nothing of yours.
export LOGNAME=$name XDG_DATA_HOME=$work/data XDG_STATE_HOME=$work/state
A='' B='' failed=0
case ${AWS_ENDPOINT_URL-} in '') here=AWS ;; *) here='a cloud of your own, which says nothing about AWS' ;; esac
NOT_HERE=77

# Runs one step and notes how it went.
step() {
  local title=$1 began=$SECONDS code=0 status=ok
  shift
  echo "$title ..." >&2
  echo "== $title" >>"$log"
  "$@" 2>>"$log" >>"$log" || code=$?
  if [ "$code" -eq "$NOT_HERE" ]; then status='not here'; elif [ "$code" -ne 0 ]; then status=FAILED failed=1; fi
  printf '%-8s  %-28s  %4d s\n' "$status" "$title" $((SECONDS - began)) >>"$report"
  [ "$code" -eq 0 ]
}

masked() {
  sed -E "s/$name/NAME/g; s#$work#WORK#g; s#$HOME#HOME#g
    s/\b(i|vpc|subnet|sg|sgr|ami|snap|vol|lt|fleet|igw|rtb|acl|eni|key)-[0-9a-f]{8,17}\b/\1-ID/g
    s/\bhardway-[0-9a-f]{12}\b/hardway-KEY/g; s/arn:[^ ]*/ARN/g; s/\b[0-9]{12}\b/ACCOUNT/g
    s/\b(ip|ec2)-[0-9]+-[0-9]+-[0-9]+-[0-9]+\b/\1-ADDRESS/g; s/\b[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\b/ADDRESS/g
    s/\b[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{0,4}){4,7}/ADDRESS/g"
}

on() { inv ec2.ssh "$1" --yes --quiet --command "$2"; }

check() { inv ec2.check --type "$type" --spot 1.0; }
vpc() { inv ec2.new-vpc "$name"; }
launch() { inv ec2.new --name "$name" --vpc "$name" --type "$type" "$@"; }
on_demand() { A=$(launch --max-hours "$HOURS" --max-cost "$(share 0.75)"); }
spot() {
  B=$(launch --spot 1.0 --max-hours "$timer_hours" --max-cost "$(share 0.25)") || return
  inv ec2.ls --only "$B" --json | grep '"spot": true'
}
ssh_() { [ "$(on "$A" 'echo $((6 * 7))')" = 42 ]; }
scp_() {
  seq 10000 >"$work/numbers"
  inv ec2.scp "$work/numbers" :numbers "$A" --yes
  [ "$(on "$A" 'cksum <numbers')" = "$(cksum <"$work/numbers")" ]
}
push() {
  mkdir -p "$work/tree/deep"
  seq 5000 >"$work/tree/deep/numbers"
  inv ec2.push "$work/tree" :pushed "$A" --yes
  [ "$(on "$A" 'cksum <pushed/deep/numbers')" = "$(cksum <"$work/tree/deep/numbers")" ]
}
pmap() { [ "$(inv mapreduce.pmap "$A $B" "$(seq 6)" 'read -r n; echo $((n * n))')" = $'1\n4\n9\n16\n25\n36' ]; }
ends() { inv ec2.ls --only "$A" --json | grep -o '"hardway-ends": "[^"]*"'; }
extend() {
  local before
  before=$(ends)
  inv ec2.extend "$A" 0.3 --yes
  [ -n "$before" ] && [ "$(ends)" != "$before" ]
}
nvme() {
  [ "$here" = AWS ] || return "$NOT_HERE"
  on "$A" 'findmnt -no SOURCE,FSTYPE /mnt' | grep -E '^/dev/nvme[^ ]+ +ext4$'
}
# The console may show them late.
host_keys() {
  for _ in 1 2 3 4 5 6; do
    on "$A" true
    if grep -q "^$A .* console$" "$XDG_STATE_HOME/hardway/known_hosts"; then return 0; fi
    sleep 20
  done
  return 1
}
stop_start() {
  inv ec2.stop "$A" --yes --wait && inv ec2.start "$A" --yes && inv ec2.wait "$A" || return
  [ "$(on "$A" 'cat numbers')" = "$(seq 10000)" ]
}
ami() {
  inv ec2.ami-new "$A" "$name" --yes --no-reboot --seconds-timeout 900 && inv ec2.amis | grep -q "^$name .*available"
}
# The instance looks once a minute, and EC2 takes its time.
timer() {
  inv ec2.wait "$B" --state terminated --seconds-timeout "$(awk -v m="$minutes" 'BEGIN { print int(m * 60) + 300 }')"
}

# Prints the lines of a list that have this run's name. Without an answer there is no list: it proves nothing.
listed() {
  local lines
  lines=$(inv "$1") || return
  grep -F "$name" <<<"$lines" | grep -v -w terminated || :
}
remove_listed() {
  local found
  found=$(listed "$1") || return
  [ -z "$found" ] || inv "$2" "$name" --yes
}
remove_image() { remove_listed ec2.amis ec2.ami-rm; }
remove_instances() {
  local found
  remove_listed ec2.ls ec2.rm && found=$(listed ec2.ls) || return
  [ -z "$found" ] || inv ec2.wait "$name" --state terminated
}
remove_vpc() { remove_listed ec2.vpcs ec2.rm-vpc; }
cleanup() { inv ec2.cleanup --yes; }
gone() {
  local list found
  for list in ec2.ls ec2.amis ec2.snapshots ec2.vpcs; do
    found=$(listed "$list") || return
    [ -z "$found" ] || return
  done
  inv --dry ec2.cleanup 2>&1 | grep -q 'nothing to remove'
}

ended() {
  local code=$?
  trap '' INT TERM HUP
  exec >&3 2>&4
  step 'AMI removed' remove_image
  step 'instances terminated' remove_instances
  step 'VPC removed' remove_vpc
  step 'cleanup' cleanup
  step 'nothing is left' gone || echo "look for $name, and run: LOGNAME=$name inv ec2.cleanup" >&2
  {
    echo "hardway on $here: $type in ${AWS_REGION:-${AWS_DEFAULT_REGION:-the region of the profile}}"
    echo "$(inv --version 2>/dev/null | head -n 1), $(.venv/bin/python --version), $(uname -sm)"
    cat "$report"
    if [ "$failed" -ne 0 ]; then
      echo 'What the steps said:'
      cat "$log"
    fi
  } | masked
  rm -rf "$work"
  [ "$code" -ne 0 ] || code=$failed
  exit "$code"
}
trap ended EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step 'check' check || exit 1
step 'VPC' vpc || exit 1
step 'on demand' on_demand || exit 1
step 'spot' spot
step 'ssh' ssh_
step 'scp' scp_
step 'push' push
step 'pmap' pmap
step 'extend' extend
step 'NVMe' nvme
step 'host keys from the console' host_keys
step 'stop and start' stop_start
step 'AMI' ami
[ -z "$B" ] || step 'an instance ends itself' timer
