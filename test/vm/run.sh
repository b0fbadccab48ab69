#!/bin/bash
# The tests of the build tag vm, on a machine of their own: control groups v2, systemd as PID 1, Docker with its systemd
# driver; and tasks' networks where they need network cards and VLANs. The machine is built once, into the user's cache directory.
set -euo pipefail
cd "$(dirname "$0")/../.."
missing=()
want() { [ -e "$1" ] || missing+=("$2"); }
want /usr/bin/mmdebstrap mmdebstrap
want /usr/bin/qemu-system-x86_64 qemu-system-x86
want /bin/busybox busybox-static
want /usr/bin/ssh openssh-client
[ ${#missing[@]} -eq 0 ] || { echo "these tests need more: apt-get install -y --no-install-recommends ${missing[*]}" >&2; exit 1; }
dir=${XDG_CACHE_HOME:-$HOME/.cache}/longshore/vm
vm=test/vm/vm.sh
[ -e "$dir/disk.img" ] || "$vm" build "$dir" docker.io busybox-static
CGO_ENABLED=0 go test -c -tags vm -o "$dir/cgroup.test" ./engine/cgroup
CGO_ENABLED=0 go test -c -tags vm -o "$dir/netns.test" ./netns
trap '"$vm" stop "$dir"' EXIT
# The second card is what a task gets; it is on a cable to nowhere.
"$vm" start "$dir" -netdev hubport,id=second,hubid=7 -device virtio-net-pci,netdev=second,mac=02:00:0a:07:00:01
"$vm" put "$dir" "$dir/cgroup.test" "$dir/netns.test" /root/
"$vm" run "$dir" 'set -e
systemctl is-system-running --wait
mkdir -p r/bin r/etc r/tmp r/proc r/sys r/dev
cp /bin/busybox r/bin/
for a in $(busybox --list); do [ -e r/bin/$a ] || ln -s busybox r/bin/$a; done
tar -C r -c . | docker import --change "ENV PATH=/bin" - bb:1
docker info --format "Docker {{.ServerVersion}}, cgroup driver {{.CgroupDriver}}, version {{.CgroupVersion}}"
./cgroup.test -test.run WholeMachine -test.v
./netns.test -test.run "WholeMachine|BranchOfATrunk|TasksReach" -test.v'
