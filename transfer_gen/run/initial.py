"""The params that a run starts from."""

from collections.abc import Callable, Mapping

import jax

from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.transfer import restore


def params(
    assembled: assemble.Assembled,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, jax.Array]:
  """Each leaf as its row says: from a source, or fresh by the run's seed.

  Args:
    assembled: The run.
    shardings: Where each leaf goes. None: the first device.
    progress: Called with the bytes that were read since it was called last.
  """
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = dict.fromkeys(assembled.specs, device)
  _, init_key, restore_key = keys(assembled.run.seed)
  fresh = registry.fresh(assembled.model, init_key, shardings)
  return restore.restore(
      assembled.rows, assembled.sources, fresh, shardings, restore_key, progress)


def keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Keys of a run: of dropout, of fresh leaves, and of rows drawn in a restore."""
  return tuple(jax.random.split(jax.random.key(seed), 3))
