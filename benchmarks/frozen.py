"""Compares the cost of a step in which only a part learns with an analytical count.

A product of N rows with a kernel of P entries costs 2 N P operations in the forward
pass, as many for the gradient of its input, and as many for that of its kernel.
Attention has no kernels and costs 4 N T D forward and twice that backward. The forward
pass is always complete; the backward pass through activations ends at the lowest leaf
that learns; kernels that do not learn get no gradient.

`unfreezing` compares a group that starts late with an optimizer that is created then.
"""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import step as step_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

MODEL = config_lib.Decoder(
    vocab_size=4096, num_layers=12, width=384, num_heads=6, max_length=128, tied=False)
_ROWS, _LENGTH = 8, 128
_SMALL = config_lib.Decoder(
    vocab_size=256, num_layers=4, width=64, num_heads=4, max_length=64)
_CONSTANT = config_lib.Optim(schedule="constant", warmup_steps=0)
_FROZEN = plan_lib.Group(name="rest", params=".*", unfreeze_step=None)
_HEAD = (plan_lib.Group(name="head", params="head/.*"), _FROZEN)
_TOP_HALF = (
    plan_lib.Group(name="top", params="(head|final_norm|layer_([6-9]|1[01]))/.*"),
    _FROZEN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """The cost of a step as a share of the step in which everything learns.

  Attributes:
    flops: Ratio of the FLOPs that XLA counts in the compiled steps.
    paper: Ratio of the analytical counts.
    time: Ratio of the measured times.
    slot_bytes_over_learning: Bytes of the optimizer state, over the bytes of the params
      that learn.
  """
  flops: float
  paper: float
  time: float
  slot_bytes_over_learning: float


def head_only() -> Share:
  """Measures a step in which only the output kernel learns."""
  return _share(_HEAD, learning_layers=0, rounds=9)


def top_half() -> Share:
  """Measures a step in which the output, the last norm and the top six layers learn."""
  return _share(_TOP_HALF, learning_layers=6, rounds=9)


def unfreezing() -> dict[str, float]:
  """Compares a group that unfreezes at step 50 with Optax's AdamW created at that step.

  The peer gets the same params and batches. It differentiates all params, clips their
  gradients, and keeps optimizer state only for the group.

  Returns:
    `update_norm`: the largest ratio of the norms of the group's updates, ours over
    the peer's, at step 50 and in the hundred steps after it; `traces`: how often our
    step was traced, which should be once per set of groups.
  """
  groups = (plan_lib.Group(name="late", params="layer_[01]/.*", unfreeze_step=50),
            plan_lib.Group(name="top", params=".*"))
  module = registry.build(_SMALL)
  specs = registry.specs(module)
  plan = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=groups)
  optimizer = optim.build(_CONSTANT, groups, resolve.resolve(plan, {}, specs), 200)
  nll_fn, traces = objectives.next_token(module, False), []

  def counted(*given):
    traces.append(1)
    return nll_fn(*given)

  step = jax.jit(lambda state, batch: step_lib.train_step(
      state, batch, nll_fn=counted, optimizer=optimizer, key=jax.random.key(0)))
  params = registry.fresh(module, jax.random.key(0))(specs)
  state = step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=optimizer.extend({}, params, 0))
  init, peer_step = _peer(nll_fn)
  peer, ratios = init(_late(params)), []
  for done in range(151):
    batch, before = _text(done), state.params
    state = state.replace(opt_state=optimizer.extend(state.opt_state, before, done))
    state, _ = step(state, batch)
    if done >= 50:
      peer, norm = peer_step(before, batch, peer)
      moved = jax.tree.map(jnp.subtract, _late(state.params), _late(before))
      ratios.append(float(optax.tree.norm(moved) / norm))
  return {"update_norm": max(ratios), "traces": len(traces)}


def _peer(nll_fn):
  """Returns `init`, and a step that returns the next state and the update's norm."""
  # Weight decay acts on kernels and not on norms and biases, as it does by default.
  decays = lambda params: {name: value.ndim > 1 for name, value in params.items()}
  tx = optax.adamw(_CONSTANT.lr, b1=_CONSTANT.b1, b2=_CONSTANT.b2,
                   weight_decay=_CONSTANT.weight_decay, mask=decays)

  @jax.jit
  def step(params, batch, state):
    mean_loss = lambda params: nll_fn(params, batch, jax.random.key(0)).mean()
    grads = jax.grad(mean_loss)(params)
    clipped, _ = optax.clip_by_global_norm(_CONSTANT.clip_norm).update(grads, ())
    updates, state = tx.update(_late(clipped), state, _late(params))
    return state, optax.tree.norm(updates)
  return tx.init, step


def _late(params):
  """Returns the params of the group that starts late."""
  return {name: value for name, value in params.items()
          if name.startswith(("layer_0/", "layer_1/"))}


def _text(seed: int):
  """Returns a batch in which each token depends on the one before it."""
  generator, vocab_size = np.random.default_rng(seed), _SMALL.vocab_size
  tokens = generator.integers(0, vocab_size, (16, 1))
  for _ in range(32):
    step = generator.choice([1, 7, 31], (16, 1), p=[0.7, 0.2, 0.1])
    tokens = np.concatenate([tokens, (tokens[:, -1:] * 5 + step) % vocab_size], 1)
  tokens = tokens.astype(np.int32)
  return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
          "weights": np.ones((16, 32), np.float32)}


def _share(
    groups: Sequence[plan_lib.Group], learning_layers: int, rounds: int) -> Share:
  batch = our_step.random_batch(MODEL.vocab_size, _ROWS, _LENGTH)
  part, full = our_step.cost(MODEL, batch, groups), our_step.cost(MODEL, batch)
  timed = timing.in_turns(
      our_step.make(MODEL, batch, groups), our_step.make(MODEL, batch), rounds)
  return Share(
      flops=part.flops / full.flops,
      paper=_on_paper(learning_layers) / _on_paper(MODEL.num_layers),
      time=timed.ratio,
      slot_bytes_over_learning=part.slot_bytes / (4 * part.learning))


def _on_paper(learning_layers: int) -> float:
  """Returns the analytical operations of a step in which the top layers learn."""
  tokens, width = _ROWS * _LENGTH, MODEL.width
  # The kernels of a layer have 4 D^2 entries in attention and 8 D^2 in the MLP.
  kernels = 2 * tokens * 12 * width ** 2
  attention = 4 * tokens * _LENGTH * width
  head = 2 * tokens * width * MODEL.vocab_size
  forward = MODEL.num_layers * (kernels + attention) + head
  to_activations = learning_layers * (kernels + 2 * attention) + (
      head if learning_layers else 0)
  to_kernels = learning_layers * kernels + head
  return forward + to_activations + to_kernels
