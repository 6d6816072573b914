"""What a user may get wrong, and the line it gets: one row each. `docs/bad-inputs.md` is made of it.

A row is a folder of files, a command in it, the exit code and what stderr says: the line from its beginning, as far as
it is the same on every machine. `{folder}` stands for the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tests.bad_inputs import databases

APP = """
from tidemill import App, Change

app = App("shop")
orders = app.collection("orders", dict, id="number")
invoices = app.queue("invoices", dict)


@app.on_message(invoices)
async def send_invoice(invoice: dict) -> None: ...


@app.on_change(orders)
async def bill(change: Change[dict]) -> None: ...
"""

SHOP = {
    "app.py": APP.replace(", dict)", ", Invoice)").replace(
        'app = App("shop")',
        "from pydantic import BaseModel\n\n\nclass Invoice(BaseModel):\n    number: str\n    total: int\n\n\n"
        "app = App('shop')",
    )
}
"""The same with a type for its messages."""

Before: TypeAlias = Callable[[Path], AbstractContextManager[Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One mistake, the command that meets it, and the line."""

    what: str
    words: str
    line: str
    code: int = 2
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    before: Before = databases.nothing
    sql: str = ""
    """What is done in a fresh database of PostgreSQL first. `{base}` is its name, and that of a role of the row's."""


def app(*lines: str) -> Mapping[str, str]:
    """An app.py of these lines, after the import of everything."""
    return {"app.py": "\n".join(["from tidemill import *", "", "app = App('shop')", *lines, ""])}


def handler(options: str = "", takes: str = "m: dict", *, does: str = "...", type_: str = "dict") -> Mapping[str, str]:
    """An app with one handler of messages."""
    return app(f"q = app.queue('q', {type_})", f"@app.on_message(q{options})", f"async def w({takes}):", f"    {does}")


RUN = "run --database memory:"
FILE = "--database sqlite:///x.db"
TABLE = ("@app.on_change(t)", "async def w(c: Change[dict]): ...")

SETTINGS = (
    Row("no database anywhere", "run", "no database for queue 'invoices', collection 'orders', timers and leases: set"),
    Row("a variable that is no setting", "run", "TIDEMILL_DATABSE: there is no such setting; did you mean",
        env={"TIDEMILL_DATABSE": "x"}),
    Row("a key that is no setting", "run", "databse in tidemill.toml: there is no such setting; did you mean database?",
        files={"tidemill.toml": "databse = 'x'"}),
    Row("a tidemill.toml that is no TOML", "run", "tidemill.toml cannot be read: Invalid value (at ",
        files={"tidemill.toml": "database = "}),
    Row("a number that is none", "run",
        "TIDEMILL_HEALTH_PORT='many': write a whole number", env={"TIDEMILL_HEALTH_PORT": "many"}),
    Row("a port that is too high", "run --api-port 99999", "--api-port=99999: write 65535 or less"),
    Row("a duration that is none", "run --grace soon", "--grace: 'soon' is no duration: write"),
    Row("a negative duration", "run --grace=-1s", "--grace: '-1s' is no duration: write"),
    Row("a word that is not allowed", "run --log-format xml", "--log-format='xml': write console or json"),
    Row("a log level that is none", "run --log-level loud", "--log-level='loud': write debug, info, warning or error"),
    Row("a profile that is none", "run --profile slow", "--profile='slow': write normal or fast"),
    Row("a weight below 0", "run", "TIDEMILL_WEIGHT='-1': write 0 or more", env={"TIDEMILL_WEIGHT": "-1"}),
    Row("a queue set apart that is not declared", "run", "queue 'invoice' is not declared in app 'shop'; did you mean",
        env={"TIDEMILL_QUEUES__INVOICE__URL": "memory:"}),
    Row("a part without its url", "run", "queues.invoices.url: url is missing",
        files={"tidemill.toml": "[queues.invoices]\nuri = 'memory:'"}),
    Row("a namespace", f"{RUN} --namespace test", "namespace='test': not in this release; use a database of its own"),
    Row("a schema of leases that is none", "run --database cosmos://shop/d?leases=java",
        "cosmos://shop/d: leases='java': write tidemill or dotnet"),
    Row("a group that is not declared", f"{RUN} -g queue", "group 'queue' is not declared in app 'shop'; did you mean"),
    Row("a worker that is not declared", f"{RUN} -w bil", "worker 'bil' is not declared in app 'shop'; did you mean"),
    Row("several mistakes at once", "run --grace soon", "TIDEMILL_GRASE: there is no such setting; did you mean grace?",
        env={"TIDEMILL_WEIGHT": "x", "TIDEMILL_GRASE": "1"}),
    Row("an .env that is a folder", "run", ".env cannot be read: it is a folder", before=databases.dotenv_folder),
    Row("an .env that is no text", "run", ".env cannot be read: 'utf-8'", before=databases.no_text),
)  # fmt: skip

FORWARDED = {"name": "a", "from": "orders", "queue": "invoices"}


def forward(**said: str) -> Mapping[str, str]:
    """A tidemill.toml with one table, in which this is said otherwise ("" leaves it away)."""
    keys = {name: value for name, value in {**FORWARDED, **said}.items() if value}
    return {"tidemill.toml": "[[forward]]\n" + "".join(f"{name} = {value!r}\n" for name, value in keys.items())}


FORWARD = (
    Row("a forward from nowhere", RUN, "tidemill.toml, forward 1: from = 'order': the app has no such collection,",
        files=forward(**{"from": "order"})),
    Row("a forward to no queue of the app", RUN, "tidemill.toml, forward 1: queue = 'invoice': the app has no such",
        files=forward(queue="invoice")),
    Row("a forward to nothing", RUN, "tidemill.toml, forward 1: write one of webhook, command and queue, not none",
        files=forward(queue="")),
    Row("a forward to two", RUN, "tidemill.toml, forward 1: write one of webhook, command and queue, not webhook and",
        files=forward(webhook="https://partner.example.com/")),
    Row("a key of a forward that is none", RUN, "tidemill.toml, forward 1: form: there is no such key; did you mean",
        files=forward(form="orders")),
    Row("a forward without a name", RUN, "tidemill.toml, forward 1: name is missing", files=forward(name="")),
    Row("a forward under a name that is taken", RUN, "tidemill.toml, forward 1: worker 'bill' is declared twice",
        files=forward(name="bill")),
    Row("a webhook whose variable is not set", RUN, "webhook: its URL names ${{HOOK_URL}}, which is not set here; set",
        files=forward(queue="", webhook="${HOOK_URL}")),
    Row("a webhook that is no URL", RUN, "webhook ftp://host/: write https://host/path",
        files=forward(queue="", webhook="ftp://host/")),
    Row("a secret that is none", RUN, "webhook https://host/: its secret is no base64; write whsec_ and 24 to 64",
        files=forward(queue="", webhook="https://host/", secret="whsec_!")),
    Row("a forward to a webhook without a name in Python", RUN, "app.py:5: forward of 'orders': say name=;",
        files=app("o = app.collection('orders', dict, id='id')", "app.forward(o, to=webhook('https://host/'))")),
    Row("a command that is a text", RUN, """app.py:5: command('ls -l'): write a list of words, as ["resize",""",
        files=app("o = app.collection('orders', dict, id='id')", "app.forward(o, to=command('ls -l'), name='a')")),
)  # fmt: skip

COMMANDS = (
    Row("a command that is none", "rnu", "No such command 'rnu'. Did you mean 'run'? (see tidemill --help)"),
    Row("an option that is none", "run --databse x", "No such option: --databse (Possible options: --database)"),
    Row("an option without its value", "run --database", "Option '--database' requires an argument."),
    Row("a file instead of a module", "run shop/app.py", "shop/app.py is a file: write the module, shop.app:app"),
    Row("a module that is not there", "run shop.app:app", "there is no module 'shop.app' in "),
    Row("a module without that name", "run app:shop", "module 'app' has no 'shop'; did you mean app:app?"),
    Row("a name that is no app", "workers app:orders", "app:orders is a Collection, not a tidemill.App; did you mean"),
    Row("a module without an app", "workers", "module 'app' has no 'app'", files={"app.py": ""}),
    Row("a module that fails", "workers", "the app could not be imported: app.py:1: ZeroDivisionError: division by",
        files={"app.py": "1 / 0"}),
    Row("a module that imports what is not there", "workers",
        "the app could not be imported: app.py:1: ModuleNotFoundError: No module named 'nothing_such'",
        files={"app.py": "import nothing_such"}),
    Row("a module with a syntax error", "workers", "the app could not be imported: app.py:1: SyntaxError: invalid",
        files={"app.py": "def broken(:"}),
    Row("a module that ends the process", "workers", "the app could not be imported: app.py:2: SystemExit: 3",
        files={"app.py": "import sys\nsys.exit(3)"}),
    Row("a group that a list does not have", "workers -g queue",
        "group 'queue' is not declared in app 'shop'; did you"),
    Row("a source of letters that is none", f"dead-letter ls -s invoices {FILE}",
        "--source invoices: write queue/NAME"),
    Row("to replay without saying which", f"dead-letter replay {FILE}",
        "which ones? Give --source, --key or --id, or"),
    Row("to drop without saying which", f"dead-letter drop --yes {FILE}", "which ones? Give --source, --key or --id"),
    Row("a letter that is not there", f"dead-letter show 42 {FILE}", "there is no dead letter '42'", code=1),
    Row("a limit below 1", "dead-letter ls --limit 0", "Invalid value for '--limit': "),
    Row("a probe that is none", "health --probe alive", "--probe alive: one of live, ready, startup, health"),
    Row("a port on which nobody answers", "health --port 1", "no answer from 127.0.0.1:1: ", code=1),
    Row("a status without a database", "status", "no database for queue 'invoices', collection 'orders', timers and"),
)  # fmt: skip

DECLARATIONS = (
    Row("two workers of one name", "workers", "app.py:7: worker 'w' is declared twice: names are permanent and must",
        files=app("q = app.queue('q', dict)", "@app.on_message(q)", "async def w(m): ...", "app.on_message(q)(w)")),
    Row("two queues of one name", "workers", "app.py:5: queue 'q' is declared twice",
        files=app("app.queue('q', dict)", "app.queue('q', dict)")),
    Row("a name with a blank", "workers", "app.py:4: queue name 'my queue': a name has letters, digits, '-', '_' and",
        files=app("app.queue('my queue', dict)")),
    Row("an interval without a unit that exists", "workers", "app.py:4: every: '30 sek' is no duration: write",
        files=app("@app.every('30 sek')", "async def tick(): ...")),
    Row("an interval of 0", "workers", "app.py:4: every(0): the interval must be longer than 0",
        files=app("@app.every(0)", "async def tick(): ...")),
    Row("a cron line with too few fields", "workers", "app.py:4: cron('0 3 *'): ",
        files=app("@app.cron('0 3 *')", "async def tick(): ...")),
    Row("a time zone that is none", "workers", "app.py:4: cron(tz='Europe/Belin'): no such time zone here",
        files=app("@app.cron('0 3 * * *', tz='Europe/Belin')", "async def tick(): ...")),
    Row("a concurrency of 0", "workers",
        "app.py:5: concurrency=0 must be 1 to 10,000", files=handler(", concurrency=0")),
    Row("a batch of 0", "workers", "app.py:5: batch=0 must be 1 to 10,000", files=handler(", batch=0")),
    Row("a rate of 0", "workers", "app.py:5: rate=0 must be more than 0 calls a second", files=handler(", rate=0")),
    Row("a time limit of 0", "workers",
        "app.py:5: time_limit=0 must be longer than 0", files=handler(", time_limit=0")),
    Row("no attempts", "workers", "app.py:5: Backoff(attempts=0): at least 1, the first try counts",
        files=handler(", retry=Backoff(attempts=0)")),
    Row("a wait that is no duration", "workers", "app.py:5: Backoff(first='soon'): 'soon' is no duration",
        files=handler(", retry=Backoff(first='soon')")),
    Row("a batch handler that takes one", RUN,
        "worker 'w': parameter 'm' of w: batch=5 calls it with lists; annotate it list[dict]",
        files=handler(", batch=5")),
    Row("a handler that yields", RUN, "worker 'w': w yields; a handler returns", files=handler(does="yield")),
    Row("a handler that takes no message", RUN, "worker 'w': the first parameter of w must take the item; add one",
        files=handler(takes="")),
    Row("a parameter that nothing fills", RUN, "worker 'w': parameter 'rates' of w has nothing to fill it: annotate",
        files=handler(takes="m: dict, rates: dict")),
    Row("an annotation that is not there", RUN, "worker 'w': an annotation of w names 'Invoice', which is not there at",
        files=handler(takes="m: 'Invoice'")),
    Row("a type that nothing can validate", RUN, "worker 'w': bodies of type App cannot be validated; make it a",
        files=handler(takes="m: App", type_="App")),
    Row("more partitions than there may be", "workers", "app.py:4: 'c': partitions=5000 must be 1 to 4096",
        files=app("app.collection('c', dict, id='id', partitions=5000)")),
    Row("a health rule of no worker", "workers", "app.py:5: health rule 'r': f is no worker here",
        files=app("def f(): ...", "@app.health('r', of=f)", "def r(): ...")),
    Row("a process handler that no child finds", RUN, "worker 'w': process=True needs a function at module level",
        files=app("q = app.queue('q', dict)", "app.on_message(q, process=True, name='w')(lambda m: None)")),
    Row("a web API that is not there", RUN, "api='shop.api:api': there is no module 'shop.api'",
        files={"app.py": "from tidemill import App\napp = App('shop', api='shop.api:api')"}),
)  # fmt: skip

DATABASES = (
    Row("a scheme that nobody serves", "run --database mysql://h/d", "mysql://h/d: no adapter for mysql:"),
    Row(
        "a scheme of a later release",
        "run --database redis://h",
        "redis://h: no adapter for redis: (there are azure",
    ),
    Row(
        "Cosmos DB without a database",
        "run --database cosmos://shop",
        "cosmos://shop: which database? write cosmos://account/d",
    ),
    Row(
        "an option of Cosmos DB that is misspelt",
        "run --database cosmos://shop/d?pol=3",
        "cosmos://shop/d: there is no option 'pol' (did you mean poll?)",
    ),
    Row(
        "a pause of polling that is none",
        "run --database cosmos://shop/d?poll=0",
        "cosmos://shop/d: poll='0': write a whole number from 1 to 300",
    ),
    Row(
        "a mode of the feed that is none",
        "run --database cosmos://shop/d?mode=full",
        "cosmos://shop/d: mode='full': write latest or all",
    ),
    Row(
        "a key of Cosmos DB that was cut",
        "run --database cosmos://:a2V5Lw%3D@shop/d",
        "cosmos://shop/d: the key is no base64 (in a URL write / as %2F",
    ),
    Row(
        "no TLS to an account",
        "run --database cosmos://shop/d?tls=no",
        "cosmos://shop/d: tls=no is for a stand-in on this machine; leave it out",
    ),
    Row(
        "no connection string",
        "run --database cosmos:///d?connection=SHOP_DB",
        "cosmos: (SHOP_DB): the variable SHOP_DB is not set; set it",
    ),
    Row(
        "a user where the key should be",
        "run --database cosmos://me@shop/d",
        "cosmos://shop/d: before the @ stands a key, after a colon (:KEY@)",
    ),
    Row("a schema that nobody administers", f"schema apply {FILE}", "the database is SQLite, which makes what"),
    Row("a URL without a file", "run --database sqlite://", "sqlite://: write sqlite:///relative.db or"),
    Row("a folder that is not there", "run --database sqlite:///no/x.db",
        "sqlite {folder}/no/x.db: there is no folder {folder}/no; create it or change the path"),
    Row("a folder instead of a file", f"run {FILE}", "sqlite {folder}/x.db: this is a folder; name a file",
        before=databases.folders),
    Row("a file that is no database", f"run {FILE}", "sqlite {folder}/x.db: the file is not a SQLite database; change",
        files={"x.db": "this is text, and long enough\n" * 100}),
    Row("a file that is read-only", f"run {FILE}", "sqlite {folder}/x.db: the file is read-only; give this user the",
        before=databases.read_only),
    Row("a file that a newer release wrote", f"run {FILE}", "sqlite {folder}/x.db: written in format 99, this release",
        before=databases.newer),
    Row("a file that another program has locked", f"status {FILE}",
        "sqlite x.db writer: not opened within 10 s; another process holds the file", code=1,
        before=databases.locked),
    Row("a table that is not there", f"run {FILE}", "orders: there is no table 'orders'",
        files=app("t = app.table('orders', dict, id='number')", *TABLE)),
    Row("a table without that column", f"run {FILE}", "orders: table 'orders' has no column 'nummer'",
        files=app("t = app.table('orders', dict, id='nummer')", *TABLE), before=databases.with_table),
    Row("a disk that is full", "status --database sqlite:///full/x.db",
        "sqlite {folder}/full/x.db: no room left on the disk; nothing was written", code=1, before=databases.full),
    Row("a port that is taken", f"{RUN} --health-port {{port}}", "port {port} is taken", before=databases.taken),
)  # fmt: skip

GOOD = '{"number":"1","total":2}'
SEND = f"queue send {FILE} invoices"

MESSAGES = (
    Row("a body that is no JSON", f"{SEND} {{{{", "BODY: the body is not JSON (", files=SHOP),
    Row("a body without a field", f'{SEND} {{{{"number":"1"}}}}',
        "BODY: total: Field required (the queue takes Invoice)",
        files=SHOP),
    Row("a body with a wrong field", f'{SEND} {{{{"number":"1","total":"x"}}}}', "BODY: total: Input should be a valid",
        files=SHOP),
    Row("a body of another shape", f"{SEND} []", "BODY: the body: Input should be an object", files=SHOP),
    Row("a queue that is not declared", f"queue send {FILE} invoice 1", "queue 'invoice' is not declared in app 'shop'",
        files=SHOP),
    Row("a delay that is no duration", f"{SEND} {{good}} --delay soon",
        "queue 'invoices': delay: 'soon' is no duration",
        files=SHOP),
    Row("a priority out of range", f"{SEND} {{good}} --priority 5000",
        "queue 'invoices': priority=5000 must be a whole",
        files=SHOP),
    Row("a header without a value", f"{SEND} {{good}} --header x", "--header x: write name=value", files=SHOP),
    Row("a file of bodies that is not there", f"{SEND} @no.jsonl", "@no.jsonl: No such file or directory", files=SHOP),
    Row("a purge that nobody agreed to", f"queue purge {FILE} invoices", "nothing was removed: add --yes", files=SHOP),
    Row("a feed worker that is not declared", f"feed reset {FILE} bil --to now",
        "feed worker 'bil' is not declared in"),
    Row("a timer that is not declared", f"timer run {FILE} tick", "timer 'tick' is not declared in app 'shop'"),
    Row("a new project of a bad name", "new My_Shop", "name 'My_Shop': small letters, digits and '-' only"),
    Row("a new project where something is", "new shop --dir .", ". is there and not empty: choose another name"),
)  # fmt: skip

PROJECT = {"pyproject.toml": "[project]\nname = 'shop'\nversion = '1.0'\ndependencies = ['tidemill', 'common']\n"}
GIT = {"pyproject.toml": f"{PROJECT['pyproject.toml']}[tool.uv.sources]\ncommon = {{git = 'https://example.com/c'}}\n"}

IMAGES = (
    Row("no pyproject.toml", "image", "there is no pyproject.toml in "),
    Row("a project that does not ask for Tidemill", "image", "pyproject.toml: shop does not ask for tidemill; add",
        files={"pyproject.toml": "[project]\nname = 'shop'\n"}),
    Row("a tag that moves", "image --tag latest", "--tag latest: such a tag comes to mean other", files=PROJECT),
    Row("a repository with a tag", "image --image r.example.com/shop:1", "deploy.image r.example.com/shop:1: write it",
        files=PROJECT),
    Row("a push to nowhere", "image --push --tag 1.0", "--push: shop names no registry; set image in [deploy]",
        files=PROJECT),
    Row("a key of [deploy] that is none", "image", "deploy.imgae in tidemill.toml: there is no such setting; did you",
        files={**PROJECT, "tidemill.toml": "[deploy]\nimgae = 'x'"}),
    Row("an extra that is none", "image", "shop has no extra 'api' in pyproject.toml (there are: none)",
        files={**PROJECT, "tidemill.toml": "[deploy]\nextras = ['api']"}),
    Row("a lock that pip does not read", "image", "uv.lock in ", files={**PROJECT, "uv.lock": ""}),
    Row("a dependency from git, without pins", "image", "pyproject.toml: common: pip does not read in [tool.uv",
        files=GIT),
    Row("a folder among the pins", "image", "requirements.txt: ./common: what lies beside the project is built with it",
        files={**PROJECT, "requirements.txt": "./common"}),
    Row("a Dockerfile of yours", "image --write", "Dockerfile is not of",
        files={**PROJECT, "Dockerfile": "FROM x"}),
)  # fmt: skip

ROWS = (*SETTINGS, *FORWARD, *COMMANDS, *DECLARATIONS, *MESSAGES, *DATABASES, *IMAGES)
