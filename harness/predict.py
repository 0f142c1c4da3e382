"""`python -m harness.predict`: R, B and the score of a system from minutes of one of its ranks."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.commands import GOOD, Parser, run_command
from harness.config_command import check_configurations
from harness.files import write_atomically
from harness.launch import BENCHMARKS, ROOT
from harness.prediction_configuration import read_settings
from harness.prediction_forecast import Forecast, forecast
from harness.prediction_inputs import Inputs
from harness.prediction_page import write_page
from harness.prediction_report import describe, write_text
from harness.prediction_step import read_probe
from harness.prediction_table import write_validation
from harness.systems import System, find_system_file, load_system

RATE_HELP = "of the training step of one rank (GPU), as the probes print it"


def main(arguments: Sequence[str]) -> int:
    """Predict, or check the model against published results (`validate`)."""
    if arguments[:1] == ["validate"]:
        return write_validation(_parse_validation(arguments[1:]))
    options = parse(arguments)
    file = find_system_file(options.system, ROOT / "systems")
    system = load_system(file)
    asked = [name for name in BENCHMARKS if is_asked(options, name)]
    check_configurations(file, asked)
    forecasts = {name: predict_benchmark(system, name, options) for name in asked}
    if options.report is not None:
        with write_atomically(options.report) as page:
            page.write(write_page(system, forecasts))
        print(f"wrote {options.report}", file=sys.stderr)
    if options.json:
        print(json.dumps(describe(system, forecasts), indent=1, allow_nan=False))
    else:
        print("\n".join(write_text(system, forecasts)))
    return GOOD


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Raises SystemExit 2 with one sentence for what makes no sense."""
    parser = Parser(
        prog="python -m harness.predict",
        description="Predict R, B and the score of a system file from measured rates of one rank. "
        "`python -m harness.predict validate` checks the model against published results. "
        "docs/prediction.md: the model, its constants, and where it fails.",
        epilog="For a second probe at another batch size, copy the configuration and change its "
        "local_batch_size. A probe of all ranks of a system (python -m harness.launch --probe) "
        "serves too: its step without exchange is what one rank's would be, and what it waits for "
        "the exchange takes the place of what is reckoned. For the input's rate "
        "of one rank see `python -m resnet.data throughput`. A demonstration has no reference "
        "points, and nobody knows when it converges: the band covers its whole schedule, unless "
        "--runs-from names results of it; its ranks share one machine's cores, which is counted: "
        "probe it with OMP_NUM_THREADS=1, as its ranks run.",
    )
    parser.add_argument("--system", required=True, help="a name in systems/, or a system file")
    _add_rates(parser)
    parser.add_argument(
        "--network-gigabits-per-node", type=positive("--network-gigabits-per-node"), metavar="X",
        help="rate of all compute ports of a node together, in Gbit/s",
    )  # fmt: skip
    parser.add_argument(
        "--all-reduce-gigabytes-per-second", metavar="X",
        type=positive("--all-reduce-gigabytes-per-second"),
        help="measured bus bandwidth of an all-reduce over all ranks (nccl-tests), in GB/s",
    )  # fmt: skip
    parser.add_argument(
        "--runs-from", type=Path, metavar="DIR",
        help="a results folder of this configuration: converge as its runs did",
    )  # fmt: skip
    parser.add_argument("--cores", type=count("--cores"), help="of the machine that stands for all "
                        "nodes of a demonstration (default: this one's)")  # fmt: skip
    parser.add_argument("--seed", type=count("--seed"), default=1, help="of the simulation")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one HTML page")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    for name, unit in (("resnet", "images"), ("bert", "sequences")):
        rate, probes = getattr(options, f"{unit}_per_second"), getattr(options, f"{name}_probe")
        if rate is not None and probes:
            parser.error(f"give --{unit}-per-second or --{name}-probe, not both")
        if probes and len(probes) > 2:
            parser.error(f"--{name}-probe takes one or two files, not {len(probes)}")
    if not is_asked(options, "resnet") and not is_asked(options, "bert"):
        parser.error(
            "give a rate: --images-per-second, --sequences-per-second or the probes' files"
        )
    return options


def _add_rates(parser: argparse.ArgumentParser) -> None:
    for name, unit, point in (("resnet", "images", "epochs"), ("bert", "sequences", "samples")):
        option = f"--{unit}-per-second"
        parser.add_argument(option, type=positive(option), metavar="X", help=f"{unit} {RATE_HELP}")
        parser.add_argument(
            f"--{name}-probe", type=Path, nargs="+", metavar="FILE",
            help=f"--json documents of `python -m {name}.train probe`, at one or two batch sizes",
        )  # fmt: skip
        option = f"--{unit}-evaluated-per-second"
        parser.add_argument(
            option, type=positive(option), metavar="X", help="by one rank, measured"
        )
        option = f"--{unit}-read-per-second"
        parser.add_argument(
            option, type=positive(option), metavar="X",
            help="by the input pipeline of one rank, measured; not given: never waited for",
        )  # fmt: skip
        option = f"--{name}-{point}"
        parser.add_argument(
            option, type=positive(option), metavar="X",
            help=f"{point} at which every run converges, where you know",
        )  # fmt: skip


def positive(option: str) -> Callable[[str], float]:
    """A converter of an option's text to a positive number, with a sentence that names it."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < 1e12:
            raise argparse.ArgumentTypeError(f"must be a positive number, is '{text}'")
        return value

    convert.__name__ = option
    return convert


def count(option: str) -> Callable[[str], int]:
    """A converter of an option's text to a whole number of one to nine digits, not 0."""

    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= 999_999_999:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to 999999999, is '{text}'"
            )
        return int(text)

    convert.__name__ = option
    return convert


def is_asked(options: argparse.Namespace, benchmark: str) -> bool:
    """True where a rate of the benchmark is given."""
    unit = "images" if benchmark == "resnet" else "sequences"
    return bool(getattr(options, f"{unit}_per_second") or getattr(options, f"{benchmark}_probe"))


def predict_benchmark(system: System, benchmark: str, options: argparse.Namespace) -> Forecast:
    """Predict one benchmark from the options. Raises InputError."""
    unit, point = ("images", "epochs") if benchmark == "resnet" else ("sequences", "samples")
    probes = getattr(options, f"{benchmark}_probe") or []
    bytes_per_second = options.all_reduce_gigabytes_per_second
    given = Inputs(
        rate=getattr(options, f"{unit}_per_second"),
        probes=tuple(read_probe(path, benchmark, alone=True) for path in probes),
        network_gigabits=options.network_gigabits_per_node,
        network_bytes_per_second=bytes_per_second * 1e9 if bytes_per_second else None,
        evaluation_per_second=getattr(options, f"{unit}_evaluated_per_second"),
        input_per_second=getattr(options, f"{unit}_read_per_second"),
        converges_at=getattr(options, f"{benchmark}_{point}"),
        runs_folder=options.runs_from,
    )
    cores = options.cores or count_cores()
    return forecast(system, read_settings(system, benchmark), given, cores, options.seed)


def count_cores() -> int:
    """Cores this process may use; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parse_validation(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m harness.predict validate",
        description="Compare the model with every published result that it was not fitted to.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="write the picture")
    parser.add_argument(
        "--document", type=Path, metavar="FILE.md", nargs="+", default=[],
        help="replace the generated parts between the markers of docs/prediction.md and "
        "docs/prediction_validation.md",
    )  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
