# shellcheck shell=bash disable=SC2034,SC2154,SC2317
# The command line, the messages and the exit codes of AWS CLI 1.x, for every `aws` of ours: the stub of S3 (aws) and the
# fast client of the real one (fast.bash). Each has functions of its own for the objects themselves.

set -f -o pipefail
shopt -u patsub_replacement 2>/dev/null # bash 5.2 would read & in a replacement
unset POSIXLY_CORRECT CDPATH
# a file at its size limit (ulimit -f) and a pipe without a reader are errors like a full disk, and don't end this
# process
trap '' XFSZ PIPE
export LC_ALL=C IFS=$' \t\n'
export TZ=${TZ-:/etc/localtime} # without it, libc looks at that file again for every time it prints

# ---------------------------------------------------------------- errors and exits

cli=1 # the version of the CLI: 1, or 2

fail() { # CODE TEXT: end as the CLI ends on an error of its own
  local code=$1
  printf '\n%s\n' "$2" >&2
  [[ $cli == 1 ]] || code_of_two "$2"
  finish "$code"
}

usage_error() { # TEXT: end as argparse ends
  printf '%s\n' 'usage: aws [options] <command> <subcommand> [<subcommand> ...] [parameters]' \
    'To see help text, you can run:' '' '  aws help' '  aws <command> help' '  aws <command> <subcommand> help' '' \
    "aws: error: $1" >&2
  finish $((cli == 1 ? 2 : 252))
}

out() { # FORMAT ARG...: print it on stdout, or end
  # shellcheck disable=SC2059
  printf "$@" 2>/dev/null && return
  unwritable
  fail 255 "$error"
}

scratch=() # temporary files and directories of this process
finish() {
  ((${#scratch[@]})) && rm -rf -- "${scratch[@]}"
  exit "$1"
}

interrupted() {
  printf 'cancelled: ctrl-c received\n' >&2
  finish 1
}
trap interrupted INT
trap 'finish 143' TERM
trap 'finish 129' HUP

# ---------------------------------------------------------------- the command line, as Python's argparse reads it

declare -gA value
spec=''

options() { # COMMAND NAME:ARITY[:CHOICE,CHOICE]...: declare what a parser takes: these options, and the ignored ones
  spec=" ${*:2} ${ignored[$1]-} " # ARITY is a number, ? or +
  spec=${spec//$'\n'/ }
}

find_option() { # NAME: sets $arity and $choices
  [[ $1 != *[:\ ]* && $spec == *" $1:"* ]] || return
  arity=${spec#*" $1:"}
  arity=${arity%% *} choices=''
  [[ $arity == *:* ]] && choices=${arity#*:} arity=${arity%%:*}
  return 0
}

check_choice() { # WHAT VALUE CHOICES
  [[ ,$3, == *",$2,"* && $2 != *,* ]] && return
  usage_error "argument $1: Invalid choice, valid choices are:

${3//,/ | }"
}

parse() { # WANTED ARG...: WANTED positionals (a number or ?) to $positional, options to $value, what is left to $rest
  local wanted=$1 i=0 n arg name end out
  shift
  local -a args=("$@") kind=() option=() explicit=() matches
  positional=() rest=() filters=()
  value=()
  local taken='' plain=''
  for arg; do
    kind[i]=A
    if [[ -z $plain && $arg == -?* ]]; then
      if [[ $arg == -- ]]; then
        plain=1 kind[i]=-
      else
        name=${arg#--}
        if [[ $arg == --* ]] && find_option "$name"; then
          kind[i]=O option[i]=$name
        else
          name=${name%%=*} matches=()
          if [[ $arg == --*=* ]] && find_option "$name"; then
            matches=("$name")
          elif [[ $arg == --* && $name ]]; then
            for end in $spec; do [[ $end == "$name"* ]] && matches+=("${end%%:*}"); done
          fi
          if ((${#matches[@]} > 1)); then
            printf -v out ', --%s' "${matches[@]}"
            usage_error "ambiguous option: $arg could match ${out#, }"
          elif ((${#matches[@]})); then
            kind[i]=O option[i]=${matches[0]}
            [[ $arg == *=* ]] && explicit[i]="=${arg#*=}"
          elif [[ ! $arg =~ ^-([0-9]+|[0-9]*\.[0-9]+)$ && $arg != *' '* ]]; then
            kind[i]=O
          fi
        fi
      fi
    fi
    ((i++))
  done
  n=$i i=0
  while ((i < n)); do
    if [[ ${kind[i]} == O ]]; then
      name=${option[i]-}
      if [[ -z $name ]]; then
        rest+=("${args[i++]}")
        continue
      fi
      local given=${explicit[i]-} got=()
      find_option "$name"
      ((i++))
      if [[ $given ]]; then
        got=("${given#=}")
      else
        while [[ ${kind[i]-} == A ]]; do
          case $arity in
            0) break ;;
            '?' | 1) ((${#got[@]} == 1)) && break ;;
            2) ((${#got[@]} == 2)) && break ;;
          esac
          got+=("${args[i++]}")
        done
      fi
      take_option "$name" "$given" "${got[@]}"
      continue
    fi
    # a run of arguments up to the next option: the positionals take all they want from the run, or nothing
    end=$i
    while ((end < n)) && [[ ${kind[end]} != O ]]; do ((end++)); done
    local -a run=()
    local j want=$wanted
    [[ $want == '?' ]] && want=1
    for ((j = i; j < end; j++)); do
      # argparse eats a `--` before, between or right after the positionals it takes
      [[ ${kind[j]} == - && -z $taken && ${#run[@]} -le $want ]] || run+=("${args[j]}")
    done
    i=$end
    if [[ -z $taken ]]; then
      if ((${#run[@]} >= want)); then
        taken=1
        positional=("${run[@]:0:want}")
        run=("${run[@]:want}")
      fi
    fi
    rest+=("${run[@]}")
  done
  [[ $taken || $wanted == '?' ]]
}

take_option() { # NAME EXPLICIT VALUE...
  local name=$1 given=$2 n item
  shift 2
  n=$#
  case $arity in
    0) [[ $given ]] && usage_error "argument --$name: ignored explicit argument '$1'" ;;
    1)
      if ((n == 0)); then
        [[ $name == *clude ]] && usage_error "argument --$name: expected 1 argument"
        usage_error "argument --$name: expected one argument"
      fi
      ;;
    2) ((n == 2)) || usage_error "argument --$name: expected 2 arguments" ;;
    +) ((n)) || usage_error "argument --$name: expected at least one argument" ;;
  esac
  if [[ $choices ]]; then
    for item; do check_choice "--$name" "$item" "$choices"; done
  fi
  case $name in
    include | exclude) filters+=("$name" "$1") ;;
    grants) grants=("$@") ;;
    follow-symlinks) unset 'value[no-follow-symlinks]' ;; # the last of the two counts
  esac
  value[$name]=${1-set}
}

whole_number() { # OPTION: its value, if given, has to be an integer
  [[ -z ${value[$1]+x} || ${value[$1]} =~ ^[[:space:]]*[-+]?[0-9]+(_?[0-9])*[[:space:]]*$ ]] ||
    fail 255 "invalid literal for int() with base 10: '${value[$1]}'"
}

no_more_arguments() {
  local IFS=,
  ((${#rest[@]} == 0)) || fail 255 "Unknown options: ${rest[*]}"
}

# ---------------------------------------------------------------- options that do nothing here

acls=private,public-read,public-read-write,authenticated-read,aws-exec-read,bucket-owner-read
acls+=,bucket-owner-full-control,log-delivery-write
classes=STANDARD,REDUCED_REDUNDANCY,STANDARD_IA,ONEZONE_IA,INTELLIGENT_TIERING,GLACIER,DEEP_ARCHIVE,GLACIER_IR
checksums=CRC64NVME,CRC32,SHA256,SHA1,CRC32C,SHA512,XXHASH64,XXHASH3,XXHASH128
of_a_transfer="acl:1:$acls sse-c:?:AES256 sse-c-key:1 sse-c-copy-source:?:AES256 sse-c-copy-source-key:1 grants:+
  source-region:1 no-progress:0 page-size:1 ignore-glacier-warnings:0 force-glacier-transfer:0
  request-payer:?:requester checksum-mode:1:ENABLED checksum-algorithm:1:$checksums"
kept="no-guess-mime-type:0 sse:?:AES256,aws:kms sse-kms-key-id:1 storage-class:1:$classes website-redirect:1
  content-type:1 cache-control:1 content-disposition:1 content-encoding:1 content-language:1 expires:1 metadata:1
  metadata-directive:1:COPY,REPLACE"
# By command, the options that the CLI obeys and the stub only reads. The stub refuses the values, and the combinations,
# that the CLI refuses; the options have no other effect. `aws help` prints the list; docs/testing.md has it for people.
declare -gA ignored=(
  [aws]='debug:0 endpoint-url:1 no-verify-ssl:0 profile:1 region:1 color:1:on,off,auto no-sign-request:0 ca-bundle:1
    cli-read-timeout:1 cli-connect-timeout:1 v2-debug:0 no-cli-pager:0'
  [cp]="$of_a_transfer expected-size:1"
  [mv]="$of_a_transfer validate-same-s3-paths:0"
  [sync]=$of_a_transfer
  [rm]='request-payer:?:requester page-size:1'
  [ls]='request-payer:?:requester bucket-region:1'
  [mb]=tags:2
  [presign]=expires-in:1
)
# what version 2 of the CLI adds to those of [aws]
added='cli-binary-format:1:base64,raw-in-base64-out cli-auto-prompt:0 no-cli-auto-prompt:0'

# ---------------------------------------------------------------- keys and names

name_pattern='^[a-zA-Z0-9.\-_]{1,255}$'
arn_pattern='^arn:(aws).*:(s3|s3-object-lambda):[a-z\-0-9]*:[0-9]{12}:accesspoint[/:][a-zA-Z0-9\-.]{1,63}$|^arn:(aws).*:s3-outposts:[a-z\-0-9]+:[0-9]{12}:outpost[/:][a-zA-Z0-9\-]{1,63}[/:]accesspoint[/:][a-zA-Z0-9\-]{1,63}$'

split_path() { # BUCKET/KEY, with or without s3://: sets $bucket and $key
  local path=${1#s3://}
  [[ $path == arn:* ]] && refuse "it has no access points, only buckets: $1"
  bucket=${path%%/*} key=''
  [[ $path == */* ]] && key=${path#*/}
}

good_bucket() { # sets $error
  [[ $1 && ${#1} -le 255 && $1 != *[^a-zA-Z0-9._-]* ]] && return
  error="Parameter validation failed:
Invalid bucket name \"$1\": Bucket name must match the regex \"$name_pattern\" or be an ARN matching the regex \"$arn_pattern\""
  return 1
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

# ---------------------------------------------------------------- objects

# shellcheck disable=SC2034
now() { printf -v now '%(%s)T' -1; }

claim_as() { # PREFIX [HELD]: sets $temporary, a new empty file, and $claimed, which is it, open, if held; or $reason
  local _
  set -C
  for _ in {1..100}; do
    temporary=$1.$RANDOM$RANDOM
    # shellcheck disable=SC2034
    if { if [[ ${2-} ]]; then exec {claimed}>"$temporary"; else : >"$temporary"; fi; } 2>/dev/null; then
      set +C
      scratch+=("$temporary")
      return
    fi
    [[ -e $temporary ]] || break
  done
  reason=$({ : >"$temporary"; } 2>&1)
  set +C
  return 1
}

forget() { scratch=("${scratch[@]:0:${#scratch[@]}-1}"); }

ascii=$'[\x01-\x7f]' more=$'[\x80-\xbf]'
utf8="$ascii|"$'[\xc2-\xdf]'"$more|"$'\xe0[\xa0-\xbf]'"$more|"$'[\xe1-\xec\xee\xef]'"$more$more|"$'\xed[\x80-\x9f]'"$more"
utf8+=$'|\xf0[\x90-\xbf]'"$more$more|"$'[\xf1-\xf3]'"$more$more$more|"$'\xf4[\x80-\x8f]'"$more$more"

encodable() { # KEY: it is UTF-8; else sets $error, in the CLI's words
  [[ $1 != *[$'\x80'-$'\xff']* || $1 =~ ^($utf8)*$ ]] && return
  local left=$1 position=0 last code
  while [[ $left =~ ^($utf8) ]]; do
    left=${left#"${BASH_REMATCH[0]}"}
    ((position++))
  done
  printf -v code '%x' "'${left:0:1}"
  error="'utf-8' codec can't encode character '\\udc${code: -2}' in position $position: surrogates not allowed"
  for ((last = position; ${#left} > 0; last++)); do
    left=${left:1}
    [[ ! $left || $left =~ ^($utf8) ]] && break
  done
  ((last == position)) ||
    error="'utf-8' codec can't encode characters in position $position-$last: surrogates not allowed"
  return 1
}

legal_key() { # OPERATION: $key can be an object's; sets $error
  if [[ -z $key ]]; then
    error='Parameter validation failed:
Invalid length for parameter Key, value: 0, valid min length: 1'
  elif ((${#key} > 1024)); then
    error="An error occurred (KeyTooLongError) when calling the $1 operation: Your key is too long"
  else
    encodable "$key"
    return
  fi
  return 1
}

read_text() { # FILE: sets $text_read if it is short and nothing but printable ASCII, which bash holds without a process
  text_read=''
  [[ -f $1 ]] && ! IFS= read -r -d '' -n 8192 text_read <"$1" && [[ $text_read && $text_read != *[^[:print:][:space:]]* ]]
} 2>/dev/null

try() { # COMMAND...: sets $reason, what it said, if it fails
  # shellcheck disable=SC2034
  "$@" 2>/dev/null || reason=$("$@" 2>&1)
}

# ---------------------------------------------------------------- local paths

normalise() { # PATH: sets $path, absolute, without . and ..
  local left=$1 part out=''
  [[ $left == /* ]] || left=$here/$left
  if [[ $left/ != *//* && $left/ != */./* && $left/ != */../* ]]; then
    path=$left
    return
  fi
  while [[ $left ]]; do
    part=${left%%/*}
    case $part in
      '' | .) ;;
      ..) out=${out%/*} ;;
      *) out+=/$part ;;
    esac
    [[ $left == */* ]] || break
    left=${left#*/}
  done
  path=${out:-/}
}

absolute() { # PATH: sets $path, without a look at . and ..
  path=$1
  [[ $1 == /* ]] || path=$here/$1
}

relative() { # absolute FILE: sets $shown as the CLI shows it, from the current directory
  local path up=.. base
  normalise "${1%/*}/."
  if [[ $path == "$here" ]]; then
    shown=./${1##*/}
  elif [[ $path == "${here%/}"/* ]]; then
    shown=${path#"${here%/}"/}/${1##*/}
  else
    base=${here%/*}
    while [[ $path/ != "$base"/* ]]; do
      base=${base%/*} up+=/..
    done
    shown=$up${path#"$base"}/${1##*/}
    shown=${shown//\/\//\/}
  fi
}

# ---------------------------------------------------------------- what a command is about

warn() { # PATH TEXT
  [[ ${value[quiet]-} ]] || printf 'warning: Skipping file %s. %s\n' "$1" "$2" >&2
  ((warned++))
}

fatal() { # TEXT: the whole transfer ends
  [[ ${value[quiet]-} ]] || printf 'fatal error: %s\n' "$1" >&2
  finish 1
}

warn_special() { warn "$1" 'File is character special device, block special device, FIFO, or socket.'; }

gather_one() { # a source that is one file or object; sets rels and paths
  rels=("${source_path##*/}") paths=("$source_path")
  if [[ $source_kind == local ]]; then
    if [[ ${value[no-follow-symlinks]-} && -L ${source_path%/} ]]; then
      paths=()
    elif [[ ! -e $source_path ]]; then
      warn "$source_path" 'File does not exist.'
      paths=()
    elif [[ ! -f $source_path && ! -d $source_path ]]; then
      warn_special "$source_path"
      paths=()
    elif [[ ! -r $source_path ]]; then
      warn "$source_path" 'File/Directory is not readable.'
      paths=()
    fi
    return
  fi
  split_path "$source_path"
  if [[ -z $key ]]; then
    { good_bucket "$bucket" && bucket_exists ListObjectsV2; } || fatal "$error"
    paths=()
  elif [[ $operation != delete ]]; then
    { good_bucket "$bucket" && look_up; } || fatal "$error"
  fi
}

# ---------------------------------------------------------------- transfers

plan() { # OPERATION SOURCE DESTINATION
  operations+=("$1") sources+=("$2") targets+=("$3")
}

describe() { # INDEX: sets $line, as `upload: ./a to s3://b/a`
  local name=${operations[$1]} from=s3://${sources[$1]} to=s3://${targets[$1]} shown
  case $name in
    upload) relative "${sources[$1]}" && from=$shown ;;
    download) relative "${targets[$1]}" && to=$shown ;;
    delete) to='' ;;
    discard) relative "${sources[$1]}" && from=$shown to='' name=delete ;;
  esac
  [[ ${targets[$1]} == */* || -z $to || ${value[dryrun]-} ]] || to+=/
  [[ $command == mv ]] && name=move
  line="$name: $from${to:+ to $to}"
}

perform() { # INDEX: one transfer on its own; sets $error
  local from=${sources[$1]} to=${targets[$1]}
  case ${operations[$1]} in
    upload)
      split_path "$to"
      if [[ -d $from ]] && legal_key PutObject; then
        error="[Errno 21] Is a directory: '$from'"
        return 1
      fi
      put "$from" "$to" PutObject
      ;;
    download) get "$from" "$to" ;;
    copy) copy "$from" "$to" ;;
    delete) remove "$from" ;;
    discard) try rm -f -- "$from" || { os_error "$from" && return 1; } ;;
  esac || return
  [[ $command == mv ]] || return 0
  alive || removed
  if [[ ${operations[$1]} == upload ]]; then
    try rm -f -- "$from" || { os_error "$from" && return 1; }
  else
    remove "$from"
  fi
}

carry_out() { # the plan; ends the process
  local i failed=0 lines=()
  if [[ ${value[dryrun]-} ]]; then
    for i in "${!operations[@]}"; do
      describe "$i"
      lines+=("(dryrun) $line")
    done
  else
    done_already=()
    ((${#operations[@]} > 3)) && perform_many
    for i in "${!operations[@]}"; do
      if [[ ${done_already[i]-} ]] || perform "$i"; then
        [[ ${value[quiet]-}${value[only-show-errors]-} ]] && continue
        describe "$i"
        lines+=("$line")
      else
        alive || removed
        ((failed++))
        [[ ${value[quiet]-} ]] && continue
        describe "$i"
        printf '%s failed: %s %s\n' "${line%%: *}" "${line#*: }" "$error" >&2
      fi
    done
  fi
  alive || removed
  [[ ${value[quiet]-} ]] || ((${#lines[@]} == 0)) || out '%s\n' "${lines[@]}"
  ((failed)) && finish 1
  ((warned)) && finish 2
  finish 0
}

place() { # PATH: sets side, path as the CLI spells it out, and named (the last name is the source's)
  named=''
  if [[ $1 == s3://* ]]; then
    side=s3 path=${1#s3://}
    [[ $recursive && $path != */ ]] && path+=/
    [[ $path == */ ]] && named=1
  else
    side=local
    normalise "$1"
    if [[ $recursive || -d $path || $1 == */ ]]; then
      named=1
      path=${path%/}/
    fi
  fi
  return 0
}

check_flags() {
  local path
  [[ " ${!value[*]}" != *' checksum-'* ]] || odd check_checksum
  if [[ $kinds == locals3 && -z $streaming ]]; then
    absolute "$from"
    [[ -e $path ]] || fail 255 "The user-provided path $from does not exist."
  elif [[ $kinds == s3local && $recursive ]]; then
    absolute "$to"
    [[ -e $path ]] || try mkdir -p -- "$path" || { os_error "$to" && fail 255 "$error"; }
  fi
  [[ " ${!value[*]}" != *' sse-c'* ]] || odd check_sse_c
  return 0
}

transfer() { # cp mv rm sync
  local wanted=2 i
  [[ $command == rm ]] && wanted=1
  parse "$wanted" "$@" || usage_error 'the following arguments are required: paths'
  parsed
  whole_number page-size
  [[ -z ${value[metadata]+x} ]] || { load odd && check_metadata; }
  no_more_arguments
  from=${positional[0]} to=${positional[1]-${positional[0]}}
  recursive=${value[recursive]-}
  [[ $command == sync ]] && recursive=1
  kinds='' streaming=''
  for path in "${positional[@]}"; do
    if [[ $path == s3://* ]]; then kinds+=s3; else kinds+=local; fi
  done
  case $command$kinds in
    rms3) operation=delete ;;
    rm* | *locallocal) fail 255 "usage: aws s3 $command $(usage_of)
Error: Invalid argument type" ;;
    *locals3) operation=upload ;;
    *s3local) operation=download ;;
    *) operation=copy ;;
  esac
  [[ $from == s3://?* && $from != s3://*/* ]] && from+=/
  [[ $to == s3://?* && $to != s3://*/* ]] && to+=/
  if [[ $from == - || $to == - ]]; then
    [[ $command == cp && -z $recursive ]] ||
      fail 255 'Streaming currently is only compatible with non-recursive cp commands'
    streaming=1
  fi
  if [[ $command == mv && $kinds == s3s3 ]] &&
    [[ $from == "$to" || ($to == */ && $from == "$to${from##*/}") ]]; then
    [[ $cli == 1 ]] || fail 255 "Cannot mv a file onto itself: '$from' - '$to'"
    fail 255 "Cannot mv a file onto itself: $from - $to"
  fi
  check_flags
  if [[ $operation == upload || $operation == copy ]] &&
    [[ " ${!value[*]} " =~ \ (content-|cache-|expires|website-|metadata|storage-|sse|no-guess) ]]; then
    attributes_given
  fi
  # files in a session have the session's modes; downloaded files have the user's
  [[ $operation == download ]] || umask 077
  place "$from" && source_kind=$side source_path=$path
  place "$to" && target_kind=$side target_path=$path target_named=$named
  if [[ $streaming ]]; then
    [[ $target_kind == s3 && $target_named ]] && target_path+=-
    stream
  fi
  if [[ $recursive || ${#filters[@]} -gt 0 ]]; then
    load listing
    load many
    compile_filters "$from" "$to" "$recursive"
  fi
  if [[ $command == sync ]]; then
    compare
  else
    if [[ -z $recursive ]]; then
      gather_one
    elif [[ $source_kind == s3 ]]; then
      [[ $operation == delete ]] && i=1
      gather_objects "$source_path" "${i-}"
    else
      gather_files "$source_path"
    fi
    ((${#filters[@]})) && apply_filters
    for i in "${!paths[@]}"; do
      consider "${paths[i]}" "${rels[i]}"
    done
  fi
  ((${#grants[@]} == 0 || ${#operations[@]} == 0)) || { load odd && check_grants; }
  carry_out
}

consider() { # PATH RELATIVE: plan to transfer what has passed the filters
  local target=$target_path
  [[ $target_named ]] && target+=$2
  if [[ $operation == download ]]; then
    if [[ $recursive && ${value[case-conflict]-ignore} != ignore ]]; then
      case_conflict "$2" "$target" "$1" || return
    fi
    if [[ /$2/ == */../* ]] && load odd && escapes "$2"; then
      warn "$2" 'File references a parent directory.'
      return
    fi
  fi
  plan "$operation" "$1" "$target"
}

presign() { # aws s3 presign
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  parsed
  whole_number expires-in
  no_more_arguments
  split_path "${positional[0]}"
  if ! good_bucket "$bucket" || ! legal_key GetObject; then fail 255 "$error"; fi
  presigned
  finish 0
}

s3() {
  # shellcheck disable=SC2054
  local of_all=(dryrun:0 quiet:0 include:1 exclude:1 follow-symlinks:0 no-follow-symlinks:0 only-show-errors:0
    case-conflict:1:ignore,skip,warn,error "$kept")
  options s3
  if ! parse '?' "$@" || ((${#positional[@]} == 0)); then
    no_more_arguments
    fail 255 'usage: aws [options] <command> <subcommand> [parameters]
aws: error: too few arguments'
  fi
  command=${positional[0]}
  [[ ${#rest[@]} -eq 0 && $command == help ]] && help_text
  check_choice subcommand "$command" ls,website,cp,mv,rm,sync,mb,rb,presign
  take_up "$command"
  set -- "${rest[@]}"
  [[ $# -eq 1 && $1 == help ]] && help_text
  case $command in
    cp | mv) options "$command" "${of_all[@]}" recursive:0 ;;
    sync) options sync "${of_all[@]}" size-only:0 exact-timestamps:0 delete:0 ;;
    rm) options rm dryrun:0 quiet:0 recursive:0 include:1 exclude:1 only-show-errors:0 ;;
    ls)
      load listing
      load ls
      options ls recursive:0 page-size:1 human-readable:0 summarize:0 bucket-name-prefix:1
      list "$@"
      ;;
    mb)
      load buckets
      options mb
      make_bucket "$@"
      ;;
    rb)
      load listing
      load buckets
      options rb force:0
      remove_bucket "$@"
      ;;
    presign)
      load buckets
      options presign
      presign "$@"
      ;;
  esac
  transfer "$@"
}

main() {
  local service
  [[ $# -eq 1 && $1 == help ]] && help_text
  local outputs=json,text,table of_two=''
  [[ $cli == 1 ]] || outputs+=,yaml,yaml-stream of_two=$added
  options aws no-paginate:0 "output:1:$outputs" query:1 version:0 "$of_two"
  parse 1 "$@" || { [[ ${value[version]-} ]] || usage_error 'the following arguments are required: command'; }
  if [[ ${value[version]-} ]]; then
    version
    finish 0
  fi
  service=${positional[0]}
  known_service "$service" "$@"
  if [[ -n ${value[endpoint-url]+x} && ! ${value[endpoint-url]} =~ ^[a-zA-Z][a-zA-Z0-9+.-]*: ]]; then
    fail 255 "Bad value for --endpoint-url \"${value[endpoint-url]}\": scheme is missing.  Must be of the form http://<hostname>/ or https://<hostname>/"
  fi
  enter
  output=${value[output]-${AWS_DEFAULT_OUTPUT:-json}} query=${value[query]-}
  warned=0 grants=()
  operations=() sources=() targets=()
  if [[ $service == s3 ]]; then s3 "${rest[@]}"; else other_service "$service" "${rest[@]}"; fi
}
