# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# Objects of S3 for the fast aws: to and from files and streams, copies, lists. A stream is never held as a whole, in
# memory or on disk: it goes in parts, a few at a time, each in a file below TMPDIR, with its own hash and retries.

least_part=$((8 << 20)) largest_part=$((64 << 20)) at_a_time=4
workers=() upload_id=''

# ---------------------------------------------------------------- workers, and the end

finish() { # CODE
  trap '' INT TERM HUP
  end_workers
  [[ -z $upload_id ]] || abort_upload
  ((${#scratch[@]})) && rm -rf -- "${scratch[@]}"
  exit "$1"
}

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

end_workers() {
  local pid
  for pid in "${workers[@]}"; do kill -TERM -- "-$pid"; done
  ((${#workers[@]})) && wait "${workers[@]}"
  workers=()
} 2>/dev/null

first_worker() { # wait for it: returns its exit code
  local code=0
  wait "${workers[0]}" || code=$?
  workers=("${workers[@]:1}")
  return $code
}

failed_as() { # FILE: sets $error to what a worker left there
  error=''
  IFS= read -r -d '' error <"$1"
  [[ $error ]] || error='[Errno 5] Input/output error'
} 2>/dev/null

temporary_files() { # sets $parts, a directory of this process
  [[ -z ${parts-} ]] || return 0
  parts=$work/aws-$$.$RANDOM$RANDOM
  if ! (umask 077 && exec mkdir -- "$parts") 2>/dev/null; then
    reason=$(exec mkdir -- "$parts" 2>&1)
    parts=''
    os_error "$work"
    return 1
  fi
  scratch+=("$parts")
}

# ---------------------------------------------------------------- objects that are read

look_up() { # $bucket/$key is an object; or sets $error. A download has its first bytes then
  if [[ $operation == download && -z ${value[dryrun]-} ]]; then
    find_object && return
  else
    head_object && return
  fi
  [[ $status != 404 || $error_code != 404 ]] ||
    error="An error occurred (404) when calling the HeadObject operation: Key \"$key\" does not exist"
  return 1
}

payer() { # sets $headers to what each request of an object has
  headers=()
  [[ -z ${value[request-payer]-} ]] || headers=(x-amz-request-payer:requester)
}

head_object() { # sets $fields and $size
  payer
  plain=() upload='' payload='' into=''
  ask HEAD HeadObject "$key" && size=${fields[content-length]-0}
}

of_head() { # the CLI asks for the head first, and an answer to HEAD has no text
  [[ $status == 0 ]] || { body='' && explain 0 HEAD HeadObject; }
}

find_object() { # $bucket/$key: fetches its first part to $first; sets $size, $etag and $modified, or $error
  local range="Range: bytes=0-$((least_part - 1))" total
  [[ ${found_object-} != "$bucket/$key" ]] || return 0
  temporary_files || return
  payer
  first=$parts/0 plain=("$range") upload='' payload='' into=$first
  if ! ask GET GetObject "$key"; then
    [[ $status == 416 ]] || { of_head && return 1; }
    # an empty object has no range
    plain=()
    ask GET GetObject "$key" || { of_head && return 1; }
  fi
  [[ -e $first ]] || : >"$first"
  size=${fields[content-length]-} etag=${fields[etag]-} total=${fields[content-range]##*/}
  [[ $status != 206 ]] || size=$total
  [[ $size =~ ^[0-9]{1,18}$ ]] || hand_over 'an object without a length'
  http_seconds "${fields[last-modified]-}"
  modified=$seconds md5=''
  if [[ $etag =~ ^\"([0-9a-f]{32})\"$ && ${fields[x-amz-server-side-encryption]-} != aws:kms* &&
    -z ${fields[x-amz-server-side-encryption-customer-algorithm]-} ]]; then
    md5=${BASH_REMATCH[1]}
  fi
  here_already=$least_part
  ((size > least_part && status == 206)) || here_already=$size
  if [[ $md5 ]] && ((here_already == size)); then
    checked_md5 "$first" || hand_over 'an object that is not what its ETag says'
  fi
  found_object=$bucket/$key
}

checked_md5() { # FILE
  local sum
  sum=$(exec md5sum <"$1") && [[ ${sum%% *} == "$md5" ]]
}

fetch_range() { # NUMBER FIRST LAST: a worker; the bytes to a file, or the error to another
  payer
  plain=("Range: bytes=$2-$3" "If-Match: $etag") upload='' payload='' into=$parts/$1
  if ask GET GetObject "$key" && [[ $status == 206 && ${fields[content-length]-} == $(($3 - $2 + 1)) ]]; then exit 0; fi
  [[ $status != 206 ]] || error='the answer is not the range that was asked for'
  printf %s "$error" >"$parts/$1.error"
  exit 1
}

send_object() { # TARGET: write it to file 3, which leads there, from parts that come a few at a time
  local number=1 next=$here_already step last sent=1
  copy_out "$first" "$1" || return
  ((next < size)) || return 0
  address "$bucket"
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
      failed_as "$parts/$sent.error"
      end_workers
      return 1
    fi
    copy_out "$parts/$sent" "$1" || { end_workers && return 1; }
    rm -f -- "$parts/$sent"
    ((sent++))
  done
}

copy_out() { # FILE TARGET
  [[ -s $1 ]] || return 0
  reason=$(exec cat -- "$1" 2>&1 >&3) || { os_error "$2" && return 1; }
}

fill() { # TARGET: make $temporary the object
  exec 3>"$temporary" || { os_error "$1" && return 1; }
  send_object "$1" || { exec 3>&- && return 1; }
  exec 3>&-
  if [[ $md5 ]] && ((here_already < size)) && ! checked_md5 "$temporary"; then
    error='the file is not what the ETag of the object says'
    return 1
  fi
  keep_time "$temporary" || { os_error "$1" && return 1; }
}

keep_time() { [[ -z $modified ]] || try touch -cd "@$modified" -- "$1"; } # FILE

stream_object() { # to stdout, and end; or set $error
  find_object || return
  exec 3>&1
  send_object - && finish 0
}

# ---------------------------------------------------------------- objects that are written

attributes_given() { # what the options say of an upload
  local pair
  [[ $operation == upload ]] || hand_over 'a copy with other attributes'
  given_headers=()
  for pair in cache-control content-disposition content-encoding content-language content-type expires \
    website-redirect:x-amz-website-redirect-location storage-class:x-amz-storage-class sse:x-amz-server-side-encryption \
    sse-kms-key-id:x-amz-server-side-encryption-aws-kms-key-id; do
    [[ ${value[${pair%%:*}]+x} ]] || continue
    give "${pair#*:}" "${value[${pair%%:*}]}"
  done
  [[ ! ${value[metadata]+x} ]] || metadata_given
}

give() { # NAME TEXT
  local text=$2
  [[ $1 != x-amz-server-side-encryption || $text != set ]] || text=AES256
  [[ $text && $text != *[^[:print:]]* && $text != ' '* && $text != *' ' ]] || hand_over "this text for $1"
  [[ $1 != expires ]] || { iso_seconds "$text" && [[ $seconds ]] && http_date "$seconds" && text=$date; } ||
    hand_over 'this time for --expires'
  given_headers+=("${1,,}:$text") # names are signed in lower case
}

metadata_given() { # k=v,k=v
  local item left=${value[metadata]},
  [[ $left != '{'* && $left != *[\"\'\\]* ]] || hand_over 'such --metadata'
  while [[ $left ]]; do
    item=${left%%,*} left=${left#*,}
    [[ $item =~ ^[a-zA-Z0-9_-]+=. ]] || hand_over 'such --metadata'
    give "x-amz-meta-${item%%=*}" "${item#*=}"
  done
}

upload_headers() { # NAME of the local file: sets $headers
  local type=''
  payer
  headers+=("${given_headers[@]}")
  [[ -z ${value[acl]-} ]] || headers+=("x-amz-acl:${value[acl]}")
  if [[ " ${headers[*]}" != *' content-type:'* && -z ${value[no-guess-mime-type]-} ]]; then
    guess_type "$1"
    [[ -z $type ]] || headers+=("content-type:$type")
  fi
}

put() { # SOURCE BUCKET/KEY OPERATION: a file, or stdin for -
  local source=$1 held name=''
  split_path "$2"
  good_bucket "$bucket" && legal_key "$3" || return 1
  # curl takes such a key for a directory, to put the file of that name into
  [[ /$key != */ && /$key != */. && /$key != */.. ]] || hand_over "the key $key"
  plain=() into=''
  if [[ $1 == - ]]; then
    consumed=1 expected=${value[expected-size]-0}
    temporary_files || return
    exec {held}<&0
    next_part "$held" 1 || return
    ((part_size == this_part)) && { put_parts "$held" ''; return; }
    source=$parts/1
  else
    name=${1##*/}
    if ! { exec {held}<"$1"; } 2>/dev/null; then
      reason=$({ : <"$1"; } 2>&1)
      os_error "$1"
      return 1
    fi
    expected=$(exec stat -Lc %s -- "$1") || expected=0
    ((expected >= least_part)) && { put_parts "$held" "$name"; return; }
    exec {held}<&-
  fi
  hash_file "$source" || { os_error "$source" && return 1; }
  upload_headers "$name"
  payload=$hash upload=$source
  ask PUT "$3" "$key"
  local code=$?
  payload='' upload=''
  return $code
}

next_part() { # DESCRIPTOR NUMBER: copies so much to a file; sets $part_size, less than $this_part at the end
  # 10,000 parts are the most
  this_part=$(((expected + 9999) / 10000))
  ((this_part >= least_part)) || this_part=$least_part
  ((expected || $2 <= 1000)) || this_part=$largest_part
  reason=$(exec head -c "$this_part" 2>&1 <&"$1" >"$parts/$2") || { os_error "$work" && return 1; }
  part_size=$(exec stat -c %s -- "$parts/$2") || { reason='' && os_error "$work" && return 1; }
}

send_part() { # NUMBER: a worker; the ETag to a file, or the error to another
  if hash_file "$parts/$1"; then
    payer
    payload=$hash upload=$parts/$1
    if ask PUT UploadPart "$key" "partNumber=$1&uploadId=$upload_query" && [[ ${fields[etag]-} ]]; then
      printf %s "${fields[etag]}" >"$parts/$1.etag" && rm -f -- "$parts/$1" && exit 0
      error='[Errno 28] No space left on device'
    fi
  fi
  printf %s "${error:-no ETag}" >"$parts/$1.error"
  exit 1
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
  ask POST CompleteMultipartUpload "$key" "uploadId=$upload_query" || { payload='' upload='' && return 1; }
  payload='' upload='' upload_id=''
}

abort_upload() { # no part of it stays, or costs
  local bucket=$upload_bucket key=$upload_key
  upload_id='' payload='' upload='' into='' plain=()
  payer
  ask DELETE AbortMultipartUpload "$key" "uploadId=$upload_query"
}

copy() { # BUCKET/KEY BUCKET/KEY
  local from
  ((size < 5 << 30)) || hand_over 'a copy of 5 GiB or more'
  url_encode "$1"
  from=$encoded
  split_path "$2"
  good_bucket "$bucket" && legal_key CopyObject || return 1
  payer
  headers+=("x-amz-copy-source:$from")
  [[ -z ${value[acl]-} ]] || headers+=("x-amz-acl:${value[acl]}")
  plain=() upload='' payload='' into=''
  ask PUT CopyObject "$key"
}

remove() { # BUCKET/KEY
  split_path "$1"
  good_bucket "$bucket" && legal_key DeleteObject || return 1
  payer
  plain=() upload='' payload='' into=''
  ask DELETE DeleteObject "$key"
}

# ---------------------------------------------------------------- lists

bucket_exists() { # OPERATION
  payer
  plain=() upload='' payload='' into=''
  ask GET ListObjectsV2 '' 'encoding-type=url&list-type=2&max-keys=1&prefix='
}

list_quickly() { return 1; }

list_bucket() { # BUCKET PREFIX: sets keys, sizes and times (seconds), those of a page after its common prefixes
  local bucket=$1 more='' size=${value[page-size]-1000} delimiter='%2F' item text key when bytes prefix common
  [[ -z ${value[recursive]-} ]] || delimiter=''
  ((size > 0 && size <= 1000)) || size=1000
  url_encode "$2"
  prefix=${encoded//\//%2F} keys=() sizes=() times=()
  while :; do
    payer
    plain=() upload='' payload='' into=''
    text=${more:+continuation-token=$more&}${delimiter:+delimiter=$delimiter&}
    ask GET ListObjectsV2 '' "${text}encoding-type=url&list-type=2&max-keys=$size&prefix=$prefix" || return
    local IFS='<' page_keys=() page_sizes=() page_times=() escaped=''
    [[ $body != *'<EncodingType>url<'* ]] || escaped=1
    common='' more=''
    for item in $body; do
      text=${item#*>}
      case $item in
        Key\>*) decode_text "$text" && key=$plain_text ;;
        LastModified\>*) iso_seconds "$text" && when=$seconds ;;
        Size\>*) bytes=$text ;;
        /Contents\>*)
          [[ $bytes =~ ^[0-9]{1,18}$ && $when ]] || { error='a list that makes no sense' && return 1; }
          page_keys+=("$key") page_sizes+=("$bytes") page_times+=("$when")
          ;;
        CommonPrefixes\>*) common=1 ;;
        /CommonPrefixes\>*) common='' ;;
        Prefix\>*)
          if [[ $common ]]; then
            decode_text "$text"
            keys+=("$plain_text") sizes+=(0) times+=(0)
          fi
          ;;
        NextContinuationToken\>*) unescape_xml "$text" && more=$plain_text ;;
      esac
    done
    keys+=("${page_keys[@]}") sizes+=("${page_sizes[@]}") times+=("${page_times[@]}")
    IFS=$' \t\n'
    [[ $more && $body == *'<IsTruncated>true<'* ]] || return 0
    url_encode "$more"
    more=${encoded//\//%2F}
  done
}

decode_text() { # TEXT of a list: sets $plain_text
  unescape_xml "$1"
  [[ $escaped && $plain_text == *[%+]* ]] || return 0
  plain_text=${plain_text//+/ }
  printf -v plain_text %b "${plain_text//%/\\x}x"
  plain_text=${plain_text%x}
}

list_buckets() { # PREFIX: sets names and times; or ends
  local bucket='' item text when
  names=() times=()
  payer
  plain=() upload='' payload='' into=''
  ask GET ListBuckets '' '' || fail 255 "$error"
  [[ $body != *'<ContinuationToken>'* ]] || hand_over 'so long a list of buckets'
  local IFS='<'
  for item in $body; do
    text=${item#*>}
    case $item in
      Name\>*) unescape_xml "$text" ;;
      CreationDate\>*) iso_seconds "$text" && when=$seconds ;;
      /Bucket\>*) [[ $plain_text != "$1"* ]] || { names+=("$plain_text") && times+=("${when:-0}"); } ;;
    esac
  done
}

# ---------------------------------------------------------------- presign and head-object

presigned() {
  local query path
  read_settings
  find_credentials || fail 255 "$error"
  [[ -z ${value[no-sign-request]-} ]] || hand_over --no-sign-request
  address "$bucket"
  url_encode "$key"
  path=$base$encoded
  TZ=UTC0 printf -v moment '%(%Y%m%dT%H%M%SZ)T' -1
  day=${moment%T*}
  url_encode "$token"
  token=${encoded//\//%2F}
  url_encode "$key_id"
  query="X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=${encoded//\//%2F}%2F$day%2F$region%2Fs3%2Faws4_request"
  query+="&X-Amz-Date=$moment&X-Amz-Expires=$((${value[expires-in]-3600}))"
  query+="${token:+&X-Amz-Security-Token=$token}&X-Amz-SignedHeaders=host"
  sign_text "GET
$path
$query
host:$host

host
UNSIGNED-PAYLOAD"
  out '%s\n' "$scheme://$host$path?$query&X-Amz-Signature=$signature"
}

members='DeleteMarker:x-amz-delete-marker:b AcceptRanges:accept-ranges Expiration:x-amz-expiration Restore:x-amz-restore
ArchiveStatus:x-amz-archive-status LastModified:last-modified ContentLength:content-length:n
ChecksumCRC32:x-amz-checksum-crc32 ChecksumCRC32C:x-amz-checksum-crc32c ChecksumCRC64NVME:x-amz-checksum-crc64nvme
ChecksumSHA1:x-amz-checksum-sha1 ChecksumSHA256:x-amz-checksum-sha256 ChecksumType:x-amz-checksum-type ETag:etag
MissingMeta:x-amz-missing-meta:n VersionId:x-amz-version-id CacheControl:cache-control
ContentDisposition:content-disposition ContentEncoding:content-encoding ContentLanguage:content-language
ContentType:content-type Expires:expires WebsiteRedirectLocation:x-amz-website-redirect-location
ServerSideEncryption:x-amz-server-side-encryption Metadata:
SSECustomerAlgorithm:x-amz-server-side-encryption-customer-algorithm
SSECustomerKeyMD5:x-amz-server-side-encryption-customer-key-md5
SSEKMSKeyId:x-amz-server-side-encryption-aws-kms-key-id BucketKeyEnabled:x-amz-server-side-encryption-bucket-key-enabled:b
StorageClass:x-amz-storage-class RequestCharged:x-amz-request-charged ReplicationStatus:x-amz-replication-status
PartsCount:x-amz-mp-parts-count:n TagCount:x-amz-tagging-count:n ObjectLockMode:x-amz-object-lock-mode
ObjectLockRetainUntilDate:x-amz-object-lock-retain-until-date ObjectLockLegalHoldStatus:x-amz-object-lock-legal-hold'

json() { # TEXT: sets $quoted
  [[ $1 != *[^[:print:]]* ]] || hand_over 'a text that is not ASCII'
  quoted=${1//\\/\\\\}
  quoted=\"${quoted//\"/\\\"}\"
}

other_service() { # s3api head-object ARG...
  local member name kind text lines=() line pairs=()
  shift
  options head-object bucket:1 key:1 request-payer:1:requester
  parse '?' "$@"
  [[ ${positional[0]-} == head-object && ${#rest[@]} -eq 0 && ${value[bucket]-} && ${value[key]-} ]] ||
    hand_over 's3api head-object'
  parsed
  [[ $output == json && -z $query && -z ${value[no-paginate]-} ]] || hand_over 's3api head-object'
  command=head-object bucket=${value[bucket]} key=${value[key]}
  good_bucket "$bucket" || fail 255 "$error"
  head_object || fail 255 "$error"
  for member in $members; do
    name=${member%%:*} kind=${member##*:} line=${member#*:}
    line=${line%:[bn]}
    if [[ $name == Metadata ]]; then
      for line in "${field_names[@]}"; do
        [[ $line == x-amz-meta-* ]] || continue
        json "${line#x-amz-meta-}" && text=$quoted
        json "${fields[$line]}" && pairs+=("        $text: $quoted")
      done
      text='{}'
      if ((${#pairs[@]})); then
        printf -v text ',\n%s' "${pairs[@]}"
        text=$'{\n'${text#,?}$'\n    }'
      fi
    else
      [[ ${fields[$line]+x} ]] || continue
      text=${fields[$line]}
      [[ $kind == [bn] && $text =~ ^([0-9]+|true|false)$ ]] || { json "$text" && text=$quoted; }
    fi
    printf -v line '    "%s": %s' "$name" "$text"
    lines+=("$line")
  done
  printf -v text ',\n%s' "${lines[@]}"
  out '{\n%s\n}\n' "${text#,?}"
  finish 0
}

# ---------------------------------------------------------------- times

days() { # YEAR MONTH DAY: sets $seconds of its start, since 1970
  local year=$((10#$1)) month=$((10#$2)) day=$((10#$3)) era
  ((month > 2 || (year--, 1)))
  ((seconds = (365 * year + year / 4 - year / 100 + year / 400 + (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 719469) * 86400))
}

iso_seconds() { # 2030-01-02T03:04:05Z: sets $seconds; empty for another text
  seconds=''
  [[ $1 =~ ^([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(Z|\+00:00)$ ]] || return 0
  local part=("${BASH_REMATCH[@]}")
  days "${part[@]:1:3}"
  ((seconds += 3600 * 10#${part[4]} + 60 * 10#${part[5]} + 10#${part[6]}))
}

http_seconds() { # Tue, 02 Jan 2030 03:04:05 GMT: sets $seconds; empty for another text
  local months=JanFebMarAprMayJunJulAugSepOctNovDec month
  seconds=''
  [[ $1 =~ ^[A-Z][a-z]{2},\ ([0-9]{2})\ ([A-Z][a-z]{2})\ ([0-9]{4})\ ([0-9]{2}):([0-9]{2}):([0-9]{2})\ GMT$ ]] || return 0
  local part=("${BASH_REMATCH[@]}")
  month=${months%%"${part[2]}"*}
  days "${part[3]}" $((${#month} / 3 + 1)) "${part[1]}"
  ((seconds += 3600 * 10#${part[4]} + 60 * 10#${part[5]} + 10#${part[6]}))
}

http_date() { TZ=UTC0 printf -v date '%(%a, %d %b %Y %H:%M:%S GMT)T' "$1"; } # SECONDS: sets $date
