"""What a run minimizes: a sum of terms, and how the weight of each changes."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare

CONSTANT, LINEAR, CYCLIC = "constant", "linear", "cyclic"
EXPONENTIAL = "exponential"


@declare.strict
@dataclasses.dataclass
class Term:
  """The weight of one term of the loss, and how it changes over the steps of a run.

  Attributes:
    weight: The weight at its peak, at least 0; with `constant`, 0 leaves the term out.
      Default: 1.0.
    schedule: `constant`; `linear`: from `start` to `weight` between two steps;
      `exponential`: from `start` ever closer to `weight` (Ha and Eck, 2018, section 3.2
      of "A Neural Representation of Sketch Drawings"); or `cyclic`: from `start` to
      `weight` again and again (Fu et al., 2019, "Cyclical Annealing Schedule").
      Default: `constant`.
    start: For the others: the weight up to `first_step`, and at the beginning of each
      cycle, at least 0. Default: 0.0.
    decay: For `exponential`: factor on the distance from `weight` in each step, in
      (0, 1). Default: 0.99995, as in the paper.
    first_step: Number of steps after which the weight begins to change, at least 0.
      Default: 0.
    last_step: Number of steps after which the weight stays what `weight` says; 0, the
      default, means the end of the run.
    cycles: For `cyclic`: number of cycles, at least 1. Default: 4, as in the paper.
    rise: For `cyclic`: share of a cycle in which the weight rises, in (0, 1]; in the
      rest it stays at its peak. Default: 0.5, as in the paper.
  """
  weight: declare.Weight = 1.0
  schedule: Annotated[str, declare.OneOf(
      CONSTANT, LINEAR, EXPONENTIAL, CYCLIC)] = CONSTANT
  start: declare.Weight = 0.0
  decay: Annotated[float, declare.Between(0, 1, ends="()")] = 0.99995
  first_step: declare.Count = 0
  last_step: declare.Count = 0
  cycles: declare.Number = 4
  rise: Annotated[float, declare.Between(0, 1, ends="(]")] = 0.5

  @property
  def is_used(self) -> bool:
    """Whether the term is part of the loss at all."""
    return self.weight > 0 or self.schedule != CONSTANT

  def at(self, step: int, steps: int) -> float:
    """Returns the weight of the step after `step` others, in a run of `steps`."""
    if self.schedule == CONSTANT:
      return self.weight
    last = self.last_step or steps
    if step >= last:
      return self.weight
    done, span = max(step - self.first_step, 0), max(last - self.first_step, 1)
    if self.schedule == LINEAR:
      share = done / span
    elif self.schedule == EXPONENTIAL:
      share = 1 - self.decay**done
    else:
      # Whole steps in a cycle, as in equation 6 of the paper.
      share = min(done % -(-span // self.cycles) * self.cycles / span / self.rise, 1.0)
    return self.start + (self.weight - self.start) * share

  def peak(self, steps: int) -> float:
    """Returns the largest weight in a run of `steps`."""
    last = min(self.last_step or steps, steps)
    # Between these steps the weight changes in one direction.
    cycle = max(-(-(last - self.first_step) // self.cycles), 1)
    turns = range(self.first_step, last, cycle)[:2] if self.schedule == CYCLIC else ()
    corners = {0, self.first_step, last - 1, steps - 1, *(
        end for turn in turns for end in (turn - 1, turn + cycle - 1))}
    return max(self.at(step, steps) for step in corners if 0 <= step < steps)


def _unused() -> Term:
  return Term(weight=0.0)


@declare.strict
@dataclasses.dataclass
class Objective:
  """A weighted sum of terms, which training minimizes.

  By default it is the cross-entropy alone. Every other term is left out until it has a
  weight, `objective.z_loss.weight=1e-4`. Each that is used stands in metrics.jsonl
  under its name, per target token, and a weight that changes as NAME_weight. `loss` of
  training is the whole sum, the penalties of anchors included. `loss` of validation
  does not depend on the weights: it is the plain cross-entropy, and of a model of
  drawings, or one that draws a latent, what `train.combined.scoring` says. The formulas
  are in `train.terms`, and those of what a teacher adds in `distill.matching`.

  Attributes:
    ce: Cross-entropy of the tokens. Default: 1.
    label_smoothing: Share of the probability that `ce` asks to be spread evenly over
      all tokens, in [0, 1) (Szegedy et al., 2016); the smoothed loss stands in the
      metrics as `label_smoothed` beside `ce`. Default: 0.0.
    z_loss: Square of log Z, the normalizer of the softmax; Chowdhery et al. (2022) give
      it a weight of 1e-4. Default: 0.
    unlikelihood: Probability of tokens that the text has had already, against
      repetition (Welleck et al., 2020). Default: 0.
    kl: KL of a latent's posterior from N(0, I); for models with a latent. Default: 0.
    free_bits: Nats of each dimension of the latent that `kl` does not press below, at
      least 0 (Kingma et al., 2016). Default: 0.0.
    kl_min: Nats of a dimension of the latent, on average over all of them, that `kl`
      does not press below, at least 0 (Ha and Eck, 2018, equation 11). Default: 0.0.
    squared_error: Squared error of values; for models that return values. Default: 0.
    gaussian: Negative log-likelihood of values under a Gaussian; for models that return
      one. Default: 0.
    mixture: The same under a mixture of diagonal Gaussians. Default: 0.
    bivariate: The same under a mixture of Gaussians over two correlated values, such as
      the strokes of a pen (Graves, 2013). Default: 0.
    pen: Negative log-likelihood of the state of a pen. Default: 0.
    logits: With a teacher: factor on `distill.logits`. Default: 1.
    hidden: With a teacher: factor on `distill.hidden`. Default: 1.
    attention: With a teacher: factor on `distill.attention`. Default: 1.
    anchor: Factor on the penalties of the groups' anchors. Default: 1.
  """
  ce: Term = dataclasses.field(default_factory=Term)
  label_smoothing: Annotated[float, declare.Between(0, 1, ends="[)")] = 0.0
  z_loss: Term = dataclasses.field(default_factory=_unused)
  unlikelihood: Term = dataclasses.field(default_factory=_unused)
  kl: Term = dataclasses.field(default_factory=_unused)
  free_bits: declare.Weight = 0.0
  kl_min: declare.Weight = 0.0
  squared_error: Term = dataclasses.field(default_factory=_unused)
  gaussian: Term = dataclasses.field(default_factory=_unused)
  mixture: Term = dataclasses.field(default_factory=_unused)
  bivariate: Term = dataclasses.field(default_factory=_unused)
  pen: Term = dataclasses.field(default_factory=_unused)
  logits: Term = dataclasses.field(default_factory=Term)
  hidden: Term = dataclasses.field(default_factory=Term)
  attention: Term = dataclasses.field(default_factory=Term)
  anchor: Term = dataclasses.field(default_factory=Term)

  @property
  def terms(self) -> dict[str, Term]:
    """Every term by its name, also those that are not used."""
    return {field.name: value for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Term)}
