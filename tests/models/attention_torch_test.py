"""Tests that encoder-decoders with attention compute what PyTorch's modules do."""

import jax
import numpy as np
import torch
from torch import nn

from tests import random_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config as config_lib

SIZE, WIDTH, SIDE = 13, 6, 5
INPUTS = np.random.default_rng(0).integers(0, SIZE, (3, 6)).astype(np.int32)
SOURCES = np.random.default_rng(1).integers(0, SIZE, (3, 5)).astype(np.int32)
COUNTS = np.array([5, 2, 4], np.int32)
LUONG = config_lib.Recurrent(
    vocab_size=SIZE, num_layers=2, embed_width=4, hidden_width=WIDTH, encoder=True,
    bidirectional=True, bridge="linear", encoder_width=SIDE, forget_bias=0.0,
    encoder_attention="general", input_feeding=True, recurrent_bias=True)
BAHDANAU = config_lib.Recurrent(
    vocab_size=SIZE, cell="gru", num_layers=1, embed_width=4, hidden_width=WIDTH,
    encoder=True, bidirectional=True, bridge="tanh", encoder_width=SIDE,
    encoder_attention="additive", attention_bias="both", attention_output="embed")
# PyTorch puts the directions behind one another, and here their units alternate.
ORDER = np.arange(2 * SIDE).reshape(2, SIDE).T.ravel()


class Model(nn.Module):
  """An encoder-decoder as an engineer would write it in PyTorch."""

  def __init__(self, config, params):
    super().__init__()
    self.config = config
    gru = config.cell == "gru"
    self.source, self.target = nn.Embedding(SIZE, 4), nn.Embedding(SIZE, 4)
    self.encoder = (nn.GRU if gru else nn.LSTM)(
        4, SIDE, config.num_layers, bidirectional=True, batch_first=True)
    fed = 2 * SIDE if gru else WIDTH
    self.cells = nn.ModuleList(
        (nn.GRUCell if gru else nn.LSTMCell)(WIDTH if i else 4 + fed, WIDTH)
        for i in range(config.num_layers))
    states = "h" if gru else "hc"
    self.bridges = nn.ModuleDict({
        f"{i}{state}": nn.Linear(2 * SIDE, WIDTH)
        for i in range(config.num_layers) for state in states})
    self.load(config, params, states)

  def load(self, config, p, states):
    """Takes our params over."""
    # [G, U, D] of PyTorch, and the order of the directions.
    unmix = lambda kernel: kernel[np.argsort(ORDER)]
    turn = lambda kernel: torch.from_numpy(
        kernel.reshape(kernel.shape[0], -1).T.copy())
    flat = lambda bias: torch.from_numpy(bias.reshape(-1))
    with torch.no_grad():
      self.source.weight[:] = torch.from_numpy(p["encoder/embed/embedding"])
      self.target.weight[:] = torch.from_numpy(p["embed/embedding"])
      for i in range(config.num_layers):
        for way, tail in (("cell", ""), ("backward", "_reverse")):
          name = f"encoder/layer_{i}/{way}"
          kernel = p[f"{name}/input_kernel"]
          if i:
            kernel = np.concatenate([kernel, p[f"{name}/input_kernel_backward"]])
          for theirs, ours in (
              ("weight_ih", turn(kernel)),
              ("weight_hh", turn(p[f"{name}/recurrent_kernel"])),
              ("bias_ih", flat(p[f"{name}/bias"])),
              ("bias_hh", flat(p[f"{name}/recurrent_bias"]))):
            getattr(self.encoder, f"{theirs}_l{i}{tail}")[:] = ours
        name, kernel = f"layer_{i}/cell", p[f"layer_{i}/cell/input_kernel"]
        if not i:
          fed = (unmix(p[f"{name}/input_kernel_context"]) if len(states) == 1
                 else p[f"{name}/input_kernel_feed"])
          kernel = np.concatenate([kernel, fed])
        cell = self.cells[i]
        cell.weight_ih[:] = turn(kernel)
        cell.weight_hh[:] = turn(p[f"{name}/recurrent_kernel"])
        cell.bias_ih[:] = flat(p[f"{name}/bias"])
        cell.bias_hh[:] = flat(p[f"{name}/recurrent_bias"])
        for state in states:
          bridge = self.bridges[f"{i}{state}"]
          bridge.weight[:] = turn(unmix(p[f"layer_{i}/bridge_{state}/kernel"]))
          bridge.bias[:] = flat(p[f"layer_{i}/bridge_{state}/bias"])
    for name, x in p.items():
      if name.startswith(("attention/", "head/")):
        x = unmix(x) if "context" in name or name == "attention/key/kernel" else x
        self.register_buffer(name.replace("/", "_"), torch.from_numpy(x.copy()))

  def encode(self, tokens, counts):
    packed = nn.utils.rnn.pack_padded_sequence(
        self.source(tokens), counts, batch_first=True, enforce_sorted=False)
    out, state = self.encoder(packed)
    memory, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    states = []
    for i in range(len(self.cells)):
      ends = [torch.cat([one[2 * i], one[2 * i + 1]], 1) for one in (
          [state] if self.config.cell == "gru" else state)]
      ends = [self.bridges[f"{i}{part}"](end) for part, end in zip("hc", ends)]
      states.append(tuple(map(torch.tanh, ends)) if self.config.bridge == "tanh"
                    else tuple(ends))
    return memory, states

  def attend(self, h, memory, mask):
    if self.config.encoder_attention == "additive":
      query = h @ self.attention_query_kernel + self.attention_query_bias
      key = memory @ self.attention_key_kernel + self.attention_key_bias
      scores = torch.tanh(query[:, None] + key) @ self.attention_score_kernel
    else:
      scores = torch.einsum(
          "bu,bsm,mu->bs", h, memory, self.attention_key_kernel)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("bs,bsm->bm", weights, memory)

  def forward(self, tokens, sources, counts):
    memory, states = self.encode(sources, counts)
    mask = torch.arange(memory.shape[1])[None] < counts[:, None]
    feed, found = torch.zeros(len(tokens), WIDTH), []
    for step in range(tokens.shape[1]):
      word = self.target(tokens[:, step])
      if self.config.cell == "gru":
        context = self.attend(states[0][0], memory, mask)
        h = self.cells[0](torch.cat([word, context], 1), states[0][0])
        states = [(h,)]
        found.append(h @ self.head_kernel + context @ self.head_kernel_context
                     + word @ self.head_kernel_embed + self.head_bias)
        continue
      x = torch.cat([word, feed], 1)
      for i, cell in enumerate(self.cells):
        states[i] = cell(x, states[i])
        x = states[i][0]
      context = self.attend(x, memory, mask)
      feed = torch.tanh(
          x @ self.attention_combine_kernel
          + context @ self.attention_combine_kernel_context
          + self.attention_combine_bias)
      found.append(feed @ self.head_kernel + self.head_bias)
    return torch.stack(found, 1)


def both(config):
  """Returns logits and gradients of the head's kernel and of an encoder's, twice."""
  module, params = random_models.build(config)
  weights = np.random.default_rng(4).normal(size=(3, 6, SIZE)).astype(np.float32)
  read = {"encoder_inputs": SOURCES, "encoder_counts": COUNTS}

  def loss(params):
    logits = apply(module, params, INPUTS, **read)
    return (logits * weights).sum(), logits

  grads, ours = jax.jit(jax.grad(loss, has_aux=True))(params)
  model = Model(config, params)
  theirs = model(*(torch.from_numpy(np.int64(x)) for x in (INPUTS, SOURCES, COUNTS)))
  (theirs * torch.from_numpy(weights)).sum().backward()
  return (ours, grads), (theirs.detach().numpy(), model)


def check(config, states):
  (ours, grads), (theirs, model) = both(config)

  assert distance(ours, theirs) < 1e-5
  grad = lambda param: param.grad.numpy().T
  kernel = lambda name: grads[name].reshape(len(grads[name]), -1)
  assert distance(kernel("encoder/layer_0/backward/recurrent_kernel"),
                  grad(model.encoder.weight_hh_l0_reverse)) < 2e-5
  assert distance(kernel("layer_0/cell/recurrent_kernel"),
                  grad(model.cells[0].weight_hh)) < 2e-5
  fed = "context" if states == 1 else "feed"
  mine = kernel(f"layer_0/cell/input_kernel_{fed}")
  mine = mine[np.argsort(ORDER)] if states == 1 else mine
  assert distance(mine, grad(model.cells[0].weight_ih)[4:]) < 2e-5
  assert distance(grads["encoder/embed/embedding"],
                  model.source.weight.grad.numpy()) < 2e-5


def test_an_lstm_with_input_feeding_matches_torch():
  check(LUONG, states=2)


def test_a_gru_that_attends_before_each_step_matches_torch():
  check(BAHDANAU, states=1)
