"""32-bit arithmetic by LLVM: in a process of its own, as in the loader, since bcc keeps LLVM in memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chainrelay.privileged.xdp_llvm import NoLlvm, instructions

pytestmark = pytest.mark.root

PROBE = """
import json, os, sys, tempfile
from pathlib import Path
import chainrelay
os.environ["BCC_KERNEL_SOURCE"] = str(Path(chainrelay.__file__).parents[2] / "ebpf" / "shim")
from bcc import BPF
from chainrelay.privileged.xdp_llvm import instructions
text = '''
BPF_ARRAY(first, u32, 1);
BPF_ARRAY(second, u32, 1);
int probe(struct xdp_md *context) {
    u32 key = 0, *a = second.lookup(&key), *b = first.lookup(&key);
    if (a && b) *a = (*a + *b) << 7 | (*a + *b) >> 25;
    return XDP_PASS;
}'''
with tempfile.TemporaryFile() as printed:
    kept = os.dup(1)
    os.dup2(printed.fileno(), 1)
    module = BPF(text=text, debug=1, cflags=["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"])
    os.dup2(kept, 1)
    printed.seek(0)
    code, tables = instructions(printed.read(), {"it": "probe"})
print(json.dumps({"code": code["it"].hex(), "theirs": module.dump_func("probe").hex(), "tables": tables}))
"""


def test_it_makes_shorter_code_of_the_same_source_and_names_the_maps() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.strip().splitlines()[-1])
    assert made["tables"] == ["first", "second"]
    code = [bytes.fromhex(made["code"])[at : at + 8] for at in range(0, len(made["code"]) // 2, 8)]
    loads = [int.from_bytes(each[4:], "little", signed=True) for each in code if each[0] == 0x18 and each[1] >> 4 == 1]
    assert loads == [-2, -1], "the second map first, as the program has it"
    assert any(each[0] & 7 == 4 for each in code), "no 32-bit arithmetic"
    theirs = bytes.fromhex(made["theirs"])
    assert not any(theirs[at] & 7 == 4 for at in range(0, len(theirs), 8))
    assert len(code) * 8 < len(theirs)


@pytest.mark.parametrize(("printed", "says"), [(b"", "printed no"), (b"; ModuleID = '/virtual/main.c'\n?", "bcc has LLVM|does not read")])
def test_where_it_can_not_be_done_it_says_why(printed: bytes, says: str) -> None:
    with pytest.raises(NoLlvm, match=says):
        instructions(printed, {"it": "probe"})
