"""The params that a run starts from."""

from collections.abc import Callable, Mapping

import jax

from transfer_gen import checkpoint
from transfer_gen import global_arrays
from transfer_gen import processes
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.transfer import restore


def params(
    assembled: assemble.Assembled,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, jax.Array]:
  """Reads or draws each leaf as its row says.

  Args:
    assembled: The run.
    shardings: Where each leaf is placed. If None, on the first device.
    progress: Called with the number of bytes that were read since its last call.
  """
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = dict.fromkeys(assembled.specs, device)
  _, init_key, restore_key = keys(assembled.run.seed)
  fresh = registry.fresh(assembled.model, init_key, shardings)
  found = restore.restore(
      assembled.rows, assembled.sources, fresh, shardings, restore_key, progress)
  if processes.count() > 1:
    # Each process has read them itself, maybe from other files under one path. Of a
    # leaf that is divided over them, each has read another part.
    processes.agree(checkpoint.digests_of(
        {name: value for name, value in found.items()
         if global_arrays.is_whole(value)}))
  return found


def keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the random keys of a run: for dropout, fresh leaves, and drawn rows."""
  # Each use has a key of its own, so that a transfer that draws more rows does not
  # change the dropout masks, and a run and its control stay comparable.
  return tuple(jax.random.split(jax.random.key(seed), 3))
