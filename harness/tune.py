"""`python -m harness.tune --system NAME --budget MINUTES`: search what the rules leave free."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.commands import GOOD, NOT_GOOD, Parser, run_command
from harness.config_command import check_configurations
from harness.files import write_atomically
from harness.launch import compose_probe
from harness.predict import count, count_cores, positive
from harness.progress import format_seconds
from harness.systems import System, find_system_file, load_system
from harness.tuning_files import change_system, read_text, replace_values, write_tuned
from harness.tuning_knobs import (
    Key,
    Knob,
    Place,
    Value,
    Values,
    list_knobs,
    take_count,
    write_value,
)
from harness.tuning_probes import (
    Measured,
    Ranks,
    choose_ranks,
    compose_input,
    compose_step,
    measure_exchange,
)
from harness.tuning_probes import measure as run_probes
from harness.tuning_record import Record, Trial, describe_origin
from harness.tuning_report import Search, describe, write_page, write_text
from harness.tuning_search import (
    Budget,
    Decision,
    OutOfTime,
    count_tests,
    count_trials,
    search_knob,
)

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ("resnet", "bert")
KINDS = ("step", "exchange", "input")
# Steps of the trial that finds how many steps fill --seconds, and the least and most of them.
FIRST_STEPS, LEAST_STEPS, MOST_STEPS = 5, 5, 2000


class Tuning:
    """One search: its files, what was tried, and what is chosen so far."""

    def __init__(
        self, system: System, names: Sequence[str], ranks: Ranks, budget: Budget, options: Any
    ) -> None:
        self.system, self.ranks, self.budget, self.options = system, ranks, budget, options
        self.files = {n: ROOT / system.benchmarks.named(n).config for n in names}
        texts = {name: read_text(file) for name, file in self.files.items()}
        self.texts = {name: text for name, (text, _) in texts.items()}
        self.tables = {name: table for name, (_, table) in texts.items()}
        place = Place(count_cores(), system.nodes.device)
        self.knobs = {
            name: [
                knob
                for knob in list_knobs(self.files[name], name, self.tables[name], place)
                if is_searched(knob, system, options.knobs)
            ]
            for name in names
        }
        self.chosen: dict[str, dict[Key, Value]] = {name: {} for name in names}
        self.most_trials = count_trials([knob for name in names for knob in self.knobs[name]])
        self.made = 0
        self.record: Record

    def search(self, record: Record) -> list[Decision]:
        """Search all knobs: those of the step first, then what it exchanges, then the input, which
        only has to keep up."""
        self.record = record
        knobs = [knob for found in self.knobs.values() for knob in found]
        tests = count_tests(knobs)
        decisions = []
        for knob in sorted(knobs, key=lambda one: KINDS.index(one.kind)):
            found = search_knob(knob, self.measure, self.options.level / tests)
            self.chosen[knob.benchmark].update(found.changed)
            decisions.append(found)
        return decisions

    def measure(self, knob: Knob, values: Values, number: int) -> Measured:
        """Make one trial, or take it from an earlier call. Raises OutOfTime."""
        changes = {**self.chosen[knob.benchmark], **dict(zip(knob.keys, values, strict=True))}
        if knob.kind == "input":
            return self._try(knob, knob.describe(values), number, changes, 0)
        # How many steps are timed is found with the present values, once, and is the same for all.
        name = "steps" if knob.kind == "step" else "steps of all ranks"
        first = self._try(replace(knob, name=name), "present", 0, {}, FIRST_STEPS)
        if first.misused:
            return first
        steps = FIRST_STEPS
        if first.status == "measured":
            steps = round(self.options.seconds / first.step_seconds["median"])
        steps = min(max(steps, LEAST_STEPS), MOST_STEPS)
        return self._try(knob, knob.describe(values), number, changes, steps)

    def _try(
        self, knob: Knob, settings: str, number: int, changes: Mapping[Key, Value], steps: int
    ) -> Measured:
        benchmark = knob.benchmark
        kept = self.chosen[benchmark] if number else {}
        beside = ", ".join(f"{key} {write_value(value)}" for (_, key), value in kept.items())
        earlier = self.record.find((benchmark, knob.name, settings, beside, number))
        if earlier is not None:
            return earlier
        limit, table = self.budget.allow(), self.tables[benchmark]
        found = self._run(knob, changes, steps, limit)
        batch: Key = ("batch", "local_batch_size")
        local = int(changes.get(batch) or take_count(self.files[benchmark], table, batch))
        trial = Trial(benchmark, knob.name, settings, beside, number, local, found)
        self.record.add(trial)
        found = self.record.weigh(trial)
        self.made += 1
        self.budget.longest_trial_seconds = max(self.budget.longest_trial_seconds, found.seconds)
        self._report(benchmark, knob.name, settings, found)
        if found.status == "cut off" and self.budget.left_seconds <= 1:
            raise OutOfTime
        return found  # cut off long before the end: as good as failed, until the next call

    def _run(self, knob: Knob, changes: Mapping[Key, Value], steps: int, limit: float) -> Measured:
        trial = self.record.folder / f".trial_{knob.benchmark}.toml"
        with write_atomically(trial) as target:
            text = replace_values(self.files[knob.benchmark], self.texts[knob.benchmark], changes)
            target.write(text)
        config = trial.resolve()
        if knob.kind == "exchange":
            file = find_system_file(self.options.system, ROOT / "systems")
            command = compose_probe(self.system, file, knob.benchmark, steps, config)
            return measure_exchange(command, limit)
        data = ROOT / self.system.benchmarks.resnet.data
        commands = [
            compose_input(self.ranks, rank, data, config, self.options.seconds)
            if knob.kind == "input"
            else compose_step(self.ranks, rank, knob.benchmark, config, steps)
            for rank in range(self.ranks.count)
        ]
        return run_probes(commands, knob.kind, limit)

    def _report(self, benchmark: str, knob: str, settings: str, found: Measured) -> None:
        """One line on stderr: what was found, how fast trials go, and how long still."""
        spent = time.monotonic() - self.budget.start_seconds
        said = f"{found.samples_per_second:,.1f} samples/s"
        if found.status != "measured":
            said = f"{found.status}: {found.message}"
        left = max(0.0, self.budget.left_seconds)
        most = max(0, self.most_trials - len(self.record.trials)) * spent / self.made
        print(
            f"tune: trial {len(self.record.trials)} of at most {self.most_trials}: {benchmark}, "
            f"{knob}, {settings}: {said} ({60 * self.made / spent:.1f} trials a minute, at most "
            f"{format_seconds(min(left, most))} left)",
            file=sys.stderr,
            flush=True,
        )


def is_searched(knob: Knob, system: System, chosen: str | None) -> bool:
    """True for a knob that can be measured where this is started.

    chosen: node, ranks, all or None (--knobs): what only shows across ranks is started by the
    system's launcher; unless asked for, only where one machine without a container is all there is.
    """
    if chosen is None:
        here = system.nodes.one_machine or system.nodes.count == 1
        chosen = "all" if here and system.container.runtime == "none" else "node"
    if knob.kind != "exchange":
        return chosen != "ranks"
    return chosen != "node" and system.nodes.world_size > 1


def main(arguments: Sequence[str]) -> int:
    """Search, write the folder and print the table; status 1 where nothing could be measured."""
    options = parse(arguments)
    system_file = find_system_file(options.system, ROOT / "systems")
    system = load_system(system_file)
    output: Path = options.output or ROOT / "results" / "tune" / system.name
    ranks = choose_ranks(system, options.ranks)
    names = BENCHMARKS if options.benchmark == "all" else (options.benchmark,)
    check_configurations(system_file, names)
    budget = Budget(60 * options.budget)
    tuning = Tuning(system, names, ranks, budget, options)
    change_system(system_file, tuning.files)  # before any time is spent
    for name, file in tuning.files.items():
        keys = [key for knob in tuning.knobs[name] for key in knob.keys]
        present = [value for knob in tuning.knobs[name] for value in knob.present]
        replace_values(file, tuning.texts[name], dict(zip(keys, present, strict=True)))
    settings = {
        "ranks at once (--ranks)": ranks.count, "--seconds": options.seconds,
        "--benchmark": options.benchmark, "--level": options.level, "--knobs": options.knobs,
    }  # fmt: skip
    record = Record(output, describe_origin({"system": system_file, **tuning.files}, settings))
    # An end by the job's system ends the probes too, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with record.open():
            try:
                search = _search(tuning, record, system)
            finally:
                for name in BENCHMARKS:
                    (output / f".trial_{name}.toml").unlink(missing_ok=True)
            return _write(output, system_file, tuning, search)
    finally:
        signal.signal(signal.SIGTERM, before)


def _search(tuning: Tuning, record: Record, system: System) -> Search:
    decisions = tuning.search(record)
    devices = sorted({one.measured.device for one in record.trials if one.measured.device})
    return Search(
        system=system.name,
        demonstration=system.campaign.profile == "demo",
        ranks=tuning.ranks.count,
        all_ranks=system.nodes.world_size,
        device=" and ".join(devices),
        level=tuning.options.level,
        tests=count_tests([decision.knob for decision in decisions]),
        most_trials=tuning.most_trials,
        record=record,
        decisions=decisions,
    )


def _write(output: Path, system_file: Path, tuning: Tuning, search: Search) -> int:
    tuned = {name: (file, tuning.chosen[name]) for name, file in tuning.files.items()}
    target = write_tuned(output, system_file, tuned)
    with write_atomically(output / "report.html") as page:
        page.write(write_page(search))
    if tuning.options.json:
        print(json.dumps(describe(search), indent=1, allow_nan=False))
    else:
        print("\n".join(write_text(search)))
    changed = any(decision.changed for decision in search.decisions)
    print(f"wrote {output / 'report.html'} and {target}", file=sys.stderr)
    if not changed:
        print("nothing is changed by it: no value was shown to be faster", file=sys.stderr)
    else:
        folders = (*tuning.files, "systems")
        words = shlex.join(["cp", "-r", *(str(output / name) for name in folders), "."])
        print(
            f"to run with it, in the kit's folder: {words} && "
            f"./run_and_time.sh --system {target.stem}",
            file=sys.stderr,
        )
    tried = [d for d in search.decisions if d.knob.candidates]
    measured = any(one.rates for d in tried for one in (d.present, *d.candidates))
    if tried and not measured:
        said = next((d.present.message for d in tried if d.present.message), "")
        print(f"nothing could be measured within the budget: {said or 'raise it'}", file=sys.stderr)
        return NOT_GOOD
    return GOOD


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Raises SystemExit 2 with one sentence for what makes no sense."""
    parser = Parser(
        prog="python -m harness.tune",
        description="Search, by probes on this machine, what the rules leave free and what cannot "
        "change convergence; the same command goes on where it was stopped.",
    )
    parser.add_argument("--system", required=True, help="a name in systems/, or a system file")
    parser.add_argument(
        "--budget", required=True, type=positive("--budget"), metavar="MINUTES",
        help="of this call; no probe runs longer",
    )  # fmt: skip
    parser.add_argument("--benchmark", choices=(*BENCHMARKS, "all"), default="all")
    parser.add_argument(
        "--knobs", choices=("node", "ranks", "all"),
        help="what one node's probes measure, what those of all ranks of the system do (by its "
        "launcher), or both (default: both where one machine without a container is all there is, "
        "else node)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: results/tune/NAME of the system"
    )
    parser.add_argument(
        "--ranks", type=count("--ranks"), metavar="N",
        help="probed at once on this machine (default: all of a node)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive("--seconds"), default=3.0, help="measured in a trial (default 3)"
    )
    parser.add_argument(
        "--level", type=_level, default=0.05, metavar="P",
        help="the chance that anything kept is noise (default 0.05)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(arguments)


def _level(text: str) -> float:
    value = positive("--level")(text)
    if value >= 0.5:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 0.5, is '{text}'")
    return value


if __name__ == "__main__":
    run_command(main)
