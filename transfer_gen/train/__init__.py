"""Training: the step, its losses and optimizers, and what anchors weights to a source."""
