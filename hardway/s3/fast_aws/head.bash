# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# s3 presign and s3api head-object of the fast aws.

presigned() {
  local query path
  [[ $bucket != hardway_i-* ]] || hand_over presign
  read_settings
  find_credentials || fail 255 "$error"
  [[ -z ${general[no-sign-request]-} ]] || hand_over --no-sign-request
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
  [[ $output == json && -z $query && -z ${general[no-paginate]-} ]] || hand_over 's3api head-object'
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
  if [[ ${fields[expires]+x} ]]; then
    json "${fields[expires]}"
    lines+=("    \"ExpiresString\": $quoted")
  fi
  printf -v text ',\n%s' "${lines[@]}"
  out '{\n%s\n}\n' "${text#,?}"
  finish 0
}
