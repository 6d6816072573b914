"""Shared access signatures, as `$cbs` looks at them."""

from __future__ import annotations

import hmac
from base64 import b64encode
from hashlib import sha256
from urllib.parse import parse_qs, quote_plus

from tests.doubles.service_bus.state import Namespace


def refused(namespace: Namespace, token: str, audience: str) -> str:
    """Why this token does not open the audience; empty if it does."""
    kind, _, pairs = token.partition(" ")
    if kind != "SharedAccessSignature":
        return "InvalidToken: this double knows shared access signatures only."
    parts = {name: values[0] for name, values in parse_qs(pairs).items()}
    try:
        resource, signature, expiry, name = (parts[part] for part in ("sr", "sig", "se", "skn"))
    except KeyError as error:
        return f"InvalidToken: {error} is missing."
    signed = f"{quote_plus(resource)}\n{expiry}".encode()
    expected = b64encode(hmac.new(namespace.key.encode(), signed, sha256).digest()).decode()
    if name != namespace.policy or not hmac.compare_digest(expected, signature):
        return "InvalidSignature: The token has an invalid signature."
    if int(expiry) < namespace.clock.now():
        return "ExpiredToken: The token is expired. Expiration time: " + expiry
    if not _path(audience).startswith(_path(resource)):
        return f"InvalidAudience: The token is for {resource}, not for {audience}."
    return ""


def _path(uri: str) -> str:
    """`host/entity/…`, whatever the scheme."""
    return uri.partition("://")[2].lower().rstrip("/")
