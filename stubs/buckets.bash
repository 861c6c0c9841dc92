# shellcheck shell=bash disable=SC2034,SC2154
# aws s3 mb and rb, and the link of presign. Read by aws, whose parser, names of keys and errors it uses.

make_bucket() { # aws s3 mb
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  no_more_arguments
  [[ ${positional[0]} == s3://* ]] || fail 255 '<S3Uri>
Error: Invalid argument type'
  split_path "${positional[0]}"
  if create_bucket "$bucket"; then
    out 'make_bucket: %s\n' "$bucket"
    finish 0
  fi
  printf 'make_bucket failed: %s %s\n' "${positional[0]}" "$error" >&2
  finish 1
}

create_bucket() { # BUCKET: sets $error
  good_bucket "$1" || return 1
  if [[ ${#1} -lt 3 || ${#1} -gt 63 || ! $1 =~ ^[a-zA-Z0-9] || $1 == *- ]]; then
    error='An error occurred (InvalidBucketName) when calling the CreateBucket operation: The specified bucket is not valid.'
    return 1
  fi
  bucket_directory "$1"
  no_links "$dir"
  umask 077
  try mkdir -p -- "$dir" && return
  alive || removed
  os_error
  return 1
}

remove_bucket() { # aws s3 rb
  parse 1 "$@" || usage_error 'the following arguments are required: path'
  no_more_arguments
  local path=${positional[0]}
  [[ $path == s3://* ]] || fail 255 '<S3Uri>
Error: Invalid argument type'
  split_path "$path"
  [[ -z $key ]] || fail 255 "Please specify a valid bucket name only. E.g. s3://$bucket"
  if good_bucket "$bucket" && empty_bucket && bucket_exists DeleteBucket; then
    no_links "$dir"
    find "$dir" -depth -type d -empty -delete 2>/dev/null
    if [[ ! -d $dir ]]; then
      alive || removed
      out 'remove_bucket: %s\n' "$bucket"
      finish 0
    fi
    error='An error occurred (BucketNotEmpty) when calling the DeleteBucket operation: The bucket you tried to delete is not empty'
  fi
  printf 'remove_bucket failed: %s %s\n' "$path" "$error" >&2
  finish 1
}

empty_bucket() { # rb --force: removes the objects of $bucket, or ends
  local i
  [[ ${value[force]-} ]] || return 0
  load many
  if ! list_bucket "$bucket" ''; then
    printf 'fatal error: %s\n' "$error" >&2
    fail 255 'remove_bucket failed: Unable to delete all objects in the bucket, bucket will not be deleted.'
  fi
  chunked=()
  for i in "${keys[@]}"; do
    locate "$bucket" "$i"
    chunked+=("$file")
  done
  in_chunks rm -f -- ||
    fail 255 'remove_bucket failed: Unable to delete all objects in the bucket, bucket will not be deleted.'
  [[ ! -d ./^about ]] || { load about && forget_replaced; }
  ((${#keys[@]})) && out "delete: s3://$bucket/%s\n" "${keys[@]}"
  return 0
}

presigned() { # an object's file: no address of the real S3, which would answer
  locate "$bucket" "$key"
  url_encode "$session/${file#./}"
  out 'file://%s\n' "$encoded"
  printf 'aws (S3 stub): this URL is a file of the session: curl reads it on this machine, and it does not expire\n' >&2
}
