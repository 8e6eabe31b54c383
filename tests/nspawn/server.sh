#!/usr/bin/env bash
# The packaged server on a machine that systemd has booted: all roles in one process, then each as a unit and a user of
# its own, on the same folder, with an agent that rotates through them. What is looked at: the units start, tell that they
# are ready, are watched, read settings again, end well, come back after SIGKILL, and go through an upgrade and back; and
# no role can read a key that it does not need.
#
#   tests/nspawn/server.sh PROGRAMS CACHE
#
# PROGRAMS is the folder of the programs, CACHE one for the bare Debian, as for tests/nspawn/run.sh.
set -euo pipefail
built=$(realpath "$1") cache=$(realpath -m "$2")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
readonly account=localadmin
# In the order in which they are started.
readonly roles=(keyturn-notifier keyturn-rotator keyturn-validator keyturn-ingress)
own_mounts "$(realpath "$0")" "$built" "$cache"

ended() {
    if (($1 != 0)); then
        tail -n 10 "$home/boot.log" >&2 || true
        [[ ! -f $home/shared/running ]] || inside 'journalctl --no-pager -u "keyturn*" | tail -60' >&2 || true
    fi
    kill "${machine:-}" 2>/dev/null || true
}

# --- The machine -------------------------------------------------------------------------------------------------------

debian "$cache"
mkdir "$home/shared"
package build.sh "$built/keyturn-agent" "$home/shared/keyturn-agent.deb"
package build-server.sh "$built" "$home/shared/keyturn.deb"
mount --bind "$home/shared" "$root/mnt"
in_root dpkg --install /mnt/keyturn.deb /mnt/keyturn-agent.deb >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
umount "$root/mnt"
deployment_inside
in_root systemctl --quiet enable keyturn keyturn-agent
# Of its own is the network alone; nobody outside listens where the roles do.
boot_nspawn --private-network

# --- What is asked again and again -------------------------------------------------------------------------------------

operator='keyturn --config /etc/keyturn/keyturn.toml'
shown() {
    inside "$operator --output json reveal BOOT --reason 'server test' 2>/dev/null"
}
confirmed() {
    shown | confirmed_of "${1:-}"
}
logs_on() {
    printf '%s\n' "$1" >"$home/shared/typed"
    local who
    who=$(inside "setpriv --reuid=65534 --regid=65534 --clear-groups su $account -c 'id -un' </shared/typed 2>/dev/null") || true
    rm -f "$home/shared/typed"
    [[ $who == "$account" ]]
}
of_unit() {
    inside "systemctl show --property $2 --value $1"
}
ask_anew() {
    inside "$operator device rotate-now BOOT --reason 'server test' && systemctl restart keyturn-agent" \
        >"$home/asked.log" 2>&1 || fail "it cannot be asked to rotate: $(cat "$home/asked.log")"
}
# Has the device rotate from the password $current to another one, which becomes $current.
rotates() {
    ask_anew
    has_rotated "$1"
}
has_rotated() {
    until_true 60 confirmed "$current"
    local next
    next=$(confirmed "$current")
    logs_on "$next" || fail "$1: what is shown does not log on"
    current=$next
}
active() {
    [[ $(of_unit "$1" ActiveState) == active ]]
}
restarted() {
    [[ $(of_unit "$1" NRestarts) == "$2" ]] && active "$1"
}
# Settings of a unit that are for this test alone: override UNIT LINES
override() {
    inside "mkdir -p /run/systemd/system/$1.service.d
        printf '[Service]\n$2\n' >/run/systemd/system/$1.service.d/test.conf && systemctl daemon-reload"
}

# --- All in one --------------------------------------------------------------------------------------------------------

until_true 60 active keyturn
[[ $(of_unit keyturn Type) == notify ]] || fail 'the unit does not wait until the server is ready'
# Systemd calls it active when READY=1 has come, and that comes after it serves by its own account.
until_true 20 inside 'journalctl --no-pager --output=cat -u keyturn | grep -q "serving devices"'
serves=$(inside 'journalctl --no-pager --output=cat -u keyturn' | sed -nE 's/^\{"timestamp":"([^"]*)".*"serving devices".*/\1/p')
entered=$(inside 'systemctl show --timestamp=us+utc --property ActiveEnterTimestamp --value keyturn')
(($(date --date="$serves" +%s%6N) <= $(date --date="$entered" +%s%6N))) ||
    fail "systemd does not wait for the server: it served at $serves, and was active at $entered"
[[ $(inside 'stat --format="%U" "/proc/$(systemctl show --property MainPID --value keyturn)"') == keyturn ]] ||
    fail 'the server is another user'
until_true 60 confirmed ''
current=$(confirmed '')
logs_on "$current" || fail 'what is shown does not log on'
! logs_on 'another password' || fail 'any password logs on'
said 'keyturn.service was ready after the boot, and a device has rotated'

# Only SIGHUP has the level read again.
inside "sed -i '/^\[logs\]/,/^\[traces\]/s/^#level = .*/level = \"info,keyturn_service=debug\"/' /etc/keyturn/keyturn.toml &&
    grep -q '^level = \"info,' /etc/keyturn/keyturn.toml" || fail 'the configuration has another form'
pid=$(of_unit keyturn MainPID)
inside 'systemctl reload keyturn' >"$home/reload.log" 2>&1 || fail "the unit cannot be reloaded: $(cat "$home/reload.log")
$(inside 'journalctl --no-pager -u keyturn | tail -5')"
until_true 20 inside 'journalctl --no-pager -u keyturn | grep -q "the log level was read again"'
[[ $(of_unit keyturn MainPID) == "$pid" ]] || fail 'a reload has started it anew'
said 'a reload has it read its settings again'

# Stopped right after a rotation was asked for: what is in hand is finished, and the rest waits.
ask_anew
inside 'systemctl stop keyturn'
[[ $(of_unit keyturn Result) == success && $(of_unit keyturn ExecMainStatus) == 0 && $(of_unit keyturn ExecMainCode) == 1 ]] ||
    fail "it does not end well: $(inside 'systemctl status keyturn')"
inside 'journalctl --no-pager -u keyturn | grep -q "told to stop, finishing what is in hand"' || fail 'it was not told'
# Root works on the files meanwhile, with root's umask; they stay the group's.
inside "umask 022 && $operator queues && $operator device show BOOT" >"$home/root.log" 2>&1 || fail "$(cat "$home/root.log")"
override keyturn 'WatchdogSec=3s'
inside 'systemctl start keyturn' || fail 'it cannot be started again'
has_rotated 'after a stop'
said 'a stop drains, and the rotation that was asked for is done after the start'

# The watchdog: a process that does not come round is ended and started anew.
sleep 4
restarted keyturn 0 || fail 'systemd ends a server that is well'
inside 'systemctl kill --kill-who=main --signal=STOP keyturn'
until_true 30 restarted keyturn 1
inside 'journalctl --no-pager -u keyturn | grep -q "Watchdog timeout"' || fail 'it was something else than the watchdog'
rotates 'after the watchdog'
said 'the watchdog has started it anew after a SIGSTOP'

# --- Each role a user of its own ---------------------------------------------------------------------------------------

inside "systemctl --quiet disable keyturn && systemctl --quiet enable --now ${roles[*]}" || fail "$(inside "systemctl status ${roles[*]}")"
[[ $(of_unit keyturn ActiveState) == inactive ]] || fail 'the roles run beside the server that is all of them'
for role in "${roles[@]}"; do
    until_true 30 active "$role"
    [[ $(inside "stat --format=%U /proc/\$(systemctl show --property MainPID --value $role)") == "$role" ]] ||
        fail "$role is another user"
    status=$(inside "cat /proc/\$(systemctl show --property MainPID --value $role)/status")
    for line in 'NoNewPrivs:\s+1' 'Seccomp:\s+2' 'CapBnd:\s+0+' 'CapEff:\s+0+'; do
        grep -qE "^$line\$" <<<"$status" || fail "$role has more rights than $line: $status"
    done
done
# Each connection takes a file handle, of which a unit has 1024 unless it asks for more.
limits=$(inside "cat /proc/\$(systemctl show --property MainPID --value keyturn-ingress)/limits")
awk '/^Max open files/ { exit !($4 == $5 && $4 > 1024) }' <<<"$limits" || fail "the ingress has not the file handles that it may have: $limits"
rotates 'through four units'
said 'four units under four users, on the same folder: a device rotates through them'

# As each user, every key file that there is, in the folder and as a credential of any unit.
keys_of() {
    case $1 in
    keyturn-ingress) echo key-set.jws nonce.key stamp.key ticket.key ;;
    keyturn-validator) echo finding.key nonce.key stamp.key ;;
    keyturn-rotator) echo finding.key nonce.key signing.key stamp.key vault.key ;;
    esac
}
[[ $(inside 'ls /etc/keyturn/keys | wc -l') == 7 && $(inside 'ls /run/credentials/keyturn-*/* | wc -l') == 12 ]] ||
    fail "there are other keys: $(inside 'ls /etc/keyturn/keys /run/credentials/*')"
for role in "${roles[@]}"; do
    readable=$(inside "files=\$(ls /etc/keyturn/keys/* /run/credentials/keyturn-*/*)
        setpriv --reuid=$role --regid=keyturn --init-groups bash -c 'for file in '\"\${files//\$'\n'/ }\"'; do cat \$file >/dev/null 2>&1 && echo \$file; done; true'")
    expected=$(for key in $(keys_of "$role"); do echo "/run/credentials/$role.service/$key"; done)
    [[ $readable == "$expected" ]] || fail "$role can read: $readable"
done
# And the check itself finds what can be read.
inside 'chmod 711 /etc/keyturn/keys && chmod 644 /etc/keyturn/keys/vault.key'
inside 'setpriv --reuid=keyturn-ingress --regid=keyturn --init-groups cat /etc/keyturn/keys/vault.key' >/dev/null ||
    fail 'not even what is open to all can be read so'
inside 'chmod 600 /etc/keyturn/keys/vault.key && chmod 700 /etc/keyturn/keys'
said 'as its user, each role can read its own keys and no other'

# Killed with the work in hand.
for role in keyturn-rotator keyturn-ingress; do
    ask_anew
    inside "systemctl kill --kill-who=main --signal=KILL $role"
    has_rotated "$role was killed"
    restarted "$role" 1 || fail "$role was not started anew by systemd: $(of_unit "$role" NRestarts)"
done
said 'rotator and ingress come back after SIGKILL, and the next rotation passes'

# --- Upgrade, and roll back --------------------------------------------------------------------------------------------

version=$(inside 'dpkg-query --show --showformat="\${Version}" keyturn')
package build-server.sh "$built" "$home/shared/newer.deb" "$version+1"
stand() {
    inside "$operator --output json device show BOOT && sha256sum /etc/keyturn/keyturn.toml /etc/keyturn/keys/*"
}
replaced_by() {
    local role was=() stood since=0 began
    for role in "${roles[@]}"; do was+=("$(of_unit "$role" MainPID)"); done
    inside 'systemctl stop keyturn-agent'
    stood=$(stand)
    inside "dpkg --install /shared/$1" >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
    [[ $(inside 'dpkg-query --show --showformat="\${Version}" keyturn') == "$2" ]] || fail "the package is not at $2"
    for role in "${roles[@]}"; do
        active "$role" || fail "$role does not run with the other package"
        [[ $(of_unit "$role" MainPID) != "${was[0]}" ]] || fail "$role still is the program of before"
        was=("${was[@]:1}")
        began=$(of_unit "$role" ActiveEnterTimestampMonotonic)
        ((began > since)) || fail "$role was not started in its turn"
        since=$began
    done
    [[ $(of_unit keyturn ActiveState) == inactive ]] || fail 'what did not run was started'
    [[ $(stand) == "$stood" ]] || fail "something was lost: $(stand), and it was $stood"
    confirmed '' | grep -qxF "$current" || fail 'the password is not shown any more'
    rotates "with $2"
}
replaced_by newer.deb "$version+1"
said "the package was replaced by $version+1: the roles were started anew in their order, everything is there"
# A configuration that the programs do not take: the package says so, and which unit to look at, and goes on once it is mended.
inside 'echo "[nonsense]" >>/etc/keyturn/keyturn.toml'
! inside "dpkg --install /shared/newer.deb" >"$home/dpkg.log" 2>&1 || fail "a start that fails is passed over: $(cat "$home/dpkg.log")"
for role in "${roles[@]}"; do
    grep -q "^$role.service does not start; see: journalctl" "$home/dpkg.log" || fail "$role is not named: $(cat "$home/dpkg.log")"
done
inside 'sed -i "/^\[nonsense\]/d" /etc/keyturn/keyturn.toml && dpkg --configure keyturn' >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
for role in "${roles[@]}"; do
    active "$role" || fail "$role does not run after it was mended"
done
said 'programs that do not start are named, and start once their configuration is mended'
replaced_by keyturn.deb "$version"
said "the package was rolled back to $version"

# The agent's package keeps /etc/keyturn to root, and must not shut the roles out of it.
inside 'dpkg --install /shared/keyturn-agent.deb && systemctl try-restart keyturn-ingress' >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
[[ $(inside "stat --format='%a %U' /etc/keyturn") == '755 root' ]] && active keyturn-ingress || fail 'the packages do not go together'

inside 'dpkg --purge keyturn' >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
for role in "${roles[@]}"; do
    ! active "$role" || fail "$role survives its package"
done
inside 'test -s /var/lib/keyturn/keyturn.db && test -s /etc/keyturn/keys/vault.key && test -s /etc/keyturn/keyturn.toml' ||
    fail 'a purge takes passwords and keys along'
inside "dpkg --install /shared/keyturn.deb && systemctl start ${roles[*]}" >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
rotates 'after a purge'
said 'a purge leaves keys and database, and a package that is installed again goes on with them'
