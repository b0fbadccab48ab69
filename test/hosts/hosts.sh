#!/bin/bash
# hosts.sh: several whole hosts on one machine. Each has its own network, mount, PID, UTS and IPC namespaces, its own
# machine-id, boot id, /run, /tmp/host, engine data and agent directories, and its own engine. Their eth0s hang on one bridge that
# lives in a namespace of its own, so nothing is added to the machine's own network. Needs root, iproute2, util-linux, tini
# and docker.io or containerd.
#
#   hosts.sh up N             make hosts 1..N (those that exist stay) and start their engine in each
#   hosts.sh exec I CMD...    run CMD in host I
#   hosts.sh docker I ARGS... its docker, for people who look
#   hosts.sh lan CMD...       run CMD beside the hosts, at $NET.254
#   hosts.sh cut I            power cut: every process of host I dies at once; disks stay
#   hosts.sh boot I           start host I again
#   hosts.sh engines I        start the engines of host I that have ended, and wait for them
#   hosts.sh unplug I | plug I   take host I's cable out of the bridge, put it back
#   hosts.sh status           a line for each host
#   hosts.sh down             kill all, unmount, delete
#
# HOSTS_DIR   where their disks and sockets lie (default /tmp/longshore-hosts); the engine of host I is at $HOSTS_DIR/hI/docker.sock
# HOSTS_NAME  prefix of names (default lh)     HOSTS_NET  /24 prefix (default 10.90.0)
# HOSTS_ENGINE  docker (default), containerd, or both: then dockerd uses that containerd, as Debian's does
# HOSTS_DOCKERD  further flags of dockerd   HOSTS_CONTAINERD  the program to start as containerd, with shim and runc beside it
set -euo pipefail
D=${HOSTS_DIR:-/tmp/longshore-hosts} P=${HOSTS_NAME:-lh} NET=${HOSTS_NET:-10.90.0} SW=${P}lan
ENGINE=${HOSTS_ENGINE:-docker}
OWN="/var/lib/docker /var/lib/containerd /var/lib/ecs /var/log/ecs /etc/ecs /tmp/host"

need() { command -v "$1" >/dev/null || { echo "hosts.sh: $1 is missing: apt-get install -y --no-install-recommends $2" >&2; exit 1; }; }
has() { [ "$ENGINE" = "$1" ] || [ "$ENGINE" = both ]; }
netns_exists() { ip netns list | grep -qE "^$1( |\$)"; }
pid_of() { local p; p=$(cat "$D/h$1/init.pid" 2>/dev/null) && kill -0 "$p" 2>/dev/null && echo "$p"; }
inside() { local p; p=$(pid_of "$1") || { echo "hosts.sh: host $1 is not up" >&2; return 1; }; shift; nsenter -t "$p" -n -m -p -u -i --wdns="$PWD" -- "$@"; }

lan_up() {
  netns_exists "$SW" && return
  ip netns add "$SW"
  ip -n "$SW" link set lo up
  ip -n "$SW" link add br0 type bridge
  ip -n "$SW" addr add "$NET.254/24" dev br0
  ip -n "$SW" link set br0 up
  nsenter --net="/run/netns/$SW" sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true
}

cable() { # the host's network namespace and its port on the bridge
  local i=$1 n=$P$1
  netns_exists "$n" && return
  ip netns add "$n"
  ip -n "$n" link set lo up
  ip link add eth0 netns "$n" type veth peer name "p$i" netns "$SW"
  ip -n "$SW" link set "p$i" master br0 up
  ip -n "$n" addr add "$NET.$i/24" dev eth0
  ip -n "$n" link set eth0 up
  ip -n "$n" route add default via "$NET.254"
}

boot() {
  local i=$1 h=$D/h$1 n=$P$1 d first keeper
  ! pid_of "$i" >/dev/null || return 0
  cable "$i"
  rm -f "$h/init.pid" "$h/docker.sock" "$h/mounted"
  for d in $OWN; do mkdir -p "$h/disk$d" "$d"; done
  cat /proc/sys/kernel/random/uuid >"$h/boot-id"
  [ -e "$h/machine-id" ] || tr -d - </proc/sys/kernel/random/uuid >"$h/machine-id"
  # The outer shell is the host's power supply; unshare's child, tini, is PID 1 inside. `ip netns exec` would hide
  # /sys/fs/cgroup behind a new sysfs, so nsenter it is.
  setsid nsenter --net="/run/netns/$n" unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc \
    sh -c 'h=$1 n=$2; shift 2; hostname "$n"; mount --make-rprivate /; mount -t tmpfs -o mode=755 run /run; mkdir -p /run/lock
      mount --bind "$h/machine-id" /etc/machine-id
      mount --bind "$h/boot-id" /proc/sys/kernel/random/boot_id
      for d; do mount --bind "$h/disk$d" "$d"; done; ip link set lo up; touch "$h/mounted"; exec tini -s -- sleep infinity' \
    sh "$h" "$n" $OWN >"$h/init.log" 2>&1 </dev/null &
  keeper=$!
  first=
  for _ in $(seq 250); do
    first=$(pgrep -P "$keeper" | head -1 || true)
    [ -n "$first" ] && [ -e "$h/mounted" ] && break
    sleep .02
  done
  [ -n "$first" ] && [ -e "$h/mounted" ] || { echo "hosts.sh: host $i did not come up: $(cat "$h/init.log")" >&2; return 1; }
  rm -f "$h/mounted"
  echo "$first" >"$h/init.pid"
  disown "$keeper"
  engines "$i"
}

contained='test -S /run/containerd/containerd.sock && ctr version' # without a socket ctr waits for one

# engines starts those of a host that are not there
engines() {
  local i=$1 h=$D/h$1
  if has containerd && ! inside "$i" sh -c "$contained" >/dev/null 2>&1; then
    cat >"$h/containerd.toml" <<END
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
END
    inside "$i" setsid -f sh -c "echo \$\$ >/run/containerd.pid; ${HOSTS_CONTAINERD:+PATH=${HOSTS_CONTAINERD%/*}:\$PATH} exec ${HOSTS_CONTAINERD:-containerd} -c $h/containerd.toml >>$h/containerd.log 2>&1 </dev/null"
  fi
  if has docker && ! docker -H "unix://$h/docker.sock" version >/dev/null 2>&1; then
    ! has containerd || wait_for "$h/containerd.log" inside "$i" sh -c "$contained"
    inside "$i" setsid -f sh -c "exec dockerd -H unix://$h/docker.sock -H unix:///run/docker.sock \
      --insecure-registry $NET.0/24 --cgroup-parent /$P$i ${HOSTS_DOCKERD:-} >>$h/dockerd.log 2>&1 </dev/null"
  fi
}

wait_for() { # a command that is to succeed; first the log that says why it does not
  local log=$1
  shift
  for _ in $(seq 500); do
    "$@" >/dev/null 2>&1 && return
    sleep .02
  done
  echo "hosts.sh: $* fails: $(tail -3 "$log")" >&2
  return 1
}

ready() {
  ! has containerd || wait_for "$D/h$1/containerd.log" inside "$1" sh -c "$contained"
  ! has docker || wait_for "$D/h$1/dockerd.log" docker -H "unix://$D/h$1/docker.sock" version
}

cut_host() { # PID 1 of the namespace dies, and everything in it
  local p
  p=$(pid_of "$1") || return 0
  kill -9 "$p"
  while kill -0 "$p" 2>/dev/null; do sleep .01; done
  rm -f "$D/h$1/init.pid"
}

down() {
  local h i c
  for h in "$D"/h[0-9]*; do
    [ -d "$h" ] || continue
    i=${h##*/h}
    cut_host "$i"
    ip netns del "$P$i" 2>/dev/null || true
    for c in /sys/fs/cgroup/*/"$P$i" /sys/fs/cgroup/"$P$i"; do # control groups of a cut host stay behind
      [ ! -d "$c" ] || find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    # and so do those of its tasks, whose parents its containers name
    for c in $(grep -ohs '"CgroupParent":"/ecs/[A-Za-z0-9_]*"' "$h"/disk/var/lib/docker/containers/*/hostconfig.json | cut -d'"' -f4 | sort -u); do
      find /sys/fs/cgroup/*"$c" /sys/fs/cgroup"$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$h"
  done
  ip netns del "$SW" 2>/dev/null || true
  rmdir "$D" 2>/dev/null || true
}

cmd=${1:-help}
shift || true
case $cmd in
up)
  need ip iproute2; need tini tini; need iptables iptables
  ! has docker || { need dockerd docker.io; need docker docker.io; }
  ! has containerd || { need containerd containerd; need runc runc; need nft nftables; }
  mkdir -p "$D"
  lan_up
  for i in $(seq "$1"); do mkdir -p "$D/h$i"; boot "$i"; done
  for i in $(seq "$1"); do ready "$i"; done ;;
exec) inside "$@" ;;
docker) i=$1; shift; exec docker -H "unix://$D/h$i/docker.sock" "$@" ;;
lan) exec nsenter --net="/run/netns/$SW" "$@" ;;
cut) cut_host "$1" ;;
boot) boot "$1"; ready "$1" ;;
engines) engines "$1"; ready "$1" ;;
unplug) ip -n "$SW" link set "p$1" nomaster ;;
plug) ip -n "$SW" link set "p$1" master br0 ;;
status) for h in "$D"/h[0-9]*; do [ -d "$h" ] || continue; i=${h##*/h}; echo "$P$i $NET.$i pid=$(pid_of "$i" || echo down)"; done ;;
down) down ;;
*) sed -n '2,24s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
