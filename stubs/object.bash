# shellcheck shell=bash disable=SC2034,SC2154
# The bytes of an object of the session. aws reads this file when it needs them.

find_object() { # $bucket/$key: sets $file, or $error
  locate "$bucket" "$key"
  is_object "$file" && return
  error='An error occurred (404) when calling the HeadObject operation: Not Found'
  return 1
}

send_object() { # TARGET: write it to file 3, which leads there
  reason=$(exec cat -- "$file" 2>&1 >&3) || { os_error "$1" && return 1; }
}

fill() { # TARGET: sets $temporary, next to it, to the same file
  claim_as "${1%/*}/.aws-$$" || { os_error "$1" && return 1; }
  try cp -P --no-preserve=mode --preserve=timestamps -- "$file" "$temporary" || { os_error "$1" && unclaim; }
}

keep_time() { try touch -cr "$file" -- "$1"; } # FILE

stream_object() { # to stdout, and end; or set $error
  locate "$bucket" "$key"
  # opened once: whole even if it is replaced while it is read
  if ! is_object "$file"; then
    alive || removed
  elif read_text "$file"; then
    printf %s "$text_read" 2>/dev/null && finish 0
    unwritable
    return
  elif { exec 3<"$file"; } 2>/dev/null; then
    exec cat <&3
  fi
  error='An error occurred (404) when calling the HeadObject operation: Not Found'
}
