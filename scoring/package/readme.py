"""Writes the package's README: how a reviewer rebuilds, reruns and verifies what it claims."""

from __future__ import annotations

import shlex
import string
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from scoring.findings import make_printable
from scoring.package.layout import IMAGE_MANIFEST_FILE, Manifest, locate_source
from scoring.prose import DEMONSTRATION, LETTERS, NAMES, format_minutes, format_score
from scoring.rules import BENCHMARKS
from scoring.score import Score

# Where the kit's recipes put an image's manifest.
MANIFEST_IN_IMAGE = "/opt/lp-mlperf-environment/manifest/manifest.json"
_MARKUP = str.maketrans({letter: f"\\{letter}" for letter in string.punctuation})


@dataclass(frozen=True)
class Facts:
    """What the README tells; the manifest's files are not filled in yet.

    folder: the submitter's; paths: what the package holds below it.
    """

    manifest: Manifest
    score: Score
    folder: str
    paths: Collection[str]


def write_readme(facts: Facts) -> str:
    """Write the README as Markdown; text of unknown origin is escaped."""
    parts = (
        *(_write_head(facts), _write_contents(facts), _write_kit(facts), _write_hashes(facts)),
        *(_write_image(facts), _write_rerun(facts), _write_verification(facts)),
    )
    return "\n".join(line for part in parts for line in part)


def escape(text: str) -> str:
    """Show any text in Markdown as itself, on one line."""
    return make_printable(text).translate(_MARKUP)


def _write_text(*sentences: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(sentences), 100, break_long_words=False)
    yield ""


def _write_block(*commands: str) -> Iterator[str]:
    yield "```sh"
    yield from (make_printable(command) for command in commands)
    yield from ("```", "")


def _write_head(facts: Facts) -> Iterator[str]:
    manifest, score = facts.manifest, facts.score
    yield f"# {escape(manifest.submitter)}: response package, system {escape(manifest.system)}"
    yield ""
    if score.profile.demonstration:
        yield from (f"# {DEMONSTRATION}", "")
        yield from _write_text(
            "Small models and made data: the procedure is the real one, the figures mean nothing."
        )
    plain, scaled = score.compute(normalized=False), score.compute(normalized=True)
    rows = [("score", f"{format_score(plain)} (scaled to reference means: {format_score(scaled)})")]
    for name in BENCHMARKS:
        verdict = score.verdicts[name]
        rows.append((f"{LETTERS[name]}, {NAMES[name]}", format_minutes(verdict.latency_minutes)))
    rows.append(("profile, ruleset", f"`{manifest.profile}`, `{manifest.ruleset}`"))
    rows.append(("kit", escape(manifest.kit)))
    yield from ("| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in rows)
    yield ""
    yield from _write_text(
        "The score is a claim: `score.json` holds it, and the steps below derive it again."
    )


def _write_contents(facts: Facts) -> Iterator[str]:
    system = facts.manifest.system
    yield from ("## What is here", "")
    yield "- `package.json`: every other file with its size and SHA-256, and the hashes below"
    yield f"- `systems/{system}.json`: the MLPerf system description"
    for benchmark in BENCHMARKS:
        count = len(facts.score.verdicts[benchmark].result.runs)
        yield f"- `results/{system}/{benchmark}/`: the logs of all {count} runs"
    for benchmark in BENCHMARKS:
        yield f"- `{locate_source(system, benchmark)}/`: the source as it ran"
    yield "- `score.json`, `report.html`: the score, and all figures on one page"
    if any(path.startswith("campaign/") for path in facts.paths):
        yield "- `campaign/`: what the campaign recorded, and what launcher and ranks wrote"
    if IMAGE_MANIFEST_FILE in facts.paths:
        yield f"- `{IMAGE_MANIFEST_FILE}`: what the container image holds"
    yield ""


def _write_kit(facts: Facts) -> Iterator[str]:
    yield from ("## 1. Make the kit ready", "")
    yield from _write_text(
        "Beside the package, so that nothing in it changes (Python 3.10 to 3.13; no GPU is needed "
        "to verify). To trust no code of the submitter, take a kit of your own instead."
    )
    source = f"{facts.folder}/{locate_source(facts.manifest.system, 'resnet')}"
    yield from _write_block(f"cp -r {source} kit", "cd kit", "python=$(scripts/environment)")


def _write_hashes(facts: Facts) -> Iterator[str]:
    yield from ("## 2. Compare the hashes", "")
    code = "from pathlib import Path; from scoring.package.source import *; "
    code += "print(hash_benchmark_sources(read_source(Path()).files))"
    yield from _write_block(f'"$python" -c {shlex.quote(code)}')
    yield from _write_text("must print these, and every log has its own as `source_sha256`:")
    yield from ("| benchmark | SHA-256 of its source |", "|---|---|")
    for benchmark in BENCHMARKS:
        yield f"| {benchmark} | `{facts.manifest.source_sha256[benchmark]}` |"
    yield ""
    paths = [facts.manifest.configurations[benchmark] for benchmark in BENCHMARKS]
    yield from _write_text(
        f"System file: `{facts.manifest.system_file}`. Configurations:",
        " and ".join(f"`{path}`." for path in paths).replace("`. and", "` and"),
    )


def _write_image(facts: Facts) -> Iterator[str]:
    image = facts.manifest.image
    yield from ("## 3. Rebuild the image", "")
    if image.reference:
        digest = f", digest {escape(image.digest)}" if image.digest else ", no digest recorded"
        yield from _write_text(f"The runs used the image {escape(image.reference)}{digest}.")
    else:
        yield from _write_text(
            "The system file names no container image: the ranks ran in an environment made from "
            "`container/requirements.lock`, which step 1 makes anew."
        )
    source = locate_source(facts.manifest.system, "resnet")
    if f"{source}/Dockerfile" in facts.paths:
        yield from _write_block(
            "docker build -t kit:rebuilt .",
            f"docker run --rm kit:rebuilt cat {MANIFEST_IN_IMAGE} > manifest.json",
        )
    if f"{source}/Singularity.def" in facts.paths:
        yield from _write_text("or, without Docker:")
        yield from _write_block(
            "apptainer build --fakeroot kit.sif Singularity.def",
            f"apptainer exec kit.sif cat {MANIFEST_IN_IMAGE} > manifest.json",
        )
    if image.manifest_sha256:
        yield from _write_text(
            f"`{IMAGE_MANIFEST_FILE}` has SHA-256 `{image.manifest_sha256}`; step 5 compares it."
        )
    else:
        yield from _write_text(
            "The submitter gave no manifest of the image: ask for it, or compare the versions that "
            "the system description names."
        )


def _write_rerun(facts: Facts) -> Iterator[str]:
    manifest = facts.manifest
    yield from ("## 4. Run again", "")
    if facts.score.profile.demonstration:
        yield from _write_text(
            "Without a GPU, in a few minutes. `python -m demo` makes the data, where the system",
            "file does not name it under `make_data`:",
        )
    else:
        yield from _write_text(
            "Prepare the data (`docs/resnet_data.md`, `docs/bert_data.md`), write your hosts and",
            f"paths into `{manifest.system_file}`, and run; `--benchmark resnet --runs 1` makes a",
            "single run:",
        )
    rules = ["--rfp", manifest.profile, "--ruleset", manifest.ruleset]
    rules += ["--window"] if manifest.window else []
    yield from _write_block(
        f"./run_and_time.sh --system {manifest.system} --results rerun --dry-run",
        f"./run_and_time.sh --system {manifest.system} --results rerun",
        f'"$python" -m scoring score rerun/{manifest.system} {shlex.join(rules)}',
    )
    yield from _write_text(
        "Seeds differ from run to run, as the rules ask: compare accuracy by epoch and samples per "
        "second, not digits."
    )


def _write_verification(facts: Facts) -> Iterator[str]:
    manifest = facts.manifest
    rfp = "" if manifest.profile == "lp2bm" else f" --rfp {shlex.quote(manifest.profile)}"
    yield from ("## 5. Verify this package", "")
    yield from _write_text(
        "PACKAGE is the archive, or the folder that holds this one, as it was handed in:"
    )
    commands = [f'"$python" -m scoring verify PACKAGE{rfp}']
    if manifest.image.manifest_sha256:
        commands.append(f"{commands[0]} --image-manifest manifest.json")
    yield from _write_block(*commands)
    yield from _write_text(
        "It hashes every file, derives the score from the logs alone and compares it with the",
        "claim. `docs/scoring.md` says what each step proves, and what no log can prove.",
    )
