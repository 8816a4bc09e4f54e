"""Restarts as scripts: what the journal and the kernel say, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from chainrelay.datapath.mapping import Install, LiveFlow, Mapping, Remove, Renew
from chainrelay.datapath.mapping import Rekey as Seal
from chainrelay.errors import Code
from chainrelay.limits import LEASE_GRACE
from chainrelay.session.events import Apply, RulesLost
from chainrelay.session.prefixes import PortRange
from chainrelay.session.record import Phase, Record, pack, unpack
from chainrelay.session.tables import AccessTable
from chainrelay.session.transitions import State
from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Bound, Close, Closed, HopCounters, Open, Opened, Protocol, Rekeyed, Renewed, Status, StatusReport
from chainrelay.wire.messages import Renew as AskRenew
from playbook import FW1_SEEN, SID, Play, an_opened, data_keys, first, last, play
from standing import SEEN, opened, opened_last
from unit.session import test_sealing as sealing


def restarted(before: Play, left: float | None = 90.0, gap: float = 5.0, **policy: Any) -> Play:
    """The relay again after `gap` seconds, the kernel's flows with `left` seconds (None: no flows)."""
    records = [unpack(pack(record)) for record in before.journal.values()]
    book = before.engine._book
    after = play(first(**policy) if book.me == "fw1" else last(**({"seals": book.seals} | policy)))
    after.now = before.now + gap
    after.journal = dict(before.journal)
    flows = [] if left is None else [flow for record in records for flow in flows_of(record, left)]
    return after.takes(after.engine.adopt(records, flows, after.now))


def flows_of(record: Record, left: float) -> list[LiveFlow]:
    if record.server_partner is None:
        return []
    request = record.request
    ends = (request.partner, record.client_side, record.server_side, record.server_partner)
    mapping = Mapping(request.session, request.protocol, request.components, *ends)
    sealed = request.sealed and record.next_hop is None
    flows = [flow for pair in mapping.flows() for flow in pair]
    return [LiveFlow(flow.protocol, flow.source, flow.destination, left, 1, 100, sealed=sealed) for flow in flows]


def one(playing: Play) -> State:
    (row,) = playing.engine.sessions()
    return row.state


def test_what_lives_is_kept_with_the_kernels_lease() -> None:
    after = restarted(opened(), left=92.0).asks(Status).done()
    (row,) = after.engine.sessions()
    assert (row.state, row.lease_left) == (State.OPEN, 92.0 - LEASE_GRACE)
    assert (str(row.client_partner), str(row.client_side), row.next_hop) == ("10.0.0.5:5000", "10.0.0.1:20000", "fw2")
    after.noted("adopted", kept="1")
    after.answered(StatusReport(SID, 80, ())).done()
    after.renews(60).asks(AskRenew).answered(Renewed(SID, 60)).applies(Renew, lambda renew: renew.lease == 60 + LEASE_GRACE)
    after.applied().replies(Renewed)
    after.closes().applies(Remove).asks(Close).applied().answered(Closed(SID, ())).replies(Closed).done().holds(ports=0, sessions=0)
    assert after.journal == {}


def test_its_owner_opens_again_and_gets_the_same_answer() -> None:
    before = opened()
    asked = before.engine.sessions()[0]
    after = restarted(before).asks(Status)
    after.opens().replies(Opened, lambda answer: answer.client_side == asked.client_side and answer.exit == asked.exit).done()


def test_another_principal_does_not_get_it() -> None:
    restarted(opened()).asks(Status).closes(link=FW1_SEEN).refuses(Code.UNKNOWN_SESSION)


def test_what_the_kernel_has_lost_is_put_back_for_what_was_left() -> None:
    after = restarted(opened(), left=None, gap=20.0).applies(Renew, lambda renew: renew.lease == 100 + LEASE_GRACE).asks(Status).done()
    after.applied().noted("adopted", put_back="1")
    assert one(after) is State.OPEN


def test_a_part_that_is_missing_is_put_back_as_a_whole() -> None:
    before = opened_last()
    (record,) = before.journal.values()
    after = play(last())
    after.now = before.now
    after.takes(after.engine.adopt([record], flows_of(record, 100.0)[:1], after.now)).applies(Renew).done()


def test_what_ended_meanwhile_is_removed_here_and_further_on() -> None:
    after = restarted(opened(), left=None, gap=500.0).applies(Remove).asks(Close).done()
    after.applied().done().holds(ports=0, sessions=0).noted("ended", code="lease-ended")
    assert after.journal == {}


def test_the_next_relay_no_longer_knows_it() -> None:
    after = restarted(opened()).asks(Status).refused_further(Code.UNKNOWN_SESSION)
    after.applies(Remove).applied().done().holds(ports=0, sessions=0)
    assert after.journal == {}


@pytest.mark.parametrize("code", [Code.WRONG_STATE, Code.RATE_LIMIT, Code.NEXT_HOP_TIMEOUT])
def test_any_other_answer_ends_nothing(code: Code) -> None:
    after = restarted(opened()).asks(Status).refused_further(code).done()
    assert one(after) is State.OPEN


def test_silence_of_the_next_relay_ends_nothing() -> None:
    after = restarted(opened()).asks(Status).ask_failed().done()
    assert one(after) is State.OPEN


def test_an_open_that_was_under_way_goes_on_and_its_owner_joins_it() -> None:
    before = play(first()).opens().locates("10.0.2.2").located("10.0.2.2").asks(Open, lambda open_: open_.partner.port == 20000)
    assert [record.phase for record in before.journal.values()] == [Phase.ASKED]
    after = restarted(before, left=None).asks(Open, lambda open_: open_.partner.port == 20000 and open_.path == ("fw1",)).done()
    after.opens().done()
    after.answered(an_opened()).applies(Install).applied().replies(Opened).done()


def test_a_kernel_that_had_not_been_told_yet_is_told() -> None:
    before = play(first()).opens().locates("10.0.2.2").located("10.0.2.2").asks(Open).answered(an_opened()).applies(Install)
    after = restarted(before, left=None, gap=1.0).applies(Renew).asks(Status).applied().done()
    after.opens().replies(Opened).done()


def test_a_close_that_was_under_way_is_finished() -> None:
    before = opened().closes().applies(Remove).asks(Close)
    after = restarted(before, left=50.0).applies(Remove).asks(Close).applied().done().holds(ports=0, sessions=0)
    assert after.journal == {}


def test_a_reserved_session_keeps_its_ports_and_is_bound() -> None:
    from chainrelay.wire.endpoint import Target
    before = play(last()).fw1_opens(server=Target(ip_address("10.9.0.9"), 0)).locates("10.9.0.9").located("10.9.0.9").replies(Opened)
    after = restarted(before, left=None).done().holds(ports=2, sessions=1)
    after.binds("10.9.0.9:6000", link=FW1_SEEN).applies(Install).applied().replies(Bound).done()


# sealed ----------------------------------------------------------------------------


def sealed_open() -> Play:
    return sealing.opened(sealing.recursive())


def test_a_sealed_session_goes_on_with_the_key_that_the_kernel_has() -> None:
    after = restarted(sealed_open(), left=90.0).done().noted("adopted", kept="1")
    after.renews(60, FW1_SEEN).applies(Renew, lambda it: it.mapping.sealed).applied().replies(Renewed)
    bob = replace(sealing.THROUGH, principal="bob")
    after.rekeys(bob, data_keys(1)).refuses(Code.USER_NOT_ALLOWED).done()
    after.rekeys(sealing.THROUGH, data_keys(1)).applies(Seal, lambda it: it.seal == data_keys(1)).applied().replies(Rekeyed).done()


def test_one_that_the_kernel_has_lost_waits_for_another_key() -> None:
    after = restarted(sealed_open(), left=None).applies(Renew, lambda it: it.mapping.sealed).done().noted("adopted", put_back="1")
    after.apply_failed(keyless=True).done().noted("refused", code="seal-key-missing").holds(2, 1)
    after.renews(60, FW1_SEEN).applies(Renew).apply_failed(keyless=True).refuses(Code.SEAL_KEY_MISSING).done()
    after.rekeys(sealing.THROUGH, data_keys(1)).applies(Seal).apply_failed(keyless=True)
    after.applies(Install, lambda it: it.seal == data_keys(1)).applied().replies(Rekeyed).done()
    assert one(after) is State.OPEN


def test_flows_of_the_rules_are_never_taken_for_sealed_ones() -> None:
    before = sealed_open()
    (record,) = before.journal.values()
    after = play(last(seals=True))
    after.now = before.now
    plain = [replace(flow, sealed=False) for flow in flows_of(record, 90.0)]
    after.takes(after.engine.adopt([record], plain, after.now)).applies(Renew, lambda it: it.mapping.sealed).done()
    after.noted("adopted", put_back="1", unknown_flows="2")


def test_a_datapath_that_can_no_longer_seal_ends_it() -> None:
    after = restarted(sealed_open(), left=None, seals=False).applies(Remove).applied().done().holds(ports=0, sessions=0)
    after.noted("ended", code="seal-not-available")


def test_a_sealed_reservation_has_lost_its_key() -> None:
    after = restarted(sealing.recursive().rekeys(sealing.THROUGH).replies(Rekeyed), left=None).done().holds(ports=2, sessions=1)
    after.renews(60, FW1_SEEN).refuses(Code.SEAL_KEY_MISSING).binds("10.9.0.9:6000", FW1_SEEN).refuses(Code.WRONG_STATE).done()
    after.rekeys(sealing.THROUGH, data_keys(1)).replies(Rekeyed).binds("10.9.0.9:6000", FW1_SEEN)
    after.applies(Install, lambda it: it.seal == data_keys(1)).applied().replies(Bound).done()


def test_a_relay_before_the_last_answers_with_the_same_path() -> None:
    after = restarted(opened()).asks(Status).opens().replies(Opened, lambda it: it.path == ("fw1", "fw2")).done()
    assert after.journal[SID].path == ("fw1", "fw2")


def test_what_the_tables_no_longer_permit_is_removed() -> None:
    after = restarted(opened(), access=AccessTable(())).applies(Remove).asks(Close).applied().done().holds(ports=0, sessions=0)
    after.noted("ended", code="revoked")


def test_flows_without_a_record_are_left_alone_and_their_ports_are_not_given_out() -> None:
    engine = last(pool=PortRange(20000, 20001))
    flow = LiveFlow(Protocol.UDP, Endpoint.parse("10.0.2.1:20000"), Endpoint.parse("10.0.2.2:20000"), 60.0, 0, 0)
    after = play(engine)
    after.takes(engine.adopt([], [flow], after.now)).done().noted("adopted", unknown_flows="1")
    after.fw1_opens().locates("10.9.0.9").located("10.9.0.9").applies(Install, lambda install: install.mapping.client_side.port == 20001)


def test_ports_of_adopted_sessions_are_taken() -> None:
    after = restarted(opened_last()).holds(ports=2, sessions=1)
    after.fw1_opens(session=bytes(16), partner=Endpoint.parse("10.0.2.1:20002")).locates("10.9.0.9").located("10.9.0.9")
    assert {after.take(Apply).operation.mapping.client_side.port} == {20001}


def test_counters_go_on() -> None:
    before = opened()
    before.journal = {SID: replace(before.journal[SID], counters=SEEN)}
    after = restarted(before).asks(Status).answered(StatusReport(SID, 80, ()))
    after.closes().applies(Remove).asks(Close).applied(SEEN).answered(Closed(SID, (HopCounters("fw2", 1, 1, 1, 1),)))
    twice = HopCounters("fw1", 2 * SEEN.to_server_packets, 2 * SEEN.to_server_bytes, 2 * SEEN.to_client_packets, 2 * SEEN.to_client_bytes)
    after.replies(Closed, lambda closed: closed.counters[0] == twice)


def test_rules_that_somebody_flushed_are_put_back_for_every_open_session() -> None:
    playing = opened()
    playing.now += 20
    playing.feed(RulesLost()).applies(Renew, lambda renew: renew.lease == 100 + LEASE_GRACE).applied().done()
    playing.noted("rules-lost", sessions="1")
    playing.feed(RulesLost()).applies(Renew).apply_failed().done().noted("refused", code="datapath-failed")
    assert one(playing) is State.OPEN


def test_every_change_that_counts_is_in_the_journal() -> None:
    playing = opened()
    (record,) = playing.journal.values()
    assert (record.phase, record.expires, record.link.principal) == (Phase.OPEN, playing.now + 120, "alice")
    playing.now += 30
    playing.renews(0).asks(AskRenew).answered(Renewed(SID, 120)).applies(Renew).applied().replies(Renewed)
    assert playing.journal[SID].expires == playing.now + 120
    playing.closes()
    assert playing.journal[SID].phase is Phase.CLOSING
