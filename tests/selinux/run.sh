#!/usr/bin/env bash
# The packaged agent where SELinux is enforced: a Debian with a kernel of its own and the distribution's policy, booted
# by QEMU. Agent and server are installed from their packages and are under the policy like everything else there.
# What is looked at: every file of the account database has after each rotation the context that it had before, which
# is the one that the policy names; and what `keyturn reveal` shows logs on.
#
#   tests/selinux/run.sh PROGRAMS CACHE
#
# PROGRAMS is the folder of the programs, CACHE one for the bare Debian. Needs root, and the Debian packages debootstrap,
# qemu-system-x86, e2fsprogs and openssl. Without KEYTURN_QEMU_ACCEL=kvm every instruction is interpreted, which takes
# half a minute more and works everywhere.
set -euo pipefail
built=$(realpath "$1") cache=$(realpath -m "$2")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../nspawn/lib.sh"
readonly account=localadmin
own_mounts "$(realpath "$0")" "$built" "$cache"

ended() {
    if (($1 != 0)) && [[ -s $home/console.log ]]; then
        tail -n 25 "$home/console.log" >&2
    fi
    [[ -z ${machine:-} ]] || kill "$machine" 2>/dev/null || true
}

# --- The machine -------------------------------------------------------------------------------------------------------

debian "$cache" copy
mkdir "$home/packages"
package build.sh "$built/keyturn-agent" "$home/packages/keyturn-agent.deb"
package build-server.sh "$built" "$home/packages/keyturn.deb"
mount --bind "$home/packages" "$root/mnt"
in_root dpkg --install /mnt/keyturn.deb /mnt/keyturn-agent.deb >"$home/dpkg.log" 2>&1 || fail "$(cat "$home/dpkg.log")"
umount "$root/mnt"
deployment_inside

# What is to be run inside comes and goes over a serial line, one line each way.
serve_orders <<'END'
#!/bin/bash
exec <>/dev/ttyS1 >&0
stty raw -echo
echo running
while read -r order; do
    out=$(mktemp)
    base64 -d <<<"$order" | bash >"$out" 2>&1
    echo "${PIPESTATUS[1]} $(base64 --wrap=0 "$out")"
    rm -f "$out"
done
END
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"
# Every file gets the context that the policy names, as at the first boot of a system with SELinux. -m: also though this
# kernel knows of none.
in_root setfiles -m -F /etc/selinux/default/contexts/files/file_contexts / >"$home/setfiles.log" 2>&1 ||
    fail "files cannot be labelled: $(tail -n 5 "$home/setfiles.log")"
mkfs.ext4 -q -F -d "$root" "$home/disk" 2500M >/dev/null
said 'packages installed, files labelled'

mkfifo "$home/line.in" "$home/line.out"
accel=${KEYTURN_QEMU_ACCEL:-tcg}
qemu-system-x86_64 -machine q35 -accel "$accel" -cpu "$([[ $accel == kvm* ]] && echo host || echo max)" -m 1G -smp 2 \
    -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$(echo "$base"/boot/vmlinuz-*)" -initrd "$(echo "$base"/boot/initrd.img-*)" \
    -append 'root=/dev/vda rw console=ttyS0 security=selinux selinux=1 enforcing=1 sysctl.kernel.printk_ratelimit=0' \
    -drive "file=$home/disk,format=raw,if=virtio,cache=unsafe" \
    -serial "file:$home/console.log" -chardev "pipe,id=line,path=$home/line" -device isa-serial,chardev=line \
    </dev/null >"$home/qemu.log" 2>&1 &
machine=$!
exec 7<>"$home/line.in" 8<>"$home/line.out"

# Runs a script inside and says what it said; its status is the script's.
inside() {
    local status out
    base64 --wrap=0 <<<"$1" >&7
    echo >&7
    read -r -t 120 status out <&8 || fail "the machine does not answer: $1"
    base64 -d <<<"$out"
    return "$status"
}
read -r -t 180 greeting <&8 || fail "the machine does not boot: $(cat "$home/qemu.log")"
[[ $greeting == running ]] || fail "the machine says $greeting"
[[ $(inside getenforce) == Enforcing ]] || fail 'SELinux is not enforced'
said "booted; SELinux is $(inside getenforce), $(inside 'sestatus | sed -n "s/^Max kernel policy version: */policy version /p"')"

# --- What is looked at -------------------------------------------------------------------------------------------------

# The files that the system's programs make anew with every change, those they keep of before, and a new home.
readonly databases='/etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow-'
contexts() {
    inside "stat --format='%n %C' $databases"
}
# Says which contexts are not as they were before anything was done, or not as the policy names them.
unlike() {
    diff <(echo "$before") <(contexts) | grep '^[<>]' || true
    inside "matchpathcon -V $databases | grep -v ' verified\.$'" || true
}
kept() {
    local wrong
    wrong=$(unlike)
    [[ -z $wrong ]] || fail "$1: contexts are lost: $wrong"
}
shown() {
    inside "keyturn --config /etc/keyturn/keyturn.toml --output json reveal BOOT --reason 'SELinux test' 2>/dev/null"
}
confirmed() {
    shown | confirmed_of "${1:-}"
}
# Whether a password opens the account, for somebody who is not root and types it: su asks PAM.
logs_on() {
    [[ $(inside "printf '%s\n' '$1' | setpriv --reuid=65534 --regid=65534 --clear-groups su $account -c 'id -un' 2>/dev/null") == "$account" ]]
}
# Has the agent run at once, and waits until it has rotated.
rotate() {
    inside "touch /tmp/asked
        keyturn --config /etc/keyturn/keyturn.toml device rotate-now BOOT --reason 'SELinux test' || exit
        systemctl restart keyturn-agent
        for ((i = 0; i < 300; i++)); do
            [[ ! /var/lib/keyturn-agent/last-run.json -nt /tmp/asked ]] ||
                ! grep -q '\"rotated\"' /var/lib/keyturn-agent/last-run.json || exit 0
            sleep 0.2
        done
        exit 1" >"$home/rotate.log" 2>&1 || fail "it does not rotate: $(cat "$home/rotate.log")"
}

# Every one of the files is there, also those of before.
inside "useradd --no-create-home other && userdel other && ! id $account" >/dev/null 2>&1 || fail 'the account is there'
before=$(contexts)
[[ $(grep -c ':shadow_t:' <<<"$before") == 4 && $(grep -c ':etc_t:' <<<"$before") == 4 ]] || fail "from the start: $before"
kept 'from the start'

# What does not heed contexts is noticed: a shadow file that was written elsewhere and moved into its place.
inside 'cp /etc/shadow /tmp/shadow && chmod 640 /tmp/shadow && chgrp shadow /tmp/shadow && mv /tmp/shadow /etc/shadow' ||
    fail 'the file cannot be moved'
wrong=$(unlike)
grep -q '^> /etc/shadow .*_tmp_t:' <<<"$wrong" && grep -q '^/etc/shadow has context .*should be .*:shadow_t:' <<<"$wrong" ||
    fail "a file without its context is not noticed: $wrong"
inside 'restorecon /etc/shadow' || fail 'the context cannot be put back'
kept 'put back'
said "a file that was moved into place is noticed: $(tail -n 1 <<<"$wrong")"

inside 'systemctl start keyturn' || fail "$(inside 'systemctl status keyturn')"
rotate
first=$(confirmed '') || fail 'no password is shown'
kept 'the account was made'
homes=$(inside "stat --format='%C %n' /home/$account /home/$account/.profile && matchpathcon -V /home/$account /home/$account/.profile")
[[ $(grep -c ':user_home_dir_t:\|:user_home_t:' <<<"$homes") == 2 && $(grep -c ' verified\.$' <<<"$homes") == 2 ]] ||
    fail "the new home: $homes"
states=$(inside 'matchpathcon -V /var/lib/keyturn-agent/* /etc/keyturn/* /var/lib/keyturn/*') || fail "its own files: $states"
logs_on "$first" || fail 'what the reveal shows does not log on'
! logs_on 'another password' || fail 'any password logs on'
said 'the account was made with its home, and what keyturn reveal shows logs on; every context is kept'

inodes=$(inside 'stat --format=%i /etc/shadow')
rotate
second=$(confirmed "$first") || fail 'no new password is shown'
kept 'a second rotation'
[[ $(inside 'stat --format=%i /etc/shadow') != "$inodes" ]] || fail 'the file was not made anew, so nothing was tried'
logs_on "$second" && ! logs_on "$first" || fail 'the second rotation is not what the reveal shows'
said 'a second rotation: /etc/shadow is a new file with the context of the old one'

inside "usermod --lock $account" || fail 'the account cannot be locked'
rotate
third=$(confirmed "$second") || fail 'no new password is shown'
kept 'a rotation of a locked account'
inside "getent shadow $account" | grep -q "^$account:!" || fail 'the account is not locked any more'
inside "usermod --unlock $account" || fail 'the account cannot be unlocked'
logs_on "$third" || fail 'the third rotation is not what the reveal shows'
kept 'unlocked'
said 'a rotation of an account that is locked, and stays so'

# What the policy says to the agent, to what it starts, and to the server. NoNewPrivileges keeps useradd and usermod in the
# agent's own domain, and the kernel tells of each that it did not change it; beside that, nothing is forbidden.
domain=$(inside 'cat "/proc/$(systemctl show --property MainPID --value keyturn-agent)/attr/current"' | tr -d '\0')
inside 'journalctl --no-pager --quiet --dmesg --output=cat --grep="avc: +denied"' >"$home/denied" || true
ours=$(grep -aF "scontext=$domain " "$home/denied") || fail 'no denial is found, so what is forbidden would not be'
others=$(grep -avF '{ nnp_transition }' <<<"$ours" || true)
[[ -z $others ]] || fail "the policy forbids: $others"
said "the agent is in $domain; denied were $(grep -acF nnp_transition <<<"$ours") changes of domain, by NoNewPrivileges, and nothing else"
