"""`transfer-gen inspect`: lists the leaves of a checkpoint."""

from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.commands import flags
from transfer_gen.config import codec
from transfer_gen.transfer import table

# A word of its own, because an empty `--map` means the file's own names.
_DETECT = "auto"


def run(values: flags.Values) -> None:
  """Prints the title, with a map also the model's config, and a line per leaf."""
  # Without a map, the leaves are listed as the file names them, which also works for
  # architectures that are not known here.
  for flag in ("tokenizer", "output", "unused", "idle_field"):
    if getattr(values, flag) and not values.map:
      raise errors.UserError(
          f"--{flag} is for leaves under our names: add --map=auto, or remove it.")
  if not values.map:
    title, specs = sources.leaves(values.source, values.step)
    print(title)
    print(table.leaves(specs), end="")
    return
  name = "" if values.map == _DETECT else values.map
  corrected = {"unused": values.unused or (), "idle_fields": values.idle_field or ()}
  if values.output:
    print("\n".join(sources.write_map(
        values.source, values.output, name, **corrected)))
    return
  source = sources.open(
      values.source, values.step, vocabulary=values.vocabulary,
      tokenizer=values.tokenizer, map_name=name, **corrected)
  print(source.title)
  if model := source.model:
    print(f"model={codec.model_to_code(model)}")
  print(table.leaves(source.specs), end="")
