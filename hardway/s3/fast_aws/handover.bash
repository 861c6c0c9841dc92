# shellcheck shell=bash disable=SC2034,SC2154,SC2317
# How the fast aws reads its settings, and when it leaves a command to the real CLI.

names_store() { # whether the command line names a bucket of the store
  local arg
  for arg in "${given[@]}"; do [[ $arg != ?(s3://)hardway_i-* ]] || return 0; done
  return 1
}

hand_over() { # WHY: the real CLI does it from here, or nobody
  local IFS=: directory line real=''
  if names_store; then
    printf 'aws: the buckets of the store have no %s\n' "$1" >&2
    finish 252
  fi
  for directory in $PATH; do
    [[ -f $directory/aws && -x $directory/aws && ! $directory/aws -ef ${BASH_SOURCE[0]} ]] || continue
    # another copy of this file would look for this one
    line='' && { read -r && read -r line; } <"$directory/aws"
    # what was read of stdin is not there for the real one
    [[ $line != '# The fast aws of hardway'* && -z ${consumed-} ]] && real=$directory/aws && break
  done 2>/dev/null
  if [[ -z $real ]]; then
    printf 'aws: %s: this needs the AWS CLI, and it is not installed here: pip install awscli, or https://aws.amazon.com/cli\n' \
      "$1" >&2
    finish 252
  fi
  ((${#scratch[@]})) && rm -rf -- "${scratch[@]}"
  trap - XFSZ PIPE
  for line in LC_ALL TZ; do
    if [[ ${environment_was[$line]+x} ]]; then export "$line=${environment_was[$line]}"; else unset "$line"; fi
  done
  exec "$real" "${given[@]}"
}

refuse() { hand_over "$1"; }

load() { # PART: a later part of this file
  local lines text
  [[ ${parts_at[$1]-} ]] || return 0
  mapfile -t -s "${parts_at[$1]%:*}" -n "${parts_at[$1]#*:}" lines <"${BASH_SOURCE[0]}" || fail 255 "$0 can't be read"
  unset "parts_at[$1]"
  printf -v text '%s\n' "${lines[@]}"
  eval "$text"
}

# functions that not every command needs: each replaces itself when it is called first
os_error() { load odd && os_error "$@"; }
unwritable() { load odd && unwritable; }
unclaim() { load odd && unclaim; }
usage_of() { load odd && usage_of; }
stream() { load stream && stream; }
get() { load download && get "$@"; }
send_object() { load parts && send_object "$@"; }
put_parts() { load parts && put_parts "$@"; }
fill_rest() { load parts && fill_rest; }
next_part() { load parts && next_part "$@"; }
abort_upload() { load parts && abort_upload; }
list_bucket() { load lists && list_bucket "$@"; }
list_buckets() { load lists && list_buckets "$@"; }
bucket_exists() { load lists && bucket_exists "$@"; }
list_quickly() { return 1; }
presigned() { load head && presigned; }
other_service() { load head && other_service "$@"; }
attributes_given() { load given && attributes_given; }
copy() { load given && copy "$@"; }
enter_store() { load store && enter_store; }
head_of_store() { load store && head_of_store; }
find_in_store() { load store && find_in_store; }
put_into_store() { load store && put_into_store "$@"; }
copy_in_store() { load store && copy_in_store "$@"; }
remove_from_store() { load store && remove_from_store; }
list_store() { load store && list_store "$@"; }
iso_seconds() { load times && iso_seconds "$@"; }
http_date() { load times && http_date "$@"; }
guess_type() { load types && guess_type "$@"; }
ask_container() { load metadata && ask_container; }
ask_instance() { load metadata && ask_instance; }

odd() { load odd && "$@"; }
help_text() { hand_over help; }
alive() { :; }
removed() { :; }
version() {
  out 'aws-cli/1.46.3 (fast aws of hardway) bash/%s\n' "${BASH_VERSION%%(*}"
}

known_service() { # SERVICE ARG...
  [[ -z ${s3_stubbed_session-} ]] || hand_over 'a session of the S3 stub'
  [[ $1 == s3 || " ${*:2} " == *' s3api '*'head-object '* ]] || hand_over "$1"
}

take_up() { # COMMAND of s3
  [[ $1 == @(cp|mv|rm|ls|presign) ]] || hand_over "s3 $1"
}

# the options that need nothing of the real CLI
obeyed=' dryrun quiet only-show-errors no-progress follow-symlinks no-follow-symlinks expected-size acl storage-class
  sse sse-kms-key-id content-type cache-control content-disposition content-encoding content-language expires
  website-redirect metadata request-payer no-guess-mime-type ignore-glacier-warnings page-size expires-in
  human-readable summarize bucket-name-prefix bucket key '
obeyed=${obeyed//$'\n'/ }

parsed() { # all of the command line is read
  local name
  for name in "${rest[@]}"; do [[ $name != -* ]] || hand_over "$name"; done
  for name in "${!value[@]}"; do
    [[ $obeyed == *" $name "* || ($name == recursive && $command == ls) ]] || hand_over "--$name"
    # Python takes more for a number than bash does
    [[ $name != @(page-size|expires-in|expected-size) || ! ${value[$name]} =~ ^[-+_[:space:]0-9]+$ ||
      ${value[$name]} =~ ^(0|[1-9][0-9]{0,17})$ ]] || hand_over "--$name ${value[$name]}"
  done
}

declare -A general # the options that stand before the service's own, and are of all commands

enter() { # sets $here, where the caller is
  local name
  cd -P . 2>/dev/null || hand_over 'the current directory is gone'
  here=$PWD command=''
  for name in "${!value[@]}"; do
    [[ $name != @(debug|v2-debug|no-paginate) && ($name != color || ${value[color]} != on) ]] || hand_over "--$name"
    general[$name]=${value[$name]}
  done
}

# ---------------------------------------------------------------- settings

declare -gA conf

read_settings() { # sets profile, region, endpoint, and what a request needs besides
  [[ -z ${settings_read-} ]] || return 0
  settings_read=1
  profile=${general[profile]-${AWS_PROFILE:-${AWS_DEFAULT_PROFILE-}}}
  local config=${AWS_CONFIG_FILE:-~/.aws/config} shared=${AWS_SHARED_CREDENTIALS_FILE:-~/.aws/credentials} found='' name
  config=${config/#\~\//$HOME/} shared=${shared/#\~\//$HOME/}
  [[ ! -e $config && ! -e $shared ]] || load profile
  if [[ ! -e $config ]]; then
    :
  elif [[ ${profile:-default} == default ]]; then
    read_section "$config" default || read_section "$config" 'profile default'
  else
    read_section "$config" "profile $profile" && found=1
  fi
  # the file of credentials comes first
  [[ ! -e $shared ]] || { read_section "$shared" "${profile:-default}" && found=1; }
  [[ -z $profile || $profile == default || $found ]] || fail 255 "The config profile ($profile) could not be found"
  for name in use_fips_endpoint use_dualstack_endpoint s3.use_accelerate_endpoint s3.use_dualstack_endpoint; do
    [[ ${conf[$name]-} != [Tt]rue ]] || hand_over "$name"
  done
  [[ ${AWS_USE_FIPS_ENDPOINT-} != [Tt]rue && ${AWS_USE_DUALSTACK_ENDPOINT-} != [Tt]rue ]] || hand_over 'another endpoint'
  [[ -z ${conf[s3.signature_version]-} ]] || hand_over s3.signature_version
  region=${general[region]-${AWS_REGION:-${AWS_DEFAULT_REGION:-${conf[region]:-us-east-1}}}}
  [[ $region =~ ^[a-z0-9-]{1,64}$ ]] || hand_over "the region $region"
  endpoint=${general[endpoint-url]-}
  if [[ -z $endpoint && ${AWS_IGNORE_CONFIGURED_ENDPOINT_URLS-} != [Tt]rue ]]; then
    endpoint=${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL-}}
    if [[ -z $endpoint && ${conf[ignore_configured_endpoint_urls]-} != [Tt]rue ]]; then
      [[ -z ${conf[services]-} ]] || read_section "$config" "services ${conf[services]}"
      endpoint=${conf[s3.endpoint_url]:-${conf[endpoint_url]-}}
    fi
  fi
  endpoint=${endpoint%/}
  [[ -z $endpoint || $endpoint =~ ^https?://(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9._-]+)(:[0-9]+)?(/[a-zA-Z0-9/._~-]*)?$ ]] ||
    hand_over "the endpoint $endpoint"
  style=${conf[s3.addressing_style]:-auto}
  most=${AWS_MAX_ATTEMPTS:-${conf[max_attempts]:-5}}
  [[ $most =~ ^[1-9][0-9]?$ ]] || hand_over "max_attempts $most"
  bundle=${general[ca-bundle]-${AWS_CA_BUNDLE:-${conf[ca_bundle]-}}}
  [[ $bundle != *[[:cntrl:]]* ]] || hand_over 'the CA bundle'
  for name in connect read; do
    [[ ${general[cli-$name-timeout]-60} =~ ^[1-9][0-9]{0,5}$ ]] || hand_over "--cli-$name-timeout"
  done
  connect_timeout=${general[cli-connect-timeout]-60} read_timeout=${general[cli-read-timeout]-60}
}

address() { # BUCKET, or none: sets scheme, host and base, the path before a key
  local suffix=amazonaws.com
  base=/
  if [[ $endpoint ]]; then
    scheme=${endpoint%%://*} host=${endpoint#*://}
    [[ $host != */* ]] || base=/${host#*/}/
    host=${host%%/*}
  else
    [[ $region != cn-* ]] || suffix+=.cn
    [[ $region != us-iso* && $region != eu-iso* && $region != eusc-* ]] || hand_over "the region $region"
    scheme=https host=s3.$region.$suffix
  fi
  [[ $scheme$host != http*:80 || $scheme == https ]] || host=${host%:80}
  [[ $scheme$host != https*:443 ]] || host=${host%:443}
  [[ $1 ]] || return 0
  [[ $1 != *--x-s3 && $1 != *-s3alias && $1 != *--ol-s3 ]] || hand_over "the bucket $1"
  if [[ $style != path && (-z $endpoint || $style == virtual) && $1 =~ ^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$ ]]; then
    host=$1.$host
  else
    [[ $1 != . && $1 != .. ]] || hand_over "the bucket $1"
    base+=$1/
  fi
}
