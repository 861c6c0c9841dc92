# Source this in bash, zsh or dash: `aws` becomes the S3 stub next to this file, here and in every sub-process,
# with a fresh session of objects on local disk. `clear-s3-stubbed` removes them and gives the real `aws` back.
# Sourced again while its session lives, it changes nothing.
# PATH alone would not keep a script from the real S3: a virtual environment, a shim or a login shell changes it. So the
# variables of closed.sh, which lead every other client of S3 to a closed port, are set as well, and restored later.
# s3_stubbed_was_NAME keeps the earlier state of NAME: e and its value if it was exported, s and its value if it was
# only set, and empty if it was unset. It is exported if NAME was, so that a sub-shell can restore NAME, too.
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

_s3_stubbed_is_exported() { # NAME: a child of this shell sees it
  /bin/sh -c 'eval "test -n \"\${$1+x}\""' sh "$1"
}

_s3_stubbed_close() { # leads all but the stub to a closed port; remembers what was
  while IFS= read -r _s3_stubbed_line || [ -n "$_s3_stubbed_line" ]; do
    case $_s3_stubbed_line in
      '' | '#'*) continue ;;
    esac
    _s3_stubbed_name=${_s3_stubbed_line%%=*} _s3_stubbed_value=${_s3_stubbed_line#*=}
    _s3_stubbed_old='' && eval "_s3_stubbed_old=\${$_s3_stubbed_name-}"
    case $_s3_stubbed_name=$_s3_stubbed_old in
      AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=[Tt][Rr][Uu][Ee])
        printf 'stub_s3.sh: %s is off while S3 is stubbed: endpoints that are configured for other services count again\n' \
          AWS_IGNORE_CONFIGURED_ENDPOINT_URLS >&2
        ;;
    esac
    if eval "[ -z \"\${$_s3_stubbed_name+x}\" ]"; then
      unset "s3_stubbed_was_$_s3_stubbed_name"
    elif [ "$_s3_stubbed_old" != "$_s3_stubbed_value" ]; then
      unset "s3_stubbed_was_$_s3_stubbed_name"
      if _s3_stubbed_is_exported "$_s3_stubbed_name"; then
        eval "s3_stubbed_was_$_s3_stubbed_name=e\$_s3_stubbed_old; export s3_stubbed_was_$_s3_stubbed_name"
      else
        eval "s3_stubbed_was_$_s3_stubbed_name=s\$_s3_stubbed_old"
      fi
    fi
    eval "$_s3_stubbed_name=\$_s3_stubbed_value; export $_s3_stubbed_name"
  done <"$_s3_stubbed_bin/closed.sh"
}

_s3_stubbed_open() { # gives back what _s3_stubbed_close has changed, where nobody has changed it since
  while IFS= read -r _s3_stubbed_line || [ -n "$_s3_stubbed_line" ]; do
    case $_s3_stubbed_line in
      '' | '#'*) continue ;;
    esac
    _s3_stubbed_name=${_s3_stubbed_line%%=*} _s3_stubbed_value=${_s3_stubbed_line#*=}
    _s3_stubbed_old='' _s3_stubbed_was=''
    eval "_s3_stubbed_old=\${$_s3_stubbed_name-} _s3_stubbed_was=\${s3_stubbed_was_$_s3_stubbed_name-}"
    unset "s3_stubbed_was_$_s3_stubbed_name"
    [ "$_s3_stubbed_old" = "$_s3_stubbed_value" ] || continue
    unset "$_s3_stubbed_name"
    case $_s3_stubbed_was in
      e*) eval "$_s3_stubbed_name=\${_s3_stubbed_was#e}; export $_s3_stubbed_name" ;;
      s*) eval "$_s3_stubbed_name=\${_s3_stubbed_was#s}" ;;
    esac
  done <"$_s3_stubbed_bin/closed.sh"
}

_s3_stubbed_start() {
  _s3_stubbed_here
  if [ ! -x "$_s3_stubbed_bin/aws" ]; then
    printf 'stub_s3.sh: there is no executable aws next to it, in %s\n' "$_s3_stubbed_bin" >&2
    return 1
  fi
  # before anything else: a later failure must not open a way to the real S3
  _s3_stubbed_close || return
  case ":$PATH:" in
    ":$_s3_stubbed_bin:"*) ;;
    *) PATH=$_s3_stubbed_bin:$PATH ;;
  esac
  export PATH
  if [ -z "${s3_stubbed_session-}" ] ||
    [ ! -e "${s3_stubbed_tmp:-${TMPDIR:-/tmp}}/s3_stubbed_session_$s3_stubbed_session/^started" ]; then
    _s3_stubbed_tmp=$(cd -- "${TMPDIR:-/tmp}" && pwd -P) || return
    read -r _s3_stubbed_uuid </proc/sys/kernel/random/uuid || return
    mkdir -m 700 "$_s3_stubbed_tmp/s3_stubbed_session_$_s3_stubbed_uuid" || return
    if ! : >"$_s3_stubbed_tmp/s3_stubbed_session_$_s3_stubbed_uuid/^started"; then
      rmdir "$_s3_stubbed_tmp/s3_stubbed_session_$_s3_stubbed_uuid"
      return 1
    fi
    s3_stubbed_session=$_s3_stubbed_uuid s3_stubbed_tmp=$_s3_stubbed_tmp
    export s3_stubbed_session s3_stubbed_tmp
    # for a person only: a script's stderr belongs to its commands
    [ ! -t 2 ] || printf 'S3 is stubbed in this shell: %s\n' \
      'aws is the stub, other clients of S3 find a closed port, until clear-s3-stubbed' >&2
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
  else
    _s3_stubbed_dir=${s3_stubbed_tmp:-${TMPDIR:-/tmp}}/s3_stubbed_session_$s3_stubbed_session
    printf '$ rm -rf %s\n' "$_s3_stubbed_dir"
    # the mark goes first: a command that still runs sees that the session has ended, and not just that objects are gone
    rm -f -- "$_s3_stubbed_dir/^started" 2>/dev/null || :
    for _s3_stubbed_try in 1 2 3 4; do
      rm -rf -- "$_s3_stubbed_dir" 2>/dev/null && break
    done
    if ! rm -rf -- "$_s3_stubbed_dir"; then
      printf 'clear-s3-stubbed: not all of it could be removed; this shell stays as it is\n' >&2
      return 1
    fi
  fi
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
  unset s3_stubbed_session s3_stubbed_tmp s3_stubbed_jmespath
  _s3_stubbed_open
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
