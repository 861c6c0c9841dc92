# shellcheck shell=bash disable=SC2034,SC2154
# An object's attributes besides its bytes: content type, metadata, storage class and the like. aws reads this file when
# attributes are given or may exist. calls.py reads and writes the same records.
#
# A record is a directory ^about/<pid>.<number>: the text ^what, and a link to each object that it describes, at the
# object's path in the session. The record holds for an object that is the same file as the link. So the rename that
# puts an object in its place also puts its record in place, and a crash leaves the old pair or the new one.

about_given() { # sets $about, a line for each thing that the options give
  # for a copy, sets $replacing if nothing else is taken over, or $changing if the rest is
  local pair text directive=${value[metadata-directive]-}
  # version 2 of the CLI changes what is given, and copies the rest
  [[ $cli == 1 || $operation != copy || $directive ]] || directive=change
  for pair in content-type:ContentType cache-control:CacheControl content-disposition:ContentDisposition \
    content-encoding:ContentEncoding content-language:ContentLanguage expires:Expires \
    website-redirect:WebsiteRedirectLocation metadata:Metadata storage-class:StorageClass sse:ServerSideEncryption \
    sse-kms-key-id:SSEKMSKeyId; do
    [[ ${value[${pair%%:*}]+x} ]] || continue
    text=${value[${pair%%:*}]}
    case $pair in
      storage-class:* | sse*) ;;
      *) [[ $operation == copy && ${value[metadata-directive]-} == COPY ]] && continue
        if [[ $directive == change ]]; then changing=1; else replacing=1; fi ;;
    esac
    [[ $pair == sse:* && $text == set ]] && text=AES256
    about+=${pair#*:}$'\t'${text//[$'\n'$'\r']/ }$'\n'
  done
  [[ ${value[metadata-directive]-} == REPLACE ]] && replacing=1
  [[ $operation == copy && $replacing || $operation == upload && ${value[no-guess-mime-type]-} ]] &&
    [[ $about != *ContentType$'\t'* ]] && about+=$'ContentType\tbinary/octet-stream\n'
  return 0
}

new_record() { # TEXT DIRECTORY of the session: sets $record, in which links to objects of that directory may be made
  [[ ! -L ./^about ]] || refuse "somebody has put a link into its session: $session/^about"
  record=./^about/$$.$RANDOM$RANDOM
  try mkdir -p -- "$record/${2#./}" || { os_error && return 1; }
  { printf %s "$1" >"$record/^what"; } 2>/dev/null || { unwritable && return 1; }
}

describe_as() { # TEXT FILE: $temporary, about to be renamed to the object's file, is described by the text; or $error
  new_record "$1" "${2%/*}" || return
  try ln -- "$temporary" "$record/${2#./}" || { os_error && return 1; }
}

kept_about() { # FILE: sets $kept, the text of the object's record, empty where there is none
  local record
  kept=''
  [[ -d ./^about && ! -L ./^about ]] || return 0
  set +f
  for record in ./^about/*; do
    [[ $record/${1#./} -ef $1 ]] || continue
    IFS= read -r -d '' kept <"$record/^what"
    break
  done 2>/dev/null
  set -f
}

about_copy() { # FILE: sets $text, what a copy takes over of the object that has this file
  local kept line
  kept_about "$1"
  text=''
  while [[ $kept ]]; do
    line=${kept%%$'\n'*} kept=${kept#*$'\n'}
    case $line in
      StorageClass* | ServerSideEncryption* | SSEKMSKeyId* | OnePart*) ;;
      WebsiteRedirectLocation*) [[ $changing ]] || text+=$line$'\n' ;;
      *) text+=$line$'\n' ;;
    esac
  done
}

same_kind() { # NAME NAME: no guess by one of the names differs from a guess by the other
  [[ ${1#*.} == "${2#*.}" && $1 == *.* && $2 == *.* ]] && return
  [[ ${1##*.} == "${2##*.}" && ${1##*.} != @(gz|Z|bz2|xz|br) ]]
}

find_records() { find ./^about -mindepth 2 -type f ! -name ^what -printf '%P\0'; }

recorded_objects() { # sets ${recorded[PATH]} for each object that may have a record
  local path
  recorded=()
  [[ -d ./^about ]] || return 0
  while IFS= read -r -d '' path; do recorded[${path#*/}]=1; done < <(find_records)
}

forget_replaced() { # nothing but its record links to an object that is gone; a directory may be new, its link still to come
  find ./^about -mindepth 2 -depth \( -type f ! -name ^what -links 1 -o -type d -empty -mmin +1 \) -delete 2>/dev/null
  return 0
}
