"""The documents of a collection over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException

from tests.web.shop import ALL, Order, Shop, api_of, calling, order, shop
from tidemill import App
from tidemill.adapters.memory import Memory
from tidemill.app.client import using
from tidemill.engine.clock import SystemClock
from tidemill.errors import BackendFull, ConfigurationError, TooLarge, Unavailable
from tidemill.model import Query, Rows, Stored, Write, Written
from tidemill.web import documents
from tidemill.web.criteria import seal

PATCH = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(params=["memory", "sqlite"])
async def web(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    made = shop()
    database = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'shop.db'}"
    async with calling(made, api_of(made), database) as client:
        yield client


def code(response: httpx.Response, status: int) -> str:
    """The code of a problem, which is one in every respect."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "code"} <= set(problem)
    assert ("Retry-After" in response.headers) is (status == 503)
    return str(problem["code"])


# --- one document -------------------------------------------------------------------------------------------


async def test_a_document_is_created_and_read(web: httpx.AsyncClient) -> None:
    created = await web.post("/orders", json=order())
    assert created.status_code == 201
    assert created.headers["location"] == "/orders/1"
    read = await web.get(created.headers["location"])
    assert read.status_code == 200
    assert read.headers["etag"] == created.headers["etag"]
    assert read.json() == created.json() == Order(**order()).model_dump(mode="json")
    head = await web.head("/orders/1")
    assert (head.status_code, head.headers["etag"]) == (200, read.headers["etag"])


async def test_an_id_may_hold_what_a_url_must_quote(web: httpx.AsyncClient) -> None:
    for number in ("2011/12", "ä ö?#%", "..", 'a"b', "a//b"):
        created = await web.post("/orders", json=order(number))
        assert created.status_code == 201
        if number != "..":  # clients fold it away
            assert (await web.get(created.headers["location"])).json()["number"] == number


async def test_an_id_has_no_control_characters(web: httpx.AsyncClient) -> None:
    assert code(await web.post("/orders", json=order("a\nb")), 422) == "unfit"
    assert code(await web.get("/orders/a%0Ab"), 404) == "not_found"
    assert code(await web.get("/orders/a%00b"), 404) == "not_found"
    assert code(await web.delete("/orders/"), 404) == "not_found"


async def test_an_id_exists_once(web: httpx.AsyncClient) -> None:
    await web.post("/orders", json=order())
    assert code(await web.post("/orders", json=order(total=6)), 409) == "exists"
    assert code(await web.post("/orders", json=order()), 409) == "exists"


async def test_a_repeated_post_with_a_key_gets_the_first_answer(web: httpx.AsyncClient) -> None:
    again = {"Idempotency-Key": "k1"}
    first = await web.post("/orders", json=order(), headers=again)
    second = await web.post("/orders", json=order(), headers=again)
    assert (second.status_code, second.content) == (201, first.content)
    assert {"etag", "location"} <= set(second.headers)
    assert second.headers["etag"] == first.headers["etag"]
    assert code(await web.post("/orders", json=order(total=6), headers=again), 409) == "exists"


async def test_replacing(web: httpx.AsyncClient) -> None:
    created = await web.put("/orders/1", json=order())
    assert (created.status_code, created.headers["location"]) == (201, "/orders/1")
    replaced = await web.put("/orders/1", json=order(total=7), headers={"If-Match": created.headers["etag"]})
    assert replaced.status_code == 200
    assert replaced.json()["total"] == 7
    stale = await web.put("/orders/1", json=order(total=8), headers={"If-Match": created.headers["etag"]})
    assert code(stale, 412) == "stale"
    assert stale.headers["etag"] == replaced.headers["etag"]
    assert code(await web.put("/orders/1", json=order(), headers={"If-None-Match": "*"}), 412) == "stale"
    assert code(await web.put("/orders/2", json=order("2"), headers={"If-Match": "*"}), 412) == "stale"
    assert code(await web.put("/orders/3", json=order("2")), 422) == "unfit"


async def test_merge_patch(web: httpx.AsyncClient) -> None:
    made = await web.post("/orders", json=order(weight=2.5))
    etag = made.headers["etag"]
    patched = await web.patch("/orders/1", json={"weight": None, "total": 9}, headers=PATCH | {"If-Match": etag})
    assert patched.status_code == 200
    assert (patched.json()["weight"], patched.json()["total"]) == (None, 9)
    assert code(await web.patch("/orders/1", json={}, headers=PATCH | {"If-Match": etag}), 412) == "stale"
    assert code(await web.patch("/orders/1", json={"total": -1}, headers=PATCH), 422) == "unfit"
    assert code(await web.patch("/orders/1", json={"number": "2"}, headers=PATCH), 422) == "unfit"
    assert code(await web.patch("/orders/1", json=[1], headers=PATCH), 422) == "unfit"
    assert code(await web.patch("/orders/2", json={}, headers=PATCH), 404) == "not_found"
    refused = await web.patch("/orders/1", content=b"{}", headers={"Content-Type": "text/plain"})
    assert code(refused, 415) == "media_type"
    assert refused.headers["accept-patch"] == PATCH["Content-Type"]


async def test_deleting(web: httpx.AsyncClient) -> None:
    etag = (await web.post("/orders", json=order())).headers["etag"]
    assert code(await web.delete("/orders/1", headers={"If-Match": '"0"'}), 412) == "stale"
    assert (await web.delete("/orders/1", headers={"If-Match": f'"0", {etag}'})).status_code == 204
    assert code(await web.delete("/orders/1"), 404) == "not_found"
    assert code(await web.get("/orders/1"), 404) == "not_found"


async def test_what_the_reader_has_is_not_sent_again(web: httpx.AsyncClient) -> None:
    etag = (await web.post("/orders", json=order())).headers["etag"]
    for given in (etag, f"W/{etag}", f'"0", {etag}', "*"):
        answer = await web.get("/orders/1", headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await web.get("/orders/1", headers={"If-None-Match": '"0"'})).status_code == 200
    assert code(await web.put("/orders/1", json=order(), headers={"If-Match": f"W/{etag}"}), 412) == "stale"


async def test_of_many_writers_with_one_etag_one_wins(web: httpx.AsyncClient) -> None:
    etag = (await web.post("/orders", json=order())).headers["etag"]
    answers = await asyncio.gather(
        *(web.put("/orders/1", json=order(total=n), headers={"If-Match": etag}) for n in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 19]


async def test_patches_without_an_etag_are_all_kept(web: httpx.AsyncClient) -> None:
    await web.post("/orders", json=order())
    patches: Sequence[Mapping[str, Any]] = ({"total": 8}, {"paid": True}, {"weight": 1.5}, {"day": "2012-01-01"})
    answers = await asyncio.gather(*(web.patch("/orders/1", json=patch, headers=PATCH) for patch in patches))
    assert {answer.status_code for answer in answers} == {200}
    found = (await web.get("/orders/1")).json()
    assert {name: found[name] for patch in patches for name in patch} == {k: v for p in patches for k, v in p.items()}


# --- what does not fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"", 422, "#"),
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        (b"null", 422, "#"),
        (b'{"number": "1", "customer": "c", "total": -1}', 422, "#/total"),
        (b'{"number": "1", "customer": "c", "total": 1, "weight": NaN}', 422, "#"),
        (
            b'{"number": "1", "customer": "c", "total": 1, "lines": [{"article": "x", "count": 0}]}',
            422,
            "#/lines/0/count",
        ),
        (b'{"number": "", "customer": "c", "total": 1}', 422, "#/number"),
        (b'{"number": "1", "customer": "fault", "total": 1}', 422, "#"),
        (b'{"number": "\\ud800", "customer": "c", "total": 1}', 400, None),
        (b'{"number": "1", "customer": "c", "total": ' + b"9" * 30 + b"}", 422, "#/total"),
        (b'{"number": "1", "customer": "c", "total": ' + b"9" * 5_000 + b"}", 400, None),
    ],
)
async def test_a_body_that_does_not_fit(web: httpx.AsyncClient, body: bytes, status: int, where: str | None) -> None:
    refused = await web.post("/orders", content=body, headers={"Content-Type": "application/json"})
    assert code(refused, status) in ("malformed", "unfit")
    assert [error["pointer"] for error in refused.json().get("errors", [])] == ([where] if where else [])
    assert (await web.get("/orders")).json() == {"items": [], "continuation": None}


async def test_a_body_has_a_mebibyte_at_most(web: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65_536

    assert code(await web.post("/orders", content=b" " * (1 << 20) + b"1"), 413) == "too_large"
    assert code(await web.post("/orders", content=endless()), 413) == "too_large"
    big = order(lines=[{"article": "x" * 100_000, "count": 1}] * 10)
    assert (await web.post("/orders", json=big)).status_code == 201


async def test_another_media_type_is_refused(web: httpx.AsyncClient) -> None:
    answer = await web.post("/orders", content=b"<order/>", headers={"Content-Type": "application/xml"})
    assert code(answer, 415) == "media_type"


async def test_other_methods_are_told_which_there_are(web: httpx.AsyncClient) -> None:
    for method in ("DELETE", "OPTIONS", "TRACE", "SHIP"):
        refused = await web.request(method, "/orders")
        assert code(refused, 405) == "not_allowed"
        assert refused.headers["allow"] == "GET, HEAD, POST"
    assert (await web.post("/orders/1")).headers["allow"] == "GET, HEAD, PUT, PATCH, DELETE"


# --- lists --------------------------------------------------------------------------------------------------


async def numbers(web: httpx.AsyncClient, query: str) -> list[str]:
    answer = await web.get(f"/orders?{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_filters_and_order(web: httpx.AsyncClient) -> None:
    for n in range(5):
        made = order(
            str(n), total=n, paid=n % 2 == 0, weight=n / 2 or None, day=f"2011-12-0{n + 1}", customer=f"c{n % 2}"
        )
        assert (await web.post("/orders", json=made)).status_code == 201
    assert await numbers(web, "total.gte=2&total.lt=4") == ["2", "3"]
    assert await numbers(web, "total=3") == ["3"]
    assert await numbers(web, "paid=true&order=-total") == ["4", "2", "0"]
    assert await numbers(web, "weight.gt=0.5") == ["2", "3", "4"]
    assert await numbers(web, "day.lte=2011-12-02") == ["0", "1"]
    assert await numbers(web, "customer=c1") == ["1", "3"]
    assert await numbers(web, "customer=c1&total.gt=1&order=-day&limit=1") == ["3"]


async def test_pages_hold_each_document_once(web: httpx.AsyncClient) -> None:
    for n in range(25):
        await web.post("/orders", json=order(f"{n:02}", total=n % 3))
    for query in ("", "&order=total", "&order=-total", "&total.gte=1", "&customer=17850"):
        found: list[str] = []
        address = f"/orders?limit=4{query}"
        while address:
            page = await web.get(address)
            found += [item["id"] for item in page.json()["items"]]
            address = page.links["next"]["url"] if page.json()["continuation"] else ""
        wanted = [f"{n:02}" for n in range(25) if "total.gte" not in query or n % 3]
        assert sorted(found) == wanted


async def test_the_etag_of_a_list_is_what_if_match_takes(web: httpx.AsyncClient) -> None:
    await web.post("/orders", json=order())
    [item] = (await web.get("/orders")).json()["items"]
    assert (await web.delete("/orders/1", headers={"If-Match": item["etag"]})).status_code == 204


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "order=customer", "order=", "city=Rome", "total=x",
        "total=99999999999999999999", "total.like=1", "paid=maybe", "paid.gt=true", "weight=nan", "weight=1_0",
        "continuation=x", "continuation=", "continuation=AAAAAAAAAAAAAAAAAAAAAAAA", "weight=inf", "customer.gt=1",
    ],
)  # fmt: skip
async def test_a_query_that_does_not_fit_names_the_parameter(web: httpx.AsyncClient, query: str) -> None:
    refused = await web.get(f"/orders?{query}")
    assert code(refused, 422) == "unfit"
    assert query.startswith(refused.json()["errors"][0]["parameter"])


async def test_a_continuation_belongs_to_its_query(web: httpx.AsyncClient) -> None:
    for n in range(4):
        await web.post("/orders", json=order(str(n)))
    more = (await web.get("/orders?limit=2")).json()["continuation"]
    assert await numbers(web, f"limit=1&continuation={more}") == ["2"]
    assert code(await web.get(f"/orders?limit=2&order=total&continuation={more}"), 422) == "unfit"


@pytest.mark.parametrize("forged", ["{", "[]", "null", '[null, {"a": [1]}]'])
async def test_a_forged_continuation_fails_nobody_else(web: httpx.AsyncClient, forged: str) -> None:
    await web.post("/orders", json=order())
    bad = web.get("/orders", params={"continuation": seal(Query(), forged)})
    good = [web.get("/orders") for _ in range(4)]
    answers = await asyncio.gather(*good[:2], bad, *good[2:])
    assert [answer.status_code for answer in answers if answer is not answers[2]] == [200] * 4
    assert answers[2].status_code in (200, 422, 503)


async def test_a_page_has_a_thousand_documents_at_most() -> None:
    made = shop()
    async with calling(made, api_of(made)) as web:
        await made.orders.put_many([Order(**order(f"{n:04}")) for n in range(1_001)])
        page = (await web.get("/orders?limit=1000")).json()
        assert len(page["items"]) == 1_000
        assert page["continuation"]


# --- guards, bounds, backends -------------------------------------------------------------------------------


async def test_without_allow_it_only_reads() -> None:
    made = shop()
    async with calling(made, api_of(made, allow=())) as web:
        await made.orders.put(Order(**order()))
        assert (await web.get("/orders/1")).status_code == 200
        for method, path in (
            ("POST", "/orders"),
            ("PUT", "/orders/1"),
            ("PATCH", "/orders/1"),
            ("DELETE", "/orders/1"),
        ):
            refused = await web.request(method, path, json=order())
            assert code(refused, 405) == "not_allowed"
            assert refused.headers["allow"] == "GET, HEAD"
        assert set(api_of(made, allow=()).openapi()["paths"]["/orders/{id}"]) == {"get"}


async def test_replacing_alone_creates_nothing() -> None:
    made = shop()
    async with calling(made, api_of(made, allow={"replace"})) as web:
        assert code(await web.put("/orders/1", json=order()), 404) == "not_found"


async def test_dependencies_guard_every_operation() -> None:
    def guard(x_token: str = Header()) -> None:
        if x_token != "right":
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Token"})

    made = shop()
    async with calling(made, api_of(made, dependencies=[Depends(guard)])) as web:
        for method, path in (("GET", "/orders"), ("POST", "/orders"), ("GET", "/orders/1"), ("PUT", "/orders/1"),
                             ("PATCH", "/orders/1"), ("DELETE", "/orders/1"), ("HEAD", "/orders")):  # fmt: skip
            refused = await web.request(method, path, json=order(), headers={"X-Token": "wrong"})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Token")
            if method != "HEAD":
                assert code(refused, 401) == "refused"
        missing = await web.get("/orders")
        assert code(missing, 422) == "unfit"
        assert missing.json()["errors"][0]["parameter"] == "x-token"
        assert (await web.get("/orders", headers={"X-Token": "right"})).status_code == 200


class Sick:
    """A client whose backend is ill."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.entered = asyncio.Event()

    async def _fail(self) -> Any:
        self.entered.set()
        if self.error is None:
            await asyncio.Event().wait()
        assert self.error is not None
        raise self.error

    async def send(self, queue: str, messages: Sequence[Any]) -> Sequence[str]:
        return await self._fail()  # type: ignore[no-any-return]

    async def get(self, collection: str, ids: Sequence[str]) -> Sequence[Stored | None]:
        return await self._fail()  # type: ignore[no-any-return]

    async def write(self, collection: str, writes: Sequence[Write]) -> Sequence[Written]:
        return await self._fail()  # type: ignore[no-any-return]

    async def query(self, collection: str, query: Query) -> Rows:
        return await self._fail()  # type: ignore[no-any-return]


def sick(error: Exception | None, made: Shop, **options: Any) -> tuple[Sick, httpx.AsyncClient]:
    transport = httpx.ASGITransport(api_of(made, **options))
    return Sick(error), httpx.AsyncClient(transport=transport, base_url="http://shop")


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (Unavailable("password=secret"), 503, "unavailable"),
        (BackendFull("secret"), 503, "full"),
        (TooLarge("secret"), 413, "too_large"),
    ],
)
async def test_a_backend_that_fails(error: Exception, status: int, word: str) -> None:
    client, web = sick(error, shop())
    with using(client, asyncio.get_running_loop()):
        for method, path in (("GET", "/orders"), ("POST", "/orders"), ("GET", "/orders/1"), ("PUT", "/orders/1"),
                             ("PATCH", "/orders/1"), ("DELETE", "/orders/1")):  # fmt: skip
            answer = await web.request(method, path, json=order())
            assert code(answer, status) == word
            assert "secret" not in answer.text


async def test_without_a_running_client_it_says_so() -> None:
    _, web = sick(None, shop())
    assert code(await web.get("/orders"), 503) == "unavailable"


async def test_a_backend_that_hangs_is_given_up() -> None:
    client, web = sick(None, shop(), time_limit=0.05)
    with using(client, asyncio.get_running_loop()):
        assert code(await web.post("/orders", json=order()), 503) == "time_limit"
        assert code(await web.get("/orders/1"), 503) == "time_limit"


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    made = shop()
    async with calling(made, api_of(made, time_limit=0.05)) as web:
        assert code(await web.post("/orders", content=slow()), 408) == "too_slow"


async def test_more_than_in_flight_are_refused_at_once() -> None:
    client, web = sick(None, shop(), in_flight=1)
    with using(client, asyncio.get_running_loop()):
        first = asyncio.ensure_future(web.get("/orders/1"))
        await client.entered.wait()
        assert code(await web.get("/orders/1"), 503) == "overloaded"
        first.cancel()
        await asyncio.wait((first,))
        client.error = Unavailable()
        assert code(await web.get("/orders/1"), 503) == "unavailable"


@pytest.mark.parametrize("allow", ["create", {"write"}, ["create", "Delete"]])
def test_a_word_that_allow_does_not_know(allow: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"documents\(orders\): allow=.*write a set of"):
        documents(shop().orders, allow=allow)


def test_what_is_no_collection_is_refused() -> None:
    table: Any = App("shop").table("old", id="id")
    with pytest.raises(ConfigurationError, match=r"takes what App\.collection returns"):
        documents(table)


def test_a_field_with_a_word_of_the_list_is_refused() -> None:
    collection = App("shop").collection("things", dict, id="id", fields=("limit",))
    with pytest.raises(ConfigurationError, match="'limit' is a word of the list itself"):
        documents(collection)


async def test_documents_without_a_type_of_their_own() -> None:
    app = App("shop")
    things: Any = app.collection("things", dict, id="id", fields=("size",))
    api = FastAPI()
    api.include_router(documents(things, allow={"create"}), prefix="/v1")
    web = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://shop")
    async with app.client(database="memory:", adapters={"memory": lambda url, clock: Memory(SystemClock())}):
        created = await web.post("/v1/things", json={"id": 7, "size": 3})
        assert created.headers["location"] == "/v1/things/7"
        assert [i["id"] for i in (await web.get("/v1/things?size.gt=2")).json()["items"]] == ["7"]
        assert code(await web.post("/v1/things", json={"size": 3}), 422) == "unfit"


# --- OpenAPI ------------------------------------------------------------------------------------------------


def test_every_operation_is_described() -> None:
    described = api_of(shop()).openapi()
    operations = {
        operation["operationId"]: operation for path in described["paths"].values() for operation in path.values()
    }
    assert set(operations) == {"list_orders", "read_orders", *(f"{verb}_orders" for verb in ALL)}
    body = operations["create_orders"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Order"}
    assert set(operations["patch_orders"]["requestBody"]["content"]) == {"application/merge-patch+json"}
    assert {p["name"] for p in operations["list_orders"]["parameters"]} >= {"total.gte", "customer", "order", "limit"}
    for operation in operations.values():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert set(response["content"]) == {"application/problem+json"}
                assert response["content"]["application/problem+json"]["example"]["status"] == int(status)
