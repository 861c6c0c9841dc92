# shellcheck shell=bash disable=SC2034,SC2154
# aws s3 ls: the lines of a list of objects or buckets. Read by aws, whose parser, names of keys and errors it uses.

list() { # aws s3 ls
  parse '?' "$@"
  parsed
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
    encodable "$key" || fail 255 "$error"
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
