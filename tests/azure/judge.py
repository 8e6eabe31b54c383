"""Microsoft's own client of Key Vault against the fake that our tests stand on.

Usage: judge.py FAKE (the program of crates/testkit/examples/fake_key_vault.rs)
"""

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import time

from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.core.rest import HttpRequest
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm
from azure.keyvault.secrets import SecretClient

from tokens import Tokens


def raises(kind, status, call):
    try:
        call()
    except kind as error:
        assert error.status_code == status, error.status_code
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def main():
    with tempfile.NamedTemporaryFile(suffix=".pem") as ca:
        fake = subprocess.Popen([sys.argv[1], ca.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = fake.stdout.readline().strip()

            def tell(command):
                fake.stdin.write(command + "\n")
                fake.stdin.flush()
                assert fake.stdout.readline() == "done\n"

            judge(url, ca.name, tell)
            judge_keys(url, ca.name)
        finally:
            fake.stdin.close()
            fake.wait(10)


def judge(url, ca, tell):
    tokens = Tokens()
    client = SecretClient(url, tokens, verify_challenge_resource=False, connection_verify=ca)

    first = client.set_secret("lap-1", "one", tags={"rid": "a"}, content_type="text/plain")
    assert tokens.scopes == {"https://vault.azure.net/.default"}, tokens.scopes
    assert first.properties.tags == {"rid": "a"} and first.properties.content_type == "text/plain"
    assert abs(first.properties.created_on.timestamp() - time.time()) < 60 and first.properties.enabled
    second = client.set_secret("lap-1", "two")
    assert first.properties.version != second.properties.version
    assert client.get_secret("lap-1").value == "two"
    assert client.get_secret("lap-1", first.properties.version).value == "one"
    raises(ResourceNotFoundError, 404, lambda: client.get_secret("lap-2"))
    raises(ResourceNotFoundError, 404, lambda: client.get_secret("lap-1", "0" * 32))

    for number in range(60):
        client.set_secret("many", str(number), tags={"number": str(number)})
    listed = list(client.list_properties_of_secret_versions("many"))
    assert sorted(int(one.tags["number"]) for one in listed) == list(range(60)), len(listed)
    assert len({one.version for one in listed}) == 60
    assert {one.name for one in client.list_properties_of_secrets()} == {"lap-1", "many"}
    few = client.list_properties_of_secret_versions("many", max_page_size=7).by_page()
    assert len(list(next(few))) == 7

    changed = client.update_secret_properties("lap-1", first.properties.version, tags={"rid": "b"}, enabled=False)
    assert changed.tags == {"rid": "b"} and not changed.enabled
    raises(HttpResponseError, 403, lambda: client.get_secret("lap-1", first.properties.version))
    raises(HttpResponseError, 400, lambda: client.set_secret("under_score", "x"))
    raises(HttpResponseError, 400, lambda: client.set_secret("long", "x" * 25601))
    raises(HttpResponseError, 400, lambda: client.set_secret("tags", "x", tags={str(n): "" for n in range(16)}))

    tell("throttle")
    before = time.monotonic()
    client.set_secret("throttled", "x")
    assert time.monotonic() - before >= 1, "Retry-After was not obeyed"
    tell("deny")
    error = raises(HttpResponseError, 403, lambda: client.set_secret("denied", "x"))
    assert error.error.innererror["code"] == "ForbiddenByRbac", error.error.innererror

    deleted = client.begin_delete_secret("lap-1").result()
    assert deleted.name == "lap-1" and deleted.recovery_id.startswith(url)
    raises(ResourceNotFoundError, 404, lambda: client.get_secret("lap-1"))
    error = raises(ResourceExistsError, 409, lambda: client.set_secret("lap-1", "three"))
    assert error.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
    client.begin_recover_deleted_secret("lap-1").wait()
    assert client.get_secret("lap-1").value == "two"
    client.begin_delete_secret("many").wait()
    client.purge_deleted_secret("many")
    raises(ResourceNotFoundError, 404, lambda: client.get_deleted_secret("many"))
    print("Microsoft's client of Key Vault finds the fake to be one")


def judge_keys(url, ca):
    tokens = Tokens()
    reached = {"verify_challenge_resource": False, "connection_verify": ca}
    client = KeyClient(url, tokens, **reached)
    first = client.create_rsa_key("wrapping", size=2048)
    second = client.rotate_key("wrapping")
    assert first.properties.version != second.properties.version
    assert client.get_key("wrapping").id == second.id
    assert client.get_key("wrapping", first.properties.version).id == first.id
    raises(ResourceNotFoundError, 404, lambda: client.get_key("none"))
    raises(HttpResponseError, 400, lambda: client.create_rsa_key("small", size=1024))

    # Microsoft's client wraps by itself with the public half, and has to ask for the unwrapping.
    secret = bytes(range(32))
    for key in (first, second):
        crypto = CryptographyClient(key, tokens, **reached)
        wrapped = crypto.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
        assert crypto.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key).key == secret
    other = CryptographyClient(first, tokens, **reached)
    raises(HttpResponseError, 400, lambda: other.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key))
    raises(HttpResponseError, 400, lambda: other.unwrap_key(KeyWrapAlgorithm.rsa_oaep, wrapped.encrypted_key))

    # What the fake wraps itself, without a version in the address.
    encoded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    asked = HttpRequest("POST", f"{url}/keys/wrapping/wrapkey?api-version=7.4",
                        json={"alg": "RSA-OAEP-256", "value": encoded})
    answer = client.send_request(asked).json()
    assert answer["kid"] == second.id, answer
    value = base64.urlsafe_b64decode(answer["value"] + "==")
    assert CryptographyClient(second, tokens, **reached).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, value).key == secret

    # Signed by the fake, verified by Microsoft's client with the public half.
    signing = client.create_ec_key("signing", curve="P-256")
    crypto = CryptographyClient(signing, tokens, **reached)
    digest = hashlib.sha256(b"text").digest()
    signed = crypto.sign(SignatureAlgorithm.es256, digest)
    assert len(signed.signature) == 64 and crypto.verify(SignatureAlgorithm.es256, digest, signed.signature).is_valid
    raises(HttpResponseError, 400, lambda: client.create_ec_key("ed", curve="Ed25519"))
    print("Microsoft's client of Key Vault's keys finds the fake to be one")


main()
