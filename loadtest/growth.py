"""What a rotation costs in a fleet that has rotated before, by how large it is (goal G9): ./bench --growth [SIZE...]

growth PROGRAMS SIZE...

For each size a deployment: a thousand devices rotate in it, and what they left in its database is copied for devices that
are not there until it has as many lanes as the fleet would have. Then others rotate, in turns: each round asks every
deployment, with devices that none has seen. What is compared is the processor time of the server for a whole rotation.
Plain HTTP, one process, so that nothing hides what the database costs.

Standard library only.
"""

import hashlib
import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = 1000
EACH_ROUND = 500
ROUNDS = 5
RATE = 150.0

# Of each table the rows of a rotation, and how a copy of them differs: see `copied`.
TABLES = ("lanes", "directory", "issued", "effects", "accepted", "events", "results", "vault_versions")
OURS = {"device", "lane", "version", "request", "event", "mark"}


def main():
    programs = Path(sys.argv[1]).resolve()
    given = sys.argv[2:] or ["1000", "10000", "100000", "1000000"]
    wrong = [size for size in given if not size.isdecimal() or int(size) < FIRST or int(size) % FIRST]
    if wrong:
        sys.exit(f"{wrong[0]}: expected how many devices a fleet has, a multiple of {FIRST}")
    sizes = sorted({int(size) for size in given})
    with tempfile.TemporaryDirectory(prefix="keyturn-growth-") as folder:
        fleets = [fleet(programs, Path(folder, f"fleet-{number}"), FIRST if number == 0 else EACH_ROUND)
                  for number in range(ROUNDS + 1)]
        deployments = [Deployment(programs, Path(folder, str(size)), fleets, size) for size in sizes]
        costs = {size: [] for size in sizes}
        for number in range(1, ROUNDS + 1):
            for deployment in deployments:
                cost = deployment.round(fleets[number])
                costs[deployment.size].append(cost)
                print(f"round {number}: {deployment.size:>9,} devices: {cost:.0f} us", flush=True)
    print(f"\nserver's processor time of a rotation at {RATE:.0f}/s, us: median of {ROUNDS} rounds, and the median of its ratio to the "
          "smallest of the same round; goal: at most 1.1")
    for size in sizes:
        ratio = statistics.median(cost / least for cost, least in zip(costs[size], costs[sizes[0]]))
        print(f"{size:>9,} devices  {statistics.median(costs[size]):7.0f}  ratio {ratio:.2f}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")


def fleet(programs, folder, devices):
    subprocess.run([programs / "keyturn-loadtest", "keygen", "--devices", str(devices), "--keys", "8", "--out", folder],
                   check=True, capture_output=True)
    return folder


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Deployment:
    def __init__(self, programs, folder, fleets, size):
        self.programs, self.folder, self.size = programs, folder, size
        self.port = free_port()
        subprocess.run([programs / "keyturn", "init", "--name", "growth", folder], check=True, capture_output=True)
        wide = "".join(f"{name}_{what} = 1000000\n" for name in ("address", "poll", "key", "unknown", "unknown_address")
                       for what in ("rate", "burst"))
        Path(folder, "keyturn.toml").write_text(
            f'[deployment]\nname = "growth"\n[ingress]\nlisten = "127.0.0.1:{self.port}"\n'
            f'connections_per_address = 25000\npolls_per_address = 20000\n[ingress.admission]\n{wide}'
            f'[health]\nall = "127.0.0.1:{free_port()}"\n[rotation]\nupdate_frequency = "1ms"\n'
            'versions_per_day = 1000000\n[logs]\nlevel = "warn"\n')
        for one in fleets:
            self.keyturn("device", "import", Path(one, "import.json"))
        began = time.monotonic()
        self.load(fleets[0], '[[phase]]\nname = "first"\narrivals = { shape = "each", rate = 150.0 }\n', FIRST)
        copied(Path(folder, "keyturn.db"), size)
        total = sum(file.stat().st_size for file in folder.glob("keyturn.db*")) / 2**20
        print(f"{size:,} devices: {total:,.0f} MiB after {time.monotonic() - began:.0f} s", flush=True)

    def keyturn(self, *arguments):
        subprocess.run([self.programs / "keyturn", "--config", Path(self.folder, "keyturn.toml"), *arguments], check=True,
                       capture_output=True)

    def round(self, devices):
        report = self.load(devices, '[[phase]]\nname = "fill"\narrivals = { shape = "each", rate = 100.0 }\nmeasured = false\n'
                           f'[[phase]]\nname = "measured"\narrivals = {{ shape = "constant", rate = {RATE}, duration = "12s" }}\n', EACH_ROUND)
        return next(phase["server_us"] for phase in report["phases"] if phase["name"] == "measured")

    def load(self, devices, phases, count):
        server = subprocess.Popen([self.programs / "keyturn", "--config", Path(self.folder, "keyturn.toml"), "up"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            at_rest(server.pid, self.port)
            with tempfile.TemporaryDirectory() as folder:
                scenario = Path(folder, "growth.toml")
                scenario.write_text(f'name = "growth"\nabout = "A step of ./bench --growth."\ndevices = {count}\nkeys = 8\n{phases}')
                done = subprocess.run(
                    [self.programs / "keyturn-loadtest", "run", scenario, "--fleet", devices, "--report", folder,
                     "--url", f"http://127.0.0.1:{self.port}", "--deployment", "growth",
                     "--root-key", Path(self.folder, "root.pub.json"), "--process", f"keyturn={server.pid}",
                     "--operate", Path(self.folder, "keyturn.toml")],
                    capture_output=True, text=True, timeout=600)
                if done.returncode:
                    sys.exit(f"failed:\n{done.stderr[-3000:]}{done.stdout[-2000:]}")
                return json.loads(Path(folder, "growth.json").read_text())
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def at_rest(pid, port):
    """Waits until the server serves, and is done with what it does when it starts."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    before = None
    for _ in range(120):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        if before is not None and ticks - before < os.sysconf("SC_CLK_TCK") // 20:
            return
        before = ticks
        time.sleep(1)
    sys.exit("the server does not come to rest")


def other(value, number):
    """What stands in a copy for an identifier: another one of the same length."""
    return hashlib.sha256(value + number.to_bytes(8)).digest()[:len(value)]


def place(device):
    """Where the lanes of a device are: crates/embedded/src/ledger/place.rs."""
    return int.from_bytes(hashlib.sha256(b"keyturn place v1" + device).digest()[:8]) >> 12 << 11


def copied(database, size):
    """Copies what the first devices left until so many have left as much."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.create_function("other", 2, other, deterministic=True)
    connection.create_function("place", 1, place, deterministic=True)
    # A fill that is cut off is thrown away.
    for pragma in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF", "cache_size = -4000000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    for table in TABLES:
        columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        there = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] if "id" in columns else None
        limit = f"WHERE rowid <= {there}" if table in ("events", "results", "vault_versions") else ""
        connection.execute(f"CREATE TEMP TABLE first_{table} AS SELECT * FROM {table} {limit}")
        chosen = ", ".join(f"{expression(table, name)}" for name in columns)
        connection.execute("BEGIN")
        for number in range(1, size // FIRST):
            connection.execute(f"INSERT INTO {table} SELECT {chosen} FROM first_{table} WHERE true {kept(table)}", {"n": number})
        connection.execute("COMMIT")
    lanes = connection.execute("SELECT count(*) FROM lanes").fetchone()[0]
    if lanes < size:
        sys.exit(f"{lanes} lanes where {size} were to be")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


def expression(table, column):
    if column == "id":
        return "place(other(device, :n))" if table == "lanes" else "NULL"
    if column in OURS and not (table == "lanes" and column == "event"):
        return f"other({column}, :n)"
    if column in ("event", "previous", "outstanding"):
        return "NULL"
    if column in ("name", "serial", "host"):
        return f"{column} || '-' || :n"
    if column == "key":
        return "key || :n"
    # Rotations of a fleet are spread over days, and remembered in their order.
    if column == "nonce_ms":
        return "nonce_ms - :n * 5000"
    return column


def kept(table):
    """The devices that rotated, of all that were imported."""
    return "AND device IN (SELECT device FROM first_lanes)" if table == "directory" else ""


if __name__ == "__main__":
    main()
