"""Compiles ebpf/layout.h and prints, as JSON, every number that the C side means: sizes, offsets, verdicts, version.

A process of its own, because bcc keeps LLVM in memory. Which expressions to evaluate comes by standard input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from chainrelay.privileged.xdp_bpf import Program

SOURCE = Path(__file__).resolve().parents[3] / "ebpf"


def main() -> None:
    """Expressions in (a JSON list), values out (a JSON object)."""
    expressions: list[str] = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE / "shim")
    from bcc import BPF

    lines = "".join(
        f"{{ u32 key = {number}; u64 value = {expression}; results.update(&key, &value); }}\n"
        for number, expression in enumerate(expressions)
    )
    text = (
        '#include "layout.h"\n#include "verdict.h"\n'
        f"BPF_ARRAY(results, u64, {len(expressions)});\n"
        f"int probe(struct xdp_md *context) {{\n{lines}return XDP_PASS; }}\n"
    )
    flags = [f"-I{SOURCE}", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
    module = BPF(text=text, cflags=flags)
    Program(module.load_func("probe", BPF.XDP).fd, "probe").run(bytes(64))
    print(json.dumps({each: module["results"][number].value for number, each in enumerate(expressions)}))


if __name__ == "__main__":
    main()
