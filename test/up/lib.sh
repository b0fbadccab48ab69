# What up.sh and down.sh share: where things are, and how to ask whether they still run. Sourced, not run.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
RUN=$ROOT/.run
REGION=us-west-2
ACCOUNT=123456789012
CLUSTER=daemonset
SERVICE=logging-agent
API=127.0.0.1:8480
REGISTRY=127.0.0.1:5480
export HOSTS_DIR=$RUN/hosts HOSTS_NAME=lsup HOSTS_NET=10.90.0
HOSTS_SH=$ROOT/test/hosts/hosts.sh
LAN=$HOSTS_NET.254

step() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() { printf 'make up: %s\n' "$*" >&2; exit 1; }

# alive NAME: the process that .run/NAME.pid names still runs and is still ours
alive() {
  local pid start
  read -r pid start 2>/dev/null <"$RUN/$1.pid" || return 1
  [ "$(awk '{print $22}' "/proc/$pid/stat" 2>/dev/null)" = "$start" ]
}

# launch NAME CMD...: start it in the background with its output in .run/NAME.log, and remember pid and start time
launch() {
  local name=$1 pid
  shift
  setsid "$@" >>"$RUN/$name.log" 2>&1 </dev/null &
  pid=$!
  disown "$pid"
  echo "$pid $(awk '{print $22}' "/proc/$pid/stat")" >"$RUN/$name.pid"
}

# halt NAME [SECONDS]: end it, politely first
halt() {
  local pid _
  alive "$1" || { rm -f "$RUN/$1.pid"; return 0; }
  read -r pid _ <"$RUN/$1.pid"
  kill "$pid"
  for _ in $(seq $((${2:-10} * 10))); do alive "$1" || break; sleep .1; done
  alive "$1" && kill -9 "$pid"
  rm -f "$RUN/$1.pid"
}

# listening PORT: somebody in this network namespace listens on it
listening() { awk -v p="$(printf ':%04X' "$1")" 'substr($2, length($2) - 4) == p && $4 == "0A" { found = 1 } END { exit !found }' /proc/net/tcp /proc/net/tcp6 2>/dev/null; }

# await SECONDS WHAT CMD...: run CMD until it succeeds, showing that time passes
await() {
  local limit=$1 what=$2 began=$SECONDS
  shift 2
  printf '    %s ' "$what"
  until "$@" >/dev/null 2>&1; do
    if [ $((SECONDS - began)) -ge "$limit" ]; then printf ' no, after %s s\n' "$limit"; return 1; fi
    printf '.'
    sleep .3
  done
  printf ' ok\n'
}

# links: the network interfaces of this namespace, a line each
links() { awk -F: 'NR > 2 { gsub(/ /, "", $1); print $1 }' /proc/net/dev; }
