"""ResNet's input measured alone, by its own command in a process beside the rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.commands import InputError
from harness.config import SIZE_LIMIT_BYTES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Beyond the measured seconds: importing torch and DALI from a cold disk.
START_SECONDS = 180.0
OPTIONS = (
    "crop_size",
    "resize_shorter",
    "threads",
    "prefetch_batches",
    "shuffle_buffer_images",
    "channels",
)


def compose_measurement(config: Path, data: Path, seconds: float, gpu: int | None) -> list[str]:
    """The command that measures the input as this configuration sets it up on one rank.

    The configuration belongs to the trainer, which reads it strictly; here only [input] and the
    local batch are taken from it. Raises InputError where they are not there.
    """
    try:
        if config.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{config}: larger than 1 MiB, which no configuration is")
        table = tomllib.loads(config.read_text(encoding="utf-8"))
        shape = {name: table["input"][name] for name in OPTIONS}
        shape["batch_size"] = table["batch"]["local_batch_size"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: not valid TOML: {error}") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{config}: key {error} of [input] or [batch] is missing") from None
    command = [sys.executable, "-m", "resnet.data", "throughput", "--data", str(data)]
    command += ["--seconds", str(seconds), "--json"]
    for name, value in shape.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return [*command, *([] if gpu is None else ["--gpu", str(gpu)])]


def measure_input(command: list[str], seconds: float, root: Path) -> float | str:
    """Run the measurement; returns images a second, or one sentence why there is no figure."""
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, stdin=subprocess.DEVNULL,
            timeout=seconds + START_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"resnet.data throughput did not end in {seconds + START_SECONDS:g} s"
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        return f"resnet.data throughput ended with status {done.returncode}: {said[-1][:200]}"
    try:
        return float(json.loads(done.stdout)["images_per_second"])
    except (ValueError, KeyError, TypeError):
        return "resnet.data throughput printed no images_per_second"
