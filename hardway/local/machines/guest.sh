#!/bin/sh
# Makes a guest of a new Debian tree, which is the argument: mmdebstrap calls this last. The tree becomes as Debian's own
# image for EC2: no keys, no identity, cloud-init and systemd's network. /guest in the tree gets the disk and its kernel.
set -eu
root=$1

rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id" "$root/etc/network/interfaces"
: >"$root/etc/machine-id"
cat >"$root/etc/cloud/cloud.cfg.d/01_debian_cloud.cfg" <<END
apt:
  preserve_sources_list: true
locale: C.UTF-8
manage_etc_hosts: true
system_info:
  default_user:
    name: admin
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
    lock_passwd: True
  network:
    renderers: [netplan]
END
echo LANG=C.UTF-8 >"$root/etc/default/locale"
# A local cloud's instances listen at the first of these that is free on the host, and at 22.
mkdir -p "$root/etc/ssh/sshd_config.d"
printf 'Port %s\n' 22 2222 2022 22222 42222 >"$root/etc/ssh/sshd_config.d/hardway.conf"
chroot "$root" systemctl --quiet enable systemd-networkd
echo 'LABEL=root / ext4 rw,discard,errors=remount-ro 0 1' >"$root/etc/fstab"
rm -rf "$root"/var/lib/cloud "$root"/var/log/cloud-init* "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* \
  "$root"/var/cache/apt/archives/*.deb

made=$(mktemp -d)
trap 'umount "$made/tree" 2>/dev/null || :; rm -rf --one-file-system "$made"' EXIT
cp -L "$root"/boot/vmlinuz-* "$made/vmlinuz"
cp -L "$root"/boot/initrd.img-* "$made/initrd.img"
# Without what mmdebstrap has mounted in the tree.
mkdir "$made/tree"
mount --bind "$root" "$made/tree"
# One partition, behind the first MiB. cloud-init makes it as large as its disk is.
size=$(($(du -sm "$made/tree" | cut -f 1) + 350))
truncate -s "$((size + 2))M" "$made/disk.raw"
echo 'start=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4' | sfdisk --quiet --label gpt "$made/disk.raw"
mkfs.ext4 -q -L root -E offset=1048576 -d "$made/tree" "$made/disk.raw" "${size}M"
qemu-img convert -O qcow2 "$made/disk.raw" "$made/disk.qcow2"
mkdir "$root/guest"
mv "$made/vmlinuz" "$made/initrd.img" "$made/disk.qcow2" "$root/guest/"
