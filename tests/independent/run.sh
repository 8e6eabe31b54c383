#!/usr/bin/env bash
# A whole rotation by the independent client: a real server, a device with a key that the client makes, and a
# reveal that must show the very password the client got, as confirmed.
# Usage: run.sh KEYTURN PYTHON (the program, and a Python with requirements.txt installed)
set -euo pipefail
keyturn=$(realpath "$1")
python=$2
here=$(cd "$(dirname "$0")" && pwd)
home=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT

"$keyturn" init --name independent "$home/data" 2>/dev/null
export KEYTURN_CONFIG=$home/data/keyturn.toml
id=$("$python" "$here/device.py" "$home/device.key" "$home/device.pem")
"$keyturn" device add --cert "$home/device.pem" --name STRANGER 2>/dev/null

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i 's/^#all = .*/all = "off"/' "$KEYTURN_CONFIG"
"$keyturn" up --listen "127.0.0.1:$port" 2>"$home/log" &
server=$!
for _ in $(seq 100); do
    grep -q 'all roles are up' "$home/log" && break
    kill -0 "$server" || { cat "$home/log" >&2; exit 1; }
    sleep 0.1
done

"$python" "$here/client.py" rotate --server "http://127.0.0.1:$port" --deployment independent \
    --root "$home/data/root.pub.json" --key "$home/device.key" --cert "$home/device.pem" --device-id "$id" \
    --password-out "$home/password"
"$keyturn" --output json reveal STRANGER --reason "independent client" 2>/dev/null |
    "$python" -c '
import json, sys
rows, got = json.load(sys.stdin), open(sys.argv[1]).read()
assert len(rows) == 1 and rows[0]["standing"] == "confirmed", "not one confirmed candidate"
assert rows[0]["password"] == got, "the reveal shows another password than the client got"
print("the reveal shows, as confirmed, the password that the independent client got")' "$home/password"
kill -TERM "$server"
wait "$server"
