"""ResNet v1.5: the graph and the initial weights of the closed division's image classifier.

Stride 2 sits on the 3x3 convolution of a stage's first bottleneck (v1.5), every first bottleneck
projects its shortcut, every batch normalisation starts with gamma 1. Normalisation, activation and
residual addition come as operations in the constructor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resnet.model_config import ModelConfig, Operations

EXPANSION = 4
BATCH_NORM_MOMENTUM = 0.1  # 0.9 in TensorFlow's sense
BATCH_NORM_EPS = 1e-5
IMAGE_CHANNELS = 3
# Standard deviation of N(0, 1) cut at +-2: Keras' he_normal divides by it.
TRUNCATED_NORMAL_STD = 0.87962566103423978


class BatchNorm(nn.Module):
    """Parameters and running statistics of one normalisation, in fp32 whatever the model's type."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, operation: Callable[..., Any]) -> None:
        super().__init__()
        self.operation = operation
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, *inputs: Tensor, other: BatchNorm | None = None) -> Any:
        """Apply the operation to x, or to x and what is added to it: each (N, C, H, W).

        other: by which the operation normalises the second input. Returns what the operation does:
        one tensor, or where something is added one tensor twice.
        """
        vectors = self.vectors() if other is None else (*self.vectors(), *other.vectors())
        constants = (self.training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPS)
        return self.operation(*inputs, *vectors, *constants)

    def vectors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gamma, beta, running mean and running variance, in the order that operations take."""
        return self.weight, self.bias, self.running_mean, self.running_var

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        # model.half() and the like come through here: take the device, never another type.
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 (stride here), 1x1 expand, added to the shortcut."""

    def __init__(
        self, in_channels: int, width: int, stride: int, project: bool, operations: Operations
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = convolution(in_channels, width, 1, 1)
        self.bn1 = BatchNorm(width, operations.batch_norm_relu)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = BatchNorm(width, operations.batch_norm_relu)
        self.conv3 = convolution(width, out_channels, 1, 1)
        last = operations.batch_norm_add_relu
        if project:
            last = operations.batch_norm_batch_norm_add_relu
        self.bn3 = BatchNorm(out_channels, last)
        self.conv1sc = convolution(in_channels, out_channels, 1, stride) if project else None
        # Its parameters and statistics alone: bn3's operation normalises by both.
        self.bnsc = BatchNorm(out_channels, last) if project else None

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One tensor twice, for the convolutions and for the shortcut, to one tensor twice.

        (N, in_channels, H, W) -> (N, 4 width, H / stride, W / stride).
        """
        x, shortcut = inputs
        y = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(y))
        y = self.conv3(y)
        if self.conv1sc is not None:
            shortcut = self.conv1sc(shortcut)
        outputs: tuple[Tensor, Tensor] = self.bn3(y, shortcut, other=self.bnsc)
        return outputs


class ResNet(nn.Module):
    """ResNet v1.5 of bottlenecks; 25,557,032 parameters in 161 tensors at ResNet-50's sizes.

    `weight_names` gives the names of the run log's weights_initialization lines. The weights are
    initialised from torch's generator; built under torch.device("meta") they are shapes alone.
    """

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        super().__init__()
        self.config = config
        self.conv0 = convolution(config.input_channels, config.stem_width, 7, 2)
        self.bn0 = BatchNorm(config.stem_width, operations.batch_norm_relu_max_pool)
        channels = config.stem_width
        for number, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True), 1):
            stage = nn.Sequential()
            for unit in range(1, depth + 1):
                stride = 2 if unit == 1 and number > 1 else 1
                block = Bottleneck(channels, width, stride, unit == 1, operations)
                stage.add_module(f"unit{unit}", block)
                channels = EXPANSION * width
            self.add_module(f"stage{number}", stage)
        self.fc1 = nn.Linear(channels, config.classes)
        initialize_weights(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of images.

        images: (N, input_channels, H, W), normalised, best with channels_last strides, of the
        type of the convolutions. Returns logits (N, classes), fp32.
        """
        x = images.contiguous(memory_format=torch.channels_last)
        x = self.bn0(self.conv0(x))
        x, _ = self.stage4(self.stage3(self.stage2(self.stage1((x, x)))))
        # (N, H W, C): the mean's gradient then has the strides of x, which kernels rely on.
        x = x.permute(0, 2, 3, 1).flatten(1, 2)
        return self.fc1(x.mean(1)).float()

    def adapted_parameters(self) -> list[nn.Parameter]:
        """Parameters with weight decay and trust ratio: convolution and fully connected weights."""
        return [
            module.weight for module in self.modules() if isinstance(module, (nn.Conv2d, nn.Linear))
        ]

    def skipped_parameters(self) -> list[nn.Parameter]:
        """Parameters with neither: every normalisation's gamma and beta, and the last bias."""
        skipped: list[nn.Parameter] = []
        for module in self.modules():
            if isinstance(module, BatchNorm):
                skipped += [module.weight, module.bias]
            elif isinstance(module, nn.Linear):
                skipped.append(module.bias)
        return skipped

    def normalisation_parameters(self) -> list[nn.Parameter]:
        """Every normalisation's gamma and beta, which stay fp32 whatever the model's type."""
        return [
            parameter
            for module in self.modules()
            if isinstance(module, BatchNorm)
            for parameter in (module.weight, module.bias)
        ]

    def weight_names(self) -> list[str]:
        """The run log's name of every parameter tensor, in the order of parameters()."""
        names = []
        for module_name, module in self.named_modules():
            spelling = {"weight": "gamma", "bias": "beta"} if isinstance(module, BatchNorm) else {}
            prefix = module_name.replace(".", "_")
            for name, _ in module.named_parameters(recurse=False):
                names.append(f"{prefix}_{spelling.get(name, name)}")
        return names


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """Make a convolution without bias whose padding keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def initialize_weights(model: ResNet) -> None:
    """Draw the initial weights of the reference (resnet_model.py: he_normal, RandomNormal).

    Convolutions: normal cut at two standard deviations, with standard deviation
    sqrt(2 / fan_in) after the cut. Fully connected: N(0, 0.01), bias 0. A fourth input channel,
    which carries zeros, has weight 0 and does not count in fan_in: its gradient is then 0, and it
    never touches a norm.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight
                if module is model.conv0:
                    weight.zero_()
                    weight = weight[:, :IMAGE_CHANNELS]
                fan_in = math.prod(weight.shape[1:])
                sigma = math.sqrt(2.0 / fan_in) / TRUNCATED_NORMAL_STD
                nn.init.trunc_normal_(weight, 0.0, sigma, -2.0 * sigma, 2.0 * sigma)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 0.01)
                module.bias.zero_()


def batch_norm_buffers(model: nn.Module) -> list[Tensor]:
    """Running mean and running variance of every normalisation, in module order, fp32."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, BatchNorm)
        for buffer in (module.running_mean, module.running_var)
    ]
