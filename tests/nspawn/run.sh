#!/usr/bin/env bash
# The packaged agent on a machine of its own: a Debian with systemd as its first process, booted by systemd-nspawn. The
# agent is installed from its package, its key is in a token of SoftHSM, its server runs outside. What is looked at:
# the unit works within its hardening, what `keyturn reveal` shows logs on, and where PAM refuses a password, everything
# that is said about the account stays true.
#
#   tests/nspawn/run.sh KEYTURN AGENT CACHE
#
# CACHE is a folder for the bare Debian, which is fetched once (some 200 MB) and never changed. Needs root and the
# Debian packages debootstrap, systemd-container and openssl.
set -euo pipefail
keyturn=$(realpath "$1") agent=$(realpath "$2") cache=$(realpath -m "$3")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/lib.sh"
readonly account=localadmin token_pin=271828
own_mounts "$(realpath "$0")" "$keyturn" "$agent" "$cache"

ended() {
    if (($1 != 0)); then
        tail -n 10 "$home/boot.log" "$home/server.log" >&2 || true
        [[ ! -f $home/shared/running ]] || inside 'journalctl --no-pager -u keyturn-agent | tail -40' >&2 || true
    fi
    kill "${server:-}" "${machine:-}" 2>/dev/null || true
}

debian "$cache"

# --- The server, and the device in its directory -----------------------------------------------------------------------

"$keyturn" init --name boot "$home/data" 2>/dev/null
export KEYTURN_CONFIG=$home/data/keyturn.toml
sed -i -e 's/^#all = .*/all = "off"/' -e 's/^#versions_per_day = .*/versions_per_day = 100/' "$KEYTURN_CONFIG"
grep -q '^versions_per_day = 100$' "$KEYTURN_CONFIG" || fail 'the configuration has another form'
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$keyturn" up --listen "127.0.0.1:$port" 2>"$home/server.log" &
server=$!
until_true 20 grep -q 'all roles are up' "$home/server.log"

# The key is made in the token, on the machine; the certificate is made around its public half.
in_root softhsm2-util --init-token --free --label entra --pin "$token_pin" --so-pin 31415926 >/dev/null
module=/usr/lib/softhsm/libsofthsm2.so
p11=(pkcs11-tool --module "$module" --token-label entra --login --pin "$token_pin")
in_root "${p11[@]}" --keypairgen --key-type rsa:2048 --label device --id 01 >/dev/null 2>&1
in_root "${p11[@]}" --read-object --type pubkey --id 01 --output-file /tmp/public.der >/dev/null 2>&1
id=$(cat /proc/sys/kernel/random/uuid)
openssl pkey -pubin -inform DER -in "$root/tmp/public.der" -out "$home/public.pem"
certificate "$id" public.pem
"$keyturn" device add --cert "$home/device.pem" --name BOOT 2>/dev/null

# --- The package, the settings -----------------------------------------------------------------------------------------

package build.sh "$agent" "$home/keyturn-agent.deb"
cp "$home/keyturn-agent.deb" "$root/tmp/"
in_root dpkg --install /tmp/keyturn-agent.deb >/dev/null
[[ $(stat -c '%a %U' "$root/etc/keyturn") == '700 root' ]] || fail 'the package does not keep /etc/keyturn to root'
cp "$home/data/root.pub.json" "$home/device.pem" "$root/etc/keyturn/"
(umask 077 && echo "$token_pin" >"$root/etc/keyturn/pin")
agent_settings "$id" "http://127.0.0.1:$port" >"$root/etc/keyturn/agent.toml" <<END
[key]
kind = "pkcs11"
module = "$module"
token = "entra"
label = "device"
pin_file = "pin"
[account]
kind = "linux"
name = "$account"
END
# SoftHSM writes to its folder whenever it reads from it; a real token has no folder. docs/AGENT.md says so.
mkdir "$root/etc/systemd/system/keyturn-agent.service.d"
printf '[Service]\nReadWritePaths=/var/lib/softhsm\n' >"$root/etc/systemd/system/keyturn-agent.service.d/softhsm.conf"
in_root systemctl --quiet enable keyturn-agent

# --- The machine -------------------------------------------------------------------------------------------------------

boot_nspawn

# --- What is looked at -------------------------------------------------------------------------------------------------

# The candidates that a help desk is shown, as JSON.
shown() {
    "$keyturn" --output json reveal BOOT --reason 'nspawn test' 2>/dev/null
}
confirmed() {
    shown | confirmed_of "${1:-}"
}
# Whether a password opens the account, for somebody who is not root and types it: su asks PAM.
logs_on() {
    printf '%s\n' "$1" >"$home/shared/typed"
    local who
    who=$(inside "setpriv --reuid=65534 --regid=65534 --clear-groups su $account -c 'id -un' </shared/typed 2>/dev/null") || true
    rm -f "$home/shared/typed"
    [[ $who == "$account" ]]
}
last_run() {
    inside 'keyturn-agent status --output json' | python3 -c 'import json, sys; print((json.load(sys.stdin)["last_run"] or {}).get("code"))'
}
ended_with() {
    [[ $(last_run) == "$1" ]]
}
ask_anew() {
    "$keyturn" device rotate-now BOOT --reason 'nspawn test' >/dev/null 2>&1
    inside 'systemctl restart keyturn-agent'
}

until_true 60 confirmed ""
first=$(confirmed)
logs_on "$first" || fail 'what the reveal shows does not log on'
! logs_on 'another password' || fail 'any password logs on'
inside "id -nG $account" | grep -qw sudo || fail 'the account is no administrator'
said 'the unit has made the account, and what keyturn reveal shows logs on'

inside 'systemctl is-active --quiet keyturn-agent' || fail 'the unit is not active'
status=$(inside 'cat /proc/$(systemctl show --property MainPID --value keyturn-agent)/status')
grep -qE '^NoNewPrivs:\s+1$' <<<"$status" || fail 'the unit may gain privileges'
grep -qE '^Seccomp:\s+2$' <<<"$status" || fail 'the unit may make any system call'
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_AUDIT_WRITE.
grep -qE '^CapBnd:\s+000000002000001b$' <<<"$status" || fail "the unit has other capabilities: $(grep CapBnd <<<"$status")"
in_unit='nsenter --mount --target "$(systemctl show --property MainPID --value keyturn-agent)"'
! inside "$in_unit touch /usr/bin/x" >"$home/touched" 2>&1 || fail 'the unit may write to /usr'
! inside "$in_unit touch /var/lib/x" >"$home/touched" 2>&1 || fail 'the unit may write to /var/lib'
inside "$in_unit touch /etc/keyturn/x && rm /etc/keyturn/x" || fail 'the unit may not write to /etc'
[[ $(inside "stat -c '%a %U' /var/lib/keyturn-agent") == '700 root' ]] || fail 'the state folder is not its own'
exposure=$(inside 'systemd-analyze security --no-pager --threshold=40 keyturn-agent | tail -1') || fail "$exposure"
inside 'keyturn-agent doctor' >"$home/doctor" || fail "$(cat "$home/doctor")"
said "the hardening is in force;${exposure#*level for}"

ask_anew
until_true 60 confirmed "$first"
second=$(confirmed "$first")
logs_on "$second" && ! logs_on "$first" || fail 'the second rotation is not what the reveal shows'
said 'a second rotation, after a restart of the unit'

# A password that PAM does not take: too short for pwquality, and then a stack that takes none.
inside 'cp /etc/pam.d/chpasswd /root/chpasswd'
current=$second
for stack in 'requisite pam_pwquality.so retry=1 minlen=200 enforce_for_root' 'requisite pam_deny.so'; do
    inside "printf 'password %s\npassword required pam_unix.so use_authtok yescrypt\n' '$stack' >/etc/pam.d/chpasswd"
    marked=$(inside "getent shadow $account")
    ask_anew
    until_true 60 ended_with account_refused
    [[ $(inside "getent shadow $account") == "$marked" ]] || fail "the account was touched in spite of $stack"
    logs_on "$current" || fail 'the old password does not log on any more'
    shown | python3 -c '
import json, sys
rows = json.load(sys.stdin)
assert sys.argv[1] in [row["password"] for row in rows], "the password in use is not shown"
assert [row["standing"] for row in rows if row["password"] == sys.argv[1]] == ["confirmed"], rows' "$current"
    said "PAM refused (${stack#* }): the old password logs on and is the one shown as confirmed"
    inside 'cp /root/chpasswd /etc/pam.d/chpasswd'
    ask_anew
    until_true 90 confirmed "$current"
    next=$(confirmed "$current")
    logs_on "$next" && ! logs_on "$current" || fail 'no rotation after PAM was mended'
    current=$next
done
said 'and after PAM was mended it rotates again'

# No password, and no PIN, in what the machine keeps; and the search finds what is there.
printf 'code=rotated' >"$home/shared/secret"
inside 'journalctl --no-pager | grep -qF -f /shared/secret' || fail 'the journal cannot be searched'
inside 'grep -rqF -f /shared/secret /var/lib/keyturn-agent' || fail 'the state folder cannot be searched'
for secret in "$first" "$second" "$current" "$token_pin"; do
    printf '%s' "$secret" >"$home/shared/secret"
    ! inside 'journalctl --no-pager | grep -qF -f /shared/secret' || fail 'a secret is in the journal'
    ! inside 'grep -rqF -f /shared/secret /var/lib/keyturn-agent' || fail 'a secret is in the state folder'
    rm "$home/shared/secret"
done
inside 'dpkg --remove keyturn-agent' >/dev/null
! inside 'systemctl is-active --quiet keyturn-agent' || fail 'the unit survives its package'
inside 'test -f /var/lib/keyturn-agent/journal.json' || fail 'removing the package loses the journal'
logs_on "$current" || fail 'removing the package changes the account'
said 'no secret is left behind; the package goes, and the account and the journal stay'
