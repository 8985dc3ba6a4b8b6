"""What compiled programs of generation receive of a `config.Decoding`.

Axes: B rows, V vocabulary.
"""

import dataclasses
from typing import Any

import numpy as np

from transfer_gen import config as config_lib

Limits = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Switches:
  """Which settings act; a static argument of compiled programs.

  A setting that is off adds no operation to a program, so greedy decoding pays for no
  other kind. Values of settings that are on are arguments, see `bind`.

  Attributes:
    beams: K, the number of beams.
    ends: Number of tokens that end a text.
    early: `early_stopping` of a beam search.
    samples: Whether tokens are drawn.
    candidates: Number of likeliest tokens that have to be ranked before one is drawn, a
      power of two; 0 means none, -1 all.
    min_p: Whether unlikely tokens are left out.
    repetition: Whether tokens that occurred are penalized.
    ngram: Length of sequences that may not occur twice; 0 means that all may.
    suppress: Whether some tokens are never written.
    min_tokens: Whether texts may not end at once.
    first: Whether the first token is given.
    last: Whether the last token is given.
  """
  beams: int = 1
  ends: int = 0
  early: str = "no"
  samples: bool = False
  candidates: int = 0
  min_p: bool = False
  repetition: bool = False
  ngram: int = 0
  suppress: bool = False
  min_tokens: bool = False
  first: bool = False
  last: bool = False

  @property
  def reads_text(self) -> bool:
    """Whether the choice of a token depends on the text before it."""
    return self.repetition or self.ngram > 0


def bind(decoding: config_lib.Decoding, vocab_size: int) -> tuple[Switches, Limits]:
  """Divides settings into what a program is compiled for, and its arguments.

  Args:
    decoding: Valid settings, see `find_misfits`.
    vocab_size: V.

  Returns:
    The switches, and a dict of scalars and of `ends` and `suppress` bool[V].
  """
  truncates = decoding.top_k > 0 or decoding.top_p < 1
  draws = decoding.temperature > 0
  ranked = 1 << (decoding.top_k - 1).bit_length() if 0 < decoding.top_k else -1
  switches = Switches(
      beams=decoding.beams, ends=len(decoding.end_tokens),
      early=decoding.early_stopping if decoding.beams > 1 else "no", samples=draws,
      candidates=ranked if draws and truncates else 0,
      min_p=draws and decoding.min_p > 0,
      repetition=decoding.repetition_penalty != 1, ngram=decoding.no_repeat_ngram,
      suppress=bool(decoding.suppress), min_tokens=decoding.min_tokens > 0,
      first=decoding.first_token >= 0, last=decoding.last_token >= 0)
  return switches, {
      "seed": np.uint32(decoding.seed),
      "temperature": np.float32(decoding.temperature),
      "top_k": np.int32(decoding.top_k), "top_p": np.float32(decoding.top_p),
      "min_p": np.float32(decoding.min_p),
      "repetition": np.float32(decoding.repetition_penalty),
      "min_tokens": np.int32(decoding.min_tokens),
      "first": np.int32(decoding.first_token), "last": np.int32(decoding.last_token),
      "length_penalty": np.float32(decoding.length_penalty),
      "ends": _mask(decoding.end_tokens, vocab_size),
      "suppress": _mask(decoding.suppress, vocab_size)}


def find_misfits(decoding: config_lib.Decoding, vocab_size: int) -> list[str]:
  """Returns what is wrong with settings, one sentence for each misfit.

  Args:
    decoding: The settings; `max_tokens` must be set.
    vocab_size: V.

  Raises:
    errors.UserError: If a field has a value that it does not declare.
  """
  config_lib.check(decoding, "decoding")
  d = decoding
  tokens = {"first_token": (d.first_token,), "last_token": (d.last_token,),
            "end_tokens": d.end_tokens, "suppress": d.suppress}
  optional = {"first_token", "last_token"}  # -1 means none.
  return [f"decoding.{name} is {getattr(d, name)!r}, must be {wanted}"
          for name, fits, wanted in (
      ("max_tokens", d.max_tokens >= 1, "at least 1"),
      ("num", d.beams == 1 or d.num <= d.beams,
       f"at most beams={d.beams} in a beam search"),
      ("temperature", d.beams == 1 or d.temperature <= 0,
       "0 in a beam search, which draws nothing"),
      *((name, all(-(name in optional) <= i < vocab_size for i in given),
         f"of tokens from 0 to {vocab_size - 1}") for name, given in tokens.items()),
      ("suppress", len({*d.suppress}) < vocab_size, "fewer than all tokens"))
          if not fits]


def _mask(tokens, vocab_size):
  mask = np.zeros(vocab_size, bool)
  mask[list(tokens)] = True
  return mask
