"""What a run cost, and what it forgot of its source's text."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import reader as reader_lib
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import auto
from transfer_gen.study import cost as cost_lib


def describe(
    run: reader_lib.Run, workdir: epath.PathLike, trained: trained_lib.Trained,
    reader: reader_lib.Reader, steps: Sequence[int],
) -> dict[str, Any]:
  """Returns what a run cost, and what it forgot.

  Args:
    run: Config of the run, as the user wrote it.
    workdir: Workdir of the run.
    trained: The checkpoint that stands for the run.
    reader: Has read the data of the study's runs.
    steps: Numbers of steps after which its cost is asked for. The largest is the number
      of steps that the run took.

  Returns:
    `learning` (number of params, when most of them learn), `slot_bytes` (size of the
    optimizer state), `gflops_a_step` (mean), `gflops` (of all steps, and of storing
    features), `gflops_at` (of the first `steps`, each) and `search_gflops` (of what an
    `auto` search tried beside the run). With `Run.remembered`, in bits per byte, also
    `before` (as transferred, at step 0), `after`, and `forgetting`, their difference.
  """
  assembled = assemble.assemble(reader.read(auto.decided(run, workdir), workdir))
  run = assembled.run
  batch = next(assembled.data.train_batches(run.train.rows, run.seed))
  last = cost_lib.of_last_step(assembled, batch, max(steps))
  at = [flops / 1e9 for flops in cost_lib.of_steps(assembled, steps)]
  found = {"learning": last.learning, "slot_bytes": last.slot_bytes,
           "gflops_a_step": max(at) / max(steps), "gflops": max(at), "gflops_at": at,
           "search_gflops": auto.searched(workdir) / 1e9}
  data = assembled.inputs.remembered
  if data is None:
    return found
  score = trained_lib.scorer(assembled.model)
  before, after = (
      score(params, data, "test", run.train.rows).across_tokens
      # `before` is measured on the target as it starts, with the transferred
      # vocabulary, and not on the source itself: what the transfer lost is not counted
      # as forgotten.
      for params in (initial.params(assembled), trained.params))
  return found | {"before": before, "after": after, "forgetting": after - before}
