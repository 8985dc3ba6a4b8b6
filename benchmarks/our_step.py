"""The training step of `train` without its data, records and checkpoints."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.adapters import wrap as adapters_lib
from transfer_gen.config import adapters as config_adapters
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import parallel
from transfer_gen.train import step as step_lib
from transfer_gen.train import step_cost
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve


def make(
    model: config_lib.Decoder | config_lib.Recurrent,
    batch: Mapping[str, np.ndarray],
    groups: Sequence[plan_lib.Group] = plan_lib.SCRATCH.groups,
    adapters: Sequence[config_adapters.Adapter] = (),
    nll_fn: step_lib.NllFn | None = None, weigh: step_lib.Weigh | None = None,
) -> Callable[[], float]:
  """Makes a function that takes one step with AdamW, clipping and a logged norm.

  Args:
    model: Config of the model.
    batch: The batch of every step.
    groups: Groups of params that learn. By default, all do.
    adapters: Adapters of the model. By default, there are none.
    nll_fn: The loss; by default, that of the next token.
    weigh: Weights of its terms, if it has several.

  Returns:
    A function that takes one step, and returns the loss when the step is done.
  """
  module, optimizer = _parts(model, groups, adapters)
  specs = registry.specs(module)
  runner = parallel.make_runner(
      config_lib.Parallel(), specs, len(batch["inputs"]), 1, optimizer=optimizer,
      nll_fn=nll_fn or objectives.next_token(module, False), weigh=weigh)
  key = jax.random.key(0)
  # A step donates its state, so the only reference to it must be replaced each time.
  params = registry.fresh(module, jax.random.key(0), runner.shardings)(specs)
  state: list[Any] = [runner.place(_state(params, optimizer))]

  def run() -> float:
    state[0], metrics = runner.step(state[0], runner.put(batch), key)
    return float(metrics["loss"][0])
  return run


def cost(
    model: config_lib.Decoder | config_lib.Recurrent,
    batch: Mapping[str, np.ndarray],
    groups: Sequence[plan_lib.Group] = plan_lib.SCRATCH.groups,
    adapters: Sequence[config_adapters.Adapter] = (),
) -> step_cost.Cost:
  """Returns the cost of the step that `make` makes, with the FLOPs that XLA counts."""
  module, optimizer = _parts(model, groups, adapters)
  specs, nll_fn = registry.specs(module), objectives.next_token(module, False)
  step = functools.partial(
      step_lib.train_step, nll_fn=nll_fn, optimizer=optimizer, key=jax.random.key(0))
  params = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in specs.items()}
  state = jax.eval_shape(lambda params: _state(params, optimizer), params)
  compiled = jax.jit(step).lower(state, batch).compile()
  return dataclasses.replace(
      step_cost.of_step(specs, optimizer, nll_fn, batch),
      flops=compiled.cost_analysis()["flops"])


def _parts(model, groups, adapters):
  module = adapters_lib.wrap(registry.build(model), adapters)
  plan = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=tuple(groups))
  rows = resolve.resolve(plan, {}, registry.specs(module))
  return module, optim.build(config_lib.Optim(), plan.groups, rows, 10_000)


def _state(params, optimizer):
  return step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0))


def random_batch(vocab_size: int, rows: int, length: int) -> dict[str, np.ndarray]:
  """Returns a batch of random tokens in which every target counts."""
  tokens = np.random.default_rng(0).integers(
      0, vocab_size, (rows, length + 1)).astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((rows, length), np.float32)}
