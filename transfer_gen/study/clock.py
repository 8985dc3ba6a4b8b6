"""How long a study has taken, over all its calls."""

import time
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import whole

_CALLS = "calls.json"  # In the workdir of a study: the seconds of each call.
_INSTEAD = "Delete it: nothing else is lost."


class Clock:
  """The time of one call of a study, beside that of the calls before it."""

  def __init__(self, workdir: epath.Path):
    """Begins a call; `workdir` is that of the study, and need not exist yet."""
    self._start, self._path = time.time(), workdir / _CALLS
    self._before = (
        whole.read_json(self._path, _parse, _INSTEAD) if self._path.exists() else [])

  def seconds(self) -> list[float]:
    """Returns the seconds of each call up to now, and stores them.

    A call that is killed counts up to the last time that this was called in it.
    """
    found = [*self._before, round(time.time() - self._start, 1)]
    self._path.parent.mkdir(parents=True, exist_ok=True)
    whole.write_json(self._path, found)
    return found


def _parse(calls: Any) -> list[float]:
  if not isinstance(calls, list) or not all(
      isinstance(seconds, (int, float)) and seconds >= 0 for seconds in calls):
    raise errors.UserError(f"not the seconds of each call of a study. {_INSTEAD}")
  return calls
