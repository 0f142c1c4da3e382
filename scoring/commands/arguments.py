"""What the commands that judge a folder of logs read from their lines, and the judging itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from scoring.exits import InputError
from scoring.profile import DEFAULT, Profile, ProfileError, list_profiles, load_profile
from scoring.score import Score, score_folder


def read_path(text: str) -> Path:
    """Take a path of the line; an empty one, of a variable not set, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a file or folder")
    return Path(text)


def add_judging_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and what it is judged by."""
    parser.add_argument("folder", metavar="DIR", type=read_path, help="holds resnet/ and/or bert/")
    add_rule_arguments(parser, DEFAULT)


def add_rule_arguments(parser: argparse.ArgumentParser, profile: str, window: bool = True) -> None:
    """Add the ruleset, the profile and, if asked, the choice among more runs than needed."""
    parser.add_argument("--ruleset", default="4.0.0", help="of mlperf-logging (4.0.0)")
    names = f"{', '.join(list_profiles())}, or a TOML file"
    parser.add_argument("--rfp", default=profile, metavar="NAME", help=names)
    if window:
        text = "choose among more runs than needed"
        parser.add_argument("--window", action="store_true", help=text)


def get_profile(options: argparse.Namespace) -> Profile:
    """Load the profile that the line names. Raises InputError for one that there is not."""
    try:
        return load_profile(options.rfp)
    except ProfileError as error:
        raise InputError(f"--rfp: {error}") from None


def judge(options: argparse.Namespace) -> Score:
    """Score the folder that the line names. Raises InputError where it cannot be read."""
    return score_folder(options.folder, options.ruleset, get_profile(options), options.window)
