"""A small kit and a campaign made with it, as `package` takes them."""

import hashlib
import json
import shutil
from dataclasses import replace

from scoring.package.build import Order
from scoring.package.description import FIELDS, STATUS_TEXTS
from scoring.package.source import hash_benchmark_sources, read_source
from scoring.profile import load_profile

SYSTEM_FILE = """
name = "fast4"
[submission]
organization = "maker"
platform = "4xfast"
status = "onprem"
[nodes]
count = 4
ranks_per_node = 4
device = "cuda"
one_machine = false
[container]
image = ""
[benchmarks.resnet]
config = "resnet/configs/h100_4x4.toml"
[benchmarks.bert]
config = "bert/configs/h100_4x4.toml"
[campaign]
profile = "lp2bm"
"""
KIT = {
    ".dockerignore": "*\n",
    ".gitignore": "/results/\n",
    "Dockerfile": "FROM base\n",
    "LICENSE": "free\n",
    "README.md": "# A kit\n",
    "bert/__init__.py": "",
    "bert/__pycache__/train.cpython-311.pyc": "old",
    "bert/configs/h100_4x4.toml": "epochs = 1\n",
    "bert/train.py": "print('bert')\n",
    "data/images.bin": "not source",
    "harness/ops/__init__.py": "",
    "harness/ops.py": "",
    "harness/runclock.py": "print('clock')\n",
    "pyproject.toml": '[project]\nname = "kit"\nversion = "1.2.3"\n',
    "resnet/configs/h100_4x4.toml": "epochs = 2\n",
    "resnet/train.py": "print('resnet')\n",
    "run_and_time.sh": "#!/usr/bin/env bash\n",
    "scripts/environment": "#!/usr/bin/env bash\n",
    "systems/fast4.toml": SYSTEM_FILE,
}


def write_files(root, files):
    """Write texts below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_description(**fields):
    """Make a system description that nothing speaks against."""
    description = dict.fromkeys(FIELDS, "something")
    description.update(
        submitter="maker",
        division="closed",
        status=STATUS_TEXTS["onprem"],
        system_name="fast4",
        number_of_nodes="4",
        host_processors_per_node="2",
        host_processor_core_count="32",
        host_processor_vcpu_count="",
        accelerators_per_node="4",
        accelerator_model_name="NVIDIA A100-SXM-80GB",
    )
    return {**description, **fields}


def add_source_hashes(campaign, hashes):
    """Let every run log the hash of the source it ran with."""
    for benchmark, runs in campaign.runs.items():
        for lines in runs:
            start = lines.find("init_start")["time_ms"]
            line = lines.make("source_sha256", hashes[benchmark], start)
            lines.insert_after("init_start", line)


def make_record(kit, system="systems/fast4.toml"):
    """Make what a campaign records: SHA-256 of the files that may not change."""
    names = {system.rsplit("/", 1)[-1]: system}
    names |= {path: path for path in ("resnet/configs/h100_4x4.toml", "bert/configs/h100_4x4.toml")}
    return {
        name: hashlib.sha256((kit / path).read_bytes()).hexdigest() for name, path in names.items()
    }


def make_order(campaign, folder):
    """Write a kit and a campaign below `folder`; give the order to package it as a folder."""
    kit = folder / "kit"
    write_files(kit, KIT)
    add_source_hashes(campaign, hash_benchmark_sources(read_source(kit).files))
    campaign.system = make_description()
    results = campaign.write(folder / "results")
    (results / "campaign.json").write_text(json.dumps(make_record(kit)))
    write_files(results, {"output/resnet_0.txt": "rank 0: done\n", "output/notes.md": "no"})
    return Order(
        results=folder / "results",
        system=kit / "systems/fast4.toml",
        output=folder / "package",
        profile=load_profile("lp2bm"),
        ruleset="4.0.0",
        window=False,
        description=None,
        image_manifest=None,
        source=kit,
    )


def copy_order(order, folder):
    """Copy all that an order names to another folder."""
    shutil.copytree(order.source, folder / "kit")
    shutil.copytree(order.results, folder / "results")
    return replace(
        order,
        results=folder / "results",
        source=folder / "kit",
        system=folder / "kit/systems/fast4.toml",
        output=folder / "package",
    )
