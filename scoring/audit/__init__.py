"""The reviewer's checks: what the stock tools let through (one module for each subject)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from scoring.audit import (
    blocks,
    clock,
    duplicates,
    evaluations,
    files,
    identity,
    nodes,
    settings,
    speed,
)
from scoring.findings import Finding
from scoring.submission import Result

FINDINGS_LIMIT = 20
CHECKS = (
    files.check_problems,
    files.check_markers_there,
    files.check_names,
    files.check_scaling_file,
    clock.check_markers_once,
    clock.check_initialisation,
    clock.check_caches,
    clock.check_time_order,
    clock.check_runs_order,
    clock.check_other_benchmark,
    evaluations.check_inside_run,
    evaluations.check_time_order,
    evaluations.check_cadence,
    evaluations.check_status,
    evaluations.check_granularity,
    evaluations.check_train_samples,
    blocks.check_blocks,
    blocks.check_epochs,
    settings.check_batch_size,
    settings.check_hyperparameters_same,
    settings.check_hyperparameter_table,
    settings.check_seeds,
    settings.check_data_sizes,
    settings.check_software_same,
    settings.check_logging_code,
    identity.check_demonstration,
    identity.check_division,
    identity.check_benchmark,
    identity.check_platform,
    nodes.check_nodes,
    nodes.check_counts_same,
    nodes.check_hosts,
    identity.check_description,
    duplicates.check_same_run,
    duplicates.check_same_curve,
    speed.check_stretches,
    speed.check_runs,
    speed.check_epoch_clock,
    speed.check_plausibility,
)


def audit_result(result: Result) -> list[Finding]:
    """Run every check on one benchmark's runs."""
    return limit_findings([finding for check in CHECKS for finding in check(result)])


def limit_findings(findings: list[Finding]) -> list[Finding]:
    """Keep the first FINDINGS_LIMIT findings of a rule on a file; the last says how many more.

    A log of one fault a hundred thousand times over must not drown the rest.
    """
    counts = Counter((finding.rule, finding.file) for finding in findings)
    shown: Counter[tuple[str, str | None]] = Counter()
    kept = []
    for finding in findings:
        place = (finding.rule, finding.file)
        shown[place] += 1
        more = counts[place] - FINDINGS_LIMIT
        if shown[place] == FINDINGS_LIMIT and more > 0:
            finding = replace(finding, message=f"{finding.message} (and {more} more like it)")
        if shown[place] <= FINDINGS_LIMIT:
            kept.append(finding)
    return kept
