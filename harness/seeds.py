"""Seeds: drawn from the system's entropy for every run, the same on all ranks, logged.

Rules: "Random numbers" (training_rules.adoc): seeds come from the clock or the system's
randomness; the package check wants them different in every run.
"""

from __future__ import annotations

import hashlib
import os

from harness.ranks import Ranks


def draw_seed(ranks: Ranks) -> int:
    """Draw the run's seed on rank 0 from the system's entropy (31 bits) and give it to all."""
    return int(ranks.broadcast(int.from_bytes(os.urandom(4), "little") & 0x7FFFFFFF))


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Derive an independent 31-bit seed for a purpose ("order") and an index (a rank)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
