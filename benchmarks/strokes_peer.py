"""Compares a training step of the model of drawings with PyTorch's.

Both sides have sketch-rnn's form with the same shapes and number of threads: an LSTM
each way over drawings of different lengths, a latent that is drawn, an LSTM that reads
it beside each point, and the negative log-likelihood of mixtures, pens and the latent's
KL. PyTorch's side is what an engineer would write who has measured it: its encoder
reads whole rows, those of the second direction turned around within their lengths,
which makes a step twice as fast on a CPU as packed rows do; AdamW is fused, and the
latent's noise is ready-made. Gradients are clipped by their global norm. Before timing,
both sides are checked to give the same loss with the same weights where nothing is
drawn.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.models import registry
from transfer_gen.train import combined

# torch.nn.LSTM adds no constant to the forget gate, so ours must not either.
STROKES = config_lib.Sketch(
    vocab_size=3, hidden_width=256, encoder_width=128, latent_width=64, mixtures=20,
    forget_bias=0.0)
OBJECTIVE = config_lib.Objective(bivariate=config_lib.Term(), kl=config_lib.Term())
ROWS, LENGTH = 32, 128
THREADS = 2
_END = 2


def strokes_over_torch() -> timing.Comparison:
  """Compares the time of a training step."""
  torch.set_num_threads(THREADS)
  batch, module = _batch(), registry.build(STROKES)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  peer = _Peer(params)
  _check_same(module, params, peer, batch)
  nll_fn = combined.training(module, OBJECTIVE, True)
  return timing.in_turns(
      our_step.make(STROKES, batch, nll_fn=nll_fn,
                    weigh=combined.weigher(OBJECTIVE, 10_000)),
      _peer_step(peer, batch), rounds=21)


def _batch() -> dict[str, np.ndarray]:
  """Random drawings of half to all of the length of a row."""
  generator = np.random.default_rng(0)
  counts = generator.integers(LENGTH // 2, LENGTH + 1, ROWS)
  inside = np.arange(LENGTH) < counts[:, None]
  values = generator.normal(size=(ROWS, LENGTH, 2)).astype(np.float32)
  pens = np.where(inside, generator.random((ROWS, LENGTH)) < 0.1, _END).astype(np.int32)
  return {
      "inputs": np.pad(pens[:, :-1], ((0, 0), (1, 0))), "targets": pens,
      "pen_states": pens, "values": values * inside[..., None],
      "value_weights": inside.astype(np.float32),
      "weights": np.ones((ROWS, LENGTH), np.float32),
      "draws": np.arange(ROWS, dtype=np.uint32)}


class _Peer(nn.Module):
  """The same model with our weights, in PyTorch."""

  def __init__(self, params):
    super().__init__()
    config = STROKES
    read, parts = 5, ("", "_offset")
    self.ahead, self.back = (
        nn.LSTM(read, config.encoder_width, batch_first=True) for _ in range(2))
    self.latent = nn.Linear(2 * config.encoder_width, 2 * config.latent_width)
    self.start = nn.Linear(config.latent_width, 2 * config.hidden_width)
    self.decoder = nn.LSTM(
        read + config.latent_width, config.hidden_width, batch_first=True)
    self.head = nn.Linear(config.hidden_width, 3 + 6 * config.mixtures)
    params = {name: np.asarray(value) for name, value in params.items()}
    flat = lambda names: np.concatenate([
        params[name].reshape(len(params[name]), -1) for name in names], 1)
    heads = ("pen", "mixture_logits", "mixture_means", "mixture_log_scales",
             "mixture_slants")
    linear: dict[str, Any] = {
        "start.weight": flat(["start/kernel"]).T,
        "start.bias": params["start/bias"].reshape(-1),
        "head.weight": flat([f"head/kernel_{name}" for name in heads]).T,
        "head.bias": np.concatenate([
            params[f"head/bias_{name}"].reshape(-1) for name in heads]),
        "latent.weight": np.concatenate([np.concatenate([
            params[f"encoder/{name}/{kernel}"] for kernel in (
                "kernel", "kernel_backward")]) for name in ("mean", "log_var")], 1).T,
        "latent.bias": np.concatenate([
            params[f"encoder/{name}/bias"] for name in ("mean", "log_var")])}
    for prefix, ours, names in (
        ("ahead.{}_l0", "encoder/forward", parts),
        ("back.{}_l0", "encoder/backward", parts),
        ("decoder.{}_l0", "decoder", (*parts, "_latent"))):
      kernel = np.concatenate([params[f"{ours}/input_kernel{name}"] for name in names])
      linear |= {
          prefix.format("weight_ih"): kernel.reshape(len(kernel), -1).T,
          prefix.format("weight_hh"): flat([f"{ours}/recurrent_kernel"]).T,
          prefix.format("bias_ih"): params[f"{ours}/bias"].reshape(-1),
          # torch.nn.LSTM adds two biases; ours has one.
          prefix.format("bias_hh"): np.zeros(params[f"{ours}/bias"].size, np.float32)}
    self.load_state_dict({
        name: torch.from_numpy(np.array(value)) for name, value in linear.items()})

  def forward(self, batch, noise):
    """Returns the loss: negative log-likelihood and KL, per position."""
    eye, pens, values = torch.eye(3), batch["pen_states"], batch["values"]
    points, rows = torch.cat([eye[pens], values], -1), torch.arange(len(pens))
    # Padding stands behind a drawing both ways, and is read after its last point.
    last = batch["counts"] - 1
    turned = (last[:, None] - torch.arange(pens.shape[1])).clamp(min=0)
    ends = [cell(one)[0][rows, last] for cell, one in (
        (self.ahead, points),
        (self.back, points.take_along_dim(turned[..., None], 1)))]
    mean, log_var = self.latent(torch.cat(ends, -1)).chunk(2, -1)
    latent = mean + torch.exp(log_var / 2) * noise
    first = torch.tanh(self.start(latent)).unflatten(-1, (2, -1))
    before = functional.pad(values[:, :-1], (0, 0, 1, 0))
    read = torch.cat([eye[batch["inputs"]], before, latent[:, None].expand(
        -1, values.shape[1], -1)], -1)
    h, _ = self.decoder(read, (first[None, :, 0].contiguous(),
                               first[None, :, 1].contiguous()))
    found, size = self.head(h), STROKES.mixtures
    pen, logits, means, scales, slants = torch.split(
        found, [3, size, 2 * size, 2 * size, size], -1)
    means, scales = means.unflatten(-1, (-1, 2)), scales.unflatten(-1, (-1, 2))
    scaled = (values[:, :, None] - means) * torch.exp(-scales)
    rho = torch.tanh(slants)
    rest = 1 - rho ** 2
    x, y = scaled[..., 0], scaled[..., 1]
    each = (-math.log(2 * math.pi) - scales.sum(-1) - 0.5 * torch.log(rest)
            - (x ** 2 + y ** 2 - 2 * rho * x * y) / (2 * rest))
    offsets = -torch.logsumexp(torch.log_softmax(logits, -1) + each, -1)
    kl = 0.5 * (mean ** 2 + torch.exp(log_var) - 1 - log_var).sum()
    return (functional.cross_entropy(pen.flatten(0, 1), pens.flatten(), reduction="sum")
            + (offsets * batch["value_weights"]).sum() + kl) / pens.numel()


def _tensors(batch):
  found = {name: torch.from_numpy(value.astype(np.int64) if value.dtype == np.int32
                                  else value) for name, value in batch.items()
           if name != "draws"}
  return found | {"counts": (found["pen_states"] != _END).sum(1)}


def _check_same(module, params, peer, batch):
  terms, *_ = combined.compute(
      OBJECTIVE, module, params, jax.tree.map(jnp.asarray, batch), False, None)
  ours = float(sum(terms.values()).sum()) / batch["targets"].size
  with torch.no_grad():
    theirs = float(peer(_tensors(batch), torch.zeros(ROWS, STROKES.latent_width)))
  # Sums of float32 in another order differ by less than this.
  assert abs(ours - theirs) < 1e-5 * abs(theirs), f"losses are {ours} and {theirs}"


def _peer_step(peer, batch) -> Callable[[], float]:
  optimizer = torch.optim.AdamW(
      peer.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
  tensors, noise = _tensors(batch), torch.randn(ROWS, STROKES.latent_width)

  def run():
    optimizer.zero_grad()
    loss = peer(tensors, noise)
    loss.backward()
    nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
  return run
