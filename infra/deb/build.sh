#!/usr/bin/env bash
# Makes the Debian package of the agent from a program that is built: nothing is compiled here.
#
#   infra/deb/build.sh AGENT OUT.deb
#
# The package has the program, the unit, the sample of the settings, and an empty /etc/keyturn. It starts nothing: the
# unit waits for /etc/keyturn/agent.toml, and `systemctl enable --now keyturn-agent` is the administrator's to say.
set -euo pipefail
agent=$(realpath "$1")
out=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=$("$agent" --version | cut -d' ' -f2)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# The program's own libraries say what it needs. libtss2 comes with the feature tpm2, under a name with its version.
needs='ca-certificates, libc6, libgcc-s1, passwd, libpam-modules-bin'
if libraries=$(ldd "$agent" | grep -oE '/[^ ]*libtss2[^ ]*'); then
    for library in $libraries; do
        package=$(dpkg --search "$(realpath "$library")" | cut -d: -f1)
        [[ ", $needs," == *", $package,"* ]] || needs+=", $package"
    done
    # The way to a TPM is a library that is loaded by name.
    needs+=", $(dpkg --search '*/libtss2-tcti-device.so.0' | cut -d: -f1)"
fi

install -D -m 755 "$agent" "$root/usr/bin/keyturn-agent"
install -D -m 644 infra/systemd/keyturn-agent.service "$root/usr/lib/systemd/system/keyturn-agent.service"
install -d -m 700 "$root/etc/keyturn"
for file in infra/samples/agent.toml infra/systemd/keyturn-agent-tpm2.conf docs/AGENT.md LICENSE-MIT; do
    install -D -m 644 "$file" "$root/usr/share/doc/keyturn-agent/$(basename "$file")"
done
install -D -m 644 LICENSE "$root/usr/share/doc/keyturn-agent/copyright"

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: keyturn-agent
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: The Keyturn contributors <keyturn@localhost>
Section: admin
Priority: optional
Depends: $needs
Suggests: systemd
Description: keeps the password of the local administrator account fresh
 The agent asks the Keyturn server for a password, sets it, proves it by logging
 on, and reports it. The password is never shown, logged or stored by it.
END

# A running agent is told to stop and brings the account to rest before it does.
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart keyturn-agent.service
fi
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ]; then
    if [ -d /run/systemd/system ]; then
        systemctl stop keyturn-agent.service
    fi
    rm -f /etc/systemd/system/multi-user.target.wants/keyturn-agent.service
fi
END
# What the agent remembers stays after a purge: without it the server takes the next one for another installation.
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group --build "$root" "$out"
