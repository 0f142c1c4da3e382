"""The prediction against published results: the limits hold, and the document says what is true."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import fmean

import pytest

from harness import predict
from harness.commands import InputError
from harness.prediction_campaign import MODEL_DEVIATION
from harness.prediction_convergence import (
    REFERENCE_GRANULARITY_SAMPLES,
    SETS_DEVIATION,
    compare_groups_with_references,
    find_group,
    find_known_reference,
)
from harness.prediction_published import load_published_convergence, load_published_results
from harness.prediction_references import find_reference, load_references
from harness.prediction_step import OVERHEAD_SAMPLES, OVERHEAD_SAMPLES_RANGE
from harness.prediction_table import (
    BEGIN,
    BIAS_LIMIT,
    END,
    LARGEST_LIMIT,
    LEAST_ROWS,
    MEAN_LIMIT,
    draw_errors,
    judge,
    name_missed,
    replace_generated,
    summarize_kind,
    write_parts,
)
from harness.prediction_validation import (
    GROUPS,
    Statistics,
    compare_all,
    fit_platform,
    group_comparisons,
    list_anchors,
    summarize,
)
from harness.prediction_variation import vary_anchors

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "prediction.md"
APPENDIX = ROOT / "docs" / "prediction_validation.md"


@pytest.fixture(scope="module")
def groups():
    return group_comparisons(compare_all())


def test_the_limits_hold_on_several_nodes(groups):
    found = judge(groups)
    assert found.rows >= LEAST_ROWS
    assert found.mean <= MEAN_LIMIT and found.largest <= LARGEST_LIMIT
    assert abs(found.bias) <= BIAS_LIMIT


def test_without_anything_given_mean_and_bias_hold_and_one_row_is_too_far(groups):
    found = summarize_kind(groups["several nodes"], "outright")
    assert found.rows >= LEAST_ROWS and name_missed(found) == ["largest"]
    assert sum(abs(c.outright_error) > LARGEST_LIMIT for c in groups["several nodes"]) == 1
    assert name_missed(summarize_kind(groups["several nodes"], "time")) == []


def test_the_band_holds_about_as_many_rows_as_it_says(groups):
    rows = [c for name in GROUPS[:3] for c in groups[name]]
    assert 0.8 <= sum(c.in_band for c in rows) / len(rows) <= 0.97
    assert all(c.band[0] < c.outright_minutes < c.band[1] for c in rows)


def test_rows_are_set_apart_by_what_is_known_before_a_run(groups):
    for comparison in groups["own hyperparameters"]:
        stated = comparison.result.hyperparameters
        assert stated is not None and find_group(stated, comparison.result) is None
        assert find_known_reference(stated) is None
    for name in ("several nodes", "one node"):
        assert all(c.known and not c.result.shares_ports for c in groups[name])


def test_limits_that_are_missed_are_named():
    assert name_missed(Statistics(26, 0.03, 0.02, 0.11, -0.009, 0.03)) == []
    found = name_missed(Statistics(19, 0.05, 0.02, 0.13, -0.011, 0.03))
    assert found == ["rows", "mean", "largest", "bias"]


def test_no_predicted_row_was_fitted_to(groups):
    rows = [comparison.result for group in groups.values() for comparison in group]
    assert not any(row.anchor for row in rows)
    anchors = [row for row in load_published_results() if row.anchor]
    # H200 has a single published ResNet result: nothing to fit, so nothing to predict.
    alone = [row for row in load_published_results() if row.platform == "ResNet H200"]
    assert len(rows) + len(anchors) + len(alone) == len(load_published_results())


def test_a_fit_goes_through_its_anchors():
    # Predicted from its own fit, an anchor differs by what the logs say of evaluation and first
    # epoch, which are predicted and not fitted.
    from harness.prediction_validation import compare_result

    for platform in ("BERT H200", "BERT H100", "ResNet H100 plain", "BERT A100"):
        for anchor in list_anchors(platform):
            assert abs(compare_result(anchor).training_error) < 0.035


def test_other_anchors_do_about_as_well():
    found = [vary_anchors(name) for name in ("BERT H100", "BERT H200", "BERT GB200")]
    assert all(one is not None and one.pairs > 10 and one.mean < MEAN_LIMIT for one in found)
    assert vary_anchors("BERT B200") is None


def test_the_band_uses_the_deviation_that_was_found(groups):
    # Whose hyperparameters a row ran does not matter with convergence given.
    rows = [*groups["several nodes"], *groups["own hyperparameters"]]
    found = summarize(c.time_error for c in rows if c.result.nodes > 1)
    assert found.deviation == pytest.approx(MODEL_DEVIATION, abs=0.002)


def test_overheads_lie_in_the_range_of_the_fits():
    platforms = {row.platform for row in load_published_results()} - {"ResNet H200"}
    for benchmark, prefix in (("resnet", "ResNet"), ("bert", "BERT")):
        low, high = OVERHEAD_SAMPLES_RANGE[benchmark]
        found = [
            step.per_step_seconds / step.per_sample_seconds
            # The nodes of A100-40GB share ports, whose cost goes into the fit.
            for name in platforms
            if name.startswith(prefix) and not name.endswith("40GB")
            for step in [fit_platform(name)]
        ]
        assert all(low < value <= high / 2 + 0.5 for value in found)
        assert min(found) <= OVERHEAD_SAMPLES[benchmark] <= max(found)


def test_errors_are_summarized_by_their_size_and_sign():
    found = summarize([0.1, -0.3, 0.05])
    assert (found.rows, found.median, found.largest) == (3, 0.1, 0.3)
    assert found.mean == pytest.approx(0.15) and found.bias == pytest.approx(-0.05)
    assert found.deviation == pytest.approx(math.sqrt((0.15**2 + 0.25**2 + 0.1**2) / 3))


def test_the_documents_hold_the_generated_tables_and_picture(groups):
    text = DOCUMENT.read_text(encoding="utf-8") + APPENDIX.read_text(encoding="utf-8")
    for part, wanted in write_parts(groups).items():
        generated = text.partition(BEGIN.format(part=part))[2].partition(END)[0]
        assert generated.strip() == wanted.strip()
    picture = ROOT / "docs" / "prediction_errors.svg"
    assert picture.read_text(encoding="utf-8") == draw_errors(groups)


def test_what_the_document_says_of_the_rows_is_so(groups):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"holds {len(load_published_results())} published results" in text
    rows = [c for name in GROUPS[:3] for c in groups[name]]
    missed = [c.result.system for c in rows if abs(c.time_error) > LARGEST_LIMIT]
    assert missed == ["8xXE9712x4GB200"]
    missed = [c.result.system for c in rows if abs(c.outright_error) > LARGEST_LIMIT]
    assert missed == ["HPE-Cray-XD670-H200-SXM5-141GB_n4_24.09", "8xXE9712x4GB200"]
    worst = min(groups["shared ports"], key=lambda c: c.time_error).result
    assert worst.submitter == "HPE" and worst.nodes == 4


def test_every_row_stands_in_one_of_the_documents(groups):
    text = DOCUMENT.read_text(encoding="utf-8") + APPENDIX.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| [RB] v\d\.\d ", line)]
    assert len(rows) == len(set(rows)) == sum(len(found) for found in groups.values())


def test_drawing_groups_towards_their_references_predicts_sets_no_better():
    # A random-effects mean of the rest of a set's group and of its batch's reference, each weighed
    # by its variance: between groups as found, within them that of the sets and of their runs.
    groups = load_published_convergence()
    runs = math.sqrt(
        sum((g.deviation_samples / g.mean_samples) ** 2 * g.converged_runs for g in groups)
        / sum(g.converged_runs for g in groups)
    )
    records, errors = load_references("bert"), {}
    for row in load_published_results():
        group = row.hyperparameters and find_group(row.hyperparameters, row)
        if not group:
            continue
        factor, between = compare_groups_with_references(group.hyperparameters)
        half = group.evaluation_interval_samples / 2
        known = find_known_reference(group.hyperparameters)
        reference = known or find_reference(records, row.global_batch_size, "bert")
        prior = (reference.mean - REFERENCE_GRANULARITY_SAMPLES / 2) * (1 if known else factor)
        rest = math.log(group.mean_samples - half)
        within = SETS_DEVIATION**2 / group.sets + runs**2 / group.converged_runs
        weight = between**2 / (between**2 + within)
        drawn = weight * rest + (1 - weight) * math.log(prior)
        truth = math.log(row.converged_mean - half)
        errors[row.round, row.system] = (rest - truth, drawn - truth)
    assert len(errors) == 46
    kinds = zip(*errors.values(), strict=True)
    ours, drawn = (math.sqrt(fmean(error**2 for error in kind)) for kind in kinds)
    assert round(100 * ours, 1) == round(100 * drawn, 1) == 2.9
    ours, drawn = errors["v5.0", "HPE-Cray-XD670-H200-SXM5-141GB_n4_24.09"]
    assert 0 < ours - drawn < 0.001


@pytest.mark.parametrize("names", [("one",), ("two", "one")])
def test_replacing_keeps_the_rest_of_a_document(tmp_path: Path, names: tuple[str, ...]):
    def write(text: str) -> str:
        parts = [f"{BEGIN.format(part=name)}\n{text} {name}\n{END}" for name in names]
        return "before\n" + "\nbetween\n".join(parts) + "\nafter\n"

    file = tmp_path / "x.md"
    file.write_text(write("old"), encoding="utf-8")
    replace_generated(file, {"one": "new one", "two": "new two"})
    assert file.read_text(encoding="utf-8") == write("new")


def test_a_document_that_is_no_text_is_named(tmp_path: Path):
    file = tmp_path / "x.md"
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"x\.md: not UTF-8"):
        replace_generated(file, {"one": "new one"})
    assert file.read_bytes() == b"\xff"


def test_the_command_prints_one_document(capsys):
    assert predict.main(["validate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is True
    assert found["groups"]["several nodes"]["statistics"]["training"]["rows"] >= LEAST_ROWS
