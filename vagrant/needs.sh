#!/bin/bash
# Installs what Vagrant's four machines need, by apt. Says so; does nothing when all is there.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

needed=(vagrant vagrant-libvirt libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base rsync openssh-client
        qemu-system-x86 qemu-utils busybox-static cpio kmod debootstrap zstd)
missing=()
for package in "${needed[@]}"; do
    [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "vagrant: apt-get install ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
