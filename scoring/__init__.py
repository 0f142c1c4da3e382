"""Scoring: reads run logs, judges them by the MLPerf rules, computes R, B and the score.

Nothing here imports torch or the trainers: an auditor does not read its numbers from what it
audits, and a reviewer runs it on a laptop.
"""
