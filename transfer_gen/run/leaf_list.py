"""What `inspect` lists of a checkpoint."""

from collections.abc import Mapping

from etils import epath

from transfer_gen import tree
from transfer_gen.run import heartbeat
from transfer_gen.transfer import table


def lines(path: epath.PathLike, title: str, specs: Mapping[str, tree.Spec]) -> str:
  """Returns title and leaves, and when a run that wrote them has last advanced.

  Args:
    path: Where the checkpoint was opened from.
    title: What it is.
    specs: Its leaves.
  """
  place = epath.Path(path)
  advanced = next(filter(None, map(
      heartbeat.sentence, (place, *list(place.parents)[:3]))), "")
  return "\n".join([title, *([advanced] if advanced else []), table.leaves(specs)])
