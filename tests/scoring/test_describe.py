"""`describe`: what a node says of itself, on made-up machines and on this one."""

import json
import os
from pathlib import Path

import pytest

from scoring.__main__ import main
from scoring.exits import InputError
from scoring.package.description import FIELDS, check_description
from scoring.package.draft import draft_description
from scoring.package.machine import Machine, Processor, read_machine, run_program
from scoring.package.system_file import parse_system_file, read_system_file
from scoring.profile import load_profile

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "systems" / "demo.toml"
GPU_SYSTEM = ROOT / "systems" / "example-4x8-h200.toml"
QUERY = "NVIDIA H200, 143771, 1980, 5, 16, 570.86.15\n"
TOPOLOGY = "\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n"


def answer(command):
    """Stand for the programs of a GPU node."""
    if command[0] == "nvidia-smi":
        return TOPOLOGY if "topo" in command else QUERY * 8
    return ""


def write_files(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def node(tmp_path):
    """Make /proc, /sys and /etc of a node: two sockets of two cores of two threads."""
    processors = "\n".join(
        f"processor : {n}\nmodel name\t: Fast CPU 9\nflags\t\t: fpu sse\n" for n in range(8)
    )
    write_files(
        tmp_path,
        {
            "proc/cpuinfo": processors,
            "proc/meminfo": "MemTotal:       1056771072 kB\nMemFree: 1 kB\n",
            "proc/sys/kernel/osrelease": "6.1.0\n",
            "etc/os-release": 'PRETTY_NAME="Some Linux 12"\nID=some\n',
            "sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
            "sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
            "sys/class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand\n",
            "sys/class/infiniband/mlx5_1/ports/1/rate": "400 Gb/sec (4X NDR)\n",
            "sys/class/infiniband/mlx5_1/ports/1/state": "4: ACTIVE\n",
            "sys/class/infiniband/mlx5_1/ports/1/link_layer": "InfiniBand\n",
            "sys/class/infiniband/mlx5_2/ports/1/rate": "400 Gb/sec (4X NDR)\n",
            "sys/class/infiniband/mlx5_2/ports/1/state": "1: DOWN\n",
            "sys/class/net/eth0/speed": "25000\n",
            "sys/class/net/eth0/device/vendor": "",
            "sys/class/net/ib0/speed": "400000\n",
            "sys/class/net/ib0/device/vendor": "",
            "sys/class/net/docker0/speed": "10000\n",
            "sys/class/net/eth1/speed": "-1\n",
            "sys/class/net/eth1/device/vendor": "",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3800000\n",
        },
    )
    for number in range(8):
        place = f"sys/devices/system/cpu/cpu{number}/topology"
        files = {"physical_package_id": f"{number % 2}\n", "core_id": f"{number // 2 % 2}\n"}
        write_files(tmp_path, {f"{place}/{name}": text for name, text in files.items()})
    for index, (level, kind, size) in enumerate(((1, "Data", "48K"), (2, "Unified", "2048K"))):
        place = f"sys/devices/system/cpu/cpu0/cache/index{index}"
        files = {"level": str(level), "type": kind, "size": size}
        write_files(tmp_path, {f"{place}/{name}": text for name, text in files.items()})
    for name in ("nvme0n1", "nvme1n1", "sda", "loop0", "sr0"):
        files = {"size": "7501476528", "removable": "0", "queue/rotational": "0"}
        files["queue/rotational"] = "1" if name == "sda" else "0"
        if name != "loop0":
            files["device/vendor"] = ""
        write_files(tmp_path / f"sys/block/{name}", files)
    return tmp_path


def test_a_node_with_eight_accelerators(node):
    system, _ = read_system_file(GPU_SYSTEM)
    draft = draft_description(system, read_machine(node, answer))
    found = draft.description
    assert tuple(found) == FIELDS
    assert all(isinstance(value, str) for value in found.values())
    wanted = {
        "submitter": "replace-me",
        "system_name": "example-4x8-h200",
        "status": "Available on-premise",
        "number_of_nodes": "4",
        "host_processors_per_node": "2",
        "host_processor_core_count": "2",
        "host_processor_vcpu_count": "",
        "host_processor_model_name": "Fast CPU 9",
        "host_processor_frequency": "3.80 GHz",
        "host_processor_caches": "L1d 48 KiB, L2 2048 KiB",
        "host_memory_capacity": "1008 GiB",
        "host_storage_type": "NVMe SSD, hard disk",
        "host_storage_capacity": "2x 3.84 TB NVMe SSD, 1x 3.84 TB hard disk",
        "host_networking": "2x InfiniBand 400 Gb/s, 1x Ethernet 25 Gb/s",
        "operating_system": "Some Linux 12",
        "accelerators_per_node": "8",
        "accelerator_model_name": "NVIDIA H200",
        "accelerator_memory_capacity": "140 GiB",
        "accelerator_frequency": "1980 MHz",
        "accelerator_host_interconnect": "PCIe Gen5 x16",
        "accelerator_interconnect": "NVLink (NV18)",
    }
    assert {field: found[field] for field in wanted} == wanted
    assert "NVIDIA driver 570.86.15" in found["other_software_stack"]
    assert draft.doubts == ()
    assert "cooling" in draft.unknown and "host_networking_topology" in draft.unknown
    findings = check_description(found, load_profile("lp2bm"), system, "replace-me", "onprem")
    assert findings == []


def test_another_number_of_accelerators_is_doubted(node):
    system, _ = read_system_file(GPU_SYSTEM)
    draft = draft_description(system, read_machine(node, lambda command: ""))
    assert "shows 0: run this on a node" in draft.doubts[0]
    assert draft.description["accelerators_per_node"] == "8"
    assert "accelerator_model_name" in draft.unknown


def test_a_machine_that_says_nothing(tmp_path):
    machine = read_machine(tmp_path, lambda command: "")
    assert machine.processor == Processor()
    assert (machine.memory_bytes, machine.drives, machine.networks) == (0, (), ())
    system, _ = read_system_file(DEMO)
    draft = draft_description(system, machine)
    assert draft.description["host_memory_capacity"] == ""
    assert "host_processor_model_name" in draft.unknown
    assert not any(field.startswith("accelerator_") for field in draft.unknown)


def test_a_processor_of_arm_is_named_by_lscpu(tmp_path):
    write_files(tmp_path, {"proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd4f\n"})
    text = "Architecture: aarch64\nModel name:   Neoverse-V2\n"
    machine = read_machine(tmp_path, lambda c: text if c[0] == "lscpu" else "")
    assert machine.processor.model == "Neoverse-V2"


def test_the_draft_of_this_machine_does_not_change_from_call_to_call():
    assert isinstance(read_machine(), Machine)
    assert read_machine() == read_machine()


def test_programs_that_are_missing_or_fail_say_nothing():
    assert run_program(["there-is-no-such-program"]) == ""
    assert run_program(["false"]) == ""
    assert run_program(["echo", "a"]) == "a\n"


def test_command_writes_the_draft_once(tmp_path, capsys):
    output = tmp_path / "system.json"
    assert main(["describe", "--system", str(DEMO), "--output", str(output)]) == 0
    heard = capsys.readouterr()
    assert heard.out == ""
    assert "left empty, fill in by hand: " in heard.err
    assert "cooling" in heard.err
    document = json.loads(output.read_text())
    assert tuple(document) == FIELDS
    assert "DEMONSTRATION" in document["hw_notes"]
    with pytest.raises(InputError, match="is there already"):
        main(["describe", "--system", str(DEMO), "--output", str(output)])
    assert os.listdir(tmp_path) == ["system.json"]
    assert main(["describe", "--system", str(DEMO)]) == 0
    assert json.loads(capsys.readouterr().out) == document


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "demo"', 'name = "other"', "must be the file's name"),
        ('name = "demo"', r'name = "de\nmo"', "must be the file's name"),
        ("count = 4", 'count = "4"', "'nodes.count' must be there and be a whole number"),
        ("one_machine = true", "", "'nodes.one_machine'"),
        ("[nodes]", "[nodes", "not valid TOML"),
        ('organization = "demonstration"', "organization = 1", "'submission.organization'"),
        ("[benchmarks.bert]", "[benchmarks.other]", "'benchmarks.bert.config'"),
    ],
)
def test_a_wrong_system_file_is_one_sentence(old, new, words):
    text = DEMO.read_text()
    assert old in text
    with pytest.raises(InputError) as raised:
        parse_system_file(text.replace(old, new).encode(), "demo.toml")
    assert words in str(raised.value)
    assert str(raised.value).startswith("demo.toml: ")
    assert str(raised.value).isprintable()


def test_system_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        read_system_file(tmp_path / "demo.toml")
    (tmp_path / "demo.toml").mkdir()
    with pytest.raises(InputError, match="no regular file"):
        read_system_file(tmp_path / "demo.toml")
    with pytest.raises(InputError):
        parse_system_file(b"\xff\xfe", "demo.toml")
    with pytest.raises(InputError):
        parse_system_file(b"a = " + b"[" * 5000, "demo.toml")
