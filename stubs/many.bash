# shellcheck shell=bash disable=SC2034,SC2154
# What cp, mv, rm and sync need for more than one file: filters, lists of files and of objects, transfers of many
# at a time, and what sync has to do. Read by aws, whose objects, paths and messages it uses.

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

gather_objects() { # BUCKET/PREFIX DELETING: sets rels, paths, sizes, times
  local i
  split_path "$1"
  good_bucket "$bucket" || fatal "$error"
  list_bucket "$bucket" "$key"
  rels=() paths=()
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

gather_files() { # DIRECTORY/: sets rels, paths, sizes, times
  local record kind follow=-L
  rels=() paths=() sizes=() times=()
  [[ ${value[no-follow-symlinks]-} ]] && follow=-P
  [[ $follow == -P && -L ${1%/} ]] && return
  if [[ ! -d $1 ]]; then
    warn "$1" 'File does not exist.'
    return
  elif [[ ! -r $1 ]]; then
    warn "$1" 'File/Directory is not readable.'
    return
  fi
  claim || fatal "$error"
  find "$follow" "$1" -mindepth 1 \( -type d -readable \) -o -type d -prune -printf '%P\003u\003\003\0' \
    -o -type f -readable -printf '%P\003f\003%s\003%T@\0' -o -type f -printf '%P\003u\003\003\0' \
    -o -type l -printf '%P\003l\003\003\0' -o -printf '%P\003s\003\003\0' 2>/dev/null | sort -z >"$temporary"
  while IFS= read -r -d '' record; do
    path=$1${record%$'\003'*$'\003'*$'\003'*}
    kind=${record#"${path:${#1}}"$'\003'}
    case $kind in
      f*)
        rels+=("${path:${#1}}") paths+=("$path")
        kind=${kind#f?}
        sizes+=("${kind%$'\003'*}") times+=("${kind#*$'\003'}")
        ;;
      u*) warn "$path" 'File/Directory is not readable.' ;;
      s*) warn_special "$path" ;;
      l*) [[ $follow == -P ]] || warn "$path" 'File does not exist.' ;;
    esac
  done <"$temporary"
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
  local i g from to stage names name local_stage=''
  local -A group
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
  in_chunks rm -f -- && for i in "${ids[@]}"; do done_already[i]=1; done
  ids=()
  for i in "${!operations[@]}"; do
    from=${sources[i]} to=${targets[i]}
    [[ ${done_already[i]-} || ${operations[i]} == d[ie][sl]* ]] && continue
    if [[ ${operations[i]} != upload ]]; then
      split_path "$from"
      locate "$bucket" "$key"
      from=$file
    fi
    if [[ ${operations[i]} == download ]]; then
      local_stage=${target_path%/}
      [[ -e $to && ! -f $to ]] && continue
    else
      split_path "$to"
      [[ $key && ${#key} -le 1024 && ${sources[i]} != "$to" ]] || continue
      locate "$bucket" "$key"
      to=$file
    fi
    # cp and mv keep a file's name: what has another one on the other side goes on its own
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
  claim || return
  stage=$temporary
  if [[ $local_stage ]]; then
    stage=$local_stage/.${temporary##*/}
    scratch+=("$stage")
  else
    rm -f -- "$stage"
  fi
  chunked=("${!froms[@]}")
  chunked=("${chunked[@]/#/$stage/}")
  in_chunks mkdir -p -- || return
  chunked=()
  for to in "${tos[@]}"; do [[ -d $to ]] || chunked+=("$to"); done
  in_chunks mkdir -p --
  local keep=--no-preserve=mode copied=()
  [[ $local_stage ]] && keep=--preserve=timestamps
  for g in "${!froms[@]}"; do
    split_names "${members[g]}"
    chunked=("${names[@]/#/${froms[g]}/}")
    in_chunks cp --no-preserve=mode "$keep" -t "$stage/$g" -- && copied+=("$g")
  done
  if [[ -z $local_stage ]]; then
    now
    find "$stage" -type f -exec touch -d "@$now" -- {} +
  fi
  local doomed=()
  for g in "${copied[@]}"; do
    split_names "${members[g]}"
    chunked=("${names[@]/#/$stage/$g/}")
    in_chunks mv -f -t "${tos[g]}" --
    local n=0
    for i in ${ids[g]}; do
      if [[ ! -e ${chunked[n]} ]]; then
        done_already[i]=1
        [[ $command == mv ]] && doomed+=("${froms[g]}/${names[n]}")
      fi
      ((n++))
    done
  done
  chunked=("${doomed[@]}")
  in_chunks rm -f --
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
  local i=0 j=0 n m src dst
  gather "$source_kind" "$source_path"
  local s_rels=("${rels[@]}") s_paths=("${paths[@]}") s_sizes=("${sizes[@]}") s_times=("${times[@]}")
  gather "$target_kind" "$target_path"
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
      if [[ ${value[delete]-} ]]; then
        if [[ $target_kind == s3 ]]; then plan delete "${paths[j]}" ''; else plan discard "${paths[j]}" ''; fi
      fi
      ((j++))
    fi
  done
}

gather() { # KIND PATH
  if [[ $1 == s3 ]]; then gather_objects "$2" ''; else gather_files "$2"; fi
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
  # later: by how much the target is newer
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
