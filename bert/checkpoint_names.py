"""The names of BERT's weights: ours, those of TensorFlow's checkpoints, those of transformers."""

from __future__ import annotations

import functools
import re

# Ours -> TensorFlow's, for what a module's name begins with; the first that fits counts.
MODULE_NAMES = (
    (r"embeddings\.(word|position|token_type)", r"bert/embeddings/\1_embeddings"),
    (r"embeddings\.layer_norm", r"bert/embeddings/LayerNorm"),
    (r"encoder\.(\d+)\.attention\.(query|key|value)", r"bert/encoder/layer_\1/attention/self/\2"),
    (r"encoder\.(\d+)\.attention\.output", r"bert/encoder/layer_\1/attention/output/dense"),
    (r"encoder\.(\d+)\.attention\.layer_norm", r"bert/encoder/layer_\1/attention/output/LayerNorm"),
    (r"encoder\.(\d+)\.feed_forward\.intermediate", r"bert/encoder/layer_\1/intermediate/dense"),
    (r"encoder\.(\d+)\.feed_forward\.output", r"bert/encoder/layer_\1/output/dense"),
    (r"encoder\.(\d+)\.feed_forward\.layer_norm", r"bert/encoder/layer_\1/output/LayerNorm"),
    (r"pooler", r"bert/pooler/dense"),
    (r"masked_lm\.transform", r"cls/predictions/transform/dense"),
    (r"masked_lm\.layer_norm", r"cls/predictions/transform/LayerNorm"),
    (r"masked_lm", r"cls/predictions"),
    (r"next_sentence", r"cls/seq_relationship"),
)
# What an optimizer keeps beside the variables: not restored, so not asked for and not refused.
OPTIMIZER_VARIABLES = frozenset({"global_step", "beta1_power", "beta2_power"})
OPTIMIZER_SLOT = re.compile(r"(.+)/(?:LAMB|LAMB_1|Adam|Adam_1|adam_m|adam_v)", re.DOTALL)


@functools.lru_cache(maxsize=1 << 12)
def find_scope(name: str) -> tuple[str, str]:
    """Return TensorFlow's scope of a parameter of ours, and our last word for it.

    Raises ValueError where BERT has no such parameter.
    """
    module, _, leaf = name.rpartition(".")
    for pattern, replacement in MODULE_NAMES:
        match = re.fullmatch(pattern, module)
        if match:
            return match.expand(replacement), leaf
    raise ValueError(f"{name} is no parameter of BERT")


def name_in_tensorflow(name: str) -> tuple[str, bool]:
    """Return TensorFlow's name of a parameter of ours, and whether its matrix lies transposed.

    Source: mlcommons/training bert modeling.py; dense kernels are (in, out) there.
    """
    scope, leaf = find_scope(name)
    if scope.endswith("_embeddings"):
        return scope, False
    if scope.endswith("/LayerNorm"):
        return f"{scope}/{'gamma' if leaf == 'weight' else 'beta'}", False
    if scope == "cls/seq_relationship":
        return f"{scope}/output_{'weights' if leaf == 'weight' else 'bias'}", False
    if scope == "cls/predictions":
        return f"{scope}/{leaf}", False
    return f"{scope}/{'kernel' if leaf == 'weight' else 'bias'}", leaf == "weight"


def name_in_transformers(name: str) -> str:
    """Return the name of a parameter of ours in transformers' BertForPreTraining.

    Every matrix lies there as ours does. The masked-LM head's last matrix has no name of its own,
    being the word embedding. Source: huggingface/transformers modeling_bert.py.
    """
    scope, leaf = find_scope(name)
    module = re.sub(r"layer_(\d+)", r"layer.\1", scope.replace("/", "."))
    return f"{module}.{'bias' if leaf == 'output_bias' else leaf}"


def belongs_to_optimizer(name: str, variables: frozenset[str]) -> bool:
    """Whether TensorFlow's variable is an optimizer's own, or its slot for one of the variables."""
    slot = OPTIMIZER_SLOT.fullmatch(name)
    return name in OPTIMIZER_VARIABLES or bool(slot and slot[1] in variables)
