"""Tests that a decoder learns from a stored encoder as it does from a live one."""

import dataclasses
import functools
import re
import shutil

import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import names
from transfer_gen.models import beginnings
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import loop
from transfer_gen.study import cost
from transfer_gen.train import combined
from transfer_gen.train import objectives
from transfer_gen.train import step as step_lib
from transfer_gen.train import stored_features
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

Group, Rule = plan_lib.Group, plan_lib.Rule
LENGTH = 20
# A bridge leads from the encoder, and belongs to the decoder.
BRIDGED = config_lib.EncoderDecoder(
    num_layers=1, width=8, num_heads=2, position="rotary", encoder_vocab_size=40,
    encoder=config_lib.Encoder(num_layers=2, width=12, num_heads=2, max_length=LENGTH))
ONE_TABLE = config_lib.EncoderDecoder(
    num_layers=1, width=8, num_heads=2, max_length=LENGTH, encoder_layers=2, tied=False)
SHARED = dataclasses.replace(ONE_TABLE, encoder_layers=0, shared=True)
ATTENDING = config_lib.Recurrent(
    num_layers=2, embed_width=6, hidden_width=8, encoder=True, bidirectional=True,
    encoder_width=5, bridge="tanh", encoder_attention="additive",
    attention_output="state", encoder_length=LENGTH + 2)
STATES = config_lib.Recurrent(
    cell="gru", num_layers=2, embed_width=6, hidden_width=8, encoder=True)
# What is drawn around the stored states is drawn anew in each step.
LATENT = dataclasses.replace(STATES, latent_width=3)
POOLED = dataclasses.replace(ONE_TABLE, latent_width=3, latent_prefix=2)
FROZEN = r"encoder/.*"
# Models, and what is frozen of each.
KINDS = {
    "bridged": (BRIDGED, FROZEN), "one_table": (ONE_TABLE, f"{FROZEN}|embed/.*"),
    "shared": (SHARED, r"decoder/.*(?<!cross)_norm/.*|decoder/position/.*"
               r"|decoder/layer_\d+/(attn|mlp)/.*|embed/.*"),
    "attending": (ATTENDING, FROZEN), "states": (STATES, FROZEN),
    "latent": (LATENT, FROZEN), "pooled": (POOLED, f"{FROZEN}|embed/.*")}
KL = config_lib.Objective(kl=config_lib.Term())


@pytest.fixture(name="text", scope="module")
def _text(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pairs")
  for side in ("in", "out"):
    (folder / side).write_text("".join(
        f"{'' if side == 'in' else 'the '}{i * 7 % 13}{'ab' * (i % 4)} {i}\n"
        for i in range(60)))
  return f"{folder / 'in'}|{folder / 'out'}"


def _run(text, kind="bridged", **fields):
  model, frozen = KINDS[kind]
  if model.draws:
    fields = {"objective": KL, **fields}
  groups = (Group(name="body", params=frozen, unfreeze_step=None),
            Group(name="rest", params=".*"))
  return small_runs.configure(text, **{
      "model": model, "steps": 4, "length": LENGTH, "lr": 0.01,
      "features": config_lib.Features(check=0.5),
      "transfer": plan_lib.TransferPlan(
          rules=(Rule(target=".*", source=None),), groups=groups), **fields})


def _params(setup):
  keys = jax.random.split(jax.random.key(0), len(setup.specs))
  return {name: 0.3 * jax.random.normal(key, spec.shape)
          for key, (name, spec) in zip(keys, setup.specs.items())}


def _attach(setup, params, folder):
  return stored_features.attach(
      setup.run, setup.model, setup.beginning, setup.data, params, folder)


def _learning(setup, params):
  return {row.name: params[row.name] for row in setup.rows
          if row.unfreeze_step is not None}


def _gradient(setup, params):
  nll_fn = combined.scoring(setup.model, setup.beginning)

  def loss(learning, batch):
    found = nll_fn({**params, **learning}, batch, jax.random.key(1))
    found = found["loss"] if isinstance(found, dict) else found
    return (found * batch["weights"]).mean()
  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("kind, dtype, off", [
    pytest.param("attending", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("bridged", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("one_table", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("shared", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("states", "float32", 1e-6, marks=pytest.mark.long),
    ("latent", "float32", 1e-6),
    pytest.param("pooled", "float32", 1e-6, marks=pytest.mark.long),
    pytest.param("states", "bfloat16", 1e-3, marks=pytest.mark.long),
    pytest.param("bridged", "bfloat16", 1e-3, marks=pytest.mark.long)])
def test_gradients_from_a_stored_encoder_match_the_live_model(
    kind, dtype, off, text, tmp_path):
  setup = assemble.build(
      _run(text, kind, features=config_lib.Features(dtype=dtype)), tmp_path)
  params = _params(setup)
  data = _attach(setup, params, tmp_path)
  stored, live = (next(source.train_batches(8, 0)) for source in (data, setup.data))
  hidden = beginnings.stored(stored)
  assert {value.dtype for value in hidden.values()} == {jnp.dtype(dtype)}
  np.testing.assert_equal({**stored, **live}, stored)  # The order of rows is the same.

  step, learning = _gradient(setup, params), _learning(setup, params)
  (loss, wanted), (same, found) = step(learning, live), step(learning, stored)

  assert abs(same - loss) <= off * loss
  # Of all leaves together: a key's bias has no gradient but what rounding leaves.
  norm = lambda grads: float(jnp.sqrt(sum(
      jnp.square(grads[name]).sum() for name in wanted)))
  apart = lambda grads: norm(
      {name: grads[name] - wanted[name] for name in wanted}) / norm(wanted)
  assert apart(found) <= off
  # With the memory of other rows, the gradients clearly differ.
  rolled = {name: np.roll(value, 1, 0) for name, value in hidden.items()}
  assert apart(step(learning, {**stored, **rolled})[1]) > max(4 * off, 1e-3)


def test_a_run_from_a_stored_encoder_logs_the_losses_of_the_live_run(text, tmp_path):
  run = _run(text, eval_every=2)
  for name, features in (("stored", run.features), ("live", None)):
    loop.train(dataclasses.replace(run, features=features), tmp_path / name)

  stored, live = ([(line["step"], line["split"], line["loss"]) for line in
                   small_runs.metrics(tmp_path / name)] for name in ("stored", "live"))
  assert len(stored) == len(live) > 5
  for mine, theirs in zip(stored, live):
    assert mine[:2] == theirs[:2] and mine[2] == pytest.approx(theirs[2], rel=1e-6)
  assert live[0][2] > live[-1][2] + 0.01  # It learns.
  ours, theirs = (small_runs.params(tmp_path / name) for name in ("stored", "live"))
  for name, value in theirs.items():
    np.testing.assert_allclose(ours[name], value, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_leaves_of_an_encoder_are_those_on_which_its_output_depends(kind):
  model = dataclasses.replace(KINDS[kind][0], vocab_size=40)
  module = registry.build(model)
  specs = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
           for name, spec in registry.specs(module).items()}
  beginning = beginnings.Encoder(names.encoder_leaves(model))
  batch = {"encoder_inputs": jax.ShapeDtypeStruct((2, 5), jnp.int32),
           "encoder_counts": jax.ShapeDtypeStruct((2,), jnp.int32)}

  traced = jax.make_jaxpr(
      functools.partial(beginning.outputs, module))(specs, batch).jaxpr
  _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))

  assert len(used) == len(specs) + 2
  depends = {name for name, needed in zip(sorted(specs), used) if needed}
  assert depends == {name for name in specs if beginning.holds(name)}


def test_a_step_from_a_stored_encoder_takes_the_flops_of_the_decoder_alone(
    text, tmp_path):
  setup = assemble.build(_run(text), tmp_path)
  params, module, key = _params(setup), setup.model, jax.random.key(0)
  live = next(setup.data.train_batches(8, 0))
  stored = {**live, **jax.eval_shape(
      functools.partial(setup.beginning.outputs, module), params, live)}
  state = step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      opt_state=setup.optimizer.extend({}, params, 0))

  def answer(module, x, inputs, counts):
    valid = jnp.arange(x.shape[1])[None] < counts[:, None]
    memory = module.decoder.read(module.bridge(x), valid)
    return module.output(
        module.embed, module.decoder(inputs, module.embed, False, memory=memory))

  def alone(params, batch, key):
    del key
    own = {name: value for name, value in params.items() if "encoder/" not in name}
    logits = module.apply(
        {"params": tree.unflatten(own)}, batch["hidden_top"], batch["inputs"],
        batch["encoder_counts"], method=answer)
    return objectives.cross_entropy(logits, batch["targets"])

  def flops(nll_fn, batch):
    step = functools.partial(
        step_lib.train_step, nll_fn=nll_fn, optimizer=setup.optimizer)
    lowered = jax.jit(lambda state, batch, key: step(state, batch, key=key)).lower(
        state, batch, key)
    return lowered.compile().cost_analysis()["flops"]

  nll_fn, wanted = combined.scoring(module, setup.beginning), flops(alone, stored)
  assert flops(nll_fn, stored) == wanted
  assert flops(nll_fn, live) > 1.2 * wanted


def test_cost_counts_a_frozen_encoder_once_per_row(text, tmp_path):
  setup = assemble.build(_run(text, "one_table"), tmp_path)
  live = assemble.build(
      _run(text, "one_table", features=None), tmp_path)
  rows = sum(len(read["inputs"]) for read in setup.data.inputs("train"))
  width, layers = 8, 2
  encoder = layers * (2 * LENGTH * 12 * width ** 2 + 4 * LENGTH ** 2 * width)

  saved = cost.of_run(live, 24) - cost.of_run(setup, 24)

  assert saved == (24 * 8 - rows) * encoder > 0


def _files(folder):
  return {path: path.stat().st_mtime_ns
          for path in sorted(folder.rglob("*array_record*"))}


def test_a_stored_encoder_is_used_again_until_it_changes_and_checked(text, tmp_path):
  setup = assemble.build(_run(text, "attending", features=config_lib.Features(
      check=1.0)), tmp_path)
  params = _params(setup)
  changed = lambda name: {**params, name: params[name] + 1}
  _attach(setup, params, tmp_path)
  first = _files(tmp_path / "features")

  _attach(setup, changed("layer_0/bridge_h/kernel"), tmp_path)
  _attach(setup, changed("embed/embedding"), tmp_path)
  assert _files(tmp_path / "features") == first
  _attach(setup, changed("encoder/embed/embedding"), tmp_path)
  assert len(_files(tmp_path / "features")) == 2 * len(first)

  one, other = (next(path for path in first if part in str(path)).parent
                for part in ("train_0", "validation_0"))
  shutil.rmtree(other)
  shutil.copytree(one, other)
  with pytest.raises(errors.UserError, match="delete the folder"):
    _attach(setup, params, tmp_path)


def _learn(learns, start=0):
  return plan_lib.TransferPlan(
      rules=(Rule(target=".*", source=None),),
      groups=(Group(name="some", params=learns, unfreeze_step=start),
              Group(name="rest", params=".*", unfreeze_step=None)))


@pytest.mark.parametrize("kind, fields, message", [
    ("bridged", {"transfer": _learn("encoder/layer_1/mlp/up/bias", 3)},
     "encoder is not frozen: encoder/layer_1/mlp/up/bias learns from step 3 .*'some'"),
    ("bridged", {"transfer": _learn("encoder/embed/.*")}, "encoder/embed/embedding"),
    ("states", {"transfer": _learn("(encoder/layer_1|head)/.*")},
     "encoder/layer_1/cell/bias learns"),
    ("one_table", {"transfer": _learn("(embed|decoder)/.*")},
     "embed/embedding learns .*model.encoder_vocab_size=.*target='encoder/embed"),
    ("one_table", {"model": dataclasses.replace(ONE_TABLE, tied=True),
                   "transfer": _learn("embed/.*")}, "model.tied=False"),
    ("shared", {"transfer": _learn("decoder/.*")},
     "decoder/final_norm/bias learns .*model.shared=False"),
    ("one_table", {"model": dataclasses.replace(ONE_TABLE, dropout=0.1)},
     "dropout is 0.1"),
    ("bridged", {"adapters": (config_lib.LoRA(
        params=".*kernel", dropout=0.2),)},
     "encoder/layer_0/attn/key/lora_a is frozen, .* is 0.2"),
], ids=range(8))
def test_an_encoder_that_cannot_be_stored_is_refused(
    kind, fields, message, text, tmp_path):
  with pytest.raises(errors.UserError, match=message):
    assemble.build(_run(text, kind, **fields), tmp_path)


@pytest.mark.parametrize("corrupt, message", [
    ({"noise": ("deletion",)}, r"corrupt.noise is \('deletion',\)"),
    ({"word_dropout": 0.1, "noise": ("copy",)}, "corrupt.word_dropout")])
def test_an_input_that_changes_in_each_epoch_is_refused(
    corrupt, message, text, tmp_path):
  run = _run(text.split("|")[0], tokenizer=config_lib.Tokenizer(
      kind="characters", sentinels=1))
  run.data.corrupt = config_lib.Corrupt(**corrupt)

  with pytest.raises(errors.UserError, match=message):
    assemble.build(run, tmp_path)


def test_an_encoder_with_a_table_of_its_own_can_be_stored_as_the_message_says(
    text, tmp_path):
  learns = _learn("(embed|decoder|head)/.*")
  with pytest.raises(errors.UserError) as refused:
    assemble.build(_run(text, "one_table", transfer=learns), tmp_path)
  size = int(str(refused.value).split("encoder_vocab_size=")[1].split(",")[0])

  setup = assemble.build(_run(
      text, "one_table", transfer=learns,
      model=dataclasses.replace(ONE_TABLE, encoder_vocab_size=size)), tmp_path)
  old = registry.build(dataclasses.replace(ONE_TABLE, vocab_size=size))
  rule = dict(part.split("=") for part in re.findall(
      "target='.*?'|source='.*?'", str(refused.value)))
  rows = resolve.resolve(dataclasses.replace(learns, rules=(
      Rule(**{name: value.strip("'") for name, value in rule.items()}),
      Rule(target="(.*)", source=r"\1"))), {"": registry.specs(old)}, setup.specs)

  assert str(setup.beginning) == "the encoder"
  assert setup.specs["encoder/embed/embedding"].shape == (size, 8)
  assert {row.name for row in rows} == setup.specs.keys()
