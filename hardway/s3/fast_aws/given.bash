# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# The attributes of an object that the options of a transfer of the fast aws give, and copies within S3.

attributes_given() { # what the options say of an upload
  local pair
  [[ $operation == upload ]] || hand_over 'a copy with other attributes'
  given_headers=()
  for pair in cache-control content-disposition content-encoding content-language content-type expires \
    website-redirect:x-amz-website-redirect-location storage-class:x-amz-storage-class sse:x-amz-server-side-encryption \
    sse-kms-key-id:x-amz-server-side-encryption-aws-kms-key-id; do
    [[ ${value[${pair%%:*}]+x} ]] || continue
    give "${pair#*:}" "${value[${pair%%:*}]}"
  done
  [[ ! ${value[metadata]+x} ]] || metadata_given
}

give() { # NAME TEXT
  local text=$2
  [[ $1 != x-amz-server-side-encryption || $text != set ]] || text=AES256
  [[ $text && $text != *[^[:print:]]* && $text != ' '* && $text != *' ' ]] || hand_over "this text for $1"
  [[ $1 != expires ]] || { iso_seconds "$text" && [[ $seconds ]] && http_date "$seconds" && text=$date; } ||
    hand_over 'this time for --expires'
  given_headers+=("${1,,}:$text") # names are signed in lower case
}

metadata_given() { # k=v,k=v
  local item left=${value[metadata]},
  [[ $left != '{'* && $left != *[\"\'\\]* ]] || hand_over 'such --metadata'
  while [[ $left ]]; do
    item=${left%%,*} left=${left#*,}
    [[ $item =~ ^[a-zA-Z0-9_-]+=. ]] || hand_over 'such --metadata'
    give "x-amz-meta-${item%%=*}" "${item#*=}"
  done
}

copy() { # BUCKET/KEY BUCKET/KEY
  local from
  [[ $1 != hardway_i-* && $2 != hardway_i-* ]] || { copy_in_store "$@"; return; }
  ((size < 5 << 30)) || hand_over 'a copy of 5 GiB or more'
  url_encode "$1"
  from=$encoded
  split_path "$2"
  good_bucket "$bucket" && legal_key CopyObject || return 1
  payer
  headers+=("x-amz-copy-source:$from")
  [[ -z ${value[acl]-} ]] || headers+=("x-amz-acl:${value[acl]}")
  plain=() upload='' payload='' into=''
  ask PUT CopyObject "$key" || return
  [[ $body == *'</CopyObjectResult>'* ]] || body=''
  said_so "$body"
}
