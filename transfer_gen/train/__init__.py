"""Training: steps, losses and optimizers, and what anchors weights to a source."""
