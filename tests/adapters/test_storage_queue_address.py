"""The URL of an account's queues, who we are to it, and what a wrong one is told."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.servers.azurite import API_VERSION, Account
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.adapters.storage_queue.address import EMULATOR_KEY, address, misnamed, poison
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import QueueSpec

SCHEME = "azure-storage-queue:"
KEY = "c2VjcmV0IGtleQ=="
JOBS = QueueSpec("jobs")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        (f"{SCHEME}//shop", "https://shop.queue.core.windows.net"),
        (f"{SCHEME}//shop.queue.core.chinacloudapi.cn", "https://shop.queue.core.chinacloudapi.cn"),
        (f"{SCHEME}//:c2VjcmV0IGtleQ%3D%3D@shop?poll=3&prefix=test-", "https://shop.queue.core.windows.net"),
        (f"{SCHEME}//:{KEY}@127.0.0.1:10001/devstoreaccount1?tls=no", "http://127.0.0.1:10001/devstoreaccount1"),
    ],
)
def test_where_it_answers(url: str, endpoint: str) -> None:
    found = address(url)
    assert found.endpoint == endpoint
    assert KEY not in repr(found)
    assert (found.credential is None) == ("@" not in url), "without a key an identity is asked for"


@pytest.mark.parametrize(
    ("connection", "endpoint", "credential"),
    [
        (
            f"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={KEY};EndpointSuffix=core.windows.net",
            "https://shop.queue.core.windows.net",
            {"account_name": "shop", "account_key": KEY},
        ),
        (
            "QueueEndpoint=https://shop.queue.core.windows.net/;SharedAccessSignature=sv=2022&sig=abc%3D",
            "https://shop.queue.core.windows.net",
            "sv=2022&sig=abc%3D",
        ),
        (
            "UseDevelopmentStorage=true",
            "http://127.0.0.1:10001/devstoreaccount1",
            {"account_name": "devstoreaccount1", "account_key": EMULATOR_KEY},
        ),
    ],
)
@pytest.mark.parametrize("url", [f"{SCHEME}//", f"{SCHEME}//?connection=SHOP"])
def test_connection_strings(
    url: str, connection: str, endpoint: str, credential: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "SHOP" if "connection" in url else "AZURE_STORAGE_CONNECTION_STRING"
    monkeypatch.setenv(variable, connection)
    found = address(url)
    assert (found.endpoint, found.credential) == (endpoint, credential)
    assert KEY not in repr(found)
    assert "sig=abc" not in repr(found)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("//shop/jobs", "the account's name follows a host with a port, and nothing else does"),
        ("//127.0.0.1:10001?tls=no", "the account's name follows a host with a port"),
        ("//Shop_1", "an account's name has 3 to 24 small letters and digits"),
        ("//shop?tls=no", "tls=no is for a stand-in on this machine"),
        ("//127.0.0.1:10001/acc?tls=no", "a stand-in knows no identity; give it a key"),
        ("//:not*base64@shop", "the key is no base64"),
        ("//shop?envelope=on", "envelope='on': write no or yes"),
        ("//shop?encoding=utf8", "encoding='utf8': write base64 or none"),
        ("//shop?poll=0", "poll='0': write a whole number from 1 to 300"),
        ("//shop?claim=1", "claim='1': write a whole number from 5 to 3600"),
        ("//shop?api_version=new", "api_version='new': write a date, such as 2025-11-05"),
        ("//shop?prefix=Shop-", "prefix='Shop-': write at most 40 small letters, digits and single hyphens"),
        ("//shop?visibility=3", "there is no option 'visibility'"),
        ("//", "the variable AZURE_STORAGE_CONNECTION_STRING is not set"),
    ],
)
def test_what_does_not_fit_is_told(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(ConfigurationError, match=told):
        address(SCHEME + url)


def test_a_connection_string_that_lacks_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", "AccountName=shop;EndpointSuffix=core.windows.net")
    with pytest.raises(ConfigurationError, match="the connection string lacks a part; it has AccountName="):
        address(f"{SCHEME}//?connection=SHOP")


@pytest.mark.parametrize("name", ["jobs", "a-1-b", "0" * 63])
def test_names_that_azure_takes(name: str) -> None:
    assert misnamed("jobs", name) == ""


@pytest.mark.parametrize("name", ["jo", "My-Jobs", "my_jobs", "my.jobs", "a--b", "-ab", "ab-", "a" * 64, "jöbs"])
def test_names_that_azure_does_not_take(name: str) -> None:
    assert misnamed("jobs", name).startswith(f"queue 'jobs': Azure does not take the name {name!r}: 3 to 63")


def test_poison_queues_have_names_that_azure_takes() -> None:
    assert poison("jobs") == "jobs-poison"
    assert poison("a" * 56) == "a" * 56 + "-poison"
    long = [poison("a" * 56 + end) for end in ("b", "c", "-b")]
    assert len(set(long)) == 3
    assert [misnamed("jobs", name) for name in long] == ["", "", ""]


async def opened(url: str, *names: str) -> None:
    database = StorageQueues.from_url(url, SystemClock())
    try:
        await database.open([], [QueueSpec(name) for name in names or ("jobs",)])
    finally:
        await database.close()


async def test_a_connection_string_opens_the_account(azurite: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", azurite.server.connection)
    await opened(f"{SCHEME}//?connection=SHOP&api_version={API_VERSION}&prefix={azurite.prefix}")


async def test_all_wrong_names_are_told_at_once(azurite: Account) -> None:
    with pytest.raises(ConfigurationError) as told:
        await opened(azurite.url(), "My_Jobs", "jobs", "other.jobs")
    assert [line.partition("queue '")[2][:7] for line in told.value.problems] == ["My_Jobs", "other.j"]


async def test_a_wrong_key_is_told_without_it(azurite: Account) -> None:
    with pytest.raises(ConfigurationError, match="the account refuses this key or token; copy the key again") as told:
        await opened(azurite.url(key=KEY))
    assert KEY not in str(told.value)


async def test_a_version_that_the_service_does_not_know(azurite: Account) -> None:
    with pytest.raises(ConfigurationError, match=r"does not know the version of the API .* set api_version="):
        await opened(azurite.url("&api_version=2026-02-06"))


async def test_a_version_that_the_client_does_not_know(azurite: Account) -> None:
    with pytest.raises(ConfigurationError, match="api_version='2001-01-01': the client knows no such version; write"):
        await opened(azurite.url("&api_version=2001-01-01"))


async def test_a_service_that_is_away_is_unavailable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
                await opened(f"{SCHEME}//:{KEY}@127.0.0.1:{port}/acc?tls=no")
