"""ResNet's input measured alone, by its own command in a process beside the rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Beyond the measured seconds: importing torch and DALI from a cold disk, and the pass that fills
# the cache of decoded images.
START_SECONDS = 180.0


def read_input_threads(config: Path) -> int:
    """[input] threads of ResNet's configuration, checked when the run reads it; 0 without any."""
    table = tomllib.loads(config.read_text(encoding="utf-8"))
    threads = table.get("input", {}).get("threads", 0)
    return threads if isinstance(threads, int) else 0


def compose_measurement(
    config: Path, data: Path, seconds: float, place: tuple[int, int], gpu: int | None
) -> list[str]:
    """The command that measures the input of one rank as this configuration sets it up.

    place: rank and number of ranks of the run, which decide the rank's share of the images.
    """
    rank, ranks = place
    command = [sys.executable, "-m", "resnet.data", "throughput", "--config", str(config)]
    command += ["--data", str(data), "--rank", str(rank), "--ranks", str(ranks)]
    command += ["--seconds", f"{seconds:g}", "--json"]
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
