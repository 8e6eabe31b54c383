#!/usr/bin/env bash
# Makes the Debian package of the server from programs that are built: nothing is compiled here.
#
#   infra/deb/build-server.sh FOLDER OUT.deb [VERSION]
#
# FOLDER has `keyturn` and the program of every role; VERSION is the program's own if it is not given. The package has
# the programs, the units, the users and folders they need, manual pages and completions. It makes no deployment and
# starts nothing at first: the units wait for /etc/keyturn/keyturn.toml. What runs when the package is replaced is
# stopped and started again, in the order of docs/OPERATE.md.
set -euo pipefail
built=$(realpath "$1")
out=$(realpath -m "$2")
version=${3:-$("$built/keyturn" --version | cut -d' ' -f2)}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

for program in keyturn keyturn-ingress keyturn-validator keyturn-rotator keyturn-notifier; do
    install -D -m 755 "$built/$program" "$root/usr/bin/$program"
    # Symbols serve a debugger alone, and core dumps are forbidden to the units.
    strip --strip-unneeded "$root/usr/bin/$program"
    install -D -m 644 "infra/systemd/$program.service" "$root/usr/lib/systemd/system/$program.service"
done
install -D -m 644 infra/systemd/keyturn.sysusers "$root/usr/lib/sysusers.d/keyturn.conf"
install -D -m 644 infra/systemd/keyturn.tmpfiles "$root/usr/lib/tmpfiles.d/keyturn.conf"
doc=$root/usr/share/doc/keyturn
for file in infra/samples/keyturn.toml infra/prometheus/alerts.yaml LICENSE-MIT; do
    install -D -m 644 "$file" "$doc/$(basename "$file")"
done
# Errors and `keyturn doctor` name pages as they lie in the repository.
for file in docs/*.md docs/errors/*.md docs/runbooks/*.md infra/systemd/*; do
    install -D -m 644 "$file" "$doc/$file"
done
ln -s docs/OPERATE.md "$doc/OPERATE.md"
# What an operator is sent to is there; sources, samples and other folders of the repository are not.
for page in OPERATE.md errors/README.md; do
    for link in $(grep -oE '\]\([^)#:]+' "docs/$page" | cut -c 3-); do
        if [[ $link == *.md && $link != ../../* && ! -e $doc/docs/$(dirname "$page")/$link ]]; then
            echo "build-server.sh: docs/$page links to $link, which the package has not" >&2
            exit 1
        fi
    done
done
install -D -m 644 LICENSE "$root/usr/share/doc/keyturn/copyright"
"$built/keyturn" man "$root/usr/share/man/man1" >/dev/null 2>&1
gzip -9 --no-name "$root/usr/share/man/man1/"*
for shell in bash:bash-completion/completions/keyturn zsh:zsh/vendor-completions/_keyturn \
    fish:fish/vendor_completions.d/keyturn.fish; do
    "$built/keyturn" completions "${shell%%:*}" >"$root/completion"
    install -D -m 644 "$root/completion" "$root/usr/share/${shell#*:}"
done
rm "$root/completion"
# Whoever builds this may keep what is new from others; what is in a package is for all to read.
find "$root/usr" -type d -exec chmod 755 {} +
find "$root/usr/share" -type f -exec chmod 644 {} +

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: keyturn
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: The Keyturn contributors <keyturn@localhost>
Section: admin
Priority: optional
Depends: ca-certificates, libc6, libgcc-s1, systemd
Suggests: postgresql
Description: rotates the local administrator password of cloud-managed devices
 The server: each role as a program and a unit of its own, all of them in one,
 and the command that operators use. It makes no deployment; "keyturn init" does.
END

# Devices and roles find out of themselves that somebody was away. The first one that starts brings the database up to
# date, while no other program, of before, has it open.
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
systemd-sysusers keyturn.conf
systemd-tmpfiles --create keyturn.conf
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
running=
for role in keyturn keyturn-ingress keyturn-validator keyturn-rotator keyturn-notifier; do
    # One that is about to be started anew counts too: it was to run.
    case $(systemctl show --property ActiveState --value "$role.service") in
    active | activating | reloading)
        systemctl stop "$role.service"
        running="$role.service $running"
        ;;
    esac
done
# One that does not start keeps none of the others from it; "dpkg --configure keyturn" tries again.
failed=0
for unit in $running; do
    if ! systemctl start "$unit"; then
        echo "$unit does not start; see: journalctl --unit $unit" >&2
        failed=1
    fi
done
exit "$failed"
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
for role in keyturn keyturn-ingress keyturn-validator keyturn-rotator keyturn-notifier; do
    if [ -d /run/systemd/system ]; then
        systemctl stop "$role.service"
    fi
    rm -f "/etc/systemd/system/multi-user.target.wants/$role.service"
done
END
# Keys and database stay after a purge: without them no password of any device is to be had.
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group --build "$root" "$out"
