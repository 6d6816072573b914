"""Signatures of webhooks by the Standard Webhooks rules (symmetric, `v1`). Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a key."""


def key_of(secret: str) -> bytes:
    """The key in `whsec_` and base64. Raises ValueError without showing it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"is no base64; write {PREFIX} and {SHORTEST} to {LONGEST} random bytes in base64") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"has {len(key)} bytes; the rules want {SHORTEST} to {LONGEST}")
    return key


def signature(keys: Sequence[bytes], id: str, timestamp: int, body: bytes) -> str:
    """One signature for each key, the newest first: a receiver takes any, so that keys can be changed."""
    signed = f"{id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys)
