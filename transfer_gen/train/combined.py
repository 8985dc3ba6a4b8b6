"""The terms of an objective, and how they are weighted and added up.

Terms of the data, of a teacher and of anchors are combined in one way: `train_step`
adds up their totals with what `weigher` returns for the step.

Axes: B batch, T position, V vocabulary.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import objective as objective_config
from transfer_gen.train import objectives
from transfer_gen.train import step as step_lib
from transfer_gen.train import terms as terms_lib

ANCHOR, CE, SMOOTHED = step_lib.ANCHOR, step_lib.CE, "label_smoothed"
TEACHER = ("logits", "hidden", "attention")  # Computed in `distill.loss`.
# Negative log-likelihoods of the data, as `ce` is.
LIKELIHOODS = ("bivariate", "mixture", "gaussian")
_VALUES = "values"  # In a batch: f32[B, T, D].
# In a batch: f32[B, T], 0 where a target that counts has no value.
VALUE_WEIGHTS = "value_weights"
Objective, Batch, NllFn = config_lib.Objective, step_lib.Batch, step_lib.NllFn
Values = Mapping[str, jax.Array]
Beginning = objectives.Beginning
likeliest = objectives.likeliest  # Beside `scoring`, for who evaluates.


@dataclasses.dataclass(frozen=True)
class Kind:
  """A term, and what it is computed from.

  Attributes:
    compute: (objective, logits, outputs, batch) -> f32[B, T].
    outputs: Names of what the model must give, see `models.outputs`.
    entries: Names of what a batch must have beside `inputs` and `targets`.
  """
  compute: Callable[[Objective, jax.Array, Values, Batch], jax.Array]
  outputs: tuple[str, ...] = ()
  entries: tuple[str, ...] = ()


def _of(outputs: Values, *names: str) -> list[jax.Array]:
  return [outputs[name] for name in names]


_MIXTURE = ("mixture_logits", "mixture_means", "mixture_log_scales")
TERMS: dict[str, Kind] = {
    "z_loss": Kind(lambda objective, logits, outputs, batch: terms_lib.z_loss(logits)),
    "unlikelihood": Kind(
        lambda objective, logits, outputs, batch: terms_lib.unlikelihood(
            logits, batch["targets"], batch["weights"], batch.get("positions"))),
    "kl": Kind(
        lambda objective, logits, outputs, batch: terms_lib.kl(
            outputs["latent_mean"], outputs["latent_log_var"], batch["weights"],
            objective.free_bits, objective.kl_min), ("latent_mean", "latent_log_var")),
    "squared_error": Kind(
        lambda objective, logits, outputs, batch: terms_lib.squared_error(
            outputs["output_mean"], batch[_VALUES]),
        ("output_mean",), (_VALUES,)),
    "gaussian": Kind(
        lambda objective, logits, outputs, batch: terms_lib.gaussian(
            outputs["output_mean"], outputs["output_log_var"], batch[_VALUES]),
        ("output_mean", "output_log_var"), (_VALUES,)),
    "mixture": Kind(
        lambda objective, logits, outputs, batch: terms_lib.mixture(
            *_of(outputs, *_MIXTURE), values=batch[_VALUES]),
        _MIXTURE, (_VALUES,)),
    "bivariate": Kind(
        lambda objective, logits, outputs, batch: terms_lib.bivariate(
            *_of(outputs, *_MIXTURE, "mixture_slants"), values=batch[_VALUES]),
        (*_MIXTURE, "mixture_slants"), (_VALUES,)),
    "pen": Kind(
        lambda objective, logits, outputs, batch: terms_lib.pen(
            outputs["pen_logits"], batch["pen_states"]),
        ("pen_logits",), ("pen_states",))}


def used(objective: Objective) -> dict[str, Kind]:
  """Returns the terms of `TERMS` that an objective uses."""
  weights = objective.terms
  return {name: kind for name, kind in TERMS.items() if weights[name].is_used}


def compute(
    objective: Objective, module: Any, params: Mapping[str, jax.Array], batch: Batch,
    train: bool, key: jax.Array | None, beginning: Beginning | None = None,
) -> tuple[dict[str, jax.Array], jax.Array, Values]:
  """Computes the terms of the data.

  Args:
    objective: Says which.
    module: As for `objectives.next_token`.
    params: Flat params, by name.
    batch: The batch, with the entries that the terms read.
    train: Whether dropout is applied.
    key: Decides the dropout masks.
    beginning: As for `objectives.next_token`.

  Returns:
    Terms f32[B, T] by name, of which `ce` is always one; the logits; and what the
    model gave beside them, if a term reads any of it, and else {}.
  """
  kinds = used(objective)
  if any(kind.outputs for kind in kinds.values()):
    logits, outputs = objectives.with_outputs(
        module, params, batch, train, key, beginning)
  else:
    logits, outputs = objectives.logits(
        module, params, batch, train, key, beginning), {}
  found = {CE: objectives.cross_entropy(logits, batch["targets"])}
  if objective.label_smoothing:
    found[SMOOTHED] = terms_lib.label_smoothed(
        logits, batch["targets"], objective.label_smoothing)
  for name, kind in kinds.items():
    found[name] = kind.compute(objective, logits, outputs, batch)
    if _VALUES in kind.entries and VALUE_WEIGHTS in batch:
      found[name] *= batch[VALUE_WEIGHTS]
  return found, logits, outputs


def training(
    module: Any, objective: Objective, train: bool, beginning: Beginning | None = None
) -> NllFn:
  """Returns what a step computes: what `objectives.next_token` does, or all terms.

  Args:
    module: As for `objectives.next_token`.
    objective: The objective of the run.
    train: Whether dropout is applied.
    beginning: As for `objectives.next_token`.
  """
  if weigher(objective, 1) is None:
    return objectives.next_token(module, train, beginning)

  def nll_fn(params, batch, key):
    return compute(objective, module, params, batch, train, key, beginning)[0]
  return nll_fn


def given(module: Any, specs: Mapping[str, Any], batch: Mapping[str, Any]) -> set[str]:
  """Returns the names of what a model gives beside logits; computes nothing.

  Args:
    module: As for `objectives.next_token`.
    specs: Specs of its params, by name.
    batch: A batch, of which only the shapes count.
  """
  params: Any = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
                 for name, spec in specs.items()}
  return set(jax.eval_shape(lambda params, batch: objectives.with_outputs(
      module, params, batch, False, None), params, dict(batch))[1])


def validating(
    module: Any, objective: Objective, beginning: Beginning | None = None) -> NllFn:
  """Returns what a validation computes: `loss`, which compares models, and all terms.

  `loss` is the plain cross-entropy; of a model of drawings, or one that draws a latent,
  it is what `scoring` says.

  Args:
    module: As for `objectives.next_token`.
    objective: The objective of the run.
    beginning: As for `objectives.next_token`.

  Returns:
    A function of the form of `objectives.next_token`; it returns terms by name unless
    the objective has no other than the cross-entropy.
  """
  values, draws = _likelihoods(getattr(module, "config", None))
  if values or draws:  # Floors and weights other than 1 would make it no likelihood.
    ones: dict[str, Any] = {name: config_lib.Term() for name in (*values, *draws)}
    objective = dataclasses.replace(objective, free_bits=0.0, kl_min=0.0, **ones)
  elif not used(objective) and not objective.label_smoothing:
    return objectives.next_token(module, False, beginning)

  def nll_fn(params, batch, key):
    found, *_ = compute(objective, module, params, batch, False, key, beginning)
    ce = found.pop(CE)
    if not values and not draws:
      return {"loss": ce, **found}
    reconstruction = sum((found[name] for name in values), ce)
    return {"loss": sum((found[name] for name in draws), reconstruction),
            "reconstruction": reconstruction, **({CE: ce} if values else {}), **found}
  return nll_fn


def _likelihoods(config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the terms that are likelihoods beside `ce`, and those that bound them."""
  return (("bivariate",) if isinstance(config, config_lib.Sketch) else (),
          ("kl",) if getattr(config, "draws", False) else ())


@functools.lru_cache(maxsize=32)  # As of `objectives.next_token`.
def scoring(module: Any, beginning: Beginning | None = None) -> NllFn:
  """Returns what an evaluation computes: the loss of each target.

  Of a model of drawings, `reconstruction` is the negative log-likelihood of pens and
  offsets for each of the T positions of a row, as Ha and Eck (2018, equation 9) state
  theirs. Of a model that draws a latent, `loss` is a bound (Kingma and Welling, 2014,
  equation 3), the negative ELBO: the sum of `reconstruction`, given a latent that is
  drawn once, and `kl`. What is drawn depends on the document alone.

  Args:
    module: As for `objectives.next_token`.
    beginning: As for `objectives.next_token`.

  Returns:
    As `validating`.
  """
  return validating(module, Objective(), beginning)


def weigher(
    objective: Objective, steps: int, distill: config_lib.Distill | None = None
) -> step_lib.Weigh | None:
  """Returns the function from a step to the weight of each term.

  Args:
    objective: The objective of the run.
    steps: Length of the run in steps.
    distill: What is learned from a teacher, if there is one. Its weights are factors of
      those of the objective.

  Returns:
    None if the cross-entropy alone is minimized, with a weight of 1, and anchors keep
    their strengths.
  """
  found = weights(objective, distill)
  plain = {name: (base, term) for name, (base, term) in found.items()
           if (base, term) != (1.0, config_lib.Term())}
  if distill is None and not plain and found.keys() <= {CE, ANCHOR}:
    return None
  # Numbers and not arrays where nothing changes, so that the program has constants.
  return lambda step: {
      name: base * at(term, steps, step) for name, (base, term) in found.items()}


def weights(
    objective: Objective, distill: config_lib.Distill | None = None
) -> dict[str, tuple[float, config_lib.Term]]:
  """Returns a factor and the weight of each term that counts, by its name."""
  terms = objective.terms
  ce = SMOOTHED if objective.label_smoothing else CE
  hard = distill.ce if distill else 1.0  # What is learned from the data.
  found = {ce: (hard, terms.pop(CE))}
  for name in TEACHER:
    term = terms.pop(name)
    if distill is not None:
      found[name] = getattr(distill, name), term
  found |= {name: (hard if name in LIKELIHOODS else 1.0, term)
            for name, term in terms.items()}
  # A term of weight 0 is left out of the program, instead of being multiplied by 0; but
  # without this number the anchor's would be 1.
  return {name: (base, term) for name, (base, term) in found.items()
          if name == ANCHOR or (base > 0 and term.is_used)}


def at(term: config_lib.Term, steps: int, step: jax.Array) -> Any:
  """Returns the weight of a term at a step, as `Term.at` does, for compiled programs.

  Args:
    term: The term.
    steps: Length of the run in steps.
    step: i32[], number of steps before.

  Returns:
    A number if it does not change, and else f32[].
  """
  if term.schedule == objective_config.CONSTANT:
    return term.weight
  last = term.last_step or steps
  span = max(last - term.first_step, 1)
  done = jnp.maximum(step - term.first_step, 0)
  if term.schedule == objective_config.LINEAR:
    share = done.astype(jnp.float32) / span
  elif term.schedule == objective_config.EXPONENTIAL:
    share = -jnp.expm1(done.astype(jnp.float32) * math.log(term.decay))
  else:
    # The remainder in whole numbers: float32 has too few digits for long runs.
    inside = (done % -(-span // term.cycles)).astype(jnp.float32)
    share = jnp.minimum(inside * (term.cycles / span / term.rise), 1.0)
  changing = term.start + (term.weight - term.start) * share
  return jnp.where(step >= last, jnp.float32(term.weight), changing)


def check(
    objective: Objective, steps: int, anchored: bool,
    distill: config_lib.Distill | None = None) -> None:
  """Refuses an objective whose weights say nothing, before anything is read.

  Args:
    objective: The objective of a run.
    steps: Length of the run in steps; 0 if it is not known yet.
    anchored: Whether a group may have an anchor with a penalty.
    distill: As for `weigher`.

  Raises:
    errors.UserError: With every misfit.
  """
  terms, wrong = objective.terms, []
  counted = weights(objective, distill)
  for name, term in terms.items():
    wrong += [f"objective.{name}{text}" for text in _misfits(term, steps)]
  for field, name in (("free_bits", "kl"), ("kl_min", "kl"), ("label_smoothing", CE)):
    if getattr(objective, field) and not terms[name].is_used:
      wrong.append(f"objective.{field} is about {name}, whose weight is 0. Set"
                   f" objective.{name}.weight")
  for name in TEACHER:
    if terms[name] != config_lib.Term() and not (distill and getattr(distill, name)):
      wrong.append(f"objective.{name} is a factor on distill.{name}, which the run does"
                   " not have. Set distill, or leave it out")
  if terms[ANCHOR] != config_lib.Term() and not anchored:
    wrong.append("objective.anchor is a factor on the penalty of anchors, and no group"
                 " has an anchor with one. Give it one, or leave it out")
  if distill and any(getattr(distill, name) for name in TEACHER) and not (
      counted.keys() & set(TEACHER)):
    wrong.append("the factors of all that is learned from the teacher are 0, so that it"
                 " would have no say. Raise one of objective.logits, hidden and"
                 " attention, or set distill=None")
  if not counted.keys() - {ANCHOR}:
    wrong.append("the weights of all terms are 0, so that nothing would be minimized."
                 " Give objective.ce.weight, or another term, a weight above 0")
  if wrong:
    raise errors.UserError(
        "The objective does not fit: " + ";\n  ".join(wrong) + ".")


def _misfits(term: config_lib.Term, steps: int) -> list[str]:
  """Returns what is wrong about the schedule of a term."""
  if term.schedule == objective_config.CONSTANT:
    given = [name for name in (
        "start", "decay", "first_step", "last_step", "cycles", "rise")
             if getattr(term, name) != getattr(config_lib.Term(), name)]
    return [f".{given[0]} is read by other schedules, and this one is"
            " constant. Set its schedule, or leave it out"] if given else []
  last = term.last_step or steps
  if last and term.first_step >= last:
    end = "last_step" if term.last_step else "the end of the run"
    return [f".first_step is {term.first_step}, and {end} is {last}: the weight would"
            " have no step to change in. Begin earlier"]
  never = not term.weight and not term.start or (steps and not term.peak(steps))
  return [f": its weight never rises above 0 ({term}). Set its weight, or let it begin"
          " before the run ends"] if never else []
