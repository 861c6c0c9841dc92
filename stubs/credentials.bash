# shellcheck shell=bash disable=SC2034,SC2154
# The credentials of the fast aws, in the CLI's order: environment, files, container, the instance's role. What an
# instance's role gave is kept in the user's runtime directory, which is in memory, until five minutes before its end.

private_directory() { # sets $private, ours alone and in memory; or empty
  private=${XDG_RUNTIME_DIR:-/run/user/$UID}
  if [[ $private == /* && -d $private && ! -L $private && -O $private ]]; then
    private+=/hardway-aws
    [[ -d $private ]] || (umask 077 && exec mkdir -- "$private") 2>/dev/null
    [[ -d $private && ! -L $private && -O $private ]] && return
  fi
  private=''
}

keep() { # NAME LINE...: in the private directory, whole or not at all
  [[ $private ]] || return 0
  local new=$private/.$1.$$.$RANDOM
  if ! { (umask 077 && set -C && printf '%s\n' "${@:2}" >"$new") && mv -fT -- "$new" "$private/$1"; } 2>/dev/null; then
    rm -f -- "$new"
  fi
}

kept_lines() { # NAME: sets $lines
  lines=()
  [[ $private && -f $private/$1 && ! -L $private/$1 && -O $private/$1 ]] && mapfile -t lines <"$private/$1"
} 2>/dev/null

find_credentials() { # sets key_id, secret and token; or $error
  [[ -z ${key_id-} && -z ${value[no-sign-request]-} ]] || return 0
  private_directory
  key_id='' secret='' token=''
  if [[ -z ${value[profile]+x} && ${AWS_ACCESS_KEY_ID-} && ${AWS_SECRET_ACCESS_KEY-} ]]; then
    key_id=$AWS_ACCESS_KEY_ID secret=$AWS_SECRET_ACCESS_KEY token=${AWS_SESSION_TOKEN:-${AWS_SECURITY_TOKEN-}}
  elif [[ ${conf[role_arn]-}${conf[web_identity_token_file]-} || ${!conf[*]} == *sso_* ||
    (${AWS_WEB_IDENTITY_TOKEN_FILE-} && ${AWS_ROLE_ARN-}) ]]; then
    hand_over 'the credentials of this profile'
  elif [[ ${conf[aws_access_key_id]-} && ${conf[aws_secret_access_key]-} ]]; then
    key_id=${conf[aws_access_key_id]} secret=${conf[aws_secret_access_key]} token=${conf[aws_session_token]-}
  elif [[ ${conf[credential_process]-} || ${conf[login_session]-} ]]; then
    hand_over 'the credentials of this profile'
  elif [[ ${AWS_CONTAINER_CREDENTIALS_RELATIVE_URI-}${AWS_CONTAINER_CREDENTIALS_FULL_URI-} ]]; then
    ask_container
  elif [[ ${AWS_EC2_METADATA_DISABLED-} != [Tt]rue ]]; then
    ask_instance
  fi
  if [[ -z $key_id || -z $secret ]]; then
    error='Unable to locate credentials. You can configure credentials by running "aws configure".'
    return 1
  fi
  [[ $key_id$secret$token != *[^[:graph:]]* ]] || hand_over 'the credentials'
}

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

forget_role() { # what was kept is refused: true if it is worth another try
  [[ ${from_instance-} == kept ]] || return
  rm -f -- "$private/role"
  key_id='' signing_key='' from_instance=''
  find_credentials
}
