"""Translates with an LSTM that attends: from scratch, or from language models.

A language model of the inputs' language may begin the encoder, and one of the targets'
language the decoder (Ramachandran et al., 2017): `--config.sources.encoder.path=A` and
`--config.sources.decoder.path=B`. One that learned the inputs' language from right to
left, with `--config.data.reverse=True`, may begin the encoder's cells that read so:
`--config.sources.backward.path=C`.
`--config.source.path=A` begins the decoder and the encoder's cells that read from left
to right, or with an earlier run of this recipe the whole model. The rest is drawn, and
new inputs of the language models' cells begin at zero, so that these compute what they
did.
"""

import functools

from transfer_gen import errors
from transfer_gen.config import Data, Decoding, Optim, Recurrent, Run, Tokenizer, Train
from transfer_gen.run import open_sources
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, TransferPlan

_SIDES = ("encoder", "backward", "decoder")
_ALL = (Group(name="all", params=".*"),)


def get_config() -> Run:
  """Returns the run; `data.train` has to be set, e.g. to `corpus.en|corpus.de`."""
  return Run(
      # As Luong et al. (2015), with an encoder that reads both ways.
      model=Recurrent(
          cell="lstm", num_layers=2, embed_width=256, hidden_width=256, encoder=True,
          bidirectional=True, bridge="linear", encoder_attention="general",
          input_feeding=True, dropout=0.3),
      tokenizer=Tokenizer(kind="bpe", size=0), transfer=plan,
      data=Data(name="files", input_field="input", target_field="target", length=0),
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5),
      decoding=Decoding(beams=4))


def plan(run: Run) -> TransferPlan | None:
  """Returns the plan that begins each side with its language model, if it has one.

  Raises:
    errors.UserError: If a source can begin no side of the model.
  """
  sources = {name: open_sources.one(_field(name), one)
             for name, one in run.all_sources().items()}
  models = {name: source.model for name, source in sources.items()}
  if not models:
    return TransferPlan(rules=(Rule(target=".*", source=None, why="drawn"),),
                        groups=_ALL)
  if set(models) == {""} and getattr(models[""], "encoder", False):
    return None  # An earlier run of this kind: every leaf from the leaf of its name.
  _check(run, models)
  _check_directions(sources)
  rules: list[Rule] = []
  unused: list[str] = []
  write = {"encoder": _encoder, "decoder": _decoder, "backward": functools.partial(
      _backward, reads_embed="encoder" not in models and "" not in models,
      why="a language model from right to left" if (
          "backward" in models and sources["backward"].reverse) else
      "taken for a language model from right to left, which its files do not say")}
  for side in _SIDES:
    # What reads from right to left begins with no model of the other direction.
    name = side if side in models or side == "backward" else ""
    if name in models:
      mine, left = write[side](run.model, models[name], name)
      rules += mine
      # What one side leaves, the other one may read, if both begin with one model.
      unused += left if name or side == "decoder" else ()
  return TransferPlan(
      rules=(*rules, Rule(target=".*", source=None, why="drawn")), groups=_ALL,
      axes=() if run.tokenizer.kind == "source" else (
          On(axis="vocab", map=MatchTokens()),),
      unused_source=tuple(unused), may_differ=("encoder", "bidirectional"))


def _check(run, models):
  """Refuses sources that can begin no side of the model."""
  known = [_field(side) for side in _SIDES]
  for name, model in models.items():
    field = _field(name)
    if name not in ("", *_SIDES):
      raise errors.UserError(
          f"recipe:attention knows the sources {', '.join(known)} and not {field}.")
    alone = isinstance(model, Recurrent) and not (
        model.encoder or model.window or model.attention)
    if not alone:
      raise errors.UserError(
          f"recipe:attention: {field} is no recurrent language model that reads text"
          " once and in one direction, so it can begin no side of the model.")
    mine, theirs = ([(m.cell, m.embed_width, width) for width in widths]
                    for m, widths in ((run.model, _widths(run.model, name)),
                                      (model, model.widths)))
    if mine != theirs:
      raise errors.UserError(
          f"recipe:attention: {field} has layers (cell, embed_width, width) {theirs},"
          f" and the model {mine}. Set model.cell, model.num_layers, model.embed_width"
          " and model.hidden_width to those of the source.")
  if "backward" in models and not run.model.bidirectional:
    raise errors.UserError(
        "recipe:attention: sources.backward begins what reads from right to left, and"
        " with model.bidirectional=False nothing does. Leave one of them out.")
  if {"", "encoder", "decoder"} <= set(models):
    raise errors.UserError(
        "recipe:attention: source is read by neither side, since sources.encoder and"
        " sources.decoder are set. Leave it out.")


def _check_directions(sources):
  """Refuses language models that are known to read in another direction."""
  for name, source in sources.items():
    wanted = name == "backward"
    if source.reverse is not None and source.reverse != wanted:
      raise errors.UserError(
          f"recipe:attention: {_field(name)} is a run with"
          f" data.reverse={source.reverse}, and what it is to begin reads"
          + (" from right to left. Train one with data.reverse=True." if wanted else
             " from left to right. Give it as sources.backward, or train one with"
             " data.reverse=False."))


def _field(name):
  return f"sources.{name}" if name else "source"


def _widths(model, name):
  return model.widths if name in ("", "decoder") else model.encoder_widths


def _encoder(model, source, name):
  """Returns rules for the encoder, and what it leaves of its source."""
  rules = [Rule(target=r"encoder/(embed/.*|layer_\d+/cell/(?!input_kernel_b).*)",
                source=r"\1", checkpoint=name, why="a language model of the inputs")]
  if model.bidirectional and model.num_layers > 1:
    rules.append(Rule(
        target=r"encoder/layer_\d+/cell/input_kernel_backward", source=None,
        fresh="zeros", why="what the language model did not read"))
  return rules, [_named(name, r"(head|dense)/.*")]


def _backward(model, source, name, reads_embed, why):
  """Returns rules for the cells that read backwards, and what they leave."""
  del source
  cell = r"encoder/layer_{}/backward/"
  rules = [
      Rule(target=cell.format("(0)") + "(.*)", source=r"layer_\1/cell/\2",
           checkpoint=name, why=why),
      Rule(target=cell.format(r"(\d+)") + "(recurrent_kernel|bias)",
           source=r"layer_\1/cell/\2", checkpoint=name, why=why)]
  # Above the first layer, what read from right to left is the second input.
  if model.num_layers > 1:
    rules += [
        Rule(target=cell.format(r"(\d+)") + "input_kernel_backward",
             source=r"layer_\1/cell/input_kernel", checkpoint=name, why=why),
        Rule(target=cell.format(r"\d+") + "input_kernel", source=None, fresh="zeros",
             why="what the language model did not read")]
  if reads_embed:
    return [*rules, Rule(target="encoder/(embed/.*)", source=r"\1", checkpoint=name,
                         why=why)], [_named(name, r"(head|dense)/.*")]
  return rules, [_named(name, r"(head|dense|embed)/.*")]


def _decoder(model, source, name):
  """Returns rules for the decoder, and what it leaves of its source."""
  rules = [Rule(target=r"(embed/.*|layer_\d+/cell/(?!input_kernel_[cf]).*)",
                source=r"\1", checkpoint=name, why="a language model of the targets")]
  if model.input_feeding or model.encoder_attention == "additive":
    rules.append(Rule(
        target=r"layer_0/cell/input_kernel_(context|feed)", source=None, fresh="zeros",
        why="what the language model did not read"))
  # Its output reads the last state. It fits where the model's output does so, too.
  reads_state = model.attention_output != "hidden" and not model.dense_width
  if reads_state and not source.dense_width:
    rules.append(Rule(target="(head/(kernel|bias))", source=r"\1", checkpoint=name,
                      why="a language model of the targets"))
    if model.attention_output != "state":
      rules.append(Rule(target="head/kernel_(context|embed)", source=None,
                        fresh="zeros", why="what the language model did not read"))
    return rules, []
  return rules, [_named(name, r"(head|dense)/.*")]


def _named(checkpoint, pattern):
  return f"{checkpoint}:{pattern}" if checkpoint else pattern
