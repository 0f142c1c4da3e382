"""A vocabulary of a few words and texts made of them, for tests of the data's preparation."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from bert.examples import ExampleSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = "the cat sat on a mat and dog ran over hill to see red sun fall in west"
WORDS = TEXT.split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *WORDS, "##s", "##ing"]
SMALL = ExampleSettings(max_seq_length=32, max_predictions_per_seq=5, dupe_factor=2)
SMALL_OPTIONS = ["--max-seq-length", "32", "--max-predictions-per-seq", "5", "--dupe-factor", "2"]


def write_vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in VOCABULARY))
    return path


def write_texts(folder: Path, count: int = 3, documents: int = 6) -> list[Path]:
    texts = []
    for number in range(count):
        lines = []
        for document in range(documents):
            for sentence in range(5):
                start = number + 3 * document + sentence
                words = [WORDS[(start + 5 * i) % len(WORDS)] for i in range(4 + start % 6)]
                lines.append(" ".join(words) + " .")
            lines.append("")
        texts.append(folder / f"part-{number}.txt")
        texts[-1].write_text("\n".join(lines))
    return texts


def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "bert.prepare_data", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def read_features(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {feature: file[feature] for feature in file.files}


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
