"""The un-padded BERT: graph against a padded one, packing, dropout, counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bert.model import (
    Batch,
    BertForPretraining,
    ModelConfig,
    Operations,
    Output,
    pretraining_loss,
)
from harness.ops import resolve_operations

LARGE = ModelConfig(30522, 1024, 24, 16, 4096, 512, 2, 0.1, 0.1)
TINY = ModelConfig(60, 32, 2, 4, 64, 24, 2, 0.1, 0.1)


def operations() -> Operations:
    names = Operations.__dataclass_fields__
    return resolve_operations(Operations, dict.fromkeys(names, "torch"))


def tiny(seed: int = 1, **changes: Any) -> BertForPretraining:
    torch.manual_seed(seed)
    model = BertForPretraining(dataclasses.replace(TINY, **changes), operations())
    with torch.no_grad():
        for parameter in model.parameters():  # far from every symmetry of the initial weights
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@dataclasses.dataclass
class Sequence:
    input_ids: Tensor
    segment_ids: Tensor
    masked_positions: Tensor
    masked_ids: Tensor
    label: int


def make_sequences(seed: int, lengths: tuple[int, ...]) -> list[Sequence]:
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for number, length in enumerate(lengths):
        masked = max(1, length // 6)
        sequences.append(
            Sequence(
                input_ids=torch.randint(1, 60, (length,), generator=generator),
                segment_ids=(torch.arange(length) >= length // 2).long(),
                masked_positions=torch.randperm(length, generator=generator)[:masked].sort()[0],
                masked_ids=torch.randint(0, 60, (masked,), generator=generator),
                label=number % 2,
            )
        )
    return sequences


def pack(sequences: list[Sequence]) -> Batch:
    lengths = [len(s.input_ids) for s in sequences]
    ends = np.cumsum([0, *lengths])
    return Batch(
        input_ids=torch.cat([s.input_ids for s in sequences]),
        segment_ids=torch.cat([s.segment_ids for s in sequences]),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=torch.tensor(ends, dtype=torch.int32),
        longest_sequence=max(lengths),
        masked_positions=torch.cat(
            [s.masked_positions + int(start) for s, start in zip(sequences, ends, strict=False)]
        ),
        masked_ids=torch.cat([s.masked_ids for s in sequences]),
        next_sentence_labels=torch.tensor([s.label for s in sequences]),
    )


def losses(model: BertForPretraining, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    output = model(batch)
    return pretraining_loss(output, batch.masked_ids, batch.next_sentence_labels, operations())


THEIR_NAMES = {
    "embeddings.word.weight": "bert.embeddings.word_embeddings.weight",
    "embeddings.position.weight": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type.weight": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.layer_norm": "bert.embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.layer_norm": "attention.output.LayerNorm",
    "feed_forward.intermediate": "intermediate.dense",
    "feed_forward.output": "output.dense",
    "feed_forward.layer_norm": "output.LayerNorm",
    "encoder.": "bert.encoder.layer.",
    "pooler": "bert.pooler.dense",
    "masked_lm.transform": "cls.predictions.transform.dense",
    "masked_lm.layer_norm": "cls.predictions.transform.LayerNorm",
    "masked_lm.output_bias": "cls.predictions.bias",
    "next_sentence": "cls.seq_relationship",
}


def their_name(name: str) -> str:
    for ours, theirs in THEIR_NAMES.items():
        if ours in name:
            name = name.replace(ours, theirs, 1)
    return name


def make_padded_reference(model: BertForPretraining) -> Any:
    """transformers' padded BERT with the weights of ours, dropout off."""
    transformers = pytest.importorskip("transformers")
    config = model.config
    reference = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            hidden_act="gelu_new",
            max_position_embeddings=config.positions,
            type_vocab_size=config.segments,
            layer_norm_eps=1e-12,
            attn_implementation="eager",
        )
    ).eval()
    theirs = dict(reference.named_parameters())
    assert set(theirs) == {their_name(name) for name, _ in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            theirs[their_name(name)].copy_(parameter)
    return reference


def close(ours: Tensor, theirs: Tensor, limit: float = 1e-5) -> bool:
    return bool((ours - theirs).norm() <= limit * theirs.norm() + 1e-7)


def test_logits_losses_and_gradients_are_those_of_the_padded_model() -> None:
    model = tiny().eval()
    reference = make_padded_reference(model)
    sequences = make_sequences(3, (24, 5, 13, 9))
    padded = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "labels": -100}
    columns = {key: torch.full((4, 24), value) for key, value in padded.items()}
    for row, s in enumerate(sequences):
        columns["input_ids"][row, : len(s.input_ids)] = s.input_ids
        columns["token_type_ids"][row, : len(s.input_ids)] = s.segment_ids
        columns["attention_mask"][row, : len(s.input_ids)] = 1
        columns["labels"][row, s.masked_positions] = s.masked_ids
    batch = pack(sequences)
    labels = columns["labels"]
    theirs = reference(**columns, next_sentence_label=batch.next_sentence_labels)
    ours = model(batch)
    assert close(ours.masked_lm_logits, theirs.prediction_logits[labels != -100])
    assert close(ours.next_sentence_logits, theirs.seq_relationship_logits)
    loss, masked_lm_loss, next_sentence_loss = losses(model, batch)
    assert torch.isclose(loss, theirs.loss, rtol=1e-5)
    assert torch.equal(loss, masked_lm_loss + next_sentence_loss)
    loss.backward()
    theirs.loss.backward()
    their_parameters = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        grad = their_parameters[their_name(name)].grad
        assert parameter.grad is not None and grad is not None
        assert close(parameter.grad, grad, 2e-5), name


def test_in_fp64_the_padded_model_has_the_same_losses_and_gradients() -> None:
    model = tiny(2).eval()
    reference = make_padded_reference(model).double()
    model.double()
    sequences = make_sequences(4, (24, 6, 15, 24, 3))
    columns = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "labels": -100}
    padded = {key: torch.full((5, 24), value) for key, value in columns.items()}
    for row, s in enumerate(sequences):
        length = len(s.input_ids)
        padded["input_ids"][row, :length] = s.input_ids
        padded["token_type_ids"][row, :length] = s.segment_ids
        padded["attention_mask"][row, :length] = 1
        padded["labels"][row, s.masked_positions] = s.masked_ids
    batch = pack(sequences)
    theirs = reference(**padded, next_sentence_label=batch.next_sentence_labels)
    loss, masked_lm_loss, _ = losses(model, batch)
    # Ours divides by the number of masked tokens + 1e-5, as the reference of the rules does.
    count = len(batch.masked_ids)
    more = masked_lm_loss * 1e-5 / count
    assert torch.isclose(loss + more, theirs.loss, rtol=1e-12)
    (loss + more).backward()
    theirs.loss.backward()
    their_parameters = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        grad = their_parameters[their_name(name)].grad
        assert parameter.grad is not None and grad is not None
        assert (parameter.grad - grad).norm() <= 1e-10 * grad.norm() + 1e-14, name


def run_whole_last_layer(model: BertForPretraining, batch: Batch) -> Output:
    """The model with its last layer computed for every token, as the reference computes it."""
    pair = model.embeddings(batch.input_ids, batch.segment_ids, batch.position_ids)
    for layer in model.encoder:
        pair = layer(pair, batch.cu_seqlens, batch.longest_sequence)
    x = pair[0]
    pooled = torch.tanh(model.pooler(x[batch.cu_seqlens[:-1].long()]))
    words = model.masked_lm(x[batch.masked_positions], model.embeddings.word.weight)
    return Output(words, model.next_sentence(pooled))


def test_the_last_layer_computes_what_the_heads_read_and_nothing_is_missing() -> None:
    model = tiny(3).double().eval()
    batch = pack(make_sequences(5, (24, 5, 13, 9)))
    rows: list[int] = []
    feed_forward = model.encoder[-1].feed_forward
    feed_forward.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0][0])))
    subset = model(batch)
    read = len(batch.masked_positions) + 4
    assert rows == [-(-read // 16) * 16] and rows[0] < len(batch.input_ids)
    whole = run_whole_last_layer(model, batch)
    gradients = []
    for output in (subset, whole):
        loss = pretraining_loss(output, batch.masked_ids, batch.next_sentence_labels, operations())
        gradients.append(torch.autograd.grad(loss[0], list(model.parameters())))
    for ours, theirs in zip(subset, whole, strict=True):
        assert close(ours, theirs, 1e-12)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-11 * theirs.norm() + 1e-14


def test_a_sequence_does_not_see_its_neighbours_or_their_order() -> None:
    model = tiny(5).eval()
    sequences = make_sequences(7, (11, 24, 3, 17))
    together = model(pack(sequences))
    order = [2, 0, 3, 1]
    shuffled = model(pack([sequences[i] for i in order]))
    assert close(shuffled.next_sentence_logits, together.next_sentence_logits[order])
    counts = [len(s.masked_ids) for s in sequences]
    pieces = together.masked_lm_logits.split(counts)
    assert close(shuffled.masked_lm_logits, torch.cat([pieces[i] for i in order]))
    for number, sequence in enumerate(sequences):
        alone = model(pack([sequence]))
        assert close(alone.masked_lm_logits, pieces[number])
        assert close(alone.next_sentence_logits, together.next_sentence_logits[number : number + 1])


def test_empty_sequences_and_ignored_labels_fill_a_shape_and_change_nothing() -> None:
    model = tiny(6).eval()
    batch = pack(make_sequences(8, (9, 14)))
    filled = dataclasses.replace(
        batch,
        cu_seqlens=torch.cat((batch.cu_seqlens, batch.cu_seqlens[-1:])),
        masked_positions=torch.cat((batch.masked_positions, torch.zeros(2, dtype=torch.int64))),
        masked_ids=torch.cat((batch.masked_ids, torch.tensor([-1, -1]))),
        next_sentence_labels=torch.cat((batch.next_sentence_labels, torch.tensor([-1]))),
    )
    for ours, theirs in zip(losses(model, filled), losses(model, batch), strict=True):
        assert torch.isclose(ours, theirs, rtol=1e-6)


def test_losses_are_the_reference_definitions() -> None:
    batch = pack(make_sequences(9, (12, 18)))
    output = tiny(8).eval()(batch)
    loss, masked_lm_loss, next_sentence_loss = pretraining_loss(
        output, batch.masked_ids, batch.next_sentence_labels, operations()
    )
    words = output.masked_lm_logits.double().log_softmax(1)
    total = -words[torch.arange(len(words)), batch.masked_ids].sum()
    assert torch.isclose(masked_lm_loss.double(), total / (len(words) + 1e-5), rtol=1e-6)
    questions = output.next_sentence_logits.double().log_softmax(1)
    mean = -(questions[0, 0] + questions[1, 1]) / 2
    assert torch.isclose(next_sentence_loss.double(), mean, rtol=1e-6)
    assert loss == masked_lm_loss + next_sentence_loss


def test_dropout_is_in_training_only_and_at_all_its_places() -> None:
    batch = pack(make_sequences(11, (24, 24, 24, 24)))
    model = tiny(12).eval()
    assert torch.equal(model(batch).masked_lm_logits, model(batch).masked_lm_logits)
    still = tiny(12, dropout=0.0, attention_dropout=0.0).train()
    assert torch.equal(still(batch).masked_lm_logits, model(batch).masked_lm_logits)
    for probabilities in ((0.1, 0.0), (0.0, 0.1)):
        moving = tiny(12, dropout=probabilities[0], attention_dropout=probabilities[1]).train()
        assert not torch.equal(moving(batch).masked_lm_logits, model(batch).masked_lm_logits)
    model.train()
    dropped = model.embeddings(batch.input_ids, batch.segment_ids, batch.position_ids)[0] == 0
    # 96 x 32 elements at 0.1: standard deviation 0.0054
    assert abs(dropped.float().mean() - 0.1) < 0.025


def test_hidden_dropout_is_drawn_three_times_a_layer_and_once_more() -> None:
    calls: list[float] = []

    def count(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        calls.append(p if training else 0.0)
        return x

    model = tiny(13, dropout=0.25).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", count)
        model(pack(make_sequences(11, (9, 7))))
    # embeddings, then attention output and feed-forward output of two layers; none in the heads
    assert calls == [0.25] * 5


def test_bert_large_has_its_published_size() -> None:
    with torch.device("meta"):
        model = BertForPretraining(LARGE, operations())
    parameters = dict(model.named_parameters())
    assert len(parameters) == 398
    assert sum(parameter.numel() for parameter in parameters.values()) == 336_226_108
    adapted, skipped = model.adapted_parameters(), model.skipped_parameters()
    assert (len(adapted), len(skipped)) == (150, 248)
    assert {id(p) for p in adapted + skipped} == {id(p) for p in parameters.values()}
    assert all(parameter.dim() == 2 for parameter in adapted)
    assert all(parameter.dim() == 1 for parameter in skipped)
    assert parameters["encoder.23.attention.query.weight"].shape == (1024, 1024)
    assert parameters["encoder.0.feed_forward.intermediate.weight"].shape == (4096, 1024)
    assert parameters["masked_lm.output_bias"].shape == (30522,)
    assert parameters["next_sentence.weight"].shape == (2, 1024)


def test_parameters_are_named_as_the_checkpoint_names_them() -> None:
    both = ("weight", "bias")
    expected = {f"embeddings.{name}.weight" for name in ("word", "position", "token_type")}
    expected |= {f"embeddings.layer_norm.{p}" for p in both} | {"masked_lm.output_bias"}
    for layer in range(2):
        for name in ("query", "key", "value", "output", "layer_norm"):
            expected |= {f"encoder.{layer}.attention.{name}.{p}" for p in both}
        for name in ("intermediate", "output", "layer_norm"):
            expected |= {f"encoder.{layer}.feed_forward.{name}.{p}" for p in both}
    for name in ("pooler", "masked_lm.transform", "masked_lm.layer_norm", "next_sentence"):
        expected |= {f"{name}.{p}" for p in both}
    model = tiny()
    assert set(dict(model.named_parameters())) == set(model.state_dict()) == expected


def test_initial_weights_have_the_reference_distribution() -> None:
    torch.manual_seed(21)
    model = BertForPretraining(dataclasses.replace(TINY, vocabulary_size=4000), operations())
    word = model.embeddings.word.weight
    assert abs(word.std() / (0.02 * 0.87962566) - 1) < 0.01
    assert 0.0395 < word.abs().max() <= 0.04
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            gain = name.endswith("layer_norm.weight")
            assert torch.equal(parameter, torch.full_like(parameter, gain)), name
        else:
            assert parameter.std() > 0.01 and parameter.abs().max() <= 0.04, name


def test_weights_are_taken_over_from_a_state_without_initialising() -> None:
    source = tiny(31).eval()
    with torch.device("meta"):
        model = BertForPretraining(TINY, operations()).eval()
    model.load_state_dict(source.state_dict(), assign=True)
    batch = pack(make_sequences(5, (8, 6)))
    assert torch.equal(model(batch).masked_lm_logits, source(batch).masked_lm_logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_matrices_beside_fp32_normalisations(dtype: torch.dtype) -> None:
    exact, model = tiny(42).eval(), tiny(42).eval().to(dtype)
    norms = {id(parameter) for parameter in model.normalisation_parameters()}
    assert len(norms) == 2 * (1 + 2 * 2 + 1)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in norms else dtype)
    batch = pack(make_sequences(6, (20, 11, 16)))
    loss = losses(model, batch)[0]
    assert loss.dtype == torch.float32
    assert torch.isclose(loss, losses(exact, batch)[0], rtol=0.02)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())
    assert all(p.dtype == torch.float64 for p in tiny(42).double().parameters())


def test_other_index_types_give_the_same_logits() -> None:
    model = tiny(41).eval()
    batch = pack(make_sequences(6, (20, 11, 16)))
    short = dataclasses.replace(
        batch,
        input_ids=batch.input_ids.int(),
        segment_ids=batch.segment_ids.int(),
        position_ids=batch.position_ids.int(),
        masked_positions=batch.masked_positions.int(),
    )
    assert torch.equal(model(short).masked_lm_logits, model(batch).masked_lm_logits)
