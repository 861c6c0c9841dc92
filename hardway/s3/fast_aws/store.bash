# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# The buckets of the store, for the fast aws: s3://hardway_INSTANCE has the objects of one instance. Our own are files of
# a folder here, those of another instance come from its server (hardway/clusters/store_server.py), read only.
#
# ~/.hardway-cluster/store/members begins with a line ID PORT FOLDER, of this instance; the others are ID ADDRESS.
# A file's name is the key, with %XX for each byte but A-Za-z0-9_.~- and for a dot at the start. NAME@ beside it has the
# digest, .tmp-* is being written. A key is written once, by a link, which replaces nothing.

store_says() { # CODE TEXT: end with one line
  printf 'aws: %s\n' "$2" >&2
  finish "$1"
}

enter_store() { # sets $store_id, $store_port, $store_folder, and $owner, whose bucket $bucket is
  owner=${bucket#hardway_}
  [[ -z ${store_id-} ]] || return 0
  { mapfile -t store_members <"${HOME-}/.hardway-cluster/store/members"; } 2>/dev/null
  [[ ${store_members[0]-} =~ ^(i-[0-9a-f]+)\ ([0-9]+)\ (/.*)$ ]] ||
    store_says 1 "there is no store on this instance, which s3://$bucket needs: inv cluster.store makes one"
  store_id=${BASH_REMATCH[1]} store_port=${BASH_REMATCH[2]} store_folder=${BASH_REMATCH[3]}
}

store_name() { # KEY: sets $name, of its file
  url_encode "$1"
  name=${encoded//\//%2F}
  [[ $name != .* ]] || name=%2E${name:1}
  [[ ${#name} -le 254 ]] && return
  error='[Errno 36] File name too long'
  return 1
}

not_in_store() { # sets $error as S3 would say it
  status=404 error_code=404 error='An error occurred (404) when calling the HeadObject operation: Not Found'
  return 1
}

only_own() { # sets $error if the bucket is another instance's
  [[ $owner != "$store_id" ]] || return 0
  error="s3://$bucket is for reading here: only $owner writes and removes its objects"
  return 1
}

is_object() { # FILE: what a task has put there by other means can be a link, a pipe or a directory
  [[ -f $1 && ! -L $1 ]]
}

head_of_store() { # of $bucket/$key: sets $size and $fields
  local name found
  enter_store
  store_name "$key" || return
  if [[ $owner != "$store_id" ]]; then
    ask_store HEAD "$name" && size=${fields[content-length]-0}
    return
  fi
  { is_object "$store_folder/$name" && found=$(exec stat -c '%s %Y' -- "$store_folder/$name" 2>/dev/null); } ||
    { not_in_store; return; }
  size=${found% *} fields=([content-length]=$size)
  http_date "${found#* }" && fields[last-modified]=$date
}

find_in_store() { # $bucket/$key: sets $first, a file with all of it
  local name sum
  [[ ${found_object-} != "$bucket/$key" ]] || return 0
  enter_store
  store_name "$key" || return
  size=0 here_already=0 md5='' modified='' stays=''
  if [[ $owner == "$store_id" ]]; then
    first=$store_folder/$name stays=1
    is_object "$first" || not_in_store || return
  else
    place_first || return
    into=$first
    ask_store GET "$name" || { into='' && return 1; }
    into=''
    sum=$(exec b2sum -l 256 <"$first") || { os_error "$first" && return 1; }
    if [[ ${sum%% *} != "${fields[x-hardway-digest]-}" ]]; then
      error="the bytes from $owner are not those of its digest"
      return 1
    fi
  fi
  found_object=$bucket/$key
}

put_into_store() { # SOURCE: a file, or stdin for -; to $bucket/$key
  local name file sum
  enter_store
  only_own && store_name "$key" || return
  file=$store_folder/$name
  claim_as "$store_folder/.tmp-$$" || { os_error "$store_folder" && return 1; }
  if [[ $1 == - ]]; then
    consumed=1
    reason=$(exec cat 2>&1 >"$temporary") || { os_error && unclaim; return 1; }
  elif ! try cp --no-preserve=mode -- "$1" "$temporary"; then
    if [[ $reason == *"'$temporary'"* ]]; then os_error; else os_error "$1"; fi
    unclaim
    return
  fi
  sum=$(exec b2sum -l 256 <"$temporary") || { reason='' && os_error && unclaim; return 1; }
  if ! reason=$(exec ln -T -- "$temporary" "$file" 2>&1); then
    [[ -e $file || -L $file ]] || { os_error "$file" && unclaim; return 1; }
    if ! is_object "$file"; then
      error="what lies at $file is no object"
      unclaim
      return 1
    fi
    if ! cmp -s -- "$temporary" "$file"; then
      error='the object is there, with other bytes: a key of the store is written once'
      return 1
    fi
  fi
  # where the digest is not there or not whole, the server makes one
  [[ -e $file@ || -L $file@ ]] || { printf '%s\n' "${sum%% *}" >"$file@"; } 2>/dev/null
  return 0
}

copy_in_store() { # BUCKET/KEY BUCKET/KEY: from the store, to our own bucket or to S3
  split_path "$1"
  [[ $bucket == hardway_i-* ]] ||
    store_says 252 'the store takes nothing from S3 by itself: aws s3 cp s3://... - | aws s3 cp - s3://hardway_...'
  find_in_store && put "$first" "$2" CopyObject
}

remove_from_store() { # $bucket/$key
  local name
  enter_store
  only_own && store_name "$key" || return
  try rm -f -- "$store_folder/$name@" "$store_folder/$name" || { os_error "$store_folder/$name" && return 1; }
}

list_store() { # BUCKET PREFIX: sets keys, sizes and times
  local bucket=$1 line name rest text
  enter_store
  keys=() sizes=() times=()
  store_name "$2" || { error='' && return 0; }
  ask_store GET '' "?prefix=$name" || return
  local IFS=$'\n'
  for line in $body; do
    name=${line%% *} rest=${line#* }
    [[ $line =~ ^[A-Za-z0-9_.~%-]+\ [0-9]{1,18}\ [0-9]{1,12}$ ]] || { error='a list that makes no sense' && return 1; }
    printf -v text %b "${name//%/\\x}x"
    keys+=("${text%x}") sizes+=("${rest% *}") times+=("${rest#* }")
  done
}

ask_store() { # METHOD NAME [QUERY]: what the server of $owner says; to $into if there is one; or sets $error, or ends
  local line address='' token='' config code gone=$((SECONDS + 3)) busy=$((SECONDS + 50))
  for line in "${store_members[@]:1}"; do [[ $line != "$owner "* ]] || address=${line#* }; done
  [[ $address ]] || its_data_went
  [[ $address != *:* ]] || address=[$address]
  { IFS= read -r token <"$HOME/.hardway-cluster/store/token"; } 2>/dev/null
  url=http://$address:$store_port/$owner/$2${3-}
  config="silent
show-error
globoff
path-as-is
noproxy = \"*\"
connect-timeout = 2
speed-limit = 1
speed-time = 20
request = $1
url = \"$url\"
header = \"Accept:\"
header = \"User-Agent:\"
header = \"Authorization: Bearer $token\"
"
  if [[ $1 == HEAD ]]; then
    config+=$'head\n'
  elif [[ $into ]]; then
    quoted "$into"
    config+="output = $quoted"$'\n''dump-header = "-"'$'\nremote-time\n'
  else
    config+=$'include\n'
  fi
  while :; do
    status=0 body='' fields=()
    answer=$(exec curl -q --config - <<<"$config" 2>&1)
    code=$?
    ((code)) || read_head || code=$?
    case $code in
      0) break ;;
      23)
        curl_said=${answer##*$'curl: '}
        explain "$code"
        return 1
        ;;
      126 | 127) store_says 252 'there is no curl here, which the store needs' ;;
    esac
    # a server that was killed is there again after half a second; one that has many readers is slow to answer
    [[ $answer != *'too slow'* ]] || gone=$busy
    ((SECONDS < gone)) || its_data_went
    sleep 0.3
  done
  case $status in
    200)
      [[ ${fields[content-length]-0} =~ ^[0-9]{1,18}$ ]] && return 0
      error="the server of $owner answers with a length that is none"
      ;;
    404) not_in_store ;;
    # another instance has its address now
    421) its_data_went ;;
    401) error="$owner does not take the token of the store here: run inv cluster.store again with all of its instances" ;;
    *) error="the server of $owner answers with $status" ;;
  esac
  return 1
}

its_data_went() { # end: the owner of $bucket is gone
  [[ $owner != "$store_id" ]] || store_says 1 "the server of the store on this instance does not answer: run inv cluster.store again"
  store_says 69 "its data went with $owner: s3://$bucket/${key//[[:cntrl:]]/?}"
}
