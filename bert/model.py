"""BERT for pre-training without padding: graph and loss of the closed division's language model.

A batch is one run of tokens, all sequences one after the other; no padding token is ever computed.
What is computed with more than one implementation comes as operations in the constructor.
Suffixes: T tokens, B sequences, M masked tokens, H heads, D size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.layers import Dense, LayerNorm, Table
from bert.model_config import INITIALIZER_RANGE, ModelConfig, Operations, read_bert_config

__all__ = [
    "Batch",
    "BertForPretraining",
    "ModelConfig",
    "Operations",
    "Output",
    "pretraining_loss",
    "read_bert_config",
]

LAYER_NORM_EPS = 1e-12
# One tensor, (T, hidden), for the next matrices and again for the next residual: what makes it can
# then add up the two gradients where it reads them.
Twice = tuple[Tensor, Tensor]
ROW_MULTIPLE = 16  # what the sizes of FP8 products have to be multiples of


@dataclass(frozen=True)
class Batch:
    """Sequences one after the other, and what is to be predicted about them.

    input_ids, segment_ids, position_ids: (T,) int; cu_seqlens: (B + 1,) int32, the first token of
    each sequence, then T; longest_sequence: tokens of the longest; masked_positions: (M,) indices
    into the T tokens; masked_ids: (M,) int64, their true ids; next_sentence_labels: (B,) int64,
    1 where the second segment is a random one. A label of -1 does not count, as that of an empty
    sequence (cu_seqlens repeated) must be.
    """

    input_ids: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    longest_sequence: int
    masked_positions: Tensor
    masked_ids: Tensor
    next_sentence_labels: Tensor


class Output(NamedTuple):
    """masked_lm_logits: (M, vocabulary); next_sentence_logits: (B, 2)."""

    masked_lm_logits: Tensor
    next_sentence_logits: Tensor


class Embeddings(nn.Module):
    """Word, position and segment embeddings: sum, normalise, drop."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.dropout = config.dropout
        self.word = Table(config.vocabulary_size, config.hidden_size)
        self.position = Table(config.positions, config.hidden_size)
        self.token_type = Table(config.segments, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size)

    def forward(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Twice:
        """Three (T,) int -> (T, hidden), twice."""
        return self.operations.embedding(
            (input_ids, position_ids, segment_ids),
            (self.word.weight, self.position.weight, self.token_type.weight),
            self.layer_norm.weight,
            self.layer_norm.bias,
            self.dropout,
            LAYER_NORM_EPS,
            self.training,
        )


class Attention(nn.Module):
    """Self-attention within each sequence, its projection, and the normalised residual."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        for name in ("query", "key", "value", "output"):
            dense = Dense(config.hidden_size, config.hidden_size, operations.linear)
            self.add_module(name, dense)
        self.layer_norm = LayerNorm(config.hidden_size)

    def forward(
        self, inputs: Twice, cu_seqlens: Tensor, longest_sequence: int, rows: Tensor | None
    ) -> Twice:
        """(T, hidden) -> (T, hidden), or (R, hidden) where rows (R,) names those wanted."""
        x, residual = inputs
        projections = self.operations.query_key_value(
            x,
            (self.query.weight, self.key.weight, self.value.weight),
            (self.query.bias, self.key.bias, self.value.bias),
        )
        query_THD, key_THD, value_THD = (p.unflatten(1, (self.heads, -1)) for p in projections)
        context_THD = self.operations.varlen_attention(
            query_THD,
            key_THD,
            value_THD,
            cu_seqlens,
            longest_sequence,
            self.attention_dropout,
            self.training,
        )
        context = context_THD.flatten(1)
        if rows is not None:
            context, residual = context.index_select(0, rows), residual.index_select(0, rows)
        return self.operations.dropout_add_layer_norm(
            self.output.multiply(context),
            self.output.bias,
            residual,
            self.layer_norm.weight,
            self.layer_norm.bias,
            self.dropout,
            LAYER_NORM_EPS,
            self.training,
        )


class FeedForward(nn.Module):
    """Two fully connected layers with GELU between, and the normalised residual."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.dropout = config.dropout
        hidden, inner = config.hidden_size, config.intermediate_size
        self.intermediate = Dense(hidden, inner, operations.linear)
        self.output = Dense(inner, hidden, operations.linear)
        self.layer_norm = LayerNorm(config.hidden_size)

    def forward(self, inputs: Twice) -> Twice:
        """(T, hidden) -> (T, hidden)."""
        x, residual = inputs
        y = self.operations.feed_forward(
            x, self.intermediate.weight, self.intermediate.bias, self.output.weight
        )
        return self.operations.dropout_add_layer_norm(
            y,
            self.output.bias,
            residual,
            self.layer_norm.weight,
            self.layer_norm.bias,
            self.dropout,
            LAYER_NORM_EPS,
            self.training,
        )


class EncoderLayer(nn.Module):
    """Attention, then the feed-forward layers."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.attention = Attention(config, operations)
        self.feed_forward = FeedForward(config, operations)

    def forward(
        self, inputs: Twice, cu_seqlens: Tensor, longest_sequence: int, rows: Tensor | None = None
    ) -> Twice:
        """(T, hidden) -> (T, hidden), or (R, hidden) where rows (R,) names those wanted.

        Keys and values come of all tokens; what follows attention works on each token by itself.
        """
        return self.feed_forward(self.attention(inputs, cu_seqlens, longest_sequence, rows))


class MaskedLmHead(nn.Module):
    """Scores of every word at the masked tokens; its last matrix is the word embedding itself."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.transform = Dense(config.hidden_size, config.hidden_size, F.linear)
        self.layer_norm = LayerNorm(config.hidden_size)
        self.output_bias = nn.Parameter(torch.empty(config.vocabulary_size))

    def forward(self, x: Tensor, word_embedding: Tensor) -> Tensor:
        """x: (M, hidden); word_embedding: (vocabulary, hidden) -> (M, vocabulary)."""
        x = self.operations.bias_gelu(self.transform.multiply(x), self.transform.bias)
        norm = self.layer_norm
        x = self.operations.layer_norm(x, norm.weight, norm.bias, LAYER_NORM_EPS)
        return self.operations.vocabulary_logits(x, word_embedding, self.output_bias)


class BertForPretraining(nn.Module):
    """BERT with its two pre-training heads: 336,226,108 parameters in 398 tensors for BERT-large.

    The weights are initialised from torch's generator; built under torch.device("meta") they are
    shapes alone, for load_state_dict(..., assign=True). Source: Devlin et al. 2018;
    mlcommons/training bert modeling.py and run_pretraining.py.
    """

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, operations)
        self.encoder = nn.ModuleList(EncoderLayer(config, operations) for _ in range(config.layers))
        # The heads stay out of FP8.
        self.pooler = Dense(config.hidden_size, config.hidden_size, F.linear)
        self.masked_lm = MaskedLmHead(config, operations)
        self.next_sentence = Dense(config.hidden_size, 2, F.linear)
        initialize_weights(self)

    def forward(self, batch: Batch) -> Output:
        """Logits of the masked tokens and of the next-sentence question; labels are not read."""
        x = self.embeddings(batch.input_ids, batch.segment_ids, batch.position_ids)
        rows, counts = list_read_rows(batch)
        for layer in self.encoder[:-1]:
            x = layer(x, batch.cu_seqlens, batch.longest_sequence)
        x, _ = self.encoder[-1](x, batch.cu_seqlens, batch.longest_sequence, rows)
        masked, first_tokens, _ = x.split(counts)
        pooled = torch.tanh(self.pooler(first_tokens))
        return Output(
            masked_lm_logits=self.masked_lm(masked, self.embeddings.word.weight),
            next_sentence_logits=self.next_sentence(pooled),
        )

    def adapted_parameters(self) -> list[nn.Parameter]:
        """Parameters with weight decay and trust ratio: every matrix and embedding table."""
        return [module.weight for module in self.modules() if isinstance(module, (Dense, Table))]

    def skipped_parameters(self) -> list[nn.Parameter]:
        """Parameters with neither: every bias, and gain and bias of every normalisation."""
        skipped = [self.masked_lm.output_bias]
        for module in self.modules():
            if isinstance(module, LayerNorm):
                skipped += [module.weight, module.bias]
            elif isinstance(module, Dense):
                skipped.append(module.bias)
        return skipped

    def normalisation_parameters(self) -> list[nn.Parameter]:
        """Gain and bias of every layer normalisation, which stay fp32 whatever the model's type."""
        return [
            parameter
            for module in self.modules()
            if isinstance(module, LayerNorm)
            for parameter in (module.weight, module.bias)
        ]

    def stages(self) -> list[nn.Module]:
        """The modules that hold all parameters between them, in the order forward calls them."""
        parts = [part for layer in self.encoder for part in (layer.attention, layer.feed_forward)]
        return [self.embeddings, *parts, self.pooler, self.masked_lm, self.next_sentence]

    def parameter_runs(self) -> list[list[nn.Parameter]]:
        """All parameters in the order of the forward pass, in runs that lie together in memory.

        The weights of query, key and value are one run and their biases another, so that one
        matrix product can read all three. The three embedding tables are one, since their gradients
        come last and at once: what comes before them is not kept waiting. Every other parameter is
        a run of its own.
        """
        tables = [module.weight for module in self.modules() if isinstance(module, Table)]
        joined = {id(tables[0]): tables}
        for module in self.modules():
            if isinstance(module, Attention):
                projections = (module.query, module.key, module.value)
                for run in ([p.weight for p in projections], [p.bias for p in projections]):
                    joined[id(run[0])] = run
        inside = {id(parameter) for run in joined.values() for parameter in run[1:]}
        return [
            joined.get(id(parameter), [parameter])
            for parameter in self.parameters()
            if id(parameter) not in inside
        ]


def list_read_rows(batch: Batch) -> tuple[Tensor, tuple[int, int, int]]:
    """The tokens that the heads read, (R,) int64: masked ones, first ones, and a filling.

    The last layer computes these alone after its attention. R is filled up to a multiple of 16,
    which FP8 products need, by token 0, which nothing reads there. Returns the rows and how many
    there are of each kind; shapes alone decide it.
    """
    # An empty sequence, there to fill a fixed shape, begins after the last token.
    first_tokens = batch.cu_seqlens[:-1].clamp(max=len(batch.input_ids) - 1)
    rows = torch.cat((batch.masked_positions.long(), first_tokens.long()))
    filling = -len(rows) % ROW_MULTIPLE
    counts = (len(batch.masked_positions), len(first_tokens), filling)
    return F.pad(rows, (0, filling)), counts


def initialize_weights(model: BertForPretraining) -> None:
    """Draw matrices and tables from N(0, 0.02) cut at two standard deviations; biases 0, gains 1.

    Source: mlcommons/training bert modeling.py create_initializer. A scored run replaces all of
    them by the starting checkpoint.
    """
    cut = 2.0 * INITIALIZER_RANGE
    with torch.no_grad():
        for parameter in model.adapted_parameters():
            nn.init.trunc_normal_(parameter, 0.0, INITIALIZER_RANGE, -cut, cut)
        for parameter in model.skipped_parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.weight.fill_(1.0)


def pretraining_loss(
    output: Output, masked_ids: Tensor, next_sentence_labels: Tensor, operations: Operations
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its two parts: (loss, masked_lm_loss, next_sentence_loss), fp32 scalars.

    masked_ids: (M,) and next_sentence_labels: (B,), int64, -1 where it does not count. The first
    part is the sum over the masked tokens / (their number + 1e-5), the second the mean over the
    sequences, both over this rank's batch; the loss is their sum.
    Source: mlcommons/training bert run_pretraining.py model_fn_builder.
    """
    masked_lm_loss = operations.masked_cross_entropy(output.masked_lm_logits, masked_ids)
    questions = output.next_sentence_logits
    questions = questions.to(torch.promote_types(questions.dtype, torch.float32))
    next_sentence_loss = F.cross_entropy(questions, next_sentence_labels, ignore_index=-1)
    return masked_lm_loss + next_sentence_loss, masked_lm_loss, next_sentence_loss
