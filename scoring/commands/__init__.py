"""The commands of `python -m scoring`, one file each.

A command's file has HELP (one line), `add_arguments(parser)` and `run(options)`, which gives the
exit status. What is slow to import is imported by `run`, so that the other commands need not wait.
"""
