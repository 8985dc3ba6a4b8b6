"""Compares training of the recurrent model with torch.nn.LSTM.

Both sides start from the same weights and have the same shapes and number of threads.
Training uses no dropout, cross-entropy over all positions, gradients clipped by their
global norm, and AdamW. Before timing, both are checked to give the same logits.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.models import registry

# torch.nn.LSTM adds no constant to the forget gate, so ours must not either.
LSTM_512 = config_lib.Recurrent(
    vocab_size=8192, num_layers=2, embed_width=512, hidden_width=512, forget_bias=0.0)
ROWS, LENGTH = 32, 64
THREADS = 2


def lstm_512_over_torch() -> timing.Comparison:
  """Compares the time of a training step."""
  torch.set_num_threads(THREADS)
  batch = our_step.random_batch(LSTM_512.vocab_size, ROWS, LENGTH)
  module = registry.build(LSTM_512)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  peer = _Peer(params)
  _check_same(module, params, peer, batch["inputs"])
  return timing.in_turns(
      our_step.make(LSTM_512, batch), _peer_step(peer, batch), rounds=31)


class _Peer(nn.Module):
  """An embedding, an LSTM and an output with our weights, in PyTorch."""

  def __init__(self, params: Mapping[str, jax.Array]):
    super().__init__()
    config = LSTM_512
    self.embed = nn.Embedding(config.vocab_size, config.embed_width)
    self.lstm = nn.LSTM(
        config.embed_width, config.hidden_width, config.num_layers, batch_first=True)
    self.head = nn.Linear(config.hidden_width, config.vocab_size)
    weights = {
        "embed.weight": params["embed/embedding"],
        "head.weight": params["head/kernel"].T, "head.bias": params["head/bias"]}
    for layer in range(config.num_layers):
      for ours, theirs in (("input_kernel", "ih"), ("recurrent_kernel", "hh")):
        kernel = params[f"layer_{layer}/cell/{ours}"]
        weights[f"lstm.weight_{theirs}_l{layer}"] = kernel.reshape(
            kernel.shape[0], -1).T
      bias = params[f"layer_{layer}/cell/bias"].reshape(-1)
      weights[f"lstm.bias_ih_l{layer}"] = bias
      # torch.nn.LSTM adds two biases; ours has one.
      weights[f"lstm.bias_hh_l{layer}"] = np.zeros_like(bias)
    self.load_state_dict(
        {name: torch.from_numpy(np.array(value)) for name, value in weights.items()})

  def forward(self, inputs):
    return self.head(self.lstm(self.embed(inputs))[0])


def _check_same(module, params, peer, inputs):
  ours = jax.jit(module.apply)({"params": tree.unflatten(params)}, inputs)
  with torch.no_grad():
    theirs = peer(torch.from_numpy(inputs.astype(np.int64))).numpy()
  distance = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
  # float32 products in another order differ by less than this.
  assert distance < 1e-4, f"logits differ by {distance}"


def _peer_step(peer, batch) -> Callable[[], float]:
  optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3, weight_decay=0.01)
  inputs, targets = (
      torch.from_numpy(batch[name].astype(np.int64)) for name in ("inputs", "targets"))

  def run():
    optimizer.zero_grad()
    logits = peer(inputs)
    loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
  return run
