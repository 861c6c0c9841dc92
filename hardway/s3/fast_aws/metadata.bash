# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# The credentials that a container or an instance has for the fast aws. A role's credentials are kept in the user's
# runtime directory, which is in memory, until five minutes before their end.

small_answer() { # URL CONFIG-LINE...: sets $body; for the addresses of credentials, which no proxy may see
  local wait=${AWS_METADATA_SERVICE_TIMEOUT:-1} line config tries=${AWS_METADATA_SERVICE_NUM_ATTEMPTS:-1}
  [[ $wait =~ ^[1-9][0-9]{0,2}$ ]] || wait=1
  [[ $tries =~ ^[1-9][0-9]?$ ]] || tries=1
  printf -v config '%s\n' silent fail globoff 'noproxy = "*"' "max-time = $wait" "url = \"$1\"" "${@:2}"
  while ((tries--)); do
    body=$(curl -q --config - <<<"$config" 2>/dev/null) && ((${#body} <= 65536)) && return
  done
  body=''
  return 1
}

read_answer() { # of a container or an instance, in $body: sets key_id, secret, token and $ends, in seconds
  local name
  for name in AccessKeyId:key_id SecretAccessKey:secret Token:token Expiration:ends; do
    [[ $body =~ \"${name%:*}\"[[:space:]]*:[[:space:]]*\"([^\"]*)\" ]] || continue
    printf -v "${name#*:}" %s "${BASH_REMATCH[1]//\\\//\/}"
  done
  iso_seconds "${ends-}"
  ends=$seconds
}

ask_container() {
  local url=http://169.254.170.2${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-} authorization=${AWS_CONTAINER_AUTHORIZATION_TOKEN-}
  local loopback='^http://(127\.[0-9.]+|localhost|\[::1\]|169\.254\.170\.2|169\.254\.170\.23|\[fd00:ec2::23\])(:[0-9]+)?/'
  if [[ -z ${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-} ]]; then
    url=$AWS_CONTAINER_CREDENTIALS_FULL_URI
    [[ $url/ == https://* || $url/ =~ $loopback ]] || hand_over 'the credentials of this container'
  fi
  [[ -z ${AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE-} ]] ||
    IFS= read -r authorization <"$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" || [[ $authorization ]] ||
    hand_over 'the credentials of this container'
  [[ $url$authorization != *[\"\\[:cntrl:]]* ]] || hand_over 'the credentials of this container'
  small_answer "$url" ${authorization:+"header = \"Authorization: $authorization\""} && read_answer
}

ask_instance() { # IMDSv2
  local service=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} now session role path ends=''
  service=${service%/} path=/latest/meta-data/iam/security-credentials/
  [[ $service =~ ^https?://[][a-zA-Z0-9:._/-]+$ ]] || hand_over 'the address of the metadata'
  printf -v now '%(%s)T' -1
  kept_lines role
  if [[ ${#lines[@]} -eq 5 && ${lines[0]} == "$service" && ${lines[1]} =~ ^[0-9]{1,12}$ ]] && ((lines[1] - now > 300)); then
    key_id=${lines[2]} secret=${lines[3]} token=${lines[4]} from_instance=kept
    return
  fi
  small_answer "$service/latest/api/token" 'request = "PUT"' 'header = "X-aws-ec2-metadata-token-ttl-seconds: 21600"' || return 0
  [[ $body =~ ^[[:graph:]]+$ && $body != *[\"\\]* ]] || return 0
  session="header = \"X-aws-ec2-metadata-token: $body\""
  small_answer "$service$path" "$session" || return 0
  role=${body%%$'\n'*}
  [[ $role =~ ^[a-zA-Z0-9+=,.@_-]{1,128}$ ]] || return 0
  small_answer "$service$path$role" "$session" && read_answer
  from_instance=asked
  [[ -z $key_id || -z $ends ]] || keep role "$service" "$ends" "$key_id" "$secret" "$token"
}
