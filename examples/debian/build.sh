#!/usr/bin/env bash
# Makes a package for dpkg of this machine's Debian or Ubuntu, and of its own Python:
#
#   examples/debian/build.sh [WHEEL [OPTIONS OF PIP]...]     of WHEEL, or of this checkout
#   apt-get install ./zks-lwip_VERSION-1_ARCHITECTURE.deb
#
# It has an environment of its own in /usr/lib/zks-lwip, with all that pip brings: build it anew for their fixes. It
# enables and starts nothing. Needs python3-pip and, of this checkout, what README says of building; no root.
# PIP=... is another pip than the system's.
set -euo pipefail
unset CDPATH
umask 022
project=$(cd "$(dirname "$0")/../.." && pwd)
python=/usr/bin/python3
read -r -a pip <<<"${PIP:-$python -m pip}"
if [ $# = 0 ]; then set -- "$project"; fi

root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
lib=$root/usr/lib/zks-lwip
share=$root/usr/share

"$python" -m venv --without-pip "$lib"
"${pip[@]}" --python "$lib/bin/python3" install --no-compile --no-warn-script-location --quiet "$@"
# What tells where it was made, and the commands of what it depends on.
find "$lib/bin" -type f -delete
sed -i '/^command = /d' "$lib/pyvenv.cfg"
find "$lib" \( -name RECORD -o -name direct_url.json \) -path '*.dist-info/*' -delete
mkdir "$root/usr/bin"
printf '#!%s -I\n%s\n%s\n' /usr/lib/zks-lwip/bin/python3 'from zks_lwip.__main__ import main' \
    'main(prog_name="zks-lwip")' >"$lib/bin/zks-lwip"
chmod 755 "$lib/bin/zks-lwip"
ln -s ../lib/zks-lwip/bin/zks-lwip "$root/usr/bin/zks-lwip"

run() { "$lib/bin/python3" -B -c 'from zks_lwip.cli import main; main(prog_name="zks-lwip")' "$@"; }
version=$("$lib/bin/python3" -B -c 'import zks_lwip; print(zks_lwip.__version__)')
mkdir -p "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
_ZKS_LWIP_COMPLETE=bash_source run >"$share/bash-completion/completions/zks-lwip"
_ZKS_LWIP_COMPLETE=zsh_source run >"$share/zsh/vendor-completions/_zks-lwip"
_ZKS_LWIP_COMPLETE=fish_source run >"$share/fish/vendor_completions.d/zks-lwip.fish"
mkdir -p "$share/man/man1"
run man | gzip -9n >"$share/man/man1/zks-lwip.1.gz"

mkdir -p "$root/usr/lib/systemd/system" "$root/etc/zks-lwip"
for unit in "$project"/examples/systemd/*; do
    # Where to copy it to need not be said any more.
    sed -e 's|/usr/local/bin/zks-lwip|/usr/bin/zks-lwip|' -e '/^#   cp zks-lwip/,+1d' "$unit" \
        >"$root/usr/lib/systemd/system/${unit##*/}"
done

doc=$share/doc/zks-lwip
mkdir -p "$doc/examples"
cp "$project/examples/zks_lwip.toml" "$doc/examples"
gzip -9n <"$project/CHANGELOG.md" >"$doc/changelog.gz"
{
    printf '%s\n' 'zks_lwip, and lwIP, which is part of it, have the two licenses below. Those of what pip has added are' \
        'in /usr/lib/zks-lwip, in the folder *.dist-info of each.' ''
    cat "$project/LICENSE"
    printf '\n%s\n\n' 'lwIP:'
    cat "$lib"/lib/python3*/site-packages/zks_lwip-*.dist-info/licenses/vendor/lwip/src/COPYING
} >"$doc/copyright"

# Not by time: a package's files may get others.
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / "$lib"

mkdir "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
cat >"$root/DEBIAN/control" <<CONTROL
Package: zks-lwip
Version: $version-1
Architecture: $(dpkg --print-architecture)
Maintainer: ${DEBFULLNAME:-zks_lwip authors} <${DEBEMAIL:-root@localhost}>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: python3 (>= 3.$minor~), python3 (<< 3.$((minor + 1))), libc6 (>= $(getconf GNU_LIBC_VERSION | cut -d' ' -f2)), iproute2, nftables
Recommends: ca-certificates
Section: net
Priority: optional
Description: system-wide VPN client: lwIP, trio and a WebSocket
 Every TCP connection, UDP datagram and DNS query of a machine, of a network
 namespace or of one program goes through a WebSocket to a relay, which is part
 of this package, too, and opens the real connections.
CONTROL

reload='if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi'
printf '#!/bin/sh\nset -e\n%s\n' "$reload" | tee "$root/DEBIAN/postinst" >"$root/DEBIAN/postrm"
cat >"$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
# Removed, the machine is as it was before. An upgrade leaves alone what runs.
if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now zks-lwip.service zks-lwip-always-on.service zks-lwip-worker.socket zks-lwip-worker.service
fi
PRERM
chmod 755 "$root"/DEBIAN/p*

dpkg-deb --root-owner-group --build "$root" "zks-lwip_$version-1_$(dpkg --print-architecture).deb"
