"""The exchange of a session drawn as a ladder, with the endpoints that it brought about."""

from __future__ import annotations

from collections.abc import Sequence

from chainrelay.wire.endpoint import Endpoint
from chainrelay.wire.messages import Way

COLUMN = 19


def draw(names: Sequence[str], points: Sequence[Endpoint], way: Way = Way.RECURSIVE, *, seal: bool = False) -> str:
    """The exchange of M1–M8 between `names` (client, relays, server), then what P1, P2, … are.

    Recursive (M12): each relay asks the next one. Iterative (M13): the client goes round a loop, and confirms from its end.
    `seal`: the key is made with the last relay before anything is forwarded (M17), so a recursive session is reserved first.
    """
    last, p = len(names) - 1, labels(len(points))
    server, leave = p[-1], p[-2]
    lines = ["".join(name.ljust(COLUMN) for name in names).rstrip(), _arrow(last, 0, f"OFFER {server}", last)]
    relays = range(1, last)
    match way:
        case Way.RECURSIVE:
            wanted = "" if seal else f" {server}"
            lines += [_arrow(relay - 1, relay, f"OPEN {p[2 * relay - 2]}{wanted}", last) for relay in relays]
            lines += [_arrow(relay, relay - 1, f"OPENED {p[2 * relay - 1]} {leave}", last) for relay in reversed(relays)]
            lines += _key(last, leave) if seal else []
            lines += [_arrow(relay - 1, relay, f"BIND {server}", last) for relay in relays] if seal else []
        case Way.ITERATIVE:
            for relay in relays:
                lines.append(_arrow(0, relay, f"OPEN {p[2 * relay - 2]} {server}", last))
                lines.append(_arrow(relay, 0, f"ASSIGNED {p[2 * relay - 1]} {p[2 * relay]}", last))
            lines += _key(last, leave) if seal else []
            lines += [_arrow(0, relay, f"BIND {p[2 * relay + 1]}", last) for relay in reversed(relays)]
    lines.append(_arrow(0, last, f"PEER {leave}", last))
    if seal:
        lines += [_stretch(last, "sealed datagrams", "in clear")]
    width = max(len(str(point)) for point in points)
    table = [f"{p[index]:<4} {point!s:<{width}}  {_place(names, index)}" for index, point in enumerate(points)]
    return "\n".join([*lines, "", *table])


def labels(points: int) -> list[str]:
    """What the README calls them: whatever the number of relays, P2 is the entry, P5 the exit and P6 the server's; P3 and P4 are there
    once for each pair of neighbours, the second one P3b and P4b."""
    between = [f"P{number}{'' if pair == 0 else chr(ord('a') + pair)}" for pair in range(points // 2 - 2) for number in (3, 4)]
    return ["P1", "P2", *between, "P5", "P6"] if points > 2 else ["P1", "P6"]


def _key(last: int, leave: str) -> list[str]:
    """The client and the last relay make a key; the relays between pass octets on."""
    return [_arrow(0, last - 1, "REKEY", last), _arrow(last - 1, 0, f"REKEYED {leave}", last)]


def _stretch(last: int, sealed: str, clear: str) -> str:
    """What the datagrams are like on which part of the way."""
    inner = f" {sealed} ".center((last - 1) * COLUMN - 1, "=")
    return f"|{inner}|{f' {clear} '.center(COLUMN - 1, '.')}|"


def _place(names: Sequence[str], index: int) -> str:
    """The first point is the client's, the next two the first relay's, …; one with an even index faces the server."""
    owner = (index + 1) // 2
    return f"{names[owner]}, facing {names[owner + 1 if index % 2 == 0 else owner - 1]}"


def _arrow(start: int, end: int, text: str, last: int) -> str:
    """One message from column `start` to column `end`; the other columns' life lines are drawn as bars."""
    left, right = sorted((start, end))
    shaft = f" {text} ".center((right - left) * COLUMN - 3, "-")
    drawn = f"-{shaft}>" if end > start else f"<{shaft}-"
    cells = ["|".ljust(COLUMN)] * left + ["|" + drawn] + ["|".ljust(COLUMN)] * (last - right) + ["|"]
    return "".join(cells)

