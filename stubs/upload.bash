# shellcheck shell=bash disable=SC2034,SC2154
# What puts an object into a session: a file, stdin, a copy of another object. Read by aws when it comes to that.

claim() { # sets $temporary, a new empty file in the session's work directory
  [[ -d $work ]] || mkdir -- "$work" 2>/dev/null
  no_links "$work"
  claim_as "$work/$$" && return
  alive || removed
  os_error
  return 1
}

publish() { # FILE: rename $temporary to it; the directory may go while a bucket is removed
  local _
  for _ in 1 2 3 4 5; do
    [[ -d ${1%/*} ]] || mkdir -p -- "${1%/*}" 2>/dev/null
    if mv -fT -- "$temporary" "$1" 2>/dev/null; then
      forget
      return
    fi
    alive || removed
  done
  try mv -fT -- "$temporary" "$1" && forget && return
  os_error
  unclaim
}

may_be_made() { # OPERATION: a put makes $bucket if need be, but not by a name that S3 has for none
  [[ $bucket != *[A-Z]* && ${#bucket} -le 63 && $bucket != .* && $bucket != *..* && $bucket != *. ]] && return
  bucket_exists "$1"
}

put() { # SOURCE BUCKET/KEY OPERATION: store a file, or stdin for -
  split_path "$2"
  good_bucket "$bucket" && legal_key "$3" && may_be_made "$3" && claim || return 1
  if [[ $1 == - ]]; then
    reason=$(exec cat 2>&1 >"$temporary") || { os_error && unclaim; return 1; }
  elif ! { read_text "$1" && printf %s "$text" 2>/dev/null >"$temporary"; }; then
    if ! try cp --no-preserve=mode -- "$1" "$temporary"; then
      if [[ $reason == *"'$temporary'"* ]]; then os_error; else os_error "$1"; fi
      unclaim
      return
    fi
  fi
  now
  try touch -d "@$now" -- "$temporary" || { os_error && unclaim; return 1; }
  locate "$bucket" "$key"
  publish "$file"
}

copy() { # BUCKET/KEY BUCKET/KEY
  split_path "$1"
  locate "$bucket" "$key"
  local source=$file
  if ! is_object "$source"; then
    error='An error occurred (NoSuchKey) when calling the CopyObject operation: The specified key does not exist.'
    return 1
  fi
  if [[ $1 == "$2" && -z ${value[metadata]-}${value[metadata-directive]-}${value[storage-class]-}${value[sse]-} ]]; then
    error='An error occurred (InvalidRequest) when calling the CopyObject operation: '
    error+='This copy request is illegal because it is trying to copy an object to itself without changing the '
    error+="object's metadata, storage class, website redirect location or encryption attributes."
    return 1
  fi
  put "$source" "$2" CopyObject
}
