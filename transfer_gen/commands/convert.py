"""`transfer-gen convert`: writes a checkpoint in another format."""

from transfer_gen.commands import flags
from transfer_gen.export import convert as convert_lib


def run(values: flags.Values) -> None:
  """Converts, and prints what was written and what could not be."""
  print("\n".join(convert_lib.convert(
      values.source, values.output, values.to, values.map, values.step,
      values.vocabulary, values.tokenizer, values.unused or (),
      values.idle_field or (), values.dtype)))
