# shellcheck shell=bash disable=SC2034,SC2154
# The calls of `aws s3api` that the stub has. Read by aws, whose objects, parser and errors it uses; it owns the JSON
# of AWS CLI 1.x and as much of --query as can be right.

json() { # TEXT: sets $quoted
  local char code
  quoted=${1//\\/\\\\}
  quoted=${quoted//\"/\\\"}
  while [[ $quoted == *[$'\001'-$'\037']* ]]; do
    char=${quoted#"${quoted%%[$'\001'-$'\037']*}"}
    char=${char:0:1}
    case $char in
      $'\n') code='\n' ;;
      $'\t') code='\t' ;;
      $'\r') code='\r' ;;
      $'\b') code='\b' ;;
      $'\f') code='\f' ;;
      *) printf -v code '\\u%04x' "'$char" ;;
    esac
    quoted=${quoted//"$char"/$code}
  done
  quoted=\"$quoted\"
}

need() { # OPTION...: they have to be given
  local name missing=''
  for name; do [[ ${value[$name]+x} ]] || missing+=", --$name"; done
  [[ -z $missing ]] || usage_error "the following arguments are required: ${missing#, }"
}

no_unknown_options() {
  ((${#rest[@]})) || return
  local all
  printf -v all ', %s' "${rest[@]}"
  usage_error_255 "Unknown options: ${all#, }"
}

usage_error_255() {
  printf '%s\n%s\n' 'usage: aws [options] <command> <subcommand> [<subcommand> ...] [parameters]' "$1" >&2
  finish 255
}

http_date() { # SECONDS: sets $date
  local TZ=UTC0
  printf -v date '%(%a, %d %b %Y %H:%M:%S GMT)T' "$1"
}

iso_date() {
  local TZ=UTC0
  printf -v date '%(%Y-%m-%dT%H:%M:%S.000Z)T' "$1"
}

md5() { # FILE...: sets md5s; or $error
  local line found
  md5s=()
  whole md5sum -- "$@" || return
  # a name with a backslash or a newline is quoted by a leading backslash
  while [[ $found ]]; do
    line=${found%%$'\n'*} found=${found#"$line"} found=${found#$'\n'}
    line=${line#\\}
    md5s+=("${line%% *}")
  done
}

field() { # NAME VALUE [raw]: a member of the answer
  names+=("$1") plain_values+=("$2")
  if [[ ${3-} ]]; then quoted=$2; else json "$2"; fi
  json_values+=("$quoted")
}

answer() { # print the fields as --output and --query ask
  local i
  if [[ $query ]]; then
    for i in "${!names[@]}"; do
      [[ ${names[i]} == "$query" ]] || continue
      if [[ $output == text ]]; then out '%s\n' "${plain_values[i]}"; else out '%s\n' "${json_values[i]}"; fi
      finish 0
    done
    refuse "it cannot answer --query $query of $command; it knows --query NAME, with one of: ${names[*]}"
  fi
  case $output in
    json)
      local members=()
      for i in "${!names[@]}"; do members+=("    \"${names[i]}\": ${json_values[i]}"); done
      print_members
      ;;
    text)
      # the CLI sorts the columns by name; Metadata is empty and not shown
      local columns=() found
      whole sort_fields || fail 255 "$error"
      local IFS=$'\n'
      # shellcheck disable=SC2206
      columns=($found)
      IFS=$'\t'
      out '%s\n' "${columns[*]#* }"
      ;;
    *) refuse "it has no --output $output" ;;
  esac
  finish 0
}

sort_fields() {
  local i
  for i in "${!names[@]}"; do
    [[ ${names[i]} == Metadata ]] || printf '%s %s\n' "${names[i]}" "${plain_values[i]}"
  done | sort
}

an_object() { # OPERATION: $bucket and $key from the options, found at $file
  bucket=${value[bucket]} key=${value[key]}
  if ! good_bucket "$bucket" || ! legal_key "$1"; then fail 255 "$error"; fi
  locate "$bucket" "$key"
}

about_object() { # FILE [LENGTH RANGE]: fields of what head-object and get-object say; or $error
  local times found
  names=() plain_values=() json_values=()
  whole find "$1" -printf '%T@ %s' || return
  times=$found
  md5 "$1" || return
  http_date "${times%%.*}"
  field AcceptRanges bytes
  field LastModified "$date"
  field ContentLength "${2-${times#* }}" raw
  field ETag "\"${md5s[0]}\""
  [[ ${3-} ]] && field ContentRange "$3"
  field ContentType binary/octet-stream
  field Metadata '{}' raw
}

head_object() {
  an_object HeadObject
  if ! is_object "$file" || ! about_object "$file"; then
    alive || removed
    is_object "$file" || error='An error occurred (404) when calling the HeadObject operation: Not Found'
    fail 255 "$error"
  fi
  answer
}

get_object() {
  local first last size found path
  an_object GetObject
  bucket_exists GetObject || fail 255 "$error"
  claim || fail 255 "$error"
  # a copy of its own: what it says of the object and what it writes are the same object
  if ! is_object "$file" || ! try cp -P --preserve=timestamps -- "$file" "$temporary"; then
    alive || removed
    os_error
    [[ -e $file ]] || error='An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.'
    fail 255 "$error"
  fi
  if [[ ${value[range]+x} ]]; then
    [[ ${value[range]} =~ ^bytes=([0-9]*)-([0-9]*)$ ]] || refuse "it has no --range ${value[range]}"
    first=${BASH_REMATCH[1]} last=${BASH_REMATCH[2]}
    whole find "$temporary" -printf %s || fail 255 "$error"
    size=$found
    if [[ -z $first ]]; then
      first=$((size - last))
      ((first < 0)) && first=0
      last=''
    fi
    ((first < size)) ||
      fail 255 'An error occurred (InvalidRange) when calling the GetObject operation: The requested range is not satisfiable'
    [[ -n $last ]] && ((last < size)) || last=$((size - 1))
    about_object "$temporary" "$((last - first + 1))" "bytes $first-$last/$size" || fail 255 "$error"
    scratch+=("$temporary.part")
    if ! reason=$(tail -c "$((size - first))" -- "$temporary" 2>&1 >"$temporary.part") ||
      ! reason=$(head -c "$((last - first + 1))" -- "$temporary.part" 2>&1 >"$temporary"); then
      os_error
      fail 255 "$error"
    fi
  else
    about_object "$temporary" || fail 255 "$error"
  fi
  absolute "${positional[0]}"
  load odd
  no_rename "$path"
  open_through "$through" || fail 255 "$error"
  reason=$(cat -- "$temporary" 2>&1 >&3) || { os_error "${positional[0]}" && fail 255 "$error"; }
  exec 3>&-
  answer
}

put_object() {
  local source=/dev/null path
  bucket=${value[bucket]} key=${value[key]}
  if [[ ${value[body]+x} ]]; then
    absolute "${value[body]}"
    source=$path
    [[ -e $source && ! -d $source ]] || fail 255 "Error parsing parameter '--body': Blob values must be a path to a file."
  fi
  good_bucket "$bucket" || fail 255 "$error"
  { exec <"$source"; } 2>/dev/null || fail 255 "[Errno 13] Permission denied: '${value[body]}'"
  put - "$bucket/$key" PutObject || fail 255 "$error"
  names=() plain_values=() json_values=()
  md5 "$file" || fail 255 "$error"
  alive || removed
  field ETag "\"${md5s[0]}\""
  answer
}

delete_object() {
  remove "${value[bucket]}/${value[key]}" || fail 255 "$error"
  finish 0
}

create_bucket_call() {
  load buckets
  create_bucket "${value[bucket]}" || fail 255 "$error"
  names=() plain_values=() json_values=()
  field Location "/${value[bucket]}"
  answer
}

rows() { # MEMBER FIELD...: print rows_json (objects), or of columns[row * fields + field] what --query asks for
  local member=$1 i j n text wanted=() picked=()
  shift
  local fields=("$@")
  n=$((${#columns[@]} / $#))
  if [[ $query == "length($member)" ]]; then
    ((n)) || fail 255 "In function length(), invalid type for value: None, expected one of: ['string', 'array', 'object'], received: \"null\""
    out '%s\n' "$n"
    finish 0
  fi
  local shape="^$member\\[(\\*|-?[0-9]+)?\\]\\.([A-Za-z]+|\\[[A-Za-z, ]+\\])\$"
  [[ $query =~ $shape ]] || refuse "it cannot answer --query $query; it knows length($member), ${member}[].NAME, ${member}[0].NAME and ${member}[].[NAME,NAME]"
  local index=${BASH_REMATCH[1]} name=${BASH_REMATCH[2]} list=''
  [[ $name == '['* ]] && list=1 && name=${name//[\[\] ]/}
  local IFS=,
  for text in $name; do
    for j in "${!fields[@]}"; do [[ ${fields[j]} == "$text" ]] && break; done
    [[ ${fields[j]} == "$text" ]] || refuse "it cannot answer --query $query; of its members it knows ${fields[*]}"
    wanted+=("$j")
  done
  IFS=$'\t'
  if [[ $index == '*' || -z $index ]]; then
    for ((i = 0; i < n; i++)); do picked+=("$i"); done
  else
    ((index < 0)) && ((index += n))
    ((index >= 0 && index < n)) && picked=("$index")
  fi
  if ((${#picked[@]} == 0)); then
    if [[ $output == text ]]; then out 'None\n'; else out 'null\n'; fi
    finish 0
  fi
  local lines=() cells=() page=() margin='    '
  [[ -z $index || $index == '*' ]] || margin=''
  for i in "${picked[@]}"; do
    cells=()
    for j in "${wanted[@]}"; do
      text=${columns[i * $# + j]}
      [[ $output == text || ${fields[j]} == Size ]] || { json "$text" && text=$quoted; }
      cells+=("$text")
    done
    if [[ $output == text ]]; then
      if [[ $list ]]; then
        lines+=("${cells[*]}")
      else
        page+=("${cells[0]}")
        # the CLI prints the text of each page of 1000 on its own
        ((${#page[@]} == 1000)) && lines+=("${page[*]}") && page=()
      fi
    elif [[ $list ]]; then
      printf -v text "$margin    %s,\n" "${cells[@]}"
      lines+=("${margin}[
${text%,*}
$margin]")
    else
      lines+=("$margin${cells[0]}")
    fi
  done
  ((${#page[@]})) && lines+=("${page[*]}")
  if [[ $output == text || -z $margin ]]; then
    out '%s\n' "${lines[@]}"
  else
    printf -v text '%s,\n' "${lines[@]}"
    out '[\n%s\n]\n' "${text%,*}"
  fi
  finish 0
}

list_objects() {
  local bucket=${value[bucket]} prefix=${value[prefix]-} delimiter=${value[delimiter]-} after=${value[start-after]-}
  local i name found count=0 limit='' skip=0 last='' more='' seen='' objects=() prefixes=() files=() members=() text skipped=0
  local token='^\{"ContinuationToken": null, "boto_truncate_amount": ([0-9]+)\}$'
  good_bucket "$bucket" || fail 255 "$error"
  list_bucket "$bucket" "$prefix" || fail 255 "$error"
  if [[ ${value[max-keys]+x} ]]; then
    limit=${value[max-keys]}
    ((limit > 1000)) && limit=1000
  elif [[ ${value[no-paginate]-} ]]; then
    limit=1000
  fi
  if [[ ${value[continuation-token]+x} ]]; then
    whole decode "${value[continuation-token]}" ||
      fail 255 'An error occurred (InvalidArgument) when calling the ListObjectsV2 operation: The continuation token provided is incorrect'
    after=$found
  fi
  if [[ ${value[starting-token]+x} ]]; then
    { whole decode "${value[starting-token]}" && [[ $found =~ $token ]]; } || fail 255 'Bad starting token: '"${value[starting-token]}"
    skip=${BASH_REMATCH[1]} skipped=$skip
  fi
  for i in "${!keys[@]}"; do
    name=${keys[i]}
    [[ -z $after || $name > $after ]] || continue
    text=''
    if [[ $delimiter && ${name:${#prefix}} == *"$delimiter"* ]]; then
      text=${name:${#prefix}}
      text=$prefix${text%%"$delimiter"*}$delimiter
      [[ $seen == "/$text" || ($after == "$text"*) ]] && continue
      seen=/$text
    fi
    ((skip-- > 0)) && continue
    if [[ -n $limit ]] && ((count == limit)); then
      more=$last
      break
    elif [[ ${value[max-items]+x} ]] && ((count == value[max-items])); then
      more=items
      break
    fi
    ((count++))
    last=${text:-$name}
    if [[ $text ]]; then
      prefixes+=("$text")
    else
      locate "$bucket" "$name"
      objects+=("$i") files+=("$file")
    fi
  done
  local sums=() columns=() rows_json=()
  for ((i = 0; i < ${#files[@]}; i += 500)); do
    if ! md5 "${files[@]:i:500}"; then
      # an object that is gone since the listing is left out by another one
      alive || removed
      ((${1-0} < 3)) || fail 255 "$error"
      list_objects "$((${1-0} + 1))"
    fi
    sums+=("${md5s[@]}")
  done
  for i in "${!objects[@]}"; do
    iso_date "${times[objects[i]]}"
    columns+=("${keys[objects[i]]}" "$date" "\"${sums[i]}\"" "${sizes[objects[i]]}" STANDARD)
  done
  if [[ $query == 'KeyCount' && -n $limit ]]; then
    out '%s\n' "$count"
    finish 0
  fi
  [[ $query == CommonPrefixes* ]] && columns=("${prefixes[@]}") && rows CommonPrefixes Prefix
  [[ $query ]] && rows Contents Key LastModified ETag Size StorageClass
  [[ $output == json ]] || refuse "it has --output $output of $command with --query only"
  for ((i = 0; i < ${#columns[@]}; i += 5)); do
    json "${columns[i]}"
    rows_json+=("        {
            \"Key\": $quoted,
            \"LastModified\": \"${columns[i + 1]}\",
            \"ETag\": \"\\${columns[i + 2]%\"}\\\"\",
            \"ChecksumAlgorithm\": [
                \"CRC32\"
            ],
            \"Size\": ${columns[i + 3]},
            \"StorageClass\": \"STANDARD\"
        }")
  done
  if [[ -n $limit ]]; then
    if [[ $more ]]; then members+=('    "IsTruncated": true'); else members+=('    "IsTruncated": false'); fi
  fi
  add_list Contents "${rows_json[@]}"
  if [[ -n $limit ]]; then
    json "$bucket" && members+=("    \"Name\": $quoted")
    json "$prefix" && members+=("    \"Prefix\": $quoted")
    [[ $delimiter ]] && json "$delimiter" && members+=("    \"Delimiter\": $quoted")
    members+=("    \"MaxKeys\": $limit")
  fi
  rows_json=()
  for text in "${prefixes[@]}"; do
    json "$text"
    rows_json+=("        {
            \"Prefix\": $quoted
        }")
  done
  add_list CommonPrefixes "${rows_json[@]}"
  if [[ -n $limit ]]; then
    members+=('    "EncodingType": "url"' "    \"KeyCount\": $count")
    if [[ $more ]]; then
      whole encode "$more" || fail 255 "$error"
      members+=("    \"NextContinuationToken\": \"$found\"")
    fi
  else
    json "$prefix" && members+=('    "RequestCharged": null' "    \"Prefix\": $quoted")
    if [[ $more ]]; then
      printf -v text '{"ContinuationToken": null, "boto_truncate_amount": %d}' "$((${value[max-items]} + skipped))"
      whole encode "$text" || fail 255 "$error"
      members+=("    \"NextToken\": \"$found\"")
    fi
  fi
  print_members
}

decode() { printf %s "$1" | base64 -d; }

encode() { printf %s "$1" | base64 -w 0; }

add_list() { # NAME ITEM...: a member of $members, unless it is empty
  local name=$1 text
  shift
  (($#)) || return
  printf -v text '%s,\n' "$@"
  members+=("    \"$name\": [
${text%,*}
    ]")
}

print_members() {
  local text
  printf -v text '%s,\n' "${members[@]}"
  out '{\n%s\n}\n' "${text%,*}"
  finish 0
}

list_buckets_call() {
  local i columns=() rows_json=() members=()
  list_buckets "${value[prefix]-}"
  for i in "${!names[@]}"; do
    iso_date "${times[i]}"
    columns+=("${names[i]}" "$date")
    rows_json+=("        {
            \"Name\": \"${names[i]}\",
            \"CreationDate\": \"$date\"
        }")
  done
  [[ $query ]] && rows Buckets Name CreationDate
  [[ $output == json ]] || refuse "it has --output $output of $command with --query only"
  if ((${#rows_json[@]})); then add_list Buckets "${rows_json[@]}"; else members+=('    "Buckets": []'); fi
  members+=('    "Owner": {
        "DisplayName": "stub",
        "ID": "stub"
    }' '    "Prefix": null')
  print_members
}

load listing

s3api() {
  local no_paginate=${value[no-paginate]-}
  options s3api
  parse 1 "$@" || usage_error 'the following arguments are required: operation'
  command=${positional[0]}
  set -- "${rest[@]}"
  [[ $# -eq 1 && $1 == help ]] && help_text
  case $command in
    head-object | delete-object) options "$command" bucket:1 key:1 ;;
    get-object) options get-object bucket:1 key:1 range:1 ;;
    put-object) options put-object bucket:1 key:1 body:1 ;;
    list-objects-v2)
      options list-objects-v2 bucket:1 delimiter:1 max-keys:1 prefix:1 continuation-token:1 start-after:1 \
        starting-token:1 max-items:1
      ;;
    list-buckets) options list-buckets prefix:1 ;;
    create-bucket) options create-bucket bucket:1 ;;
    *) refuse "of s3api it has head-object, get-object, put-object, list-objects-v2, list-buckets, delete-object and create-bucket, not $command" ;;
  esac
  if [[ $command == get-object ]]; then
    parse 1 "$@"
    need bucket key
    ((${#positional[@]})) || usage_error 'the following arguments are required: outfile'
  else
    parse 0 "$@"
    case $command in
      list-buckets) ;;
      list-objects-v2 | create-bucket) need bucket ;;
      *) need bucket key ;;
    esac
  fi
  no_unknown_options
  whole_number max-keys
  whole_number max-items
  [[ $no_paginate ]] && value[no-paginate]=1
  [[ $command == get-object ]] || umask 077
  case $command in
    head-object) head_object ;;
    get-object) get_object ;;
    put-object) put_object ;;
    delete-object) delete_object ;;
    list-objects-v2) list_objects ;;
    list-buckets) list_buckets_call ;;
    create-bucket) create_bucket_call ;;
  esac
}
