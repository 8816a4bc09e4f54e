#!/bin/bash
# private.sh COMMAND...: runs a command (vagrant up, ssh, ...) with a libvirtd of its own in a network namespace of its own, for machines
# that run none: bridges, dnsmasq and iptables stay out of the machine's network. The daemon stays for the next call; `private.sh stop` ends it.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin VAGRANT_CHECKPOINT_DISABLE=1
state=${CHAINRELAY_LIBVIRT:-/var/cache/chainrelay-box/libvirt}
netns=chainrelay-vagrant
pid=$state/libvirtd.pid

running() { [ -e "$pid" ] && [ "$(cat "/proc/$(cat "$pid")/comm" 2>/dev/null)" = libvirtd ]; }

if [ "${1:-}" = stop ]; then
    if running; then
        kill "$(cat "$pid")"
        while running; do sleep 0.1; done
    fi
    for each in $(ip netns pids "$netns" 2>/dev/null); do kill "$each" || true; done # its dnsmasqs
    ip netns delete "$netns" 2>/dev/null || true
    exit 0
fi

if ! running; then
    mkdir -p "$state/etc" /etc/libvirt
    # qemu as root in no sandbox of libvirt's: there is no systemd, no D-Bus and no control group for it to use here
    getent group kvm >/dev/null || groupadd --system kvm
    getent group libvirt-qemu >/dev/null || groupadd --system libvirt-qemu
    getent passwd libvirt-qemu >/dev/null || useradd --system --gid kvm libvirt-qemu
    cat >"$state/libvirtd.conf" <<CONF
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
CONF
    cat >"$state/etc/qemu.conf" <<CONF
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
CONF
    [ -e "/run/netns/$netns" ] || ip netns add "$netns"
    ip -n "$netns" link set lo up
    # its settings and what it writes beside them lie over /etc/libvirt in the mount namespace that `ip netns exec` makes: nobody else sees them
    # shellcheck disable=SC2016 # the inner shell's
    # No descriptor of the caller's goes along: who waits for a pipe's end or a lock would wait for the daemon.
    ip netns exec "$netns" setsid nice -n 5 bash -c '
        for each in /proc/self/fd/*; do [ "${each##*/}" -le 2 ] || eval "exec ${each##*/}>&-"; done
        mount --bind "$0/etc" /etc/libvirt &&
        exec libvirtd -f "$0/libvirtd.conf" -p "$1"' "$state" "$pid" </dev/null >"$state/log" 2>&1 &
    for _ in $(seq 100); do
        virsh -c qemu:///system version >/dev/null 2>&1 && break
        sleep 0.1
    done
    mkdir -p "${CHAINRELAY_BOX:-/var/cache/chainrelay-box}/pool"
    virsh -q -c qemu:///system pool-info chainrelay >/dev/null 2>&1 ||
        virsh -q -c qemu:///system pool-create-as chainrelay dir --target "${CHAINRELAY_BOX:-/var/cache/chainrelay-box}/pool"
fi
exec ip netns exec "$netns" "$@"
