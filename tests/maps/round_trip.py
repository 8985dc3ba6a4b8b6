"""A check that a map writes back exactly what it read."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests import comparing
from transfer_gen.maps import mapped
from transfer_gen.sources import foreign


def assert_bits_are_kept(
    source: foreign.Foreign, params: Mapping[str, npt.ArrayLike]
) -> None:
  """Asserts that params, exported through their map, equal the file they came from."""
  raw = source.view.raw

  back = mapped.export(
      list(source.view.rows.values()), raw.specs,
      {name: np.asarray(value) for name, value in params.items()})

  comparing.assert_same_bits(back, dict(raw.read(list(raw.specs))))
