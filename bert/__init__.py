"""BERT-large on Wikipedia: data, model, checkpoint, training."""
