"""Small data and small systems on which the real trainers run within seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Properties: the same examples in every run, however slow the machine, so that a failure is the
# code's; `--hypothesis-profile=long` for more, and other ones.
settings.register_profile(
    "fast",
    derandomize=True,
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long", settings.get_profile("fast"), derandomize=False, max_examples=5000
)
if settings.get_current_profile_name() in ("default", "ci"):
    settings.load_profile("fast")

# Triton decides when it is first imported whether kernels are interpreted: here they always are.
# They are compiled, for GPUs that nobody has, by tests/harness/ops/compilation.py in a process of
# its own.
os.environ["TRITON_INTERPRET"] = "1"
# Tests compute little at a time: OpenMP's threads would spend most of their time waiting for each
# other, all of it spinning, four times the processor time where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
SEED = 5


@pytest.fixture(scope="session", autouse=True)
def interpretation_of_scalars() -> None:
    """Let Triton 3.6 interpret a kernel's loops beside numpy 2.5: 3.7 does of itself.

    It makes an int of an array of one element by int(), which numpy refuses since 2.5.
    """
    try:
        if not version("triton").startswith("3.6."):
            return
    except PackageNotFoundError:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_lang_tensor


@dataclass(frozen=True)
class Kit:
    """A system file with its own configurations and data, changed at will by a test."""

    folder: Path
    system: Path
    resnet_config: Path
    bert_config: Path
    resnet_data: Path
    bert_data: Path

    def change(self, file: Path, *pairs: tuple[str, str]) -> None:
        """Replace texts in a file, each of which must be there."""
        text = file.read_text()
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new, 1)
        file.write_text(text)

    def launch(self, benchmark: str, timeout: float = 600) -> tuple[int, str, Path]:
        """Start one run of a benchmark on all ranks; returns status, output and the log's path."""
        log = self.folder / f"{benchmark}.log"
        command = [sys.executable, "-m", "harness.launch", "--system", str(self.system)]
        command += ["--benchmark", benchmark, "--log", str(log)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
        return done.returncode, done.stdout + done.stderr, log


def unpack_tar(path: Path, folder: Path) -> None:
    """Unpack an archive of the tests' own making, with tarfile's filter where this Python has it.

    Python 3.11 knows filters from 3.11.4 on only.
    """
    with tarfile.open(path) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)


def is_in_memory(folder: Path) -> bool:
    """Whether a folder's file system has its files in memory alone, where nothing drops them."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    kind = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return kind in ("tmpfs", "ramfs")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """resnet/ (96 + 42 images of 3 classes) and bert/ (text of 40 documents), prepared."""
    from bert import prepare_data as prepare_bert
    from bert.config import Config
    from demo.images import make_images
    from demo.initial_checkpoint import make_initial_checkpoint
    from demo.text import make_text, make_vocabulary
    from harness.config import load_config
    from resnet import prepare_data as prepare_resnet

    folder = tmp_path_factory.mktemp("small")
    make_images(folder / "jpeg", SEED, 96, 42, 3)
    arguments = ["pack", "--train", folder / "jpeg" / "train", "--val", folder / "jpeg" / "val"]
    arguments += ["--output", folder / "resnet", "--shards", 2, "--seed", SEED]
    assert prepare_resnet.main([str(argument) for argument in arguments]) == 0
    make_vocabulary(folder / "vocab.txt")
    (folder / "bert").mkdir()
    for name, documents in (("train", 40), ("eval", 6)):
        make_text(folder / f"{name}.txt", SEED, documents)
        arguments = ["create", "--vocab", folder / "vocab.txt", "--max-seq-length", 64]
        arguments += ["--max-predictions-per-seq", 10, "--output", folder / "bert" / name]
        assert prepare_bert.main([*map(str, arguments), str(folder / f"{name}.txt")]) == 0
    config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    file = folder / "bert" / "initial.safetensors"
    make_initial_checkpoint(config, folder / "bert" / "train", file, SEED, updates=2)
    return folder


@pytest.fixture
def kit(tmp_path: Path, small_data: Path) -> Kit:
    """A system of four CPU ranks whose runs end at their first evaluation, target missed."""
    return make_kit(tmp_path, small_data)


def make_kit(parent: Path, small_data: Path) -> Kit:
    """Make the small system in a new folder below `parent`."""
    folder = parent / "kit"
    folder.mkdir()
    files = {
        "system": folder / "small.toml",
        "resnet_config": folder / "resnet.toml",
        "bert_config": folder / "bert.toml",
    }
    shutil.copy(ROOT / "systems" / "demo.toml", files["system"])
    shutil.copy(ROOT / "resnet" / "configs" / "demo.toml", files["resnet_config"])
    shutil.copy(ROOT / "bert" / "configs" / "demo.toml", files["bert_config"])
    kit = Kit(folder, **files, resnet_data=folder / "resnet", bert_data=folder / "bert")
    shutil.copytree(small_data / "resnet", kit.resnet_data)
    shutil.copytree(small_data / "bert", kit.bert_data)
    kit.change(
        kit.system,
        ('name = "demo"', 'name = "small"'),
        ('"resnet/configs/demo.toml"', f'"{kit.resnet_config}"'),
        ('"bert/configs/demo.toml"', f'"{kit.bert_config}"'),
        ('"data/demo/resnet"', f'"{kit.resnet_data}"'),
        ('"data/demo/bert"', f'"{kit.bert_data}"'),
        ('"data/demo/bert/initial.safetensors"', f'"{kit.bert_data}/initial.safetensors"'),
        ('make_data = ["demo"]', "make_data = []"),
    )
    kit.change(
        kit.resnet_config,
        ("classes = 12", "classes = 3"),
        ("crop_size = 64", "crop_size = 32"),
        ("resize_shorter = 73", "resize_shorter = 36"),
        ("first_epoch = 3", "first_epoch = 2"),
        ("decay_epochs = 12", "decay_epochs = 2"),
    )
    kit.change(
        kit.bert_config,
        ("interval_samples = 1024", "interval_samples = 256"),
        ("training_steps = 256", "training_steps = 8"),
    )
    return kit
