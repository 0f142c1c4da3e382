"""The hash of the sources changes with any of them, and with nothing else."""

from pathlib import Path

from harness.provenance import hash_sources
from harness.runclock import ROOT


def make_tree(folder: Path) -> Path:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "x.py").write_text("1")
    (folder / "a" / "b" / "y.toml").write_text("2")
    return folder


def test_every_source_counts_and_nothing_else(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    first = hash_sources(tree, ("a",))
    (tree / "a" / "x.pyc").write_text("compiled")
    assert hash_sources(tree, ("a",)) == first
    (tree / "a" / "b" / "y.toml").write_text("3")
    changed = hash_sources(tree, ("a",))
    assert changed != first
    (tree / "a" / "x.py").rename(tree / "a" / "z.py")
    assert hash_sources(tree, ("a",)) not in (first, changed)


def test_the_kit_has_a_hash() -> None:
    assert hash_sources(ROOT, ("harness", "resnet")) != hash_sources(ROOT, ("harness", "bert"))
