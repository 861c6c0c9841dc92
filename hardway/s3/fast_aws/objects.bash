# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# Objects of S3 for the fast aws: a small object is one request. The first part of a larger object tells its size.

least_part=$((8 << 20)) largest_part=$((64 << 20)) at_a_time=4
workers=() upload_id=''

# ---------------------------------------------------------------- workers, and the end

finish() { # CODE
  trap '' INT TERM HUP
  end_workers
  [[ -z $upload_id ]] || abort_upload
  ((${#scratch[@]})) && rm -rf -- "${scratch[@]}"
  exit "$1"
}

forget() { # $temporary, which has another name now
  local each left=()
  for each in "${scratch[@]}"; do [[ $each == "$temporary" ]] || left+=("$each"); done
  scratch=("${left[@]}")
}

end_workers() {
  local pid
  for pid in "${workers[@]}"; do kill -TERM -- "-$pid"; done
  ((${#workers[@]})) && wait "${workers[@]}"
  workers=()
} 2>/dev/null

temporary_files() { # sets $parts, a directory of this process
  [[ -z ${parts-} ]] || return 0
  parts=$work/aws-$$.$RANDOM$RANDOM
  if ! (umask 077 && exec mkdir -- "$parts") 2>/dev/null; then
    reason=$(exec mkdir -- "$parts" 2>&1)
    parts=''
    os_error "$work"
    return 1
  fi
  scratch+=("$parts")
}

# ---------------------------------------------------------------- objects that are read

look_up() { # $bucket/$key is an object; or sets $error. A download has its first bytes then
  if [[ $operation == download && -z ${value[dryrun]-} ]]; then
    find_object && return
  else
    head_object && return
  fi
  [[ $status != 404 || $error_code != 404 ]] ||
    error="An error occurred (404) when calling the HeadObject operation: Key \"$key\" does not exist"
  return 1
}

payer() { # sets $headers to what each request of an object has
  headers=()
  [[ -z ${value[request-payer]-} ]] || headers=(x-amz-request-payer:requester)
}

head_object() { # sets $fields and $size
  [[ $bucket != hardway_i-* ]] || { head_of_store; return; }
  payer
  plain=() upload='' payload='' into=''
  ask HEAD HeadObject "$key" && size=${fields[content-length]-0}
}

of_head() { # the CLI asks for the head first, and an answer to HEAD has no text
  [[ $status == 0 ]] || { body='' && explain 0 HEAD HeadObject; }
}

find_object() { # $bucket/$key: fetches its first part to $first; sets $size, $etag, $md5 and $modified, or $error
  local range="Range: bytes=0-$((least_part - 1))" total
  [[ $bucket != hardway_i-* ]] || { find_in_store; return; }
  [[ ${found_object-} != "$bucket/$key" ]] || return 0
  place_first || return
  payer
  plain=("$range") upload='' payload='' into=$first
  if ! ask GET GetObject "$key"; then
    [[ $status == 416 ]] || { of_head && return 1; }
    # an empty object has no range
    plain=()
    ask GET GetObject "$key" || { of_head && return 1; }
  fi
  into='' modified=${fields[last-modified]-}
  size=${fields[content-length]-} etag=${fields[etag]-} total=${fields[content-range]##*/}
  [[ $status != 206 ]] || size=$total
  [[ $size =~ ^[0-9]{1,18}$ ]] || hand_over 'an object without a length'
  md5=''
  if [[ $etag =~ ^\"([0-9a-f]{32})\"$ && ${fields[x-amz-server-side-encryption]-} != aws:kms* &&
    -z ${fields[x-amz-server-side-encryption-customer-algorithm]-} ]]; then
    md5=${BASH_REMATCH[1]}
  fi
  here_already=$least_part
  ((size > least_part && status == 206)) || here_already=$size
  if [[ $md5 ]] && ((here_already == size)); then
    checked_md5 "$first" || hand_over 'an object that is not what its ETag says'
  fi
  found_object=$bucket/$key
}

place_first() { # sets $first, a new file: where the download goes, if that is a file in a directory, else below TMPDIR
  local target=$target_path
  first=''
  if [[ $operation == download && ! $streaming ]]; then
    [[ ! $target_named ]] || target+=${key##*/}
    [[ ! -d ${target%/*} || -L $target || (-e $target && ! -f $target) || $target == /@(dev|proc)/* ]] ||
      first=${target%/*}/.aws-$$
  fi
  { [[ $first ]] && claim_as "$first"; } || claim_as "$work/aws-$$" || { os_error "$work" && return 1; }
  first=$temporary
}

checked_md5() { # FILE
  local sum
  sum=$(exec md5sum <"$1") && [[ ${sum%% *} == "$md5" ]]
}

fill() { # TARGET: sets $temporary, next to it, to the object
  temporary=$first
  if [[ ${stays-} ]]; then
    claim_as "${1%/*}/.aws-$$" || { os_error "$1" && return 1; }
    try cp --no-preserve=mode --preserve=timestamps -- "$first" "$temporary" || { os_error "$1" && unclaim; return 1; }
  elif [[ ${first%/*} != "${1%/*}" ]]; then
    claim_as "${1%/*}/.aws-$$" || { os_error "$1" && return 1; }
    try mv -fT -- "$first" "$temporary" || { os_error "$1" && unclaim; return 1; }
  fi
  ((here_already < size)) || return 0
  fill_rest || { unclaim; return 1; }
  if [[ $md5 ]] && ! checked_md5 "$temporary"; then
    error='the file is not what the ETag of the object says'
    unclaim
    return 1
  fi
  keep_time "$temporary" || { os_error "$1" && unclaim; }
}

keep_time() { [[ -z $modified ]] || try touch -cd "$modified" -- "$1"; } # FILE

stream_object() { # to stdout, and end; or set $error
  find_object || return
  { exec 3>&1; } 2>/dev/null || { reason='Bad file descriptor' && os_error && return 1; }
  send_object - && finish 0
}

# ---------------------------------------------------------------- objects that are written

upload_headers() { # NAME of the local file: sets $headers
  local type=''
  payer
  headers+=("${given_headers[@]}")
  [[ -z ${value[acl]-} ]] || headers+=("x-amz-acl:${value[acl]}")
  if [[ " ${headers[*]}" != *' content-type:'* && -z ${value[no-guess-mime-type]-} ]]; then
    [[ $1 != *.* ]] || guess_type "$1"
    [[ -z $type ]] || headers+=("content-type:$type")
  fi
}

put() { # SOURCE BUCKET/KEY OPERATION: a file, or stdin for -
  local source=$1 held name=''
  split_path "$2"
  good_bucket "$bucket" && legal_key "$3" || return 1
  [[ $bucket != hardway_i-* ]] || { put_into_store "$1"; return; }
  # curl takes such a key for a directory, to put the file of that name into
  [[ /$key != */ && /$key != */. && /$key != */.. ]] || hand_over "the key $key"
  plain=() into=''
  if [[ $1 == - ]]; then
    consumed=1 expected=${value[expected-size]-0}
    temporary_files || return
    { exec {held}<&0; } 2>/dev/null || { reason='Bad file descriptor' && os_error && return 1; }
    next_part "$held" 1 || return
    ((part_size == this_part)) && { put_parts "$held" ''; return; }
    source=$parts/1
  else
    name=${1##*/}
    if ! { exec {held}<"$1"; } 2>/dev/null; then
      reason=$({ : <"$1"; } 2>&1)
      os_error "$1"
      return 1
    fi
    expected=$(exec stat -Lc %s -- "$1") || expected=0
    ((expected >= least_part)) && { put_parts "$held" "$name"; return; }
    exec {held}<&-
  fi
  hash_file "$source" || { os_error "$source" && return 1; }
  upload_headers "$name"
  payload=$hash upload=$source
  ask PUT "$3" "$key" && said_so "${fields[etag]-}"
  local code=$?
  payload='' upload=''
  return $code
}

said_so() { # TEXT, empty where S3 did not give what it gives after a success
  error='an answer that does not say that it was done'
  [[ $1 ]]
}

remove() { # BUCKET/KEY
  split_path "$1"
  good_bucket "$bucket" && legal_key DeleteObject || return 1
  [[ $bucket != hardway_i-* ]] || { remove_from_store; return; }
  payer
  plain=() upload='' payload='' into=''
  ask DELETE DeleteObject "$key"
}
