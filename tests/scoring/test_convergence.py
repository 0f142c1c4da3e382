"""The closed form of the convergence test agrees with mlperf-logging's search."""

import random

import pytest
from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

from scoring.convergence import load_references, match_reference, prune_references
from scoring.exits import InputError

RUNS_NEEDED = {"resnet": 5, "bert": 10}
# (batch, runs, mean, deviation, smallest allowed mean) of ruleset 4.0.0, from the rules' review.
PRUNED = {
    "resnet": [
        (1632, 17, 35.0000, 1.0847, 33.8023),
        (3264, 15, 35.1538, 0.7483, 34.3096),
        (32768, 10, 56.0000, 0.4472, 55.4450),
        (49152, 10, 68.0000, 0.6325, 67.2151),
        (67840, 28, 85.8462, 0.6389, 85.1826),
    ],
    "bert": [
        (448, 23, 2414421.33, 197392.48, 2274732.03),
        (4608, 20, 2798080.00, 130963.71, 2702871.34),
        (6144, 20, 3319125.33, 146691.14, 3212483.06),
        (6912, 20, 3601920.00, 121792.78, 3513378.47),
        (12288, 20, 4465066.67, 88564.05, 4400681.93),
        (13056, 20, 4645333.33, 179017.32, 4515190.41),
        (16384, 20, 5505422.22, 144642.71, 5400269.13),
    ],
}
ROUNDS = [
    (ruleset, benchmark)
    for benchmark, rulesets in {
        "resnet": "1.0.0 1.1.0 2.0.0 2.1.0 3.0.0 3.1.0 4.0.0",
        "bert": "1.0.0 1.1.0 2.0.0 2.1.0 3.0.0 3.1.0 4.0.0 4.1.0 5.0.0",
    }.items()
    for ruleset in rulesets.split()
]


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_records_of_the_ruleset(benchmark):
    pruned = prune_references(load_references("4.0.0", benchmark))
    rows = [
        (
            r.global_batch_size,
            len(r.points),
            r.mean,
            r.deviation,
            r.compute_minimum(RUNS_NEEDED[benchmark]),
        )
        for r in pruned
    ]
    for row, expected in zip(rows, PRUNED[benchmark], strict=True):
        assert row[:2] == expected[:2]
        assert row[2:] == pytest.approx(expected[2:], abs=0.0051 if benchmark == "bert" else 5e-5)


@pytest.mark.parametrize(("ruleset", "benchmark"), ROUNDS)
def test_stock_checker_agrees(ruleset, benchmark):
    checker = RCP_Checker("training", ruleset, benchmark, False)
    pruned = prune_references(load_references(ruleset, benchmark))
    theirs = {record["BS"]: record for record in checker.pruned_rcp_data.values()}
    assert [record.global_batch_size for record in pruned] == sorted(theirs)
    slack = 2e-4
    for record in pruned:
        expected = theirs[record.global_batch_size]
        assert record.mean == pytest.approx(expected["RCP Mean"], rel=1e-12)
        assert record.compute_minimum(RUNS_NEEDED[benchmark]) == pytest.approx(
            expected["Min Epochs"], abs=slack
        )
    generator = random.Random(3)
    low, high = pruned[0].global_batch_size, pruned[-1].global_batch_size
    for batch in generator.sample(range(low + 1, high), 20):
        record, message = match_reference(batch, pruned, RUNS_NEEDED[benchmark])
        if message == "RCP found":
            continue
        below = checker._find_top_min_rcp(batch, "pruned_rcps")
        above = checker._find_bottom_max_rcp(batch, "pruned_rcps")
        _, expected = checker._create_interp_rcp(batch, below, above)
        assert record.mean == pytest.approx(expected["RCP Mean"], rel=1e-12)
        assert record.deviation == pytest.approx(expected["RCP Stdev"], rel=1e-9)
        assert record.compute_minimum(RUNS_NEEDED[benchmark]) == pytest.approx(
            expected["Min Epochs"], abs=slack
        )


def test_matching_by_batch():
    pruned = prune_references(load_references("4.0.0", "resnet"))
    assert match_reference(408, pruned, 5)[0].global_batch_size == 1632
    assert match_reference(3264, pruned, 5)[1] == "RCP found"
    record, message = match_reference(3200, pruned, 5)
    assert message == "RCP Interpolation"
    assert record.mean == pytest.approx(35.147813, abs=1e-6)
    assert record.compute_minimum(5) == pytest.approx(34.247546, abs=1e-6)
    assert match_reference(67_841, pruned, 5)[0] is None


def test_a_ruleset_without_points_is_one_sentence():
    with pytest.raises(InputError, match="reference points cannot be read"):
        load_references("4.1.0", "resnet")
