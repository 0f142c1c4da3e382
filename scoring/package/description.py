"""The MLPerf system description (systems/<system>.json): its fields, and whether they can be right.

Source: mlcommons/logging, system_desc_checker of mlperf-logging 4.1.68, which looks for the fields
and, from ruleset 4.0.0 on, for the text of `status`; the rest is what a reviewer needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scoring.findings import Finding, quote
from scoring.package.document import read_document
from scoring.package.system_file import SystemFile
from scoring.profile import Profile

FILE = "system.json"
SIZE_LIMIT_BYTES = 1 << 20

FIELDS = (
    *("submitter", "division", "status", "system_name", "number_of_nodes"),
    *("host_processors_per_node", "host_processor_model_name", "host_processor_core_count"),
    *("host_processor_vcpu_count", "host_processor_frequency", "host_processor_caches"),
    *("host_processor_interconnect", "host_memory_capacity", "host_storage_type"),
    *("host_storage_capacity", "host_networking", "host_networking_topology"),
    *("host_memory_configuration", "accelerators_per_node", "accelerator_model_name"),
    *("accelerator_host_interconnect", "accelerator_frequency", "accelerator_on-chip_memories"),
    *("accelerator_memory_configuration", "accelerator_memory_capacity"),
    *("accelerator_interconnect", "accelerator_interconnect_topology", "cooling", "hw_notes"),
    *("framework", "other_software_stack", "operating_system", "sw_notes"),
)
# The texts that the checker takes, by the word that the logs' submission_status has for each.
STATUS_TEXTS = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "research": "Research, Development, or Internal (RDI)",
    "preview": "Preview",
}
_COUNTS = ("number_of_nodes", "accelerators_per_node")
_NUMBERS = (
    *_COUNTS,
    *("host_processors_per_node", "host_processor_core_count", "host_processor_vcpu_count"),
)
# Without these a reviewer can neither judge the speed nor rebuild the system.
_NEEDED = (
    *("submitter", "system_name", "host_processors_per_node", "host_processor_model_name"),
    *("host_processor_core_count", "host_memory_capacity", "host_storage_type"),
    *("host_storage_capacity", "host_networking", "framework", "other_software_stack"),
    "operating_system",
)
_NEEDED_OF_ACCELERATORS = (
    *("accelerator_model_name", "accelerator_memory_capacity", "accelerator_host_interconnect"),
    "accelerator_interconnect",
)
_WHOLE_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def read_description(path: Path) -> dict[str, Any]:
    """Read a system description from a file. Raises InputError where it is no JSON object."""
    return read_document(path, str(path), SIZE_LIMIT_BYTES, "a JSON system description")


def write_description(description: dict[str, Any]) -> bytes:
    """Write a system description as JSON."""
    return f"{json.dumps(description, indent=1)}\n".encode("ascii")


def check_description(
    description: dict[str, Any],
    profile: Profile,
    system: SystemFile | None = None,
    organization: str | None = None,
    status: str | None = None,
    file: str = FILE,
) -> list[Finding]:
    """Check a system description field by field.

    system: the system file it is compared with; organization and status: what the logs say
    (submission_org, submission_status); what is None is not compared. file: named in the findings.
    """
    pairs = [
        *_check_kinds(description),
        *_check_words(description, organization, status),
        *_check_counts(description, profile, system),
        *_check_empty(description),
    ]
    return [Finding(rule, message, file=file) for rule, message in pairs]


def _check_kinds(description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for field in FIELDS:
        value = description.get(field)
        if field not in description:
            yield "description", f"field {field} is missing"
        elif not isinstance(value, str):
            yield "description", f"field {field} is {quote(value)}, must be a text"
        elif _is_wrong_number(field, value):
            yield "description", f"field {field} is {quote(value)}, must be a whole number"


def _is_wrong_number(field: str, value: str) -> bool:
    """Say whether a field for a number holds something else; most may be empty."""
    if field not in _NUMBERS or _WHOLE_NUMBER.fullmatch(value):
        return False
    return bool(value) or field in _COUNTS


def _check_words(
    description: dict[str, Any], organization: str | None, status: str | None
) -> Iterator[tuple[str, str]]:
    division, submitter = description.get("division"), description.get("submitter")
    if isinstance(division, str) and division != "closed":
        yield "description", f"division is {quote(division)}, must be closed"
    if organization is not None and isinstance(submitter, str) and submitter != organization:
        logged = quote(organization)
        yield "description", f"submitter is {quote(submitter)}, submission_org of the logs {logged}"
    text = description.get("status")
    if not isinstance(text, str):
        return
    if text not in STATUS_TEXTS.values():
        known = ", ".join(quote(known) for known in STATUS_TEXTS.values())
        yield "description", f"status is {quote(text)}, must be one of {known}"
    elif status is not None and text != STATUS_TEXTS.get(status):
        logged = quote(status)
        yield "description", f"status is {quote(text)}, submission_status of the logs {logged}"


def _check_counts(
    description: dict[str, Any], profile: Profile, system: SystemFile | None
) -> Iterator[tuple[str, str]]:
    nodes = _read_number(description, "number_of_nodes")
    accelerators = _read_number(description, "accelerators_per_node")
    if nodes is not None and profile.nodes and nodes != profile.nodes:
        yield (
            "description",
            f"number_of_nodes is {nodes}, profile {profile.name} asks for {profile.nodes}",
        )
    if nodes == 0:
        yield "description", "number_of_nodes is 0, must be at least 1"
    if system is None:
        return
    if nodes is not None and nodes != system.nodes:
        message = f"number_of_nodes is {nodes}, the system file has {system.nodes} nodes"
        yield "description", message
    if accelerators is not None and accelerators != system.accelerators_per_node:
        what = f"{system.ranks_per_node} ranks a node on device {quote(system.device)}"
        message = f"accelerators_per_node is {accelerators}, the system file has {what}"
        yield "description", message


def _check_empty(description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    fields: tuple[str, ...] = _NEEDED
    if _read_number(description, "accelerators_per_node"):
        fields += _NEEDED_OF_ACCELERATORS
    empty = [field for field in fields if _is_blank(description.get(field))]
    if empty:
        yield "description-empty", f"empty, though a reviewer needs it: {', '.join(empty)}"


def _read_number(description: dict[str, Any], field: str) -> int | None:
    value = description.get(field)
    return int(value) if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else None


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()
