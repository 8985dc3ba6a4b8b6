"""Tests of the model of drawings, against PyTorch and against NumPy in float64."""

import dataclasses

import jax
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import tree
from transfer_gen.models import cells
from transfer_gen.models import outputs
from transfer_gen.models import registry
from transfer_gen.models import sketch
from transfer_gen.models import taps

MODEL = config.Sketch(
    vocab_size=3, hidden_width=6, encoder_width=5, latent_width=4, mixtures=2,
    forget_bias=0.6)
ALONE = dataclasses.replace(MODEL, latent_width=0)
COUNTS = (7, 4, 1)
GIVEN = ("mixture_logits", "mixture_means", "mixture_log_scales", "mixture_slants")


def batch_of_three():
  """Three drawings of 7, 4 and 1 points in rows of 7."""
  generator = np.random.default_rng(0)
  values = generator.normal(size=(3, 7, 2)).astype(np.float32)
  pens = generator.integers(0, 2, (3, 7)).astype(np.int32)
  for row, count in enumerate(COUNTS):
    values[row, count:], pens[row, count:] = 0, sketch.END
  inputs = np.concatenate([np.zeros((3, 1), np.int32), pens[:, :-1]], axis=1)
  return {"inputs": inputs, "values": values, "pen_states": pens,
          "draws": np.array([5, 6, 7], np.uint32)}


def random_params(model, scale=0.3):
  """Params that are all other than what they are initialized with."""
  generator = np.random.default_rng(1)
  return {name: (scale * generator.normal(size=spec.shape)).astype(np.float32)
          for name, spec in registry.specs(registry.build(model)).items()}


def _computed(model, params, batch, key=None):
  pen, state = registry.build(model).apply(
      {"params": tree.unflatten(params)}, **batch, mutable=[outputs.COLLECTION],
      rngs={} if key is None else {"latent": key})
  return {"pen": pen, **outputs.given(state)}


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _lstm(params, prefix, x, state):
  """One step of an LSTM in float64; `x` has an array by the suffix of its kernel."""
  gates = np.einsum("u,ugv->gv", state[0], params[f"{prefix}/recurrent_kernel"])
  for suffix, part in x.items():
    kernel = params[f"{prefix}/input_kernel{suffix}"]
    gates = gates + np.einsum("d,dgv->gv", part, kernel)
  i, f, g, o = gates + params[f"{prefix}/bias"]
  c = _sigmoid(f + MODEL.forget_bias) * state[1] + _sigmoid(i) * np.tanh(g)
  return _sigmoid(o) * np.tanh(c), c


def _rest(params, prefix):
  """The empty state of an LSTM."""
  return (np.zeros(len(params[f"{prefix}/recurrent_kernel"])),) * 2


def by_hand(params, batch):
  """The whole model as loops over rows and points, in float64, without a draw.

  Returns what it gives by name, and the states of encoder (if there is one) and decoder
  at each point.
  """
  params = {name: x.astype(np.float64) for name, x in params.items()}
  found = {name: [] for name in ("pen", "latent_mean", "latent_log_var", *GIVEN)}
  eye, states = np.eye(3), []
  for row, count in enumerate(COUNTS):
    values = batch["values"][row].astype(np.float64)
    pens, latent, state = batch["pen_states"][row], {}, _rest(params, "decoder")
    ends = []
    if "start/kernel" in params:
      for side, order in (("forward", range(count)), ("backward", range(count)[::-1])):
        last = _rest(params, f"encoder/{side}")
        for i in order:
          last = _lstm(params, f"encoder/{side}",
                       {"": eye[pens[i]], "_offset": values[i]}, last)
        ends.append(last[0])
      for part in ("mean", "log_var"):
        found[f"latent_{part}"].append(
            ends[0] @ params[f"encoder/{part}/kernel"]
            + ends[1] @ params[f"encoder/{part}/kernel_backward"]
            + params[f"encoder/{part}/bias"])
      latent = {"_latent": found["latent_mean"][-1]}
      state = np.tanh(np.einsum("z,zsu->su", latent["_latent"], params["start/kernel"])
                      + params["start/bias"])
    rows = {name: [] for name in ("pen", *GIVEN)}
    for i in range(len(pens)):
      before = values[i - 1] if i else np.zeros(2)
      state = _lstm(params, "decoder", {
          "": eye[batch["inputs"][row, i]], "_offset": before, **latent}, state)
      states.append(([*np.concatenate(ends)] if ends else None, state[0]))
      for name, part in rows.items():
        part.append(np.tensordot(state[0], params[f"head/kernel_{name}"], 1)
                    + params[f"head/bias_{name}"])
    for name, part in rows.items():
      found[name].append(part)
  by_layer = [np.array(part).reshape(len(COUNTS), len(pens), -1)
              for part in zip(*states) if part[0] is not None]
  return {name: np.array(parts) for name, parts in found.items() if parts}, by_layer


@pytest.mark.parametrize("model", [MODEL, ALONE], ids=["latent", "decoder alone"])
def test_the_model_is_what_loops_over_points_compute(model):
  params, batch = random_params(model), batch_of_three()

  found = _computed(model, params, batch)

  expected, _ = by_hand(params, batch)
  chances = np.exp(expected["mixture_logits"])[..., None]
  chances /= chances.sum(-2, keepdims=True)
  means, scales = (expected[f"mixture_{name}"] for name in ("means", "log_scales"))
  expected["output_mean"] = (chances * means).sum(-2)
  expected["output_log_var"] = np.log(  # The mean of squares less the squared mean.
      (chances * (np.exp(scales) ** 2 + means ** 2)).sum(-2)
      - expected["output_mean"] ** 2)
  assert found.keys() == expected.keys() and len(found) == (9 if model is MODEL else 7)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", [MODEL, ALONE], ids=["latent", "decoder alone"])
def test_the_states_of_encoder_and_decoder_are_heard(model):
  params, batch = random_params(model), batch_of_three()

  with taps.listening(hidden=range(model.num_layers)) as seen:
    _computed(model, params, batch)

  _, expected = by_hand(params, batch)
  assert len(seen.hidden) == len(expected) == len(model.widths)
  for layer, states in enumerate(expected):
    assert states.shape[-1] == taps.width(model, layer)
    np.testing.assert_allclose(seen.hidden[layer], states, atol=1e-5)


def _torch_lstm(torch, params, prefix, names, **kind):
  """torch.nn.LSTM over concatenated inputs, with the weights of one of our cells."""
  kernels = [params[f"{prefix}/input_kernel{name}"] for name in names]
  width = kernels[0].shape[-1]
  cell = torch.nn.LSTM(sum(len(k) for k in kernels), width, batch_first=True, **kind)
  bias = params[f"{prefix}/bias"].copy()
  bias[1] += MODEL.forget_bias  # PyTorch adds none.
  flat = lambda x: torch.from_numpy(x.reshape(len(x), -1).T.copy())
  cell.load_state_dict({
      "weight_ih_l0": flat(np.concatenate(kernels)),
      "weight_hh_l0": flat(params[f"{prefix}/recurrent_kernel"]),
      "bias_ih_l0": torch.from_numpy(bias.reshape(-1)),
      "bias_hh_l0": torch.zeros(4 * width)})
  return cell


def test_the_model_is_what_modules_of_pytorch_compute():
  torch = pytest.importorskip("torch")
  params, batch = random_params(MODEL), batch_of_three()
  tensor = lambda x: torch.from_numpy(np.array(x))
  eye = np.eye(3, dtype=np.float32)
  points = np.concatenate([eye[batch["pen_states"]], batch["values"]], -1)
  before = np.concatenate([eye[batch["inputs"]], np.pad(
      batch["values"][:, :-1], ((0, 0), (1, 0), (0, 0)))], -1)

  with torch.no_grad():
    ends = []
    for side, step in (("forward", 1), ("backward", -1)):
      cell = _torch_lstm(torch, params, f"encoder/{side}", ("", "_offset"))
      ends.append(torch.cat([
          cell(tensor(points[row:row + 1, :count][:, ::step]))[1][0][0]
          for row, count in enumerate(COUNTS)]))
    linear = lambda name: torch.cat(ends, 1) @ tensor(np.concatenate([
        params[f"encoder/{name}/kernel"], params[f"encoder/{name}/kernel_backward"]])
        ) + tensor(params[f"encoder/{name}/bias"])
    mean = linear("mean")
    start = torch.tanh(torch.einsum("bz,zsu->sbu", mean, tensor(params["start/kernel"]))
                       + tensor(params["start/bias"])[:, None])
    decoder = _torch_lstm(torch, params, "decoder", ("", "_offset", "_latent"))
    h, _ = decoder(
        torch.cat([tensor(before), mean[:, None].expand(-1, 7, -1)], -1),
        (start[:1].contiguous(), start[1:].contiguous()))
    expected = {"latent_mean": mean, "latent_log_var": linear("log_var"), **{
        name: torch.tensordot(h, tensor(params[f"head/kernel_{name}"]), 1)
              + tensor(params[f"head/bias_{name}"]) for name in ("pen", *GIVEN)}}
  found = _computed(MODEL, params, batch)

  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_drawing_point_by_point_is_reading_the_whole(cell):
  model = dataclasses.replace(MODEL, cell=cell)
  params, batch = random_params(model), batch_of_three()
  module, variables = registry.build(model), {"params": tree.unflatten(params)}
  whole = _computed(model, params, batch)
  for prefix in ("decoder", "encoder/forward", "encoder/backward"):
    gates = params[f"{prefix}/recurrent_kernel"].shape[1]
    assert gates == cells.KINDS[cell].gates

  carry = module.apply(variables, whole["latent_mean"], 3, method="begin")
  offset = np.zeros((3, 2), np.float32)
  for i in range(7):
    carry, pen, mixture = module.apply(
        variables, carry, batch["inputs"][:, i], offset, whole["latent_mean"],
        method="extend")
    for name, value in {"pen": pen, **mixture}.items():
      np.testing.assert_allclose(value, whole[name][:, i], atol=1e-5, err_msg=name)
    offset = batch["values"][:, i]


def test_what_is_drawn_for_a_latent_depends_on_its_drawing_alone():
  params, batch, key = random_params(MODEL), batch_of_three(), jax.random.key(3)
  module, variables = registry.build(MODEL), {"params": tree.unflatten(params)}
  read = [batch[name] for name in ("values", "pen_states", "draws")]
  latent = lambda *rows: np.asarray(module.apply(
      variables, *rows, method="latent", rngs={"latent": key}))
  found = module.apply(variables, *read[:2], method="encoded")
  mean, log_var = found["mean"], found["log_var"]

  together, turned = latent(*read), latent(*(x[::-1] for x in read))
  alone = latent(*(x[1:2] for x in read))
  wider = {**params, "encoder/log_var/bias": params["encoder/log_var/bias"] + np.log(4)}
  variables = {"params": tree.unflatten(wider)}

  np.testing.assert_allclose(turned[::-1], together, atol=1e-6)
  np.testing.assert_allclose(alone[0], together[1], atol=1e-6)
  noise = (together - mean) / np.exp(log_var / 2)
  assert len(np.unique(np.round(noise, 4))) == noise.size  # Not the same for two.
  np.testing.assert_allclose(latent(*read) - mean, 2 * (together - mean), atol=1e-4)


def test_padding_behind_a_drawing_changes_nothing_before_it():
  params, batch = random_params(MODEL), batch_of_three()
  longer = {name: np.pad(x, ((0, 0), (0, 4), (0, 0))[:x.ndim], constant_values=(
      sketch.END if name != "values" else 0)) if x.ndim > 1 else x
            for name, x in batch.items()}

  found, wide = (_computed(MODEL, params, one) for one in (batch, longer))

  for name in found:
    cut = wide[name] if name.startswith("latent") else wide[name][:, :7]
    np.testing.assert_allclose(cut, found[name], atol=1e-6, err_msg=name)


def test_a_plain_autoencoder_has_no_width_of_its_latent_and_draws_nothing():
  plain = dataclasses.replace(MODEL, variational=False)
  found = _computed(plain, random_params(plain), batch_of_three(), jax.random.key(0))
  again = _computed(plain, random_params(plain), batch_of_three(), jax.random.key(1))

  assert not {"latent_mean", "latent_log_var"} & found.keys()
  assert not any("log_var" in name for name in random_params(plain))
  np.testing.assert_array_equal(found["pen"], again["pen"])


def test_dropout_in_training_acts_between_the_decoder_and_the_output_alone():
  # As many states of the pen as units, and a kernel that shows the units as they are.
  model = dataclasses.replace(ALONE, vocab_size=6, dropout=0.5)
  params = random_params(model) | {"head/kernel_pen": np.eye(6, dtype=np.float32),
                             "head/bias_pen": np.zeros(6, np.float32)}
  module, variables = registry.build(model), {"params": tree.unflatten(params)}

  whole = np.asarray(module.apply(variables, **batch_of_three()))
  dropped = np.asarray(module.apply(
      variables, **batch_of_three(), train=True, rngs={"dropout": jax.random.key(0)}))

  left = dropped != 0
  assert 0.3 < left.mean() < 0.7
  np.testing.assert_allclose(dropped[left], 2 * whole[left], atol=1e-6)
