"""The preflight on every rank: looks at its node, joins the others, measures, never writes a log.

Rank 0 writes each check as one marked line as soon as it is known: what was found before a fault
reaches the table too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.addresses import find_address
from harness.affinity import Binding, parse_cpus
from harness.commands import GOOD, Parser
from harness.preflight_checks import END, Check, judge, write_check
from harness.preflight_input import compose_measurement, measure_input, read_input_threads
from harness.preflight_judgement import (
    judge_address,
    judge_bandwidth,
    judge_clocks,
    judge_cores,
    judge_input,
    judge_nodes,
)
from harness.preflight_network import (
    CPU_SHARE,
    GRADIENT_BYTES,
    compare_clocks,
    measure_bandwidth,
)
from harness.preflight_node import read_node
from harness.process_group import join, select_device
from harness.provenance import hash_image_manifest, hash_sources
from harness.ranks import Ranks, SharedFault, find_ranks
from harness.systems import System, load_system
from harness.trainer import bind_to_cores, look_before

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str]) -> int:
    """Look, join and measure; status 0 whatever was found, since the host judges."""
    options = parse_arguments(arguments)
    system = load_system(options.system)
    ranks = find_ranks(system.nodes)
    write(ranks, [check_hosts(system, ranks)])
    binding = bind_to_cores(system, ranks)
    write(ranks, [check_binding(system, binding), check_cores(system, ranks, binding)])
    write(ranks, look_at_nodes(system, ranks))
    write(ranks, [check_address(system, ranks)])
    write(ranks, [judge_clocks(compare_clocks(ranks))])
    write(ranks, [measure_resnet_input(system, ranks, options)])
    write(ranks, [check_bert_input()])
    device = look_before(ranks, lambda: select_device(system, ranks))
    start = time.monotonic()
    join(system, ranks, device)
    backend = f"{'gloo' if device.type == 'cpu' else 'nccl'}, {time.monotonic() - start:.1f} s"
    write(ranks, [Check("process group", "ok", backend)])
    for benchmark in ("resnet", "bert"):
        write(ranks, [check_bandwidth(system, ranks, device, benchmark)])
    if ranks.first:
        print(END, flush=True)
    return GOOD


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of the rank side, which harness.preflight composes."""
    parser = Parser(prog="python -m harness.preflight ranks", description=__doc__)
    parser.add_argument("--system", required=True, type=Path)
    parser.add_argument("--images-per-second", type=float, default=None)
    parser.add_argument("--input-seconds", type=float, required=True)
    return parser.parse_args(arguments)


def write(ranks: Ranks, checks: Sequence[Check]) -> None:
    """Write checks from rank 0, a line each."""
    if ranks.first:
        for check in checks:
            print(write_check(check), flush=True)


def check_hosts(system: System, ranks: Ranks) -> Check:
    """All ranks have found each other (else none comes here); say where, and count the hosts."""
    hosts, nodes = sorted(set(ranks.hosts)), system.nodes
    found = f"{ranks.world_size} by {ranks.launcher} on {', '.join(hosts)}"
    wanted = 1 if nodes.one_machine else nodes.count
    return judge("ranks started", len(hosts) == wanted, found,
                 f"{nodes.world_size} on {wanted} host(s)",
                 "give every node a host name of its own, which tells results apart")  # fmt: skip


def check_binding(system: System, binding: Binding) -> Check:
    """Say which CPUs the ranks have."""
    cpus = f"{binding.method}: CPUs {', '.join(dict.fromkeys(binding.cpus))}"
    found = f"{cpus} ({binding.reason})" if binding.reason else cpus
    mend = "start the ranks with the cores near their GPUs, or set binding = 'none'"
    return judge("binding", binding.method == system.nodes.binding, found,
                 system.nodes.binding, mend)  # fmt: skip


def check_cores(system: System, ranks: Ranks, binding: Binding) -> Check:
    """Count each rank's CPUs; what several ranks of a host share is divided among them."""
    if system.nodes.device == "cpu":
        return Check("CPUs of a rank", "not applicable", "device cpu")
    threads = read_input_threads(ROOT / system.benchmarks.resnet.config)
    return judge_cores(share_cpus(ranks.hosts, binding.cpus), threads)


def share_cpus(hosts: Sequence[str], cpus: Sequence[str]) -> dict[str, float]:
    """Each rank's share of its CPUs. cpus: by rank, as the kernel writes them."""
    places = list(zip(hosts, cpus, strict=True))
    return {
        f"rank {rank}": len(parse_cpus(place[1])) / places.count(place)
        for rank, place in enumerate(places)
    }


def check_address(system: System, ranks: Ranks) -> Check:
    """Find rank 0's address, before the process group depends on it."""
    if system.nodes.one_machine or ranks.world_size == 1:
        return Check("rank 0's address", "not applicable", "one machine")
    try:
        return judge_address(find_address(ranks), "")
    except SharedFault as fault:
        return judge_address("", str(fault))


def look_at_nodes(system: System, ranks: Ranks) -> list[Check]:
    """Gather what each node's first rank sees, and judge it (the same on every rank)."""
    mine = ranks.first if system.nodes.one_machine else ranks.first_of_node
    facts = None
    if mine:
        sources = hash_sources(ROOT, ("harness", "resnet", "bert"))
        image = hash_image_manifest(Path(sys.prefix)) or ""
        nccl = ""
        if torch.cuda.is_available():
            nccl = f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"  # type: ignore[no-untyped-call]
        software = f"torch {torch.__version__}{nccl}{describe_mpi(ranks)}"
        host = ranks.hosts[ranks.rank]
        facts = read_node(system, host, ROOT, software, (sources, image))
    return judge_nodes(system, [node for node in ranks.gather(facts) if node is not None])


def describe_mpi(ranks: Ranks) -> str:
    """The MPI that the ranks run with, which an image's base may have a second one of."""
    if ranks.world_size == 1:
        return ""
    from mpi4py import MPI

    return f", {MPI.Get_library_version().partition(',')[0].strip()}"


def measure_resnet_input(system: System, ranks: Ranks, options: argparse.Namespace) -> Check:
    """Measure the input on all ranks at the same time, since they share cores and disks; on one
    machine that stands for all nodes on rank 0 alone."""
    if options.input_seconds == 0:
        return Check(
            "resnet input alone", "not checkable", "not measured", "--input-seconds above 0"
        )
    rate: float | str | None = None
    if ranks.first or not system.nodes.one_machine:
        gpu = ranks.local_rank if system.nodes.device == "cuda" else None
        settings = system.benchmarks.resnet
        config, data = ROOT / settings.config, ROOT / settings.data
        place = (ranks.rank, ranks.world_size)
        command = compose_measurement(config, data, options.input_seconds, place, gpu)
        rate = measure_input(command, options.input_seconds, ROOT)
    rates = {
        f"rank {rank}": rate for rank, rate in enumerate(ranks.gather(rate)) if rate is not None
    }
    faults = [f"{rate} ({rank})" for rank, rate in rates.items() if isinstance(rate, str)]
    if faults:
        return judge_input(faults[0], None)
    return judge_input(
        {rank: float(rate) for rank, rate in rates.items()}, options.images_per_second
    )


def check_bert_input() -> Check:
    """BERT's loader has no command of its own."""
    return Check("bert input alone", "not checkable", "no command measures it apart from a run")


def check_bandwidth(system: System, ranks: Ranks, device: torch.device, benchmark: str) -> Check:
    """Measure an all-reduce of a benchmark's gradients."""
    share = CPU_SHARE if device.type == "cpu" else 1.0
    size = int(share * GRADIENT_BYTES[benchmark])
    if ranks.world_size == 1:
        return Check(f"all-reduce ({benchmark})", "not applicable", "one rank")
    measured, _ = measure_bandwidth(size, ranks, device)
    promised = getattr(system.expected.all_reduce_gigabytes_per_second, benchmark)
    words = "" if share == 1.0 else ", a tenth: device cpu"
    return judge_bandwidth(benchmark, size / 1e6, words, measured, promised)
