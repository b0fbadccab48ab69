#!/bin/bash
# Builds a current dockerd with its containerd, shim, runc and docker-proxy from pinned versions into the user's cache
# directory and prints where; with the argument containerd only what containerd needs. What is there already is kept. One package at a time and nicely: it takes some minutes.
set -euo pipefail
dir=${XDG_CACHE_HOME:-$HOME/.cache}/longshore/engines/moby-2.0.0-beta.24
export GOBIN=$dir GOFLAGS=
cd /
build() { # PROGRAM the last of what one go install makes, then its arguments
  [ -x "$dir/$1" ] && return
  shift
  nice -n 19 go install -p 1 -buildvcs=false "$@" >&2
}
[ -e /usr/include/seccomp.h ] || { echo "runc needs libseccomp's headers: apt-get install -y --no-install-recommends libseccomp-dev gcc pkg-config" >&2; exit 1; }
build containerd-shim-runc-v2 -tags no_btrfs,no_zfs,no_devmapper github.com/containerd/containerd/v2/cmd/containerd@v2.4.2 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2
build runc -tags seccomp github.com/opencontainers/runc@v1.5.2
[ "${1:-}" = containerd ] || build docker-proxy github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24 github.com/moby/moby/v2/cmd/docker-proxy@v2.0.0-beta.24
echo "$dir"
