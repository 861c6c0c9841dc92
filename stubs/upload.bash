# shellcheck shell=bash disable=SC2034,SC2154
# Functions that put an object into a session: a file, stdin, a copy of another object. aws reads this file when needed.

claim() { # [HELD]: sets $temporary, a new empty file in the session's work directory, and $claimed if it is held
  [[ -d $work ]] || mkdir -m 700 -- "$work" 2>/dev/null
  no_links "$work"
  claim_as "$work/$$" "${1-}" && return
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

put() { # SOURCE BUCKET/KEY OPERATION [NAME TEXT]: store a file, or stdin for -, and what is said of it
  local name=${1##*/} text=$about untyped=''
  (($# > 3)) && name=$4 text=$5
  split_path "$2"
  good_bucket "$bucket" && legal_key "$3" && may_be_made "$3" || return 1
  if [[ $text == *ContentType$'\t'* || ${key##*/}$name != *.* || ($name == "${key##*/}" && $text != *Name$'\t'*) ]]; then
    : # a type was given, or is the same by both names
  elif [[ $name != *.* ]]; then
    [[ ${key##*/} != *.* ]] || untyped=1
  elif [[ $text != *Name$'\t'* ]] && load about && ! same_kind "$name" "${key##*/}"; then
    text+=Name$'\t'${name//[[:cntrl:]]/ }$'\n'
  fi
  # a read-only file is an object whose type must not be guessed: the mode alone marks it
  [[ -z $untyped ]] || umask 277
  claim "$untyped" || { umask 077 && return 1; }
  umask 077
  if [[ $untyped ]]; then
    if [[ $1 == - ]]; then
      reason=$(exec cat 2>&1 >&"$claimed") || { os_error && unclaim; return 1; }
    else
      reason=$(exec cat -- "$1" 2>&1 >&"$claimed") || { os_error "$1" && unclaim; return 1; }
    fi
    exec {claimed}>&-
  elif [[ $1 == - ]]; then
    reason=$(exec cat 2>&1 >"$temporary") || { os_error && unclaim; return 1; }
  elif read_text "$1" && printf %s "$text_read" 2>/dev/null >"$temporary"; then
    :
  elif ! try cp --no-preserve=mode -- "$1" "$temporary"; then
    if [[ $reason == *"'$temporary'"* ]]; then os_error; else os_error "$1"; fi
    unclaim
    return
  fi
  now
  try touch -d "@$now" -- "$temporary" || { os_error && unclaim; return 1; }
  locate "$bucket" "$key"
  [[ -z $text ]] || { load about && describe_as "$text" "$file"; } || { unclaim; return 1; }
  publish "$file" || return
  [[ -z $text ]] || forget_replaced
}

copy() { # BUCKET/KEY BUCKET/KEY
  local text='' name
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
  name=${key##*/}
  [[ ! -d ./^about || $replacing ]] || { load about && about_copy "$source"; }
  # a read-only object's type doesn't follow from its name
  [[ $name${2##*/} != *.* || $(find "$source" -perm -200 -printf x) ]] || name=''
  [[ $text == *Name$'\t'* ]] && name=${text#*Name$'\t'} name=${name%%$'\n'*}
  put "$source" "$2" CopyObject "$name" "$text$about"
}
