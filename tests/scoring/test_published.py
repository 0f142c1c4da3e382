"""The published band: sound rows, drawn only where something was published, true to the logs."""

import collections
import itertools
from statistics import fmean

import pytest

from scoring.log import read_log
from scoring.profile import load_profile
from scoring.published import find_curve, load_curves
from scoring.report.curves import caption_accuracies, find_published_curve, list_interval_speeds
from scoring.run import Run
from scoring.score import score_folder


@pytest.mark.parametrize(
    "curve", load_curves(), ids=lambda c: f"{c.benchmark}-{c.global_batch_size}"
)
def test_rows_are_sound(curve):
    assert curve.benchmark in ("resnet", "bert") and curve.runs > 0 and curve.source and curve.band
    assert len({len(curve.points), len(curve.mean), len(curve.low), len(curve.high)}) == 1
    assert all(a < b for a, b in itertools.pairwise(curve.points))
    values = zip(curve.low, curve.mean, curve.high, strict=True)
    assert all(0 < low <= mean <= high < 1 for low, mean, high in values)


@pytest.mark.parametrize(
    ("benchmark", "batch", "found"),
    [
        ("resnet", 3264, 3264),
        ("resnet", 3240, 3264),
        ("resnet", 3210, 3200),
        ("resnet", 3199, None),  # below what was published
        ("resnet", 3265, None),  # above
        ("resnet", 1632, None),
        ("bert", 448, 448),
        ("bert", 780, 768),
        ("bert", 1000, None),  # between, but near none
        ("bert", 4609, None),
        ("bert", None, None),
    ],
)
def test_the_nearest_curve_within_what_was_published(benchmark, batch, found):
    curve = find_curve(benchmark, batch)
    assert (curve.global_batch_size if curve else None) == found


SETS = {
    448: ("v3.0/Dell/4xXE8545x4A100-SXM-80GB/bert", "v3.1/Intel-HabanaLabs/HLS-Gaudi2-PT/bert"),
    4608: ("v4.0/NVIDIA/eos_n8_ngc23.04_pytorch/bert",),
}


@pytest.mark.parametrize("batch", SETS)
def test_bands_are_those_of_the_logs(unpack_set, batch):
    accuracies, runs = collections.defaultdict(list), 0
    curve = find_curve("bert", batch)
    step = curve.points[0]
    for name in SETS[batch]:
        folder = unpack_set(name)
        for path in sorted((folder / "bert").glob("*.txt")):
            run = Run("bert", read_log(path, folder))
            runs += run.converged
            for evaluation in run.evaluations_by_point if run.converged else ():
                accuracies[round(evaluation.point / step) * step].append(evaluation.accuracy)
    assert runs == curve.runs
    kept = [point for point in sorted(accuracies) if 2 * len(accuracies[point]) >= runs]
    assert tuple(kept) == curve.points
    for how, row in ((fmean, curve.mean), (min, curve.low), (max, curve.high)):
        assert row == pytest.approx([how(accuracies[point]) for point in kept], abs=6e-5)


def judge(campaign, folder, profile):
    return score_folder(campaign.write(folder), "4.0.0", load_profile(profile), False)


def test_the_caption_names_the_band_or_that_there_is_none(campaign, tmp_path):
    for lines in campaign.runs["resnet"]:
        lines.find("global_batch_size")["value"] = 2048
    verdicts = judge(campaign, tmp_path, "mlperf").verdicts
    assert "No band" in caption_accuracies(verdicts["resnet"])
    assert "20 published runs of batch 448" in caption_accuracies(verdicts["bert"])


def test_a_demonstration_has_no_band(demonstration, tmp_path):
    for lines in demonstration.runs["bert"]:
        lines.find("global_batch_size")["value"] = 448
    verdict = judge(demonstration, tmp_path, "demo").verdicts["bert"]
    assert find_published_curve(verdict) is None
    assert "band" not in caption_accuracies(verdict).lower()


def test_speeds_between_evaluations(campaign, tmp_path):
    campaign.runs.pop("bert")
    run = judge(campaign, tmp_path, "mlperf").verdicts["resnet"].result.runs[0]
    speeds = list_interval_speeds(run)
    assert [(first, last) for first, last, _ in speeds[:2]] == [(0, 3), (3, 7)]
    assert len(speeds) == 9
    assert speeds[1][2] == pytest.approx(4 * 1_281_167 / (4 * 27 + 2))
