#!/bin/bash
# Installs what Vagrant's four machines need, by apt. Says so; does nothing when all is there.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

needed=(vagrant vagrant-libvirt libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base rsync openssh-client
        qemu-system-x86 qemu-utils busybox-static cpio kmod debootstrap zstd)
"$(dirname "$0")/../packaging/install.sh" vagrant "${needed[@]}"
