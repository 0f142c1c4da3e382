"""The ResNet: graph against one of torch.nn modules, initial weights, counts, number formats."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.ops import resolve, resolve_operations
from resnet.model import ModelConfig, Operations, ResNet, batch_norm_buffers

FIFTY: dict[str, Any] = {
    "widths": (64, 128, 256, 512),
    "depths": (3, 4, 6, 3),
    "stem_width": 64,
    "classes": 1000,
    "input_channels": 3,
}
TINY: dict[str, Any] = {
    "widths": (4, 6, 8, 10),
    "depths": (2, 1, 2, 1),
    "stem_width": 6,
    "classes": 7,
    "input_channels": 3,
}


def operations() -> Operations:
    names = Operations.__dataclass_fields__
    return resolve_operations(Operations, dict.fromkeys(names, "torch"))


def tiny(seed: int = 1, **changes: Any) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(ModelConfig(**(TINY | changes)), operations())


def fifty_on_meta(**changes: Any) -> ResNet:
    with torch.device("meta"):
        return ResNet(ModelConfig(**(FIFTY | changes)), operations())


class ReferenceBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        out = 4 * width
        self.main = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Sequential()
        if project:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.shortcut(x))


def make_reference(config: ModelConfig) -> nn.Sequential:
    """The same network of stock modules only, in the same order of parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(config.input_channels, config.stem_width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(config.stem_width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = config.stem_width
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for unit in range(depth):
            stride = 2 if stage and not unit else 1
            layers.append(ReferenceBlock(channels, width, stride, not unit))
            channels = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.classes)]
    return nn.Sequential(*layers)


def pair(seed: int = 3) -> tuple[ResNet, nn.Sequential]:
    model = tiny(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bn" in name:  # gammas and betas that would show an exchange
                parameter.add_(0.3 * torch.randn_like(parameter))
    reference = make_reference(model.config)
    ours, theirs = list(model.parameters()), list(reference.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for target, source in zip(theirs, ours, strict=True):
            target.copy_(source)
    # One memory format for both: the convolutions then add up in one order.
    return model, reference.to(memory_format=torch.channels_last)


def close(ours: Tensor, theirs: Tensor, limit: float = 1e-5) -> bool:
    return bool((ours - theirs).norm() <= limit * theirs.norm() + 1e-9)


def test_forward_gradients_and_statistics_are_those_of_stock_modules() -> None:
    model, reference = pair()
    images = torch.randn(4, 3, 64, 64)
    labels = torch.tensor([0, 3, 6, 1])
    channels_last = images.contiguous(memory_format=torch.channels_last)
    ours, theirs = model(images), reference(channels_last)
    assert ours.dtype == torch.float32 and ours.shape == (4, 7)
    assert close(ours, theirs)
    nn.functional.cross_entropy(ours, labels, label_smoothing=0.1).backward()
    nn.functional.cross_entropy(theirs, labels, label_smoothing=0.1).backward()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        assert close(mine.grad, other.grad, 1e-4)
    other_buffers = [
        buffer
        for module in reference.modules()
        if isinstance(module, nn.BatchNorm2d)
        for buffer in (module.running_mean, module.running_var)
    ]
    for mine, other in zip(batch_norm_buffers(model), other_buffers, strict=True):
        assert other is not None and close(mine, other)
        assert not torch.equal(mine, torch.zeros_like(mine))


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is for Linux on x86_64 alone")
@pytest.mark.parametrize("training", [True, False])
def test_kernels_of_our_own_give_the_logits_gradients_and_statistics(training: bool) -> None:
    """In fp32, with the kernels interpreted: what is left is the order of the sums."""
    names = dict.fromkeys(Operations.__dataclass_fields__, "triton") | {"lars_update": "torch"}
    plain = tiny(2)
    fused = ResNet(plain.config, resolve_operations(Operations, names))
    fused.load_state_dict(plain.state_dict())
    torch.manual_seed(3)
    images, labels = torch.randn(3, 3, 40, 40), torch.tensor([1, 6, 0])
    seen = []
    for model in (fused, plain):
        model.train(training)
        provider = "triton" if model is fused else "torch"
        logits = model(images)
        kept = logits.detach().clone()
        resolve("label_smoothed_cross_entropy", provider)(logits, labels, 0.1).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        seen.append([kept, *gradients, *batch_norm_buffers(model)])
    for mine, other in zip(*seen, strict=True):
        assert mine is not None and other is not None
        assert (mine - other).norm() <= 1e-4 * other.norm() + 1e-6


def test_evaluation_uses_and_keeps_the_running_statistics() -> None:
    model, reference = pair(5)
    for _ in range(3):
        images = torch.randn(4, 3, 48, 48) * 2 + 1
        model(images), reference(images)
    model.eval(), reference.eval()
    before = [buffer.clone() for buffer in batch_norm_buffers(model)]
    images = torch.randn(2, 3, 48, 48)
    logits = model(images)
    assert close(logits, reference(images))
    assert close(model(images[:1]), logits[:1])  # no sample sees another
    assert all(torch.equal(a, b) for a, b in zip(before, batch_norm_buffers(model), strict=True))


def test_resnet_50_has_its_published_size() -> None:
    model = fifty_on_meta()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert len(list(model.parameters())) == 161
    assert len(batch_norm_buffers(model)) == 106
    logits = model(torch.empty(2, 3, 224, 224, device="meta"))
    assert logits.shape == (2, 1000)


def test_adapted_and_skipped_parameters_share_out_all_parameters() -> None:
    model = fifty_on_meta()
    adapted, skipped = model.adapted_parameters(), model.skipped_parameters()
    assert (len(adapted), len(skipped)) == (54, 107)
    assert {id(p) for p in adapted + skipped} == {id(p) for p in model.parameters()}
    assert all(parameter.dim() > 1 for parameter in adapted)
    assert all(parameter.dim() == 1 for parameter in skipped)


def test_what_lars_adapts_and_skips_by_name() -> None:
    """What docs/rules.md lists, and what the reference's list of substrings picks out."""
    model = fifty_on_meta()
    by_name = dict(zip(model.weight_names(), model.parameters(), strict=True))
    adapted = {id(parameter) for parameter in model.adapted_parameters()}
    names = {name for name, parameter in by_name.items() if id(parameter) in adapted}
    depths = {1: 3, 2: 4, 3: 6, 4: 3}
    expected = {"conv0_weight", "fc1_weight"}
    for stage, depth in depths.items():
        expected.add(f"stage{stage}_unit1_conv1sc_weight")
        for unit in range(1, depth + 1):
            expected |= {f"stage{stage}_unit{unit}_conv{n}_weight" for n in (1, 2, 3)}
    assert names == expected and len(names) == 54
    skipped = set(by_name) - names
    assert skipped == {name for name in by_name if "bn" in name or "bias" in name}
    assert len(skipped) == 107


def test_weight_names_are_those_of_the_run_log() -> None:
    model = fifty_on_meta()
    names = model.weight_names()
    units = [
        f"stage{stage}_unit{unit}_"
        for stage, depth in enumerate((3, 4, 6, 3), 1)
        for unit in range(1, depth + 1)
    ]
    expected = {"conv0_weight", "bn0_gamma", "bn0_beta", "fc1_weight", "fc1_bias"}
    for unit in units:
        number = ("1", "2", "3") + (("sc",) if unit.endswith("unit1_") else ())
        expected |= {f"{unit}{'conv1sc' if n == 'sc' else 'conv' + n}_weight" for n in number}
        expected |= {f"{unit}bn{n}_{which}" for n in number for which in ("gamma", "beta")}
    assert len(names) == 161 and set(names) == expected
    by_name = dict(zip(names, model.parameters(), strict=True))
    assert by_name["stage2_unit1_conv2_weight"].shape == (128, 128, 3, 3)
    assert by_name["stage4_unit1_conv1sc_weight"].shape == (2048, 1024, 1, 1)
    assert by_name["stage3_unit6_bn3_gamma"].shape == (1024,)


def test_stride_two_is_on_the_3x3_convolution() -> None:
    model = fifty_on_meta()
    strides = {name: m.stride for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    halving = {name for name, stride in strides.items() if stride == (2, 2)}
    firsts = {f"stage{stage}.unit1.{conv}" for stage in (2, 3, 4) for conv in ("conv2", "conv1sc")}
    assert halving == {"conv0"} | firsts


def test_initial_weights_have_the_reference_distribution() -> None:
    model = tiny(7, widths=(32, 48, 64, 64), stem_width=64, classes=50, input_channels=4)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight[:, :3] if name == "conv0" else module.weight
            fan_in = math.prod(weight.shape[1:])
            assert fan_in == 147 or name != "conv0"
            std = math.sqrt(2 / fan_in)
            count = weight.numel()
            assert abs(weight.mean()) < 5 * std / math.sqrt(count), name
            assert abs(weight.std() / std - 1) < 5 / math.sqrt(2 * count), name
            cut = 2 * std / 0.87962566
            assert 0.9 * cut < weight.abs().max() <= cut * 1.0001, name
    fc = model.fc1
    assert abs(fc.weight.std() / 0.01 - 1) < 5 / math.sqrt(2 * fc.weight.numel())
    assert fc.weight.abs().max() > 0.03  # not cut at two standard deviations
    assert not fc.bias.any()
    for name, parameter in model.named_parameters():
        if "bn" in name:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight")))


def test_fourth_channel_of_zeros_changes_nothing_and_stays_zero() -> None:
    model = tiny(9, input_channels=4)
    three = tiny(9)
    assert not model.conv0.weight[:, 3].any()
    with torch.no_grad():
        for target, source in zip(three.parameters(), model.parameters(), strict=True):
            target.copy_(source[:, :3] if source is model.conv0.weight else source)
    images = torch.randn(2, 3, 40, 40)
    padded = torch.cat((images, torch.zeros(2, 1, 40, 40)), dim=1)
    logits = model(padded)
    assert close(logits, three(images))
    logits.square().sum().backward()
    assert model.conv0.weight.grad is not None
    assert not model.conv0.weight.grad[:, 3].any() and model.conv0.weight.grad[:, :3].any()


def test_weights_and_activations_lie_channels_last() -> None:
    model = tiny()
    last = torch.channels_last
    assert model.conv0.weight.is_contiguous(memory_format=last)
    assert not model.conv0.weight.is_contiguous()
    seen: list[Tensor] = []
    model.stage2.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    model(torch.randn(2, 3, 64, 64))
    assert seen[0].is_contiguous(memory_format=last)


def test_batch_norm_keeps_fp32_through_type_changes() -> None:
    model = tiny()
    with torch.no_grad():
        model.bn0.weight.fill_(1.0001)  # not a bf16 number
    for cast in (copy.deepcopy(model).bfloat16(), copy.deepcopy(model).half()):
        assert cast.conv0.weight.dtype in (torch.bfloat16, torch.float16)
        assert torch.equal(cast.bn0.weight, model.bn0.weight)
        assert {b.dtype for b in batch_norm_buffers(cast)} == {torch.float32}
    moved = copy.deepcopy(model).to("meta")
    assert moved.bn0.weight.is_meta and moved.bn0.running_var.is_meta


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_convolutions_beside_fp32_statistics(dtype: torch.dtype) -> None:
    exact = tiny(11)
    model = copy.deepcopy(exact).to(dtype)
    images = torch.randn(8, 3, 64, 64)
    logits = model(images.to(dtype))
    assert close(logits.float(), exact(images), 0.1)
    logits.float().sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32, dtype}
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())
    assert {b.dtype for b in batch_norm_buffers(model)} == {torch.float32}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", (64, 128, 256)),
        ("depths", (3, 4, 0, 3)),
        ("depths", (3, 4, 6.0, 3)),
        ("stem_width", 0),
        ("classes", True),
        ("input_channels", 5),
    ],
)
def test_impossible_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ModelConfig(**(TINY | {field: value}))
