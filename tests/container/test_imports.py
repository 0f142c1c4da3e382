"""What an image must be able to import: the kit's libraries and its configurations' providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from container.imports import KIT, check_imports, check_providers, list_providers


def test_every_operation_of_the_real_configurations_is_listed() -> None:
    found = list_providers(KIT)
    files = {file for file, _, _ in found}
    assert {"resnet/configs/h200_4x8.toml", "bert/configs/h200_4x8.toml"} <= files
    assert not any("demo" in file for file in files)
    assert len(found) == len(set(found)) > 20


def test_this_environment_has_what_a_cpu_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_imports("cpu") == []
    assert "mpi4py" in capsys.readouterr().out


def test_a_provider_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "resnet" / "configs"
    folder.mkdir(parents=True)
    (folder / "h200_4x8.toml").write_text(
        '[operations]\nbatch_norm = "cudnn"\nlayer_norm = "torch"\n'
    )
    (fault,) = check_providers(tmp_path)
    assert fault.startswith("resnet/configs/h200_4x8.toml: operation batch_norm: 'cudnn'")
