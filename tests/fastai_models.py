"""Language models with fastai's names, written in PyTorch alone, and their files."""

import pickle
from typing import Any

import numpy as np

from transfer_gen.data import tokenizer_words

# 16 words behind the special tokens.
ITOS = [*tokenizer_words.SPECIAL, "the", "a", "line", "counts", "things", "cat", "sat",
        ",", ".", "and", "on", "in", "mat", "it", "\n", "xxfake"]


def network(torch: Any, vocab_size: int, widths: tuple[int, ...], tied: bool = True
            ) -> Any:
  """Returns a model whose parameters have fastai's names.

  Args:
    torch: The library, which not all installations have.
    vocab_size: V.
    widths: Width of the embedding and of each layer; the last equals the first.
    tied: Whether the output is the embedding table.
  """
  nn = torch.nn

  class WeightDropout(nn.Module):
    """An LSTM whose recurrent weight exists raw and as a copy with dropout."""

    def __init__(self, below, units):
      super().__init__()
      self.module = nn.LSTM(below, units, batch_first=True)
      self.weight_hh_l0_raw = nn.Parameter(torch.randn(4 * units, units) * 0.4)
      with torch.no_grad():
        self.module.weight_hh_l0.copy_(
            nn.functional.dropout(self.weight_hh_l0_raw, 0.5, training=True))

    def forward(self, x):
      weights = {"weight_hh_l0": self.weight_hh_l0_raw}
      return torch.func.functional_call(self.module, weights, (x,))[0]

  class Encoder(nn.Module):
    """The embedding, under two names, and the layers."""

    def __init__(self):
      super().__init__()
      self.encoder = nn.Embedding(vocab_size, widths[0], padding_idx=1)
      self.encoder_dp = nn.Module()
      self.encoder_dp.emb = self.encoder
      self.rnns = nn.ModuleList(
          WeightDropout(*pair) for pair in zip(widths, widths[1:]))

    def forward(self, tokens):
      x = self.encoder(tokens)
      for rnn in self.rnns:
        x = rnn(x)
      return x

  class Decoder(nn.Module):
    """The output."""

    def __init__(self, table):
      super().__init__()
      self.decoder = nn.Linear(widths[-1], vocab_size)
      if tied:
        self.decoder.weight = table

    def forward(self, x):
      return self.decoder(x)

  torch.manual_seed(0)
  encoder = Encoder()
  net = nn.Sequential(encoder, Decoder(encoder.encoder.weight))
  with torch.no_grad():
    for name, parameter in net.named_parameters():
      # Otherwise the model writes one word over and over.
      parameter.mul_(0.3 if name == "1.decoder.bias" else 3.0)
  return net.eval()


def without_copies(state: dict[str, Any]) -> dict[str, Any]:
  """Returns a state dict without the copies with dropout, as fastai 2 saves it."""
  return {name: value for name, value in state.items()
          if not name.endswith(".module.weight_hh_l0")}


def save(torch: Any, net: Any, path: Any, form: str, itos: list[str] | None = None
         ) -> dict[str, np.ndarray]:
  """Writes a model's file and its vocabulary.

  Args:
    torch: The library.
    net: What `network` returned.
    path: The `.pth` file.
    form: `bare`: a state dict as of fastai 2. `learn`: that beside the optimizer's
      state. `fastai_1`: a state dict with the copies, in PyTorch's old form of file.
    itos: The vocabulary, which goes beside it as a pickle; None: none.

  Returns:
    The arrays of the model in the file, by name.
  """
  state = net.state_dict()
  if form != "fastai_1":
    state = without_copies(state)
  opt = {"state": [{"step": 3, "grad_avg": torch.zeros(2, 3)}],
         "hypers": [{"lr": 0.01, "wd": 0.1}]}
  torch.save({"model": state, "opt": opt} if form == "learn" else state, path,
             _use_new_zipfile_serialization=form != "fastai_1")
  if itos is not None:
    (path.parent / f"{path.stem}_itos.pkl").write_bytes(pickle.dumps(itos))
  return {name: value.numpy() for name, value in state.items()}
