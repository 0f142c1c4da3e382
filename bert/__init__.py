"""BERT-large on Wikipedia: data, model, checkpoint, training."""

from harness.commands import watch_imports

watch_imports()
