"""Fuzzes the readers of BERT's checkpoints: `python -m tests.fuzz.bert_checkpoint`.

Each execution damages one of: the index of a TensorFlow checkpoint as bytes; the same with every
checksum made right again, so that what lies behind them is reached; its data; a .safetensors file;
bert_config.json; an .npz file of examples, as bytes and member by member. A reader may read or
refuse with one sentence, within bounded memory; where a checksum guards all, what it reads is what
was written.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save

from bert.checkpoint_evaluation import read_examples
from bert.checkpoint_weights import list_shapes, open_weights
from bert.leveldb_table import PLAIN, SNAPPY, read_table
from bert.model_config import GOOGLE_CONSTANTS, GOOGLE_KEYS, read_bert_config
from harness.commands import InputError
from tests.bert.checkpoint_files import (
    PREFIX,
    TINY,
    Bundle,
    describe_config,
    frame_table,
    make_variables,
    pack_shape,
    write_field,
)
from tests.bert.conftest import write_block, write_varint
from tests.fuzz.damage import damage_bytes
from tests.fuzz.loop import Damaged, Execute, limit_memory, run_fuzzer

# Of address space, over what the libraries take: no reader of these small files needs a tenth.
MEMORY_BYTES = 512 << 20
LARGEST_MESSAGE = 8_000
NUMBERS = (
    *(0, 1, 2, 3, 8, 127, 128, 255, 256, 4096, (1 << 16) - 1, 1 << 16, 1 << 24, (1 << 31) - 1),
    *(1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63),
    (1 << 64) - 1,
)
JSON_VALUES = (
    *(None, True, 0, -1, 1, 2, 7, 10**9, 10**30, 0.5, -0.0, 1e308, "", "gelu", "1", [], {}, [[]]),
    *("\ud800", "a\nb", "x" * 5000, 1 << 63),
)


def damage_binary(random: Random, content: bytes) -> bytes:
    """Flip, cut, double, insert or overwrite with numbers of every width, a few times."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        place = random.randrange(len(content) + 1)
        number = random.choice(NUMBERS)
        octets = random.choice((write_varint(number), struct.pack("<Q", number), bytes(9)))
        octets = octets[: random.randrange(1, len(octets) + 1)]
        kind = random.randrange(6)
        if kind < 2 and content:
            flipped = bytearray(content)
            flipped[place % len(content)] ^= 1 << random.randrange(8)
            content = bytes(flipped)
        elif kind == 2:
            content = content[:place] + octets + content[place:]
        elif kind == 3:
            content = content[:place] + octets + content[place + len(octets) :]
        elif kind == 4:
            end = place + random.randrange(1 << random.randrange(1, 12))
            content = random.choice(
                (content[:place] + content[end:], content[:end] + content[place:])
            )
        else:
            content = random.choice((content[:place], content + octets * random.randrange(1, 99)))
    return content


def compress(block: bytes) -> bytes:
    """Compress a block with Snappy: literals, and a copy where 4 bytes come again at once."""
    stream = write_varint(len(block))
    for first in range(0, len(block), 60):
        piece = block[first : first + 60]
        half = len(piece) // 2
        if half >= 4 and piece[:half] == piece[half:]:
            stream += bytes([half - 1 << 2]) + piece[:half] + bytes([half - 1 << 2 | 2])
            stream += struct.pack("<H", half)
        else:
            stream += bytes([len(piece) - 1 << 2]) + piece
    return stream


def damage_snappy(random: Random, block: bytes) -> bytes:
    """Damage a compressed block, or craft one that claims what it has not or copies from afar."""
    kind = random.randrange(3)
    if kind == 0:
        return damage_binary(random, compress(block))
    if kind == 1:
        return write_varint(random.choice(NUMBERS)) + compress(block)[2:]
    copies = bytes([random.randrange(64) << 2 | 2]) + struct.pack("<H", random.choice((1, 1, 9)))
    count = random.choice((1, 100, 10_000))  # a bomb: 64 bytes for 3
    size = random.choice((1 + count * ((copies[0] >> 2) + 1), *NUMBERS))
    return write_varint(size) + b"\0a" + copies * count


def damage_entries(random: Random, entries: list[tuple[bytes, bytes]]) -> None:
    """Change, drop, double, rename, reorder or replace entries of a table."""
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(entries))
        key, value = entries[place]
        kind = random.randrange(6)
        if kind == 0:
            entries[place] = key, damage_binary(random, value)
        elif kind == 1:
            entries[place] = damage_binary(random, key), value
        elif kind == 2 and len(entries) > 1:
            del entries[place]
        elif kind == 3:
            entries.insert(random.randrange(len(entries)), (key, value))
        elif kind == 4:
            entries[place] = key, entries[random.randrange(len(entries))][1]
        else:
            sizes = [random.choice(NUMBERS) for _ in range(random.choice((0, 1, 2, 9)))]
            shape = b"".join(write_field(2, write_field(1, size)) for size in sizes)
            shape = random.choice((shape, pack_shape(np.zeros((8, 8)))))
            fields = [random.choice((1, 1, 9)), shape, *random.choices(NUMBERS, k=3)]
            message = b"".join(write_field(number, v) for number, v in enumerate(fields, 1))
            entries[place] = key, message + b"\x35" + random.randbytes(4)
    if random.random() < 0.8:
        entries.sort()


class Samples:
    """Sound files of every kind in a folder, and what is read of them; each damage is undone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = Bundle(folder).write(make_variables(TINY, ("adam_m",)))
        self.index, self.data = (
            self.prefix.with_name(f"{PREFIX}.{end}") for end in ("index", "data-00000-of-00001")
        )
        self.entries = list(read_table(self.index.read_bytes()).items())
        weights = open_weights(self.prefix, TINY)
        self.state = {name: weights.read(name) for name in weights}
        self.tensors = folder / "bert.safetensors"
        self.tensors.write_bytes(save(self.state))
        self.config = folder / "bert_config.json"
        self.config.write_text(json.dumps(describe_config(TINY)))
        self.examples = folder / "examples.npz"
        random = np.random.default_rng(1)
        self.arrays = {
            "input_ids": random.integers(0, 30, (3, 12)),
            "input_mask": np.ones((3, 12), np.int32),
            "segment_ids": random.integers(0, 2, (3, 12)),
            "masked_lm_positions": random.integers(0, 12, (3, 2)),
            "masked_lm_ids": random.integers(0, 30, (3, 2)),
            "masked_lm_weights": np.ones((3, 2), np.float32),
            "next_sentence_labels": random.integers(0, 2, (3, 1)),
        }
        np.savez_compressed(self.examples, **self.arrays)
        self.sound = {path: path.read_bytes() for path in folder.iterdir()}

    def read_tensorflow(self) -> dict[str, torch.Tensor]:
        weights = open_weights(self.prefix, TINY)
        return {name: weights.read(name) for name in weights}

    def read_safetensors(self) -> dict[str, torch.Tensor]:
        weights = open_weights(self.tensors, TINY)
        return {name: weights.read(name) for name in weights}

    def read_config(self) -> None:
        config = read_bert_config(self.config)
        if config.layers <= 64:  # many are sound, and take their time
            list_shapes(config)

    def read_examples(self) -> None:
        read_examples(self.examples, TINY)


Target = tuple[Path, bytes, Callable[[], object], bool]


def damage_index(random: Random, samples: Samples) -> Target:
    content = damage_binary(random, samples.sound[samples.index])
    return samples.index, content, samples.read_tensorflow, True


def damage_data(random: Random, samples: Samples) -> Target:
    content = damage_binary(random, samples.sound[samples.data])
    return samples.data, content, samples.read_tensorflow, True


def damage_table(random: Random, samples: Samples) -> Target:
    """Damage what lies behind the checksums of the index, and make these right again."""
    entries = list(samples.entries)
    if random.random() < 0.6:
        damage_entries(random, entries)
    count = random.choice((1, 16, 200))
    blocks = [write_block(entries[i : i + count]) for i in range(0, len(entries), count)]
    kind, place = random.choice((PLAIN, SNAPPY)), random.randrange(len(blocks))
    damage = damage_snappy if kind == SNAPPY else damage_binary
    damaged = damage(random, blocks[place]) if random.random() < 0.3 else None
    if kind == SNAPPY:
        blocks = [compress(block) for block in blocks]
    if damaged is not None:
        blocks[place] = damaged
    handles, offset = [], 0
    for block in blocks:
        handles.append((offset, len(block)))
        offset += len(block) + 5
    for _ in range(random.choice((0, 0, 0, 0, 1, 3))):
        place = random.randrange(len(handles))
        crafted = random.choice(NUMBERS), random.choice(NUMBERS)
        handles.insert(place, random.choice((handles[place], crafted)))
    return samples.index, frame_table(blocks, handles, kind), samples.read_tensorflow, False


def damage_safetensors(random: Random, samples: Samples) -> Target:
    content = samples.sound[samples.tensors]
    if random.random() < 0.3:
        return samples.tensors, damage_binary(random, content), samples.read_safetensors, False
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = random.choice(list(header))
    entry = random.choice((header[name], dict(header[name])))
    key = random.choice(("dtype", "shape", "data_offsets"))
    numbers = [random.choice(NUMBERS) for _ in range(random.choice((0, 1, 2, 9)))]
    entry[key] = random.choice((*JSON_VALUES, numbers, numbers, "F64", "BF16", "I64", "F8_E4M3"))
    header[random.choice((name, "extra\n\x1b", random.choice(list(header))))] = entry
    text = json.dumps(header).encode()
    if random.random() < 0.3:
        text = damage_bytes(random, text)
    content = len(text).to_bytes(8, "little") + text + content[8 + size :]
    return samples.tensors, content, samples.read_safetensors, False


def damage_config(random: Random, samples: Samples) -> Target:
    content = samples.sound[samples.config]
    if random.random() < 0.5:
        document = json.loads(content)
        key = random.choice([*GOOGLE_KEYS, *GOOGLE_CONSTANTS, "extra\n\x1b"])
        document[key] = random.choice((*JSON_VALUES, *NUMBERS))
        content = json.dumps(document).encode()
    else:
        content = damage_bytes(random, content)
    return samples.config, content, samples.read_config, False


def damage_examples(random: Random, samples: Samples) -> Target:
    if random.random() < 0.3:
        content = damage_binary(random, samples.sound[samples.examples])
        return samples.examples, content, samples.read_examples, False
    chosen, buffer = random.choice(list(samples.arrays)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in samples.arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            if name == chosen and random.random() < 0.5:
                content = damage_binary(random, content)
            elif name == chosen:
                old = str(array.shape).encode()
                shape = f"({random.choice(NUMBERS)}, {random.choice(NUMBERS)})"
                content = content.replace(old, shape.encode(), 1)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, random.choice((0, 8, 12, 14)))
        if random.random() < 0.3:
            info = random.choice(archive.filelist)
            field = random.choice(("file_size", "compress_size", "flag_bits", "header_offset"))
            bits = 16 if field == "flag_bits" else 40
            setattr(info, field, random.choice(NUMBERS) & (1 << bits) - 1)
    return samples.examples, buffer.getvalue(), samples.read_examples, False


TARGETS = (
    *(damage_table, damage_table, damage_index, damage_data, damage_safetensors),
    *(damage_config, damage_examples),
)


def read_or_refuse(read: Callable[[], object]) -> object:
    """Read what may be read; a refusal must be one sentence that a terminal can show."""
    try:
        return read()
    except InputError as error:
        message = str(error)
    assert message.isprintable(), repr(message)
    assert len(message) < LARGEST_MESSAGE, len(message)
    return None


def make_fuzzer() -> Execute:
    """Make the function that runs one execution."""
    torch.set_num_threads(1)
    in_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz", dir=in_memory if in_memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder)
    samples = Samples(folder)
    limit_memory(MEMORY_BYTES)

    def execute(random: Random, number: int) -> None:
        path, content, read, guarded = TARGETS[number % len(TARGETS)](random, samples)
        path.write_bytes(content)
        try:
            found = read_or_refuse(read)
            if guarded and found is not None:
                assert isinstance(found, dict)
                assert all(torch.equal(found[name], samples.state[name]) for name in samples.state)
        except BaseException as error:
            raise Damaged(content) from error
        path.write_bytes(samples.sound[path])

    return execute


if __name__ == "__main__":
    sys.exit(run_fuzzer(__doc__ or "", make_fuzzer, default=200_000))
