"""Drafts the MLPerf system description from the system file and the node at hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from scoring.package.description import FIELDS, STATUS_TEXTS
from scoring.package.machine import Machine
from scoring.package.system_file import SystemFile
from scoring.prose import DEMONSTRATION

_TERABYTE = 10**12


@dataclass(frozen=True)
class Draft:
    """A description with all fields, those that must be filled in by hand, and doubts in words."""

    description: dict[str, str]
    unknown: tuple[str, ...]
    doubts: tuple[str, ...]


def draft_description(system: SystemFile, machine: Machine) -> Draft:
    """Draft the description of a system of equal nodes, one of which is `machine`.

    What the machine does not say is left empty; cooling and notes are for people to write.
    """
    known = {**_describe_system(system), **_describe_host(machine), **_describe_software(machine)}
    known.update(_describe_accelerators(system, machine))
    description = {field: known.get(field, "") for field in FIELDS}
    doubts = []
    if system.device == "cuda" and machine.accelerators.count != system.accelerators_per_node:
        doubts.append(
            f"the system file has {system.accelerators_per_node} accelerators a node, this machine "
            f"shows {machine.accelerators.count}: run this on a node of the system"
        )
    has_accelerators = bool(system.accelerators_per_node)
    unknown = tuple(
        field
        for field in FIELDS
        if not description[field] and (has_accelerators or not field.startswith("accelerator_"))
    )
    return Draft(description, unknown, tuple(doubts))


def _describe_system(system: SystemFile) -> dict[str, str]:
    notes = ""
    if system.one_machine:
        notes = f"{DEMONSTRATION}: one machine stands for {system.nodes} nodes"
    return {
        "submitter": system.organization,
        "division": "closed",
        "status": STATUS_TEXTS.get(system.status, ""),
        "system_name": system.name,
        "number_of_nodes": str(system.nodes),
        "hw_notes": notes,
    }


def _describe_host(machine: Machine) -> dict[str, str]:
    processor = machine.processor
    sizes = Counter(machine.drives)
    return {
        "host_processors_per_node": _count(processor.sockets),
        "host_processor_model_name": processor.model,
        "host_processor_core_count": _count(processor.cores_per_socket),
        # Counted where the node is a virtual machine, as the published descriptions do.
        "host_processor_vcpu_count": _count(processor.logical_count) if processor.virtual else "",
        "host_processor_frequency": processor.frequency,
        "host_processor_caches": processor.caches,
        "host_memory_capacity": _write_gibibytes(machine.memory_bytes),
        "host_storage_type": ", ".join(dict.fromkeys(kind for kind, _ in machine.drives)),
        "host_storage_capacity": ", ".join(
            f"{count}x {_write_terabytes(size)} {kind}"
            for (kind, size), count in sorted(sizes.items())
        ),
        "host_networking": ", ".join(machine.networks),
        "operating_system": machine.operating_system,
    }


def _describe_software(machine: Machine) -> dict[str, str]:
    packages = dict(machine.packages)
    torch = packages.pop("PyTorch", "")
    stack = [f"{name} {version}" for name, version in packages.items()]
    if machine.accelerators.driver:
        stack.append(f"NVIDIA driver {machine.accelerators.driver}")
    stack.append(f"Python {machine.python}")
    if machine.kernel:
        stack.append(f"Linux {machine.kernel}")
    return {
        "framework": f"PyTorch {torch}" if torch else "",
        "other_software_stack": ", ".join(stack),
    }


def _describe_accelerators(system: SystemFile, machine: Machine) -> dict[str, str]:
    found = machine.accelerators
    fields = {"accelerators_per_node": str(system.accelerators_per_node)}
    if system.device == "cuda":
        fields.update(
            {
                "accelerator_model_name": found.model,
                "accelerator_memory_capacity": found.memory,
                "accelerator_frequency": found.frequency,
                "accelerator_host_interconnect": found.host_interconnect,
                "accelerator_interconnect": found.interconnect,
            }
        )
    return fields


def _count(number: int) -> str:
    return str(number) if number else ""


def _write_gibibytes(size: int) -> str:
    return f"{size / 2**30:.0f} GiB" if size else ""


def _write_terabytes(size: int) -> str:
    return f"{size / _TERABYTE:.3g} TB"
