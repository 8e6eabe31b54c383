"""Microsoft's own client of the Logs Ingestion API against the fake that our tests stand on.

Usage: judge_logs.py FAKE (the program of crates/testkit/examples/fake_logs.rs)
"""

import json
import subprocess
import sys
import tempfile
import time

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.monitor.ingestion import LogsIngestionClient

from tokens import Tokens

AUDIT = "Custom-CloudLAPSAudit_CL"


def raises(status, call):
    try:
        call()
    except HttpResponseError as error:
        assert error.status_code == status, (error.status_code, status)
        return error
    raise AssertionError(f"{status} was expected")


def main():
    with tempfile.NamedTemporaryFile(suffix=".pem") as ca:
        fake = subprocess.Popen([sys.argv[1], ca.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url, rule = fake.stdout.readline().strip(), fake.stdout.readline().strip()

            def tell(command):
                fake.stdin.write(command + "\n")
                fake.stdin.flush()
                return fake.stdout.readline().strip()

            judge(url, rule, ca.name, tell)
        finally:
            fake.stdin.close()
            fake.wait(10)


def row(number, filling=""):
    return {"TimeGenerated": "2026-11-22T00:00:00Z", "Reason": str(number), "Detail": filling}


def judge(url, rule, ca, tell):
    tokens = Tokens()
    client = LogsIngestionClient(url, tokens, connection_verify=ca)
    reasons = lambda: [one["Reason"] for one in json.loads(tell(f"rows {AUDIT}"))]

    client.upload(rule, AUDIT, [row(number) for number in range(3)])
    assert tokens.scopes == {"https://monitor.azure.com/.default"}, tokens.scopes
    assert reasons() == ["0", "1", "2"], reasons()

    # More than a megabyte, which the client cuts into several calls, each compressed.
    client.upload(rule, AUDIT, [row(number, "x" * 50_000) for number in range(3, 60)])
    assert reasons() == [str(number) for number in range(60)]

    raises(400, lambda: client.upload(rule, AUDIT, [{"Reason": "no time"}]))
    raises(400, lambda: client.upload(rule, AUDIT, [{**row(0), "Nonsense": "x"}]))
    raises(400, lambda: client.upload(rule, AUDIT, [{**row(0), "TimeGenerated": "yesterday"}]))
    error = raises(404, lambda: client.upload(rule, "Custom-Other_CL", [row(0)]))
    assert isinstance(error, ResourceNotFoundError)
    raises(404, lambda: client.upload("dcr-" + "f" * 32, AUDIT, [row(0)]))
    assert tell("next deny") == "done"
    raises(403, lambda: client.upload(rule, AUDIT, [row(0)]))
    strange = LogsIngestionClient(url, tokens, connection_verify=ca, credential_scopes=["https://graph.microsoft.com/.default"])
    raises(401, lambda: strange.upload(rule, AUDIT, [row(0)]))
    assert len(reasons()) == 60, "what is refused is not there"

    assert tell("next throttle") == "done"
    before = time.monotonic()
    client.upload(rule, AUDIT, [row(60)])
    assert time.monotonic() - before >= 1, "Retry-After was not obeyed"
    # It was taken over and 500 was the answer: whoever tries again has it there twice.
    assert tell("next fail") == "done"
    client.upload(rule, AUDIT, [row(61)])
    assert reasons()[60:] == ["60", "61", "61"], reasons()[60:]
    print("Microsoft's client of the Logs Ingestion API finds the fake to be one")


main()
