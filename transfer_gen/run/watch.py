"""What is measured of a training beside its metrics: use, memory, time, progress."""

from collections.abc import Mapping
import contextlib
import resource
from typing import Any

from etils import epath
import jax

from transfer_gen import processes
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import environment
from transfer_gen.run import heartbeat
from transfer_gen.run import profiling
from transfer_gen.run import utilization


class Watch:
  """Watches a training from its first step in this process to its last."""

  def __init__(
      self, assembled: assembled_lib.Assembled, workdir: epath.Path, done: int,
      profile: int):
    """Begins to watch.

    Args:
      assembled: The run.
      workdir: Its workdir.
      done: Number of steps that were taken before.
      profile: Number of steps to record for XProf, see `profiling.Profile`.
    """
    self._workdir, self._meter = workdir, utilization.Meter(assembled)
    self._profile = profiling.Profile(workdir, profile)
    self._heartbeat = heartbeat.Heartbeat(workdir, done)

  def after(
      self, step: int, batch: Mapping[str, Any], metrics: Mapping[str, Any]
  ) -> float | None:
    """Notes a step that was asked for.

    Args:
      step: Its number, from 1.
      batch: Its batch.
      metrics: What it returned; may not be computed yet.

    Returns:
      Seconds that it would take if the devices reached their peaks. None if these are
      not known.
    """
    self._profile.after(metrics)
    self._heartbeat.after(step, metrics["loss"][0])
    return self._meter.seconds(batch, step - 1)

  def doing(self, what: str) -> contextlib.AbstractContextManager[None]:
    """Says that the body is no training, see `Heartbeat.doing`."""
    return self._heartbeat.doing(what)

  def close(self) -> None:
    """Ends all of it, and writes what was measured into environment.json."""
    self._profile.close()
    self._heartbeat.close()
    # Without waiting for the others, of which one may have failed.
    if processes.is_first():
      environment.add(self._workdir, {
          "compile_seconds": round(self._heartbeat.compile_seconds, 1), **memory()})


def memory() -> dict[str, int]:
  """Returns the peak memory of the devices of this process, or else of the process.

  Of devices that say it, the one that needed most counts.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
  if peaks:
    return {"peak_device_bytes": max(peaks)}
  return {"peak_host_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
