"""Tests for layers that the backward pass computes again."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from tests import random_models
from transfer_gen import config
from transfer_gen import tree
from transfer_gen.adapters import wrap
from transfer_gen.models import registry
from transfer_gen.models import statistics
from transfer_gen.models import taps
from transfer_gen.train import footprint
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

DECODER = config.Decoder(
    vocab_size=24, num_layers=2, width=16, num_heads=4, mlp_width=24, max_length=8,
    windows=(3, 0), dropout=0.2)
LORA = (config.LoRA(params="layer_.*/kernel", rank=2, dropout=0.1),)
CASES = {
    "full": (DECODER, "full", LORA),
    "dots": (DECODER, "dots", ()),
    "dots_with_no_batch_dims": (DECODER, "dots_with_no_batch_dims", ()),
    "pair": (config.EncoderDecoder(
        vocab_size=24, num_layers=1, width=16, num_heads=2, mlp_width=24,
        position="relative"), "full", ()),
    "recurrent": (config.Recurrent(
        vocab_size=24, num_layers=2, embed_width=8, hidden_width=8, cell="gru",
        encoder=True, bidirectional=True, dropout=0.2), "full", ())}


def _batch(rows=8):
  tokens = np.random.default_rng(0).integers(1, 24, (rows, 9)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((rows, 8), np.float32)}


def _pair(batch):
  counts = np.arange(len(batch["inputs"]), dtype=np.int32) % 5 + 1
  return batch | {"encoder_inputs": batch["inputs"][:, :5], "encoder_counts": counts}


def _again(model, policy):
  return dataclasses.replace(model, remat=policy)


@pytest.mark.parametrize("case", [
    case if case in ("full", "recurrent") else pytest.param(
        case, marks=pytest.mark.long) for case in CASES])
def test_gradients_are_those_of_a_model_that_keeps_all(case):
  model, policy, adapters = CASES[case]
  batch = _pair(_batch()) if registry.encodes(model) else _batch()
  random = np.random.default_rng(1)
  params = {name: random.normal(0, 0.3, spec.shape).astype(np.float32)
            for name, spec in wrap.specs(model, adapters).items()}

  def value(config, params):
    nll_fn = objectives.next_token(wrap.build(config, adapters), True)
    return nll_fn(params, batch, jax.random.key(0)).mean()

  got, want = (jax.jit(jax.value_and_grad(functools.partial(value, config)))(params)
               for config in (_again(model, policy), model))

  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
  for name, grad in want[1].items():
    np.testing.assert_allclose(
        got[1][name], grad, atol=1e-6, err_msg=name)
  assert max(abs(grad).max() for grad in want[1].values()) > 0.01
  program = str(jax.make_jaxpr(jax.grad(functools.partial(
      value, _again(model, policy))))(params))
  assert "checkpoint" in program or "remat" in program


def test_hidden_states_projections_and_statistics_are_heard_all_the_same():
  module, params = random_models.build(DECODER)
  again = registry.build(_again(DECODER, "full"))

  def heard(module, params, inputs):
    with taps.listening(hidden=(0, 1), related=(1,)) as seen:
      module.apply({"params": tree.unflatten(params)}, inputs)
    return seen.hidden, seen.related

  def total(module, params):
    hidden, related = heard(module, params, _batch()["inputs"])
    return sum(x.sum() for x in jax.tree.leaves((hidden, related)))

  got, want = (jax.jit(functools.partial(heard, m))(params, _batch()["inputs"])
               for m in (again, module))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
  # Recorded values may be differentiated, as a distillation does.
  assert np.isfinite(jax.eval_shape(jax.grad(functools.partial(total, again)), params)[
      "layer_0/mlp/up/kernel"].size)
  for one, other in zip(
      *(statistics.inputs(m, params, [_batch()], "mlp").values()
        for m in (again, module))):
    np.testing.assert_allclose(one, other, rtol=1e-5)


def _step(model, groups):
  module = registry.build(model)
  specs = registry.specs(module)
  plan = dataclasses.replace(plan_lib.SCRATCH, groups=groups)
  optimizer = optim.build(config.Optim(warmup_steps=0, lr=0.1, name="sgd"), groups,
                          resolve.resolve(plan, {}, specs), 10)
  return specs, optimizer, objectives.next_token(module, False)


FROZEN = (plan_lib.Group(name="low", params="(embed|position|layer_0)/.*",
                         unfreeze_step=None),
          plan_lib.Group(name="rest", params=".*"))


def test_a_step_on_a_mesh_with_frozen_layers_is_that_of_one_device():
  model = dataclasses.replace(DECODER, tied=False, dropout=0.0)
  specs, optimizer, again_fn = _step(_again(model, "full"), FROZEN)
  _, _, plain_fn = _step(model, FROZEN)
  _, params = random_models.build(model)
  state = lambda: step_lib.TrainState(
      step=jnp.int32(0), params=dict(params),
      opt_state=optimizer.extend({}, params, 0))
  runner = parallel.make_runner(
      config.Parallel(data=2, fsdp=2, tensor=2), specs, 8, 1, nll_fn=again_fn,
      optimizer=optimizer)

  after, _ = runner.step(
      runner.place(state()), runner.put(_batch()), jax.random.key(0))

  want, _ = jax.jit(functools.partial(
      step_lib.train_step, nll_fn=plain_fn, optimizer=optimizer,
      key=jax.random.key(0)))(state(), _batch())
  for name, value in want.params.items():
    np.testing.assert_allclose(after.params[name], value, atol=1e-5, err_msg=name)
  assert np.array_equal(after.params["layer_0/mlp/up/kernel"],
                        params["layer_0/mlp/up/kernel"])


def test_less_is_said_to_wait_for_the_backward_pass():
  def waits(policy, layers=4):
    specs, optimizer, nll_fn = _step(
        _again(dataclasses.replace(DECODER, num_layers=layers), policy),
        plan_lib.SCRATCH.groups)
    work = footprint.trace(specs, optimizer, nll_fn, _batch(), 9)
    return footprint.on_mesh(work, (1, 1, 1)).activations

  found = {policy: waits(policy) for policy in (
      "none", "dots", "dots_with_no_batch_dims", "full")}

  assert list(found.values()) == sorted(found.values(), reverse=True)
  assert len({*found.values()}) == 4
  # Of each block its input f32[T, D] waits, and one block is computed at a time: it is
  # counted once, so that each further block costs its input alone.
  block = 8 * 8 * 16 * 4
  assert waits("full", 6) - waits("full", 4) == 2 * block
  each = (waits("none", 6) - waits("none", 4)) / 2
  assert each > 10 * block
  rest = waits("none", 4) - 4 * each  # Of the embedding and of the loss.
  assert waits("full", 4) == pytest.approx(rest + 4 * block + each, rel=0.1)
