# shellcheck shell=bash disable=SC2034,SC2154
# A download to a local file. Every aws of ours reads this file; find_object, send_object, fill and
# keep_time are its own.

get() { # BUCKET/KEY LOCAL-PATH: download, atomically
  local target=$2 parent=${2%/*}
  split_path "$1"
  find_object || return
  if [[ -d $target ]]; then
    error="[Errno 21] Is a directory: '$target'"
    return 1
  fi
  if [[ -L $target || (-e $target && ! -f $target) || $target == /dev/* || $target == /proc/* || $parent/ -ef /dev/ ]] &&
    load odd && no_rename "$target"; then
    # shellcheck disable=SC2154
    open_through "$through" || return
    send_object "$target" || { exec 3>&- && return 1; }
    exec 3>&-
    [[ $descriptor ]] ||
      keep_time "$target" || warn "$target" "Successfully Downloaded $target but was unable to update the last modified time. \
The file was downloaded, but attempting to modify the utime of the file failed. Is the file owned by another user?"
    return 0
  fi
  if [[ -e $parent && ! -d $parent ]]; then
    error="[Errno 20] Not a directory: '$target'"
    return 1
  elif [[ $parent && ! -d $parent ]]; then
    try mkdir -p -- "$parent" || {
      os_error "$parent"
      error="Could not create directory $parent: $error"
      return 1
    }
  fi
  fill "$target" || return
  if try mv -fT -- "$temporary" "$target"; then
    forget
    return
  fi
  os_error "$target"
  unclaim
}
