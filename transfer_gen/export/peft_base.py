"""Whether the model that a run's adapters adapt lies somewhere unchanged."""

from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import codec
from transfer_gen.maps import shipped
from transfer_gen.transfer import audit as audit_lib


# A leaf counts as unchanged if its row copies the run's one nameless source and its
# group never unfreezes. The rows are read from the workdir and not resolved again,
# since they say what the run did.
#
# The base's own path is returned only for files of Transformers, because PEFT loads the
# base through it; PEFT wants the folder, and a source may have been opened by a file.
def find(adapted: sources.Source) -> str | None:
  """Finds the folder of Transformers that a run's adapters can be loaded onto.

  Args:
    adapted: A checkpoint of a run with adapters.

  Returns:
    The folder of the run's source, if every leaf but those of adapters is copied from
    it and never learns; else None.
  """
  assert adapted.workdir is not None  # A checkpoint of a run has one.
  run = codec.read_run(adapted.workdir)
  leaves = config_adapters.leaves(adapted.adapters)
  rows = [row for row in audit_lib.read(adapted.workdir).rows
          if not tree.match([leaves], row.name)]
  if run.source is None or any(
      row.how != "copy" or row.checkpoint or row.unfreeze_step is not None
      for row in rows):
    return None
  base = sources.open(run.source.path, run.source.step, map_name=run.source.map,
                      vocabulary=run.source.vocabulary, unused=run.source.unused,
                      idle_fields=run.source.idle_fields)
  if base.path is None or not shipped.writes_back(base.view):
    return None
  return str(base.path if base.path.is_dir() else base.path.parent)
