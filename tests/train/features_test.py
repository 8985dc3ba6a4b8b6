"""Tests that training from stored hidden states matches training the live model."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.models import beginnings
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import cost
from transfer_gen.train import buckets
from transfer_gen.train import objectives
from transfer_gen.train import stored_features
from transfer_gen.transfer import plan as plan_lib

Group, Rule = plan_lib.Group, plan_lib.Rule
DECODER = config_lib.Decoder(
    num_layers=3, width=8, num_heads=2, max_length=16, position="rotary")
RECURRENT = config_lib.Recurrent(
    num_layers=2, embed_width=6, hidden_width=5, hidden_widths=(5, 7))
TOP = {"decoder": (DECODER, "(layer_2|final_norm)/.*"),
       "recurrent": (RECURRENT, "(layer_1|head)/.*")}


def _plan(learns, start=0):
  return plan_lib.TransferPlan(
      rules=(Rule(target=".*", source=None),),
      groups=(Group(name="top", params=learns, unfreeze_step=start),
              Group(name="rest", params=".*", unfreeze_step=None)))


@pytest.fixture(name="text", scope="module")
def _text(tmp_path_factory):
  path = tmp_path_factory.mktemp("text") / "t.txt"
  path.write_text("".join(
      f"the {i}th line counts {i * 7 % 13}\n" for i in range(90)))
  return str(path)


def _run(text, kind="decoder", **fields):
  model, learns = TOP[kind]
  fields = {"model": model, "transfer": _plan(learns),
            "features": config_lib.Features(check=0.2), **fields}
  return small_runs.configure(
      text, fields.pop("model"), steps=24, length=12, log_every=12, eval_every=12,
      checkpoint_every=12, **fields)


def _losses(workdir):
  return [(line["step"], line["split"], line["loss"])
          for line in small_runs.metrics(workdir)]


# Two programs, of which XLA may order the sums otherwise: float32 is not exact.
@pytest.mark.parametrize("kind, dtype, off", [
    ("decoder", "float32", 1e-6),
    pytest.param("decoder", "bfloat16", 1e-2, marks=pytest.mark.long),
    pytest.param("recurrent", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("recurrent", "bfloat16", 1e-2, marks=pytest.mark.long)])
def test_gradients_from_features_match_the_live_model(kind, dtype, off, text, tmp_path):
  run = _run(text, kind, features=config_lib.Features(dtype=dtype))
  setup, first = assemble.build(run, tmp_path), run.model.num_layers - 1
  specs = setup.specs.items()
  keys = jax.random.split(jax.random.key(0), len(setup.specs))
  params = {name: 0.3 * jax.random.normal(key, spec.shape)
            for key, (name, spec) in zip(keys, specs)}
  data = stored_features.attach(
      setup.run, setup.model, setup.beginning, setup.data, params, tmp_path)
  batches = [next(source.train_batches(8, 0)) for source in (data, setup.data)]
  hidden = batches[0].pop("hidden")
  np.testing.assert_equal(batches[0], batches[1])  # The order of rows is the same.
  learning = {name: params[name] for name, _ in specs
              if name.startswith((f"layer_{first}", "final_norm", "head"))}
  assert hidden.dtype == jnp.dtype(dtype)
  assert setup.beginning == beginnings.Layers(first)

  def loss(learning, batch):
    return (objectives.next_token(setup.model, False, setup.beginning)(
        {**params, **learning}, batch, None) * batch["weights"]).mean()

  live, stored = (jax.jit(jax.grad(loss))(learning, batch) for batch in (
      batches[1], {**batches[1], "hidden": hidden}))
  apart = lambda grads: max(
      float(jnp.abs(grads[name] - live[name]).max() / jnp.abs(live[name]).max())
      for name in live)
  assert apart(stored) <= off
  # With the hidden states of other rows, the gradients clearly differ.
  rolled = {**batches[1], "hidden": np.roll(hidden, 1, 0)}
  assert apart(jax.jit(jax.grad(loss))(learning, rolled)) > max(10 * off, 1e-3)


def test_training_from_stored_features_matches_the_live_run(text, tmp_path):
  run = _run(text, "recurrent")
  loop.train(dataclasses.replace(run, features=None), tmp_path / "live")
  loop.train(run, tmp_path / "stored")
  # Without its last checkpoints, a finished run looks like one that was killed.
  shutil.copytree(tmp_path / "stored", tmp_path / "killed")
  for name in ("24", "best"):
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / name)
  loop.train(run, tmp_path / "killed")

  live, stored, killed = (
      small_runs.params(tmp_path / name, 24) for name in ("live", "stored", "killed"))
  for name, value in live.items():
    np.testing.assert_allclose(stored[name], value, rtol=0, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(killed[name], stored[name], err_msg=name)
  for mine, theirs in zip(_losses(tmp_path / "stored"), _losses(tmp_path / "live")):
    assert mine[:2] == theirs[:2] and abs(mine[2] - theirs[2]) < 1e-6
  assert _losses(tmp_path / "killed") == _losses(tmp_path / "stored")
  _check_whole(tmp_path / "stored", live)


def _check_whole(workdir, params):
  """Checks that a workdir holds a complete model that scores as the run logged."""
  opened = trained_lib.open(workdir)
  assert opened.params.keys() == params.keys()
  assert len(opened.answers(["the 1th"]).texts) == 1
  scores = opened.score(opened.data()[0], "validation").metrics()
  logged = {line[0]: line[2] for line in _losses(workdir) if line[1] == "validation"}
  assert abs(scores["loss"] - logged[opened.step]) < 1e-6


def _setup(text, tmp_path, **fields):
  setup = assemble.build(_run(text, **fields), tmp_path)
  params = {name: jnp.full(spec.shape, 0.1) for name, spec in setup.specs.items()}
  attach = lambda params: stored_features.attach(
      setup.run, setup.model, setup.beginning, setup.data, params, tmp_path)
  return params, attach


def _files(folder):
  return {path: (path.stat().st_mtime_ns, path.read_bytes())
          for path in sorted(folder.rglob("*array_record*"))}


def test_features_are_reused_until_the_frozen_layers_change(text, tmp_path):
  params, attach = _setup(text, tmp_path)
  attach(params)
  first = _files(tmp_path / "features")

  attach(params)
  attach({**params, "layer_2/mlp/up/kernel": params["layer_2/mlp/up/kernel"] + 1})
  # Only the frozen layers determine the features; layer 2 learns.
  assert _files(tmp_path / "features") == first

  attach({**params, "layer_1/mlp/up/kernel": params["layer_1/mlp/up/kernel"] + 1})
  assert len(_files(tmp_path / "features")) == 2 * len(first)


def test_only_a_missing_part_of_the_features_is_recomputed(
    text, tmp_path, monkeypatch):
  # Bytes of 16 rows of 12 tokens with 8 float32 numbers, so that there are many parts.
  monkeypatch.setattr(buckets, "PART", 16 * 12 * 8 * 4)
  params, attach = _setup(text, tmp_path)
  data = attach(params)
  before = _files(tmp_path / "features")
  parts = sorted(tmp_path.glob("features/*/train_0/hidden_states/part_*"))
  assert len(parts) > 3
  shutil.rmtree(parts[1])

  again = attach(params)

  after = _files(tmp_path / "features")
  assert after.keys() == before.keys()
  moved = {path for path in before if before[path] != after[path]}
  assert moved and all(parts[1] in path.parents for path in moved)
  rows = [next(source.evaluation_batches("train", 40))["hidden"]
          for source in (data, again)]
  np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("dtype", [
    "bfloat16", pytest.param("float32", marks=pytest.mark.long)])
def test_damaged_features_are_refused(dtype, text, tmp_path):
  params, attach = _setup(
      text, tmp_path, features=config_lib.Features(dtype=dtype, check=1.0))
  # With constant params, all rows would have equal features.
  noise = lambda value: value + (
      0.1 * jnp.arange(value.size).reshape(value.shape) / value.size)
  params = {name: noise(value) for name, value in params.items()}
  attach(params)
  attach(params)  # Undamaged features pass the check.
  one, other = [next(iter(tmp_path.glob(
      f"features/*/{split}_0/hidden_states/part_00000"))) for split in (
          "train", "validation")]
  shutil.rmtree(other)
  shutil.copytree(one, other)

  with pytest.raises(errors.UserError, match="delete the folder"):
    attach(params)


@pytest.mark.parametrize("fields, message", [
    ({"transfer": _plan("embed/.*")}, "embed/embedding learns from step 0 .*'top'"),
    ({"transfer": _plan("layer_0/.*", 3)}, "layer_0/.* learns from step 3"),
    ({"model": dataclasses.replace(DECODER, dropout=0.1)}, "dropout is 0.1"),
    ({"model": dataclasses.replace(RECURRENT, weight_dropout=0.2),
      "transfer": _plan("head/.*")}, "model.weight_dropout is 0.2"),
    ({"features": config_lib.Features(dtype="float16")}, "features.dtype"),
    ({"features": config_lib.Features(check=2.0)}, "features.check"),
    ({"model": dataclasses.replace(RECURRENT, window=4),
      "transfer": _plan("head/.*")}, "only a chain of layers"),
], ids=range(7))
def test_features_that_cannot_be_stored_are_refused(fields, message, text, tmp_path):
  with pytest.raises(errors.UserError, match=message):
    assemble.build(_run(text, **fields), tmp_path)


def test_features_are_stored_up_to_the_first_layer_that_learns(text, tmp_path):
  for learns, first in (("layer_1/attn/query/bias|final_norm/.*", 1),
                        ("final_norm/.*", 3), ("layer_2/.*", 2)):
    run = _run(text, transfer=_plan(learns))
    assert assemble.build(run, tmp_path).beginning == beginnings.Layers(first)


def test_cost_counts_frozen_layers_once_per_row(text, tmp_path):
  setup = assemble.build(_run(text), tmp_path)
  width, length, vocab = 8, 12, setup.run.model.vocab_size
  layer = 2 * length * 12 * width ** 2 + 4 * length ** 2 * width
  head = 2 * length * width * vocab
  # The output kernel is the frozen embedding: it has a forward pass and a gradient for
  # its input, but none for itself.
  step = 8 * (3 * layer + 2 * head)
  rows = sum(len(read["inputs"]) for read in setup.data.inputs("train"))

  assert cost.of_run(setup, 24) == 24 * step + rows * 2 * layer
