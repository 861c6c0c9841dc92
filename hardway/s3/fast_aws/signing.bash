# shellcheck shell=bash disable=SC2034,SC2154
# Signature version 4 of the fast aws. A hash takes one process, sha256sum: bash itself takes longer for a block, and
# openssl three times longer to start. Key and text go through a pipe, never a file.

hash_file() { # FILE: sets $hash, its SHA-256
  hash=$(exec sha256sum <"$1") || { reason='sha256sum failed' && return 1; }
  hash=${hash%% *}
}

hash_part() { # FILE, a large one: the processor's own instructions take a third of the time, where openssl is there
  if type -P openssl >/dev/null; then
    hash=$(exec openssl dgst -sha256 -r <"$1" 2>/dev/null)
    hash=${hash%% *}
    [[ ! $hash =~ ^[0-9a-f]{64}$ ]] || return 0
  fi
  hash_file "$1"
}

hash_text() { # TEXT
  # more than the pipe holds would wait for a reader for ever
  ((${#1} <= 60000)) || hand_over 'so long a request'
  open_slate
  printf %s "$1" >"$slate"
  hash_file "$slate"
}

open_slate() { # sets $slate, a pipe that this process writes to and then reads; another one for each process
  [[ ${slate_of-} != "$BASHPID" ]] || return 0
  slate_of=$BASHPID
  exec {slate}< <(:)
  slate=/proc/self/fd/$slate
}

hmac() { # KEY TEXT: sets $hash; the key in hexadecimal
  local i inner='' outer='' byte key=$1
  ((${#key} <= 128)) || return 1
  for ((i = 0; i < 128; i += 2)); do
    byte=0x${key:i:2}
    [[ $byte == 0x ]] && byte=0
    printf -v byte '\\x%02x\\x%02x' $((byte ^ 0x36)) $((byte ^ 0x5c))
    inner+=${byte:0:4} outer+=${byte:4}
  done
  open_slate
  printf "$inner%s" "$2" >"$slate"
  hash_file "$slate" || return
  inner=''
  for ((i = 0; i < 64; i += 2)); do inner+="\\x${hash:i:2}"; done
  # shellcheck disable=SC2059
  printf "$outer$inner" >"$slate"
  hash_file "$slate"
}

find_signing_key() { # sets $signing_key, for $day and $region; a day's key is kept, with a sum that tells another secret
  local i byte hex='' check=0
  [[ ${signing_key-} && $signed_for == "$day/$region" ]] && return
  for ((i = 0; i < ${#secret}; i++)); do
    printf -v byte %d "'${secret:i:1}"
    ((byte &= 255, check = (check ^ byte) * 16777619 & 0xffffffff))
    printf -v byte %02x "$byte"
    hex+=$byte
  done
  check="$key_id $day $check"
  kept_lines "key-$region"
  if [[ ${#lines[@]} -eq 2 && ${lines[0]} == "$check" && ${lines[1]} =~ ^[0-9a-f]{64}$ ]]; then
    signing_key=${lines[1]}
  else
    hash=41575334$hex
    ((${#hash} <= 128)) || hand_over 'so long a secret'
    for byte in "$day" "$region" s3 aws4_request; do hmac "$hash" "$byte"; done
    signing_key=$hash
    keep "key-$region" "$check" "$signing_key"
  fi
  signed_for=$day/$region
}

sign_text() { # CANONICAL-REQUEST: sets $signature, for $moment
  hash_text "$1"
  local digest=$hash
  find_signing_key
  hmac "$signing_key" "AWS4-HMAC-SHA256
$moment
$day/$region/s3/aws4_request
$digest"
  signature=$hash
}

sign() { # METHOD PATH QUERY PAYLOAD: adds the signature to the headers in ${signed[@]}
  local line names='' lines='' text i
  TZ=UTC0 printf -v moment '%(%Y%m%dT%H%M%SZ)T' -1
  day=${moment%T*}
  signed+=("x-amz-content-sha256:$4" "x-amz-date:$moment")
  [[ -z $token ]] || signed+=("x-amz-security-token:$token")
  sort_lines_of "host:$host" "${signed[@]}"
  for line in "${sorted[@]}"; do
    names+=";${line%%:*}"
    # a run of blanks counts as one
    text=${line#*:}
    while [[ $text == *'  '* ]]; do text=${text//'  '/ }; done
    lines+="${line%%:*}:$text"$'\n'
  done
  sign_text "$1
$2
$3
$lines
${names#;}
$4"
  signed+=("Authorization:AWS4-HMAC-SHA256 Credential=$key_id/$day/$region/s3/aws4_request, SignedHeaders=${names#;}, Signature=$signature")
}

sort_lines_of() { # LINE...: sets $sorted; a few, by their names
  local line i
  sorted=()
  for line; do
    for ((i = ${#sorted[@]}; i > 0; i--)); do
      [[ ${sorted[i - 1]%%:*} > ${line%%:*} ]] || break
      sorted[i]=${sorted[i - 1]}
    done
    sorted[i]=$line
  done
}
