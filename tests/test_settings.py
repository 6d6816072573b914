"""Settings: which place wins, and what a mistake is told like."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tidemill import settings as module
from tidemill.app.app import App
from tidemill.app.values import Change
from tidemill.engine.work import FAST, NORMAL
from tidemill.errors import ConfigurationError
from tidemill.settings import Settings, load

Row = dict[str, int]
URL = "postgresql://app:s3cret@db/avalon"


def problems(environ: dict[str, str], folder: Path, **options: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        load(environ, folder=folder, options=options)
    return raised.value.problems


@pytest.fixture
def avalon() -> App:
    app = App("avalon")
    orders = app.collection("orders", Row, id="number")
    invoices = app.queue("order-invoices", Row)

    @app.on_change(orders)
    def bill(change: Change[Row]) -> None: ...

    @app.on_message(invoices)
    def send_invoice(invoice: Row) -> None: ...

    @app.every("30s")
    def refresh() -> None: ...

    return app


# --- places -------------------------------------------------------------------------------------------------


def test_defaults(tmp_path: Path) -> None:
    settings = load({}, folder=tmp_path, hostname="here")
    assert settings == Settings(replica="here")
    assert (settings.health_host, settings.health_port) == ("0.0.0.0", 8081)
    assert settings.budget().total() == 25 + 3 + 3 + 5 + 2 + 5
    assert settings.clockwork() is NORMAL


def test_each_place_wins_over_the_ones_before(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    environ = {"TIDEMILL_SECRETS_DIR": str(secrets)}

    def namespace(**options: object) -> str:
        return load(environ, folder=tmp_path, options=options, defaults={"namespace": "default"}).namespace

    assert namespace() == "default"
    (tmp_path / "tidemill.toml").write_text('namespace = "toml"')
    assert namespace() == "toml"
    (tmp_path / ".env").write_text("# a file\nTIDEMILL_NAMESPACE='dotenv'\nOTHER=1\n")
    assert namespace() == "dotenv"
    (secrets / "tidemill_namespace").write_text("secrets\n")
    assert namespace() == "secrets"
    environ["TIDEMILL_NAMESPACE"] = "environ"
    assert namespace() == "environ"
    assert namespace(namespace="option") == "option"
    assert namespace(namespace=None) == "environ"


def test_a_higher_place_replaces_one_leaf(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text('[queues.a]\nurl = "memory:"\n[queues.b]\nurl = "memory:"\n')
    settings = load({"TIDEMILL_QUEUES__B__URL": "sqlite:///b.db"}, folder=tmp_path)
    assert {name: part.url for name, part in settings.queues.items()} == {"a": "memory:", "b": "sqlite:///b.db"}


def test_port_is_honoured_and_ours_wins(tmp_path: Path) -> None:
    assert load({"PORT": "9000"}, folder=tmp_path).api_port == 9000
    assert load({"PORT": "9000", "TIDEMILL_API_PORT": "9001"}, folder=tmp_path).api_port == 9001


def test_in_a_pod_logs_are_json_and_the_api_lingers(tmp_path: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "queues-7f9c-x2"}
    settings = load(pod, folder=tmp_path)
    assert (settings.log_format, settings.lame_duck, settings.replica) == ("json", 5.0, "queues-7f9c-x2")
    assert load({}, folder=tmp_path).log_format == "console"


def test_links_of_kubernetes_services_are_no_settings(tmp_path: Path) -> None:
    """A Service named `tidemill-api` puts these into every pod of its namespace."""
    environ = {
        "TIDEMILL_API_PORT": "tcp://10.96.0.7:80",
        "TIDEMILL_API_SERVICE_HOST": "10.96.0.7",
        "TIDEMILL_API_SERVICE_PORT": "80",
        "TIDEMILL_API_SERVICE_PORT_HTTP": "80",
        "TIDEMILL_API_PORT_80_TCP": "tcp://10.96.0.7:80",
        "TIDEMILL_API_PORT_80_TCP_ADDR": "10.96.0.7",
        "TIDEMILL_API_PORT_80_TCP_PROTO": "tcp",
    }
    assert load(environ, folder=tmp_path).api_port == 8000


def test_values_as_people_write_them(tmp_path: Path) -> None:
    environ = {
        "TIDEMILL_GRACE": "1m30s",
        "TIDEMILL_LAME_DUCK": "2",
        "TIDEMILL_GROUPS": "feeds, queues",
        "TIDEMILL_PROFILE": "FAST",
        "tidemill_log_level": "Debug",
    }
    settings = load(environ, folder=tmp_path)
    assert (settings.grace, settings.lame_duck) == (90.0, 2.0)
    assert settings.groups == ("feeds", "queues")
    assert settings.clockwork() is FAST
    assert settings.log_level == "debug"


# --- mistakes -----------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text('databse = "memory:"\n[queues.a]\nurls = "memory:"\n')
    environ = {"TIDEMILL_GRACE": "soon", "TIDEMILL_HEALTH_PROT": "1", "TIDEMILL_API_PORT": "99999"}
    told = problems(environ, tmp_path, profile="slow")
    assert set(told) == {
        "databse in tidemill.toml: there is no such setting; did you mean database?",
        "queues.a.urls in tidemill.toml: there is no such setting; did you mean url?",
        "queues.a.url: url is missing",
        'TIDEMILL_GRACE: \'soon\' is no duration: write "30s", "1h30m", "250ms", seconds',
        "TIDEMILL_HEALTH_PROT: there is no such setting; did you mean health_port?",
        "TIDEMILL_API_PORT='99999': write 65535 or less",
        "--profile='slow': write normal or fast",
    }


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text("database = ")
    [line] = problems({}, tmp_path)
    assert line.startswith("tidemill.toml cannot be read: Invalid value")


def test_a_secrets_directory_that_is_not_there(tmp_path: Path) -> None:
    [line] = problems({"TIDEMILL_SECRETS_DIR": "/nowhere"}, tmp_path)
    assert line == "TIDEMILL_SECRETS_DIR=/nowhere cannot be read: No such file or directory"


def test_a_mistake_never_shows_a_secret(tmp_path: Path) -> None:
    told = problems({"TIDEMILL_QUEUES__A": URL, "TIDEMILL_DATABASE__URL": URL}, tmp_path)
    assert len(told) == 2
    assert "s3cret" not in "".join(told)


# --- the value ----------------------------------------------------------------------------------------------


def test_secrets_are_masked_when_shown(tmp_path: Path) -> None:
    environ = {"TIDEMILL_DATABASE": URL, "TIDEMILL_QUEUES__A__URL": URL}
    settings = load(environ, folder=tmp_path)
    assert settings.database == URL
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)
    assert "app:***@db" in repr(settings)


def test_it_is_frozen(tmp_path: Path) -> None:
    settings = load({}, folder=tmp_path)
    with pytest.raises(ValidationError):
        settings.grace = 1.0


def test_one_part_set_apart(tmp_path: Path) -> None:
    environ = {"TIDEMILL_DATABASE": "memory:", "TIDEMILL_QUEUES__ORDER_INVOICES__URL": "sqlite:///q.db"}
    settings = load(environ, folder=tmp_path)
    assert settings.queue_url("order-invoices") == "sqlite:///q.db"
    assert settings.queue_url("other") == "memory:"
    assert settings.collection_url("orders") == "memory:"


def test_the_store_is_where_it_is_said_else_with_the_first_collection(avalon: App, tmp_path: Path) -> None:
    declared = avalon.declared()
    environ = {"TIDEMILL_DATABASE": "sqlite:///a.db"}
    assert load(environ, folder=tmp_path).store_url(declared) == "sqlite:///a.db"
    environ["TIDEMILL_COLLECTIONS__ORDERS__URL"] = "sqlite:///b.db"
    assert load(environ, folder=tmp_path).store_url(declared) == "sqlite:///b.db"
    environ["TIDEMILL_STORE"] = "sqlite:///c.db"
    assert load(environ, folder=tmp_path).store_url(declared) == "sqlite:///c.db"


# --- with an app --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, {"bill", "send_invoice", "refresh"}),
        ({"TIDEMILL_GROUPS": "feeds"}, {"bill"}),
        ({"TIDEMILL_GROUPS": "feeds", "TIDEMILL_WORKERS": "refresh"}, {"bill", "refresh"}),
    ],
)
def test_which_workers_run(avalon: App, tmp_path: Path, environ: dict[str, str], names: set[str]) -> None:
    settings = load(environ, folder=tmp_path)
    assert {worker.name for worker in settings.chosen(avalon.declared())} == names


def test_the_api_runs_where_its_group_does(tmp_path: Path) -> None:
    declared = App("avalon", api="avalon.api:api").declared()
    assert load({}, folder=tmp_path).serves_api(declared)
    assert load({"TIDEMILL_GROUPS": "api"}, folder=tmp_path).serves_api(declared)
    assert not load({"TIDEMILL_GROUPS": "feeds"}, folder=tmp_path).serves_api(declared)
    assert not load({"TIDEMILL_WORKERS": "bill"}, folder=tmp_path).serves_api(declared)


def test_a_deployment_without_a_database_is_told_what_to_set(avalon: App, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load({}, folder=tmp_path).fit(avalon.declared())
    [line] = raised.value.problems
    assert line.startswith("no database for queue 'order-invoices', collection 'orders', timers and leases: set TIDEM")


def test_parts_may_take_the_place_of_a_database(avalon: App, tmp_path: Path) -> None:
    environ = {"TIDEMILL_QUEUES__ORDER_INVOICES__URL": "memory:", "TIDEMILL_COLLECTIONS__ORDERS__URL": "memory:"}
    load(environ, folder=tmp_path).fit(avalon.declared())
    del environ["TIDEMILL_COLLECTIONS__ORDERS__URL"]
    with pytest.raises(ConfigurationError, match="no database for collection 'orders', timers and leases"):
        load(environ, folder=tmp_path).fit(avalon.declared())


def test_names_that_nobody_declared(avalon: App, tmp_path: Path) -> None:
    environ = {
        "TIDEMILL_DATABASE": "memory:",
        "TIDEMILL_QUEUES__ORDER_INVOICE__URL": "memory:",
        "TIDEMILL_GROUPS": "feed",
        "TIDEMILL_WORKERS": "zzz",
    }
    with pytest.raises(ConfigurationError) as raised:
        load(environ, folder=tmp_path).fit(avalon.declared())
    assert raised.value.problems == (
        "queue 'order_invoice' is not declared in app 'avalon'; did you mean order-invoices?",
        "group 'feed' is not declared in app 'avalon'; did you mean feeds?",
        "worker 'zzz' is not declared in app 'avalon' (there are: bill, send_invoice, refresh)",
    )


def test_what_starts_a_worker_in_words(avalon: App) -> None:
    kinds = [module.kind_of(worker) for worker in avalon.declared().workers]
    assert kinds == [("feed", "orders"), ("queue", "order-invoices"), ("timer", "every 30 s")]
