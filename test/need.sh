#!/bin/bash
# Installs what the tests need and starts a Docker engine if none answers. Harmless to repeat.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "the tests need root: they make containers, mounts and network namespaces (sudo make test)" >&2; exit 1; }
missing=()
want() { [ -e "$1" ] || missing+=("$2"); }
want /usr/sbin/dockerd docker.io
want /usr/bin/containerd containerd
want /usr/sbin/runc runc
want /usr/bin/crun crun
want /usr/sbin/apparmor_parser apparmor
want /bin/busybox busybox-static
want /usr/sbin/iptables iptables
want /usr/sbin/nft nftables
want /usr/bin/tini tini
want /usr/bin/gcc gcc
want /usr/bin/setfacl acl
want /usr/bin/systemd-analyze systemd
want /usr/bin/shellcheck shellcheck
command -v ip >/dev/null || missing+=(iproute2)
command -v aws >/dev/null || missing+=(awscli)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi
docker version >/dev/null 2>&1 && exit 0
echo "starting a Docker engine"
if [ -d /run/systemd/system ]; then
  systemctl start docker
else
  setsid dockerd >/tmp/longshore-dockerd.log 2>&1 </dev/null &
fi
for _ in $(seq 150); do docker version >/dev/null 2>&1 && exit 0; sleep .2; done
echo "Docker does not answer; see /tmp/longshore-dockerd.log" >&2
exit 1
