"""What a command's words mean, and a worker that dies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from chainrelay.errors import DatapathError
from chainrelay.privileged.iptables import Worker, advised
from lab.host import Namespace

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("can't initialize iptables table `nat': Table does not exist (do you need to insmod?)\nPerhaps", "no legacy tables"),
        ("can't initialize nat: Permission denied (you must be root)", "CAP_NET_RAW"),
        ("[Errno 1] Operation not permitted", "CAP_NET_ADMIN"),
        ("[Errno 2] No such file or directory: 'iptables-legacy-save'", "apt install iptables"),
    ],
)
def test_advice_fits_the_fault(said: str, advice: str) -> None:
    assert advice in advised(said)
    assert "\n" not in advised(said)


def test_other_words_are_passed_on_and_none_is_said_so() -> None:
    assert advised("line 7 failed\n") == "line 7 failed"
    assert advised("") == "no reason given"


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Namespace("pipe") as host, host.enter():
        made = Worker(4)
        try:
            yield made
        finally:
            made.close()


def test_a_worker_that_has_ended_is_an_error_with_a_way_out_and_another_takes_its_place(worker: Worker) -> None:
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(DatapathError, match=r"ended with -9.*apt install"):
        worker.ask({"look": None})
    assert "*nat" in worker.ask({"save": "nat"})


def test_an_order_that_nobody_knows_is_refused(worker: Worker) -> None:
    with pytest.raises(DatapathError, match="no such order"):
        worker.ask({"run": "anything"})


def test_what_the_tools_of_this_host_say_is_understood(worker: Worker) -> None:
    """The words for a table that the kernel has not, and for a user who may not."""
    with pytest.raises(DatapathError, match="no legacy tables"):
        worker.ask({"save": "no-such-table"})
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "iptables-legacy", "-L"]
    refused = subprocess.run(nobody, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "CAP_NET_RAW" in advised(refused.stderr)
