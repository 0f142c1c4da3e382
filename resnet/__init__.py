"""The ResNet-50 v1.5 trainer on ImageNet: data, model, optimizer, timed run."""
