"""Measurements of our own, each against a named peer, both in one run; never part of a run."""

from harness.commands import watch_imports

watch_imports()
