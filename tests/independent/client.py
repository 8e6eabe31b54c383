#!/usr/bin/env python3
"""A Keyturn client written from docs/PROTOCOL.md, the OpenAPI description and the test vectors alone.

It shares no code with the agent. It is a test instrument: it sets no password on any system and keeps no journal.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import ssl
import sys
import time
import urllib.parse
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class Refused(Exception):
    """Something that must not be accepted."""


class GaveUp(Exception):
    """The server refused, or did not answer in time."""


def demand(condition, why):
    if not condition:
        raise Refused(why)


# --- Encodings ---------------------------------------------------------------------------------------------------


def encode(data):
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text, size=None):
    """The one canonical form of base64url without padding."""
    demand(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Refused("not base64url") from error
    demand(encode(data) == text, "not canonical base64url")
    demand(size is None or len(data) == size, f"not {size} bytes")
    return data


def parse_object(data):
    """A JSON object in which no member stands twice."""

    def once(pairs):
        members = dict(pairs)
        demand(len(members) == len(pairs), "a member stands twice")
        return members

    try:
        value = json.loads(data, object_pairs_hook=once)
    except ValueError as error:
        raise Refused("not JSON") from error
    demand(isinstance(value, dict), "not a JSON object")
    return value


def compact_json(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def prefixed(*parts):
    """Parts, each preceded by its length in two bytes, big endian."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def guid_bytes(text):
    """A GUID's bytes in the order in which they are printed."""
    demand(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text), "not a device id")
    return bytes.fromhex(text.replace("-", ""))


def whole_number(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


# --- Names -------------------------------------------------------------------------------------------------------


def request_id(jws):
    return sha256(jws.encode("ascii"))


def lane_input(device_id, account_id, install_id, key_hash):
    return prefixed(b"keyturn lane v1", guid_bytes(device_id), account_id.encode(), install_id, key_hash)


def lane_id(*parts):
    return sha256(lane_input(*parts))[:16]


def thumbprint_input(public):
    return '{"crv":"X25519","kty":"OKP","x":"%s"}' % encode(public)


# --- HPKE, RFC 9180: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 --------------------------------------------

AES_128_GCM, AES_256_GCM = 1, 2
KEM = b"KEM" + (0x20).to_bytes(2, "big")


def labeled_extract(suite, salt, label, material):
    return mac(salt, b"HPKE-v1" + suite + label + material)


def labeled_expand(suite, key, label, info, length):
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = mac(key, block + info + bytes([counter]))
        out, counter = out + block, counter + 1
    return out[:length]


def x25519_public(secret):
    return x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(*RAW)


def x25519_agree(secret, public):
    try:
        key = x25519.X25519PrivateKey.from_private_bytes(secret)
        return key.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Refused("a point of small order") from error


def hpke_schedule(aead, agreed, enc, recipient, info):
    key = labeled_extract(KEM, b"", b"eae_prk", agreed)
    shared = labeled_expand(KEM, key, b"shared_secret", enc + recipient, 32)
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x20, 1, aead))
    psk_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    context = b"\0" + psk_hash + labeled_extract(suite, b"", b"info_hash", info)
    secret = labeled_extract(suite, shared, b"secret", b"")
    size = {AES_128_GCM: 16, AES_256_GCM: 32}[aead]
    return labeled_expand(suite, secret, b"key", context, size), labeled_expand(suite, secret, b"base_nonce", context, 12)


def hpke_seal(sender_secret, recipient, info, plain, aad=b"", aead=AES_256_GCM):
    enc = x25519_public(sender_secret)
    key, nonce = hpke_schedule(aead, x25519_agree(sender_secret, recipient), enc, recipient, info)
    return enc, AESGCM(key).encrypt(nonce, plain, aad)


def hpke_open(recipient_secret, enc, info, sealed, aad=b"", aead=AES_256_GCM):
    recipient = x25519_public(recipient_secret)
    key, nonce = hpke_schedule(aead, x25519_agree(recipient_secret, enc), enc, recipient, info)
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag as error:
        raise Refused("the seal does not open") from error


def seal_info(rid, lane, version):
    return prefixed(b"keyturn result v1", rid, lane, version)


def pad(password):
    return prefixed(password.encode()).ljust(256, b"\0")


def unpad(plain):
    demand(len(plain) == 256, "the plaintext is not 256 bytes")
    length = int.from_bytes(plain[:2], "big")
    demand(1 <= length <= 254 and not any(plain[2 + length :]), "the padding is wrong")
    try:
        return plain[2 : 2 + length].decode()
    except UnicodeDecodeError as error:
        raise Refused("the password is not UTF-8") from error


# --- Signatures --------------------------------------------------------------------------------------------------


def sign_rs256(key, header, payload):
    """A compact JWS over exactly these bytes."""
    signed = encode(header) + "." + encode(payload)
    return signed + "." + encode(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))


def sign_eddsa(seed, header, payload):
    signed = encode(header) + "." + encode(payload)
    return signed + "." + encode(ed25519.Ed25519PrivateKey.from_private_bytes(seed).sign(signed.encode()))


def split_jws(jws, members):
    parts = jws.split(".")
    demand(len(parts) == 3, "not three parts")
    header, payload, signature = (decode(part) for part in parts)
    header = parse_object(header)
    demand(set(header) == set(members), "other header members than expected")
    demand(all(isinstance(header[name], str) for name in members), "a header member is not a text")
    return header, payload, signature, ".".join(parts[:2]).encode()


def verify_server(jws, kind, keys):
    """The payload of a JWS of this kind, signed by one of these keys."""
    header, payload, signature, signed = split_jws(jws, ("alg", "typ", "kid"))
    demand(header["typ"] == kind, f"typ is not {kind}")
    key = next((key for key in keys if (key["kid"], key["alg"]) == (header["kid"], header["alg"])), None)
    demand(key is not None, "signed by an unknown key")
    try:
        if key["alg"] == "EdDSA":
            ed25519.Ed25519PublicKey.from_public_bytes(decode(key["x"], 32)).verify(signature, signed)
        elif key["alg"] == "ES256":
            demand(len(signature) == 64, "not an ES256 signature")
            numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(key["x"], 65))
            point.verify(utils.encode_dss_signature(*numbers), signed, ec.ECDSA(hashes.SHA256()))
        else:
            raise Refused("an unknown algorithm")
    except (InvalidSignature, ValueError) as error:
        raise Refused("the signature does not match") from error
    return parse_object(payload)


def read_key_set(jws, root, deployment, now_ms):
    key_set = verify_server(jws, "kt-keys+jws", [root])
    demand(set(key_set) == {"v", "deployment", "serial", "keys", "not_after"}, "not a key set")
    demand(key_set["v"] == 1 and key_set["deployment"] == deployment, "a key set of another deployment")
    demand(whole_number(key_set["serial"]) and whole_number(key_set["not_after"]), "not a key set")
    demand(key_set["not_after"] > now_ms, "the key set has ended")
    for key in key_set["keys"]:
        demand(set(key) == {"kid", "alg", "x"}, "not a key")
    return key_set


CODES = {"rotate", "not_due", "held", "recorded", "stale", "expired", "refused"}


def read_result(jws, keys, deployment, rid, lane):
    """A result for the message `rid`, checked in all but whether it opens."""
    answer = verify_server(jws, "kt-res+jws", keys)
    demand(answer.get("v") == 1, "a result of another version")
    demand(answer.get("deployment") == deployment, "a result of another deployment")
    demand(decode(answer.get("rid"), 32) == rid, "the result of another message")
    demand(decode(answer.get("lane"), 16) == lane, "the result of another lane")
    demand(answer.get("code") in CODES, "an unknown code")
    return answer


def open_result(answer, secret, rid, lane):
    """The version enclosed, and its password."""
    demand(answer["code"] == "rotate", "nothing is enclosed")
    version = decode(answer.get("version"), 16)
    own = encode(sha256(thumbprint_input(x25519_public(secret)).encode()))
    demand(answer.get("epk_thumbprint") == own, "sealed to another key")
    plain = hpke_open(secret, decode(answer.get("enc"), 32), seal_info(rid, lane, version), decode(answer.get("ct"), 272))
    return encode(version), unpad(plain)


# --- The device --------------------------------------------------------------------------------------------------


class Device:
    """A device: its key, its certificate, and what it says about itself."""

    def __init__(self, arguments):
        self.key = serialization.load_pem_private_key(Path(arguments.key).read_bytes(), None)
        data = Path(arguments.cert).read_bytes()
        certificate = x509.load_pem_x509_certificate(data) if b"-----BEGIN" in data else x509.load_der_x509_certificate(data)
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.deployment, self.device_id = arguments.deployment, arguments.device_id.lower()
        self.account = {"id": arguments.account_id, "name": arguments.account_name}
        own = b"independent client" + guid_bytes(self.device_id)
        self.install_id = decode(arguments.install_id, 32) if arguments.install_id else sha256(own)
        self.lane = lane_id(self.device_id, arguments.account_id, self.install_id, rsa_key_hash(certificate))

    def message(self, kind, nonce, **claims):
        header = {"alg": "RS256", "typ": kind, "kid": self.device_id, "x5c": [base64.b64encode(self.der).decode()]}
        common = {
            "v": 1,
            "aud": self.deployment,
            "jti": encode(secrets.token_bytes(16)),
            "iat": int(time.time()),
            "nonce": nonce,
            "device_id": self.device_id,
            "labels": {"serial": "", "host": "", "os": "independent client", "vm": True},
            "account": self.account,
            "install_id": encode(self.install_id),
        }
        return sign_rs256(self.key, compact_json(header), compact_json({**common, **claims}))


def rsa_public_key(certificate):
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)


def rsa_key_hash(certificate):
    return sha256(rsa_public_key(certificate))


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def code(self):
        """The code of a problem, if this is one."""
        if self.headers.get_content_type() != "application/problem+json":
            return None
        return parse_object(self.body).get("code")

    def retry_after(self):
        text = self.headers.get("Retry-After", "1")
        return min(int(text), 60) if text.isdigit() else 1


class Server:
    """The device API, the newest nonce, and the key set with the highest serial."""

    def __init__(self, arguments):
        self.url = urllib.parse.urlsplit(arguments.server)
        demand(self.url.scheme in ("http", "https") and self.url.hostname, "--server is not an http or https URL")
        self.tls = ssl.create_default_context(cafile=arguments.ca) if self.url.scheme == "https" else None
        self.root = parse_object(Path(arguments.root).read_bytes())
        self.deployment, self.pause = arguments.deployment, arguments.pause
        self.key_set = self.nonce = None
        self.last_post = self.last_answer = 0.0

    def call(self, method, path, body=None, headers=()):
        port, host = self.url.port, self.url.hostname
        if self.tls:
            connection = http.client.HTTPSConnection(host, port, timeout=60, context=self.tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request(method, self.url.path.rstrip("/") + path, body, dict(headers))
            answer = connection.getresponse()
            data = answer.read(65537)
            demand(len(data) <= 65536, "the answer is too large")
            answer = Answer(answer.status, answer.msg, data)
        finally:
            connection.close()
        self.take_headers(answer.headers)
        self.last_answer = time.monotonic()
        return answer

    def take_headers(self, headers):
        self.nonce = headers.get("Replay-Nonce") or self.nonce
        text = headers.get("Keyturn-Key-Set")
        if text is None:
            return
        try:
            key_set = read_key_set(text, self.root, self.deployment, time.time() * 1000)
        except Refused as reason:
            print(f"a key set was not taken: {reason}", file=sys.stderr)
            return
        if self.key_set is None or key_set["serial"] > self.key_set["serial"]:
            self.key_set = key_set

    def fresh_nonce(self):
        answer = self.call("GET", "/v1/nonce")
        demand(answer.status == 200, f"no nonce: HTTP {answer.status} {answer.code()}")
        self.nonce = parse_object(answer.body)["nonce"]
        demand(self.key_set is not None, "the server shows no key set that this root signed")

    def post(self, path, jws, deadline):
        """Sends a message until it is taken; the same bytes every time. Answers with the path of its result."""
        while True:
            try:
                answer = self.call("POST", path, jws.encode(), {"Content-Type": "application/jose"})
            except OSError as error:
                self.give_up(deadline, f"no answer: {error}")
                time.sleep(2)
                continue
            if answer.status == 202:
                ticket = parse_object(answer.body)["ticket"]
                demand(re.fullmatch(r"[0-9a-f]{2}[A-Za-z0-9_-]{64}", ticket), "not a ticket")
                demand(answer.headers.get("Location") == "/v1/requests/" + ticket, "Location is not that of the ticket")
                return "/v1/requests/" + ticket
            if answer.status not in (408, 429, 500, 502, 503, 504):
                raise GaveUp(f"HTTP {answer.status} {answer.code()}")
            self.give_up(deadline, f"HTTP {answer.status} {answer.code()}")
            time.sleep(answer.retry_after())

    def poll(self, path, deadline):
        """Waits for a result; answers with its JWS."""
        while True:
            try:
                answer = self.call("GET", path, headers={"Prefer": "wait=30"})
            except OSError as error:
                self.give_up(deadline, f"no answer: {error}")
                time.sleep(2)
                continue
            if answer.status == 200:
                demand(answer.headers.get_content_type() == "application/jose", "not a result")
                demand(answer.headers.get("ETag"), "a result without a tag")
                return answer.body.decode("ascii")
            if answer.status not in (202, 408, 429, 500, 502, 503, 504):
                raise GaveUp(f"HTTP {answer.status} {answer.code()}")
            self.give_up(deadline, f"HTTP {answer.status} {answer.code()}")
            time.sleep(answer.retry_after())

    def give_up(self, deadline, why):
        if time.monotonic() >= deadline:
            raise GaveUp(f"out of time: {why}")

    def exchange(self, device, path, lane, wait, make):
        """Sends a message and waits for its result; anew with a new nonce where the server says so."""
        for _ in range(4):
            time.sleep(max(0.0, self.last_answer + self.pause - time.monotonic()) if self.last_post else 0)
            self.fresh_nonce()
            jws, secret = make(self.nonce)
            self.last_post = time.monotonic()
            deadline = self.last_post + wait
            try:
                place = self.post(path, jws, deadline)
            except GaveUp as reason:
                if "KT-0108" in str(reason):
                    continue
                raise
            rid = request_id(jws)
            answer = read_result(self.poll(place, deadline), self.key_set["keys"], self.deployment, rid, lane)
            demand(time.monotonic() < deadline, "the result came too late")
            if answer["code"] not in ("stale", "expired"):
                return answer, rid, secret
        raise GaveUp("the server kept asking for another message")


def rotate(arguments):
    device, server = Device(arguments), Server(arguments)
    current = arguments.cur

    def request(nonce):
        secret = secrets.token_bytes(32)
        epk = {"kty": "OKP", "crv": "X25519", "x": encode(x25519_public(secret))}
        state = {"cur": current, "in_doubt": [], "refused": [], "password_age": None, "account_missing": False}
        claims = {"op": "rotate", "epk": epk, "wait_s": arguments.wait, "state": state, "policy": {}, "reason": "test"}
        return device.message("kt-req+jws", nonce, **claims), secret

    answer, rid, secret = server.exchange(device, "/v1/requests", device.lane, arguments.wait, request)
    if answer["code"] != "rotate":
        print(f"code {answer['code']} retry_at {answer.get('retry_at')}")
        return 3
    version, password = open_result(answer, secret, rid, device.lane)
    with open(os.open(arguments.password_out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(password)
    print(f"version {version}")

    def report(nonce):
        state = {"cur": version, "in_doubt": [], "refused": [], "password_age": 0, "account_missing": False}
        return device.message("kt-rep+jws", nonce, op="applied", state=state), None

    answer, _, _ = server.exchange(device, "/v1/reports", device.lane, arguments.wait, report)
    demand(answer["code"] == "recorded", f"the report was answered {answer['code']}")
    print("recorded")
    return 0


# --- The vectors -------------------------------------------------------------------------------------------------


class Vectors:
    def __init__(self, folder):
        self.folder, self.checks = Path(folder), 0

    def load(self, name):
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))

    def same(self, what, made, expected):
        demand(made == expected, f"{what}: made {made!r}, expected {expected!r}")
        self.checks += 1

    def refuses(self, what, action):
        try:
            action()
        except Refused:
            self.checks += 1
        else:
            raise Refused(f"{what}: was accepted")

    def certificate(self):
        vector = self.load("certificate")
        pem = (self.folder / vector["certificate_file"]).read_bytes()
        der = base64.b64decode(vector["der"], validate=True)
        certificate = x509.load_der_x509_certificate(der)
        self.same("certificate", x509.load_pem_x509_certificate(pem), certificate)
        name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        self.same("common name", name.lower(), vector["common_name"])
        self.same("thumbprint", hashlib.sha1(der).hexdigest(), vector["thumbprint_hex"])
        self.same("public key", rsa_public_key(certificate), base64.b64decode(vector["rsa_public_key_der"]))
        self.same("key hash", encode(rsa_key_hash(certificate)), vector["key_hash"])
        key = serialization.load_pem_private_key((self.folder / vector["key_file"]).read_bytes(), None)
        self.same("key pair", key.public_key(), certificate.public_key())

    def security_id(self):
        for case in self.load("security-id")["cases"]:
            text = base64.b64decode(case["key"], validate=True).decode("utf-16-le")
            self.same("text", text, case["text"])
            matched = re.fullmatch(r"X509:<SHA1-TP-PUBKEY>([0-9A-Fa-f]{40})([A-Za-z0-9+/]{43}=)", text)
            self.same("thumbprint", matched[1].lower(), case["thumbprint_hex"])
            self.same("key hash", encode(base64.b64decode(matched[2], validate=True)), case["key_hash"])

    def lane(self):
        for case in self.load("lane")["cases"]:
            parts = case["device_id"], case["account_id"], decode(case["install_id"], 32), decode(case["key_hash"], 32)
            self.same("lane input", lane_input(*parts).hex(), case["input_hex"])
            self.same("lane", encode(lane_id(*parts)), case["lane"])

    def nonce(self):
        for case in self.load("nonce")["cases"]:
            head = bytes([case["key_id"]]) + case["issued_ms"].to_bytes(8, "big") + bytes.fromhex(case["random_hex"])
            self.same("nonce input", (b"keyturn nonce v1" + head).hex(), case["mac_input_hex"])
            sealed = mac(bytes.fromhex(case["secret_hex"]), b"keyturn nonce v1" + head)[:16]
            self.same("nonce MAC", sealed.hex(), case["mac_hex"])
            self.same("nonce", encode(head + sealed), case["nonce"])

    def message(self):
        vector, own = self.load("message"), self.load("certificate")
        key = serialization.load_pem_private_key((self.folder / own["key_file"]).read_bytes(), None)
        kinds = {"request": "kt-req+jws", "first_request": "kt-req+jws", "report": "kt-rep+jws", "event": "kt-evt+jws"}
        for name, kind in kinds.items():
            case = vector[name]
            header, claims = parse_object(case["header"]), parse_object(case["payload"])
            self.same("typ", header["typ"], kind)
            self.same("header", header, {"alg": "RS256", "typ": kind, "kid": claims["device_id"], "x5c": [own["der"]]})
            self.same(name, sign_rs256(key, case["header"].encode(), case["payload"].encode()), case["jws"])
            self.same("rid", encode(request_id(case["jws"])), case["rid"])
            parts = claims["account"]["id"], decode(claims["install_id"], 32), decode(own["key_hash"], 32)
            self.same("lane", encode(lane_id(claims["device_id"], *parts)), case["lane"])

    def stamp(self):
        vector = self.load("stamp")
        stamp = vector["stamp"]
        times = stamp["nonce_ms"].to_bytes(8, "big") + stamp["received_ms"].to_bytes(8, "big")
        data = b"keyturn stamp v1" + decode(stamp["rid"], 32) + times + stamp["ingress"].encode()
        self.same("stamp input", data.hex(), vector["mac_input_hex"])
        self.same("stamp", encode(mac(bytes.fromhex(vector["secret_hex"]), data)), stamp["mac"])

    def ticket(self):
        vector = self.load("ticket")
        rid = decode(vector["rid"], 32)
        self.same("ticket input", (b"keyturn ticket v1" + rid).hex(), vector["mac_input_hex"])
        sealed = mac(bytes.fromhex(vector["secret_hex"]), b"keyturn ticket v1" + rid)[:16]
        self.same("ticket", f"{vector['key_id']:02x}{encode(rid + sealed)}", vector["ticket"])

    def finding(self):
        vector = self.load("finding")
        for case in vector["cases"]:
            finding = case["finding"]
            flags = (finding["failed"] is None) + 2 * finding["enabled"]
            groups = [uuid.UUID(group).bytes for group in finding.get("groups", [])]
            told = len(groups).to_bytes(2, "big") + b"".join(sorted(groups)) if groups else b""
            head = b"keyturn finding v" + (b"2" if groups else b"1") + decode(finding["rid"], 32) + decode(finding["key_hash"], 32)
            data = head + finding["directory_ms"].to_bytes(8, "big") + bytes([flags]) + told
            data += (finding["failed"] or "").encode()
            self.same("finding input", data.hex(), case["mac_input_hex"])
            self.same("finding", encode(mac(bytes.fromhex(vector["secret_hex"]), data)), finding["mac"])

    def ephemeral_key(self):
        vector = self.load("ephemeral-key")
        secret = bytes.fromhex(vector["secret_hex"])
        public = x25519_public(secret)
        self.same("public key", public.hex(), vector["public_hex"])
        self.same("JWK", {"kty": "OKP", "crv": "X25519", "x": encode(public)}, vector["jwk"])
        self.same("thumbprint input", thumbprint_input(public), vector["thumbprint_input"])
        self.same("thumbprint", encode(sha256(thumbprint_input(public).encode())), vector["thumbprint"])
        for point in vector["refused_public_hex"]:
            self.refuses("small order", lambda point=point: x25519_agree(secret, bytes.fromhex(point)))

    def seal(self):
        vector = self.load("seal")
        secret, public = (bytes.fromhex(vector[f"recipient_{half}_hex"]) for half in ("secret", "public"))
        names = lambda case: (decode(case["rid"], 32), decode(case["lane"], 16), decode(case["version"], 16))
        info, enc, sealed = seal_info(*names(vector)), decode(vector["enc"], 32), decode(vector["ct"], 272)
        self.same("info", info.hex(), vector["info_hex"])
        self.same("plaintext", pad(vector["password"]).hex(), vector["plaintext_hex"])
        made = hpke_seal(bytes.fromhex(vector["sender_secret_hex"]), public, info, pad(vector["password"]))
        self.same("seal", made, (enc, sealed))
        self.same("password", unpad(hpke_open(secret, enc, info, sealed)), vector["password"])
        for case in vector["refused"]:
            self.refuses(case["why"], lambda case=case: hpke_open(secret, enc, seal_info(*names(case)), sealed))
        library = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        private = x25519.X25519PrivateKey.from_private_bytes(secret)
        self.same("a third implementation", unpad(library.decrypt(enc + sealed, private, info)), vector["password"])
        fresh = hpke_seal(secrets.token_bytes(32), public, info, pad("x"))
        self.same("a fresh seal", unpad(hpke_open(secret, fresh[0], info, fresh[1])), "x")

    def rfc9180(self):
        """RFC 9180 appendix A.1.1, the first encryption: the same construction with AES-128-GCM."""
        recipient = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
        sender = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
        info, aad = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e"), b"Count-0"
        plain = b"Beauty is truth, truth beauty"
        enc = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        sealed = "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
        made = hpke_seal(sender, x25519_public(recipient), info, plain, aad, AES_128_GCM)
        self.same("RFC 9180 seal", (made[0].hex(), made[1].hex()), (enc, sealed))
        opened = hpke_open(recipient, bytes.fromhex(enc), info, bytes.fromhex(sealed), aad, AES_128_GCM)
        self.same("RFC 9180 open", opened, plain)

    def result(self):
        vector, request, seal = self.load("result"), self.load("message")["request"], self.load("seal")
        deployment = parse_object(request["payload"])["aud"]
        rid, lane = decode(request["rid"], 32), decode(request["lane"], 16)
        read = lambda jws: read_result(jws, vector["trusted"], deployment, rid, lane)
        for case in vector["accepted"]:
            made = sign_eddsa(bytes.fromhex(vector["seed_hex"]), case["header"].encode(), case["payload"].encode())
            self.same("result", made, case["jws"])
            answer = read(case["jws"])
            self.same("code", answer["code"], case["code"])
            if answer["code"] == "rotate":
                opened = open_result(answer, bytes.fromhex(seal["recipient_secret_hex"]), rid, lane)
                self.same("opened", opened, (seal["version"], seal["password"]))
        for case in vector["refused"]:
            self.refuses(case["why"], lambda case=case: read(case["jws"]))

    def key_set(self):
        vector = self.load("key-set")
        read = lambda jws: read_key_set(jws, vector["root"], vector["deployment"], vector["now_ms"])
        for case in vector["accepted"]:
            made = sign_eddsa(bytes.fromhex(vector["root_seed_hex"]), case["header"].encode(), case["payload"].encode())
            self.same("key set", made, case["jws"])
            self.same("serial", read(case["jws"])["serial"], case["serial"])
        for case in vector["refused"]:
            self.refuses(case["why"], lambda case=case: read(case["jws"]))


def vectors(arguments):
    checks = Vectors(arguments.folder)
    topics = {path.stem for path in checks.folder.glob("*.json")}
    for topic in sorted(topics | {"rfc9180"}):
        check = getattr(checks, topic.replace("-", "_"), None)
        demand(check is not None, f"no check for {topic}.json")
        before = checks.checks
        try:
            check()
        except Refused as reason:
            raise Refused(f"{topic}: {reason}") from reason
        print(f"{topic}: {checks.checks - before} checks")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("vectors", help="recompute every test vector")
    here = Path(__file__).resolve().parents[2] / "schemas" / "vectors"
    command.add_argument("--folder", default=here, help="where the vectors are")
    command.set_defaults(run=vectors)
    command = commands.add_parser("rotate", help="get a version, open it, report it")
    command.add_argument("--server", required=True, help="http or https URL of the device API")
    command.add_argument("--ca", help="certificate authorities to trust instead of the system's, in PEM")
    command.add_argument("--deployment", required=True, help="name of the deployment")
    command.add_argument("--root", required=True, help="file of the root's public key, in JSON")
    command.add_argument("--key", required=True, help="file of the device key, in PEM")
    command.add_argument("--cert", required=True, help="file of the device certificate, in PEM or DER")
    command.add_argument("--device-id", required=True, help="the device's GUID")
    command.add_argument("--account-id", default="S-1-5-21-1-2-3-500", help="the account as its system numbers it")
    command.add_argument("--account-name", default="Administrator", help="the account's name")
    command.add_argument("--install-id", help="base64url of 32 bytes; made from the device id unless given")
    command.add_argument("--cur", help="the version in use; none unless given")
    command.add_argument("--wait", type=int, default=120, help="how many seconds to wait for a result")
    command.add_argument("--pause", type=float, default=2.0, help="seconds between an answer and the next message")
    command.add_argument("--password-out", required=True, help="file for the password, created with mode 0600")
    command.set_defaults(run=rotate)
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments)
    except Refused as reason:
        print(f"refused: {reason}", file=sys.stderr)
        return 1
    except (GaveUp, OSError) as reason:
        print(f"gave up: {reason}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
