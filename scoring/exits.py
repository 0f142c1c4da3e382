"""How a command of scoring ends: its status, and the one sentence on input it cannot use."""

VALID, NOT_VALID, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class InputError(Exception):
    """Something the user gave cannot be used: one sentence with the mend."""
