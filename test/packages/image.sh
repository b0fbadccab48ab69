#!/bin/bash
# Makes the image of a Debian system with systemd and Docker: test/packages/image.sh NAME
set -euo pipefail
command -v mmdebstrap >/dev/null || { echo "the tests of the packages need more: apt-get install -y --no-install-recommends mmdebstrap" >&2; exit 1; }
tar=$(mktemp --suffix .tar) && trap 'rm -f "$tar"' EXIT
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,iptables,nftables,ca-certificates,curl,procps,kmod,docker.io,busybox-static bookworm "$tar"
docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' "$tar" "$1"
