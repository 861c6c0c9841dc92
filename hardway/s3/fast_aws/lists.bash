# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154,SC2317
# Lists of objects and buckets for the fast aws.

bucket_exists() { # OPERATION
  [[ $bucket != hardway_i-* ]] || { enter_store; return; }
  payer
  plain=() upload='' payload='' into=''
  ask GET ListObjectsV2 '' 'encoding-type=url&list-type=2&max-keys=1&prefix='
}

list_bucket() { # BUCKET PREFIX: sets keys, sizes and times (seconds), those of a page after its common prefixes
  [[ $1 != hardway_i-* ]] || { list_store "$@"; return; }
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
    # an answer that is cut short, or from something else than S3
    [[ $body == *'</ListBucketResult>'* ]] || hand_over 'an answer that is no list'
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
    [[ $body == *'<IsTruncated>true<'* ]] || return 0
    [[ $more ]] || { error='a list that makes no sense' && return 1; }
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
  [[ $body == *'</ListAllMyBucketsResult>'* ]] || hand_over 'an answer that is no list'
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
