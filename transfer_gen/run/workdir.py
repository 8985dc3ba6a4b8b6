"""What a run leaves: who owns a workdir, its records and its metrics."""


from etils import epath

from transfer_gen.data import tokenizers
from transfer_gen.formats import whole
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import environment
from transfer_gen.run import ownership
from transfer_gen.run import plan_files


def claim(
    assembled: assembled_lib.Assembled, workdir: epath.PathLike,
    min_coverage: float = 0.0,
) -> None:
  """Makes the workdir this run's, or sees that it is.

  Raises:
    errors.UserError: If it belongs to another config, said key by key, or to another
      plan, said row by row; if the plan covers too little, see `write_audit`.
  """
  plan_files.write_audit(assembled, workdir, min_coverage)
  workdir = epath.Path(workdir)
  if ownership.is_claimed(workdir):
    return
  folder = workdir / tokenizers.FOLDER
  assembled.data.tokenizer.save(folder)
  for name, tokenizer in assembled.source_tokenizers.items():
    tokenizer.save(folder / (f"source_{name}" if name else "source"))
  whole.write_json(workdir / ownership.DATA, assembled.data.facts)
  whole.write_json(workdir / "environment.json", environment.describe())
  # Last: with it, the workdir is claimed.
  ownership.claim(workdir, assembled)
