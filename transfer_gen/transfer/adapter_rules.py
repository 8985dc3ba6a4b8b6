"""Rules for the params of adapters: fresh ones, and those of another checkpoint."""

from collections.abc import Sequence
import dataclasses
import re

from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import plan as plan_lib


def fresh_adapters(adapters: Sequence[config_adapters.Adapter]) -> plan_lib.Rule:
  """Returns the rule under which adapters start as the identity.

  >>> from transfer_gen.config.adapters import LoRA
  >>> fresh_adapters((LoRA(name="style", params=".*", rank=4),)).source is None
  True

  Args:
    adapters: Adapters of the run.
  """
  return plan_lib.Rule(
      target=config_adapters.leaves(adapters), source=None,
      why="adapters start as the identity")


def stored_adapter(
    adapter: config_adapters.Adapter, checkpoint: str, name: str = ""
) -> tuple[plan_lib.Rule, str]:
  r"""Returns a rule that reads an adapter from a run's checkpoint or a PEFT folder.

  >>> from transfer_gen.config.adapters import LoRA
  >>> rule, unused = stored_adapter(LoRA(name="style", params=".*", rank=4), "old")
  >>> rule.checkpoint, rule.source
  ('old', '\\1\\2style_\\3\\4')

  Args:
    adapter: An adapter of the run.
    checkpoint: Name of the checkpoint in `Run.sources`.
    name: Name of the adapter in that checkpoint; in a PEFT folder it is `lora`. ""
      means that it has the same name there.

  Returns:
    The rule; and a pattern for the plan's `unused_source`, which covers everything
    else in a run's checkpoint. A PEFT folder needs no pattern; what else it holds are
    whole tensors in place of the model's, which a rule of their own reads.
  """
  stored = dataclasses.replace(adapter, name=name or adapter.name)
  parts = "|".join(adapter.PARTS)
  # An optional group that matches nothing expands to nothing, so one rule serves the
  # kernels of dense layers, of a cell's inputs and of its state alike.
  rule = plan_lib.Rule(
      target=rf"(.*/)?(input_|recurrent_)?{adapter.name}_({parts})(_\w+)?",
      source=rf"\1\2{stored.name}_\3\4", checkpoint=checkpoint)
  # A regex says "all but" with a lookahead. This one ends in `$`, so that a leaf whose
  # name only begins like an adapter's may stay unread, too.
  return rule, rf"{re.escape(checkpoint)}:(?!(?:{stored.leaves})$).*"
