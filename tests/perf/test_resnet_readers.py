"""The readers' measurement: four containers hold the same images, and all are read in full."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perf import resnet_readers
from perf.image_containers import encode_example, frame_record, variable_length
from perf.resnet_readers import CONTAINERS, Container, build, make_demo_like


def read_label(container: Container, label: np.ndarray) -> int:
    """A label as the reader gives it: digits in a tar, one number elsewhere."""
    return int(label.tobytes()) if label.dtype == np.uint8 else int(label.item())


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.name)
def test_every_container_gives_every_image_with_its_label(tmp_path: Path, container: Container):
    images = make_demo_like(24)
    container.write(tmp_path, images)
    pipeline = build(container, tmp_path, len(images), 6, decode=False)
    pipeline.build()
    found = []
    for _ in range(4):
        encoded, labels = pipeline.run()
        for position in range(6):
            label = read_label(container, np.asarray(labels.at(position)))
            found.append((np.asarray(encoded.at(position)).tobytes(), label))
    assert sorted(found) == sorted(images)


def test_records_are_tensorflows():
    """The wire format, worked out by hand; the checksum of nothing is the mask's constant."""
    assert variable_length(300) == b"\xac\x02"
    image = b"\x0a\x16\x0a\x0dimage/encoded\x12\x05\x0a\x03\x0a\x01J"
    label = b"\x0a\x1a\x0a\x11image/class/label\x12\x05\x1a\x03\x0a\x01\x05"
    assert encode_example(b"J", 5) == b"\x0a\x34" + image + label
    assert frame_record(b"")[:8] == bytes(8)
    assert frame_record(b"")[12:] == 0xA282EAD8.to_bytes(4, "little")


def test_the_command_gives_every_cost(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["--kind", "demo", "--images", "24", "--batch", "8", "--rounds", "1", "--json"]
    assert resnet_readers.main([*arguments, "--folder", str(tmp_path)]) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table["costs"]) == 16 and table["images"] == 24
    assert len({(one["container"], one["work"], one["cache"]) for one in table["costs"]}) == 16
    assert all(one["cpu_seconds"] > 0 and one["wall_seconds"] > 0 for one in table["costs"])
    assert list(tmp_path.iterdir()) == []
