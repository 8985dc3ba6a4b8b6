"""Two vocabularies, token by token."""

from collections.abc import Mapping
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
  """What the rows of an embedding stand for.

  Attributes:
    tokens: The bytes of text that each token stands for, in the order of the
      rows, however its tokenizer spells it; b"" for special tokens.
    roles: Ids of special tokens by role: pad, bos, eos, sep, unk.
  """
  tokens: tuple[bytes, ...]
  roles: Mapping[str, int] = dataclasses.field(default_factory=dict)


def match(source: Vocabulary, target: Vocabulary) -> np.ndarray:
  """Finds each target token in the source: special ones by role, others by bytes.

  Where the source has the same bytes twice, the first row is taken.

  Returns:
    i32[len(target.tokens)]: rows of the source, -1 where it lacks the token.
  """
  rows = {token: row for row, token in reversed(list(enumerate(source.tokens)))
          if token}
  index = np.array([rows.get(token, -1) for token in target.tokens], np.int32)
  for role, row in target.roles.items():
    index[row] = source.roles.get(role, -1)
  return index
