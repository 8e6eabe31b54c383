"""Unsigned tokens, as the fakes take them."""

import base64
import json
import time

from azure.core.credentials import AccessToken


class Tokens:
    """A credential with tokens for whatever is asked for."""

    def __init__(self):
        self.scopes = set()

    def get_token(self, *scopes, **_):
        self.scopes.update(scopes)
        audience = scopes[0].removesuffix("/.default")
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
        expires = int(time.time()) + 3600
        token = ".".join([part({"alg": "RS256"}), part({"aud": audience, "exp": expires}), "c2ln"])
        return AccessToken(token, expires)
