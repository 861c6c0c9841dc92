# shellcheck shell=bash disable=SC2034,SC2154
# The credentials of the fast aws, in the CLI's order: environment, files, container, the instance's role. A role's are
# kept in the user's runtime directory, which is in memory.

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
  [[ -z ${key_id-} && -z ${general[no-sign-request]-} ]] || return 0
  private_directory
  key_id='' secret='' token=''
  if [[ -z ${general[profile]+x} && ${AWS_ACCESS_KEY_ID-} && ${AWS_SECRET_ACCESS_KEY-} ]]; then
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

forget_role() { # the kept credentials of the instance's role are refused: true if another try is worth it
  [[ ${from_instance-} == kept ]] || return
  rm -f -- "$private/role"
  key_id='' signing_key='' from_instance=''
  find_credentials
}
