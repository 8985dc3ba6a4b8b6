"""Makes an encoder-decoder of two trained models, and learns pairs.

Set `--config.source.path='ENCODER|DECODER'`, such as two folders of BERT, or of BERT
and GPT-2 (Rothe et al., 2020). The cross-attention between them is new. With one
encoder on both sides, `--config.model.shared=True` lets them share their blocks.
`ENCODER|` or `|DECODER` begins one side alone, and draws the other but for its table.
"""

from typing import Any

from transfer_gen import errors
from transfer_gen.config import Data, Decoding, Optim, Run, Tokenizer, Train
from transfer_gen.run import open_sources
from transfer_gen.transfer import structure
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, TransferPlan


def get_config() -> Run:
  """Returns the run; `data.train` and `source.path` have to be set."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", input_field="input", target_field="target", length=0),
      transfer=plan, optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5),
      decoding=Decoding(beams=4))


def plan(run: Run) -> TransferPlan:
  """Returns the plan that reads both sides and draws what is between them."""
  if run.source is None or "|" not in run.source.path:
    raise errors.UserError(
        "recipe:warm_start needs the two models to start from: set"
        " --config.source.path='ENCODER|DECODER', or one side alone: 'ENCODER|'.")
  pair: Any = open_sources.one("source", run.source)
  source = pair.model
  shared = getattr(run.model, "shared", False)
  drawn = next((side for side in ("encoder", "decoder")
                if getattr(pair, side, pair) is None), "")
  if drawn and shared:
    raise errors.UserError(
        f"recipe:warm_start: model.shared is True, and the source has no {drawn}. Name"
        " its checkpoint on both sides of the bar, or leave model.shared out.")
  return TransferPlan(
      # "self" in place of "fresh" copies the cross-attention from the self-attention.
      rules=structure.warm_start(run.model, cross="fresh", source=source, drawn=drawn),
      # Another vocabulary than the sources' is matched by token, on each side.
      axes=() if run.tokenizer.kind == "source" else (
          On(axis="vocab", map=MatchTokens(fresh="pieces")),),
      # Of blocks that both sides share, those of the decoder's checkpoint are taken.
      unused_source=tuple(
          name for name in pair.specs if shared and name.startswith("encoder/")),
      groups=(Group(name="all", params=".*"),))
