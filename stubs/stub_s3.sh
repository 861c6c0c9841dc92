# Source this in bash, zsh or dash: `aws` becomes the S3 stub next to this file, here and in every sub-process,
# with a fresh session of objects on local disk. `clear-s3-stubbed` removes them and gives the real `aws` back.
# Sourced again while its session lives, it changes nothing.
# shellcheck shell=sh

_s3_stubbed_here() { # sets _s3_stubbed_bin, the directory of this file
  if [ -n "${BASH_VERSION-}" ]; then
    eval '_s3_stubbed_file=${BASH_SOURCE[0]}'
  elif [ -n "${ZSH_VERSION-}" ]; then
    eval '_s3_stubbed_file=${(%):-%x}'
  else
    # dash does not say which file it reads, but holds it open (in this process, not in a command substitution)
    read -r _s3_stubbed_pid _ </proc/self/stat
    for _s3_stubbed_file in "/proc/$_s3_stubbed_pid/fd"/*; do
      _s3_stubbed_file=$(readlink "$_s3_stubbed_file") || continue
      case $_s3_stubbed_file in */stub_s3.sh) break ;; esac
    done
  fi
  _s3_stubbed_bin=$(readlink -f -- "$_s3_stubbed_file")
  _s3_stubbed_bin=${_s3_stubbed_bin%/*}
}

_s3_stubbed_start() {
  _s3_stubbed_here
  if [ ! -x "$_s3_stubbed_bin/aws" ]; then
    printf 'stub_s3.sh: there is no executable aws next to it, in %s\n' "$_s3_stubbed_bin" >&2
    return 1
  fi
  case ":$PATH:" in
    ":$_s3_stubbed_bin:"*) ;;
    *) PATH=$_s3_stubbed_bin:$PATH ;;
  esac
  export PATH
  if [ -z "${s3_stubbed_session-}" ] ||
    [ ! -d "${s3_stubbed_tmp:-${TMPDIR:-/tmp}}/s3_stubbed_session_$s3_stubbed_session" ]; then
    s3_stubbed_tmp=$(cd -- "${TMPDIR:-/tmp}" && pwd -P) || return
    read -r s3_stubbed_session </proc/sys/kernel/random/uuid
    mkdir -m 700 "$s3_stubbed_tmp/s3_stubbed_session_$s3_stubbed_session" || return
    : >"$s3_stubbed_tmp/s3_stubbed_session_$s3_stubbed_session/^started"
    export s3_stubbed_session s3_stubbed_tmp
  fi
  if [ "$(command -v aws)" != "$_s3_stubbed_bin/aws" ]; then
    printf 'stub_s3.sh: aws is a function or an alias in this shell and hides the stub: %s\n' \
      'remove it (unset -f aws; unalias aws)' >&2
    return 1
  fi
}

_s3_stubbed_clear() {
  if [ -z "${s3_stubbed_session-}" ]; then
    printf 'clear-s3-stubbed: there is no session of the S3 stub in this shell\n' >&2
    return 0
  fi
  _s3_stubbed_dir=${s3_stubbed_tmp:-${TMPDIR:-/tmp}}/s3_stubbed_session_$s3_stubbed_session
  printf '$ rm -rf %s\n' "$_s3_stubbed_dir"
  rm -rf -- "$_s3_stubbed_dir"
  _s3_stubbed_rest=:$PATH:
  while :; do
    case $_s3_stubbed_rest in
      *":$_s3_stubbed_bin:"*)
        _s3_stubbed_rest=${_s3_stubbed_rest%%":$_s3_stubbed_bin:"*}:${_s3_stubbed_rest#*":$_s3_stubbed_bin:"}
        ;;
      *) break ;;
    esac
  done
  _s3_stubbed_rest=${_s3_stubbed_rest#:}
  PATH=${_s3_stubbed_rest%:}
  unset s3_stubbed_session s3_stubbed_tmp
}

unalias clear-s3-stubbed 2>/dev/null || :
# a function's name may have a dash in bash and zsh; in dash, and in bash's POSIX mode, an alias may
if (eval 'clear-s3-stubbed() { :; }') 2>/dev/null; then
  eval 'clear-s3-stubbed() { _s3_stubbed_clear; }'
else
  # shellcheck disable=SC2139
  alias clear-s3-stubbed=_s3_stubbed_clear
fi

_s3_stubbed_start
