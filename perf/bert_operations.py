"""FLOPs, bytes and communication of BERT-large's step with fused operations, counted on shapes.

`python -m perf.bert_operations --what flops|bytes|eager|communication [--config FILE]` builds the
trainer's model on tensors without memory, with the operations that the configuration names, and
counts what is dispatched. The definitions that they are compared with have torch's own
flash-attention operator; the peer of `eager` is the encoder of Hugging Face's transformers, filled
to the longest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import bert.config
from bert.model import (
    LAYER_NORM_EPS,
    Batch,
    BertForPretraining,
    Operations,
    Output,
    pretraining_loss,
)
from bert.probe import make_synthetic_batch
from bert.step import make_histories
from harness.commands import GOOD, InputError, Parser, run_command
from harness.config import load_config
from harness.ops.float8_history import follow_histories
from harness.ops.table import resolve_operations
from harness.parameters import FlatParameters
from perf.comparison import Comparison, check_positive
from perf.operations import Count, count

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "h200_4x8.toml"
META, CPU = torch.device("meta"), torch.device("cpu")
DEFINITIONS = dict.fromkeys(Operations.__dataclass_fields__, "torch")
PLAIN = DEFINITIONS | {"varlen_attention": "flash"}
# FLOPs of these are counted from the sequences' lengths, which shapes do not tell.
ATTENTION = ("_flash_attention_forward", "_flash_attention_backward")
# MLPerf's set: 4.04e10 of 8.02e10 tokens at 512 are padding (training_results_v4.0, NVIDIA,
# packed_data/README.md). Wikipedia at 512: mean square of the length and masked tokens
# (graphcore/examples, packedBERT/histograms.py).
MEAN_TOKENS, MEAN_SQUARE, MEAN_MASKED = 254.4, 98_826.0, 38.2
Forward = Callable[[BertForPretraining, Batch], Output]


def make_model(
    config: bert.config.Config, providers: dict[str, str]
) -> tuple[BertForPretraining, Operations, FlatParameters]:
    """Build the model without memory, bf16 beside fp32 normalisations, in flat buffers."""
    operations = resolve_operations(Operations, providers)
    with META:
        model = BertForPretraining(config.model, operations)
    parameters = FlatParameters(
        model,
        model.parameter_runs(),
        model.normalisation_parameters(),
        model.adapted_parameters(),
        torch.bfloat16,
        config.communication.bucket_megabytes,
    )
    return model.train(), operations, parameters


def move_to_meta(batch: Batch) -> Batch:
    """The shapes of a batch."""
    names = [field.name for field in dataclasses.fields(Batch) if field.name != "longest_sequence"]
    tensors = {name: getattr(batch, name).to(META) for name in names}
    return Batch(longest_sequence=batch.longest_sequence, **tensors)


def run_subset(model: BertForPretraining, batch: Batch) -> Output:
    """The model as it is: its last layer computes the rows that the heads read."""
    output: Output = model(batch)
    return output


def run_whole(model: BertForPretraining, batch: Batch) -> Output:
    """The same with a last layer that computes all rows, as the reference does."""
    pair = model.embeddings(batch.input_ids, batch.segment_ids, batch.position_ids)
    for layer in model.encoder:
        pair = layer(pair, batch.cu_seqlens, batch.longest_sequence)
    pooled = torch.tanh(model.pooler(pair[0].index_select(0, batch.cu_seqlens[:-1].long())))
    masked = pair[0].index_select(0, batch.masked_positions)
    words = model.masked_lm(masked, model.embeddings.word.weight)
    return Output(words, model.next_sentence(pooled))


def count_step(
    config: bert.config.Config, batch: Batch, providers: dict[str, str], forward: Forward
) -> Count:
    """Forward and backward of one batch."""
    model, operations, _ = make_model(config, providers)
    make_histories(model, providers, META)
    shapes = move_to_meta(batch)

    def run() -> None:
        labels = shapes.next_sentence_labels
        with follow_histories():  # as all steps but the first
            output = forward(model, shapes)
        pretraining_loss(output, shapes.masked_ids, labels, operations)[0].backward()

    return count(run, ATTENTION)


def make_shapes(tokens: int, masked: int, sequences: int) -> Batch:
    """A batch without memory of that many tokens, masked tokens and sequences."""
    ids = torch.empty(tokens, dtype=torch.int64, device=META)
    words = torch.empty(masked, dtype=torch.int64, device=META)
    ends = torch.empty(sequences + 1, dtype=torch.int32, device=META)
    labels = torch.empty(sequences, dtype=torch.int64, device=META)
    return Batch(ids, ids, ids, ends, 512, words, words, labels)


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products a token, a masked token and a sequence, and of attention a L^2."""

    token: float
    masked: float
    sequence: float
    square: float

    def sum_up(self, tokens: float, square: float, masked: float) -> float:
        """FLOPs a sequence where tokens, their square and masked tokens have these means."""
        return self.token * tokens + self.masked * masked + self.sequence + self.square * square


def count_flops(config: bert.config.Config, providers: dict[str, str], forward: Forward) -> Flops:
    """Count four batches, which tell apart what a token, a masked token and a sequence take.

    Attention is 12 hidden L^2 a layer, forward and twice that backward. Raises RuntimeError where
    the products are no such sum.
    """
    sizes = [(1024, 160, 32), (2048, 160, 32), (1024, 320, 32), (1024, 160, 64)]
    counted = [count_step(config, make_shapes(*size), providers, forward).flops for size in sizes]
    parts = np.linalg.solve(np.array(sizes[:3]), np.array(counted[:3]))
    if abs(float(np.dot(parts, sizes[3])) / counted[3] - 1) > 1e-9:
        raise RuntimeError(f"FLOPs are no sum over tokens and sequences: {counted}")
    square = 12.0 * config.model.hidden_size * config.model.layers
    return Flops(*(float(part) for part in parts), square)


def measure_flops(config: bert.config.Config, as_json: bool) -> None:
    """Print FLOPs a mean sequence, un-padded, beside those of one filled to the longest."""
    longest = config.input.max_sequence_length
    subset, whole = (
        count_flops(config, config.operations, forward) for forward in (run_subset, run_whole)
    )
    mean = (MEAN_TOKENS, MEAN_SQUARE, MEAN_MASKED)
    ours, peer = subset.sum_up(*mean), whole.sum_up(longest, longest**2, MEAN_MASKED)
    Comparison(
        what="BERT step, un-padded, operations as configured",
        unit="FLOP/sequence",
        ours=ours,
        peer_name=f"filled to {longest}, last layer whole",
        peer=peer,
        ratio=peer / ours,
        ratios=None,
        how=f"products counted on shapes, at {MEAN_TOKENS} tokens and {MEAN_MASKED} masked tokens "
        f"on average; un-padded with the last layer whole "
        f"{whole.sum_up(*mean) / 1e12:.4f} TFLOP",
    ).show(as_json)


def measure_bytes(config: bert.config.Config, sequences: int, as_json: bool) -> None:
    """Print bytes a token beside those of the definitions with the same attention."""
    batch = make_synthetic_batch(config, sequences, CPU)
    tokens = batch.input_ids.numel()
    ours = count_step(config, batch, config.operations, run_subset)
    plain = count_step(config, batch, PLAIN, run_subset)
    total, peer = (sum(each.bytes.values()) / tokens for each in (ours, plain))
    if not as_json:
        for name, moved in ours.bytes.most_common(12):
            print(
                f"  {name:32} {ours.operations[name]:6,} times {moved / tokens:14,.0f} bytes/token"
            )
    Comparison(
        what="BERT step, operations as configured",
        unit="bytes/token",
        ours=total,
        peer_name="definitions, same attention",
        peer=peer,
        ratio=peer / total,
        ratios=None,
        how=f"counted at dispatch in bf16, {sequences} sequences, {tokens} tokens; "
        f"{sum(ours.operations.values())} operations, of the definitions "
        f"{sum(plain.operations.values())}; products alone {ours.matrix_bytes / tokens:,.0f} bytes",
    ).show(as_json)


def count_eager_encoder(config: bert.config.Config, sequences: int) -> Count:
    """Forward and backward of transformers' encoder, unfused, in bf16, all sequences filled up."""
    try:
        import transformers  # a peer, which nothing else here needs
    except ModuleNotFoundError:
        raise InputError(
            "--what eager compares with the library transformers: install it"
        ) from None
    sizes = config.model
    settings = transformers.BertConfig(
        vocab_size=sizes.vocabulary_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate_size,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=LAYER_NORM_EPS,
        attn_implementation="eager",
    )
    with META:
        encoder = transformers.BertModel(settings).encoder.to(torch.bfloat16).train()
    longest, kind = config.input.max_sequence_length, {"dtype": torch.bfloat16, "device": META}
    hidden = torch.empty(sequences, longest, sizes.hidden_size, requires_grad=True, **kind)
    mask = torch.empty(sequences, 1, 1, longest, **kind)
    return count(lambda: encoder(hidden, attention_mask=mask)[0].sum().backward())


def measure_eager(config: bert.config.Config, sequences: int, as_json: bool) -> None:
    """Print bytes a mean sequence beside those of an encoder that is padded and not fused."""
    longest = config.input.max_sequence_length
    batch = make_synthetic_batch(config, sequences, CPU)
    tokens = batch.input_ids.numel()
    step = count_step(config, batch, config.operations, run_subset)
    eager = count_eager_encoder(config, sequences)
    ours = sum(step.bytes.values()) / tokens * MEAN_TOKENS
    peer = sum(eager.bytes.values()) / sequences
    Comparison(
        what="BERT step, un-padded, operations as configured, heads included",
        unit="bytes/sequence",
        ours=ours,
        peer_name=f"transformers' encoder alone, eager, filled to {longest}",
        peer=peer,
        ratio=peer / ours,
        ratios=None,
        how=f"counted at dispatch in bf16, at {MEAN_TOKENS} tokens on average; the peer "
        f"{peer / longest / 1e6:.1f} MB a token in {sum(eager.operations.values())} operations, "
        f"{eager.flops / sequences / 1e12:.3f} TFLOP a sequence",
    ).show(as_json)


def measure_communication(config: bert.config.Config, as_json: bool) -> None:
    """Print the bytes of gradients that one step averages over the ranks, and its buckets."""
    parameters = make_model(config, config.operations)[2]
    pools = [
        {
            "dtype": str(pool.dtype).removeprefix("torch."),
            "tensors": pool.tensors,
            "buckets": len(pool.buckets),
            "bytes": pool.length * pool.dtype.itemsize,
        }
        for pool in parameters.pools
    ]
    total = sum(int(pool["bytes"]) for pool in pools)
    if as_json:
        print(json.dumps({"bytes": total, "pools": pools}, indent=1))
        return
    for pool in pools:
        print("{dtype}: {tensors} tensors, {buckets} buckets, {bytes:,} bytes".format(**pool))
    print(f"gradients a step: {total / 1e6:.1f} MB")


def main(arguments: Sequence[str]) -> int:
    """Count and print."""
    parser = Parser(prog="python -m perf.bert_operations", description=__doc__)
    parser.add_argument(
        "--what", choices=("flops", "bytes", "eager", "communication"), default="bytes"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: bert's h200_4x8.toml")
    parser.add_argument(
        "--sequences", type=int, default=96, help="a rank's, for bytes and eager (default: 96)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    check_positive(options, "sequences")
    config = load_config(options.config, bert.config.Config)
    if options.what == "communication":
        measure_communication(config, options.json)
    elif options.what == "flops":
        measure_flops(config, options.json)
    elif options.what == "eager":
        measure_eager(config, options.sequences, options.json)
    else:
        measure_bytes(config, options.sequences, options.json)
    return GOOD


if __name__ == "__main__":
    run_command(main)
