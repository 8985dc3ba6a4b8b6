"""Tests that the map of the page on foreign checkpoints reads a PyTorch model."""

import json
import re

import numpy as np
import torch
from torch import nn

from tests import paths
from tests.comparing import distance
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry

_PAGE = paths.ROOT / "docs" / "foreign_checkpoints.md"
SIZES, EMBED, SIDE, WIDTH = (31, 33), 16, 20, 24


class Encoder(nn.Module):

  def __init__(self):
    super().__init__()
    self.embedding = nn.Embedding(SIZES[0], EMBED)
    self.rnn = nn.GRU(EMBED, SIDE, bidirectional=True)
    self.fc = nn.Linear(2 * SIDE, WIDTH)

  def forward(self, tokens):
    outputs, hidden = self.rnn(self.embedding(tokens))
    return outputs, torch.tanh(self.fc(torch.cat([hidden[0], hidden[1]], 1)))


class Attention(nn.Module):

  def __init__(self):
    super().__init__()
    self.attn = nn.Linear(WIDTH + 2 * SIDE, WIDTH)
    self.v = nn.Linear(WIDTH, 1, bias=False)

  def forward(self, hidden, outputs):
    repeated = hidden[None].expand(len(outputs), -1, -1)
    energy = torch.tanh(self.attn(torch.cat([repeated, outputs], 2)))
    return self.v(energy)[..., 0].softmax(0)


class Decoder(nn.Module):

  def __init__(self):
    super().__init__()
    self.embedding = nn.Embedding(SIZES[1], EMBED)
    self.attention = Attention()
    self.rnn = nn.GRU(EMBED + 2 * SIDE, WIDTH)
    self.fc_out = nn.Linear(WIDTH + 2 * SIDE + EMBED, SIZES[1])

  def forward(self, token, hidden, outputs):
    word = self.embedding(token)
    context = torch.einsum("sb,sbm->bm", self.attention(hidden, outputs), outputs)
    out, hidden = self.rnn(torch.cat([word, context], 1)[None], hidden[None])
    return self.fc_out(torch.cat([out[0], context, word], 1)), hidden[0]


def test_the_map_of_the_page_computes_what_torch_does(tmp_path):
  torch.manual_seed(0)
  model = nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})
  torch.save(model.state_dict(), tmp_path / "model.pt")
  [text] = [code for code in re.findall(r"```json\n(.*?)```", _PAGE.read_text(), re.S)
            if "decoder.fc_out" in code]
  (tmp_path / "map.json").write_text(json.dumps(json.loads(text)))
  rng = np.random.default_rng(0)
  read, written = (rng.integers(0, size, (5, 3)) for size in SIZES)

  source = sources.open(
      str(tmp_path / "model.pt"), map_name=str(tmp_path / "map.json"))
  params = dict(source.read(list(source.specs)))
  ours = registry.build(source.model).apply(
      {"params": tree.unflatten(params)}, written.T, encoder_inputs=read.T)

  with torch.no_grad():
    outputs, hidden = model["encoder"](torch.from_numpy(read))
    steps = []
    for token in torch.from_numpy(written):
      logits, hidden = model["decoder"](token, hidden, outputs)
      steps.append(logits)
  assert distance(ours, torch.stack(steps, 1).numpy()) < 1e-5
