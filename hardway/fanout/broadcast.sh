# Takes one file and passes it on: runs on each instance of a spread, and ends with its stdin. POSIX shell, coreutils,
# and OpenSSH's client to take it from another instance; the other needs nothing but its sshd.
#
# $1: a word that stands in front of all it says, $2: a name of this spread's own on this instance, $3: the file's bytes,
# $4: their SHA-256, $5: this instance's public key and what precedes it in authorized_keys; $6: the script that installs
# the file, which reads it (or links it: $whole), and its arguments.
# stdin: `take` and the bytes; `pull HOST PORT USER KEY-BYTES KNOWN-BYTES` and these bytes: the other's private key and
# host keys; `fetch URL` for an object in S3; `install`. Each is answered on stdout by `ok` or `no REASON`; dots
# in between say that this end lives.
word=$1 name=$2 size=$3 digest=$4 entry=$5 installer=$6
shift 6
say() { printf '%s %s\n' "$word" "$*"; }
umask 077
most_noise=65536
home=$PWD dir=$PWD/.$name keys=$PWD/.ssh/authorized_keys
# It is renamed over: what a link leads to, not the link.
if [ -L "$keys" ]; then keys=$(readlink -f -- "$keys") || exit 1; fi

forget() {
  trap - EXIT
  trap '' HUP INT TERM PIPE
  [ -z "$ticker" ] || kill "$ticker" 2>/dev/null
  remove "$name"
}

remove() { # NAME: the key and the directory of a spread
  if [ -f "$keys" ]; then
    exec 8<"${keys%/*}" && flock 8 2>/dev/null
    if cp -p -- "$keys" "$keys.$1"; then
      grep -vF -- "$1" "$keys" >"$keys.$1"
      # 1: no line is left
      if [ $? -le 1 ]; then mv -f -- "$keys.$1" "$keys"; fi
      [ -s "$keys" ] || rm -f -- "$keys"
    fi
    rm -f -- "$keys.$1"
    exec 8<&-
  fi
  cd "$home" && rm -rf -- "$home/.$1"
}

remove_the_dead() { # those of spreads that were killed: nobody has their lock
  command -v flock >/dev/null || return 0
  for old in "$home"/.hardway-*-i-*; do
    if [ -d "$old" ] && [ ! -L "$old" ] && [ -O "$old" ] && (flock -n 6) 6<"$old"; then remove "${old#"$home/."}"; fi
  done
}
ticker=
trap forget EXIT
trap 'exit 1' HUP INT TERM PIPE

# The command in authorized_keys is all that the key opens; the key is dead after a day, whatever happens here.
exec 7<"$home"
if command -v flock >/dev/null; then flock 7; fi
remove_the_dead
mkdir -p -- "$dir" "${keys%/*}" && exec 6<"$dir" || exit 1
if command -v flock >/dev/null; then flock 6; fi
exec 7<&-
exec 8<"${keys%/*}" && flock 8 2>/dev/null
if [ -s "$keys" ] && [ -n "$(tail -c 1 "$keys")" ]; then echo >>"$keys"; fi
printf '%s %s\n' "$entry" "$name" >>"$keys" || exit 1
exec 8<&-

(while sleep 5 >/dev/null 2>&1; do say .; done) 2>/dev/null &
ticker=$!

sha256() { # openssl's is several times faster
  if command -v openssl >/dev/null; then openssl dgst -sha256 -r; else sha256sum; fi
}

settle() { # CODE SAID: what came is the file, or it is gone
  if [ "$1" -ne 0 ]; then
    say "no $(tail -n 1 "$2" | tr -d '\r')"
  elif [ "$(wc -c <"$dir/part")" -ne "$size" ]; then
    say "no only a part of it arrived"
  elif [ "$(sha256 <"$dir/part" | head -c 64)" != "$digest" ]; then
    say "no what came is not what was sent"
  else
    mv -f -- "$dir/part" "$dir/whole" && say ok
    return
  fi
  rm -f -- "$dir/part"
}

while read -r what one two three four five; do
  case $what in
  take)
    head -c "$size" >"$dir/part" 2>"$dir/said"
    settle $? "$dir/said"
    ;;
  pull)
    head -c "$four" >"$dir/key" && head -c "$five" >"$dir/known" || exit 1
    (
      cd "$dir" && ssh -F none -T -i key -p "$two" -l "$three" -o IdentitiesOnly=yes -o IdentityAgent=none \
        -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=known -o GlobalKnownHostsFile=none \
        -o HostKeyAlias=parent -o ConnectTimeout=5 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 \
        -o Ciphers=aes128-gcm@openssh.com,aes128-ctr -o LogLevel=ERROR -- "$one"
      echo $? >code
    ) </dev/null 2>"$dir/said" | head -c $((size + most_noise)) >"$dir/part"
    # In front of it is what the other's login shell prints.
    if [ "$(wc -c <"$dir/part")" -gt "$size" ]; then
      tail -c "$size" <"$dir/part" >"$dir/rest" && mv -f -- "$dir/rest" "$dir/part"
    fi
    read -r code <"$dir/code" || code=1
    settle "$code" "$dir/said"
    rm -f -- "$dir/key" "$dir/code" "$dir/rest"
    ;;
  fetch)
    aws s3 cp --only-show-errors "$one" - </dev/null >"$dir/part" 2>"$dir/said"
    settle $? "$dir/said"
    ;;
  install)
    if whole=$dir/whole sh -c "$installer" hardway "$@" <"$dir/whole" >/dev/null 2>"$dir/said"; then
      say ok
    else
      say "no $(tail -n 1 "$dir/said")"
    fi
    ;;
  esac
done
