"""Compares an LSTM encoder-decoder with attention with one that is written in PyTorch.

Both sides start from the same weights and have the same shapes and number of threads:
two layers of width 256, an encoder that reads both ways with half of the units each,
and Luong's `general` attention (2015). PyTorch's side is what an engineer would write:
`torch.nn.LSTM` where a whole sequence is known, one batched product for all attention,
and `torch.nn.LSTMCell` in a loop with input feeding.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.generate import bulk
from transfer_gen.models import registry

MODEL = config_lib.Recurrent(
    vocab_size=8000, num_layers=2, embed_width=256, hidden_width=256, forget_bias=0.0,
    encoder=True, bidirectional=True, encoder_attention="general", start_token=1)
ROWS, LENGTH = 64, 30
SENTENCES, BEAMS, BATCH = 1000, 4, 64
ROUNDS = 15
THREADS = 2


def attention_over_torch() -> timing.Comparison:
  """Compares a training step without input feeding, PyTorch's fastest form."""
  return _steps(MODEL)


def feeding_over_torch() -> timing.Comparison:
  """Compares a training step with input feeding, which PyTorch takes in a loop."""
  return _steps(dataclasses.replace(MODEL, input_feeding=True))


def beam_over_torch() -> timing.Comparison:
  """Compares a beam search over sentences of 5 to 25 tokens.

  A model that was never trained ends no text by itself, so each text ends when it has
  as many tokens as its sentence, up to 8 less or more, and at least 3.
  """
  torch.set_num_threads(THREADS)
  module, params, peer = _sides(MODEL)
  rng = np.random.default_rng(1)
  sentences = [rng.integers(2, MODEL.vocab_size, rng.integers(5, 26)).tolist()
               for _ in range(SENTENCES)]
  budgets = [max(3, len(one) + int(rng.integers(-8, 9))) for one in sentences]
  inputs = bulk.Inputs(
      prompts=[[MODEL.start_token]] * len(sentences), encoder_inputs=sentences,
      budgets=budgets)
  decoding = config_lib.Decoding(
      max_tokens=max(budgets), beams=BEAMS, end_tokens=(0,))

  def ours():
    found = dict(bulk.write(module, params, inputs, decoding, batch_size=BATCH))
    return [found[i][0] for i in range(len(sentences))]

  def theirs():
    return _search(peer, sentences, budgets)

  same = np.mean([a == b for a, b in zip(ours(), theirs())])
  # Sums in another order may change which of two beams with nearly equal scores wins.
  assert same > 0.95, f"only {same:.1%} of the outputs are equal"
  return timing.in_turns(ours, theirs, rounds=3)


class Peer(nn.Module):
  """The model with our weights, in PyTorch."""

  def __init__(self, config: config_lib.Recurrent, params: Mapping[str, np.ndarray]):
    super().__init__()
    width, depth = config.hidden_width, config.num_layers
    self.feeds = config.input_feeding
    self.source = nn.Embedding(config.vocab_size, config.embed_width)
    self.target = nn.Embedding(config.vocab_size, config.embed_width)
    self.encoder = nn.LSTM(config.embed_width, width // 2, depth, batch_first=True,
                           bidirectional=True)
    if self.feeds:
      self.cells = nn.ModuleList(
          nn.LSTMCell(width if i else config.embed_width + width, width)
          for i in range(depth))
    else:
      self.decoder = nn.LSTM(config.embed_width, width, depth, batch_first=True)
    self.key = nn.Linear(width, width, bias=False)
    self.combine = nn.Linear(2 * width, width)
    self.head = nn.Linear(width, config.vocab_size)
    weights = _weights(config, params)
    self.load_state_dict({name: torch.from_numpy(np.array(value, order="C"))
                          for name, value in weights.items()})

  def encode(self, sources, mask, counts=None):
    """Returns values, keys and mask of what is read, and the decoder's states."""
    x = self.source(sources)
    if counts is not None:
      x = nn.utils.rnn.pack_padded_sequence(x, counts, batch_first=True)
    memory, states = self.encoder(x)
    if counts is not None:
      memory, _ = nn.utils.rnn.pad_packed_sequence(memory, batch_first=True)
    # [layers, ways, B, U / 2] to [layers, B, U].
    states = tuple(
        s.view(-1, 2, *s.shape[1:]).transpose(1, 2).flatten(2) for s in states)
    return (memory, self.key(memory), mask), states

  def attend(self, h, memory):
    """Returns the attentional hidden states of states [B, T, U]."""
    value, key, mask = memory
    scores = h @ key.transpose(1, 2)
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    return torch.tanh(self.combine(torch.cat([h, weights @ value], -1)))

  def forward(self, inputs, sources, mask):
    """Returns logits [B, T, V]."""
    memory, states = self.encode(sources, mask)
    x = self.target(inputs)
    if not self.feeds:
      h, _ = self.decoder(x, tuple(s.contiguous() for s in states))
      return self.head(self.attend(h, memory))
    feed, found = x.new_zeros(len(x), self.head.in_features), []
    states = [*zip(*states)]
    for step in range(x.shape[1]):
      h = torch.cat([x[:, step], feed], -1)
      for i, cell in enumerate(self.cells):
        states[i] = cell(h, states[i])
        h = states[i][0]
      feed = self.attend(h[:, None], memory)[:, 0]
      found.append(feed)
    return self.head(torch.stack(found, 1))


def _weights(config, p):
  """Returns the peer's weights, whose directions stand behind one another."""
  width, found = config.hidden_width, {
      "source.weight": p["encoder/embed/embedding"], "target.weight":
      p["embed/embedding"], "head.weight": p["head/kernel"].T,
      "head.bias": p["head/bias"], "combine.bias": p["attention/combine/bias"]}
  # Here the units of the two directions alternate, and with them the decoder's.
  order = np.arange(width).reshape(-1, 2).T.ravel()
  rows = lambda kernel: kernel[order]
  flat = lambda kernel: kernel.reshape(kernel.shape[0], -1).T
  for i in range(config.num_layers):
    for way, tail in (("cell", ""), ("backward", "_reverse")):
      name, end = f"encoder/layer_{i}/{way}", f"l{i}{tail}"
      kernel = p[f"{name}/input_kernel"]
      if i:
        kernel = np.concatenate([kernel, p[f"{name}/input_kernel_backward"]])
      found |= {
          f"encoder.weight_ih_{end}": flat(kernel),
          f"encoder.weight_hh_{end}": flat(p[f"{name}/recurrent_kernel"]),
          f"encoder.bias_ih_{end}": p[f"{name}/bias"].ravel(),
          f"encoder.bias_hh_{end}": 0 * p[f"{name}/bias"].ravel()}
    name = f"layer_{i}/cell"
    start, end = (f"cells.{i}.", "") if config.input_feeding else ("decoder.", f"_l{i}")
    kernel = p[f"{name}/input_kernel"]
    kernel = (rows(kernel) if i else kernel)[..., order]
    if config.input_feeding and not i:
      kernel = np.concatenate([kernel, p[f"{name}/input_kernel_feed"][..., order]])
    found |= {
        f"{start}weight_ih{end}": flat(kernel),
        f"{start}weight_hh{end}": flat(rows(p[f"{name}/recurrent_kernel"])[..., order]),
        f"{start}bias_ih{end}": p[f"{name}/bias"][:, order].ravel(),
        f"{start}bias_hh{end}": 0 * p[f"{name}/bias"].ravel()}
  found["key.weight"] = rows(p["attention/key/kernel"])[:, order].T
  found["combine.weight"] = np.concatenate([
      rows(p["attention/combine/kernel"]),
      rows(p["attention/combine/kernel_context"])]).T
  return found


def _sides(config):
  module = registry.build(config)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  # Its tokens have almost equal probabilities, and which of two beams wins would depend
  # on the order of sums.
  params["head/kernel"] *= 30
  peer = Peer(config, {name: np.asarray(value) for name, value in params.items()})
  _check_same(module, params, peer)
  return module, params, peer


def _steps(config) -> timing.Comparison:
  torch.set_num_threads(THREADS)
  batch = our_step.random_batch(config.vocab_size, ROWS, LENGTH)
  sources = our_step.random_batch(config.vocab_size, ROWS, LENGTH + 1)["inputs"]
  batch["encoder_inputs"] = sources[:, ::-1][:, :LENGTH].copy()
  batch["encoder_counts"] = np.full(ROWS, LENGTH, np.int32)
  _, _, peer = _sides(config)
  return timing.in_turns(
      our_step.make(config, batch), _peer_step(peer, batch), rounds=ROUNDS)


def _check_same(module, params, peer):
  rng = np.random.default_rng(2)
  inputs, sources = (rng.integers(0, module.config.vocab_size, (3, 7)).astype(np.int32)
                     for _ in range(2))
  ours = jax.jit(module.apply)(
      {"params": tree.unflatten(params)}, inputs, encoder_inputs=sources)
  with torch.no_grad():
    theirs = peer(torch.from_numpy(inputs.astype(np.int64)),
                  torch.from_numpy(sources.astype(np.int64)),
                  torch.ones(sources.shape, dtype=torch.bool)).numpy()
  distance = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
  # float32 products in another order differ by less than this.
  assert distance < 1e-4, f"logits differ by {distance}"


def _peer_step(peer, batch) -> Callable[[], float]:
  optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3, weight_decay=0.01)
  inputs, targets, sources = (torch.from_numpy(batch[name].astype(np.int64))
                              for name in ("inputs", "targets", "encoder_inputs"))
  mask = torch.ones(sources.shape, dtype=torch.bool)

  def run():
    optimizer.zero_grad()
    logits = peer(inputs, sources, mask)
    loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
  return run


def _search(peer, sentences, budgets):
  """Returns the best text of each sentence, in batches of similar length."""
  order = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))
  found = {}
  with torch.inference_mode():
    for start in range(0, len(order), BATCH):
      chosen = order[start:start + BATCH]
      texts = _search_batch(peer, [sentences[i] for i in chosen],
                            torch.tensor([budgets[i] for i in chosen]))
      found |= zip(chosen, texts)
  return [found[i] for i in range(len(order))]


def _search_batch(peer, rows, budgets):
  """Returns the best texts by a beam search over a batch, as `generate.beam` does."""
  counts = torch.tensor([*map(len, rows)])
  ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True)
  mask = torch.arange(ids.shape[1])[None] < counts[:, None]
  (value, key, mask), states = peer.encode(ids, mask, counts)
  batch, size = len(rows), peer.head.out_features
  memory = value, key, mask
  states = tuple(s.repeat_interleave(BEAMS, 1) for s in states)
  tokens = torch.full((batch, BEAMS), MODEL.start_token)
  scores = torch.full((batch, BEAMS), -torch.inf)
  scores[:, 0] = 0
  texts = torch.zeros((batch, BEAMS, 0), dtype=torch.long)
  ended: list[list] = [[] for _ in rows]
  done = torch.zeros(batch, dtype=torch.bool)
  for step in range(int(budgets.max())):
    h, states = peer.decoder(peer.target(tokens.view(-1, 1)), states)
    h = peer.attend(h.view(batch, BEAMS, -1), memory)
    totals = (scores[:, :, None] + peer.head(h).log_softmax(-1)).view(batch, -1)
    best, index = totals.topk(2 * BEAMS)
    parents, token = index // size, index % size
    ends = (token == 0) | (step + 1 >= budgets)[:, None]
    for row, place in (ends & ~done[:, None])[:, :BEAMS].nonzero().tolist():
      text = [*texts[row, parents[row, place]].tolist(), int(token[row, place])]
      ended[row] = sorted(
          [*ended[row], (float(best[row, place]) / (step + 1), text)])[-BEAMS:]
    scores, kept = best.masked_fill(ends, -torch.inf).topk(BEAMS)
    tokens, parents = token.gather(1, kept), parents.gather(1, kept)
    texts = torch.cat([texts.gather(1, parents[:, :, None].expand(
        -1, -1, texts.shape[2])), tokens[:, :, None]], 2)
    worst = torch.tensor([
        one[0][0] if len(one) == BEAMS else -torch.inf for one in ended])
    done |= scores[:, 0] / (step + 1) <= worst
    if done.all():
      break
    flat = (parents + BEAMS * torch.arange(batch)[:, None]).view(-1)
    states = tuple(s[:, flat] for s in states)
  best = [max(one)[1] for one in ended]
  return [text[:text.index(0)] if 0 in text else text for text in best]
