"""What a step costs when a part learns, beside the count on paper; late starts.

On paper, a product of N rows with a kernel of P entries costs 2 N P forward, as much
backward to its input and as much again to its kernel; attention has no kernels and
costs 4 N T D forward and twice that backward. All goes forward once; the way back
through activations ends at the lowest leaf that learns; kernels that do not learn get
no gradient.
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
  """What a step costs, over the step in which all learns.

  Attributes:
    flops: As XLA counts them in the compiled step.
    paper: As counted on paper.
    time: As timed in turns.
    slot_bytes_over_learning: Bytes of the optimiser over those of what learns.
  """
  flops: float
  paper: float
  time: float
  slot_bytes_over_learning: float


def head_only() -> Share:
  """The output kernel alone learns."""
  return _share(_HEAD, learning_layers=0, rounds=9)


def top_half() -> Share:
  """The output kernel, the last norm and the upper six layers learn."""
  return _share(_TOP_HALF, learning_layers=6, rounds=9)


def unfreezing() -> dict[str, float]:
  """A group that starts at step 50, beside Optax's AdamW that is started there.

  The peer sees the same params and batches; it differentiates all of them, clips,
  and keeps a state for the group alone.

  Returns:
    `update_norm`: the largest ratio of the norms of the group's updates, ours over
    the peer's, at the change and in the hundred steps after; `traces`: how often our
    step was traced, once a set of groups.
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
  """Init of a state, and (params, batch, state) to the next and the update's norm."""
  decays = lambda params: {name: x.ndim > 1 for name, x in params.items()}
  tx = optax.adamw(_CONSTANT.lr, b1=_CONSTANT.b1, b2=_CONSTANT.b2,
                   weight_decay=_CONSTANT.weight_decay, mask=decays)

  @jax.jit
  def step(params, batch, state):
    grads = jax.grad(lambda p: nll_fn(p, batch, jax.random.key(0)).mean())(params)
    clipped, _ = optax.clip_by_global_norm(_CONSTANT.clip_norm).update(grads, ())
    updates, state = tx.update(_late(clipped), state, _late(params))
    return state, optax.tree.norm(updates)
  return tx.init, step


def _late(params):
  """Of the group that starts late."""
  return {name: x for name, x in params.items()
          if name.startswith(("layer_0/", "layer_1/"))}


def _text(seed: int):
  """Tokens that follow from the one before, so that there is something to learn."""
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
  """Multiplications and additions of a step in which the top learns."""
  tokens, width = _ROWS * _LENGTH, MODEL.width
  kernels = 2 * tokens * 12 * width ** 2  # Of a layer: 4 D^2 of attention, 8 of MLP.
  attention = 4 * tokens * _LENGTH * width
  head = 2 * tokens * width * MODEL.vocab_size
  forward = MODEL.num_layers * (kernels + attention) + head
  to_activations = learning_layers * (kernels + 2 * attention) + (
      head if learning_layers else 0)
  to_kernels = learning_layers * kernels + head
  return forward + to_activations + to_kernels
