#!/bin/bash
# Installs what `make demo`, `make test` and the benchmarks need: system parts by apt, test tools by pip into .venv.
# With BENCH=1 also the relays that `make bench` compares with, and what draws its plots.
# Says what it does, does nothing when all is there, can be repeated. Runs on Debian 12 and 13 as root.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(python3-venv python3-bpfcc linux-libc-dev python3-nftables python3-pyroute2 python3-cryptography python3-cbor2 python3-systemd systemd util-linux
          python3-iptables iptables ipset nftables iproute2 conntrack tcpdump ethtool procps ffmpeg systemd-container debootstrap slirp4netns dpkg-dev zstd man-db iperf3 mosh)
[ -z "${BENCH:-}" ] || packages+=(nginx libnginx-mod-stream coturn dante-server gcc libc6-dev libssl-dev)
services() {
    [ ! -d /run/systemd/system ] || systemctl list-unit-files --no-legend nginx.service coturn.service danted.service | cut -d' ' -f1 | sort || true
}
[ -z "${BENCH:-}" ] || before=$(services)
packaging/install.sh setup "${packages[@]}"
# Debian starts a daemon with its package; the benchmark runs its own, in namespaces
for service in $([ -z "${BENCH:-}" ] || comm -13 <(echo "$before") <(services)); do
    systemctl disable --quiet --now "$service"
done

if [ ! -e /etc/hosts ]; then # a minimal host may lack it; localhost is a name that the tests use
    echo "setup: /etc/hosts with localhost"
    printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
fi

extras="dev${BENCH:+ bench}"
stamp=.venv/.ready-$(echo "$extras" | cat - pyproject.toml | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
    echo "setup: .venv with /usr/bin/python3 and the tools from PyPI: $extras"
    [ -x .venv/bin/python ] || /usr/bin/python3 -m venv --system-site-packages .venv
    # shellcheck disable=SC2086 # the extras are words
    mapfile -t tools < <(/usr/bin/python3 -c '
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
print("\n".join(tool for extra in sys.argv[1:] for tool in extras[extra]))' $extras)
    .venv/bin/python -m pip install -q --disable-pip-version-check "${tools[@]}"
    touch "$stamp"
fi
