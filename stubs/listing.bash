# shellcheck shell=bash disable=SC2034,SC2154
# Lists of objects and buckets, and aws s3 ls. Read by aws, whose parser, names of keys and errors it uses.

# ---------------------------------------------------------------- what there is

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

# ---------------------------------------------------------------- aws s3 ls

list() { # aws s3 ls
  parse '?' "$@"
  whole_number page-size
  no_more_arguments
  local path=${positional[0]-s3://} i total=0 stamp='' previous='' text name seen='' prefixes=() rows=() page count=0
  split_path "${path#s3://}"
  if [[ -z $bucket ]]; then
    list_buckets "${value[bucket-name-prefix]-}"
    for i in "${!names[@]}"; do
      printf -v stamp '%(%F %T)T' "${times[i]}"
      out '%s %s\n' "$stamp" "${names[i]}"
    done
  else
    good_bucket "$bucket" || fail 255 "$error"
    local wanted=$bucket start=$key
    if [[ ${value[recursive]-} && -z ${value[human-readable]-} ]]; then
      list_quickly "$wanted" "$start" && finish 0
    fi
    list_bucket "$wanted" "$start" || fail 255 "$error"
    page=${value[page-size]-1000}
    ((page > 0 && page < 1000)) || page=1000
    for i in "${!keys[@]}"; do
      name=${keys[i]}
      if [[ -z ${value[recursive]-} ]]; then
        name=${name:${#start}}
        if [[ $name == */* ]]; then
          name=${name%%/*}
          [[ $seen == "/$name" ]] && continue
          seen=/$name
          # the text before the first / may start within a name: show the whole name
          text=$start$name
          ((count++ % page == 0)) && flush_page
          printf -v text '%30s %s/' PRE "${text##*/}"
          prefixes+=("$text")
          continue
        fi
        name=${keys[i]##*/}
      fi
      if [[ ${times[i]} != "$previous" ]]; then
        previous=${times[i]}
        printf -v stamp '%(%F %T)T' "$previous"
      fi
      text=${sizes[i]}
      if [[ ${value[human-readable]-} ]]; then
        human_size "$text"
        text=$human
      fi
      ((count++ % page == 0)) && flush_page
      printf -v text '%s %10s %s' "$stamp" "$text" "$name"
      rows+=("$text")
    done
    flush_page
  fi
  if [[ ${value[summarize]-} ]]; then
    local objects=${#keys[@]}
    if [[ -z ${value[recursive]-} ]]; then
      objects=0
      for i in "${!keys[@]}"; do
        [[ ${keys[i]:${#start}} == */* ]] || ((objects++, total += sizes[i]))
      done
    else
      for i in "${sizes[@]}"; do ((total += i)); done
    fi
    print_summary "$objects" "$total"
  fi
  [[ $start ]] && ((count == 0)) && finish 1
  finish 0
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

flush_page() { # S3 lists a page at a time, and of each page the CLI shows the prefixes first
  ((${#prefixes[@]})) && out '%s\n' "${prefixes[@]}"
  ((${#rows[@]})) && out '%s\n' "${rows[@]}"
  prefixes=() rows=()
}

human_size() { # BYTES: sets $human
  local n=$1 suffix unit=1 tenths left
  if ((n == 1)); then
    human='1 Byte'
    return
  elif ((n < 1024)); then
    human="$n Bytes"
    return
  fi
  for suffix in KiB MiB GiB TiB PiB EiB; do
    ((unit *= 1024))
    ((2 * n < 2047 * unit)) && break
  done
  # to the nearest tenth, a tie to the even one
  ((tenths = n * 10 / unit, left = n * 10 % unit * 2))
  ((left > unit || (left == unit && tenths % 2))) && ((tenths++))
  human=$((tenths / 10)).$((tenths % 10))" $suffix"
}

print_summary() { # OBJECTS BYTES
  human=$2
  [[ ${value[human-readable]-} ]] && human_size "$2"
  out '\nTotal Objects: %s\n   Total Size: %s\n' "$1" "$human"
}
