"""Tests for the cost of a training step: FLOPs, learning params and state."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config as config_lib
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.study import candidates
from transfer_gen.study import cost
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.train import step_cost
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

DECODER = config_lib.Decoder(
    vocab_size=512, num_layers=2, width=128, num_heads=4, max_length=64, tied=False)
LSTM = config_lib.Recurrent(
    vocab_size=100, embed_width=32, hidden_width=64, num_layers=2)
ALL = plan_lib.SCRATCH.groups
HEAD = (plan_lib.Group(name="head", params="head/.*"),
        plan_lib.Group(name="rest", params=".*", unfreeze_step=None))


def _of(model, groups, rows, length, step=0):
  module = registry.build(model)
  specs = registry.specs(module)
  plan = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=groups)
  optimizer = optim.build(
      config_lib.Optim(), groups, resolve.resolve(plan, {}, specs), 100)
  tokens = np.zeros((rows, length), np.int32)
  batch = {"inputs": tokens, "targets": tokens,
           "weights": np.ones((rows, length), np.float32)}
  return step_cost.of_step(
      specs, optimizer, objectives.next_token(module, False), batch, step)


@pytest.mark.parametrize("groups, backward", [(ALL, 2), (HEAD, 0)], ids=["all", "head"])
def test_the_flops_of_a_decoder_match_the_formula(groups, backward):
  # A product of N rows with a kernel of P entries takes 2 N P operations. A layer has
  # 12 D^2 entries (4 of attention, 8 of the MLP) and 4 N T D operations for attention.
  tokens, width, vocab = 4 * 32, 128, 512
  kernels, attention = 2 * tokens * 12 * width ** 2, 4 * tokens * 32 * width
  head = 2 * tokens * width * vocab
  paper = (1 + backward) * 2 * (kernels + attention) + (3 if backward else 2) * head

  assert _of(DECODER, groups, 4, 32).flops == paper


def test_flops_of_scanned_time_steps_are_all_counted():
  # XLA's own count would take the body of a loop only once.
  kernels = 32 * 256 + 64 * 256 + 2 * 64 * 256
  forward = lambda tokens: 2 * tokens * (kernels + 64 * 100)

  assert _of(LSTM, ALL, 8, 20).flops == 3 * forward(160)
  assert _of(LSTM, HEAD, 8, 20).flops == forward(160) + 2 * 160 * 64 * 100


def test_a_late_group_is_counted_from_its_unfreeze_step():
  groups = (plan_lib.Group(name="late", params="layer_0/.*", unfreeze_step=10), *HEAD)
  before, after = (_of(LSTM, groups, 8, 20, step) for step in (9, 10))

  assert before == _of(LSTM, HEAD, 8, 20)
  assert after.flops > before.flops
  layer = 32 * 256 + 64 * 256 + 256
  assert after.learning - before.learning == layer
  # Two float32 moments per param, and the int32 counters of Adam and of the schedule.
  assert after.slot_bytes - before.slot_bytes == 2 * 4 * layer + 8


def test_only_table_rows_that_learn_are_counted():
  groups = (plan_lib.Group(name="rows", params="embed/.*", table_rows=(3, 4)),
            plan_lib.Group(name="rest", params=".*", unfreeze_step=None))

  assert _of(LSTM, groups, 2, 4).learning == 2 * 32


def test_a_group_that_starts_at_the_last_step_counts_in_it(tmp_path):
  small_runs.write_lines(tmp_path / "text.txt")
  late = (plan_lib.Group(name="late", params="layer_0/.*", unfreeze_step=9), *HEAD)
  plan = lambda groups: plan_lib.TransferPlan(
      rules=plan_lib.SCRATCH.rules, groups=groups)
  build = lambda groups, steps: assemble.build(small_runs.configure(
      tmp_path / "text.txt", dataclasses.replace(small_runs.DECODER, tied=False),
      steps=steps, transfer=plan(groups)), tmp_path / "run")
  setup = build(late, 10)
  batch = next(setup.data.train_batches(8, 0))

  learns = cost.of_last_step(setup, batch, 10).learning

  assert learns == sum(spec.size for name, spec in setup.specs.items()
                       if name.startswith(("layer_0/", "head/")))
  assert cost.of_last_step(setup, batch, 9).learning < learns


def test_the_steepest_half_of_the_layers_is_tried_alone_and_at_least_one():
  learned = lambda gradients: candidates.candidates(gradients)["part"][0].learn

  assert learned({"head": 1.0}) == ("head",)
  assert learned({"head": 1.0, "layer_1": 3.0, "layer_0": 2.0}) == ("layer_1",)
  assert learned({"head": 1.0, "layer_1": 3.0, "layer_0": 2.0, "embed": 0.5}) == (
      "layer_1", "layer_0")


def test_dead_code_is_not_counted():
  square = jax.ShapeDtypeStruct((8, 8), "float32")

  assert step_cost.flops(lambda x: ((x @ x).sum(), x)[1], square) == 0
  assert step_cost.flops(lambda x: x @ x, square) == 2 * 8 ** 3
  assert step_cost.flops(lambda x: jax.lax.cond(
      x.sum() > 0, lambda: x, lambda: x @ x), square) == 2 * 8 ** 3


def test_the_cost_of_several_numbers_of_steps_is_that_of_each(tmp_path):
  small_runs.write_lines(tmp_path / "text.txt")
  late = (plan_lib.Group(name="late", params="layer_0/.*", unfreeze_step=4), *HEAD)
  setup = assemble.build(small_runs.configure(
      tmp_path / "text.txt", dataclasses.replace(small_runs.DECODER, tied=False),
      steps=10, transfer=plan_lib.TransferPlan(
          rules=plan_lib.SCRATCH.rules, groups=late)), tmp_path / "run")

  at = cost.of_steps(setup, [2, 4, 7, 10])

  assert at == pytest.approx([cost.of_run(setup, steps) for steps in (2, 4, 7, 10)])
  # Steps cost alike until the group starts, and more from then on.
  assert at[1] == pytest.approx(2 * at[0])
  assert at[3] - at[2] == pytest.approx(at[2] - at[1]) and at[2] - at[1] > 2 * at[0]
