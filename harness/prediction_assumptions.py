"""What a benchmark's time rests on: measured where it was, else assumed within a stated range."""

from __future__ import annotations

import math

from harness.commands import InputError
from harness.prediction_campaign import MODEL_DEVIATION, Assumptions, Uncertain, fix_shape
from harness.prediction_configuration import TRAIN_IMAGES, Settings
from harness.prediction_inputs import UNITS, Inputs
from harness.prediction_published import load_published_results
from harness.prediction_step import OVERHEAD_SAMPLES, OVERHEAD_SAMPLES_RANGE, fit_step
from harness.prediction_time import EVALUATION_RATIO, START_STOP_SECONDS, Job
from harness.systems import System

# Against 1 / per-sample seconds: the slowest published evaluation, the anchors' and a forward pass
# alone, which is a third of a training step's arithmetic.
EVALUATION_RATIOS = {
    "resnet": Uncertain(1.5, EVALUATION_RATIO["resnet"], 3.0),
    "bert": Uncertain(0.7, EVALUATION_RATIO["bert"], 3.0),
}
# All that can hide behind the backward pass hides; at worst nothing does.
HIDDEN_SHARE = Uncertain(0.0, 1.0, 1.0)
# A node's ports where none are stated: from one of 200 Gbit/s a node to one of 400 a GPU.
LEAST_GIGABITS, MOST_GIGABITS_A_RANK = 200.0, 400.0
# A rate this much above every published one of its accelerator is worth a second look.
IMPLAUSIBLE = 1.25
# Half of p10 to p90 over the median of a probe's steps: an idle GPU stays far below.
UNSTEADY = 0.1
ACCELERATORS = ("GB200", "B200", "H200", "H100", "A100")


def assume(
    system: System, settings: Settings, given: Inputs, cores: int, notes: list[str]
) -> Assumptions:
    """Put together what the time rests on. Raises InputError for probes that cannot be used."""
    job = settings.job
    benchmark = job.benchmark
    _check_devices(system, given, notes)
    batch, seconds, overhead = _place_step(settings, given, system.nodes.device == "cpu", notes)
    factor = 1.0
    one_machine = system.nodes.one_machine
    if one_machine:
        busy = job.ranks * system.nodes.threads_per_rank
        factor = max(1.0, busy / cores)
        notes.append(
            f"{job.ranks} ranks share the {cores} cores of one machine: each step is taken as "
            f"{factor:g} times as long as a rank's alone, and averaging their gradients as free"
        )
    notes += judge_rate(system, given, benchmark, batch / seconds)
    cold: tuple[float, ...] = (0.0,)
    if benchmark == "resnet" and not one_machine:
        rows = [row for row in load_published_results() if row.benchmark == "resnet"]
        cold = tuple(row.first_epoch_extra_seconds for row in rows)
    return Assumptions(
        measured_batch=batch,
        measured_seconds=seconds,
        overhead_samples=overhead,
        network_gigabits=_place_network(settings, given),
        measured_network_bytes_per_second=given.network_bytes_per_second,
        hidden_share=Uncertain.known(1.0) if job.ranks == 1 or one_machine else HIDDEN_SHARE,
        evaluation_ratio=EVALUATION_RATIOS[benchmark],
        evaluation_per_second=given.evaluation_per_second,
        first_epoch_seconds=cold,
        start_stop_seconds=START_STOP_SECONDS[benchmark],
        input_per_second=given.input_per_second,
        machine_factor=factor,
        deviation=_widen_for_unsteady_probes(given, notes),
        exposed=None if one_machine else _take_exposed(settings, given, notes),
    )


def _take_exposed(settings: Settings, given: Inputs, notes: list[str]) -> tuple[Job, float] | None:
    """What a probe of all ranks of this job measured of the exchange that nothing hides."""
    job = settings.job
    for probe in given.probes:
        if probe.exposed_seconds is None or probe.batch != settings.local_samples:
            continue
        if (probe.ranks, probe.nodes) == (job.ranks, job.nodes):
            notes.append(
                f"the exchange that nothing hides is as {probe.file} measured it on all ranks, "
                f"{1000 * probe.exposed_seconds:.2f} ms a step; on other nodes or batches it is "
                "reckoned"
            )
            return job, probe.exposed_seconds
        notes.append(
            f"{probe.file} was measured on {probe.ranks} ranks of {probe.nodes} node(s), while the "
            f"system has {job.ranks} of {job.nodes}: what it says of the exchange is not taken"
        )
    return None


def _place_step(
    settings: Settings, given: Inputs, on_cpu: bool, notes: list[str]
) -> tuple[float, float, Uncertain]:
    """The step and its overhead in samples: from two probes, one, or a stated rate."""
    benchmark, batch = settings.job.benchmark, float(settings.local_samples)
    unit = UNITS[benchmark]
    low, high = OVERHEAD_SAMPLES_RANGE[benchmark]
    unknown = Uncertain(low, OVERHEAD_SAMPLES[benchmark], high)
    if on_cpu:
        # Published results, all of GPUs, say nothing of it.
        unknown = Uncertain.known(0.0)
    if len(given.probes) == 2:
        first, second = given.probes
        try:
            step = fit_step((first.batch, first.seconds), (second.batch, second.seconds))
        except ValueError as error:
            raise InputError(f"{first.file} and {second.file}: {error}") from None
        return batch, step.seconds(batch), fix_shape(step)
    if len(given.probes) == 1:
        probe = given.probes[0]
        if probe.batch == batch:
            return batch, probe.seconds, unknown
        if on_cpu:
            raise InputError(
                f"{probe.file} measured {probe.batch} {unit} a step, while the configuration has "
                f"{settings.local_samples}: probe the configuration itself, or give two probes"
            )
        notes.append(
            f"one probe only, at {probe.batch} {unit} a rank, while the configuration has "
            f"{settings.local_samples}: a step's fixed cost is taken as that of {low:g} to "
            f"{high:g} {unit}, after published results; a second probe, at "
            f"{settings.local_samples}, ends this"
        )
        return probe.batch, probe.seconds, unknown
    assert given.rate is not None
    return batch, batch / given.rate, unknown


def _check_devices(system: System, given: Inputs, notes: list[str]) -> None:
    """Refuse probes of two devices, or of a CPU for a system of GPUs; note other threads, and a
    GPU that is not the one the system file expects."""
    devices = {probe.device: probe.file for probe in given.probes}
    if len(devices) > 1:
        words = " and ".join(f"{file} on '{device}'" for device, file in devices.items())
        raise InputError(f"measured {words}: give two probes of one device")
    for device, file in devices.items():
        threads = system.nodes.threads_per_rank
        if system.nodes.device == "cpu" and device.startswith("cpu, "):
            if device != f"cpu, {threads} thread(s)":
                notes.append(
                    f"{file} was measured with '{device}', while a rank has {threads}: probe with "
                    f"OMP_NUM_THREADS={threads}"
                )
        elif device.startswith("cpu") and system.nodes.device == "cuda":
            raise InputError(
                f"{file} was measured on '{device}', but {system.name} has GPUs: run the probe "
                "on one of them"
            )
        elif system.expected.gpu and device != system.expected.gpu:
            notes.append(
                f"{file} was measured on '{device}', while {system.name} expects "
                f"'{system.expected.gpu}' ([expected] gpu)"
            )


def _widen_for_unsteady_probes(given: Inputs, notes: list[str]) -> float:
    """The model's deviation, and the probes' own where their steps differ."""
    spread = max((probe.spread for probe in given.probes), default=0.0)
    if spread > UNSTEADY:
        notes.append(
            f"the probe's steps differ by {100 * spread:.0f} % (half of p10 to p90) and widen the "
            "band: probe an idle machine, with more steps"
        )
    return math.hypot(MODEL_DEVIATION, spread)


def _place_network(settings: Settings, given: Inputs) -> Uncertain:
    job = settings.job
    if given.network_gigabits is not None:
        return Uncertain.known(given.network_gigabits)
    most = MOST_GIGABITS_A_RANK * job.ranks_per_node
    return Uncertain(LEAST_GIGABITS, max(LEAST_GIGABITS, most / 2), most)


def judge_rate(system: System, given: Inputs, benchmark: str, rate: float) -> list[str]:
    """What published results of the same accelerator say of a rate."""
    device = given.probes[0].device if given.probes else system.submission.platform
    if system.nodes.device == "cpu" or device.startswith("cpu"):
        return []
    name = next((known for known in ACCELERATORS if known in device.upper()), None)
    rows = [
        row
        for row in load_published_results()
        if row.benchmark == benchmark and name is not None and row.accelerator.startswith(name)
    ]
    if not rows:
        return [
            f"no published result of this benchmark on '{device}': nothing to compare the rate "
            f"with, and the model is checked on {', '.join(reversed(ACCELERATORS))} alone"
        ]
    unit = 1.0 if benchmark == "bert" else TRAIN_IMAGES
    best = max(r.converged_at * unit / r.minutes / 60 / r.accelerators for r in rows)
    if rate > IMPLAUSIBLE * best:
        return [
            f"{rate:,.0f} {UNITS[benchmark]}/s a GPU is {rate / best:.2f} times the highest "
            f"whole-run rate published on {name} ({best:,.0f}): measure again before believing it"
        ]
    return []
