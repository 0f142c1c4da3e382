"""What the compiler makes of our kernels: registers, spills, and the width of every access.

All variants are compiled in one process that does not interpret; Triton's own cache, in pytest's
cache folder, keeps what came of it, so that an unchanged kernel is compiled once on a machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("Triton is published for Linux on x86_64 alone", allow_module_level=True)

from harness.commands import InputError  # noqa: E402
from harness.operation_counts import name_kind  # noqa: E402
from harness.ops.batch_norm_launches import PROGRAMS_PER_MULTIPROCESSOR  # noqa: E402
from harness.ops.kernels import Launch, divide_up, record_launches, round_up_to_power  # noqa: E402
from tests.harness.ops.compilation import (  # noqa: E402
    ARCHITECTURES,
    count_loop_barriers,
    read_accesses,
    read_tiles,
)
from tests.harness.ops.kernel_variants import (  # noqa: E402
    MANY_REGISTERS,
    NARROW_LOADS,
    NARROW_STORES,
    OLDEST_ARCHITECTURE,
    Variant,
    list_variants,
)

REGISTERS = 65536  # of a multiprocessor
MOST_REGISTERS = 128  # four programs of four warps on a multiprocessor, at least
ALL_REGISTERS = 255  # two programs of four warps
VARIANTS = list_variants()
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def compiled(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Results:
    file = tmp_path_factory.mktemp("kernels") / "compiled.json"
    assert pytestconfig.cache is not None
    environment = {**os.environ, "TRITON_CACHE_DIR": str(pytestconfig.cache.mkdir("triton"))}
    del environment["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "tests.harness.ops.compilation", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: Results = json.loads(file.read_text())
    return results


def wide_share(accesses: dict[str, int]) -> float:
    """The share of the bytes that move in accesses of 16 bytes a thread or more."""
    moved = {int(size): int(size) * number for size, number in accesses.items()}
    return sum(amount for size, amount in moved.items() if size >= 16) / sum(moved.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_fits_its_registers_and_moves_vectors(
    compiled: Results, variant: Variant, architecture: int
) -> None:
    if not variant.runs_on(architecture):
        pytest.skip("this architecture lacks the instructions")
    result = compiled[f"{variant.name}-sm{architecture}"]
    assert result["stack_bytes"] == result["local_bytes"] == 0, "registers are spilled"
    assert result["fences"] == 0, "an atomic waits for memory and empties L1"
    kernel = variant.kernel_name
    # Neighbouring bytes of a mask are brought together to be stored.
    waits = 2 if variant.constants.get("keep_mask") else 0
    assert result["loop_barriers"] <= waits, "warps wait for each other in a loop"
    most = ALL_REGISTERS if kernel in MANY_REGISTERS else MOST_REGISTERS
    assert result["registers"] <= most
    assert result["shared_bytes"] <= 48 * 1024  # the default of a program on every architecture
    for kind, accesses in (("load", result["loads"]), ("store", result["stores"])):
        tiles = result["tiles"][kind]
        assert all(width == 16 for width in tiles), (kind, tiles)
        # What the layouts promise is what the machine's text has.
        assert accesses.get("16", 0) >= len(tiles), (kind, tiles, accesses)
    if kernel not in NARROW_LOADS and not result["tiles"]["load"]:
        assert wide_share(result["loads"]) >= 0.75, result["loads"]
    if kernel not in NARROW_STORES and not result["tiles"]["store"]:
        assert wide_share(result["stores"]) >= 0.75, result["stores"]


def test_exceptions_name_kernels_that_there_are() -> None:
    exceptions = (NARROW_LOADS, NARROW_STORES, MANY_REGISTERS, OLDEST_ARCHITECTURE)
    names = {variant.kernel_name for variant in VARIANTS}
    assert {name for table in exceptions for name in table} <= names


def test_all_programs_of_a_first_pass_fit_at_once(compiled: Results) -> None:
    names = ("statistics", "reduce", "reduce_pair", "reduce_pool")
    first = [v for v in VARIANTS if v.kernel_name.endswith(tuple(f":{n}_kernel" for n in names))]
    assert len({variant.kernel_name for variant in first}) == len(names)
    for variant in first:
        for architecture in ARCHITECTURES:
            result = compiled[f"{variant.name}-sm{architecture}"]
            registers = 8 * divide_up(result["registers"], 8) * result["threads"]
            assert PROGRAMS_PER_MULTIPROCESSOR * registers <= REGISTERS, variant.name


def test_accesses_are_read_off_the_text() -> None:
    text = """
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    @%p1 ld.global.L1::evict_first.v2.b64 { %rd2, %rd3 }, [ %rd1 + 0 ];
    ld.global.b16 { %rs1 }, [ %rd9 + 0 ];
    st.global.v2.b32 [ %rd5 + 0 ], { %r1, %r2 };
    cp.async.cg.shared.global [ %r7 + 0 ], [ %rd8 + 0 ], 0x10, %r9;
    ld.shared.v4.b32 { %r1, %r2, %r3, %r4 }, [ %r5 ];
    """
    scalars = """
    %x = tt.load %logits, %mask : tensor<1024x!tt.ptr<bf16>, #blocked> loc(#loc6)
    %label = tt.load %labels : !tt.ptr<i16> loc(#loc7)
    """
    assert read_accesses(text, "") == ({16: 3, 2: 1}, {8: 1})
    assert read_accesses(text, scalars) == ({16: 3}, {8: 1})
    assert wide_share({"16": 3, "2": 8}) == 0.75


def test_tiles_are_read_off_the_text() -> None:
    text = """
    #blocked = #ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [1, 32], order = [1, 0]}>
    #blocked1 = #ttg.blocked<{sizePerThread = [2], threadsPerWarp = [32], order = [0]}>
    %x = tt.load %p, %m, %o : tensor<8x256x!tt.ptr<bf16>, #blocked> loc(#loc)
    %w = tt.load %q : tensor<256x!tt.ptr<f32>, #blocked1> loc(#loc)
    tt.store %p, %y, %m : tensor<8x256x!tt.ptr<f32>, #blocked> loc(#loc)
    tt.store %b, %z, %m : tensor<8x32x!tt.ptr<i8>, #blocked> loc(#loc)
    """
    assert read_tiles(text) == {"load": [16], "store": [16]}
    narrow = text.replace("[1, 8]", "[1, 2]")
    assert read_tiles(narrow) == {"load": [4], "store": [8]}


def test_barriers_are_counted_within_loops_alone() -> None:
    text = """
    bar.sync \t0;
    @%p1 bra \t$L__BB0_4;
$L__BB0_2:                              // %.lr.ph
    bar.sync \t0;
    @%p2 bra \t$L__BB0_3;
    bar.sync \t0;
$L__BB0_3:
    @%p3 bra \t$L__BB0_2;
$L__BB0_4:
    bar.sync \t0;
    """
    assert count_loop_barriers(text) == 2
    assert count_loop_barriers(text.replace("@%p3 bra", "@%p3 bra.uni")) == 2


def test_a_profile_can_tell_kernels_apart(compiled: Results) -> None:
    """Each has a name of its own, of the kind of work that its operation is."""
    kernels = {variant.kernel_name: variant for variant in VARIANTS}
    names = {name: compiled[f"{variant.name}-sm90"]["name"] for name, variant in kernels.items()}
    assert len(set(names.values())) == len(names)
    assert names["batch_norm_kernels:apply_kernel"] == "batch_norm_apply"
    assert names["lars_update_triton:apply_kernel"] == "lars_update_apply"
    kinds = {name: name_kind(shown) for name, shown in names.items()}
    for name, kind in kinds.items():
        if name.startswith("batch_norm"):
            assert kind == "normalisation"
        if name.startswith(("lars", "lamb", "chunk_sums")):
            assert kind == "gradients and update"
        if "cross_entropy" in name:
            assert kind == "loss"


def test_no_relu_of_a_gpu_drops_what_is_no_number(compiled: Results) -> None:
    """The interpreter's maximum keeps it always, a GPU's only where it is told to."""
    kernels = {
        "batch_norm_kernels:apply_kernel",
        "batch_norm_pair_kernels:apply_pair_kernel",
        "batch_norm_pool_kernels:apply_pool_kernel",
    }
    cutting = [variant for variant in VARIANTS if variant.kernel_name in kernels]
    assert {variant.kernel_name for variant in cutting} == kernels
    for variant in cutting:
        for architecture in ARCHITECTURES:
            assert compiled[f"{variant.name}-sm{architecture}"]["quiet_maxima"] == 0


def test_launches_without_memory_are_written_down_and_compute_nothing() -> None:
    launch = Launch(None, (3,), {"block": 4}, warps=8)
    nothing = torch.empty(5, device="meta")
    launch(nothing, 7)
    with record_launches() as records:
        launch(nothing, 7)
    launch(nothing, 7)
    assert [record.launch for record in records] == [launch]
    assert records[0].arguments[1] == 7


def test_a_compiled_kernel_refuses_tensors_that_no_gpu_holds() -> None:
    code = (
        "import torch\n"
        "from harness.ops import resolve\n"
        "resolve('label_smoothed_cross_entropy', 'triton')"
        "(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), 0.1)\n"
    )
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"{InputError.__name__}: provider 'triton' computes on a GPU" in done.stderr


def test_sizes() -> None:
    assert [divide_up(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [round_up_to_power(n) for n in (1, 2, 3, 1000, 1024)] == [1, 2, 4, 1024, 1024]


def test_interpreted_bf16_is_rounded_as_torch_rounds() -> None:
    from tests.harness.ops.conftest import round_to_bf16

    torch.manual_seed(1)
    special = torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, float("inf"), 3.4e38, 1e-40])
    numbers = torch.cat([torch.randn(10000), special])
    ours = torch.from_numpy(round_to_bf16(numbers.numpy())).view(torch.bfloat16)
    assert torch.equal(ours, numbers.bfloat16())
