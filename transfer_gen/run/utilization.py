"""How much of what devices could compute a training uses (MFU).

Model FLOPs are the matrix products of a step, as `train.step_cost` counts them: what is
frozen has no gradients, and what XLA computes again is not counted. A teacher's are
left out. They are compared with the makers' peaks for dense products in bfloat16,
whatever the dtype of a run is.
"""

from collections.abc import Mapping
from typing import Any

import jax

from transfer_gen.run import assembled as assembled_lib
from transfer_gen.train import combined
from transfer_gen.train import step_cost

# FLOP/s of one device as JAX counts them, by the beginning of its kind; the first that
# fits holds. Before v4, a device is one of the two cores of a chip.
# TPU: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm. GPUs: data sheets
# of NVIDIA, of which those with sparsity are halved.
PEAKS = {
    "TPU v2": 22.5e12, "TPU v3": 61.5e12, "TPU v4 lite": 138e12, "TPU v4": 275e12,
    "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12,
    "TPU7x": 1153.5e12, "NVIDIA A100": 312e12, "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12, "NVIDIA B200": 2250e12, "NVIDIA GB200": 2500e12,
    "NVIDIA L4": 121e12, "NVIDIA V100": 125e12, "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}


def peak(kind: str) -> float | None:
  """Returns the FLOP/s of a device, or None if its kind is not known.

  >>> peak("NVIDIA H100 80GB HBM3"), peak("NVIDIA H100 PCIe"), peak("cpu")
  (989000000000000.0, 756000000000000.0, None)

  Args:
    kind: As JAX calls it.
  """
  return next((flops for name, flops in PEAKS.items() if kind.startswith(name)), None)


class Meter:
  """Counts what the steps of a run would take of its devices at their peak."""

  def __init__(self, assembled: assembled_lib.Assembled):
    """Looks up the devices; traces nothing yet.

    Args:
      assembled: The run.
    """
    self._assembled = assembled
    peaks = [peak(device.device_kind) for device in jax.devices()]
    # Batches of `pmap` have an axis for the devices; no program here reads such.
    known = all(peaks) and assembled.run.parallel.mode != "pmap"
    self._flops_per_second = sum(filter(None, peaks)) if known else None
    self._counted: dict[Any, float] = {}

  def seconds(self, batch: Mapping[str, Any], step: int) -> float | None:
    """Returns the seconds of a step at the peak, or None if that is not known.

    Args:
      batch: The batch of the step, of all devices; only its shapes count.
      step: Number of steps before it.
    """
    if self._flops_per_second is None:
      return None
    # Steps of the same shapes in which the same groups learn cost the same.
    starts = self._assembled.optimizer.starts.values()
    key = (tuple((name, x.shape) for name, x in sorted(batch.items())),
           sum(start <= step for start in starts))
    if key not in self._counted:
      self._counted[key] = step_cost.of_step(
          self._assembled.specs, self._assembled.optimizer,
          combined.scoring(self._assembled.model, self._assembled.beginning),
          {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()},
          step).flops
    return self._counted[key] / self._flops_per_second
