"""The best validation of a run so far, by its loss or by another metric."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from transfer_gen.metrics import measures

LOSS = "loss"


@dataclasses.dataclass
class Best:
  """The best validation so far, which each checkpoint stores in its facts.

  Attributes:
    metric: What validations are compared by, `Train.metric`.
    value: Best value of the metric; infinitely bad before the first validation.
    loss: Validation loss at that step, in nats per token; infinite before.
    step: Step of that validation; -1 before the first one.
    stale: Number of validations since then.
  """
  metric: str = LOSS
  value: float = math.inf
  loss: float = math.inf
  step: int = -1
  stale: int = 0

  def judge(self, step: int, scores: Mapping[str, float]) -> bool:
    """Counts a validation, and returns whether it is the best so far.

    Args:
      step: Step of the validation.
      scores: Its metrics by name, with the loss.
    """
    value = scores[self.metric]
    # A NaN is on neither side, so it counts as no improvement.
    higher = measures.METRICS[self.metric].higher
    if value > self.value if higher else value < self.value:
      self.value, self.loss, self.step, self.stale = value, scores[LOSS], step, 0
    else:
      self.stale += 1
    return self.step == step


def begin(metric: str) -> Best:
  """Returns what every validation improves on.

  Args:
    metric: Name of the metric to compare by.
  """
  higher = measures.METRICS[metric].higher
  return Best(metric=metric, value=-math.inf if higher else math.inf)


def from_facts(facts: Mapping[str, Any]) -> Best:
  """Returns the best validation that the facts of a checkpoint hold."""
  # Checkpoints of earlier versions were judged by loss, and hold nothing else.
  return Best(**{"value": facts["loss"], **facts})
