"""What a run needs of its nodes, judged from what they told."""

from __future__ import annotations

from collections.abc import Sequence

from harness.preflight_checks import Check, judge, judge_least, judge_same
from harness.preflight_gpus import check_gpus
from harness.preflight_node import JPEG_DECODER, NodeFacts
from harness.systems import System

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
# For one rank: the trainer's own memory beside the page cache.
MEMORY_BYTES = {"cpu": GIBIBYTE, "cuda": 16 * GIBIBYTE}
# For one rank: what ranks of a node exchange there. Docker gives a container 64 MiB unless told.
SHARED_MEMORY_BYTES = {"cpu": 8 * MEBIBYTE, "cuda": 64 * MEBIBYTE}
TEMPORARY_BYTES = GIBIBYTE
MOST_CLOCK_DIFFERENCE_SECONDS = 0.5
GPU_LINES = (
    "GPUs a node",
    "GPU name",
    "GPU driver",
    "GPU clocks",
    "GPU ECC mode",
    "GPU memory free",
)
MIB, GIB = ("MiB", float(MEBIBYTE)), ("GiB", float(GIBIBYTE))


def judge_nodes(system: System, nodes: Sequence[NodeFacts]) -> list[Check]:
    """Judge what every node's first rank has told; one entry where one machine stands for all."""
    device = system.nodes.device
    ranks = system.nodes.world_size if system.nodes.one_machine else system.nodes.ranks_per_node
    images = {node.host: node.image or "none: not run from an image" for node in nodes}
    checks = [
        judge_same("source hash", {node.host: node.sources for node in nodes},
                   "install one version of the kit on all nodes"),
        judge_same("image manifest", images, "give all nodes the same image file"),
        judge_same("software", {node.host: node.software for node in nodes},
                   "give all nodes one environment"),
        judge_least("memory available", {node.host: node.memory for node in nodes},
                    ranks * MEMORY_BYTES[device], GIB,
                    "end what else runs on that node; in a Slurm job ask for all of it: --mem=0"),
        judge_least("/dev/shm free", {node.host: node.shared_memory for node in nodes},
                    ranks * SHARED_MEMORY_BYTES[device], MIB,
                    "give the container the host's: docker run --ipc host, or --shm-size"),
        judge_memlock(system, nodes),
        judge_ports(system, nodes),
        judge_jpeg_decoder(system, nodes),
        judge_least("temporary folder free", {node.host: node.temporary for node in nodes},
                    TEMPORARY_BYTES, GIB, "free space on that node, or name another by TMPDIR"),
    ]  # fmt: skip
    checks += [check for name in ("resnet", "bert") for check in judge_data(system, name, nodes)]
    if device == "cpu":
        return checks + [Check(name, "not applicable", "device cpu") for name in GPU_LINES]
    return checks + check_gpus(system, {node.host: node.gpus for node in nodes})


def judge_memlock(system: System, nodes: Sequence[NodeFacts]) -> Check:
    """InfiniBand pins the memory it sends from; a limit fails in the middle of a run."""
    limits = [node for node in nodes if node.memlock != -1]
    found = f"{limits[0].memlock / MEBIBYTE:,.1f} MiB ({limits[0].host})" if limits else "unlimited"
    if system.nodes.device == "cpu":
        return Check("locked memory", "not applicable", f"{found}, device cpu pins none")
    mend = "ulimit -l unlimited: Slurm's PropagateResourceLimitsExcept, docker --ulimit memlock=-1"
    return judge("locked memory", not limits, found, "unlimited", mend)


def judge_ports(system: System, nodes: Sequence[NodeFacts]) -> Check:
    """Cards that a container does not show cost no error: NCCL then sends over TCP, slowly."""
    name = "InfiniBand and RoCE ports"
    if system.nodes.device == "cpu" or system.nodes.count == 1:
        return Check(name, "not applicable", "device cpu, or one node")
    if not any(node.network.all for node in nodes):
        return Check(name, "not checkable", "none on any node: NCCL will send over TCP",
                     "if the nodes have some, show the ranks /sys and /dev/infiniband")  # fmt: skip
    if shut := [node for node in nodes if node.network.shut_cards]:
        found = f"{shut[0].network.shut_cards} card(s) cannot be opened ({shut[0].host})"
        return judge(name, False, found, "every card in /dev/infiniband",
                     "show the ranks that folder: docker run --device=/dev/infiniband")  # fmt: skip
    ports = {node.host: f"{node.network.active} active of {node.network.all}" for node in nodes}
    return judge_same(name, ports, "mend the cables or ports of the node that has fewer")


def judge_jpeg_decoder(system: System, nodes: Sequence[NodeFacts]) -> Check:
    """A container that hides the decoder costs no error: nvJPEG then decodes on the rank's CPUs."""
    name = "GPU's JPEG decoder"
    if system.nodes.device == "cpu":
        return Check(name, "not applicable", "device cpu")
    faults = [node for node in nodes if node.jpeg_decoder]
    found = f"{faults[0].jpeg_decoder} ({faults[0].host})" if faults else f"{JPEG_DECODER} loads"
    mend = (
        "show the ranks the driver's video libraries: docker run -e "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video, libnvcuvid.so in singularity's "
        "nvliblist.conf"
    )
    return judge(name, not faults, found, f"{JPEG_DECODER} on every node", mend)


def judge_cores(cpus: dict[str, float], threads: int) -> Check:
    """CPUs of each rank against what its input decodes with. cpus: by rank, its share."""
    rank = min(cpus, key=lambda name: cpus[name])
    return judge("CPUs of a rank", cpus[rank] >= threads + 1, f"{cpus[rank]:g} ({rank}, the least)",
                 f">= {threads + 1}: the rank itself and resnet's [input] threads",
                 "give the ranks all CPUs of their nodes (srun: --cpus-per-task), or lower "
                 "[input] threads")  # fmt: skip


def judge_address(address: str, fault: str) -> Check:
    """Whether all nodes reach rank 0, by its host name or another of its addresses.

    address: the one that the process group will take. fault: why there is none.
    """
    return judge("rank 0's address", not fault, fault or f"all reach {address}",
                 "an address of rank 0's node that all nodes reach",
                 "let the node's name mean, on every node, the address that they share, and let no "
                 "firewall close ports between nodes")  # fmt: skip


def judge_data(system: System, benchmark: str, nodes: Sequence[NodeFacts]) -> list[Check]:
    """Data present in the stated sizes, and the same data on all nodes."""
    name = f"{benchmark} data"
    makers = [f"python -m {maker}" for maker in system.campaign.make_data]
    mend = " and ".join(makers) or f"copy the data there (docs/{benchmark}_data.md), or mend 'data'"
    faults = [node for node in nodes if node.data[benchmark].fault]
    if faults:
        found = f"{faults[0].data[benchmark].fault} ({faults[0].host})"
        return [Check(name, "failed", found, "whole on every node", mend)]
    facts = {node.host: node.data[benchmark] for node in nodes}
    sizes = {host: f"{data.files} files, {data.bytes:,} bytes" for host, data in facts.items()}
    digests = {host: data.digest for host, data in facts.items()}
    return [judge_same(name, sizes, mend), judge_same(f"{benchmark} manifest", digests, mend)]


def judge_clocks(offsets: dict[str, tuple[float, float]]) -> Check:
    """Clocks of the nodes against rank 0's. offsets: by host seconds and their uncertainty."""
    if len(offsets) == 1:
        return Check("clocks of the nodes", "not applicable", "one host, one clock")
    host = max(offsets, key=lambda name: abs(offsets[name][0]))
    seconds, uncertain = offsets[host]
    least = max(0.0, abs(seconds) - uncertain)
    found = f"{seconds:+.4f} s +- {uncertain:.4f} s ({host})"
    return judge("clocks of the nodes", least <= MOST_CLOCK_DIFFERENCE_SECONDS, found,
                 f"within {MOST_CLOCK_DIFFERENCE_SECONDS:g} s of rank 0",
                 "start chrony or ntpd on that node")  # fmt: skip


def judge_bandwidth(
    benchmark: str, megabytes: float, share: str, measured: float, promised: float
) -> Check:
    """An all-reduce's bus bandwidth in GB/s against the system file's; 0: nothing promised."""
    name = f"all-reduce, {megabytes:,.1f} MB ({benchmark}'s gradients{share})"
    found = f"{measured:.3f} GB/s bus bandwidth"
    if not promised:
        return Check(name, "not checkable", found, "[expected] states none")
    mend = "look at NCCL_DEBUG=INFO for the network it takes; or mend [expected]"
    return judge(name, measured >= promised, found, f">= {promised:g} GB/s", mend)


def judge_input(rates: dict[str, float] | str, wanted: float | None) -> Check:
    """ResNet's input alone against the step. rates: images/s by rank, or why there are none."""
    name = "resnet input alone"
    if isinstance(rates, str):
        return Check(name, "failed", rates, "", "run the command by hand on that node")
    slowest = min(rates, key=lambda rank: rates[rank])
    found = f"{rates[slowest]:,.1f} images/s of {slowest}, the slowest"
    if wanted is None:
        return Check(name, "not checkable", found, "give --resnet-probe to compare")
    return judge(name, rates[slowest] >= wanted, found, f">= {wanted:,.1f} images/s, the step's",
                 "more [input] threads or cores a rank, or a faster disk")  # fmt: skip
