"""client.toml with what there is of the other files."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainrelay.config.client import load_client
from chainrelay.errors import ConfigErrors
from chainrelay.session.tables import Kind
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way
from unit.config.directory import CLIENT, write


def test_only_client_toml_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('id = "srv"\n')
    config = load_client(tmp_path)
    assert (config.id, config.user, config.lease, config.server, config.authenticate) == ("srv", "srv", 0, None, False)
    assert config.listen == Endpoint.parse("0.0.0.0:9799")
    assert (config.routes.rows, config.peers.rows, config.answers.rows) == ((), (), ())


def test_values(tmp_path: Path) -> None:
    write(
        tmp_path,
        CLIENT,
        client='id = "a"\nuser = "alice"\nlease = 60\n[control]\nserver = "fw2"\nlisten = "[::]"\nauthenticate = true\n',
        routes=CLIENT["routes.toml"] + 'way = "iterative"\n',
        access='[[answer]]\nrelay = "fw2"\nentry = "10.0.2.2"\n',
    )
    config = load_client(tmp_path)
    assert (config.user, config.lease, config.server, config.authenticate) == ("alice", 60, "fw2", True)
    assert config.listen == Endpoint.parse("[::]:9799")
    assert [route.way for route in config.routes.rows] == [Way.ITERATIVE]
    assert [(peer.id, peer.kind) for peer in config.peers.rows] == [("fw2", Kind.RELAY)]
    assert [row.relay for row in config.answers.rows] == ["fw2"]


@pytest.mark.parametrize(
    ("file", "text", "where", "why", "mend"),
    [
        ("client", "", "client.toml:id", "missing", "write id"),
        ("client", 'id = "a"\nuser = "*"\n', "client.toml:user (line 2)", "'*' is not an id", "letters"),
        ("client", 'id = "a"\nlease = 3601\n', "client.toml:lease (line 2)", "out of range", "3600"),
        ("client", 'id = "a"\n[control]\nserver = "f2"\n', "client.toml:control.server (line 3)", "no peer 'f2'", "'fw2'"),
        ("client", 'id = "a"\nlisten = "::"\n', "client.toml:listen (line 2)", "unknown key", "valid: control, id"),
        ("client", 'id = "fw2"\n', "peers.toml:peer[1].id (line 2)", "our own id", "partner's"),
        ("routes", '[[route]]\nto = "*"\nway = "recursiv"\n', "routes.toml:route[1].way (line 3)", "not known", "'recursive'"),
        ("access", '[[answer]]\nrelay = "fw1"\n', "access.toml:answer[1].relay (line 2)", "no peer 'fw1'", "'fw2'"),
    ],
)
def test_mistakes(file: str, text: str, where: str, why: str, mend: str, tmp_path: Path) -> None:
    write(tmp_path, CLIENT, **{file: text})
    with pytest.raises(ConfigErrors) as caught:
        load_client(tmp_path)
    assert [error.where for error in caught.value.errors] == [where]
    assert why in caught.value.errors[0].why
    assert mend in caught.value.errors[0].mend


def test_authenticate_without_peers(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('id = "srv"\n[control]\nauthenticate = true\n')
    with pytest.raises(ConfigErrors, match="no client could connect"):
        load_client(tmp_path)


# sealed sessions: last and seal in routes.toml ---------------------------------------

SEALED_ROUTE = '[[route]]\nto = "10.9.0.0/16"\nvia = "fw2"\nat = "10.0.2.2:9798"\n'


def test_a_route_names_its_last_relay_and_seals(tmp_path: Path) -> None:
    routes = SEALED_ROUTE + 'last = "fw2"\nseal = true\n[[route]]\nto = "*"\nvia = "fw2"\nat = "10.0.2.2:9798"\nlast = "fw2"\n'
    write(tmp_path, CLIENT, routes=routes)
    assert [(route.last, route.seal) for route in load_client(tmp_path).routes.rows] == [("fw2", True), ("fw2", False)]


def test_without_them_whoever_is_last_may_be(tmp_path: Path) -> None:
    write(tmp_path, CLIENT)
    assert [(route.last, route.seal) for route in load_client(tmp_path).routes.rows] == [("", False)]


@pytest.mark.parametrize(
    ("routes", "where", "why", "mend"),
    [
        (SEALED_ROUTE + "seal = true\n", "seal (line 5)", "seal without last", "add last ="),
        (SEALED_ROUTE + 'last = "fw3"\n', "last (line 5)", "no peer 'fw3'", "valid: fw2, fw9"),
        (SEALED_ROUTE + 'last = "fw9"\n', "last (line 5)", "can't prove that it is the last relay", "add a key"),
        (SEALED_ROUTE + 'last = "media"\nseal = true\n', "last (line 5)", "is a client", "name a relay"),
        (SEALED_ROUTE + 'last = ""\n', "last (line 5)", "empty", "letters"),
        ('[[route]]\nto = "*"\ndirect = true\nlast = "fw2"\n', "last (line 4)", "there is no relay", "remove last"),
        ('[[route]]\nto = "*"\ndirect = true\nseal = true\n', "seal (line 4)", "no relay that could open", "remove seal"),
    ],
)
def test_routes_that_can_not_be_sealed(routes: str, where: str, why: str, mend: str, tmp_path: Path) -> None:
    others = (
        '[[peer]]\nid = "fw9"\nkind = "relay"\nkeys = []\n'
        '[[peer]]\nid = "media"\nkind = "client"\nkeys = [{ kid = "a", file = "alice.key" }]\n'
    )
    write(tmp_path, CLIENT, routes=routes, peers=CLIENT["peers.toml"] + others)
    with pytest.raises(ConfigErrors) as caught:
        load_client(tmp_path)
    (error,) = caught.value.errors
    assert error.where == f"routes.toml:route[1].{where}"
    assert why in error.why
    assert mend in error.mend


def test_a_last_relay_whose_row_has_a_mistake_is_blamed_once(tmp_path: Path) -> None:
    write(tmp_path, CLIENT, routes=SEALED_ROUTE + 'last = "fw2"\nseal = true\n')
    (tmp_path / "fw2.key").unlink()
    with pytest.raises(ConfigErrors) as caught:
        load_client(tmp_path)
    assert [error.where.split(":")[0] for error in caught.value.errors] == ["peers.toml"]
