"""Load from inside the cluster, through the Service: entries of many accounts, each account one after the other.

    python load.py http://10.0.0.1 RUN ACCOUNTS

Runs until /tmp/stop is there, then prints one line of JSON: entries acknowledged by account, requests, and failures
(what was said of up to 20 of them). No request is tried again: each that fails is told.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

STOP = Path("/tmp/stop")
PAUSE = 0.05


async def account(url: str, name: str, told: dict[str, Any], *, fresh: bool) -> None:
    """One entry after the other. `fresh`: a connection for each, else one that is kept."""
    seq = 0
    client = httpx.AsyncClient(timeout=30)
    while not STOP.exists():
        if fresh:
            await client.aclose()
            client = httpx.AsyncClient(timeout=30)
        entry = {"id": f"{name}-{seq + 1}", "account": name, "seq": seq + 1}
        told["requests"] += 1
        try:
            reply = await client.post(f"{url}/entries", json=entry)
            reply.raise_for_status()
        except httpx.HTTPError as error:
            told["failed"] += 1
            told["failures"] = [*told["failures"], f"{name}-{seq + 1}: {type(error).__name__} {error}"][:20]
            await asyncio.sleep(PAUSE)
            continue
        seq += 1
        told["sent"][name] = seq
        await asyncio.sleep(PAUSE)
    await client.aclose()


async def main(url: str, run: str, accounts: int) -> None:
    told: dict[str, Any] = {"sent": {}, "requests": 0, "failed": 0, "failures": []}
    await asyncio.gather(*(account(url, f"{run}-{n}", told, fresh=n % 2 == 0) for n in range(accounts)))
    print(json.dumps(told))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
