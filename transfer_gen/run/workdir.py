"""What a run writes into its workdir before it trains."""


from etils import epath

from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.run import device_table
from transfer_gen.run import environment
from transfer_gen.run import ownership
from transfer_gen.run import plan_files


def claim(
    assembled: plan_files.Assembled, workdir: epath.PathLike,
    min_coverage: float = 0.0,
) -> None:
  """Makes a workdir belong to a run, or checks that it does.

  Args:
    assembled: The run.
    workdir: Its workdir.
    min_coverage: Share of the target's params that must come from a source, in [0, 1].

  Raises:
    errors.UserError: If the workdir belongs to another config (the message lists the
      fields that differ) or to another plan (it lists the rows), or if less of the
      target comes from a source, or if a device cannot hold the run.
  """
  plan_files.write_audit(assembled, workdir, min_coverage)
  if devices := device_table.write(assembled, workdir):
    print(*devices, sep="\n", flush=True)
  workdir = epath.Path(workdir)
  # `write_audit` has compared config, plan and texts with what is there. The files
  # below stay those that the run began with.
  if ownership.is_claimed(workdir):
    return
  folder = workdir / tokenizers.FOLDER
  assembled.data.tokenizer.save(folder)
  for name, tokenizer in assembled.source_tokenizers.items():
    tokenizer.save(folder / (f"source_{name}" if name else "source"))
  whole.write_json(workdir / ownership.DATA, assembled.data.facts)
  whole.write_json(workdir / environment.FILE, environment.describe())
  whole.seal(folder)
  # Last: with it, the workdir is claimed.
  ownership.claim(workdir, assembled)
