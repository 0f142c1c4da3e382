"""Network, time and convergence, each against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.commands import InputError
from harness.prediction_convergence import (
    Convergence,
    Grid,
    compare_groups_with_references,
    find_bert_convergence,
    find_resnet_convergence,
    state_convergence,
)
from harness.prediction_network import (
    Network,
    compute_all_reduce_seconds,
    compute_exposed_seconds,
)
from harness.prediction_published import Hyperparameters, load_published_convergence
from harness.prediction_references import find_reference, load_references, prune
from harness.prediction_step import StepModel
from harness.prediction_time import Job, Machine, compute_run_seconds, compute_update_seconds
from scoring.convergence import load_references as load_as_scoring
from scoring.convergence import match_reference, prune_references

JOB = Job(
    benchmark="resnet",
    nodes=4,
    ranks_per_node=8,
    global_batch_size=3200,
    samples_per_point=1_280_000.0,
    evaluation_samples=32_000,
    gradient_bytes=100e6,
    last_bucket_share=0.25,
    grid=Grid((3.0, 7.0, 11.0)),
)
MACHINE = Machine(
    step=StepModel(0.0001, 0.002),
    network=Network(3200.0),
    evaluation_per_second=10_000.0,
    evaluation_pass_seconds=0.05,
    first_epoch_extra_seconds=4.0,
    start_stop_seconds=1.0,
)


def test_an_all_reduce_is_a_ring_inside_and_one_between_nodes():
    # inside: 2 * 7/8 * 100 MB / 400 GB/s; between: 2 * 3/4 * 100 MB / (400 GB/s * 0.85)
    expected = 1.75 * 100e6 / 400e9 + 1.5 * 100e6 / 340e9
    assert compute_all_reduce_seconds(100e6, 4, 8, Network(3200.0)) == pytest.approx(expected)
    assert compute_all_reduce_seconds(100e6, 1, 1, Network(3200.0)) == 0.0
    assert compute_all_reduce_seconds(100e6, 1, 8, Network(0.0)) == pytest.approx(0.0004375)


def test_a_measured_all_reduce_replaces_both_rates():
    measured = Network(1.0, measured_bytes_per_second=100e9)
    assert compute_all_reduce_seconds(100e6, 4, 8, measured) == pytest.approx(2 * 31 / 32 * 0.001)


@pytest.mark.parametrize(
    ("share", "window", "exposed"), [(0.25, 1.0, 0.25), (0.25, 0.5, 0.5), (1.0, 9.0, 1.0)]
)
def test_what_does_not_fit_behind_the_backward_pass_is_waited_for(
    share: float, window: float, exposed: float
):
    assert compute_exposed_seconds(1.0, share, window) == pytest.approx(exposed)


def test_gathered_weights_hide_behind_the_forward_pass():
    slow = replace(MACHINE, network=Network(25.0))  # 0.048 s an all-reduce, 0.012 s a step
    sharded = replace(JOB, gathered_share=0.5, first_bucket_share=0.25)
    half = compute_all_reduce_seconds(100e6, 4, 8, MACHINE.network) / 2
    found = compute_update_seconds(sharded, MACHINE).all_reduce
    assert found == pytest.approx(0.25 * half + 0.25 * half)
    half = compute_all_reduce_seconds(100e6, 4, 8, slow.network) / 2
    found = compute_update_seconds(sharded, slow).all_reduce
    assert found == pytest.approx((half - 0.008) + (half - 0.004))  # each pass full


def test_a_run_is_the_sum_of_its_terms():
    terms = compute_run_seconds(JOB, MACHINE, 7.0)
    updates = 7 * 1_280_000 / 3200
    all_reduce = compute_all_reduce_seconds(100e6, 4, 8, MACHINE.network)
    assert terms.samples == pytest.approx(updates * 0.01)
    assert terms.steps == pytest.approx(updates * 0.002)
    assert terms.all_reduce == pytest.approx(updates * 0.25 * all_reduce)
    assert terms.evaluation == pytest.approx(2 * (0.05 + 1000 / 10_000))
    assert (terms.input, terms.first_epoch, terms.start_stop) == (0.0, 4.0, 1.0)
    assert terms.total == pytest.approx(sum(vars(terms).values()))


def test_slow_input_and_a_network_that_hides_nothing_cost_what_they_lack():
    slow = replace(MACHINE, input_per_second=5000.0, hidden_share=0.0)
    update = compute_update_seconds(JOB, slow)
    assert update.input == pytest.approx(100 / 5000 - 0.012)
    assert update.all_reduce == pytest.approx(
        compute_all_reduce_seconds(100e6, 4, 8, MACHINE.network)
    )


def test_a_run_ends_at_the_first_evaluation_after_it_converged():
    ends = JOB.grid.round_up(np.array([0.5, 3.0, 3.1, 11.0, 11.5]))
    assert ends[:4].tolist() == [3.0, 3.0, 7.0, 11.0]
    assert np.isnan(ends[4])


def test_resnet_ends_at_35_or_the_next_evaluation_or_fails():
    convergence, _ = find_resnet_convergence(3264)
    grid = Grid(tuple(float(e) for e in range(3, 40, 4)))
    points = convergence.draw(grid, (20_000,), np.random.default_rng(0))
    assert set(np.unique(points[~np.isnan(points)])) == {35.0, 39.0}
    assert (points == 35).mean() == pytest.approx(575 / 620, abs=0.01)
    short = Grid(tuple(float(e) for e in range(3, 36, 4)))
    points = convergence.draw(short, (20_000,), np.random.default_rng(0))
    assert np.isnan(points).mean() == pytest.approx(45 / 620, abs=0.01)


# NVIDIA's group at 768, which 62 published sets ran.
GROUP = Hyperparameters(768, 9.6e-4, 3680, 0, 0, 0.1, 0.60466, 0.85437)


def test_a_distribution_over_published_evaluations_keeps_their_mean():
    convergence, _ = find_bert_convergence(GROUP)
    grid = Grid(tuple(150_000.0 * n for n in range(1, 40)))
    points = convergence.draw(grid, (50_000, 1), np.random.default_rng(0))
    assert points.mean() == pytest.approx(2_432_854, rel=0.005)
    assert points.std() == pytest.approx(186_996, rel=0.05)


def test_what_a_campaign_has_in_common_moves_all_its_runs():
    grid = Grid(tuple(float(n) for n in range(1, 3000)))
    alike = Convergence("test", normal=(1000.0, 0.0), common_deviation=0.1)
    points = alike.draw(grid, (4000, 10), np.random.default_rng(0))
    assert (points == points[:, :1]).all()
    assert np.log(points[:, 0] / 1000).std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("field", "value"),
    [("training_steps", 4500), ("weight_decay", 0.01), ("beta_1", 0.9), ("warmup_steps", 100)],
)
def test_one_other_hyperparameter_is_another_group(field: str, value: float):
    # Weight decay 0.01 at 3072 took 3.08 million samples, 0.1 only 2.67 million.
    assert "62" not in find_bert_convergence(replace(GROUP, **{field: value}))[0].source


def test_hyperparameters_of_reference_runs_alone_converge_as_those_did():
    stated = Hyperparameters(4096, 0.0024, 855, 0, 0, 0.01, 0.66, 0.998)
    convergence, _ = find_bert_convergence(stated)
    assert convergence.source == "20 reference runs at global batch 4,096"
    assert len(convergence.values) == 20 and 0.01 < convergence.common_deviation < 0.02


def test_other_hyperparameters_fall_back_to_the_reference_of_the_batch():
    alone = replace(GROUP, global_batch_size=3072, learning_rate=1e-4)
    convergence, reference = find_bert_convergence(alone)
    assert "reference runs" in convergence.source and len(convergence.values) >= 10
    # The checker prunes the record of 3072 and interpolates (448 to 4608).
    assert reference.mean == pytest.approx(2_656_421, abs=1)
    factor, deviation = compare_groups_with_references(alone)
    record = next(r for r in load_references("bert") if r.global_batch_size == 3072)
    assert max(convergence.values) == pytest.approx(factor * (max(record.points) - 12_500))
    assert convergence.common_deviation == deviation
    # Published hyperparameters converge later than the references, and scatter.
    assert 1.0 < factor < 1.15 and 0.05 < deviation < 0.2


def test_a_group_is_compared_with_the_references_without_itself():
    slow = next(
        group.hyperparameters
        for group in load_published_convergence()
        if group.hyperparameters.training_steps == 14200
    )
    assert compare_groups_with_references(slow)[0] < compare_groups_with_references(GROUP)[0]


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
@pytest.mark.parametrize("batch", [256, 448, 768, 1632, 3072, 3200, 3264, 4096, 16384])
def test_references_are_those_of_the_scoring(benchmark: str, batch: int):
    ours = find_reference(prune(load_references(benchmark)), batch, benchmark)
    records = prune_references(load_as_scoring("4.0.0", benchmark))
    theirs, _ = match_reference(batch, records, {"resnet": 5, "bert": 10}[benchmark])
    assert theirs is not None
    assert ours.mean == pytest.approx(theirs.mean)
    assert ours.compute_minimum_mean(benchmark) == pytest.approx(
        theirs.compute_minimum({"resnet": 5, "bert": 10}[benchmark])
    )


@pytest.mark.parametrize(("benchmark", "batch"), [("resnet", 67_841), ("bert", 16_385)])
def test_a_batch_above_the_references_is_refused_with_the_way_out(benchmark: str, batch: int):
    option = {"resnet": "--resnet-epochs", "bert": "--bert-samples"}[benchmark]
    with pytest.raises(InputError, match=f"{batch}.*largest reference.*{option}"):
        find_reference(load_references(benchmark), batch, benchmark)


def test_a_stated_point_is_where_every_run_converges():
    points = state_convergence(6.0, "epochs").draw(JOB.grid, (3, 2), np.random.default_rng(0))
    assert (points == 7.0).all()


def test_a_distribution_that_is_drawn_from_values_uses_them_all():
    points = Convergence("test", values=(1.0, 5.0)).draw(
        JOB.grid, (1000,), np.random.default_rng(0)
    )
    assert set(points) == {3.0, 7.0}
