#!/bin/bash
# make down: takes back everything that make up made, and touches nothing else. Packages stay installed.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
[ -d "$RUN" ] || { echo "make down: nothing is up"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "make down: must run as root" >&2; exit 1; }
before() { cat "$RUN/before/$1" 2>/dev/null; }

step "stopping the agent, its containers, the registry and the control plane"
halt agent
[ -d "$HOSTS_DIR" ] || [ ! -x "$RUN/bin/longshore-agent" ] || "$RUN/bin/longshore-agent" cleanup
if [ -d "$HOSTS_DIR" ]; then
  "$HOSTS_SH" down
elif docker version >/dev/null 2>&1; then
  # ours carry both labels; containers of anyone else carry at most ECS's
  ours=$(docker ps -aq --filter label=longshore.task --filter label=com.amazonaws.ecs.cluster)
  # shellcheck disable=SC2086
  [ -z "$ours" ] || docker rm -f -v $ours >/dev/null
  images=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep "^$REGISTRY/" || true)
  # shellcheck disable=SC2086
  [ -z "$images" ] || docker rmi -f $images >/dev/null
fi
halt demo
halt control

# An engine that ran before keeps one mount that it did not have: /run/docker/netns/default, its own network namespace, from its
# first host-network container on. It is the engine's, which fails without it, so it stays.
if alive dockerd || [ -e "$RUN/started-docker-unit" ]; then
  step "stopping the Docker engine that make up started"
  [ ! -e "$RUN/started-docker-unit" ] || systemctl stop docker.service docker.socket
  halt dockerd 30
  # what the engine leaves behind when it ends: its bridge, its tables, forwarding, its namespace mount
  for link in $(links); do
    before links | grep -qx "$link" && continue
    case $link in docker0 | br-* | veth*) ip link del "$link" 2>/dev/null ;; esac
  done
  nft list tables 2>/dev/null | while read -r table; do
    before tables | grep -qxF "$table" && continue
    case $table in "table ip nat" | "table ip filter" | "table ip raw" | "table ip6 nat" | "table ip6 filter" | "table ip6 raw") nft delete $table ;; esac
  done
  awk '$2 ~ "^/run/docker/" || $2 ~ "^/var/lib/docker/" {print $2}' /proc/mounts | sort -r | while read -r m; do umount "$m" 2>/dev/null; done
  echo "$(before ip_forward)" >/proc/sys/net/ipv4/ip_forward
fi
rm -rf "$RUN"
step "everything that make up made is gone"
