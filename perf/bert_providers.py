"""Every provider of BERT's operations on one device: how far from the definition, and how fast.

`python -m perf.bert_providers [--config FILE] [--device cpu|cuda]` calls each operation forward and
backward at the sizes and in the format of a configuration, on sequences of Wikipedia's lengths, as
perf.providers says. A provider whose library is not there, or that cannot compute on this device,
is listed with its reason. Status 1: one failed, or is further from the definition than its format
explains.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bert.config import Config
from bert.model import LAYER_NORM_EPS, ROW_MULTIPLE, Batch
from bert.probe import draw_lengths, fit_lengths, make_synthetic_sequences
from harness.commands import GOOD, NOT_GOOD, run_command
from harness.config import load_config
from harness.ops.table import Operation
from harness.optimizers.flat_lamb import FlatLAMB
from harness.parameters import FlatParameters
from harness.throughput import choose_device, describe_device
from perf.comparison import check_positive
from perf.device_times import make_parser
from perf.providers import Case, is_wrong, measure, show

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "h200_4x8.toml"


def make_batch(config: Config, sequences: int, device: torch.device) -> Batch:
    """Sequences of Wikipedia's lengths, of as many tokens as FP8 products take."""
    longest = config.input.max_sequence_length
    lengths = draw_lengths(sequences, longest, seed=0)
    tokens = max(1, int(lengths.sum()) // ROW_MULTIPLE) * ROW_MULTIPLE
    lengths = fit_lengths(lengths, tokens, longest)
    fields = make_synthetic_sequences(config, lengths)._asdict()
    del fields["masked_counts"]
    tensors = {name: torch.from_numpy(array).to(device) for name, array in fields.items()}
    return Batch(longest_sequence=int(lengths.max()), **tensors)


class Updates:
    """LAMB over a layer's tensors: how far a fresh optimizer moves them; else one more update."""

    def __init__(self) -> None:
        self.made: dict[Operation, FlatLAMB] = {}

    def __call__(self, provider: Operation, gradients: Sequence[Tensor], fresh: bool) -> Tensor:
        if not fresh:
            self.made[provider].update()
            return gradients[0]
        device, generator = gradients[0].device, torch.Generator().manual_seed(4)
        bag = nn.ParameterList(
            nn.Parameter(torch.randn(each.shape, generator=generator).to(device))
            for each in gradients
        )
        adapted = [parameter for parameter in bag if parameter.dim() > 1]
        runs = [[parameter] for parameter in bag]
        parameters = FlatParameters(bag, runs, [], adapted, gradients[0].dtype, 50.0)
        optimizer = provider(parameters, [0.01], (0.6, 0.85), 1e-6, 0.1, 1.0, 1.0, device)
        (pool,) = parameters.pools
        given = {id(p): each for p, each in zip(bag, gradients, strict=True)}
        for placed in pool.placed:
            pool.gradients[placed.start : placed.stop] = given[id(placed.parameter)].reshape(-1)
        before = pool.master.clone()
        optimizer.update()
        self.made[provider] = optimizer
        return pool.master - before


class Draw:
    """Random numbers of a format on a device, always the same ones."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, *shape: int, scale: float = 1.0, wide: bool = False) -> Tensor:
        numbers = scale * torch.randn(shape, generator=self.generator)
        return numbers.to(self.device, torch.float32 if wide else self.dtype)


def make_cases(config: Config, batch: Batch, device: torch.device) -> list[Case]:
    """The operations of one layer and of both ends, on random numbers of the format's type."""
    draw, hidden = Draw(config.precision.dtype, device), config.model.hidden_size
    norm = 1 + draw(hidden, scale=0.1, wide=True), draw(hidden, wide=True)
    return [
        *make_layer_cases(config, batch, draw, norm),
        *make_end_cases(config, batch, draw, norm),
    ]


def make_layer_cases(
    config: Config, batch: Batch, draw: Draw, norm: tuple[Tensor, Tensor]
) -> list[Case]:
    """The operations of one layer, and its update; norm: gain and bias of a normalisation."""
    hidden, inner = config.model.hidden_size, config.model.intermediate_size
    tokens, scale, updates = batch.input_ids.numel(), hidden**-0.5, Updates()
    heads = (tokens, config.model.heads, hidden // config.model.heads)
    ends, longest = batch.cu_seqlens, batch.longest_sequence
    joined, biases = draw(3 * hidden, hidden, scale=scale), draw(3 * hidden)
    matrices = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    shapes = [*matrices, *[(hidden,)] * 5, (inner,)]
    into, back = draw(inner, hidden, scale=scale), draw(hidden, inner, scale=inner**-0.5)
    return [
        Case(
            "linear",
            (draw(tokens, hidden), draw(hidden, hidden, scale=scale), draw(hidden)),
            lambda f, t, p: f(*t),
            inputs=1,
        ),
        Case(
            "query_key_value",
            (draw(tokens, hidden), *joined.chunk(3), *biases.chunk(3)),
            lambda f, t, p: torch.stack(f(t[0], tuple(t[1:4]), tuple(t[4:]))),
            inputs=1,
        ),
        Case(
            "varlen_attention",
            tuple(draw(*heads) for _ in range(3)),
            lambda f, t, p: f(*t, ends, longest, p, True),
        ),
        Case(
            "feed_forward",
            (draw(tokens, hidden), into, draw(inner), back),
            lambda f, t, p: f(*t),
            inputs=1,
        ),
        Case(
            "dropout_add_layer_norm",
            (draw(tokens, hidden), draw(hidden), draw(tokens, hidden), *norm),
            lambda f, t, p: f(*t, p, LAYER_NORM_EPS, True)[0],
        ),
        Case(
            "lamb",
            tuple(draw(*shape, scale=0.1) for shape in shapes),
            lambda f, t, p: updates(f, t, fresh=p == 0.0),
            after=True,
        ),
    ]


def make_end_cases(
    config: Config, batch: Batch, draw: Draw, norm: tuple[Tensor, Tensor]
) -> list[Case]:
    """The operations of the embeddings and of the masked tokens' head."""
    sizes, masked, labels = config.model, batch.masked_ids.numel(), batch.masked_ids
    hidden, words = sizes.hidden_size, sizes.vocabulary_size
    ids = (batch.input_ids, batch.position_ids, batch.segment_ids)
    tables = [draw(rows, hidden) for rows in (words, sizes.positions, sizes.segments)]
    return [
        Case(
            "embedding",
            (*tables, *norm),
            lambda f, t, p: f(ids, tuple(t[:3]), *t[3:], p, LAYER_NORM_EPS, True)[0],
        ),
        Case("bias_gelu", (draw(masked, hidden), draw(hidden)), lambda f, t, p: f(*t)),
        Case("layer_norm", (draw(masked, hidden), *norm), lambda f, t, p: f(*t, LAYER_NORM_EPS)),
        Case(
            "vocabulary_logits",
            (draw(masked, hidden), draw(words, hidden, scale=hidden**-0.5), draw(words)),
            lambda f, t, p: f(*t),
        ),
        Case("masked_cross_entropy", (draw(masked, words),), lambda f, t, p: f(*t, labels)),
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure and print; status 1 where a provider is too far from its definition."""
    parser = make_parser("bert_providers", __doc__, CONFIG, turns=20)
    parser.add_argument("--sequences", type=int, default=96)
    options = parser.parse_args(arguments)
    check_positive(options, "sequences", "turns")
    config = load_config(options.config, Config)
    device = choose_device(options.device)
    batch = make_batch(config, options.sequences, device)
    cases = make_cases(config, batch, device)
    rows = measure(cases, config.precision.dtype, options.turns, device)
    tokens, masked = batch.input_ids.numel(), batch.masked_ids.numel()
    document = {
        "device": describe_device(device),
        "format": config.precision.format,
        "tokens": tokens,
        "masked": masked,
        "providers": rows,
    }
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print("{device}, {format}, {tokens:,} tokens, {masked:,} masked".format(**document))
        show(rows, device)
    return NOT_GOOD if any(is_wrong(row) for row in rows) else GOOD


if __name__ == "__main__":
    run_command(main)
