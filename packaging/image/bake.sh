#!/bin/bash
# Puts the agent into a machine image: into the system that this runs on, or into one below --root, by chroot.
#
#   bake.sh --package longshore-agent_1.0_amd64.deb [--root DIR] [--config ecs.config] [--images DIR]
#   bake.sh --binaries bin --units systemd …
#
#   --root DIR      the image's system; this one if it is not given
#   --package FILE  the agent's deb or rpm
#   --binaries DIR  instead of a package: longshore-agent, and longshore-agent-containerd and longshore-log if they are there
#   --units DIR     with --binaries: where longshore-agent.service and longshore.slice are
#   --config FILE   becomes /etc/ecs/ecs.config; without one, the first boot's user data writes it
#   --images DIR    archives of images that the agent loads at its first start: .tar, .tar.gz, .tar.zst
#   --keep-machine-id  don't empty /etc/machine-id
#
# Nothing is started, nothing registers. At the end the host's identity is taken out (longshore-agent clean-instance). It can be repeated.
set -euo pipefail

root='' package='' binaries='' units='' config='' images='' machine=--machine-id
die() { echo "bake.sh: $*" >&2; exit 1; }
while [ $# -gt 0 ]; do
	case $1 in
	--root) root=${2:?}; shift 2 ;;
	--package) package=${2:?}; shift 2 ;;
	--binaries) binaries=${2:?}; shift 2 ;;
	--units) units=${2:?}; shift 2 ;;
	--config) config=${2:?}; shift 2 ;;
	--images) images=${2:?}; shift 2 ;;
	--keep-machine-id) machine=''; shift ;;
	-h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	*) die "unknown argument $1; --help says which there are" ;;
	esac
done
[ -n "$package$binaries" ] || die "name the agent's --package, or its --binaries"
[ -z "$package" ] || [ -z "$binaries" ] || die "--package and --binaries are two ways to the same: name one"
[ "$(id -u)" = 0 ] || die "this needs root"
root=${root%/}
[ -z "$root" ] || [ -d "$root/etc" ] || die "$root is no root directory of a system: it has no etc"
for f in "$package" "$config"; do [ -z "$f" ] || [ -f "$f" ] || die "there is no file $f"; done
for d in "$binaries" "$units" "$images"; do [ -z "$d" ] || [ -d "$d" ] || die "there is no directory $d"; done

# inside runs a command in the image's system.
inside() { if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi; }

# What a package's installation would start is not started while this is there (policy-rc.d).
policy=$root/usr/sbin/policy-rc.d
undo=()
cleanup() { for f in "${undo[@]}"; do rm -f "$f"; done; }
trap cleanup EXIT
if [ ! -e "$policy" ] && [ -d "$root/usr/sbin" ]; then
	undo+=("$policy")
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
fi

if [ -n "$package" ]; then
	name=$(basename "$package")
	mkdir -p "$root/tmp" && undo+=("$root/tmp/longshore-bake-$name") && cp "$package" "$root/tmp/longshore-bake-$name"
	case $name in
	*.deb) inside env DEBIAN_FRONTEND=noninteractive dpkg --install "/tmp/longshore-bake-$name" ;;
	*.rpm) inside rpm --upgrade --replacepkgs "/tmp/longshore-bake-$name" ;;
	*) die "$name is neither a deb nor an rpm" ;;
	esac
else
	install -D -m 755 "$binaries/longshore-agent" "$root/usr/bin/longshore-agent"
	for p in longshore-agent-containerd longshore-log; do
		[ ! -e "$binaries/$p" ] || install -D -m 755 "$binaries/$p" "$root/usr/libexec/longshore/$p"
	done
	if [ -n "$units" ]; then
		for u in longshore-agent.service longshore.slice; do install -D -m 644 "$units/$u" "$root/etc/systemd/system/$u"; done
		mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
		ln -sf ../longshore-agent.service "$root/etc/systemd/system/multi-user.target.wants/longshore-agent.service"
	fi
fi

if [ -n "$config" ]; then install -D -m 600 "$config" "$root/etc/ecs/ecs.config"; fi
if [ -n "$images" ]; then
	mkdir -p "$root/var/lib/ecs/images"
	for f in "$images"/*; do
		case $f in
		*.tar | *.tar.gz | *.tgz | *.tar.zst | *.tzst) install -m 600 "$f" "$root/var/lib/ecs/images/" ;;
		*) echo "left out, as it is no archive by its name: $f" >&2 ;;
		esac
	done
fi

inside longshore-agent clean-instance ${machine:+"$machine"}
if [ -e "$root/usr/bin/cloud-init" ]; then echo "cloud-init is in this image: \"cloud-init clean --logs\" before the snapshot has it run at each machine's first boot"; fi
echo "baked: $(inside longshore-agent version | head -n 1)"
