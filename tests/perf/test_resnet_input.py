"""The input measurement: both sides make the same kind of image from the same files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from perf import resnet_input
from resnet.pipelines import CROP_AREA, MEAN, STD


def test_made_images_look_like_imagenets_to_a_decoder():
    image = resnet_input.make_jpeg(np.random.default_rng(1))
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.size == (500, 375) and opened.format == "JPEG"
    assert 70_000 < len(image) < 150_000
    assert image != resnet_input.make_jpeg(np.random.default_rng(2))


def test_crops_of_the_peer_follow_the_pipelines_law():
    generator = np.random.default_rng(0)
    boxes = [resnet_input.draw_crop(500, 375, generator) for _ in range(2000)]
    for left, upper, right, lower in boxes:
        assert 0 <= left < right <= 500 and 0 <= upper < lower <= 375
        assert (right - left) * (lower - upper) >= 0.98 * CROP_AREA[0] * 500 * 375
    areas = np.array([(r - x) * (low - u) for x, u, r, low in boxes]) / (500 * 375)
    # Uniform in [0.05, 1], with fewer large ones, which often do not fit.
    assert 0.35 < areas.mean() < 0.55


def test_the_peer_normalises_like_the_pipeline():
    grey = io.BytesIO()
    Image.new("RGB", (300, 280), (200, 100, 50)).save(grey, "PNG")
    image = resnet_input.prepare_with_pil(grey.getvalue(), np.random.default_rng(0))
    assert image.shape == (224, 224, 3) and image.dtype == np.float32
    expected = (np.array([200, 100, 50]) - MEAN) / STD
    assert np.allclose(image, expected, atol=1e-5)


def test_the_command_prints_figure_peer_and_ratio(capsys: pytest.CaptureFixture[str]):
    arguments = ["--images", "8", "--batch", "4", "--rounds", "2", "--json"]
    assert resnet_input.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ours"] > 0 and result["peer"] > 0
    assert result["ratios"][0] <= result["ratio"] <= result["ratios"][1]
    assert "PIL" in result["peer_name"]
