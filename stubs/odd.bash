# shellcheck shell=bash disable=SC2034,SC2154
# Functions for unusual cases: odd keys, errors of the disk, targets that are no regular files, names that lead out,
# rare options. aws reads this file when it needs them; they use its names.

escape_name() { # COMPONENT PREFIX: one component of a key, which may be empty after a prefix: sets $name
  name=$1
  if [[ $name == *[%^[:cntrl:]]* ]]; then
    name=${name//^/^5E}
    name=${name//%/^25}
    local char code
    while [[ $name == *[[:cntrl:]]* ]]; do
      char=${name#"${name%%[[:cntrl:]]*}"}
      char=${char:0:1}
      printf -v code '^%02X' "'$char"
      name=${name//"$char"/$code}
    done
  fi
  local long=$2$name
  name=''
  while ((${#long} > 240)); do
    name+="${long:0:240}^-%/"
    long=${long:240}
  done
  case $long in
    '') long=^_ ;;
    .) long=^2E ;;
    ..) long=^2E^2E ;;
  esac
  name+=$long
}

locate_odd() { # KEY with a long, an empty or an odd part, below $dir: sets $file
  local left=$1 name slashes
  file=$dir
  while :; do
    # an empty component would be a directory a slash; a run of slashes is part of the name after it
    slashes=${left%%[!/]*}
    left=${left#"$slashes"}
    escape_name "${left%%/*}" "${slashes//\//^|}"
    file+=/$name
    [[ $left == */* ]] || break
    file+=%
    left=${left#*/}
  done
  [[ ${file%/*} == "$without_links" ]] || no_links "${file%/*}"
}

unwritable() { # sets $error to why stdout takes nothing
  reason='Bad file descriptor'
  { reason=$(printf '\n' 2>&1 >&3); } 2>/dev/null 3>&1
  os_error
}

os_error() { # [PATH]: sets $error from $reason, what a tool or bash said about it
  local number=5 text=${reason##*: }
  case $text in
    *'Permission denied') number=13 ;;
    *'Is a directory' | *directory*with\ non-directory*) number=21 text='Is a directory' ;;
    *'Not a directory') number=20 ;;
    *'No such file or directory') number=2 ;;
    *'File name too long') number=36 ;;
    *'No space left on device') number=28 ;;
    *'File too large') number=27 ;;
    *'Disk quota exceeded') number=122 ;;
    *'File exists') number=17 ;;
    *'Too many open files') number=24 ;;
    *'Cannot allocate memory') number=12 ;;
    *'Resource temporarily unavailable') number=11 ;;
    *'Bad file descriptor') number=9 ;;
    *'Broken pipe') number=32 ;;
    *'Read-only file system') number=30 ;;
    *'Operation not permitted') number=1 ;;
    *'No such device or address') number=6 ;;
    *'Argument list too long') number=7 ;;
    *'-r not specified'*) number=21 text='Is a directory' ;;
    '') text='Input/output error' ;;
  esac
  error="[Errno $number] $text"
  # a full disk is not the fault of the named file
  [[ ${1-} && $number != 2[78] && $number != 122 ]] && error+=": '$1'"
  return 0
}

no_rename() { # TARGET: it is no regular file, or in a directory of devices: to be written to; sets $through, its path
  through=$1
  [[ -p $1 || -c $1 || -b $1 || -S $1 || $1 == /proc/* || ($1 == /dev/* && $1 != /dev/shm/*) || ${1%/*}/ -ef /dev/ ]] &&
    return
  [[ -L $1 ]] || return
  # a link that stands in the user's directory is replaced, as by the CLI, unless it ends at an open file
  local _ path
  for _ in {1..40}; do
    [[ ${through%/*} -ef /proc/self/fd || ${through%/*}/ -ef /dev/ || $through == /proc/* ]] && return
    [[ -L $through ]] && path=$(readlink -n -- "$through" && printf /) || return
    path=${path%/}
    [[ $path == /* ]] || path=${through%/*}/$path
    normalise "$path"
    through=$path
  done
  return 1
}

open_through() { # PATH: open it as file 3, or a descriptor that it is a name of; sets $descriptor or $error
  descriptor=''
  if [[ ${1%/*} -ef /proc/self/fd && ${1##*/} != *[^0-9]* ]]; then
    descriptor=${1##*/}
  elif [[ ${1%/*}/ -ef /dev/ ]]; then
    case ${1##*/} in
      stdin) descriptor=0 ;;
      stdout) descriptor=1 ;;
      stderr) descriptor=2 ;;
    esac
  fi
  if [[ -z $descriptor ]]; then
    { exec 3>"$1"; } 2>/dev/null && return
    reason=$({ : >"$1"; } 2>&1)
  else
    # not with 2>/dev/null: the descriptor may be 2
    [[ -e /proc/self/fd/$descriptor ]] && exec 3>&"$descriptor" && return
    reason='Bad file descriptor'
  fi
  os_error "$1"
  return 1
}

escapes() { # KEY relative to the destination: it leads to something next to it or above
  [[ /$1/ == */../* ]] || return
  local left=$1/ depth=0 up=0
  while [[ $left ]]; do
    case ${left%%/*} in
      '' | .) ;;
      ..) if ((depth)); then ((depth--)); else ((up++)); fi ;;
      *) ((depth++)) ;;
    esac
    left=${left#*/}
  done
  # the directory right above is no file, and fails like any other directory
  ((up > 1 || (up && depth)))
}

code_of_two() { # TEXT: sets $code, by which version 2 of the CLI tells the kinds of errors apart
  case $1 in
    'An error occurred ('*) code=254 ;;
    'The user-provided path '* | 'invalid literal '* | '[Errno '* | "'utf-8' codec "* | 'remove_bucket failed: '*) ;;
    *) code=252 ;;
  esac
}

usage_of() {
  case $command in
    rm) printf '<S3Uri>' ;;
    *) printf '<LocalPath> <S3Uri> or <S3Uri> <LocalPath> or <S3Uri> <S3Uri>' ;;
  esac
}

only_for() { # OPTION KINDS EXPECTED: the option makes sense for these kinds of paths
  [[ -z ${value[$1]-} || " $2 " == *" $kinds "* ]] && return
  local formats='<LocalPath> <S3Uri>'
  [[ $kinds == s3s3 ]] && formats='<S3Uri> <S3Uri>'
  [[ $kinds == s3local ]] && formats='<S3Uri> <LocalPath>'
  fail 255 "Expected $1 parameter to be used with one of following path formats: $3. Instead, received $formats."
}

check_checksum() {
  only_for checksum-algorithm 'locals3 s3s3' '<LocalPath> <S3Uri>, <S3Uri> <S3Uri>'
  only_for checksum-mode s3local '<S3Uri> <LocalPath>'
}

check_sse_c() {
  local kind word=It
  [[ $cli == 1 ]] || word=If
  for kind in sse-c sse-c-copy-source; do
    [[ ${value[$kind]-} && -z ${value[$kind-key]-} ]] &&
      fail 255 "$word --$kind is specified, --$kind-key must be specified as well."
    [[ ${value[$kind-key]-} && -z ${value[$kind]-} ]] &&
      fail 255 "$word --$kind-key is specified, --$kind must be specified as well."
  done
  [[ ${value[sse-c-copy-source]-} && $kinds != s3s3 ]] &&
    fail 255 '--sse-c-copy-source is only supported for copy operations.'
  return 0
}

check_grants() { # the CLI looks at them when it has something to send
  local grant
  [[ $operation == upload || $operation == copy ]] || return 0
  for grant in "${grants[@]}"; do
    [[ $grant == *=* ]] || fatal 'grants should be of the form permission=principal'
    [[ ${grant%%=*} =~ ^(read|full|readacl|writeacl)$ ]] ||
      fatal 'permission must be one of: read|readacl|writeacl|full'
  done
}

check_metadata() { # k=v,k=v or JSON; a value without a key makes a list, which is no metadata
  local left=${value[metadata]-} name mark item items=() list
  [[ -z ${value[metadata]+x} || $left == '{'* ]] && return
  if [[ ${left%%,*} != *=* ]]; then
    item=${left%%,*}
    printf -v mark '%*s^' "${#item}" ''
    item=EOF
    [[ $left == *,* ]] && item=,
    fail 255 "Error parsing parameter '--metadata': Expected: '=', received: '$item' for input:
${value[metadata]}
$mark"
  fi
  while [[ $left ]]; do
    item=${left%%,*} left=${left#"${left%%,*}"} left=${left#,}
    if [[ $item == *=* ]]; then name=${item%%=*} items=("${item#*=}"); else items+=("$item"); fi
    if ((${#items[@]} > 1)) && [[ ${left%%,*} == *=* || -z $left ]]; then
      printf -v list ", '%s'" "${items[@]}"
      fail 255 "Parameter validation failed:
Invalid type for parameter $name, value: [${list#, }], type: <class 'list'>, valid types: <class 'str'>"
    fi
  done
}

help_text() {
  out '%s\n' "This is the S3 stub of hardway: it does what AWS CLI $cli.x does, on local disk." '' \
    '  aws s3 cp|mv|rm|ls|sync|mb|rb|presign ...' \
    '  aws s3api head-object|get-object|put-object|copy-object|delete-object|delete-objects|list-objects|list-objects-v2 ...' \
    '  aws s3api head-bucket|list-buckets|create-bucket|delete-bucket|get-bucket-location|wait ...' \
    '  aws sts get-caller-identity' '  aws configure get|set|list' '' \
    "Session: ${s3_stubbed_session-none}. To end it and get the real aws back: clear-s3-stubbed" '' \
    'Flags that the CLI takes, and that do nothing here:'
  local name python
  for name in aws cp mv sync rm ls mb presign; do
    # shellcheck disable=SC2046,SC2086 # a word for each flag
    out '  %s:%s\n' "$name" "$(printf ' --%s' $(printf '%s\n' ${ignored[$name]} | cut -d: -f1))"
  done
  [[ $program ]] || find_program
  python=$(type -P python3) || finish 0
  exec "$python" -I -S -c "$run_calls" "${program%/*}" help
}

unclaim() { # remove $temporary, the last one claimed: what is left of it takes room on a disk that may be full
  rm -f -- "$temporary" 2>/dev/null
  forget
  alive || removed
  return 1
}
