"""BERT for pre-training without padding: graph and loss of the closed division's language model.

A batch is one run of tokens, all sequences one after the other; no padding token is ever computed.
What is computed with more than one implementation comes as operations in the constructor.
Suffixes: T tokens, B sequences, M masked tokens, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.model_config import INITIALIZER_RANGE, ModelConfig, read_bert_config

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


@dataclass(frozen=True)
class Operations:
    """What a step is computed with: see harness.ops for the definitions."""

    query_key_value: Callable[..., tuple[Tensor, Tensor, Tensor]]
    varlen_attention: Callable[..., Tensor]
    bias_gelu: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    dropout_add_layer_norm: Callable[..., Tensor]
    masked_cross_entropy: Callable[..., Tensor]
    lamb_moments: Callable[..., Tensor]
    lamb_apply: Callable[..., None]


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


class Table(nn.Module):
    """An embedding table, (rows, size)."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (T,) int -> (T, size)."""
        return F.embedding(rows, self.weight)


class Dense(nn.Module):
    """A fully connected layer: weight (out, in), bias (out,)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, in) -> (rows, out)."""
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """Gain and bias of a layer normalisation, (size,) each; who holds it calls the operation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))


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

    def forward(self, input_ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Three (T,) int -> (T, hidden)."""
        x = self.word(input_ids) + self.token_type(segment_ids) + self.position(position_ids)
        norm = self.layer_norm
        x = self.operations.layer_norm(x, norm.weight, norm.bias, LAYER_NORM_EPS)
        return F.dropout(x, self.dropout, self.training)


class Attention(nn.Module):
    """Self-attention within each sequence, its projection, and the normalised residual."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        self.query = Dense(config.hidden_size, config.hidden_size)
        self.key = Dense(config.hidden_size, config.hidden_size)
        self.value = Dense(config.hidden_size, config.hidden_size)
        self.output = Dense(config.hidden_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, cu_seqlens: Tensor, longest_sequence: int) -> Tensor:
        """x: (T, hidden) -> (T, hidden)."""
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
        return self.operations.dropout_add_layer_norm(
            self.output(context_THD.flatten(1)),
            x,
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
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = Dense(config.intermediate_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, hidden) -> (T, hidden)."""
        y = self.operations.bias_gelu(F.linear(x, self.intermediate.weight), self.intermediate.bias)
        return self.operations.dropout_add_layer_norm(
            self.output(y),
            x,
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

    def forward(self, x: Tensor, cu_seqlens: Tensor, longest_sequence: int) -> Tensor:
        """x: (T, hidden) -> (T, hidden)."""
        return self.feed_forward(self.attention(x, cu_seqlens, longest_sequence))


class MaskedLmHead(nn.Module):
    """Scores of every word at the masked tokens; its last matrix is the word embedding itself."""

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.transform = Dense(config.hidden_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size)
        self.output_bias = nn.Parameter(torch.empty(config.vocabulary_size))

    def forward(self, x: Tensor, word_embedding: Tensor) -> Tensor:
        """x: (M, hidden); word_embedding: (vocabulary, hidden) -> (M, vocabulary)."""
        x = self.operations.bias_gelu(F.linear(x, self.transform.weight), self.transform.bias)
        norm = self.layer_norm
        x = self.operations.layer_norm(x, norm.weight, norm.bias, LAYER_NORM_EPS)
        return F.linear(x, word_embedding, self.output_bias)


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
        self.pooler = Dense(config.hidden_size, config.hidden_size)
        self.masked_lm = MaskedLmHead(config, operations)
        self.next_sentence = Dense(config.hidden_size, 2)
        initialize_weights(self)

    def forward(self, batch: Batch) -> Output:
        """Logits of the masked tokens and of the next-sentence question; labels are not read."""
        x = self.embeddings(batch.input_ids, batch.segment_ids, batch.position_ids)
        for layer in self.encoder:
            x = layer(x, batch.cu_seqlens, batch.longest_sequence)
        # An empty sequence, there to fill a fixed shape, begins after the last token.
        first_tokens = batch.cu_seqlens[:-1].clamp(max=len(x) - 1)
        pooled = torch.tanh(self.pooler(x.index_select(0, first_tokens)))
        masked = x.index_select(0, batch.masked_positions)
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

    def parameter_runs(self) -> list[list[nn.Parameter]]:
        """All parameters in the order of the forward pass, in runs that lie together in memory.

        The weights of query, key and value are one run and their biases another, so that one
        matrix product can read all three; every other parameter is a run of its own.
        """
        joined = {}
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
    next_sentence_loss = F.cross_entropy(
        output.next_sentence_logits.float(), next_sentence_labels, ignore_index=-1
    )
    return masked_lm_loss + next_sentence_loss, masked_lm_loss, next_sentence_loss
