# The script of a member of a Spark or Dask cluster, or of a store, on an instance. POSIX shell, util-linux, Python 3, and
# for Spark Java.
#
# $1: start, look, token, reach, usage or stop; stdin: lines of NAME=VALUE, of the names below. Everything is kept in
# ~/.hardway-cluster: ROLE.log, ROLE.pid (the id of a process and when it began: ids are used again), ROLE.command, and
# the Python of --install.
# `run` there runs a program on the cluster, on the master.
verb=$1
while read -r pair; do readonly "${pair?}"; done
: "${engine=}" "${package=}" "${wanted=}" "${requirement=}" "${install=}" "${python=}"
: "${role=}" "${name=}" "${ip=}" "${master=}" "${port=}" "${dashboard=}" "${mebibytes=}"
: "${token=}" "${members=}" "${version=}" "${server=}" "${aws=}" "${next=}"
umask 077
dir=$HOME/.hardway-cluster
mkdir -p "$dir" && cd "$dir" || exit 1

refuse() {
  printf '%s\n' "$*" >&2
  exit 3
}

# Two at once, from two terminals: the second finds it done. An installation takes minutes.
[ "$verb" = usage ] || exec 9>lock
[ "$verb" = usage ] || flock -w 900 9 || refuse 'another cluster task is at work here'

began() { # PID: when it began, in ticks since boot; nothing where it has ended
  sed -n 's/.*) [^ZX] //p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 19
}

running() { # ROLE
  pid=''
  [ -s "$1.pid" ] && read -r pid since <"$1.pid" && [ -n "$since" ] && [ "$(began "$pid")" = "$since" ]
}

end() { # ROLE: TERM to all it has started, and after ten seconds KILL
  if running "$1"; then
    kill -s TERM -- "-$pid"
    tries=0
    while kill -s 0 -- "-$pid" 2>/dev/null; do
      tries=$((tries + 1))
      [ "$tries" -ne 100 ] || kill -s KILL -- "-$pid"
      [ "$tries" -lt 150 ] || refuse "the $1, process $pid, does not end"
      sleep 0.1
    done
    echo "$1"
  fi
  rm -f -- "$1.pid"
}

start() { # ROLE COMMAND...: unless it runs already, as this command
  started=$1
  shift
  if running "$started"; then
    if [ "$(cat "$started.command")" = "$*" ]; then return; fi
    end "$started" >&2
  fi
  printf '%s' "$*" >"$started.command"
  setsid "$@" </dev/null >"$started.log" 2>&1 9>&- &
  printf '%s %s\n' "$!" "$(began "$!")" >"$started.pid"
}

has() { # PYTHON: whether it has the engine, in the version wanted
  says='import importlib.metadata as m, sys; print(m.version(sys.argv[1]))'
  found=$("$1" -c "$says" "$package" 2>/dev/null) && { [ -z "$wanted" ] || [ "$found" = "$wanted" ]; }
}

find_python() { # sets program
  program=$python
  what="$package${wanted:+ $wanted}"
  if [ -n "$python" ]; then
    has "$python" || refuse "$python has no $what${found:+, but $found}"
    return
  fi
  for program in "$dir/$engine/bin/python" python3; do
    if has "$program"; then return; fi
  done
  [ -n "$install" ] || refuse "there is no $what here: add --install, or name with --python a Python that has it"
  program=$dir/$engine/bin/python
  if command -v uv; then
    uv venv --quiet --allow-existing "$engine" && uv pip install --quiet --python "$program" "$requirement"
  else
    python3 -m venv "$engine" && "$program" -m pip install --quiet "$requirement"
  fi >install.log 2>&1 || refuse "$requirement could not be installed: $(tail -n 3 install.log | tr '\n' ' ')"
  has "$program" || refuse "$requirement was installed, and $package $wanted is not there"
}

write_run() { # COMMAND: the script `run`
  printf '#!/bin/sh\n%s "$@"\n' "$1" >run
  chmod 700 run
}

start_dask() {
  if [ "$role" = master ]; then
    start master "$program" -m distributed.cli.dask_scheduler --host "$ip" --port "$port" \
      --dashboard-address "$ip:$dashboard"
    write_run "DASK_SCHEDULER_ADDRESS=tcp://$ip:$port exec '$program'"
  fi
  start worker "$program" -m distributed.cli.dask_worker "tcp://$master:$port" --host "$ip" --name "$name" \
    --no-dashboard --local-directory "$dir/scratch" ${mebibytes:+--memory-limit "${mebibytes}MiB"}
}

start_spark() {
  command -v java >/dev/null || [ -x "${JAVA_HOME-}/bin/java" ] ||
    refuse 'there is no Java here: on Debian and Ubuntu, sudo apt-get install default-jre-headless'
  spark=$("$program" -c \
    'import importlib.util; print(importlib.util.find_spec("pyspark").submodule_search_locations[0])') ||
    refuse "$program has no pyspark that can be found"
  class="$spark/bin/spark-class"
  if [ "$role" = master ]; then
    start master env "SPARK_LOCAL_IP=$ip" "$class" org.apache.spark.deploy.master.Master \
      --host "$ip" --port "$port" --webui-port "$dashboard"
    # By its address, which all can reach: a VPC may have no names.
    write_run "SPARK_LOCAL_IP=$ip PYSPARK_PYTHON='$program' exec '$spark/bin/spark-submit' \\
  --master spark://$ip:$port --conf spark.driver.host=$ip"
  fi
  start worker env "SPARK_LOCAL_IP=$ip" "SPARK_LOCAL_DIRS=$dir/scratch" "$class" org.apache.spark.deploy.worker.Worker \
    --host "$ip" --work-dir "$dir/scratch/work" ${mebibytes:+--memory "${mebibytes}m"} "spark://$master:$port"
}

find_store() { # sets folder; false where there is none, or one of another instance, of which this one is a copy
  folder=''
  [ -s store/members ] && read -r whose _ folder <store/members && [ "$whose" = "$name" ]
}

make_folder() { # sets folder: on the first disk of the instance itself, if there is one; else where it may be made
  folder=${HARDWAY_ROOT-}/mnt/hardway-store
  (mkdir -p "$folder" || sudo -n install -d -m 700 -o "$(id -u)" -g "$(id -g)" "$folder") 2>/dev/null
  if [ -L "$folder" ] || [ ! -d "$folder" ] || [ ! -O "$folder" ] || [ ! -w "$folder" ]; then
    folder=$dir/store/objects
    mkdir -p "$folder" || exit 1
  fi
  chmod 700 "$folder"
}

unpacked() { # BASE64 FILE MODE
  { printf %s "$1" | base64 -d | gzip -d >"$2.new" && chmod "$3" "$2.new" && mv -f "$2.new" "$2"; } ||
    refuse "$2 can't be written"
}

written() { # TEXT FILE: whole or not at all
  { printf '%s\n' "$1" >"$2.new" && mv -f "$2.new" "$2"; } || refuse "$2 can't be written"
}

start_store() {
  command -v python3 >/dev/null || refuse 'there is no python3 here, which the store needs'
  mkdir -p store/bin || exit 1
  if ! find_store || [ ! -d "$folder" ]; then
    make_folder
    find "$folder" -mindepth 1 -delete
  fi
  # what a killed aws has left
  find "$folder" -name '.tmp-*' -mmin +60 -delete
  unpacked "$server" "store/server-$version.py" 600
  unpacked "$aws" store/bin/aws 700
  written "$token" store/token
  written "$name $port $folder
$(printf %s "$members" | tr ', ' '\n ')" store/members
  # killed, it is there again after half a second
  # shellcheck disable=SC2016
  start store sh -c 'while :; do "$@" >store.log 2>&1; sleep 0.5; done' store \
    python3 -I -S "store/server-$version.py" "$name" "$ip" "$port" "$folder" store/token
}

case $verb in
  start)
    case $engine in
      store) start_store ;;
      *)
        find_python
        mkdir -p scratch
        [ "$role" = master ] || end master >&2
        "start_$engine"
        ;;
    esac
    ;;
  token)
    if find_store; then cat store/token; fi
    ;;
  reach) # 4: our own server does not answer, and its log's end; 5: that of the next instance does not
    store/bin/aws s3 ls "s3://hardway_$name/" >/dev/null || { tail -n 5 store.log && exit 4; }
    store/bin/aws s3 ls "s3://hardway_$next/" >/dev/null || exit 5
    ;;
  usage) # OBJECTS BYTES, and up if the server runs
    find_store || exit 0
    find "$folder" -type f ! -name '.*' ! -name '*@' -printf '%s\n' |
      awk '{ bytes += $1 } END { printf "%d %.0f ", NR, bytes }'
    if running store; then echo up; else echo down; fi
    ;;
  look) # 0: it runs; its log's end either way
    tail -n 20 -- "$role.log"
    running "$role"
    ;;
  stop)
    end worker
    end master
    end store
    if find_store && [ -d "$folder" ]; then find "$folder" -mindepth 1 -delete; fi
    rm -rf -- scratch run store
    ;;
esac
