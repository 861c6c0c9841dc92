# shellcheck shell=bash disable=SC2034,SC2154
# cp with - on one side. aws reads this file when it needs it.

stream() { # cp with - on one side; ends the process
  if [[ $source_kind == local ]]; then
    if [[ ${value[dryrun]-} ]]; then
      [[ ${value[quiet]-} ]] || out '(dryrun) upload: - to s3://%s\n' "$target_path"
      finish 0
    fi
    whole='^[[:space:]]*[-+]?[0-9]+[[:space:]]*$'
    [[ -z ${value[expected-size]-} || ${value[expected-size]} =~ $whole ]] ||
      fatal "invalid literal for int() with base 10: '${value[expected-size]}'"
    put - "$target_path" PutObject && finish 0
    [[ $target_path == */* ]] || target_path+=/
    line="upload failed: - to s3://$target_path"
  else
    if [[ ${value[dryrun]-} ]]; then
      [[ ${value[quiet]-} ]] || out '(dryrun) download: s3://%s to -\n' "$source_path"
      finish 0
    fi
    split_path "$source_path"
    if good_bucket "$bucket" && legal_key HeadObject; then stream_object; fi
    line="download failed: s3://$source_path to -"
  fi
  [[ ${value[quiet]-} ]] || printf '%s %s\n' "$line" "$error" >&2
  finish 1
}
