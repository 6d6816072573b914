"""Webhooks: what is sent, how it is signed, and what each answer means."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
import standardwebhooks
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from starlette.responses import RedirectResponse, Response

from tests.forward.receiver import receiving
from tidemill import webhook
from tidemill.app.webhook import Gone, shown, wait_of
from tidemill.core.cloudevents import Event
from tidemill.errors import ConfigurationError, Retry

EVENT = Event("c-1", "/shop/orders", "shop.orders.changed", "4711", 1.5, "Ada", {"total": 12, "who": "Zoë"})
GONE = Event("c-2", "/shop/orders", "shop.orders.deleted", "4711", 2.0, None, None, has_data=False)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


async def test_an_event_is_one_request() -> None:
    async with receiving() as receiver, webhook(receiver.url, headers={"x-team": "shop"}).open({}) as sender:
        await sender.send([EVENT], batch=False)
    (got,) = receiver.got
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert got.headers["x-team"] == "shop"
    assert "webhook-id" not in got.headers
    assert json.loads(got.body) == {
        "specversion": "1.0", "id": "c-1", "source": "/shop/orders", "type": "shop.orders.changed", "subject": "4711",
        "time": "1970-01-01T00:00:01.500+00:00", "partitionkey": "Ada", "datacontenttype": "application/json",
        "data": {"total": 12, "who": "Zoë"},
    }  # fmt: skip


async def test_a_list_is_one_request_under_an_id_that_it_keeps() -> None:
    async with receiving() as receiver, webhook(receiver.url, secret=SECRET).open({}) as sender:
        await sender.send([EVENT, GONE], batch=True)
        await sender.send([EVENT, GONE], batch=True)
    first, again = receiver.got
    assert first.headers["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert [event["id"] for event in json.loads(first.body)] == ["c-1", "c-2"]
    assert "data" not in json.loads(first.body)[1]
    assert first.headers["webhook-id"] == again.headers["webhook-id"]


async def test_events_are_those_of_the_official_library() -> None:
    async with receiving() as receiver, webhook(receiver.url).open({}) as sender:
        await sender.send([EVENT], batch=False)
        await sender.send([GONE], batch=False)
    changed, gone = (from_http_event(HTTPMessage(got.headers, got.body)) for got in receiver.got)
    assert (changed.get_id(), changed.get_type(), changed.get_source(), changed.get_subject()) == (
        "c-1", "shop.orders.changed", "/shop/orders", "4711",
    )  # fmt: skip
    assert changed.get_specversion() == "1.0"
    assert changed.get_extension("partitionkey") == "Ada"
    assert changed.get_time() == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    assert changed.get_data() == {"total": 12, "who": "Zoë"}
    assert gone.get_data() is None


async def test_requests_are_signed_with_each_key() -> None:
    """A receiver with either key takes them, by the library of those who wrote the rules."""
    newer = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
    environment = {"HOOK_SECRETS": f"{newer} {SECRET}"}
    async with receiving() as receiver, webhook(receiver.url, secret="${HOOK_SECRETS}").open(environment) as sender:
        await sender.send([EVENT], batch=False)
    (got,) = receiver.got
    assert got.headers["webhook-id"] == "c-1"
    for secret in (newer, SECRET):
        assert standardwebhooks.Webhook(secret).verify(got.body, got.headers)["id"] == "c-1"
    stranger = standardwebhooks.Webhook("whsec_" + base64.b64encode(bytes(32)).decode())
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        stranger.verify(got.body, got.headers)


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_it_was_taken(code: int) -> None:
    async with receiving(code) as receiver, webhook(receiver.url).open({}) as sender:
        await sender.send([EVENT], batch=False)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("code", [400, 401, 404, 413, 500, 502])
async def test_it_was_not_taken(code: int) -> None:
    def answer(_: int) -> Response:
        return Response("no:\n token=abc", code)

    async with receiving(answer) as receiver, webhook(receiver.url).open({}) as sender:
        with pytest.raises(Retry) as told:
            await sender.send([EVENT], batch=False)
    assert told.value.after is None
    assert str(told.value) == f"POST {receiver.url}: answers {code}: no: token=***"


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("again", "after"), [("7", 7.0), ("99999999", 3600.0), ("-1", 0.0), ("soon", None), ("nan", None)]
)
async def test_it_says_when_to_come_again(code: int, again: str, after: float | None) -> None:
    def answer(_: int) -> Response:
        return Response(status_code=code, headers={"retry-after": again})

    async with receiving(answer) as receiver, webhook(receiver.url).open({}) as sender:
        with pytest.raises(Retry) as told:
            await sender.send([EVENT], batch=False)
    assert told.value.after == after


def test_a_date_to_come_again_at() -> None:
    assert wait_of(formatdate(1_000, usegmt=True), 900.0) == 100.0
    assert wait_of(None) is None


async def test_it_wants_no_more() -> None:
    async with receiving(410) as receiver, webhook(receiver.url).open({}) as sender:
        with pytest.raises(Gone, match="answers 410"):
            await sender.send([EVENT], batch=False)


async def test_a_redirect_is_not_followed() -> None:
    away = RedirectResponse("/elsewhere", 307)
    async with receiving(lambda _: away) as receiver, webhook(receiver.url).open({}) as sender:
        with pytest.raises(Retry, match="redirects are not followed"):
            await sender.send([EVENT], batch=False)
    assert len(receiver.got) == 1


async def test_it_hangs() -> None:
    async with receiving() as receiver:
        receiver.delay = 5.0
        async with webhook(receiver.url, time_limit=0.2).open({}) as sender:
            begun = time.monotonic()
            with pytest.raises(Retry, match=r"no answer within 0.2 s|Timeout"):
                await sender.send([EVENT], batch=False)
            assert time.monotonic() - begun < 3


async def test_it_is_down() -> None:
    async with webhook("http://127.0.0.1:1/hook?sig=abc").open({}) as sender:
        with pytest.raises(Retry) as told:
            await sender.send([EVENT], batch=False)
    assert str(told.value).startswith("POST http://127.0.0.1:1/hook: ConnectError")


async def test_an_endless_answer_is_not_read() -> None:
    endless = Response(b"x" * 10_000_000, 500)
    async with receiving(lambda _: endless) as receiver, webhook(receiver.url).open({}) as sender:
        with pytest.raises(Retry) as told:
            await sender.send([EVENT], batch=False)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("url", "options", "lines"),
    [
        ("${HOOK}", {}, ["webhook: its URL names ${HOOK}, which is not set here; set it, or take it out"]),
        ("ftp://host/", {}, ["webhook ftp://host/: write https://host/path"]),
        ("http://u:p@host/x?sig=1", {"headers": {"x-functions-key": "${KEY}"}}, [
            "webhook: header x-functions-key names ${KEY}, which is not set here; set it, or take it out"]),
        ("http://u:p@host/x?sig=1", {"secret": "whsec_!"}, [
            "webhook http://host/x: its secret is no base64; write whsec_ and 24 to 64 random bytes in base64"]),
        ("http://host/x", {"secret": "whsec_YWJj"}, [
            "webhook http://host/x: its secret has 3 bytes; the rules want 24 to 64"]),
    ],
)  # fmt: skip
def test_mistakes(url: str, options: dict[str, object], lines: list[str]) -> None:
    with pytest.raises(ConfigurationError) as told:
        webhook(url, **options).open({})  # type: ignore[arg-type]
    assert list(told.value.problems) == lines


def test_a_secret_is_not_shown() -> None:
    assert shown("https://u:p@host:8443/a/b?sig=secret#x") == "https://host:8443/a/b"
    assert "abc" not in repr(webhook("https://host/", secret="whsec_abc", headers={"x": "abc"}))
