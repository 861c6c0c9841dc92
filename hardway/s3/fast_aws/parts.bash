# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# Large objects and streams for the fast aws: in parts, a few at a time, each in a file below TMPDIR, with its own hash and
# retries. Nothing is held as a whole, in memory or on disk.

start_worker() { # COMMAND...: in a process group of its own, so that its curl ends with it
  set -m
  (
    trap - INT TERM HUP
    scratch=() workers=() upload_id=''
    "$@"
  ) &
  workers+=($!)
  set +m
}

first_worker() { # wait for it: returns its exit code
  local code=0
  wait "${workers[0]}" || code=$?
  workers=("${workers[@]:1}")
  return $code
}

leave_error() { printf %s "$error" >"$parts/$1.error"; } 2>/dev/null # NUMBER

failed_as() { # FILE: sets $error to what a worker left there
  error=''
  IFS= read -r -d '' error <"$1"
  [[ $error ]] || error='[Errno 5] Input/output error'
} 2>/dev/null

fetch_range() { # NUMBER FIRST LAST: a worker; the bytes to their place in $sink, or to a file; or the error to another
  payer
  plain=("Range: bytes=$2-$3" "If-Match: $etag") upload='' payload='' into=$parts/$1
  [[ -z $sink ]] || into=$sink at=$2
  if ask GET GetObject "$key" && [[ $status == 206 && ${fields[content-length]-} == $(($3 - $2 + 1)) ]]; then finish 0; fi
  [[ $status != 206 ]] || error='the answer is not the range that was asked for'
  leave_error "$1"
  finish 1
}

fetch_rest() { # COMMAND...: all that comes after the first part, a few ranges at a time; the command for each, in order
  local number=1 next=$here_already step last got=1
  temporary_files || return
  ((step = (size - next + at_a_time - 1) / at_a_time, step = step < least_part ? least_part : step))
  ((step = step > largest_part ? largest_part : step))
  while ((next < size || ${#workers[@]})); do
    if ((next < size && ${#workers[@]} < at_a_time)); then
      ((last = next + step - 1, last = last >= size ? size - 1 : last))
      start_worker fetch_range "$number" "$next" "$last"
      ((next = last + 1, number++))
      continue
    fi
    if ! first_worker; then
      failed_as "$parts/$got.error"
      end_workers
      return 1
    fi
    "$@" "$got" || { end_workers && return 1; }
    ((got++))
  done
}

fill_rest() { # of $temporary
  sink=$temporary
  fetch_rest :
}

send_object() { # TARGET: write it to file 3, which leads there
  copy_out "$first" "$1" || return
  sink=''
  ((here_already == size)) || fetch_rest copy_part "$1"
}

copy_part() { # TARGET NUMBER
  copy_out "$parts/$2" "$1" && rm -f -- "$parts/$2"
}

copy_out() { # FILE TARGET
  [[ -s $1 ]] || return 0
  reason=$(exec cat -- "$1" 2>&1 >&3) || { os_error "$2" && return 1; }
}

next_part() { # DESCRIPTOR NUMBER: copies a part to a file; sets $part_size, less than $this_part at the end
  # 10,000 parts are the most
  this_part=$(((expected + 9999) / 10000))
  ((this_part >= least_part)) || this_part=$least_part
  ((expected || $2 <= 1000)) || this_part=$largest_part
  reason=$(exec head -c "$this_part" 2>&1 <&"$1" >"$parts/$2") || { os_error "$work" && return 1; }
  part_size=$(exec stat -c %s -- "$parts/$2") || { reason='' && os_error "$work" && return 1; }
}

send_part() { # NUMBER: a worker; the ETag to a file, or the error to another
  if hash_part "$parts/$1"; then
    payer
    payload=$hash upload=$parts/$1
    if ask PUT UploadPart "$key" "partNumber=$1&uploadId=$upload_query"; then
      said_so "${fields[etag]-}" && printf %s "${fields[etag]}" >"$parts/$1.etag" && rm -f -- "$parts/$1" && finish 0
    fi
  fi
  leave_error "$1"
  finish 1
}

put_parts() { # DESCRIPTOR NAME: as many parts as there are, the first of them maybe already in its file
  local number=1 sent=1 tags=() tag list
  temporary_files || return
  [[ -e $parts/1 ]] || next_part "$1" 1 || return
  upload_headers "$2"
  ask POST CreateMultipartUpload "$key" uploads= || return
  [[ $body =~ \<UploadId\>([^\<]+)\</UploadId\> ]] || { error='an upload without an UploadId' && return 1; }
  unescape_xml "${BASH_REMATCH[1]}"
  url_encode "$plain_text"
  upload_id=$plain_text upload_query=${encoded//\//%2F} upload_bucket=$bucket upload_key=$key
  while :; do
    if [[ -e $parts/$number ]] && ((${#workers[@]} < at_a_time)); then
      start_worker send_part "$number"
      ((number++))
      ((part_size < this_part)) || next_part "$1" "$number" || break
      ((part_size)) || rm -f -- "$parts/$number"
      continue
    fi
    ((${#workers[@]})) || break
    first_worker || { failed_as "$parts/$sent.error" && break; }
    IFS= read -r -d '' tag <"$parts/$sent.etag"
    tags+=("$tag")
    ((sent++))
  done
  if ((sent == number)); then
    complete_upload && return
  fi
  end_workers
  list=$error
  abort_upload
  error=$list
  return 1
}

complete_upload() {
  local number=1 tag xml='<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
  for tag in "${tags[@]}"; do
    xml+="<Part><ETag>$tag</ETag><PartNumber>$number</PartNumber></Part>"
    ((number++))
  done
  printf %s "$xml</CompleteMultipartUpload>" >"$parts/complete" || { reason='' && os_error "$work" && return 1; }
  hash_file "$parts/complete" || return
  payer
  payload=$hash upload=$parts/complete
  ask POST CompleteMultipartUpload "$key" "uploadId=$upload_query" || return
  [[ $body == *'</CompleteMultipartUploadResult>'* ]] || body=''
  said_so "$body" && upload_id=''
}

abort_upload() { # no part of it stays, or costs
  local bucket=$upload_bucket key=$upload_key
  upload_id='' payload='' upload='' into='' plain=()
  payer
  ask DELETE AbortMultipartUpload "$key" "uploadId=$upload_query"
}
