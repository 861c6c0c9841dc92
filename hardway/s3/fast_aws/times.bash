# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# Times as S3 writes them, for the fast aws.

days() { # YEAR MONTH DAY: sets $seconds of its start, since 1970
  local year=$((10#$1)) month=$((10#$2)) day=$((10#$3)) era
  ((month > 2 || (year--, 1)))
  ((seconds = (365 * year + year / 4 - year / 100 + year / 400 + (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 719469) * 86400))
}

iso_seconds() { # 2030-01-02T03:04:05Z: sets $seconds; empty for another text
  seconds=''
  [[ $1 =~ ^([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(Z|\+00:00)$ ]] || return 0
  local part=("${BASH_REMATCH[@]}")
  days "${part[@]:1:3}"
  ((seconds += 3600 * 10#${part[4]} + 60 * 10#${part[5]} + 10#${part[6]}))
}

http_date() { TZ=UTC0 printf -v date '%(%a, %d %b %Y %H:%M:%S GMT)T' "$1"; } # SECONDS: sets $date
