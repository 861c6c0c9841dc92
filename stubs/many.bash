# shellcheck shell=bash disable=SC2034,SC2154
# Functions of cp, mv, rm and sync for more than one file: filters, lists of files and of objects, transfers of many
# at a time, and the plan of sync. aws reads this file, which uses its objects, paths and messages.

# ---------------------------------------------------------------- filters

glob() { # PATTERN of Python's fnmatch: sets $pattern, the same for [[ ]]
  local left=$1 char body first=''
  pattern=''
  while [[ $left ]]; do
    char=${left:0:1} left=${left:1}
    case $char in
      '*' | '?') pattern+=$char ;;
      '[')
        body=$left first=''
        [[ $body == '!'* ]] && first=! && body=${body:1}
        [[ $body == ']'* ]] && first+='\]' && body=${body:1}
        if [[ $body == *']'* ]]; then
          left=${body#*']'} body=${body%%']'*}
          body=${body//\\/\\\\}
          body=${body//\[/\\\[}
          body=${body//^/\\^}
          pattern+="[$first${body//!/\\!}]"
        else
          pattern+='\['
        fi
        ;;
      [[:alnum:]/_.-]) pattern+=$char ;;
      [[:print:]]) pattern+=\\$char ;;
      *) pattern+=$char ;;
    esac
  done
}

filter_root() { # PATH RECURSIVE: sets $root, what the patterns are relative to
  if [[ $1 == s3://* ]]; then
    split_path "$1"
    root=$bucket/$key
    [[ $2 || $key == */ ]] && return
    [[ $key == */* ]] || key=/
    root=$bucket/${key%/*}
  else
    path=$1
    if [[ -z $2 ]]; then
      [[ $path == */* ]] || path=./$path
      path=${path%/*}/
    fi
    normalise "$path/."
    root=$path
  fi
}

compile_filters() { # SOURCE DESTINATION RECURSIVE
  local i roots=() root
  filter_kinds=() source_globs=() target_globs=()
  ((${#filters[@]})) || return
  filter_root "$1" "$3" && roots[0]=$root
  filter_root "$2" "$3" && roots[1]=$root
  for ((i = 0; i < ${#filters[@]}; i += 2)); do
    filter_kinds+=("${filters[i]}")
    join_root "${roots[0]}" "${filters[i + 1]}" && source_globs+=("$pattern")
    join_root "${roots[1]}" "${filters[i + 1]}" && target_globs+=("$pattern")
  done
}

join_root() { # ROOT PATTERN, as os.path.join
  local joined=$1/$2
  [[ $1 == */ || -z $1 ]] && joined=$1$2
  [[ $2 == /* ]] && joined=$2
  glob "$joined"
  return 0
}

apply_filters() { # keeps of rels, paths, sizes and times what the last matching filter includes
  ((${#filter_kinds[@]})) || return
  local i f kept
  # ? and [ ] match a character, not a byte
  { local LC_ALL=C.UTF-8; } 2>/dev/null
  for i in "${!paths[@]}"; do
    kept=include
    for f in "${!filter_kinds[@]}"; do
      # shellcheck disable=SC2053
      [[ ${paths[i]} == ${source_globs[f]} || ${paths[i]} == ${target_globs[f]} ]] && kept=${filter_kinds[f]}
    done
    [[ $kept == include ]] || unset "paths[$i]" "rels[$i]" "sizes[$i]" "times[$i]"
  done
  paths=("${paths[@]}") rels=("${rels[@]}") sizes=("${sizes[@]}") times=("${times[@]}")
}

gather_objects() { # BUCKET/PREFIX DELETING MAKING: sets rels, paths, sizes, times; a bucket that will be made is empty
  local i
  split_path "$1"
  good_bucket "$bucket" || fatal "$error"
  rels=() paths=() sizes=() times=()
  [[ -z ${3-} ]] || bucket_exists ListObjectsV2 || return 0
  list_bucket "$bucket" "$key" || fatal "$error"
  for i in "${!keys[@]}"; do
    if [[ -z $2 && ${sizes[i]} == 0 && ${keys[i]} == */ ]]; then
      unset "sizes[$i]" "times[$i]"
    else
      paths+=("$bucket/${keys[i]}")
      rels+=("${keys[i]:${#key}}")
    fi
  done
  sizes=("${sizes[@]}") times=("${times[@]}")
}

gather_files() { # DIRECTORY/: sets rels, paths, sizes, times, and $incomplete where not all could be read
  local record kind follow=-L last=none status line marked=''
  rels=() paths=() sizes=() times=()
  [[ ${value[no-follow-symlinks]-} ]] && follow=-P
  if [[ $follow == -P && -L ${1%/} ]]; then
    incomplete=1
    return
  elif [[ ! -d $1 ]]; then
    incomplete=1
    warn "$1" 'File does not exist.'
    return
  elif [[ ! -r $1 ]]; then
    incomplete=1
    warn "$1" 'File/Directory is not readable.'
    return
  fi
  claim || fatal "$error"
  # the output ends in an empty record, the messages in both exit codes
  reason=$({
    list_files "$follow" "$1" | sort -z >"$temporary"
    printf '\n/%s' "${PIPESTATUS[*]}"
    printf '\0' 2>/dev/null >>"$temporary"
  } 2>&1)
  status=${reason##*$'\n/'} reason=${reason%$'\n/'*}
  if [[ $status == '1 0' && $reason == find:* ]]; then
    # find goes on after what it can't read, and names it
    while [[ $reason ]]; do
      line=${reason%%$'\n'*} reason=${reason#"${reason%%$'\n'*}"} reason=${reason#$'\n'}
      line=${line#find: }
      path=${line%: *} path=${path#\'} path=${path%\'}
      if [[ $line == *': Too many levels of symbolic links' ]]; then
        warn "$path" 'File does not exist.'
      else
        incomplete=1
        warn "$path" "${line##*: }."
      fi
    done
  elif [[ $status != '0 0' ]]; then
    reason=${reason%%$'\n'*}
    os_error
    fatal "$error"
  fi
  while IFS= read -r -d '' record; do
    last=$record
    if [[ $record && -z ${record%$'\003'*$'\003'*$'\003'*} ]]; then
      marked=1
      continue
    fi
    path=$1${record%$'\003'*$'\003'*$'\003'*}
    kind=${record#"${path:${#1}}"$'\003'}
    case $kind in
      f*)
        rels+=("${path:${#1}}") paths+=("$path")
        kind=${kind#f?}
        sizes+=("${kind%$'\003'*}") times+=("${kind#*$'\003'}")
        ;;
      u*)
        incomplete=1
        warn "$path" 'File/Directory is not readable.'
        ;;
      s*) warn_special "$path" ;;
      l*) [[ $follow == -P ]] || warn "$path" 'File does not exist.' ;;
    esac
  done <"$temporary"
  [[ -z $last ]] || fatal "the list of the files in $1 could not be kept: $session/${temporary#./}"
  alive || removed
  [[ $marked ]] || fatal "the list of the files in $1 is not whole"
}

list_files() { # -L|-P DIRECTORY/: the mark of the session is found last, as a record without a name
  find "$1" "$2" ^started -ignore_readdir_race \( -type d -readable \) -o -type d -prune -printf '%P\003u\003\003\0' \
    -o -type f -readable -printf '%P\003f\003%s\003%T@\0' -o -type f -printf '%P\003u\003\003\0' \
    -o -type l -printf '%P\003l\003\003\0' -o -printf '%P\003s\003\003\0'
}

# ---------------------------------------------------------------- many at a time

in_chunks() { # COMMAND...: run it with the words of $chunked, so many at a time that the kernel takes them
  local i status=0
  for ((i = 0; i < ${#chunked[@]}; i += 500)); do
    "$@" "${chunked[@]:i:500}" 2>/dev/null || status=1
  done
  return $status
}

perform_many() { # all that a tool can do for many files at a time, a directory after the other
  local i g from to stage names name here_stage=''
  local -A group recorded=()
  local froms=() tos=() members=() ids=()
  chunked=()
  for i in "${!operations[@]}"; do
    case ${operations[i]} in
      discard)
        chunked+=("${sources[i]}")
        ids+=("$i")
        ;;
      delete)
        split_path "${sources[i]}"
        locate "$bucket" "$key"
        chunked+=("$file")
        ids+=("$i")
        ;;
    esac
  done
  alive || removed
  in_chunks rm -f -- && for i in "${ids[@]}"; do done_already[i]=1; done
  [[ ! -d ./^about ]] || load about
  [[ ! -d ./^about || ${#ids[@]} -eq 0 ]] || forget_replaced
  ids=()
  [[ $operation != copy || $replacing ]] || ! [[ -d ./^about ]] || recorded_objects || return
  [[ $operation != download ]] || here_stage=1
  for i in "${!operations[@]}"; do
    from=${sources[i]} to=${targets[i]}
    [[ ${done_already[i]-} || ${operations[i]} == d[ie][sl]* ]] && continue
    if [[ ${operations[i]} != upload ]]; then
      split_path "$from"
      locate "$bucket" "$key"
      from=$file
      # a file that takes over a record is transferred singly
      [[ ! ${recorded[${from#./}]-} ]] || continue
    fi
    if [[ $here_stage ]]; then
      # a file that must not be renamed over is transferred singly
      [[ (-e $to && ! -f $to) || -L $to || $to == /dev/* || $to == /proc/* ]] && continue
    else
      split_path "$to"
      { [[ $key && ${#key} -le 1024 && ${sources[i]} != "$to" ]] && may_be_made PutObject && encodable "$key"; } || continue
      locate "$bucket" "$key"
      to=$file
    fi
    # cp and mv keep a file's name: a file with another name on the other side is transferred singly
    [[ ${from##*/} == "${to##*/}" && ${to##*/} ]] || continue
    name=${from%/*}$'\003'${to%/*}
    g=${group[$name]-}
    if [[ -z $g ]]; then
      g=${#froms[@]}
      group[$name]=$g froms+=("${from%/*}") tos+=("${to%/*}")
    fi
    members[g]+=/${from##*/} ids[g]+=" $i"
  done
  ((${#froms[@]})) || return
  if [[ $here_stage ]]; then
    stage=${target_path%/}
    [[ $stage/ -ef /dev/ || $stage/ == /dev/* || $stage/ == /proc/* ]] && return
    stage+=/.aws-$$.$RANDOM$RANDOM
    mkdir -m 700 -- "$stage" 2>/dev/null || return
    scratch+=("$stage")
  else
    claim || return
    stage=$temporary
    rm -f -- "$stage"
  fi
  chunked=("${!froms[@]}")
  chunked=("${chunked[@]/#/$stage/}")
  in_chunks mkdir -p -- || { clear_stage && return; }
  chunked=()
  for to in "${tos[@]}"; do [[ -d $to ]] || chunked+=("$to"); done
  in_chunks mkdir -p --
  local keep=--no-preserve=mode mode=--no-preserve=mode follow=-P copied=()
  [[ $here_stage ]] && keep=--preserve=timestamps
  [[ $operation == upload ]] && follow=-L
  [[ $operation == copy && -z $replacing ]] && mode=--preserve=mode keep=--preserve=mode
  for g in "${!froms[@]}"; do
    split_names "${members[g]}"
    chunked=("${names[@]/#/${froms[g]}/}")
    if in_chunks cp "$follow" "$mode" "$keep" -t "$stage/$g" --; then copied+=("$g"); else rm -rf -- "${stage:?}/$g"; fi
  done
  if [[ -z $here_stage ]]; then
    now
    find "$stage" -type f -exec touch -d "@$now" -- {} + 2>/dev/null || { clear_stage && return; }
  fi
  # only transfers that a tool reports as done count; all others are tried again, singly, and their errors shown
  for g in "${copied[@]}"; do
    split_names "${members[g]}"
    chunked=("${names[@]/#/$stage/$g/}")
    for i in "${chunked[@]}"; do [[ -L $i ]] && continue 2; done
    if [[ $about ]]; then
      { new_record "$about" "${tos[g]}" && in_chunks ln -t "$record/${tos[g]#./}" --; } || continue
    fi
    in_chunks mv -f -t "${tos[g]}" -- || continue
    alive || removed
    if [[ $command == mv ]]; then
      chunked=("${names[@]/#/${froms[g]}/}")
      in_chunks rm -f -- || continue
    fi
    for i in ${ids[g]}; do done_already[i]=1; done
  done
  clear_stage
  [[ -z $about ]] || forget_replaced
}

clear_stage() {
  rm -rf -- "${scratch[@]}"
  scratch=()
}

split_names() { # /NAME/NAME: sets names
  local IFS=/
  # shellcheck disable=SC2206
  names=(${1#/})
}

# ---------------------------------------------------------------- sync and case conflicts

compare() { # what sync has to do: both sides come in the order of their keys
  local i=0 j=0 n m src dst kept='' incomplete=''
  gather "$source_kind" "$source_path" ''
  local whole_source=1
  [[ $incomplete ]] && whole_source=''
  local s_rels=("${rels[@]}") s_paths=("${paths[@]}") s_sizes=("${sizes[@]}") s_times=("${times[@]}")
  gather "$target_kind" "$target_path" making
  n=${#s_rels[@]} m=${#rels[@]}
  while ((i < n || j < m)); do
    src=${s_rels[i]-} dst=${rels[j]-}
    if ((i < n && j < m)) && [[ $src == "$dst" ]]; then
      stale "${s_sizes[i]}" "${sizes[j]}" "${s_times[i]}" "${times[j]}" && consider "${s_paths[i]}" "$src"
      ((i++, j++))
    elif ((i < n)) && { ((j >= m)) || [[ $src < $dst ]]; }; then
      consider "${s_paths[i]}" "$src"
      ((i++))
    else
      if [[ ${value[delete]-} && -z $whole_source ]]; then
        kept+=1
      elif [[ ${value[delete]-} ]]; then
        if [[ $target_kind == s3 ]]; then plan delete "${paths[j]}" ''; else plan discard "${paths[j]}" ''; fi
      fi
      ((j++))
    fi
  done
  # the CLI would delete targets whose source it could not read
  [[ -z $kept ]] || warn "$source_path" 'Not all of it could be read, so nothing is deleted.'
  [[ $source_kind == s3 && " ${operations[*]}" == *' d'[ie][sl]* ]] || return 0
  # a bucket, or session, that is being removed just now was listed in part
  gather s3 "$source_path" ''
  ((${#rels[@]} >= n)) || fatal "objects of s3://$source_path are being removed: nothing is copied, nothing is deleted"
}

gather() { # KIND PATH MAKING
  if [[ $1 == s3 ]]; then gather_objects "$2" '' "$3"; else gather_files "$2"; fi
  apply_filters
}

stale() { # SOURCE-SIZE TARGET-SIZE SOURCE-TIME TARGET-TIME: the target has to be written again
  local s=${3%%.*} t=${4%%.*} later=0 sf=${3#*.} tf=${4#*.}
  [[ $1 != "$2" ]] && return
  [[ ${value[size-only]-} && -z ${value[exact-timestamps]-} ]] && return 1
  [[ $3 == *.* ]] || sf=0
  [[ $4 == *.* ]] || tf=0
  printf -v sf '%-9.9s' "$sf" && printf -v tf '%-9.9s' "$tf"
  sf=${sf// /0} tf=${tf// /0}
  # later: the time by which the target is newer
  if ((s != t)); then later=$((t - s)); else later=$((10#$tf - 10#$sf)); fi
  if [[ $operation == download ]]; then
    [[ ${value[exact-timestamps]-} ]] && { ((later != 0)); return; }
    ((later > 0))
  else
    ((later < 0))
  fi
}

declare -gA lower_seen

case_conflict() { # KEY TARGET SOURCE: may it be downloaded next to names that differ only in case?
  local lower=${1,,}
  if [[ ${lower_seen[$lower]-} ]]; then
    case ${value[case-conflict]} in
      warn) printf 'warning: Downloading %s -> %s despite a file whose name differs only by case either existing or being downloaded.\n' "$3" "$2" >&2 ;;
      skip)
        printf 'warning: Skipping %s -> %s because a file whose name differs only by case either exists or is being downloaded.\n' "$3" "$2" >&2
        return 1
        ;;
      error) fatal "Failed to download $3 -> $2 because a file whose name differs only by case either exists or is being downloaded." ;;
    esac
  fi
  # shellcheck disable=SC2004
  lower_seen[$lower]=1
}
