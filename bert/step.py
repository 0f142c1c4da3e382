"""One training step of BERT: forward, backward, gradients over the ranks, LAMB update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bert.config import Config
from bert.layers import Dense
from bert.model import Batch, BertForPretraining, Operations, Output, pretraining_loss
from bert.static_batch import IGNORED_LABEL, StaticBatch
from harness.commands import InputError
from harness.gradients import GradientReduction, broadcast_model
from harness.graphs import Replayable
from harness.ops.float8_history import Histories, follow_histories
from harness.ops.table import resolve_operations
from harness.optimizers.groups import compute_norm
from harness.parameters import FlatParameters
from harness.process_group import wait_for_device
from harness.warmup import preserve_state
from harness.weight_gathering import WeightGathering

FIRST, LAST = 1, 2  # bits of a micro-batch's kind
Fetch = Callable[[Sequence[StaticBatch]], Batch]


def check_groups(model: BertForPretraining, layers: int) -> None:
    """Assert that LAMB adapts 6 tensors a layer and 6 more, and skips 10 a layer and 8 more.

    For BERT-large's 24 layers that is 150 and 248, as in the reference. Raises RuntimeError.
    """
    found = len(model.adapted_parameters()), len(model.skipped_parameters())
    if found != (6 * layers + 6, 10 * layers + 8):
        raise RuntimeError(f"LAMB's groups hold {found} tensors at {layers} layers")


def check_capturable(config: Config) -> None:
    """Raise InputError where graphs are asked for and an operation reads the device's numbers."""
    graphs = config.graphs
    if (graphs.step or graphs.evaluation) and config.operations["varlen_attention"] == "torch":
        raise InputError(
            "operation varlen_attention: provider 'torch' reads the sequences' lengths on the "
            "host, which no graph holds: name another provider, or set step and evaluation in "
            "[graphs] to false"
        )


def make_histories(
    model: BertForPretraining, providers: dict[str, str], device: torch.device
) -> Histories | None:
    """Scales of the encoder's matrices, where an operation takes those of the step before."""
    if "delayed" not in providers.values():
        return None
    layers = [module for module in model.encoder.modules() if isinstance(module, Dense)]
    return Histories([layer.weight for layer in layers], device)


def count_batch(output: Output, batch: Batch) -> Tensor:
    """Count right predictions, masked tokens and sequences of a batch, (3,) int64 on its device.

    What fills a batch up, with labels of -1, is not counted.
    """
    predictions = output.masked_lm_logits.argmax(dim=1)
    counted = [
        predictions == batch.masked_ids,  # never -1
        batch.masked_ids != IGNORED_LABEL,
        batch.next_sentence_labels != IGNORED_LABEL,
    ]
    return torch.stack([each.sum() for each in counted])


class TrainingStep:
    """The model with its optimizer; `run` takes the micro-batches of one step.

    As in the reference each rank takes the mean over its own masked tokens and its own
    sequences, and ranks and micro-batches are averaged with equal weight.
    learning_rates: one for each update of the run. rank: of this process, where the optimizer is
    sharded. counts: (3,) int64, correct and all masked tokens and all sequences that `evaluate`
    has counted since they were set to 0. static_batches: what the graphs read, once captured.
    Raises InputError for a provider or a graph that there is not or cannot be.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        rank: int,
        world_size: int,
        initial_state: dict[str, torch.Tensor] | None,
        learning_rates: Sequence[float],
    ) -> None:
        config.graphs.check_device(device)
        self.config, self.device, self.world_size = config, device, world_size
        self.operations = resolve_operations(Operations, config.operations)
        check_capturable(config)
        self.model = BertForPretraining(config.model, self.operations)
        if initial_state is not None:
            self.model.load_state_dict(initial_state, strict=True)
        self.model.to(device)
        check_groups(self.model, config.model.layers)
        broadcast_model(self.model, world_size)
        optimizer, communication = config.optimizer, config.communication
        self.parameters = FlatParameters(
            self.model,
            self.model.parameter_runs(),
            self.model.normalisation_parameters(),
            self.model.adapted_parameters(),
            config.precision.dtype,
            communication.bucket_megabytes,
            rank,
            world_size if communication.sharded_optimizer else 1,
        )
        self.clips_before = optimizer.gradient_clip == "before_reduce"
        self.reduction = GradientReduction(self.parameters, world_size, not self.clips_before)
        self.gathering = WeightGathering(self.parameters, self.model.stages())
        self.optimizer = self.operations.lamb(
            self.parameters,
            learning_rates,
            betas=(optimizer.beta_1, optimizer.beta_2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            max_gradient_norm=None if self.clips_before else optimizer.max_gradient_norm,
            gradient_scale=config.precision.loss_scale,
            device=device,
        )
        self.micro_batches = config.batch.gradient_accumulation_steps
        self.histories = make_histories(self.model, config.operations, device)
        self._has_history = self.histories is None
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)
        self.static_batches: list[StaticBatch] = []
        self._graphs: dict[tuple[int, int], Replayable] = {}
        self._evaluation: tuple[StaticBatch, Replayable] | None = None

    def run(self, fetch: Fetch) -> None:
        """Take one step: fetch(static_batches) gives each micro-batch, in one of them or not."""
        for number in range(self.micro_batches):
            batch = fetch(self.static_batches)
            replayable = self._graphs.get((id(batch), self._kind(number)))
            # No graphs, more tokens than any of them was made for, or FP8 to be measured first.
            if replayable is None or not self._has_history:
                if self._graphs:  # no collective is called while a replay with others is under way
                    wait_for_device(self.device)
                self._take(batch, self._kind(number))
            else:
                replayable()
        self._has_history = True

    def gather_weights(self) -> None:
        """Bring the last update's weights to all ranks, before anything but a step reads them."""
        if self._graphs:  # no collective is called while a replay with others is under way
            wait_for_device(self.device)
        self.gathering.gather()

    def evaluate(self, batch: Batch) -> None:
        """Add a batch's correct predictions, masked tokens and sequences to `counts`."""
        # Before the first step the graph's FP8 would be scaled by nothing.
        if self._evaluation is not None and self._has_history and isinstance(batch, StaticBatch):
            static, replayable = self._evaluation
            if batch.shape == static.shape:
                batch.copy_into(static)
                replayable()
                return
        self._count(batch)

    def prepare(self, training: Sequence[StaticBatch], evaluation: Sequence[StaticBatch]) -> None:
        """Run everything once on synthetic batches and capture the graphs; no trace is left.

        training, evaluation: one for each shape that is expected. With graphs the step keeps
        them: real batches are copied into them.
        """
        graphs = self.config.graphs
        with preserve_state(self.state(), self.device):
            if self.histories is not None:
                self._take(training[-1], FIRST | LAST)  # as the first step will, which measures
                self._has_history = True
            pool = None
            self.model.eval()
            for batch in evaluation[:1]:
                self.evaluate(batch)
                if graphs.evaluation:
                    replayable = Replayable(partial(self._count, batch), self.device)
                    pool = replayable.capture(pool)
                    self._evaluation = batch, replayable
            self.model.train()
            # The largest first: the others then fit into the memory that it took. Without graphs
            # it stands for all.
            for batch in reversed(training if graphs.step else training[-1:]):
                for kind in sorted({self._kind(number) for number in range(self.micro_batches)}):
                    if not graphs.step:
                        self._take(batch, kind)
                        continue
                    replayable = Replayable(partial(self._take, batch, kind), self.device)
                    pool = replayable.capture(pool)
                    self._graphs[id(batch), kind] = replayable
            if graphs.step:
                self.static_batches = list(training)
                self.run(lambda batches: batches[0])
            if self.histories is not None:
                self._has_history = False
                if graphs.step:
                    # Beside the graphs' memory the first step needs its own: found here, kept.
                    self.run(lambda batches: batches[-1])
                    self._has_history = False
        # The first replays on all ranks at once: here a hang is found, not in what comes next.
        wait_for_device(self.device)

    def count_updates(self) -> int:
        """Updates applied so far, without those that were skipped; waits for the device.

        As long as for other ranks, whose collectives in a graph may hang.
        """
        wait_for_device(self.device)
        return int(self.optimizer.schedule.number)

    def run_eagerly(self, batch: Batch) -> None:
        """Take one step of a single micro-batch, without a graph."""
        self._take(batch, kind=FIRST | LAST)

    def state(self) -> list[Tensor]:
        """Every tensor that a step or an evaluation changes."""
        scaled = [] if self.histories is None else [self.histories.numbers]
        return [*self.parameters.weights(), *self.optimizer.state(), self.counts, *scaled]

    def _kind(self, number: int) -> int:
        """FIRST, LAST, both or neither: which micro-batch of a step that number is."""
        first, last = number == 0, number == self.micro_batches - 1
        return (FIRST if first else 0) | (LAST if last else 0)

    def _take(self, batch: Batch, kind: int) -> None:
        last = bool(kind & LAST)
        self.backward(batch, bool(kind & FIRST), last)
        if last:
            self.reduction.finish(self._clip if self.clips_before else None)
            self.optimizer.update()
            if self.histories is not None:
                self.histories.advance()

    @torch.no_grad()
    def _count(self, batch: Batch) -> None:
        with follow_histories(self._has_history):
            output = self.model(batch)
        self.counts.add_(count_batch(output, batch))

    def backward(self, batch: Batch, first: bool = True, last: bool = True) -> None:
        """Make the gradients of a micro-batch, as a step's first or last."""
        if first:
            self.gathering.begin()
        self.reduction.begin(first, last)
        with follow_histories(self._has_history):
            output = self.model(batch)
        self.gathering.finish()
        loss = pretraining_loss(
            output, batch.masked_ids, batch.next_sentence_labels, self.operations
        )[0]
        self.config.precision.backward(loss, self.micro_batches * self.world_size)

    @torch.no_grad()
    def _clip(self) -> None:
        """Clip this rank's own gradient, which so far is 1 / world size of the mean's part.

        One that is not finite stays as it is, so that the update is skipped: a factor that is no
        number would also reach what fills the pools up, where no later gradient overwrites it.
        """
        limit = self.config.optimizer.max_gradient_norm
        scale = self.config.precision.loss_scale / self.world_size
        total = torch.zeros(1, device=self.device)
        for pool in self.parameters.pools:
            norm = compute_norm(pool.gradients)
            total += (norm / scale).square()
        factor = limit / total.sqrt().clamp(min=limit)
        factor = torch.where(torch.isfinite(total), factor, torch.ones_like(factor))
        for pool in self.parameters.pools:
            pool.gradients.mul_(factor)
