"""What a run reads from outside: checkpoints, texts and a tokenizer."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import sources as sources_lib
from transfer_gen.data import pipeline
from transfer_gen.models import registry
from transfer_gen.run import checks
from transfer_gen.transfer import vocabulary

Run, Strategy = config_lib.Run, config_lib.Strategy
Model, Prepared = registry.Model, pipeline.Prepared
Source, Specs, Tokenizer = sources_lib.Source, sources_lib.Specs, sources_lib.Tokenizer
ask = sources_lib.ask  # For the vocabulary that a source lacks.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What runs read that differ in nothing but how they learn.

  Attributes:
    run: Config of the run, with the vocabulary size filled in.
    sources: Checkpoints by their names in the plan; no array was read.
    data: Tokenized splits, and the tokenizer.
    validation: The texts of the validation split.
    remembered: Tokenized splits of `Run.remembered`; None if it names none.
    notes: Lines that show the user what was decided where the config is open.
  """
  run: config_lib.Run
  sources: Mapping[str, sources_lib.Source]
  data: pipeline.Prepared
  validation: Sequence[pipeline.Document] = ()
  remembered: pipeline.Prepared | None = None
  notes: Sequence[str] = ()

  @property
  def constants(self) -> dict[str, Any]:
    """What the run's model computes beside its params, by name."""
    return registry.constants(self.run.model)

  def describe_data(self) -> list[str]:
    """Returns lines for the user: how texts were read, and what was left out and why.

    Every document that was read is counted: it is kept, or it is in one of the causes.
    """
    facts = self.data.facts
    lines = [f"data: {note}" for note in facts.get("notes", ())]
    for split, counts in facts["splits"].items():
      dropped = ", ".join(f"{count:,} {cause.replace('_', ' ')}"
                          for cause, count in counts.get("dropped", {}).items())
      cut = f"; {counts['cut']:,} cut to {self.run.data.length} tokens" if (
          counts.get("cut")) else ""
      ending = "" if counts["kept"] == 1 else "s"
      lines.append(f"data: {split}: {counts['kept']:,} document{ending}"
                   + (f"; left out: {dropped}" if dropped else "") + cut)
    return lines

  def vocabularies(self) -> dict[str, vocabulary.Vocabulary]:
    """Vocabularies of the sources that have one, by name in the plan, and the target's.

    The target's stands under `vocabulary.TARGET`, and counts how often each token
    stands in the training split.
    """
    tokenizer = self.data.tokenizer
    own = self.data.encoder_tokenizer
    found = {name: source.vocabulary for name, source in self.sources.items()}
    return {
        **{name: words for name, words in found.items() if words is not None},
        vocabulary.TARGET: vocabulary.Vocabulary(
            tokens=tokenizer.tokens, roles=tokenizer.roles, special=tokenizer.special,
            counts=self.data.token_counts, encoder=None if own is None else (
                vocabulary.Vocabulary(
                    tokens=own.tokens, roles=own.roles, special=own.special,
                    counts=self.data.encoder_token_counts)))}

  def with_run(self, run: config_lib.Run) -> "Inputs":
    """Returns the same inputs for a run that reads the same and learns otherwise."""
    # Both read the same data, so what was chosen from it holds for either.
    filled = dataclasses.replace(run.with_choices_of(self.run), model=self.run.model)
    checks.check(run)
    checks.check(filled)  # Its model is known, where `run` takes that of a source.
    return dataclasses.replace(self, run=filled)
