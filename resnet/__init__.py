"""The ResNet-50 v1.5 trainer on ImageNet: data, model, optimizer, timed run."""

from harness.commands import watch_imports

watch_imports()
