"""Fuzzers: each feeds damaged input to a reader of the kit for as long as one likes."""
