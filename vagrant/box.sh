#!/bin/bash
# Makes the box `chainrelay/bookworm` here, from Debian's mirror alone: a disk without boot loader, and kernel and initrd beside it, which
# libvirt boots directly. Everything lies in $CHAINRELAY_BOX (default /var/cache/chainrelay-box). Root; about a minute and a half, and
# three more where the file systems of tests/hosts are not in their cache yet.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
box=${CHAINRELAY_BOX:-/var/cache/chainrelay-box}
folder=$(mktemp -d /var/tmp/box-XXXXXX)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
mkdir -p "$box"

vagrant/needs.sh
echo "box: the file system"
PYTHONPATH=tests /usr/bin/python3 -c '
import pathlib, sys
from hosts import trees
trees.unpack("bookworm", trees.Kind.MACHINE, pathlib.Path(sys.argv[1]))' "$root"
version=$(basename "$root"/lib/modules/*)

# what Vagrant expects of a box: its user, its well-known key, sudo, a network that starts by DHCP
chroot "$root" useradd --create-home --shell /bin/bash vagrant
chroot "$root" ssh-keygen -A >/dev/null
install -d -m 0700 "$root/home/vagrant/.ssh"
install -m 0600 "$(/usr/bin/ruby -e 'puts Gem::Specification.find_by_name("vagrant").gem_dir')/keys/vagrant.pub" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
# An identity of its own for each machine at its first boot. Machines with one identity ask for one lease, by which Vagrant finds them, and
# all but the last end as "inaccessible" (seen); so the lease goes by the interface's address as well.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n' >"$root/etc/systemd/network/10-eth0.network"
printf 'UseDNS no\n' >"$root/etc/ssh/sshd_config.d/local.conf"
echo '/dev/vda / ext4 rw 0 1' >"$root/etc/fstab"
echo vagrant >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 vagrant\n' >"$root/etc/hosts"
chroot "$root" systemctl enable -q systemd-networkd ssh
chroot "$root" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer

echo "box: kernel $version and its initrd"
cp "$root/boot/vmlinuz-$version" "$box/vmlinuz"
early=$folder/initrd
mkdir -p "$early"/{bin,lib/modules,proc,sys,dev,mnt}
cp /usr/bin/busybox "$early/bin/busybox"
depmod -b "$root" "$version"
number=0
for module in virtio_pci virtio_blk virtio_net ext4; do
    modprobe -d "$root" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r file; do
    number=$((number + 1))
    cp "$file" "$early/lib/modules/$(printf '%02d' "$number")-$(basename "$file")"
done
cat >"$early/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in /lib/modules/*.ko*; do /bin/busybox insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do /bin/busybox usleep 50000; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 /dev/vda /mnt || exec /bin/busybox sh
/bin/busybox mount --move /dev /mnt/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /mnt /lib/systemd/systemd
INIT
chmod 0755 "$early/init"
(cd "$early" && find . | cpio --quiet --create --format=newc) | gzip -1 >"$box/initrd.gz"

echo "box: the disk"
rm -f "$root"/boot/vmlinuz-* "$root"/boot/System.map-*
mke2fs -q -t ext4 -d "$root" -E root_owner=0:0 "$folder/disk" 3G
qemu-img convert -O qcow2 "$folder/disk" "$folder/box.img"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 3}' >"$folder/metadata.json"
tar --create --gzip --file "$box/chainrelay.box" --directory "$folder" metadata.json box.img
ls -lh "$box"
