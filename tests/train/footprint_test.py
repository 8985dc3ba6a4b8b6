"""Tests that what a step is said to take of each device is what XLA makes of it."""

import functools

import jax
import numpy as np
import pytest

from benchmarks import collectives
from benchmarks import scale
from transfer_gen import config
from transfer_gen import sharding
from transfer_gen.models import registry
from transfer_gen.train import combined
from transfer_gen.train import footprint
from transfer_gen.train import objectives
from transfer_gen.train import optim
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

MODEL = config.Decoder(
    vocab_size=64, num_layers=1, width=32, num_heads=8, head_dim=8, mlp_width=96,
    max_length=scale.LENGTH)
BODY = "layer_0/.*"


@functools.cache
def _work(learns=".*"):
  module = registry.build(MODEL)
  specs = registry.specs(module)
  groups = (plan_lib.Group(name="all", params=learns),) + (
      () if learns == ".*" else (
          plan_lib.Group(name="frozen", params=".*", unfreeze_step=None),))
  plan = plan_lib.TransferPlan(rules=plan_lib.SCRATCH.rules, groups=groups)
  optimizer = optim.build(
      config.Optim(), groups, resolve.resolve(plan, {}, specs), 100)
  batch = {name: jax.ShapeDtypeStruct((16, scale.LENGTH), kind) for name, kind in (
      ("inputs", np.int32), ("targets", np.int32), ("weights", np.float32))}
  nll_fn = objectives.next_token(module, False)
  return footprint.trace(specs, optimizer, nll_fn, batch, 99)


@pytest.mark.parametrize("sizes, kinds, model", [
    ((8, 1, 1), {"all-reduce"}, MODEL),
    ((1, 8, 1), {"all-gather", "reduce-scatter"}, MODEL),
    ((1, 1, 8), {"all-reduce"}, MODEL),
    ((8, 1, 1), {"all-reduce"}, config.Recurrent(
        vocab_size=64, num_layers=2, embed_width=16, hidden_width=16)),
    ((1, 8, 1), {"all-gather", "reduce-scatter"}, config.Recurrent(
        cell="gru", vocab_size=64, num_layers=1, embed_width=16, hidden_width=16))],
    ids=["data", "fsdp", "tensor", "recurrent_data", "recurrent_fsdp"])
def test_a_compiled_step_sends_what_is_counted_on_paper(sizes, kinds, model):
  found = scale.measure(sizes, model)

  total = sum(found["sent"].values())
  assert total == pytest.approx(sum(found["paper"].values()), rel=0.1)
  # By kind, too. What is left are sums of numbers, such as that of the norm, and of the
  # positions, whose table is longer than what is read of it.
  paper = {kind: sum(size for name, size in found["paper"].items()
                     if name.startswith(kind)) for kind in kinds}
  assert paper == {kind: pytest.approx(found["sent"][kind], rel=0.1) for kind in kinds}
  assert sum(found["sent"][kind] for kind in kinds) > 0.9 * total


@pytest.mark.long
@pytest.mark.parametrize("sizes, accumulate", [
    ((2, 2, 2), 1), ((1, 4, 2), 1), ((8, 1, 1), 2), ((1, 8, 1), 2)], ids=str)
def test_mixed_meshes_and_micro_batches_send_about_what_is_counted(sizes, accumulate):
  found = scale.measure(sizes, MODEL, accumulate)

  assert sum(found["sent"].values()) == pytest.approx(
      sum(found["paper"].values()), rel=0.15)


def test_the_state_of_a_device_is_what_xla_is_given():
  found = scale.measure((1, 8, 1), MODEL)

  here, given = found["state"]
  # The program is also given the batch, the step and the key.
  batch = 3 * 2 * scale.LENGTH * 4
  assert here + batch <= given <= here + batch + 100
  estimate, allocated = found["temporary"]
  assert allocated / 2 < estimate < 3 * allocated


def test_params_gradients_and_state_are_divided_as_the_mesh_says():
  work = _work()
  total = sum(spec.nbytes for spec in work.specs.values())

  one, data, fsdp = (footprint.on_mesh(work, sizes) for sizes in (
      (1, 1, 1), (8, 1, 1), (1, 8, 1)))

  assert one.params == data.params == data.gradients == total
  # Adam has two moments for each param, and two counts: its own and the schedule's.
  assert one.optimizer == 2 * total + 8
  assert fsdp.params == fsdp.gradients == total / 8
  assert fsdp.optimizer == 2 * total / 8 + 8 and fsdp.gathered == total
  assert one.activations == 8 * data.activations == 8 * fsdp.activations
  assert not any(one.sent.values())


def test_frozen_leaves_have_neither_gradients_nor_state_and_are_not_summed():
  every, body = (footprint.on_mesh(_work(learns=which), (8, 1, 1)) for which in (
      ".*", BODY))
  learning = sum(spec.nbytes for name, spec in _work().specs.items()
                 if name.startswith("layer_0/"))

  assert body.gradients == learning < every.gradients
  assert body.optimizer == 2 * learning + 8 and body.params == every.params
  assert body.sent["all-reduce over data"] == round(2 * 7 / 8 * learning)


def test_micro_batches_divide_the_activations_and_nothing_else():
  whole, parts = (footprint.on_mesh(_work(), (2, 1, 1), accumulate=n) for n in (1, 4))

  assert whole.activations == 4 * parts.activations
  assert whole.total - whole.activations == parts.total - parts.activations


def test_what_a_teacher_holds_counts():
  work = _work()
  teacher = {"kernel": next(iter(work.specs.values()))}
  taught = footprint.trace(
      work.specs, optim.NOTHING, lambda params, batch, key: {
          "loss": batch["weights"] * params["final_norm/scale"].sum()},
      dict.fromkeys(("inputs", "weights"), jax.ShapeDtypeStruct((4, 2), np.float32)),
      0, other=teacher)

  found = footprint.on_mesh(taught, (1, 1, 1))

  assert found.params == sum(spec.nbytes for spec in work.specs.values()) + (
      teacher["kernel"].nbytes)
  assert not found.optimizer and not found.gradients


@pytest.mark.parametrize("model, more", [
    (config.Recurrent(vocab_size=20, num_layers=1, embed_width=8, hidden_width=8), ()),
    (config.Recurrent(
        vocab_size=20, encoder_vocab_size=12, encoder=True, num_layers=1, embed_width=8,
        hidden_width=8), ("encoder_inputs", "encoder_counts")),
    (config.EncoderDecoder(vocab_size=20, num_layers=1, width=8, num_heads=2),
     ("encoder_inputs", "encoder_counts")),
    (config.Sketch(vocab_size=3, hidden_width=4, encoder_width=4, latent_width=2),
     ("values", "value_weights", "pen_states", "draws"))],
    ids=["recurrent", "recurrent_pair", "pair", "drawings"])
def test_models_of_every_kind_have_a_footprint(model, more):
  """What waits for the backward pass grows with the rows, and so with nothing else."""
  shapes = {"values": (8, 6, 2), "draws": (8,), "encoder_counts": (8,)}
  kinds = {"draws": np.uint32, "values": np.float32, "value_weights": np.float32,
           "weights": np.float32}
  batch = {
      name: jax.ShapeDtypeStruct(shapes.get(name, (8, 6)), kinds.get(name, np.int32))
      for name in ("inputs", "targets", "weights", *more)}
  module = registry.build(model)
  specs = registry.specs(module)
  optimizer = optim.build(config.Optim(), plan_lib.SCRATCH.groups, resolve.resolve(
      plan_lib.SCRATCH, {}, specs), 10)

  work = footprint.trace(specs, optimizer, combined.scoring(module), batch, 9)

  one, two = (footprint.on_mesh(work, sizes) for sizes in ((1, 1, 1), (2, 1, 1)))
  assert one.activations == 2 * two.activations > 8 * 6 * 4
  assert min(work.uses.values()) >= 1
  assert two.sent["all-reduce over data"] >= one.params


def test_another_mesh_axis_for_an_axis_changes_what_is_sent():
  mesh = (2, 1, 4)
  plain = footprint.on_mesh(_work(), mesh)
  ruled = footprint.on_mesh(_work(), mesh, (("embed", "data"), ("vocab", "none")))

  assert "all-gather over data" in ruled.sent and ruled.params < plain.params * 0.75
  assert "all-gather over data" not in plain.sent


@pytest.mark.parametrize("line, sent", [
    ("%a = f32[8,4]{1,0} all-gather(%p), replica_groups={{0,1},{2,3}}", 64),
    ("%a = bf16[8,4]{1,0} all-gather(%p), replica_groups=[1,4]<=[4]", 48),
    ("%a = f32[8]{0} all-reduce(%p), replica_groups=mesh['x'=2,'y'=2] {'y'}", 32),
    ("%a = (f32[8]{0}, f32[4]{0}) all-reduce(%p, %p), to_apply=%add", 72),
    ("%a = f32[2]{0} reduce-scatter(%p), dimensions={0}", 24),
    ("%a = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1}}", 32),
    ("%a = f32[8]{0} add(%p, %p)", None)])
def test_bytes_are_read_from_the_text_of_a_program(line, sent):
  text = f"HloModule m\n\nENTRY %main (p: f32[8]) -> f32[8] {{\n  {line}\n}}\n"

  assert list(collectives.sent(text, 4).values()) == [] if sent is None else [sent]


PARTED = """HloModule m

%part (q: f32[8], i: s32[]) -> f32[2] {
  %q = f32[8]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %d = f32[2]{0} dynamic-slice(%q, %i), dynamic_slice_sizes={2}
}

%body (s: f32[8]) -> f32[8] {
  %s = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(%s), to_apply=%add
}

ENTRY %main (p: f32[8], n: s32[]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  %n = s32[] parameter(1)
  %a = f32[8]{0} all-reduce(%p), to_apply=%add
  %w = f32[8]{0} while(%p), condition=%c, body=%body, known_trip_count={n=5}
  ROOT %f = f32[2]{0} fusion(%a, %n), kind=kLoop, calls=%part
}
"""


def test_a_sum_that_is_only_sliced_counts_as_a_scatter_and_loops_count_their_rounds():
  assert collectives.sent(PARTED, 4) == {"reduce-scatter": 24, "all-reduce": 5 * 48}
  # Not if something else reads all of it.
  other = PARTED.replace("while(%p)", "while(%a)")
  assert collectives.sent(other, 4) == {"all-reduce": 6 * 48}


def test_a_plan_for_256_devices_makes_no_array():
  before = len(jax.live_arrays())

  found = footprint.on_mesh(_work(), (4, 8, 8))

  assert len(jax.live_arrays()) == before
  assert found.params < footprint.on_mesh(_work(), (32, 8, 1)).params
  assert not sharding.undivided(_work().specs, sharding.abstract_mesh((4, 8, 8)))
