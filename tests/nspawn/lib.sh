# What the machines of tests/nspawn and tests/selinux have in common. For bash, to be sourced:
#
#   own_mounts "$0" "$@"    mounts of its own, and $home, a folder in memory; both end with the script
#   debian CACHE [copy]     $root, a bare Debian that may be changed; as a copy its files can be labelled, too
#
# A script may define `ended STATUS`, which is called before everything is torn down.

# Without a mirror debootstrap takes Debian's own.
readonly suite=bookworm mirror=${KEYTURN_DEBIAN_MIRROR:-}
# One Debian for all machines. The kernel and the policy are for the one that has SELinux.
readonly packages=systemd,systemd-sysv,dbus,ca-certificates,libpam-pwquality,sudo,softhsm2,opensc,\
linux-image-cloud-amd64,selinux-policy-default,policycoreutils,selinux-utils

own_mounts() {
    if [[ ${KEYTURN_NSPAWN_INSIDE:-} != 1 ]]; then
        KEYTURN_NSPAWN_INSIDE=1 exec unshare --mount --propagation private "$@"
    fi
    home=$(mktemp -d)
    mount -t tmpfs tmpfs "$home"
    trap tear_down EXIT
}

tear_down() {
    local status=$?
    ((status == 0)) || echo "FAILED: $status" >&2
    ! declare -F ended >/dev/null || ended "$status" || true
    wait 2>/dev/null || true
    umount --lazy "$home"
    rmdir "$home"
}

said() {
    echo "$(date +%T) $*"
}

fail() {
    echo "$*" >&2
    exit 1
}

# Waits up to $1 seconds until the rest succeeds.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null; do
        ((SECONDS < deadline)) || fail "waited in vain: $*"
        sleep 0.2
    done
}

# The bare Debian is fetched once (some 200 MB) and never changed.
debian() {
    base=$1/$suite-$(echo "$packages" | sha256sum | cut -c1-12)
    if [[ ! -d $base ]]; then
        rm -rf "$base.new"
        mkdir -p "$1"
        debootstrap --variant=minbase --include="$packages" "$suite" "$base.new" ${mirror:+"$mirror"} \
            >"$home/debootstrap.log" 2>&1 || { tail -n 20 "$home/debootstrap.log" >&2; exit 1; }
        rm -rf "$base.new/var/cache/apt/archives/"*.deb
        # Of an older list of packages.
        rm -rf "$1/$suite-"????????????
        mv "$base.new" "$base"
        said 'a bare Debian was fetched'
    fi
    root=$home/root
    if [[ ${2:-} == copy ]]; then
        cp --archive "$base" "$root"
    else
        mkdir -p "$root" "$home/upper" "$home/work"
        mount -t overlay overlay -o "lowerdir=$base,upperdir=$home/upper,workdir=$home/work" "$root"
    fi
    # Nothing that only takes its time, and no network, which no machine here has of its own.
    in_root systemctl --quiet mask systemd-networkd-wait-online systemd-resolved getty.target console-getty \
        systemd-networkd apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service
}

# Runs a program of the machine, which need not have been booted.
in_root() {
    unshare --mount bash -c 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin "$@"' \
        "$root" "$@"
}

# Builds a package: package SCRIPT-OF-INFRA-DEB PROGRAMS OUT.deb [VERSION]
package() {
    # What is thrown away at once need not be small.
    DPKG_DEB_COMPRESSOR_TYPE=gzip DPKG_DEB_COMPRESSOR_LEVEL=1 \
        "${BASH_SOURCE[0]%/*}/../../infra/deb/$1" "${@:2}" >/dev/null
}

# Boots $root by systemd-nspawn, with more options in "$@". Its process is $machine; what it says is in boot.log.
boot_nspawn() {
    mkdir -p "$home/shared"
    # What is to be run inside is put into a folder that both sides see.
    serve_orders <<'END'
#!/bin/bash
cd /shared
touch running
while :; do
    for order in *.order; do
        [[ -f $order ]] || continue
        name=${order%.order}
        mv "$order" "$name.taken"
        bash "$name.taken" >"$name.out" 2>&1
        echo $? >"$name.new"
        mv "$name.new" "$name.rc"
    done
    sleep 0.05
done
END
    # nspawn wants its lock folder on a file system that can be thrown away.
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs tmpfs /run/systemd/nspawn
    systemd-nspawn --directory="$root" --register=no --keep-unit --console=pipe --bind="$home/shared:/shared" \
        "$@" --boot </dev/null >"$home/boot.log" 2>&1 &
    machine=$!
    until_true 60 test -f "$home/shared/running"
    [[ $(inside 'cat /proc/1/comm') == systemd ]] || fail 'the first process is not systemd'
    said "systemd has booted: $(inside 'systemctl --version | head -1')"
}

# Puts the program on standard input into the machine, to be run from its start.
serve_orders() {
    cat >"$root/usr/local/sbin/serve-test"
    chmod 755 "$root/usr/local/sbin/serve-test"
    cat >"$root/etc/systemd/system/serve-test.service" <<'END'
[Service]
ExecStart=/usr/local/sbin/serve-test
[Install]
WantedBy=multi-user.target
END
    in_root systemctl --quiet enable serve-test
}

orders=0
# Runs a script inside and says what it said; its status is the script's.
inside() {
    orders=$((orders + 1))
    local name=$home/shared/$BASHPID-$orders
    echo "$1" >"$name.new"
    mv "$name.new" "$name.order"
    until_true 60 test -f "$name.rc"
    cat "$name.out"
    return "$(<"$name.rc")"
}

# The one password that is shown as confirmed and is not $1, of what `keyturn reveal` says on standard input.
confirmed_of() {
    python3 -c '
import json, sys
rows = json.loads(sys.stdin.read() or "[]")
if len(rows) != 1 or rows[0]["standing"] != "confirmed" or rows[0]["password"] == sys.argv[1]:
    sys.exit(1)
print(rows[0]["password"])' "${1:-}"
}

# Makes an authority and a certificate for the device $1; its public key is in a PEM file, $2.
certificate() {
    (
        cd "$home"
        openssl req -new -newkey rsa:2048 -nodes -keyout ca.key -subj "/CN=$1" -out device.csr
        openssl req -x509 -key ca.key -subj '/CN=MS-Organization-Access' -out ca.crt
        openssl x509 -req -in device.csr -CA ca.crt -CAkey ca.key -CAcreateserial -force_pubkey "$2" -out device.pem
    ) 2>/dev/null
}

# The agent's settings for the device $1 and the server $2, and in "$3" what says where its key is. Whole sections
# follow on standard input.
agent_settings() {
    cat <<END
server = "$2"
deployment = "boot"
root_key = "root.pub.json"
device_id = "$1"
certificate = "device.pem"
check_in = "1m"
splay = "0s"
${3:-}
END
    cat
}

# Makes a deployment in the machine, as docs/OPERATE.md says, with one device, BOOT, whose key is a file; and the
# settings of its agent. Wants both packages to be installed.
deployment_inside() {
    local id
    in_root keyturn init --name boot /root/new 2>/dev/null
    in_root bash -euc '
        cd /root/new
        sed -i -e "s/^#versions_per_day = .*/versions_per_day = 100/" -e "s|^#file = .*|file = \"/var/lib/keyturn/keyturn.db\"|" keyturn.toml
        install -m 644 keyturn.toml root.pub.json /etc/keyturn/
        install -m 600 keys/* /etc/keyturn/keys/
        mv keyturn.db keyturn.db.epoch keyturn.db.lock /var/lib/keyturn/
        systemd-tmpfiles --create keyturn.conf'
    grep -q '^versions_per_day = 100$' "$root/etc/keyturn/keyturn.toml" || fail 'the configuration has another form'
    grep -q '^file = "/var/lib' "$root/etc/keyturn/keyturn.toml" || fail 'the configuration has another form'
    id=$(cat /proc/sys/kernel/random/uuid)
    openssl genrsa -out "$home/device.key" 2048 2>/dev/null
    openssl pkey -in "$home/device.key" -pubout -out "$home/public.pem"
    certificate "$id" public.pem
    install -m 600 "$home/device.key" "$home/device.pem" "$root/etc/keyturn/"
    # As a member of the group, with its umask: the files of the database stay the group's.
    in_root setpriv --reuid=root --regid=keyturn --clear-groups bash -c \
        'umask 007 && keyturn --config /etc/keyturn/keyturn.toml device add --cert /etc/keyturn/device.pem --name BOOT' 2>/dev/null
    agent_settings "$id" http://127.0.0.1:8080 'private_key = "device.key"' >"$root/etc/keyturn/agent.toml" <<END
[account]
kind = "linux"
name = "localadmin"
END
}
