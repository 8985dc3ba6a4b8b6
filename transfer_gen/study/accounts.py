"""What a run cost, and what it forgot of its source's text."""

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
    reader: reader_lib.Reader, steps: int, remembered: reader_lib.Data | None = None,
) -> dict[str, Any]:
  """The accounts of a run that has trained.

  Args:
    run: Its config, as it was typed.
    workdir: Its workdir.
    trained: What came of it, at the checkpoint that stands for it.
    reader: Has read the data of the study's runs.
    steps: How many steps it took.
    remembered: Text of the source, on whose test split the loss before and after is
      told. None: not told.

  Returns:
    `learning` (params, when most of them learn), `slot_bytes` (of the optimiser),
    `gflops_a_step` (a mean), `gflops` (of all its steps, and of storing features),
    `search_gflops` (of what an `auto` tried beside it); and with `remembered`, in bits
    per byte, `before` (as transferred, at step 0), `after`, and `forgetting`, their
    difference.
  """
  assembled = assemble.assemble(reader.read(auto.decided(run, workdir), workdir))
  run = assembled.run
  batch = next(assembled.data.train_batches(run.train.batch_size, run.seed))
  last = cost_lib.of_last_step(assembled, batch, steps)
  flops = cost_lib.of_run(assembled, steps)
  found = {"learning": last.learning, "slot_bytes": last.slot_bytes,
           "gflops_a_step": flops / steps / 1e9, "gflops": flops / 1e9,
           "search_gflops": auto.searched(workdir) / 1e9}
  if remembered is None or not run.all_sources():
    return found
  data = reader.data(remembered, trained.tokenizer, run.model)
  score = trained_lib.scorer(assembled.model)
  before, after = (
      score(params, data, "test", run.train.batch_size).metrics()["bits_per_byte"]
      for params in (initial.params(assembled), trained.params))
  return found | {"before": before, "after": after, "forgetting": after - before}
