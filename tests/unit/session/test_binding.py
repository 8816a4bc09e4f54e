"""Reserve, then BIND: at the first and at the last relay."""

from __future__ import annotations

from chainrelay.datapath.mapping import Install, Remove
from chainrelay.errors import Code
from chainrelay.session.engine import Engine
from chainrelay.session.prefixes import PortRange, Prefixes
from chainrelay.session.tables import DIRECT, AccessTable, Allow
from chainrelay.wire.endpoint import Target
from chainrelay.wire.messages import Bind, Bound, Close, Open, Opened, Renew, Renewed
from playbook import ALICE, FW1_SEEN, FW2, SID, Play, an_opened, first, last, play, routes

RESERVE = Target.parse("10.9.0.9:0")
BY_NAME = Target.parse("tv.example.org:0")


def reserved_first(engine: Engine | None = None, server: Target = RESERVE) -> Play:
    playing = play(engine or first()).opens(server=server).locates("10.0.2.2").located("10.0.2.2")
    playing.asks(Open, lambda ask: ask.server == server)
    return playing.answered(an_opened(mtu=1400)).replies(Opened).done().holds(2, 1).noted("reserved")


def reserved_last(engine: Engine | None = None, server: Target = RESERVE) -> Play:
    playing = play(engine or last()).fw1_opens(server=server).locates(str(server.host)).located("10.9.0.9", source="10.3.0.2")
    return playing.replies(Opened, lambda it: str(it.exit) == "10.3.0.2:20000").done().holds(2, 1)


def test_first_relay() -> None:
    playing = reserved_first().passes(20).binds("10.9.0.9:6000").asks(Bind, lambda it: it.server.port == 6000).done()
    playing.binds("10.9.0.9:6000").done().answered(Bound(SID, 1300))
    playing.applies(Install, lambda op: op.lease == 102).done().binds("10.9.0.9:6000").done().applied()
    for request in (2, 3, 4):
        playing.replies(Bound, lambda it: it.mtu == 1300, request=request)
    playing.done().binds("10.9.0.9:6000").replies(Bound).binds("10.9.0.9:7000").refuses(Code.WRONG_STATE).done()
    playing.opens(server=RESERVE).replies(Opened).done().noted("bound", server="10.9.0.9:6000")


def test_last_relay() -> None:
    playing = reserved_last().binds("10.9.0.9:6000", FW1_SEEN)
    playing.applies(Install, lambda op: str(op.mapping.server_partner) == "10.9.0.9:6000").applied().replies(Bound).done()


def test_the_name_that_was_opened_is_not_resolved_again() -> None:
    reserved_last(server=BY_NAME).binds("tv.example.org:6000", FW1_SEEN).applies(Install)
    reserved_last(server=BY_NAME).binds("10.9.0.9:6000", FW1_SEEN).applies(Install)


def test_another_server_is_refused_and_the_reservation_stays() -> None:
    reserved_last().binds("10.9.0.8:6000", FW1_SEEN).refuses(Code.WRONG_STATE).binds("10.9.0.9:6000", FW1_SEEN).applies(Install)
    reserved_first().binds("10.9.0.8:6000").refuses(Code.WRONG_STATE).binds("10.9.0.9:6000").asks(Bind)
    reserved_first(server=BY_NAME).binds("10.9.0.9:6000").asks(Bind)
    elsewhere = first(routes=routes((".example.org", FW2), ("10.9.0.0/16", DIRECT)))
    reserved_first(elsewhere, BY_NAME).binds("10.9.0.9:6000").refuses(Code.WRONG_STATE).done().holds(2, 1)


def test_the_port_is_named_and_permitted() -> None:
    row = Allow("*", destination_ports=PortRange(6000, 6000), destination=Prefixes.of("10.9.0.0/16"))
    access = AccessTable((row,))
    for playing, link in ((reserved_first(first(access=access)), ALICE), (reserved_last(last(access=access)), FW1_SEEN)):
        playing.binds("10.9.0.9:0", link).refuses(Code.MALFORMED)
        playing.binds("10.9.0.9:7000", link).refuses(Code.ACCESS_DENIED, text="7000").done().holds(2, 1)


def test_bind_where_nothing_was_reserved() -> None:
    playing = play(last()).fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install)
    playing.binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.WRONG_STATE).applied().replies(Opened)
    playing.binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.WRONG_STATE).done()


def test_the_same_two_partners() -> None:
    playing = play(last()).opens(server=Target.parse("10.9.0.9:6000")).locates("10.9.0.9").located("10.9.0.9").applies(Install).applied()
    playing.replies(Opened).opens(session=bytes(16), server=RESERVE).locates("10.9.0.9").located("10.9.0.9").replies(Opened).done()
    playing.requests(Bind(bytes(16), Target.parse("10.9.0.9:6000"))).refuses(Code.ENDPOINT_IN_USE).done().holds(4, 2)


def test_a_failure_after_asking_ends_the_session_everywhere() -> None:
    binding = reserved_first().binds("10.9.0.9:6000").asks(Bind)
    binding.refused_further(Code.ACCESS_DENIED).refuses(Code.ACCESS_DENIED, "fw2").asks(Close).done().holds(0, 0)
    binding = reserved_first().binds("10.9.0.9:6000").asks(Bind)
    binding.ask_failed().refuses(Code.NEXT_HOP_TIMEOUT).asks(Close).done().holds(0, 0)
    binding = reserved_first().binds("10.9.0.9:6000").asks(Bind).answered(Bound(SID, 1400)).applies(Install)
    binding.apply_failed().refuses(Code.DATAPATH_FAILED).asks(Close).done().holds(0, 0)


def test_closed_while_binding() -> None:
    playing = reserved_first().binds("10.9.0.9:6000").asks(Bind).closes().refuses(Code.UNKNOWN_SESSION).asks(Close).done()
    playing.answered(Bound(SID, 1400)).done().holds(2, 1)


def test_a_reservation_is_renewed_and_ends_with_its_lease() -> None:
    playing = reserved_first().passes(100).renews().asks(Renew).answered(Renewed(SID, 120)).replies(Renewed).done()
    playing.passes(119).done().passes(2).asks(Close).done().holds(0, 0).noted("ended", code="lease-ended")


def test_a_renewal_that_meets_a_bind_reaches_the_kernel() -> None:
    playing = reserved_first().passes(60).renews().asks(Renew)
    playing.binds("10.9.0.9:6000").asks(Bind).answered(Renewed(SID, 120)).replies(Renewed).done()
    playing.answered(Bound(SID, 1400)).applies(Install, lambda op: op.lease == 122).applied().replies(Bound).done()


def test_a_pair_needs_two_ports_at_the_server() -> None:
    playing = play(last()).opens(server=RESERVE, components=2).locates("10.9.0.9").located("10.9.0.9").replies(Opened).done()
    playing.binds("10.9.0.9:65535").refuses(Code.MALFORMED).binds("10.9.0.9:6000").applies(Install, lambda op: op.mapping.components == 2)
    playing.closes().refuses(Code.UNKNOWN_SESSION).applies(Remove).done()
