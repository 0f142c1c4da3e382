"""Every provider of BERT's operations on one device: how far from the definition, and how fast.

`python -m perf.bert_providers [--config FILE] [--device cpu|cuda]` calls each operation forward and
backward at the sizes and in the format of a configuration, on sequences of Wikipedia's lengths.
Errors are those of result and gradients without dropout, in parts of the definition's in fp64;
seconds are with dropout, beside those of the definition in the same format, launches included: what
takes less than some 100 us on a GPU is the host's time. A provider whose library is not there, or
that cannot compute on this device, is listed with its reason. Status 1: one failed, or is further
from the definition than its format explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bert.config import Config
from bert.model import LAYER_NORM_EPS, ROW_MULTIPLE, Batch
from bert.probe import draw_lengths, fit_lengths, make_synthetic_sequences
from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.config import load_config
from harness.ops.table import FLOAT8_PROVIDERS, TABLE, Operation, resolve
from harness.optimizers.flat_lamb import FlatLAMB
from harness.parameters import FlatParameters
from harness.throughput import choose_device, describe_device
from perf.bert_evaluation import time_calls
from perf.comparison import check_positive

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "h200_4x8.toml"
DROPOUT = 0.1
# Of result and gradients: some roundings to the format, sums in fp32; FP8 has 4 and 3 bits. Where
# the definition itself is far in that format, twice its distance is allowed.
LIMITS = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
FLOAT8_LIMIT = 0.1


@dataclass(frozen=True)
class Case:
    """One operation's call: operation, tensors and dropout to a result; gradients are of tensors.

    after: whether what is compared and timed has no gradient, as an update.
    """

    tensors: tuple[Tensor, ...]
    call: Callable[[Operation, Sequence[Tensor], float], Tensor]
    after: bool = False


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


def make_cases(config: Config, batch: Batch, device: torch.device) -> dict[str, Case]:
    """The operations of one layer and of both ends, on random numbers of the format's type."""
    sizes, dtype = config.model, config.precision.dtype
    hidden, inner, words = sizes.hidden_size, sizes.intermediate_size, sizes.vocabulary_size
    tokens, masked = batch.input_ids.numel(), batch.masked_ids.numel()
    heads = (tokens, sizes.heads, hidden // sizes.heads)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int, scale: float = 1.0, wide: bool = False) -> Tensor:
        numbers = scale * torch.randn(shape, generator=generator)
        return numbers.to(device, torch.float32 if wide else dtype)

    ids = (batch.input_ids, batch.position_ids, batch.segment_ids)
    ends, longest, labels = batch.cu_seqlens, batch.longest_sequence, batch.masked_ids
    gain, bias = 1 + draw(hidden, scale=0.1, wide=True), draw(hidden, wide=True)
    tables = [draw(rows, hidden) for rows in (words, sizes.positions, sizes.segments)]
    scale = hidden**-0.5
    joined, biases = draw(3 * hidden, hidden, scale=scale), draw(3 * hidden)
    matrices = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
    shapes = [*matrices, *[(hidden,)] * 5, (inner,)]
    updates = Updates()
    return {
        "embedding": Case(
            (*tables, gain, bias),
            lambda f, t, p: f(ids, tuple(t[:3]), *t[3:], p, LAYER_NORM_EPS, True)[0],
        ),
        "linear": Case(
            (draw(tokens, hidden), draw(hidden, hidden, scale=scale), draw(hidden)),
            lambda f, t, p: f(*t),
        ),
        "query_key_value": Case(
            (draw(tokens, hidden), *joined.chunk(3), *biases.chunk(3)),
            lambda f, t, p: torch.stack(f(t[0], tuple(t[1:4]), tuple(t[4:]))),
        ),
        "varlen_attention": Case(
            tuple(draw(*heads) for _ in range(3)), lambda f, t, p: f(*t, ends, longest, p, True)
        ),
        "feed_forward": Case(
            (
                draw(tokens, hidden),
                draw(inner, hidden, scale=scale),
                draw(inner),
                draw(hidden, inner, scale=inner**-0.5),
            ),
            lambda f, t, p: f(*t),
        ),
        "bias_gelu": Case((draw(masked, hidden), draw(hidden)), lambda f, t, p: f(*t)),
        "layer_norm": Case(
            (draw(masked, hidden), gain, bias), lambda f, t, p: f(*t, LAYER_NORM_EPS)
        ),
        "dropout_add_layer_norm": Case(
            (draw(tokens, hidden), draw(hidden), draw(tokens, hidden), gain, bias),
            lambda f, t, p: f(*t, p, LAYER_NORM_EPS, True)[0],
        ),
        "vocabulary_logits": Case(
            (draw(masked, hidden), draw(words, hidden, scale=scale), draw(words)),
            lambda f, t, p: f(*t),
        ),
        "masked_cross_entropy": Case((draw(masked, words),), lambda f, t, p: f(*t, labels)),
        "lamb": Case(
            tuple(draw(*shape, scale=0.1) for shape in shapes),
            lambda f, t, p: updates(f, t, fresh=p == 0.0),
            after=True,
        ),
    }


def copy_leaves(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Leaves of the same numbers; those that lie next to each other go on doing so."""
    if dtype is not None:
        return [tensor.to(dtype).requires_grad_() for tensor in tensors]
    copies: dict[int, Tensor] = {}
    leaves = []
    for tensor in tensors:
        storage = tensor.untyped_storage()
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
        copy = copies.setdefault(storage.data_ptr(), whole.clone())
        leaf = copy.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        leaves.append(leaf.detach().requires_grad_())
    return leaves


def compute(case: Case, operation: Operation, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Result and gradients without dropout, or an update's weights."""
    if case.after:
        return [case.call(operation, [leaf.detach() for leaf in leaves], 0.0)]
    result = case.call(operation, leaves, 0.0)
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(result.shape, generator=generator).to(result)
    kept = result.detach().clone()  # backward may write into what forward gave
    return [kept, *torch.autograd.grad(result, leaves, direction)]


def run_once(case: Case, operation: Operation, leaves: Sequence[Tensor]) -> None:
    """Forward with dropout, and backward; what is timed."""
    if case.after:
        case.call(operation, [leaf.detach() for leaf in leaves], DROPOUT)
        return
    result = case.call(operation, leaves, DROPOUT)
    torch.autograd.grad(result, leaves, torch.ones_like(result))


def measure_error(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest difference of a result or gradient, in parts of the exact one."""
    errors = [
        float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp(min=1e-30))
        for a, b in zip(ours, exact, strict=True)
    ]
    return max(errors)


def find_exact(case: Case, operation: str) -> list[Tensor]:
    """Result and gradients of the definition in fp64; an update's masters are fp32 anyway."""
    exact = torch.float32 if case.after else torch.float64
    return compute(case, resolve(operation, "torch"), copy_leaves(case.tensors, exact))


def measure(config: Config, sequences: int, turns: int, device: torch.device) -> dict[str, Any]:
    """Measure every provider of every operation."""
    batch = make_batch(config, sequences, device)
    found: list[dict[str, Any]] = []
    dtype = config.precision.dtype
    for operation, case in make_cases(config, batch, device).items():
        exact, definition_error = find_exact(case, operation), 0.0
        for provider in TABLE[operation]:
            row: dict[str, Any] = {"operation": operation, "provider": provider}
            found.append(row)
            float8 = provider in FLOAT8_PROVIDERS.get(operation, ())
            row["limit"] = max(FLOAT8_LIMIT if float8 else LIMITS[dtype], 2 * definition_error)
            leaves = copy_leaves(case.tensors)
            try:
                function = resolve(operation, provider)
                row["error"] = measure_error(compute(case, function, leaves), exact)
                if provider == "torch":
                    definition_error = row["error"]
                    row["limit"] = None
                leaves = copy_leaves(case.tensors)
                call = lambda f=function, c=case, t=leaves: run_once(c, f, t)  # noqa: E731
                row["seconds"] = time_calls(call, turns, device)
            except InputError as error:
                row["reason"] = str(error)
            except Exception as error:  # noqa: BLE001  whatever a library raises: the others follow
                row["fault"] = (
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
    return {
        "device": describe_device(device),
        "format": config.precision.format,
        "tokens": batch.input_ids.numel(),
        "masked": batch.masked_ids.numel(),
        "providers": found,
    }


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a provider failed, or is further from the definition than its limit."""
    if "fault" in row:
        return True
    return row.get("limit") is not None and not row.get("error", 0.0) <= row["limit"]


def show(document: dict[str, Any]) -> None:
    """Print a line for each provider, its time beside the definition's."""
    print("{device}, {format}, {tokens:,} tokens, {masked:,} masked".format(**document))
    definition = 0.0
    for row in document["providers"]:
        name = f"{row['operation']:24}{row['provider']:11}"
        if "reason" in row:
            print(f"{name}not measured: {row['reason']}")
            continue
        if "fault" in row:
            print(f"{name}FAILED: {row['fault']}")
            continue
        if row["provider"] == "torch":
            definition = row["seconds"]
        far = "  TOO FAR" if is_wrong(row) else ""
        print(
            f"{name}{1e6 * row['seconds']:12,.0f} us{definition / row['seconds']:8.2f} x"
            f"   error {row['error']:.1e}{far}"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print; status 1 where a provider is too far from its definition."""
    parser = Parser(prog="python -m perf.bert_providers", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: bert's h200_4x8.toml")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU, if any")
    parser.add_argument("--sequences", type=int, default=96)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    check_positive(options, "sequences", "turns")
    config = load_config(options.config, Config)
    device = choose_device(options.device)
    document = measure(config, options.sequences, options.turns, device)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return NOT_GOOD if any(is_wrong(row) for row in document["providers"]) else GOOD


if __name__ == "__main__":
    run_command(main)
