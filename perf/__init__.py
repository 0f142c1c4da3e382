"""Measurements of our own, each against a named peer, both in one run; never part of a run."""
