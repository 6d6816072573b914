"""The Azurite that other tests stand on."""

from __future__ import annotations

import psutil

from tests.servers import azurite as storage
from tests.servers.azurite import Account, Azurite


async def test_queues_are_a_tests_own(azurite: Account) -> None:
    async with azurite.service() as service:
        queue = azurite.client(service, "jobs")
        await queue.create_queue()
        await queue.send_message("hello")
        assert [message.content async for message in queue.receive_messages()] == ["hello"]
        assert queue.queue_name.startswith(azurite.prefix)


def test_it_runs_in_its_version_not_as_root_and_on_the_loopback(azurite_server: Azurite) -> None:
    assert storage.full_version() == storage.VERSION
    server = psutil.Process(azurite_server.pid)
    assert server.uids().real != 0
    listening = {one.laddr for one in psutil.net_connections("inet") if one.pid == azurite_server.pid and not one.raddr}
    assert {place.ip for place in listening} == {"127.0.0.1"}
