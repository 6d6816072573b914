"""A document API with a worker behind it, in one file.

python -m examples.documents_api      # calls it once, in memory, and prints what it answers
tidemill dev examples.documents_api   # serves it on http://127.0.0.1:8000/docs
"""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.routing import Route

from tidemill import App, Change
from tidemill.testing.harness import Harness
from tidemill.web import documents, health


class Note(BaseModel):
    """What people write down."""

    name: str = Field(min_length=1, max_length=80, examples=["shopping"])
    text: str = Field(examples=["bread and wine"])
    stars: int = Field(default=0, ge=0, le=5)


class Words(BaseModel):
    """How many words a note has; written by the worker."""

    name: str
    count: int


api = FastAPI(title="Notes")
app = App("notes", api=api)
notes = app.collection("notes", Note, id="name", fields=("stars",))
words = app.collection("words", Words, id="name", fields=("count",))

api.include_router(documents(notes, allow={"create", "replace", "patch", "delete"}))
api.include_router(documents(words))  # read only
api.routes.append(Route("/health", health()))


@app.on_change(notes, start="beginning")
async def count_words(change: Change[Note]) -> None:
    await words.put(Words(name=change.document, count=len(change.value.text.split())))


async def main() -> None:
    """One visit of each kind."""
    transport = httpx.ASGITransport(api)
    async with Harness(app) as harness, httpx.AsyncClient(transport=transport, base_url="http://notes") as web:
        answers = [
            await web.post("/notes", json={"name": "shopping", "text": "bread and wine"}),
            await web.post("/notes", json={"name": "shopping", "text": "again"}),
            await web.patch("/notes/shopping", json={"stars": 4}, headers={"If-Match": '"0"'}),
            await web.patch("/notes/shopping", json={"stars": 4}),
            await web.get("/notes", params={"stars.gte": 3, "order": "-stars"}),
        ]
        await harness.idle()
        answers.append(await web.get("/words/shopping"))
    for answer in answers:
        print(answer.request.method, answer.request.url.raw_path.decode(), answer.status_code, answer.text)


if __name__ == "__main__":
    asyncio.run(main())
