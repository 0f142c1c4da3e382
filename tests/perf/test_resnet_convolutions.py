"""The convolutions of the network, listed and timed one by one."""

from __future__ import annotations

import json

import pytest

from harness.config import load_config
from perf import resnet_convolutions
from perf.resnet_convolutions import Convolution, list_convolutions
from resnet.config import Config

CONFIGS = resnet_convolutions.ROOT / "resnet" / "configs"


def test_resnet_50_has_its_53_convolutions_and_their_flops() -> None:
    found = list_convolutions(load_config(CONFIGS / "h200_1x1.toml", Config))
    assert sum(found.values()) == 53
    assert found[Convolution(4, 64, 7, 2, 224)] == 1
    assert found[Convolution(64, 64, 3, 1, 56)] == 3
    assert found[Convolution(256, 512, 1, 2, 56)] == 1 == found[Convolution(512, 512, 3, 2, 14)]
    # 4.089 G multiply-adds a forward pass, of which the last product has 2.05 M; the fourth
    # channel of the images is 1/4 of the first convolution.
    forward = sum(number * shape.count_flops(1) for shape, number in found.items())
    fourth = Convolution(1, 64, 7, 2, 224).count_flops(1)
    assert forward - fourth == pytest.approx(2 * (4.089e9 - 2.048e6), rel=1e-3)


def test_a_convolution_moves_its_three_tensors_once() -> None:
    assert Convolution(2, 3, 1, 2, 5).count_bytes(7, 2) == 2 * (7 * (2 * 25 + 3 * 9) + 6)


def test_times_add_up_to_an_image(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnet_convolutions, "find_reachable", lambda name: (1e12, 1e10))
    arguments = ["--config", str(CONFIGS / "demo.toml"), "--device", "cpu", "--images", "2"]
    assert resnet_convolutions.main([*arguments, "--turns", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["convolutions"]
    assert set(rows[0]["seconds"]) == {"result", "weight"}
    assert all(set(row["seconds"]) == {"result", "input", "weight"} for row in rows[1:])
    spent = sum(row["times"] * sum(row["seconds"].values()) for row in rows)
    assert found["microseconds_per_image"] == pytest.approx(1e6 * spent / 2)
    floors = sum(row["times"] * len(row["seconds"]) * row["floor_seconds"] for row in rows)
    assert found["floor_microseconds_per_image"] == pytest.approx(1e6 * floors / 2)
    assert resnet_convolutions.main([*arguments, "--turns", "1"]) == 0
    assert "images/s\ntheir roofline: " in capsys.readouterr().out
    assert resnet_convolutions.main([*arguments, "--turns", "1", "--images", "1"]) == 0
