#!/bin/bash
# What Debian's own tools say of the packages in dist/: lintian, the profiles' syntax, piuparts, autopkgtest, reprotest. Any word against them fails.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
cd "$(dirname "$0")/.."

needed=(lintian piuparts autopkgtest reprotest faketime disorderfs apparmor man-db debootstrap systemd-container openssh-client zstd)
packaging/install.sh check-deb "${needed[@]}"

rm -rf dist
packaging/build-deb.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

run() { # run NAME COMMAND...: quiet unless it fails
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$folder/$name" 2>&1; then
        echo "check-deb: $name ok ($((SECONDS - start)) s)"
    else
        tail -60 "$folder/$name" >&2
        echo "check-deb: $name FAILED" >&2
        exit 1
    fi
}

run lintian lintian --fail-on error,warning dist/*.changes
for profile in packaging/apparmor/*; do run "$(basename "$profile")" apparmor_parser -Q -K -T "$profile"; done
mirror=$(PYTHONPATH=tests python3 -c 'from hosts.trees import mirror; print(mirror())')
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
# a system as an installer leaves it: in a bare chroot systemd itself would be installed, and found to leave directories behind
PYTHONPATH=tests python3 -c "from hosts import trees; import pathlib, sys; trees.unpack(sys.argv[1], trees.Kind.BARE, pathlib.Path(sys.argv[2]))" \
    "$release" "$folder/root"
run piuparts piuparts --existing-chroot "$folder/root" --mirror "$mirror main" --distribution "$release" --no-eatmydata \
    --ignore-regex '/var/cache/debconf/tmp.ci' dist/*.deb  # apt-utils' own
PYTHONPATH=agent:tests run autopkgtest python3 -m hosts.autopkgtest dist
# users and host names can't vary without more rights than a build needs; the number of cores has nothing to vary on small machines
run reprotest reprotest --min-cpus 1 --vary=-user_group,-domain_host,-num_cpus -c 'packaging/build-deb.sh "" made' . 'made/*.deb' -- null
