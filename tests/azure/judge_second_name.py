"""Microsoft's own client of Key Vault reads both names of a device, as Keyturn writes them.

Usage: judge_second_name.py PROGRAM (the program of crates/azure/examples/second_name.rs)
"""

import json
import subprocess
import sys
import tempfile

from azure.keyvault.secrets import SecretClient

from tokens import Tokens


def main():
    with tempfile.NamedTemporaryFile(suffix=".pem") as ca:
        program = subprocess.Popen([sys.argv[1], ca.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            judge(json.loads(program.stdout.readline()), ca.name)
        finally:
            program.stdin.close()
            program.wait(10)


def judge(told, ca):
    client = SecretClient(told["url"], Tokens(), verify_challenge_resource=False, connection_verify=ca)
    name = f"lap-{told['device']}"
    assert {secret.name for secret in client.list_properties_of_secrets()} == {name, f"{name}-next"}
    labels = {
        "UserName": "localadmin",
        "AzureADDeviceID": told["device"],
        "DeviceName": "LAB-1",
        "SerialNumber": "5CG-ä",
    }

    copy = client.get_secret(name)
    assert copy.value == told["password"], "the value is the password and nothing else"
    assert copy.properties.content_type == "Local Administrator" and copy.properties.enabled
    assert copy.properties.expires_on is None and copy.properties.not_before is None
    ours = {"version": told["version"], "lane": told["lane"], "state": "confirmed"}
    assert copy.properties.tags == labels | ours, copy.properties.tags
    assert len(list(client.list_properties_of_secret_versions(name))) == 1

    versions = list(client.list_properties_of_secret_versions(f"{name}-next"))
    assert {version.content_type for version in versions} == {"application/vnd.keyturn.version+json"}
    values = [json.loads(client.get_secret(version.name, version.version).value) for version in versions]
    confirmed = [value for value in values if value["version"] == told["version"]]
    assert len(values) == 2 and confirmed[0]["password"] == copy.value, "the copy is the confirmed one"
    assert all(labels.items() <= version.tags.items() for version in versions)
    print("Microsoft's client of Key Vault reads both names")


main()
