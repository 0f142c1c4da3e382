"""Takes the shipped steps' way through a GPU's tensors where there is no GPU: without values.

`python -m tests.resnet.pretended_gpu`, in a process of its own, prints what was seen as JSON. Torch
of a CPU makes fake tensors that say they are on cuda:0, but wants a guard for that device, which
the one of the meta device stands in for; and it has no engine for their gradients, which
tests/resnet/test_step.py takes on the meta device.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.config import load_config
from harness.ops.kernels import record_launches
from resnet.config import Config
from resnet.step import TrainingStep
from tests.harness.host_waits import DeviceWork

ROOT = Path(__file__).resolve().parents[2]
GUARDS = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry
MULTIPROCESSORS = 132


def pretend() -> None:
    """Let torch take fake tensors of cuda:0."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (DeviceType.PrivateUse1.value + 1)).in_dll(library, GUARDS)
    guards[DeviceType.CUDA.value] = guards[DeviceType.Meta.value]
    properties = SimpleNamespace(multi_processor_count=MULTIPROCESSORS)
    torch.cuda.get_device_properties = lambda *_: properties  # type: ignore[assignment,return-value]
    nn.init.trunc_normal_ = lambda tensor, *_: tensor  # type: ignore[assignment]
    nn.Module.to = move  # type: ignore[method-assign,assignment]


def move(model: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
    """nn.Module.to, which cannot swap what fake tensors refer to weakly."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or ("memory_format" in options and tensor.dim() != 4):
                    continue
                moved = tensor.detach().to(*arguments, **options)
                held[name] = nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved
    return model


def walk(file: Path) -> dict[str, Any]:
    """Make a configuration's step, and take it forward, through its update and an evaluation."""
    config: Config = load_config(file, Config)
    with FakeTensorMode(), record_launches() as records:  # type: ignore[no-untyped-call]
        step = TrainingStep(config, torch.device("cuda", 0), 0, 1, [1.0])
        with torch.no_grad(), DeviceWork("cuda") as work:
            logits = step.model(step.images)
            smoothing = config.optimizer.label_smoothing
            step.operations.label_smoothed_cross_entropy(logits, step.labels, smoothing)
            step.optimizer.update()
            step.model.eval()
            step.evaluate()
        devices = {str(tensor.device) for tensor in step.state()}
    return {
        "mixed": work.mixed,
        "operations": work.operations,
        "launches": len(records),
        "devices": sorted(devices),
    }


if __name__ == "__main__":
    pretend()
    files = sorted((ROOT / "resnet" / "configs").glob("*.toml"))
    print(json.dumps({file.stem: walk(file) for file in files if file.stem != "demo"}))
