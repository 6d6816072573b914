"""What a user may get wrong with Azure Storage Queue. `{queue}` is the URL of an account in Azurite with queues of the
row's own, `{wrong}` the same with another key, `{shown}` how it stands in a line, `{prefix}` that of its names;
`{large}` a file with a body that is too large."""

from __future__ import annotations

from tests.bad_inputs.table import Row, app

QUEUE = app("q = app.queue('jobs', str)", "@app.on_message(q)", "async def w(m: str): ...")
RUN = "run --database {queue}"

STORAGE_QUEUE = (
    Row("Azure Storage Queue for a collection", RUN,
        "{shown}: Azure Storage Queue has queues only: set another URL for orders (collections.NAME.url, or"),
    Row("a queue whose name Azure does not take", RUN,
        "{shown}: queue 'My_Jobs': Azure does not take the name '{prefix}My_Jobs': 3 to 63 small letters, digits and",
        files=app("q = app.queue('My_Jobs', str)", "@app.on_message(q)", "async def w(m: str): ...")),
    Row("another key than the account's", "run --database {wrong}",
        "{shown}: the account refuses this key or token; copy the key again, or look at the clock", files=QUEUE),
    Row("a queue that is missing with create=no", f"{RUN}&create=no",
        "{shown}: there is no queue '{prefix}jobs'; create it (az storage queue create --name", files=QUEUE),
    Row("a message that is larger than Azure takes", "queue send --database {queue} jobs @{large}",
        "@{large}: queue 'jobs': the body has 50,002 bytes, its backend takes 47,104; keep the", files=QUEUE),
    Row("a version of the API that the service does not know", f"{RUN}&api_version=2026-02-06",
        "{shown}: the service does not know the version of the API that is asked for; set api_version=", files=QUEUE),
    Row("a version of the API that is none", "run --database azure-storage-queue://shop?api_version=new",
        "azure-storage-queue://shop: api_version='new': write a date, such as 2025-11-05", files=QUEUE),
    Row("an envelope that is neither", "run --database azure-storage-queue://shop?envelope=on",
        "azure-storage-queue://shop: envelope='on': write no or yes", files=QUEUE),
    Row("an encoding that nobody reads", "run --database azure-storage-queue://shop?encoding=utf8",
        "azure-storage-queue://shop: encoding='utf8': write base64 or none", files=QUEUE),
    Row("a claim that is too short", "run --database azure-storage-queue://shop?claim=1",
        "azure-storage-queue://shop: claim='1': write a whole number from 5 to 3600", files=QUEUE),
    Row("an option of Azure Storage Queue that is misspelt", "run --database azure-storage-queue://shop?encodng=none",
        "azure-storage-queue://shop: there is no option 'encodng' (did you mean encoding?)", files=QUEUE),
    Row("a queue's name in the URL of its account", "run --database azure-storage-queue://shop/jobs",
        "azure-storage-queue://shop/jobs: the account's name follows a host with a port, and nothing else does",
        files=QUEUE),
    Row("no account and no connection string", "run --database azure-storage-queue://?connection=SHOP_QUEUES",
        "azure-storage-queue: (SHOP_QUEUES): the variable SHOP_QUEUES is not set; set it to", files=QUEUE),
    Row("a purge of a queue in Azure Storage", "queue purge --database {queue} --yes jobs",
        "queue 'jobs': its backend storagequeues cannot purge", files=QUEUE),
)  # fmt: skip
