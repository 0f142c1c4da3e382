"""Compiles every kernel variant for GPUs that need not be there, and reads what came of it.

`python -m tests.harness.ops.compilation FILE` writes, for each variant and architecture, what one
thread of it needs and how wide its accesses of global memory are. It runs in a process of its own,
because Triton fixes on import whether kernels are interpreted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.harness.ops.kernel_variants import Variant, list_variants

ARCHITECTURES = (80, 90, 100)  # A100, H100 and H200, B200
ACCESS = re.compile(r"\b(ld|st)\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.b(\d+)\b")
SCALAR = re.compile(r"\btt\.(load|store) .*: !tt\.ptr<[a-z]+(\d+)>")
LAYOUT = re.compile(r"(#\w+) = #ttg\.blocked<\{sizePerThread = \[([\d, ]+)\]")
TILE = re.compile(r"\btt\.(load|store) .*: tensor<([\dx]+)x!tt\.ptr<[a-z]+(\d+)>, (#\w+)>")
COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global\s+\[[^]]*\],\s*\[[^]]*\],\s*(\w+)")
QUIET = re.compile(r"\bmax(?:\.ftz)?\.f32\b")  # a maximum that takes a number before what is none
LABEL = re.compile(r"\s*(\$\w+):")
BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$\w+)")
ORDERED = re.compile(r"\b(?:atom|red)\.\S*\b(?:acq_rel|acquire|release)\b")


def read_tiles(ttgir: str) -> dict[str, list[int]]:
    """Bytes that one thread moves at a time of every tile: {"load": [...], "store": [...]}.

    A tile has two dimensions and more than bytes for elements: activations and weights, not the
    vectors beside them that a program reads once.
    """
    layouts = {
        name: [int(size) for size in sizes.split(",")] for name, sizes in LAYOUT.findall(ttgir)
    }
    widths: dict[str, list[int]] = {"load": [], "store": []}
    for kind, shape, bits, layout in TILE.findall(ttgir):
        if shape.count("x") >= 1 and int(bits) > 8:
            widths[kind].append(min(layouts[layout][-1] * int(bits) // 8, 16))
    return widths


def read_accesses(ptx: str, ttgir: str) -> tuple[dict[int, int], dict[int, int]]:
    """Loads and stores of global memory in a kernel's text, by the bytes that one thread moves.

    What the program moves as single numbers (a label, a scale), as Triton's own text tells, is left
    out: nothing is to be said of its width.
    """
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for kind, vector, bits in ACCESS.findall(ptx):
        (loads if kind == "ld" else stores)[int(vector or 1) * int(bits) // 8] += 1
    for size in COPY.findall(ptx):
        loads[int(size, 0)] += 1
    for kind, bits in SCALAR.findall(ttgir):
        (loads if kind == "load" else stores)[int(bits) // 8] -= 1
    return dict(+loads), dict(+stores)


def count_loop_barriers(ptx: str) -> int:
    """Places in a kernel's loops where all warps of a program wait for each other."""
    lines = ptx.splitlines()
    places: dict[str, int] = {}
    found: set[int] = set()
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            places[label[1]] = number
        elif (branch := BRANCH.search(line)) and branch[1] in places:
            loop = range(places[branch[1]], number)
            found |= {place for place in loop if "bar.sync" in lines[place]}
    return len(found)


def read_resources(cubin: bytes) -> dict[str, int]:
    """Registers, and bytes of stack, local and shared memory, as cuobjdump reads them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    return {
        "registers": found["REG"],
        "stack_bytes": found["STACK"],
        "local_bytes": found["LOCAL"],
        "shared_bytes": found["SHARED"],
    }


def compile_variant(variant: Variant, architecture: int) -> dict[str, Any]:
    """What one variant needs on one architecture."""
    source = ASTSource(
        fn=variant.kernel,
        signature=variant.signature,
        constexprs=variant.constants,
        attrs={(number,): [["tt.divisibility", 16]] for number in variant.aligned},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": variant.warps, "num_stages": variant.stages},
    )
    loads, stores = read_accesses(compiled.asm["ptx"], compiled.asm["ttgir"])
    resources = read_resources(compiled.asm["cubin"])
    resources["shared_bytes"] = max(resources["shared_bytes"], compiled.metadata.shared)
    tiles = read_tiles(compiled.asm["ttgir"])
    threads = 32 * variant.warps
    name = compiled.metadata.name
    return {
        **resources,
        "name": name,
        "loads": loads,
        "stores": stores,
        "tiles": tiles,
        "threads": threads,
        "loop_barriers": count_loop_barriers(compiled.asm["ptx"]),
        "fences": len(ORDERED.findall(compiled.asm["ptx"])),
        "quiet_maxima": len(QUIET.findall(compiled.asm["ptx"])),
    }


def compile_one(task: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    number, architecture = task
    variant = list_variants()[number]
    return f"{variant.name}-sm{architecture}", compile_variant(variant, architecture)


def main(file: Path) -> None:
    """Compile all on all processors."""
    variants = list(enumerate(list_variants()))
    tasks = [(n, a) for n, variant in variants for a in ARCHITECTURES if variant.runs_on(a)]
    with ProcessPoolExecutor() as pool:
        results = dict(pool.map(compile_one, tasks, chunksize=len(ARCHITECTURES)))
    file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
