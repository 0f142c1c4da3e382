"""The steps of what was run: the source, the system file, and the campaign's own record."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import Finding, quote
from scoring.package.examination import Check, Material, conclude, parse_object, read_part, skip
from scoring.package.layout import CAMPAIGN_FILE, FAILED_FOLDER, MANIFEST_FILE
from scoring.package.source import hash_sources
from scoring.rules import BENCHMARKS
from scoring.run import Run

SOURCE_LIMIT_BYTES = 32 << 20
_HASHED = (".py", ".toml")


def check_sources(material: Material) -> Check:
    """Compare the delivered sources' hash with the manifest and with what each log carries."""
    findings: list[Finding] = []
    for benchmark in BENCHMARKS:
        derived = _hash_source(material, benchmark)
        if derived is None:
            message = "the delivered source is missing, or too large to be one"
            findings.append(Finding("source-differs", message, benchmark))
            continue
        manifest = material.manifest.value
        if manifest and manifest.source_sha256[benchmark] != derived:
            stated = _shorten(manifest.source_sha256[benchmark])
            message = f"source_sha256 is {stated}, the delivered source has {_shorten(derived)}"
            findings.append(Finding("source-differs", message, benchmark, MANIFEST_FILE))
        for run in material.runs.get(benchmark, []):
            findings.extend(_compare_source(run, derived))
    if not findings and not material.all_runs:
        return skip("source", "there are no logs to compare the source with")
    count = len(material.all_runs)
    good = f"the delivered source has the hash that all {count} logs carry"
    return conclude("source", findings, good)


def _hash_source(material: Material, benchmark: str) -> str | None:
    """Hash the source that a benchmark's logs speak of; None where there is none to hash."""
    folders = ("harness", benchmark)
    paths = [
        path
        for path in material.list_source(benchmark)
        if path.startswith(tuple(f"{folder}/" for folder in folders)) and path.endswith(_HASHED)
    ]
    places = [material.locate_source_file(benchmark, path) for path in paths]
    size = sum(material.package.files[place].bytes for place in places)
    if not paths or size > SOURCE_LIMIT_BYTES:
        return None
    contents = (material.package.read(place, SOURCE_LIMIT_BYTES) for place in places)
    return hash_sources(dict(zip(paths, contents, strict=True)), folders)


def _compare_source(run: Run, derived: str) -> Iterator[Finding]:
    events = run.get_events("source_sha256")
    if not events:
        yield run.remark("source-differs", "the log carries no source_sha256 of the run's source")
    for event in events:
        if event.value != derived:
            message = (
                f"source_sha256 is {_shorten(event.value)}, the delivered source has "
                f"{_shorten(derived)}: it is not the one that ran"
            )
            yield run.remark("source-differs", message, event)


def _shorten(digest: object) -> str:
    """Show the beginning of a hash, which is enough to tell two apart."""
    return f"{digest[:16]}..." if isinstance(digest, str) and digest.isalnum() else quote(digest)


def check_system_file(material: Material) -> Check:
    """Compare the delivered system file with the manifest, the profile and the logs."""
    system = material.system_file.value
    if system is None:
        finding = Finding("system-file-differs", material.system_file.problem)
        return conclude("system file", [finding], "")
    manifest = material.manifest.value
    path = manifest.system_file if manifest else f"systems/{material.system}.toml"
    findings = [
        *_check_own_words(material),
        *(finding for run in material.all_runs for finding in _check_submission(material, run)),
        *(
            finding
            for run in material.all_runs
            for finding in compare_setting(material, run, path, "system-file-differs")
        ),
    ]
    good = f"{system.name}: it is the one that every log names by its hash, with its submitter"
    return conclude("system file", findings, good)


def _check_own_words(material: Material) -> Iterator[Finding]:
    system, manifest = material.system_file.value, material.manifest.value
    assert system is not None
    if system.name != material.system:
        message = f"it is named {quote(system.name)}, the package's system {material.system}"
        yield Finding("system-file-differs", message)
    if system.profile != material.profile.name:
        message = f"its profile is {quote(system.profile)}, judged by {material.profile.name}"
        yield Finding("system-file-differs", message)
    if system.one_machine and not material.profile.demonstration:
        yield Finding("system-file-differs", "one machine stands for all nodes: a demonstration")
    if manifest and manifest.submitter != system.organization:
        stated = quote(manifest.submitter)
        message = f"the submitter is {quote(system.organization)}, in the manifest {stated}"
        yield Finding("system-file-differs", message, file=MANIFEST_FILE)
    if manifest and manifest.configurations != dict(system.configurations):
        message = "it names other configurations than the manifest"
        yield Finding("system-file-differs", message, file=MANIFEST_FILE)
    yield from _compare_copies(material)


def _compare_copies(material: Material) -> Iterator[Finding]:
    """Both benchmarks deliver the system file: it must be one and the same."""
    manifest = material.manifest.value
    path = manifest.system_file if manifest else f"systems/{material.system}.toml"
    copies = {
        material.package.files.get(material.locate_source_file(benchmark, path))
        for benchmark in BENCHMARKS
    }
    if len(copies) > 1:
        yield Finding("system-file-differs", f"{path} is not the same in both delivered sources")


def _check_submission(material: Material, run: Run) -> Iterator[Finding]:
    system = material.system_file.value
    assert system is not None
    wanted = {
        "submission_org": system.organization,
        "submission_platform": system.platform,
        "submission_status": system.status,
    }
    for key, value in wanted.items():
        for event in run.get_events(key):
            if event.value != value:
                message = f"{key} is {quote(event.value)}, in the system file {quote(value)}"
                yield run.remark("system-file-differs", message, event)


def compare_setting(material: Material, run: Run, path: str, rule: str) -> Iterator[Finding]:
    """Compare a delivered file with the hash that a run logged of it, beside that of its source.

    path: from the kit's root. The sources' hash says not which of their configurations ran.
    """
    name = path.rsplit("/", 1)[-1] if path.startswith("systems/") else path
    entry = material.package.files.get(material.locate_source_file(run.benchmark, path))
    for event in run.get_events("source_sha256"):
        settings = event.metadata.get("settings")
        logged = settings.get(name) if isinstance(settings, dict) else None
        if logged is None:
            message = f"the log names no hash of {quote(name)}, with which it should have run"
        elif entry is None or logged != entry.sha256:
            delivered = _shorten(entry.sha256) if entry else "nothing"
            message = f"{quote(name)} had SHA-256 {_shorten(logged)} in the run, here {delivered}"
        else:
            continue
        yield run.remark(rule, message, event)


def check_campaign(material: Material) -> Check:
    """Compare the hashes that the campaign recorded at its start with the delivered files."""
    if CAMPAIGN_FILE not in material.package.files:
        return skip("campaign", "the package holds no record of the campaign")
    part = read_part(material.package, CAMPAIGN_FILE, parse_object)
    if part.value is None:
        return conclude("campaign", [Finding("campaign-differs", part.problem)], "")
    findings = []
    for name, place in _list_recorded(material).items():
        recorded = part.value.get(name)
        entry = material.package.files.get(place)
        if recorded is None:
            message = f"the campaign recorded no hash of {quote(name)}"
        elif entry is None:
            message = f"{place} is missing, which the campaign recorded"
        elif recorded != entry.sha256:
            message = (
                f"{quote(name)} had SHA-256 {_shorten(recorded)} when the campaign began, "
                f"delivered is {_shorten(entry.sha256)}"
            )
        else:
            continue
        findings.append(Finding("campaign-differs", message, file=CAMPAIGN_FILE))
    findings.extend(_list_failed(material))
    good = "system file and configurations are those that the campaign recorded when it began"
    return conclude("campaign", findings, good)


def _list_failed(material: Material) -> Iterator[Finding]:
    """Name each failed attempt at a run that the campaign put on record."""
    prefix = f"{FAILED_FOLDER}/"
    for path in sorted(material.package.files):
        if not path.startswith(prefix) or not path.endswith(".json"):
            continue
        benchmark = path.removeprefix(prefix).partition("_")[0]
        part = read_part(material.package, path, parse_object)
        reason = quote((part.value or {}).get("reason", "not told"), 200)
        begun = (part.value or {}).get("clock_started") is not False
        when = "after its clock had started" if begun else "before its clock started"
        message = f"an attempt at a run failed {when}: {reason}"
        yield Finding("failed-runs", message, benchmark, path)


def _list_recorded(material: Material) -> dict[str, str]:
    """Give the names that a campaign records, with the delivered files they speak of."""
    manifest, system = material.manifest.value, material.system_file.value
    path = manifest.system_file if manifest else f"systems/{material.system}.toml"
    table = {path.rsplit("/", 1)[-1]: material.locate_source_file(BENCHMARKS[0], path)}
    for benchmark in BENCHMARKS if system else ():
        assert system is not None
        configuration = system.configurations[benchmark]
        table[configuration] = material.locate_source_file(benchmark, configuration)
    return table
