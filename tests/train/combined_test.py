"""Tests for terms that combine: their weights, devices, cost, and what is refused."""

import functools
import math
import types

from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.distill import loss
from transfer_gen.models import outputs
from transfer_gen.models import registry
from transfer_gen.train import combined
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

Term, Objective = config.Term, config.Objective
V, WIDTH, LATENT, STEPS = 11, 4, 3, 5


class _Latent(nn.Module):
  """A model of texts with a latent for each row, given from inside of a part of it."""

  @nn.compact
  def __call__(self, tokens, train=False):
    del train
    embedded = nn.Embed(V, WIDTH, name="embed")(tokens)
    mean = _Posterior(name="posterior")(embedded.mean(1))
    latent = nn.Dense(WIDTH, name="up")(mean)[:, None]
    return nn.Dense(V, name="head")(embedded + latent)


class _Posterior(nn.Module):

  @nn.compact
  def __call__(self, x):
    both = nn.Dense(2 * LATENT, name="both")(x)
    outputs.give(self, "latent_mean", both[:, :LATENT])
    outputs.give(self, "latent_log_var", both[:, LATENT:])
    return both[:, :LATENT]


MODEL = _Latent()
OBJECTIVE = Objective(
    ce=Term(weight=0.5), label_smoothing=0.1,
    z_loss=Term(weight=0.1, schedule="cyclic", cycles=1),
    unlikelihood=Term(weight=1.0, schedule="linear", start=0.25, first_step=1),
    kl=Term(weight=0.3, schedule="linear"), free_bits=0.01,
    anchor=Term(weight=2.0, schedule="linear", start=1.0))
PULLED = (plan_lib.Group(
    name="all", params=".*", anchor=plan_lib.L2SP(alpha=0.0, beta=0.05)),)


@functools.cache
def _setup():
  made = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), int))
  params = tree.flatten(made["params"])
  specs = tree.specs(params, {
      name: ("one", "two")[:x.ndim] for name, x in params.items()})
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=PULLED)
  optimizer = optim.build(config.Optim(warmup_steps=0, lr=0.05), PULLED,
                          resolve.resolve(plan, {}, specs), STEPS)
  return specs, optimizer, params


def _state():
  _, optimizer, params = _setup()
  return step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.extend({}, params, 0))


def _batch(seed, rows=16):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, V, (rows, 7)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": (generator.random((rows, 6)) < 0.7).astype(np.float32)}


def _arguments(objective=OBJECTIVE):
  return {"nll_fn": loss.objective(None, MODEL, False, None, objective),
          "weigh": combined.weigher(objective, STEPS), "optimizer": _setup()[1]}


def _lines(step, state, put=lambda batch: batch):
  lines = []
  for number in range(STEPS):
    state, metrics = step(state, put(_batch(number)), jax.random.key(0))
    lines.append({name: float(np.ravel(total)[0] / np.ravel(count)[0])
                  for name, (total, count) in jax.device_get(metrics).items()})
  return lines, state


@functools.cache
def _one_device():
  return _lines(jax.jit(functools.partial(_step, _arguments())), _state())


def _step(arguments, state, batch, key):
  return step_lib.train_step(state, batch, key=key, **arguments)


@pytest.mark.parametrize("devices, accumulate", [
    pytest.param(config.Parallel(), 1, id="mesh", marks=pytest.mark.long),
    pytest.param(config.Parallel(mode="pmap"), 1, id="pmap"),
    pytest.param(config.Parallel(data=1), 4, id="accumulate", marks=pytest.mark.long),
    pytest.param(config.Parallel(), 2, id="mesh_accumulate")])
def test_terms_combine_alike_on_all_devices_and_in_parts(devices, accumulate):
  specs, _, _ = _setup()
  if devices.data == 1:  # One device of eight cannot be asked for by a config.
    found, state = _lines(jax.jit(functools.partial(
        _step, {**_arguments(), "accumulate": accumulate})), _state())
  else:
    runner = parallel.make_runner(devices, specs, 16, accumulate, **_arguments())
    found, state = _lines(runner.step, runner.place(_state()), runner.put)
    state = runner.fetch(state)

  wanted, whole = _one_device()
  for line, want in zip(found, wanted, strict=True):
    assert line == pytest.approx(want, rel=1e-4, abs=1e-6)
  for name, value in whole.params.items():
    np.testing.assert_allclose(state.params[name], value, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms_and_all_are_reported():
  lines, _ = _one_device()

  assert lines[0].keys() == {
      "loss", "ce", "label_smoothed", "z_loss", "unlikelihood", "kl", "anchor",
      "z_loss_weight", "unlikelihood_weight", "kl_weight", "anchor_weight", "grad_norm"}
  for step, line in enumerate(lines):
    kl, cycle = 0.3 * step / STEPS, min(step / STEPS / 0.5, 1)
    unlikely = 0.25 + 0.75 * max(step - 1, 0) / (STEPS - 1)
    assert line["kl_weight"] == pytest.approx(kl)
    assert line["loss"] == pytest.approx(
        0.5 * line["label_smoothed"] + 0.1 * cycle * line["z_loss"]
        + unlikely * line["unlikelihood"] + kl * line["kl"]
        + line["anchor_weight"] * line["anchor"], rel=1e-5)
  assert min(line[name] for line in lines for name in (
      "ce", "z_loss", "unlikelihood", "kl", "anchor")) > 0


def test_the_penalty_of_an_anchor_is_a_term_with_a_weight():
  _, optimizer, params = _setup()
  arguments = {**_arguments(), "nll_fn": lambda params, batch, key: {
      "ce": 0 * params["head/bias"].sum() * batch["weights"]}}
  norm = math.sqrt(sum((np.float64(x) ** 2).sum() for x in params.values()))

  @jax.jit
  def step(factor):
    arguments["weigh"] = lambda step: {"ce": 1.0, "anchor": factor}
    metrics = _step(arguments, _state(), _batch(0), jax.random.key(0))[1]
    total, count = metrics["anchor"]
    return total / count, metrics["grad_norm"][0]

  for factor in (0.0, 1.0, 3.0):
    penalty, gradient = step(factor)
    # The penalty is beta / 2 ||w||^2, and its gradient beta w.
    assert float(penalty) == pytest.approx(0.05 / 2 * norm ** 2, rel=1e-5)
    assert float(gradient) == pytest.approx(factor * 0.05 * norm, rel=1e-5)


def test_the_default_objective_leaves_the_compiled_step_as_it_is():
  specs, _, _ = _setup()
  key = jax.random.key(0)
  assert combined.weigher(Objective(), STEPS) is None
  assert loss.objective(None, MODEL, True, None, Objective()) is (
      objectives.next_token(MODEL, True, None))

  def by_hand(state, batch, key):
    """A step as it is without any objective."""
    del key
    def mean(params):
      nll = objectives.next_token(MODEL, False)(params, batch, None)
      total = (nll * batch["weights"]).sum()
      return total / jnp.maximum(batch["weights"].sum(), 1.0), total
    grads, total = jax.grad(mean, has_aux=True)(state.params)
    new, opt_state, norm = plain.update(grads, state.opt_state, state.params)
    return new, opt_state, state.step + 1, total, batch["weights"].sum(), norm

  groups = (plan_lib.Group(name="all", params=".*"),)
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),), groups=groups)
  plain = optim.build(
      config.Optim(), groups, resolve.resolve(plan, {}, specs), STEPS)
  state = _state().replace(opt_state=plain.extend({}, _setup()[2], 0))
  flops = lambda step: jax.jit(step).lower(
      state, _batch(0), key).compile().cost_analysis()["flops"]

  ours = flops(functools.partial(
      _step, {**_arguments(Objective()), "optimizer": plain}))

  assert ours == flops(by_hand) > 0


@pytest.mark.parametrize("term", [
    Term(weight=2.0, schedule="linear", start=0.5, first_step=10, last_step=70),
    Term(weight=0.0, schedule="linear", start=1.0),
    Term(schedule="exponential", start=0.01, decay=0.9),
    Term(schedule="exponential", decay=0.8, first_step=5, last_step=60),
    Term(schedule="cyclic"), Term(schedule="cyclic", rise=1.0, cycles=3, start=0.1),
    Term(schedule="cyclic", first_step=7, last_step=60, cycles=5)])
def test_a_weight_follows_its_schedule_on_host_and_device(term):
  steps = np.arange(100)
  last = term.last_step or 100

  device = jax.jit(jax.vmap(lambda step: combined.at(term, 100, step)))(steps)

  wanted = []
  for step in steps:
    if step >= last:
      wanted.append(term.weight)
      continue
    before, whole = max(step - term.first_step, 0), last - term.first_step
    if term.schedule == "linear":
      share = before / whole
    elif term.schedule == "exponential":  # Ha and Eck (2018), section 3.2.
      share = 1 - term.decay**before
    else:  # Fu et al. (2019), equations 6 and 7.
      share = min(before % math.ceil(whole / term.cycles) / (whole / term.cycles)
                  / term.rise, 1)
    wanted.append((1 - share) * term.start + share * term.weight)
  np.testing.assert_allclose(device, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose([term.at(step, 100) for step in steps], wanted, atol=1e-9)
  assert term.peak(100) == pytest.approx(max(wanted))
  assert np.ptp(wanted) > 0.85


@pytest.mark.parametrize("objective, sentence", [
    (Objective(ce=Term(weight=0)), "the weights of all terms are 0"),
    (Objective(kl=Term(weight=0, schedule="cyclic")),
     "objective.kl: its weight never rises above 0"),
    (Objective(z_loss=Term(schedule="linear", first_step=100)),
     "objective.z_loss.first_step is 100, and the end of the run is 100"),
    (Objective(z_loss=Term(schedule="linear", first_step=99, last_step=500)),
     "objective.z_loss: its weight never rises above 0"),
    (Objective(kl=Term(schedule="linear", first_step=9, last_step=9)),
     "objective.kl.first_step is 9, and last_step is 9"),
    (Objective(z_loss=Term(start=0.5)), "objective.z_loss.start is read by"),
    (Objective(free_bits=0.5), "objective.free_bits is about kl"),
    (Objective(kl_min=0.5), "objective.kl_min is about kl"),
    (Objective(z_loss=Term(decay=0.5)), "objective.z_loss.decay is read by"),
    (Objective(label_smoothing=0.1, ce=Term(weight=0), z_loss=Term()),
     "objective.label_smoothing is about ce"),
    (Objective(logits=Term(weight=0.5)), "objective.logits is a factor on distill"),
    (Objective(anchor=Term(weight=0.5)), "no group has an anchor"),
])
def test_weights_that_say_nothing_are_refused(objective, sentence):
  with pytest.raises(errors.UserError) as raised:
    combined.check(objective, 100, anchored=False)

  assert sentence in str(raised.value)
  combined.check(Objective(), 100, anchored=False)


def test_a_teacher_without_a_say_is_refused():
  objective = Objective(logits=Term(weight=0))

  with pytest.raises(errors.UserError, match="would have no say"):
    combined.check(objective, 10, False, config.Distill())
  combined.check(objective, 10, False, config.Distill(hidden=1.0))


def test_a_teacher_takes_its_weights_from_both_configs():
  distill = config.Distill(ce=0.25, logits=0.5, attention=0.0)
  objective = Objective(ce=Term(weight=2.0), logits=Term(schedule="linear"))

  weigh = combined.weigher(objective, 10, distill)

  found = weigh(jnp.int32(5))
  assert found.keys() == {"ce", "logits", "anchor"}
  assert (found["ce"], found["anchor"]) == (0.5, 1.0)
  assert float(found["logits"]) == pytest.approx(0.25)


def test_a_model_is_asked_for_what_it_gives():
  specs, _, params = _setup()

  assert combined.given(MODEL, specs, _batch(0)) == {"latent_mean", "latent_log_var"}
  logits, found = objectives.with_outputs(MODEL, params, _batch(0), False, None)
  np.testing.assert_array_equal(
      logits, objectives.logits(MODEL, params, _batch(0), False, None))
  assert found["latent_mean"].shape == (16, LATENT)
  # Values of data that no pipeline has yet.
  batch = types.MappingProxyType(
      {**_batch(0), "values": np.ones((16, 6, 2), np.float32)})
  kind = combined.TERMS["squared_error"]
  assert kind.compute(Objective(), logits, {
      "output_mean": jnp.zeros((16, 6, 2))}, batch).tolist() == [[2.0] * 6] * 16


def _drawings(latent):
  """Returns a model of drawings, its params, and a batch of one with two points."""
  module = registry.build(config.Sketch(
      vocab_size=3, hidden_width=2, encoder_width=2, latent_width=latent, mixtures=2))
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  pens = np.array([[0, 1, 2, 2]], np.int32)
  return module, params, {
      "inputs": np.pad(pens[:, :-1], ((0, 0), (1, 0))), "targets": pens,
      "pen_states": pens, "values": np.ones((1, 4, 2), np.float32),
      "value_weights": np.float32(pens < 2), "weights": np.ones((1, 4), np.float32),
      "draws": np.array([3], np.uint32)}


def test_terms_of_offsets_leave_out_what_is_behind_a_drawing_and_the_pen_does_not():
  module, params, batch = _drawings(latent=0)
  names = ("bivariate", "gaussian", "squared_error", "mixture")

  found, *_ = combined.compute(
      Objective(**{name: Term() for name in names}), module, params, batch, False, None)

  for name in names:
    np.testing.assert_array_equal(
        found[name] != 0, batch["value_weights"] > 0, err_msg=name)
  assert (found["ce"] > 0).all()


def test_a_validation_of_drawings_has_neither_floors_nor_weights():
  module, params, batch = _drawings(latent=2)
  objective = Objective(bivariate=Term(weight=3.0), kl=Term(weight=5.0), kl_min=7.0)

  found, plain, learned = (nll_fn(params, batch, jax.random.key(1)) for nll_fn in (
      combined.validating(module, objective), combined.scoring(module),
      combined.training(module, objective, False)))

  assert found.keys() == plain.keys()
  for name, value in plain.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
  np.testing.assert_allclose(
      found["loss"], found["ce"] + found["bivariate"] + found["kl"], rtol=1e-6)
  assert (learned["kl"] > 2 * found["kl"]).all()  # The floor is above what it is.
