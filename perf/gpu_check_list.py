"""What one GPU is asked, the most telling first: whatever ends the call, the rest is worth less."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

Value = bool | str
Changes = Mapping[tuple[str, str], Value]


@dataclass(frozen=True)
class Check:
    """One command and the question it answers.

    arguments: behind `python -m`; {folder} stands for the figures' folder and {data} for a data
    set, without which the check is left out. changes: values of the configuration that --config
    names, which a copy then has.
    """

    name: str
    question: str
    arguments: tuple[str, ...]
    changes: Changes = field(default_factory=dict)

    def describe(self) -> str:
        """The command, and what its configuration has been given."""
        changed = [f"{key} = {json.dumps(value)}" for (_, key), value in self.changes.items()]
        return ", ".join([f"python -m {' '.join(self.arguments)}", *changed])

    @property
    def wants_data(self) -> bool:
        """Whether it reads a data set."""
        return any("{data}" in argument for argument in self.arguments)


def measure(name: str, question: str, module: str, *options: str) -> Check:
    """A command of perf, or resnet.data."""
    return Check(name, question, (module, *options, "--json"))


def probe(name: str, question: str, system: str, changes: Changes | None = None) -> Check:
    """The rate of the step that a system's configuration describes; name begins with its model."""
    benchmark = name.split(maxsplit=1)[0]
    config = f"{benchmark}/configs/{system}.toml"
    options = ("probe", "--config", config, "--steps", "30", "--json")
    return Check(name, question, (f"{benchmark}.train", *options), changes or {})


def profile(name: str, system: str) -> Check:
    """Where the time of that step goes."""
    found = probe(name, "where the time goes", system)
    place = "{folder}/" + name.replace(" ", "_")
    return Check(name, found.question, (*found.arguments, "--profile", place))


def take(provider: str, *operations: str) -> Changes:
    """Name a provider for some operations."""
    return {("operations", name): provider for name in operations}


NO_GRAPHS = {("graphs", "step"): False, ("graphs", "evaluation"): False}
TWO_IN_ONE = ("batch_norm_batch_norm_add_relu", "batch_norm_relu_max_pool")
FLOAT8 = ("linear", "query_key_value", "feed_forward")
APEX = ("feed_forward", "layer_norm", "dropout_add_layer_norm")
FLASH_ATTN = {**take("flash_attn", "varlen_attention"), **take("fused", "query_key_value")}
RIGHT = "does the step run, is it captured, and does it compute what its definitions do"
FLOOR = "the floor of any design"
PROVIDERS = "every provider beside its definition; 85 % of a copy's rate is wanted"
GRAPH = "what the graph saves"
FP8_CONFIG = ("--config", "bert/configs/h200_4x8_fp8.toml")
BF16_CONFIG = ("--config", "bert/configs/h200_4x8.toml")
INPUT = ("throughput", "--data", "{data}", "--gpu", "0", "--config", "resnet/configs/h100_4x8.toml")

CHECKS = (
    measure("resnet agreement", RIGHT, "perf.step_agreement", "--benchmark", "resnet"),
    measure("bert agreement", RIGHT, "perf.step_agreement", "--benchmark", "bert"),
    probe("resnet 400", "rate at 400 images; 7,950 is to be beaten", "h200_1x1"),
    probe("bert 96", "rate in bf16 at 96 sequences", "h200_4x8"),
    probe("resnet 102", "rate at 102 images", "h100_4x8"),
    probe("resnet 204", "rate at 204 images", "h100_4x4"),
    probe("bert 48", "rate in bf16 at 48 sequences", "h100_4x4"),
    probe("bert fp8", "rate with FP8 linears", "h200_4x8_fp8"),
    measure("bert fp8 agreement", "how far FP8 is from fp32",
            "perf.step_agreement", "--benchmark", "bert", *FP8_CONFIG),
    profile("resnet profile", "h200_1x1"),
    profile("bert profile", "h200_4x8"),
    measure("resnet convolutions 400", FLOOR, "perf.resnet_convolutions"),
    measure("resnet providers 400", PROVIDERS, "perf.resnet_providers", "--turns", "5"),
    measure("bert providers", PROVIDERS, "perf.bert_providers", "--turns", "5"),
    measure("bert evaluation", "evaluation's share of a run; under 2 % is wanted",
            "perf.bert_evaluation", *BF16_CONFIG),
    measure("resnet convolutions 102", FLOOR, "perf.resnet_convolutions", "--images", "102"),
    measure("resnet providers 102", PROVIDERS,
            "perf.resnet_providers", "--images", "102", "--turns", "5"),
    probe("resnet 102 eager", GRAPH, "h100_4x8", NO_GRAPHS),
    probe("resnet 400 separate", "what two normalisations in one operation save",
          "h200_1x1", take("separate", *TWO_IN_ONE)),
    probe("bert 48 eager", GRAPH, "h100_4x4", NO_GRAPHS),
    probe("bert fp8 current", "FP8 scaled by each tensor's own largest number",
          "h200_4x8_fp8", take("scaled_mm", *FLOAT8)),
    probe("bert te", "attention by Transformer Engine",
          "h200_4x8", take("te", "varlen_attention")),
    probe("bert flash_attn", "attention by flash-attn", "h200_4x8", FLASH_ATTN),
    probe("bert apex", "apex in place of our own kernels", "h200_4x8", take("apex", *APEX)),
    measure("resnet input", "images a second of the input, decoded images kept",
            "resnet.data", *INPUT),
)  # fmt: skip
