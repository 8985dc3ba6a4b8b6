"""Tests that the recurrent autoencoder computes what PyTorch's modules do."""

import jax
import numpy as np
import torch
from torch import nn

from tests import random_models
from tests.comparing import distance
from transfer_gen import config as config_lib
from transfer_gen.train import combined

SIZE, D, U, Z = 11, 6, 5, 4
CONFIG = config_lib.Recurrent(
    vocab_size=SIZE, num_layers=2, embed_width=D, hidden_width=U, encoder=True,
    latent_width=Z, forget_bias=0.0)
RNG = np.random.default_rng(0)
READ = RNG.integers(0, SIZE, (3, 6)).astype(np.int32)
COUNTS = np.array([6, 2, 4], np.int32)
BATCH = {
    "inputs": RNG.integers(0, SIZE, (3, 5)).astype(np.int32),
    "targets": RNG.integers(0, SIZE, (3, 5)).astype(np.int32),
    "weights": np.float32([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]),
    "encoder_inputs": READ, "encoder_counts": COUNTS}


class Model(nn.Module):
  """A variational autoencoder as an engineer would write it in PyTorch."""

  def __init__(self, p):
    super().__init__()
    self.read, self.written = nn.Embedding(SIZE, D), nn.Embedding(SIZE, D)
    self.encoder = nn.LSTM(D, U, 2, batch_first=True)
    self.decoder = nn.LSTM(D + Z, U, 2, batch_first=True)
    self.mean, self.log_var = nn.Linear(4 * U, Z), nn.Linear(4 * U, Z)
    self.start, self.head = nn.Linear(Z, 4 * U), nn.Linear(U, SIZE)
    states = ["layer_0_h", "layer_1_h", "layer_0_c", "layer_1_c"]
    flat = lambda kernel: kernel.reshape(kernel.shape[0], -1).T
    self._set(self.read.weight, p["encoder/embed/embedding"])
    self._set(self.written.weight, p["embed/embedding"])
    for module, prefix in ((self.encoder, "encoder/"), (self.decoder, "")):
      for i in range(2):
        kernel = p[f"{prefix}layer_{i}/cell/input_kernel"]
        if module is self.decoder and i == 0:  # PyTorch reads [x, z].
          kernel = np.concatenate([kernel, p["layer_0/cell/input_kernel_latent"]])
        self._set(getattr(module, f"weight_ih_l{i}"), flat(kernel))
        self._set(getattr(module, f"weight_hh_l{i}"),
                  flat(p[f"{prefix}layer_{i}/cell/recurrent_kernel"]))
        self._set(getattr(module, f"bias_ih_l{i}"),
                  p[f"{prefix}layer_{i}/cell/bias"].reshape(-1))
        self._set(getattr(module, f"bias_hh_l{i}"), np.zeros(4 * U, np.float32))
    for name in ("mean", "log_var"):
      self._set(getattr(self, name).weight, np.concatenate(
          [p[f"latent/{name}/kernel_{state}"] for state in states]).T)
      self._set(getattr(self, name).bias, p[f"latent/{name}/bias"])
    for part in ("kernel", "bias"):
      joined = np.concatenate([p[f"latent/{state}/{part}"].T for state in states])
      self._set(self.start.weight if part == "kernel" else self.start.bias, joined)
    self._set(self.head.weight, p["head/kernel"].T)
    self._set(self.head.bias, p["head/bias"])

  @staticmethod
  def _set(parameter, value):
    with torch.no_grad():
      parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))

  def posterior(self):
    """The distribution of the latent of each text."""
    packed = nn.utils.rnn.pack_padded_sequence(
        self.read(torch.from_numpy(READ).long()), torch.from_numpy(COUNTS).long(),
        batch_first=True, enforce_sorted=False)
    _, (h, c) = self.encoder(packed)
    states = torch.cat([h[0], h[1], c[0], c[1]], 1)
    return torch.distributions.Normal(
        self.mean(states), torch.exp(0.5 * self.log_var(states)))

  def logits(self, z):
    """What the decoder writes for latents."""
    x = self.written(torch.from_numpy(BATCH["inputs"]).long())
    h0, h1, c0, c1 = self.start(z).split(U, 1)
    out, _ = self.decoder(
        torch.cat([x, z[:, None].expand(-1, x.shape[1], -1)], 2),
        (torch.stack([h0, h1]), torch.stack([c0, c1])))
    return self.head(out)


def test_posterior_logits_and_bound_are_those_of_pytorch():
  module, params = random_models.build(CONFIG)
  model, key = Model(params), jax.random.key(0)
  terms = jax.jit(combined.scoring(module))(params, BATCH, key)
  drawn = np.asarray(random_models.apply(
      module, params, READ, COUNTS, method="posterior", rngs={"latent": key}))
  logits = random_models.apply(
      module, params, BATCH["inputs"], encoder_inputs=READ, encoder_counts=COUNTS,
      rngs={"latent": key})

  with torch.no_grad():
    q, wanted = model.posterior(), model.logits(torch.from_numpy(drawn))
    kl = torch.distributions.kl_divergence(
        q, torch.distributions.Normal(torch.zeros(Z), torch.ones(Z))).sum(1).numpy()
    nll = nn.functional.cross_entropy(
        wanted.transpose(1, 2), torch.from_numpy(BATCH["targets"]).long(),
        reduction="none").numpy()

  assert distance(logits, wanted) < 1e-5
  mean = random_models.apply(module, params, READ, COUNTS, method="posterior")
  assert distance(mean, q.mean) < 1e-5
  rows = {name: (np.asarray(term) * BATCH["weights"]).sum(1)
          for name, term in terms.items()}
  assert distance(rows["kl"], kl) < 1e-5
  assert distance(rows["reconstruction"], (nll * BATCH["weights"]).sum(1)) < 1e-5
  assert distance(rows["loss"], (nll * BATCH["weights"]).sum(1) + kl) < 1e-5
  assert np.abs(drawn - np.asarray(mean)).min() > 1e-4
