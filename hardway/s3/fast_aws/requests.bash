# shellcheck shell=bash disable=SC2034,SC2154
# One request of the fast aws to S3: signed, sent by curl, tried again where a try is of use, and its answer.

work=${TMPDIR:-/tmp}
declare -gA fields # of the last answer
headers=() plain=() upload='' payload='' into='' consumed='' at='' status=0 key_id='' token=''
nothing=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855

quoted() { # TEXT: sets $quoted, for a line of curl's configuration
  quoted=${1//\\/\\\\}
  quoted=${quoted//$'\n'/\\n}
  quoted=${quoted//$'\r'/\\r}
  quoted=\"${quoted//\"/\\\"}\"
}

# ask METHOD OPERATION KEY [QUERY]: the answer of S3 for $bucket, or $error, as the CLI says it. The query is in order and
# encoded. Sets $status, $fields and $body.
#   headers  name:value, in lower case: signed       plain  name: value: not signed
#   upload   a file that is sent, $payload its hash  into   a file for the body, from byte $at on
ask() {
  local attempt=1 moved='' renewed='' code
  read_settings
  find_credentials || return
  while :; do
    send "$@"
    code=$?
    ((code == 0 && status / 100 == 2)) && { [[ $body != *'<Error>'* ]] || [[ $1 == GET ]]; } && return
    [[ -z $into || $at || ! -s $into || $code -ne 0 || $status -lt 300 ]] || read_text_of "$into"
    if ((code == 0)) && other_region && [[ $region != "$moved" ]]; then
      # no address comes from an answer: the name of a region leads to one that is made here
      moved=$found_region region=$found_region
      continue
    fi
    explain "$code" "$@"
    if [[ $error_code == @(ExpiredToken|InvalidToken|InvalidAccessKeyId) && -z $renewed ]] && forget_role; then
      renewed=1
      continue
    fi
    if ! worth_another_try "$code" || ((attempt >= most)); then
      [[ $code -ne 0 || $consumed || $status != @(3??|501) ]] || hand_over "the answer $status of S3"
      return 1
    fi
    # 0.1 to 0.2 s, then twice as long, up to 10 s
    code=$(((1 << attempt) * (50 + RANDOM % 50)))
    ((code <= 10000)) || code=10000
    printf -v code '%d.%03d' $((code / 1000)) $((code % 1000))
    sleep "$code"
    ((attempt++))
  done
}

send() { # METHOD OPERATION KEY [QUERY]: once; returns curl's exit code
  local path config line name signed=("${headers[@]}") code
  address "$bucket"
  url_encode "$3"
  path=$base$encoded
  [[ -n $3 || -z $bucket || $path == / ]] || path=${path%/}
  if [[ ! ${general[no-sign-request]-} ]]; then sign "$1" "$path" "${4-}" "${payload:-$nothing}"; fi
  url=$scheme://$host$path${4:+?$4}
  config="silent
show-error
globoff
path-as-is
suppress-connect-headers
connect-timeout = $connect_timeout
speed-limit = 1
speed-time = $read_timeout
request = $1
url = \"$url\"
header = \"Accept:\"
header = \"Expect:\"
header = \"User-Agent: hardway\"
"
  [[ $1 != HEAD ]] || config+=$'head\n'
  [[ -z ${general[no-verify-ssl]-} ]] || config+=$'insecure\n'
  [[ -z $bundle ]] || { quoted "$bundle" && config+="cacert = $quoted"$'\n'; }
  for line in "${signed[@]}"; do
    name=${line%%:*}
    # a header without a value has a semicolon
    quoted "$name: ${line#*:}"
    config+="header = $quoted"$'\n'
  done
  for line in "${plain[@]}"; do
    quoted "$line"
    config+="header = $quoted"$'\n'
  done
  if [[ $upload ]]; then
    quoted "$upload"
    config+="upload-file = $quoted"$'\n'
  elif [[ $1 == @(PUT|POST) ]]; then
    config+=$'header = "Content-Length: 0"\n'
  fi
  if [[ $at ]]; then
    # the bytes of an error have no place in the file
    config+=$'fail\ndump-header = "/dev/fd/9"\n'
  elif [[ $into ]]; then
    quoted "$into"
    config+="output = $quoted"$'\n''dump-header = "-"'$'\nremote-time\n'
  elif [[ $1 != HEAD ]]; then
    config+=$'include\n'
  fi
  status=0 body='' fields=()
  if [[ $at ]]; then
    exec 8<>"$into" && dd oflag=seek_bytes conv=notrunc "seek=$at" count=0 >&8 2>/dev/null || return 23
    answer=$(exec curl -q --config - <<<"$config" 9>&1 >&8 2>&9)
    code=$?
    exec 8>&-
    [[ $code != 22 || $answer != *HTTP/* ]] || code=0
  else
    answer=$(exec curl -q --config - <<<"$config" 2>&1)
    code=$?
  fi
  [[ $code -eq 0 ]] || { curl_said=${answer##*$'curl: '} && return "$code"; }
  [[ $answer != *HTTP/* ]] || answer=HTTP/${answer#*HTTP/} # without a warning of curl's before it
  read_head
}

read_head() { # takes the last head off $answer: sets $status and $fields; the rest is $body
  local head line name
  while [[ $answer == HTTP/* ]]; do
    head=${answer%%$'\r\n\r\n'*}
    body=${answer#"$head"}
    body=${body#$'\r\n\r\n'}
    [[ $head =~ ^HTTP/[0-9.]+\ ([0-9]{3}) ]] || return 8
    status=${BASH_REMATCH[1]} fields=() field_names=()
    local IFS=$'\n'
    for line in $head; do
      line=${line%$'\r'}
      name=${line%%:*}
      [[ $line == *:* && $name != *[^a-zA-Z0-9_-]* ]] || continue
      line=${line#*:}
      field_names+=("${name,,}")
      fields[${name,,}]=${line#"${line%%[! ]*}"}
    done
    answer=$body
    ((status / 100 == 1)) || return 0
  done
  return 52
}

read_text_of() { # FILE: sets $body, the error in it
  IFS= read -r -d '' -n 65536 body <"$1"
  return 0
}

other_region() { # sets $found_region, where the bucket is, if the answer says so and it is not this one
  found_region=${fields[x-amz-bucket-region]-}
  [[ $status == @(301|307|400|403) ]] || return
  [[ $found_region || ! $body =~ \<Code\>AuthorizationHeaderMalformed.*\<Region\>([^\<]*)\< ]] || found_region=${BASH_REMATCH[1]}
  [[ $found_region =~ ^[a-z0-9-]{1,64}$ && $found_region != "$region" ]]
}

unescape_xml() { # TEXT: sets $plain_text
  plain_text=$1
  [[ $1 == *'&'* ]] || return 0
  plain_text=${plain_text//&lt;/<}
  plain_text=${plain_text//&gt;/>}
  plain_text=${plain_text//&quot;/\"}
  plain_text=${plain_text//&apos;/\'}
  plain_text=${plain_text//&#39;/\'}
  plain_text=${plain_text//&#34;/\"}
  plain_text=${plain_text//&amp;/&}
}

explain() { # CURL-CODE METHOD OPERATION KEY...: sets $error and $error_code
  error_code=''
  case $1 in
    0) ;;
    5 | 6 | 7) error="Could not connect to the endpoint URL: \"$url\"" ;;
    28) error="Read timeout on endpoint URL: \"$url\"" ;;
    35 | 51 | 58 | 59 | 60 | 77 | 83 | 90 | 91) error="SSL validation failed for $url ${curl_said#* }" ;;
    18 | 52 | 55 | 56 | 92)
      error="Connection was closed before we received a valid response from endpoint URL: \"$url\"." ;;
    23)
      error='[Errno 5] Input/output error'
      [[ ! ${curl_said-} =~ [Nn]o\ space|[Ww]rit ]] || error='[Errno 28] No space left on device'
      ;;
    126 | 127) hand_over 'there is no curl' ;;
    *) error="curl: ${curl_said:-$1}" ;;
  esac
  (($1 == 0)) || return 0
  if [[ $body =~ \<Code\>([^\<]*)\</Code\> ]]; then
    error_code=${BASH_REMATCH[1]} error=None
    [[ ! $body =~ \<Message\>([^\<]*)\</Message\> ]] || { unescape_xml "${BASH_REMATCH[1]}" && error=$plain_text; }
  else
    error_code=$status
    case $status in
      301) error='Moved Permanently' ;;
      400) error='Bad Request' ;;
      401) error=Unauthorized ;;
      403) error=Forbidden ;;
      404) error='Not Found' ;;
      405) error='Method Not Allowed' ;;
      412) error='Precondition Failed' ;;
      416) error='Requested Range Not Satisfiable' ;;
      500) error='Internal Server Error' ;;
      502) error='Bad Gateway' ;;
      503) error='Service Unavailable' ;;
      504) error='Gateway Timeout' ;;
      *) error=Unknown ;;
    esac
  fi
  error="An error occurred ($error_code) when calling the $3 operation: ${error//[[:cntrl:]]/ }"
}

worth_another_try() { # CURL-CODE
  case $1 in
    0) [[ $status == @(429|500|502|503|504|509) ||
      $error_code == @(RequestTimeout|SlowDown|InternalError|Throttling*|RequestTimeTooSkewed|ServiceUnavailable) ]] ;;
    5 | 6 | 7 | 16 | 18 | 28 | 35 | 52 | 55 | 56 | 92) ;;
    *) return 1 ;;
  esac
}
