# shellcheck shell=bash disable=SC2034,SC2154
# Signature version 4 of the fast aws. A hash takes one process, sha256sum: bash itself takes longer for a block, and
# openssl three times longer to start. Key and text go through a file without a name.

hash_file() { # FILE: sets $hash, its SHA-256
  hash=$(exec sha256sum <"$1") || { reason='sha256sum failed' && return 1; }
  hash=${hash%% *}
}

hash_text() { # TEXT
  open_nameless
  printf %s "$1" >"/proc/self/fd/$nameless"
  hash_file "/proc/self/fd/$nameless"
}

open_nameless() { # sets $nameless, a descriptor; one for each process, as two of them would write into it
  [[ ${nameless_of-} != "$BASHPID" ]] || return 0
  nameless_of=$BASHPID
  claim_as "$work/aws-$BASHPID" || { os_error "$work" && fatal "$error"; }
  exec {nameless}<>"$temporary"
  rm -f -- "$temporary"
  forget
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
  open_nameless
  printf "$inner%s" "$2" >"/proc/self/fd/$nameless"
  hash_file "/proc/self/fd/$nameless" || return
  inner=''
  for ((i = 0; i < 64; i += 2)); do inner+="\\x${hash:i:2}"; done
  # shellcheck disable=SC2059
  printf "$outer$inner" >"/proc/self/fd/$nameless"
  hash_file "/proc/self/fd/$nameless"
}

find_signing_key() { # sets $signing_key, for $day and $region; a day's key is kept, with a hash that tells the secret's
  local i byte hex='' check
  [[ ${signing_key-} && $signed_for == "$day/$region" ]] && return
  hash_text "$key_id/$day/$region/$secret"
  check=$hash
  kept_lines "key-$region"
  if [[ ${#lines[@]} -eq 2 && ${lines[0]} == "$check" && ${lines[1]} =~ ^[0-9a-f]{64}$ ]]; then
    signing_key=${lines[1]}
  else
    for ((i = 0; i < ${#secret}; i++)); do
      printf -v byte %d "'${secret:i:1}"
      printf -v byte %02x $((byte & 255))
      hex+=$byte
    done
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
  find_signing_key_of "$hash"
  hmac "$signing_key" "AWS4-HMAC-SHA256
$moment
$day/$region/s3/aws4_request
$canonical_hash"
  signature=$hash
}

find_signing_key_of() { # HASH, which is kept meanwhile in $canonical_hash
  canonical_hash=$1
  find_signing_key
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
