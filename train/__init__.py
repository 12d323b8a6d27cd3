"""Training: MSQ and its rivals, models, data. Hands over a checkpoint (msq.checkpoint)."""
