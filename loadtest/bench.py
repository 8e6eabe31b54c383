"""What ./bench runs once all is built: it calls the programs that measure, and compares what they say.

measure PARTS PROGRAMS    times of parts, whole rotations, counts of system calls, and the goals
check PARTS BASELINE      instructions of parts, against those that were committed
bless PARTS BASELINE      writes them

Standard library only.
"""

import json
import os
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

# Above the committed count a part has become slower; below it, the committed count is stale.
TOLERANCE = 0.05

# Calls of a part whose instructions are counted on one thread, and the two numbers of calls of one that is counted as
# a difference.
WITHIN = 20
FEW, MANY = 4, 12


def main():
    command, parts, where = sys.argv[1:]
    if command == "measure":
        measure(parts, Path(where))
    else:
        count_all(parts, Path(where), bless=command == "bless")


# Instructions


def count_all(parts, baseline, bless):
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    made_with = {"rustc": rustc, "valgrind": valgrind, "machine": platform.machine()}
    names = subprocess.run([parts, "--bench", "names"], capture_output=True, text=True, check=True).stdout
    counts = {}
    for line in names.splitlines():
        how, items, name = line.split("\t")
        counts[name] = (within if how == "within" else difference)(parts, name) // int(items)
        print(f"{name:44} {counts[name]:>12,}", flush=True)
    if bless:
        baseline.write_text(json.dumps({"made_with": made_with, "instructions": counts}, indent=2) + "\n")
        print(f"{baseline} is written")
        return
    known = json.loads(baseline.read_text())
    if known["made_with"] != made_with:
        sys.exit(f"{baseline} was made with {known['made_with']}, here is {made_with}: counts of different tools cannot "
                 "be compared. Use that toolchain, or ./bench --bless before the change that is to be judged")
    wrong = 0
    for name in sorted(counts.keys() | known["instructions"].keys()):
        before, now = known["instructions"].get(name), counts.get(name)
        if before is None or now is None:
            wrong += 1
            print(f"WRONG {name}: {'not in the file' if before is None else 'in the file only'}; ./bench --bless")
        elif now > before * (1 + TOLERANCE):
            wrong += 1
            print(f"WORSE {name}: {now:,} instructions, {now / before - 1:+.1%} to {before:,}")
        elif now < before * (1 - TOLERANCE):
            print(f"better {name}: {now:,} instructions, {now / before - 1:+.1%}; ./bench --bless keeps it")
    print(f"{len(counts)} parts, {wrong} wrong; {rustc}, {valgrind}")
    sys.exit(1 if wrong else 0)


def within(parts, name):
    """Instructions of a call on the thread that makes it, without what stands around it."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        told = valgrind("callgrind", parts, name, WITHIN, f"--callgrind-out-file={out}", "--collect-atstart=no",
                        "--toggle-collect=*parts*measured*")
        total = int(re.search(r"Collected : (\d+)", told)[1])
    if total == 0:
        sys.exit(f"{name}: valgrind does not find the function «measured»")
    return total // WITHIN


def difference(parts, name):
    """Instructions of a call and of what is prepared for it, on all threads: the same process with more calls has more."""
    few, many = (counted(parts, name, times) for times in (FEW, MANY))
    return (many - few) // (MANY - FEW)


def counted(parts, name, times):
    told = valgrind("cachegrind", parts, name, times, "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    return int(re.search(r"I +refs: +([\d,]+)", told)[1].replace(",", ""))


def valgrind(tool, parts, name, times, *options):
    command = ["valgrind", f"--tool={tool}", *options, parts, "--bench", "count", name, str(times)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stderr


# Times and counts of system calls


class Goals:
    def __init__(self):
        self.rows = []

    def judge(self, goal, what, figure, target, unit="", at_least=False):
        met = figure >= target if at_least else figure <= target
        self.rows.append((goal, what, f"{figure:.2f}{unit}", f"{'≥' if at_least else '≤'} {target}{unit}", "met" if met else "NOT MET"))

    def missing(self, goal, what, why):
        self.rows.append((goal, what, "–", "–", f"not measured: {why}"))

    def show(self):
        print(f"\n{'goal':5} {'what':64} {'figure':>12} {'target':>10}")
        for goal, what, figure, target, told in self.rows:
            print(f"{goal:5} {what:64} {figure:>12} {target:>10}  {told}")


def measure(parts, programs):
    began = time.monotonic()
    load = os.getloadavg()
    print(f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {os.cpu_count()} cores, load {load[0]:.1f}")
    goals = Goals()
    told = json.loads(subprocess.run([parts, "--bench"], capture_output=True, text=True, check=True).stdout)
    parts_us = show_parts(told["parts"])
    echo = measure_echo(parts)
    whole = rotations(programs)
    limits(goals, parts_us, echo, whole)
    latency(goals, parts_us, whole)
    calls(goals, programs)
    footprint(goals, programs)
    compare = programs / "keyturn-compare"
    if compare.exists():
        out = subprocess.run([compare, "--only", "raw,embedded", "--rounds", "5"], capture_output=True, text=True).stdout
        print(f"\n{out.rstrip()}")
        found = re.search(r"G3 raw / embedded: ([\d.]+)", out)
        if found:
            goals.judge("G3", "raw log's rate / embedded queue's, 64 producers, 4 consumers", float(found[1]), 1.7)
    else:
        goals.missing("G3", "raw log's rate / embedded queue's", "./bench --compare builds what measures it")
    goals.show()
    print(f"\n{time.monotonic() - began:.0f} s; load {os.getloadavg()[0]:.1f}")


# What the machine needs for the same: the part, and the bare one.
BARE = {
    "message: verify": "bare: RSA-2048 verify",
    "intake: accept 1": "bare: log of 1",
    "intake: accept 64": "bare: log of 64",
    "queue: send 1": "bare: log of 1",
    "queue: send 64": "bare: log of 64",
}


def show_parts(rows):
    by_name = {row["part"]: row for row in rows}
    print(f"\n{'part, microseconds an item':44} {'processor':>10} {'clock':>10}  against the machine's own (processor, clock)")
    for name, row in by_name.items():
        line = f"{name:44} {row['processor_us']:>10.2f} {row['clock_us']:>10.2f}"
        if name in BARE:
            bare = by_name[BARE[name]]
            line += f"  {row['processor_us'] / bare['processor_us']:.2f}, {row['clock_us'] / bare['clock_us']:.2f} of {BARE[name]}"
        print(line)
    return by_name


def measure_echo(parts):
    """Processor time of a bare HTTPS server for one exchange, on a new connection and on one that is kept."""
    server = subprocess.Popen([parts, "--bench", "echo"], stdout=subprocess.PIPE, text=True)
    try:
        told = json.loads(server.stdout.readline())
        host, port = told["address"].rsplit(":", 1)
        context = ssl.create_default_context(cadata=told["ca"])
        body = b"x" * 3000
        head = f"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/jose\r\nContent-Length: {len(body)}\r\n\r\n"
        request = head.encode() + body

        def connect():
            return context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)

        def exchange(connection):
            connection.sendall(request)
            # One answer fits into one record.
            if b" 202 " not in connection.recv(16384):
                sys.exit("the bare server does not answer")

        def fresh():
            with connect() as connection:
                exchange(connection)

        kept_open = connect()
        costs = {"new": [], "kept": []}
        # In turns.
        for _ in range(9):
            for name, call, times in (("new", fresh, 150), ("kept", lambda: exchange(kept_open), 800)):
                before = on_processor(server.pid)
                for _ in range(times):
                    call()
                costs[name].append((on_processor(server.pid) - before) / times)
        costs = {name: sorted(values)[len(values) // 2] for name, values in costs.items()}
    finally:
        server.kill()
        server.wait()
    print(f"\nbare HTTPS, server's processor time: {costs['new']:.0f} us for a POST on a new connection, "
          f"{costs['kept']:.0f} us on one that is kept")
    return costs


def on_processor(pid):
    """Microseconds that a process of one thread has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def scenario(name, connection, phases, devices=200):
    lines = [f'name = "{name}"\nabout = "A step of ./bench."\ndevices = {devices}\nkeys = 8\nlayout = "one"\nconnection = "{connection}"']
    for phase, arrivals, measured in phases:
        lines.append(f'[[phase]]\nname = "{phase}"\narrivals = {arrivals}\nmeasured = {str(measured).lower()}')
    return "\n".join(lines) + "\n"


def constant(rate, seconds):
    return f'{{ shape = "constant", rate = {rate:.1f}, duration = "{seconds}s", poisson = false }}'


EACH = '{ shape = "each", rate = 100.0 }'

# As many as keep the server busy for a while: batches are as large as they get.
MANY_DEVICES = 512
AT_ONCE = f'{{ shape = "burst", count = {MANY_DEVICES}, within = "0s" }}'


def run(programs, text, start_from=None):
    """Runs a scenario and returns its report."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scenario.toml")
        file.write_text(text)
        command = [programs / "keyturn-loadtest", "run", file, "--report", folder, "--programs", start_from or programs]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        reports = [one for one in Path(folder).glob("*.json")]
        if done.returncode or not reports:
            sys.exit(f"{text}\nfailed:\n{done.stderr[-3000:]}{done.stdout[-2000:]}")
        return json.loads(reports[0].read_text())


def rotations(programs):
    """Whole rotations at a rate that leaves room, one at a time, and of many devices at once, on new connections and on kept
    ones; three runs of each in turns."""
    runs = {"rotation": [], "shared": []}
    for _ in range(3):
        for connection, found in runs.items():
            phases = [("fill", EACH, False), ("busy", constant(150, 6), True), ("idle", constant(8, 5), True), ("at once", AT_ONCE, True)]
            report = run(programs, scenario(f"bench-{connection}", connection, phases, MANY_DEVICES))
            found.append({phase["name"]: phase for phase in report["phases"]})
    print("\nwhole rotations, one process: server's processor time of three runs, us")
    for connection, found in runs.items():
        for phase in ("busy", "idle", "at once"):
            print(f"{connection:9} {phase:7} {', '.join(format(one[phase]['server_us'], '.0f') for one in found)}")
    return runs


def middle(values):
    values = sorted(values)
    return values[len(values) // 2]


def limits(goals, parts, echo, runs):
    """The least that a rotation could cost with these parts, against what it does cost."""
    def cost(name):
        return parts[name]["processor_us"]

    # A request and a report each: parsed and verified by ingress, validator and rotator; stamped once and checked twice;
    # nonce checked by all three; found once, opened once; decided, answered with a signature.
    message = 3 * (cost("message: parse") + cost("message: verify") + cost("nonce: check"))
    message += cost("stamp: seal") + 2 * cost("stamp: check") + cost("finding: seal") + cost("finding: open")
    message += cost("decide: a rotation is due") + cost("answer: sign")
    # Batches of 64, which nobody can do better than: accept, three leases, two forwards, one settlement, ledger.
    message += cost("intake: accept 64") + 3 * cost("queue: lease 64") + 3 * cost("queue: settle and forward 64")
    message += cost("ledger: load 64") + cost("ledger: commit 64")
    version = cost("password: generate") + cost("answer: seal the password") + cost("vault: seal a version")
    inside = 2 * message + version
    # Nonce, request, poll, report, poll.
    new, kept = echo["new"] + 4 * echo["kept"], 5 * echo["kept"]
    print(f"\nthe parts of a rotation add up to {inside:.0f} us; with HTTPS {inside + new:.0f} us on a new connection, "
          f"{inside + kept:.0f} us on a kept one")
    # The limit is one of a server that is busy; what a rotation costs with few others beside it is told as well.
    for load, named_load in (("at once", "all at once"), ("busy", "150/s")):
        for connection, http, least in (("rotation", new, 0.80), ("shared", kept, 0.85)):
            server = middle([one[load]["server_us"] for one in runs[connection]])
            named = "a new connection each" if connection == "rotation" else "kept connections"
            goals.judge("G4", f"limit of the parts / server's processor time, {named_load}, {named}", (inside + http) / server, least, at_least=True)
        server = middle([one[load]["server_us"] for one in runs["rotation"]])
        goals.judge("G5", f"server's processor time of a rotation, {named_load} / bare POST on a new connection", server / echo["new"], 2.2)


def latency(goals, parts, runs):
    two = 2 * parts["intake: accept 1"]["clock_us"]

    def stages(one, quantile):
        return sum(one["idle"]["summary"]["stages"][stage][quantile] for stage in ("submit", "answer"))

    p50 = {name: middle([stages(one, "p50") for one in found]) for name, found in runs.items()}
    p99 = middle([stages(one, "p99") for one in runs["shared"]])
    print(f"idle, submit to answer: p50 {p50['shared'] / 1000:.1f} ms on kept connections, {p50['rotation'] / 1000:.1f} ms on "
          f"new ones; two durable enqueues take {two / 1000:.1f} ms")
    goals.judge("G7", "idle p50, kept connection / two durable enqueues", p50["shared"] / two, 2.5)
    goals.judge("G7", "idle p99 / p50, kept connection", p99 / p50["shared"], 4)
    # What a new connection adds is before the submission: to the median of the whole.
    whole = {name: middle([one["idle"]["summary"]["stages"]["at_hand"]["p50"] for one in found]) for name, found in runs.items()}
    goals.judge("G7", "idle p50 until the password is at hand, new / kept connection", whole["rotation"] / whole["shared"], 2)


def calls(goals, programs):
    """System calls of a rotation: the difference of two runs that differ in nothing but how many there are."""
    strace = shutil.which("strace")
    if not strace:
        goals.missing("G6", "waits for the disk of a rotation", "strace is not installed (apt install strace)")
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts")
        wrapper = Path(folder, "keyturn")
        # The tracer is a grandchild, so that the server keeps its process and its signals. Only `up` is traced.
        wrapper.write_text(
            f'#!/bin/sh\nfor last; do :; done\n[ "$last" = up ] || exec "{(programs / "keyturn").resolve()}" "$@"\n'
            f'exec {strace} -D -f -qq -c -S calls -o "{counts}" "{(programs / "keyturn").resolve()}" "$@"\n')
        wrapper.chmod(0o755)

        def of(phases):
            counts.unlink(missing_ok=True)
            report = run(programs, scenario("bench-calls", "rotation", [("fill", EACH, False), *phases], 64), folder)
            for _ in range(100):
                if counts.exists() and "total" in counts.read_text():
                    break
                time.sleep(0.1)
            table = {}
            for line in counts.read_text().splitlines():
                fields = line.split()
                if len(fields) >= 5 and fields[3].isdigit():
                    table[fields[-1]] = int(fields[3])
            confirmed = sum(phase["summary"]["confirmed"] for phase in report["phases"])
            return confirmed, table.get("fdatasync", 0) + table.get("fsync", 0), table.get("total", 0)

        bursts = [(f"b{n}", '{ shape = "burst", count = 64, within = "0s" }', True) for n in range(8)]
        for named, few, many, most in (
            ("idle", [("one", constant(4, 4), True)], [("one", constant(4, 14), True)], 4),
            ("64 devices at once", bursts[:2], bursts, 0.40),
        ):
            (n0, syncs0, all0), (n1, syncs1, all1) = of(few), of(many)
            rotations = n1 - n0
            goals.judge("G6", f"waits for the disk of a rotation, {named}", (syncs1 - syncs0) / rotations, most)
            print(f"{named}: {(all1 - all0) / rotations:.0f} system calls of a rotation, {(syncs1 - syncs0) / rotations:.2f} "
                  f"of them waits for the disk; of {rotations} rotations")


def footprint(goals, programs):
    with tempfile.TemporaryDirectory() as folder:
        keyturn, data = programs / "keyturn", Path(folder, "data")
        subprocess.run([keyturn, "init", "--name", "bench", data], check=True, capture_output=True)
        ports = []
        for _ in range(3):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(free.getsockname()[1])
        config = data / "keyturn.toml"
        config.write_text(f'[deployment]\nname = "bench"\n[ingress]\nlisten = "127.0.0.1:{ports[0]}"\n'
                          f'[health]\nall = "127.0.0.1:{ports[1]}"\nrotator = "127.0.0.1:{ports[2]}"\n')
        for named, command, memory in (
            ("all in one", [keyturn, "--config", config, "up"], 40),
            ("a worker", [programs / "keyturn-rotator", "--config", config], 25),
        ):
            if not command[0].exists():
                goals.missing("G11", f"{named}, idle", f"{command[0]} is not built")
                continue
            with running(command) as child:
                time.sleep(3)
                before, began = ticks(child.pid), time.monotonic()
                time.sleep(8)
                share = (ticks(child.pid) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
                mebibytes = resident(child.pid)
            goals.judge("G11", f"{named}, idle: resident memory", mebibytes, memory, " MiB")
            if named == "all in one":
                goals.judge("G11", f"{named}, idle: share of a core", share * 100, 1, " %")
    agent = programs / "keyturn-agent"
    if agent.exists():
        goals.judge("G11", "agent: its program, as built for release", agent.stat().st_size / 2**20, 8, " MiB")
        waiting_agent(goals, programs)


def waiting_agent(goals, programs):
    """An agent over TLS that waits for its result: nobody works behind the ingress."""
    what = "agent: resident memory while it waits for its result"
    openssl, ingress = shutil.which("openssl"), programs / "keyturn-ingress"
    if not openssl or not ingress.exists():
        goals.missing("G11", what, "openssl is not installed" if not openssl else f"{ingress} is not built")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder, device = Path(folder), "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11"
        keyturn, data, config = programs / "keyturn", folder / "data", folder / "data" / "keyturn.toml"

        def certificate(name, *how):
            subprocess.run([openssl, "req", "-x509", "-nodes", "-days", "2", "-keyout", folder / f"{name}.key",
                            "-out", folder / f"{name}.pem", *how], check=True, capture_output=True)
            (folder / f"{name}.key").chmod(0o600)

        certificate("device", "-newkey", "rsa:2048", "-subj", f"/CN={device}")
        certificate("server", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE")
        subprocess.run([keyturn, "init", "--name", "bench", data], check=True, capture_output=True)
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as second:
            port, health = free.getsockname()[1], second.getsockname()[1]
        config.write_text(f'[deployment]\nname = "bench"\n[ingress]\nlisten = "127.0.0.1:{port}"\n[ingress.tls]\n'
                          f'certificate = "{folder}/server.pem"\nkey = "{folder}/server.key"\n'
                          f'[health]\ningress = "127.0.0.1:{health}"\n')
        subprocess.run([keyturn, "--config", config, "device", "add", "--name", "bench", "--cert",
                        folder / "device.pem"], check=True, capture_output=True)
        settings = folder / "agent.toml"
        settings.write_text(f'server = "https://localhost:{port}"\ndeployment = "bench"\nroot_key = "data/root.pub.json"\n'
                            f'ca = "server.pem"\ndevice_id = "{device}"\ncertificate = "device.pem"\n'
                            'private_key = "device.key"\nstate = "state"\n'
                            '[account]\nkind = "file"\npath = "account.json"\nname = "localadmin"\n')
        with running([ingress, "--config", config]):
            for _ in range(100):
                time.sleep(0.1)
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            with running([programs / "keyturn-agent", "once", "--config", settings]) as agent:
                time.sleep(5)
                if agent.poll() is not None:
                    sys.exit("the agent did not wait for its result")
                told = subprocess.run([keyturn, "--config", config, "queues", "--output", "json"], check=True,
                                      capture_output=True, text=True).stdout
                waiting = {queue["queue"]: queue["total"] for queue in json.loads(told)}
                if waiting["requests"] != 1:
                    sys.exit(f"the agent's request is on no queue: {waiting}")
                goals.judge("G11", what, resident(agent.pid), 12, " MiB")


@contextmanager
def running(command):
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def resident(pid):
    """MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main()
