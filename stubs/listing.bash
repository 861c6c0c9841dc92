# shellcheck shell=bash disable=SC2034,SC2154
# Lists of objects and buckets, and the commands about them: aws s3 ls, mb, rb, presign, website. Read by aws, whose
# parser, names of keys and errors it uses.

# ---------------------------------------------------------------- what there is

find_objects() { # DIRECTORY FORMAT SORT-ARG...: an object that is removed meanwhile is no error
  find "$1" -ignore_readdir_race -type f -printf "$2" | tr -d % | sort "${@:3}"
}

look() { # DIRECTORY FORMAT SORT-ARG...: sets $found to the lines of find_objects, or $error; nothing where it is gone
  local _
  no_links "$1"
  for _ in 1 2 3; do
    [[ -d $1 ]] || break
    if whole find_objects "$@"; then
      # what a listing is worth whose session was removed meanwhile is nothing
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
    # of a run of slashes only the first ends a directory
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

find_buckets() { find "$store" -mindepth 1 -maxdepth 1 -type d ! -name ^tmp -printf '%f\003%T@\n' | sort; }

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
          # what is before the first / may start within a name: show the whole name
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

# ---------------------------------------------------------------- aws s3 mb, rb, presign, website

make_bucket() { # aws s3 mb
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  no_more_arguments
  [[ ${positional[0]} == s3://* ]] || fail 255 '<S3Uri>
Error: Invalid argument type'
  split_path "${positional[0]}"
  if create_bucket "$bucket"; then
    out 'make_bucket: %s\n' "$bucket"
    finish 0
  fi
  printf 'make_bucket failed: %s %s\n' "${positional[0]}" "$error" >&2
  finish 1
}

create_bucket() { # BUCKET: sets $error
  good_bucket "$1" || return 1
  if [[ ${#1} -lt 3 || ${#1} -gt 63 || ! $1 =~ ^[a-zA-Z0-9] || $1 == *- ]]; then
    error='An error occurred (InvalidBucketName) when calling the CreateBucket operation: The specified bucket is not valid.'
    return 1
  fi
  bucket_directory "$1"
  no_links "$dir"
  umask 077
  try mkdir -p -- "$dir" && return
  alive || removed
  os_error
  return 1
}

remove_bucket() { # aws s3 rb
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  no_more_arguments
  local path=${positional[0]} i
  [[ $path == s3://* ]] || fail 255 '<S3Uri>
Error: Invalid argument type'
  split_path "$path"
  [[ -z $key ]] || fail 255 "Please specify a valid bucket name only. E.g. s3://$bucket"
  if good_bucket "$bucket" && empty_bucket && bucket_exists DeleteBucket; then
    no_links "$dir"
    find "$dir" -depth -type d -empty -delete 2>/dev/null
    if [[ ! -d $dir ]]; then
      alive || removed
      out 'remove_bucket: %s\n' "$bucket"
      finish 0
    fi
    error='An error occurred (BucketNotEmpty) when calling the DeleteBucket operation: The bucket you tried to delete is not empty'
  fi
  printf 'remove_bucket failed: %s %s\n' "$path" "$error" >&2
  finish 1
}

empty_bucket() { # rb --force: removes the objects of $bucket, or ends
  local i
  [[ ${value[force]-} ]] || return 0
  load many
  if ! list_bucket "$bucket" ''; then
    printf 'fatal error: %s\n' "$error" >&2
    fail 255 'remove_bucket failed: Unable to delete all objects in the bucket, bucket will not be deleted.'
  fi
  chunked=()
  for i in "${keys[@]}"; do
    locate "$bucket" "$i"
    chunked+=("$file")
  done
  in_chunks rm -f -- ||
    fail 255 'remove_bucket failed: Unable to delete all objects in the bucket, bucket will not be deleted.'
  ((${#keys[@]})) && out "delete: s3://$bucket/%s\n" "${keys[@]}"
  return 0
}

url_encode() { # KEY: sets $encoded
  local i char
  encoded=''
  for ((i = 0; i < ${#1}; i++)); do
    char=${1:i:1}
    if [[ $char == [a-zA-Z0-9/_.~-] ]]; then
      encoded+=$char
    else
      printf -v char '%d' "'$char"
      printf -v char '%%%02X' "$((char & 255))"
      encoded+=$char
    fi
  done
}

presign() { # an object's file: no address of the real S3, which would answer
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  whole_number expires-in
  no_more_arguments
  split_path "${positional[0]}"
  if ! good_bucket "$bucket" || ! legal_key GetObject; then fail 255 "$error"; fi
  locate "$bucket" "$key"
  url_encode "$session/${file#./}"
  out 'file://%s\n' "$encoded"
  printf 'aws (S3 stub): this URL is a file of the session: curl reads it on this machine, and it does not expire\n' >&2
  finish 0
}

website() {
  parse 1 "$@" || usage_error 'the following arguments are required: paths'
  no_more_arguments
  finish 0
}
