#!/bin/bash
# Installs the packages that are missing, by apt, and says so; silent when all are there.
#   packaging/install.sh WHO PACKAGE...
# One at a time: tests build packages side by side, and apt gives up at once where another apt reads its lists.
set -euo pipefail
who=$1
shift

lacking() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || echo "$package"
    done
}

if [ "$(id -u)" = 0 ]; then
    # also when nothing seems to be missing: while dpkg runs, not all of its tools know what it has installed so far
    exec 9>/run/lock/chainrelay-install
    flock 9
elif [ -n "$(lacking "$@")" ]; then
    echo "$who: needs root to install: $(lacking "$@" | xargs)" >&2
    exit 1
fi
mapfile -t missing < <(lacking "$@")
[ ${#missing[@]} -gt 0 ] || exit 0
echo "$who: apt-get install ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null 9>&-
