# shellcheck shell=bash disable=SC2034,SC2154
# Lists of objects and buckets. Read by aws, whose parser, names of keys and errors it uses.

whole() { # COMMAND...: sets $found to all that it prints, or $error; a failure can't be taken for nothing
  found=$("$@" 2>/dev/null && printf '\n/')
  if [[ $? -eq 0 && $found == *$'\n/' ]]; then
    found=${found%$'\n/'}
    return
  fi
  reason=$({ "$@" >/dev/null; } 2>&1) || [[ $reason ]] || reason="$1 failed"
  reason=${reason%%$'\n'*}
  os_error "${!#}"
  return 1
}

find_objects() { # DIRECTORY FORMAT SORT-ARG...: an object that is removed meanwhile is no error; the mark is found last
  find "$1" ^started -ignore_readdir_race -type f \( -path ^started -printf "$mark\n" -o -printf "$2" \) |
    tr -d % | sort "${@:3}"
}
mark=$'\003\003\377'

marked() { # takes the mark out of $found: without it, a tool that said nothing of it has left something out
  if [[ $found == *"$mark"$'\n' ]]; then
    found=${found%"$mark"$'\n'}
  elif [[ $found == "$mark"$'\n'* ]]; then
    found=${found#"$mark"$'\n'}
  else
    reason=''
    os_error
    return 1
  fi
}

look() { # DIRECTORY FORMAT SORT-ARG...: sets $found to the lines of find_objects, or $error; nothing where it is gone
  local _
  no_links "$1"
  for _ in 1 2 3; do
    [[ -d $1 ]] || break
    if whole find_objects "$@" && marked; then
      # a listing is worthless if its session was removed meanwhile
      alive || removed
      return
    fi
    # the directories of a bucket may be removed while it is read
    alive || removed
  done
  found=''
  [[ ! -d $1 ]]
}

list_bucket() { # BUCKET PREFIX: sets keys, sizes and times (seconds), in S3's order; or $error
  local prefix=$2 found start dir file line path bucket=$1 lead='' previous=$'\n' lines=() odd=()
  keys=() sizes=() times=()
  bucket_exists ListObjectsV2 || return
  start=$dir
  if [[ $prefix == */* ]]; then
    lead=${prefix%/*}/
    # only the first of a run of slashes ends a directory
    while [[ $lead == *// || $lead == / ]]; do lead=${lead%/}; done
    locate "$1" "${lead}x"
    start=${file%/*}
    prefix=${prefix#"$lead"}
  fi
  look "$start" '%P\003%s\003%T@\n' || return
  local IFS=$'\n'
  if [[ $found == *^* ]]; then
    # shellcheck disable=SC2206
    lines=($found)
    for line in "${lines[@]}"; do
      unescape "${line%%$'\003'*}"
      odd+=("$ordered"$'\003'"${line#*$'\003'}")
    done
    whole sort_lines "${odd[@]}" || return
  fi
  # shellcheck disable=SC2206
  lines=($found)
  for line in "${lines[@]}"; do
    path=${line%%$'\003'*}
    # a file renamed over another while find reads the directory may be seen twice
    [[ $path == "$previous" ]] && continue
    previous=$path
    if [[ $path == *$'\004'* ]]; then
      decode_order "$path"
      path=$plain
    fi
    [[ $path == "$prefix"* ]] || continue
    line=${line#*$'\003'}
    keys+=("$lead$path")
    sizes+=("${line%$'\003'*}")
    line=${line##*$'\003'}
    times+=("${line%%.*}")
  done
  return 0
}

sort_lines() { printf '%s\n' "$@" | sort; }

unescape() { # a path as listed: sets $plain, the key, and $ordered, one line without ^ that sorts as the key does
  local left=$1 code char
  left=${left//'^-/'/}
  left=${left//^_/}
  left=${left//'^|'/'/'}
  plain='' ordered=''
  while [[ $left == *^* ]]; do
    plain+=${left%%^*} ordered+=${left%%^*}
    left=${left#*^}
    code=${left:0:2} left=${left:2}
    printf -v char '%b' "\\x$code"
    plain+=$char
    if ((0x$code < 32)); then
      printf -v char '\004\\x%x' "$((0x$code + 64))"
      printf -v char '%b' "$char"
    fi
    ordered+=$char
  done
  plain+=$left ordered+=$left
}

decode_order() { # what `unescape` made to be sorted: sets $plain
  local left=$1 code char
  plain=''
  while [[ $left == *$'\004'* ]]; do
    plain+=${left%%$'\004'*}
    left=${left#*$'\004'}
    printf -v code '%d' "'${left:0:1}"
    printf -v code '\\x%x' "$((code - 64))"
    printf -v char '%b' "$code"
    plain+=$char
    left=${left:1}
  done
  plain+=$left
}

find_buckets() { find "$store" -mindepth 1 -maxdepth 1 -type d ! -name ^tmp ! -name ^about -printf '%f\003%T@\n' | sort; }

list_buckets() { # PREFIX: sets names and times; or ends
  local found line
  names=() times=()
  whole find_buckets || whole find_buckets || fail 255 "$error"
  alive || removed
  local IFS=$'\n'
  for line in $found; do
    unescape "${line%%$'\003'*}"
    [[ $plain == "$1"* ]] || continue
    line=${line#*$'\003'}
    names+=("$plain") times+=("${line%%.*}")
  done
}

list_quickly() { # BUCKET PREFIX: print a recursive listing without looking at each key, if no key needs a look
  local found format fields=() i total=0
  [[ (-z $2 || ($2 == */ && $2 != / && $2 != *//)) && $2 != *[%^\\[:cntrl:]]* ]] || return
  locate "$1" "${2}x"
  format="%TY-%Tm-%Td %TH:%TM:%TS\\003%s\\003$2%P\\n"
  look "${file%/*}" "$format" -u -t $'\003' -k 3 || fail 255 "$error"
  [[ $found && $found != *^* ]] || return
  local IFS=$'\003\n'
  # shellcheck disable=SC2206
  fields=($found)
  out '%.19s %10s %s\n' "${fields[@]}"
  if [[ ${value[summarize]-} ]]; then
    for ((i = 1; i < ${#fields[@]}; i += 3)); do ((total += fields[i])); done
    print_summary "$((${#fields[@]} / 3))" "$total"
  fi
}
