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
    local broken=''
    split_path "$source_path"
    if good_bucket "$bucket" && legal_key HeadObject; then
      locate "$bucket" "$key"
      # opened once: whole even if it is replaced while it is read
      if ! is_object "$file"; then
        alive || removed
      elif read_text "$file"; then
        printf %s "$text_read" 2>/dev/null && finish 0
        unwritable
        broken=1
      elif { exec 3<"$file"; } 2>/dev/null; then
        exec cat <&3
      fi
      [[ $broken ]] || error='An error occurred (404) when calling the HeadObject operation: Not Found'
    fi
    line="download failed: s3://$source_path to -"
  fi
  [[ ${value[quiet]-} ]] || printf '%s %s\n' "$line" "$error" >&2
  finish 1
}
