"""The ladder as a person sees it."""

from __future__ import annotations

import pytest

from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way
from demo.ladder import draw, labels

ONE_HOP = """\
client             fw1                server
|<------------- OFFER P6 -------------|
|--- OPEN P1 P6 -->|                  |
|<- OPENED P2 P5 --|                  |
|-------------- PEER P5 ------------->|

P1   10.0.0.1:5001  client, facing fw1
P2   10.0.0.2:5002  fw1, facing client
P5   10.0.0.3:5003  fw1, facing server
P6   10.0.0.4:5004  server, facing fw1"""

TWO_HOPS = """\
client             fw1                fw2                server
|<---------------------- OFFER P6 -----------------------|
|--- OPEN P1 P6 -->|                  |                  |
|                  |--- OPEN P3 P6 -->|                  |
|                  |<- OPENED P4 P5 --|                  |
|<- OPENED P2 P5 --|                  |                  |
|----------------------- PEER P5 ----------------------->|

P1   10.0.0.1:5001  client, facing fw1
P2   10.0.0.2:5002  fw1, facing client
P3   10.0.0.3:5003  fw1, facing fw2
P4   10.0.0.4:5004  fw2, facing fw1
P5   10.0.0.5:5005  fw2, facing server
P6   10.0.0.6:5006  server, facing fw2"""


LOOP = """\
client             fw1                fw2                server
|<---------------------- OFFER P6 -----------------------|
|--- OPEN P1 P6 -->|                  |                  |
|< ASSIGNED P2 P3 -|                  |                  |
|------------- OPEN P3 P6 ----------->|                  |
|<---------- ASSIGNED P4 P5 ----------|                  |
|-------------- BIND P6 ------------->|                  |
|---- BIND P4 ---->|                  |                  |
|----------------------- PEER P5 ----------------------->|"""


POINTS = TWO_HOPS[TWO_HOPS.index("\n\n") :]


@pytest.mark.parametrize(
    ("hops", "way", "drawn"), [(1, Way.RECURSIVE, ONE_HOP), (2, Way.RECURSIVE, TWO_HOPS), (2, Way.ITERATIVE, LOOP + POINTS)]
)
def test_a_row(hops: int, way: Way, drawn: str) -> None:
    names = ("client", *(f"fw{number}" for number in range(1, hops + 1)), "server")
    points = [Endpoint.parse(f"10.0.0.{number}:500{number}") for number in range(1, 2 * hops + 3)]
    assert draw(names, points, way) == drawn



SEALED = """\
client             fw1                fw2                server
|<---------------------- OFFER P6 -----------------------|
|---- OPEN P1 ---->|                  |                  |
|                  |---- OPEN P3 ---->|                  |
|                  |<- OPENED P4 P5 --|                  |
|<- OPENED P2 P5 --|                  |                  |
|--------------- REKEY -------------->|                  |
|<------------ REKEYED P5 ------------|                  |
|---- BIND P6 ---->|                  |                  |
|                  |---- BIND P6 ---->|                  |
|----------------------- PEER P5 ----------------------->|
|========== sealed datagrams =========|.... in clear ....|"""

SEALED_LOOP = LOOP.replace(
    "|-------------- BIND P6 ------------->|",
    "|--------------- REKEY -------------->|                  |\n"
    "|<------------ REKEYED P5 ------------|                  |\n"
    "|-------------- BIND P6 ------------->|",
) + "\n|========== sealed datagrams =========|.... in clear ....|"


@pytest.mark.parametrize(("way", "drawn"), [(Way.RECURSIVE, SEALED), (Way.ITERATIVE, SEALED_LOOP)])
def test_a_sealed_row(way: Way, drawn: str) -> None:
    points = [Endpoint.parse(f"10.0.0.{number}:500{number}") for number in range(1, 7)]
    assert draw(("client", "fw1", "fw2", "server"), points, way, seal=True) == drawn + POINTS


def test_the_names_of_points_mean_the_same_whatever_the_number_of_relays() -> None:
    assert labels(2) == ["P1", "P6"]
    assert labels(4) == ["P1", "P2", "P5", "P6"]
    assert labels(6) == [f"P{number}" for number in range(1, 7)]
    assert labels(10) == ["P1", "P2", "P3", "P4", "P3b", "P4b", "P3c", "P4c", "P5", "P6"]
