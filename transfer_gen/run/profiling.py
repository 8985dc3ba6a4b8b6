"""Records what the devices do in some steps of a training, for XProf."""

from typing import Any

from etils import epath
import jax

FOLDER = "profile"  # In a workdir.
_BEFORE = 2  # Steps that are left out: the first one compiles.


class Profile:
  """A recording of some steps, which a viewer such as XProf or TensorBoard opens.

  A machine of several processes has a file from each.

  Args:
    workdir: Workdir of the run; the recording lies in its folder `profile`.
    steps: Number of steps to record, after the second one of this call; 0: none.
  """

  def __init__(self, workdir: epath.Path, steps: int):
    self._folder, self._steps = workdir / FOLDER, steps
    self._taken, self._records = 0, False

  def after(self, outputs: Any) -> None:
    """Counts a step, which has returned these arrays; they may not be there yet."""
    self._taken += 1
    if self._steps and self._taken in (_BEFORE, _BEFORE + self._steps):
      # Devices lag behind: what they still do of other steps is not to be recorded.
      jax.block_until_ready(outputs)
      self.close()
      if self._taken == _BEFORE:
        jax.profiler.start_trace(str(self._folder))
        self._records = True

  def close(self) -> None:
    """Ends the recording, if there is one, and says where it is."""
    if self._records:
      self._records = False
      jax.profiler.stop_trace()
      print(f"profile: {self._folder}, of steps 3 to {self._taken} of this call;"
            f" open it with xprof --logdir={self._folder}", flush=True)
