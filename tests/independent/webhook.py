"""Checks the signature of a webhook delivery, written from docs/ALARMS.md alone. Needs nothing but Python.

Reads one JSON object from stdin: {"secret": "whsec_…", "headers": {…}, "body": "…"}. Exits with 0 if a signature
holds, with 1 if none does.
"""

import base64
import hashlib
import hmac
import json
import sys


def holds(secret: str, headers: dict[str, str], body: str) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    expected = hmac.new(key, signed, hashlib.sha256).digest()
    for one in headers["webhook-signature"].split(" "):
        version, _, value = one.partition(",")
        if version == "v1" and hmac.compare_digest(base64.b64decode(value, validate=True), expected):
            return True
    return False


if __name__ == "__main__":
    delivery = json.load(sys.stdin)
    sys.exit(0 if holds(delivery["secret"], delivery["headers"], delivery["body"]) else 1)
