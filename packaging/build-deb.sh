#!/bin/bash
# Builds the .deb packages from a clean export of the tree into dist/, with the system's Python and nothing else of the caller's.
#   packaging/build-deb.sh [VERSION [FOLDER]]     VERSION: another one than debian/changelog's, for tests of upgrades; FOLDER: not dist/
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
cd "$(dirname "$0")/.."
version=${1:-}
dist=$(realpath -m "${2:-dist}")

needed=(build-essential debhelper dh-apparmor dh-python fakeroot pybuild-plugin-pyproject python3-all python3-setuptools python3-cryptography python3-cbor2)
packaging/install.sh deb "${needed[@]}"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
source=$folder/chainrelay
mkdir -p "$source" "$dist"
git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard -- . ':!.ci' ':!bench' ':!tests' ':!vagrant' |
    tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory "$source"
chmod -R u+w,go-w "$source"
mv "$source/packaging/debian" "$source/debian"
if [ -n "$version" ]; then
    sed -i "1s/(.*)/($version)/" "$source/debian/changelog"
    sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$source/agent/chainrelay/__init__.py"
    sed -i "s/^version = .*/version = \"$version\"/" "$source/pyproject.toml"
fi
cd "$source"
dpkg-buildpackage --build="${DEB_PARTS:-binary}" --no-sign >"$folder/log" 2>&1 || { tail -60 "$folder/log" >&2; exit 1; }
cd - >/dev/null
mv "$folder"/*chainrelay*_*.* "$dist/"
ls "$dist"/*.deb
