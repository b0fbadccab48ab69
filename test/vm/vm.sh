#!/bin/bash
# vm.sh: a whole Debian machine in qemu, emulated, for what the test machine itself can't do: systemd as PID 1 and control
# groups v2 with every controller. The guest reaches nothing; ssh to it is at 127.0.0.1:$VM_SSH (2222). Needs root,
# mmdebstrap, qemu-system-x86, busybox-static and openssh-client.
#
#   vm.sh build DIR [PACKAGE...]   make DIR/disk.img, DIR/vmlinuz and DIR/initrd.gz: some minutes
#   vm.sh start DIR [FLAG...]      boot it, with further flags of qemu; what it writes to its disk is thrown away
#   vm.sh run DIR COMMAND          run a command line in it as root
#   vm.sh put DIR FILE... PLACE    copy files into it
#   vm.sh stop DIR                 cut its power
set -euo pipefail
port=${VM_SSH:-2222}
cmd=${1:-}
dir=$(realpath -m "${2:-.}")
shift 2 || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
ssh=(-i "$dir/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=10)
case $cmd in
build)
  mkdir -p "$dir"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ -e "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
  packages=systemd,systemd-sysv,udev,dbus,kmod,iproute2,iptables,procps,openssh-server,ca-certificates,linux-image-cloud-amd64$(printf ',%s' "$@")
  mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' bookworm "$work/root"
  root=$work/root
  echo vm >"$root/etc/hostname"
  install -D -m 600 "$dir/key.pub" "$root/root/.ssh/authorized_keys"
  printf '[Match]\nName=en*\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/10-en.network"
  printf '/dev/vda / ext4 rw 0 1\n' >"$root/etc/fstab"
  chroot "$root" systemctl -q enable systemd-networkd ssh
  cp "$root"/boot/vmlinuz-* "$dir/vmlinuz"
  init=$work/init
  mkdir -p "$init"/{bin,proc,sys,dev,mnt,m}
  cp /bin/busybox "$init/bin/busybox"
  ln -s busybox "$init/bin/sh"
  modules="drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk"
  for m in $modules; do cp "$root"/lib/modules/*/kernel/$m.ko "$init/m/"; done
  {
    printf '%s\n' '#!/bin/sh' 'b=/bin/busybox' '$b mount -t proc p /proc' '$b mount -t devtmpfs d /dev'
    for m in $modules; do echo "\$b insmod /m/${m##*/}.ko"; done
    printf '%s\n' 'while [ ! -b /dev/vda ]; do $b sleep 0.1; done' '$b mount -t ext4 /dev/vda /mnt && exec $b switch_root /mnt /sbin/init'
  } >"$init/init"
  chmod +x "$init/init"
  (cd "$init" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$dir/initrd.gz"
  rm -f "$dir/disk.img"
  mke2fs -q -t ext4 -d "$root" "$dir/disk.img.new" 3G
  mv "$dir/disk.img.new" "$dir/disk.img"
  ;;
start)
  qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 -display none -no-reboot -snapshot \
    -kernel "$dir/vmlinuz" -initrd "$dir/initrd.gz" -append "console=ttyS0 panic=-1 mitigations=off quiet rw" \
    -drive "file=$dir/disk.img,if=virtio,format=raw,cache=unsafe" -serial "file:$dir/console.log" -pidfile "$dir/pid" -daemonize \
    -nic "user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" "$@"
  for _ in $(seq 240); do
    ssh "${ssh[@]}" -p "$port" root@127.0.0.1 true 2>/dev/null && exit 0
    sleep .5
  done
  echo "the machine does not answer; see $dir/console.log" >&2
  exit 1
  ;;
run) exec ssh "${ssh[@]}" -p "$port" root@127.0.0.1 "$@" ;;
put) exec scp -q "${ssh[@]}" -P "$port" "${@:1:$#-1}" "root@127.0.0.1:${!#}" ;;
stop)
  pid=$(cat "$dir/pid")
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep .05; done
  rm -f "$dir/pid"
  ;;
esac
