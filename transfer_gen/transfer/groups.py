"""Recipes for groups: what learns, layer by layer from the top of the model."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import names
from transfer_gen.transfer import plan as plan_lib

# Adapters whose untrained value is not zero, such as one or the norm of a column:
# decay would pull them away from it.
_NO_DECAY = rf"{plan_lib.NO_DECAY}|.*_(bias|scale|magnitude)"
# Last, because it matches everything that no earlier group owns.
_REST = plan_lib.Group(name="rest", params=".*", unfreeze_step=None)
_Model = config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch
# A model's config, the specs of its params, or groups from the top to the bottom.
Target = _Model | Mapping[str, tree.Spec] | Sequence[plan_lib.Group]


def by_layer(target: _Model | Mapping[str, tree.Spec]) -> tuple[plan_lib.Group, ...]:
  """Returns one group per layer, from the top to the bottom, with equal settings.

  `head` holds everything after the last layer. `embed`, at the bottom, holds what the
  first layer reads: the token embedding and positions. A table that is also the output
  (tied) belongs to `head`, because a new vocabulary or task changes it first. An
  encoder's layers stand below those of the decoder, which reads them; its final norm
  belongs to its last layer. The layers of a model of drawings are its `decoder`, with
  what makes its first state of a latent, and its `encoder`.

  >>> model = config_lib.Decoder(num_layers=2, tied=False)
  >>> [group.name for group in by_layer(model)]
  ['head', 'layer_1', 'layer_0', 'embed']

  Args:
    target: A model's config, or the specs of its params, with leaves `layer_0/...` or
      those of a model of drawings.

  Raises:
    errors.UserError: If there are no layers.
  """
  leaves = list(target) if isinstance(target, Mapping) else names.outline(target)
  if names.DRAWN_LEAF in leaves:
    return _of_drawings(leaves)
  matches = [found[1] for leaf in leaves if (found := tree.match([names.LAYER], leaf))]
  found = dict.fromkeys(match.groups() for match in matches)
  if not found:
    raise errors.UserError(
        "by_layer: no param is called layer_0/... or x/layer_0/..., so there are no"
        " layers to make groups of. Write the groups with plan.Group.")
  # Decoder first, then encoder; within each, the highest layer first.
  layers = sorted(found, key=lambda at: (names.ENCODER in at[0], at[0], -int(at[1])))
  # Without an output kernel the token table is the output, so it belongs to `head`.
  inputs = (names.INPUT if _any(names.OUTPUT, leaves)
            else f"{names.ENCODER_TABLE}|{names.POSITION}")
  ends = {found[1][1] for leaf in leaves
          if (found := tree.match([names.ENCODER_END], leaf))}
  groups = [plan_lib.Group(
      name="head", params=f"(?!{names.LAYER_START}|{inputs}|{names.ENCODER_END}).*")]
  for prefix, number in layers:
    layer = names.layer(int(number))
    own, also = f"{layer}/", names.FINAL_NORM if prefix in ends else ""
    ends -= {prefix}  # Layers come from the top, so the first one is the last layer.
    groups.append(plan_lib.Group(
        name=f"{prefix}{layer}", params=re.escape(prefix) + (
            f"({own}|{also}).*" if also else f"{own}.*")))
  if _any(inputs, leaves):
    groups.append(plan_lib.Group(name="embed", params=inputs))
  return tuple(groups)


def discriminative(target: Target, factor: float = 2.6) -> tuple[plan_lib.Group, ...]:
  """Lets each layer learn `factor` times slower than the layer above it.

  From ULMFiT (Howard and Ruder, 2018, section 3.2): eta^(l-1) = eta^l / 2.6.

  >>> model = config_lib.Decoder(num_layers=2, tied=False)
  >>> [group.lr_mult for group in discriminative(model, factor=2.0)]
  [1.0, 0.5, 0.25, 0.125]

  Args:
    target: As for `by_layer`; or groups of another recipe, from the top to the bottom.
    factor: Ratio of the learning rates of neighbouring layers, above 0.

  Raises:
    errors.UserError: If `factor` is not positive.
  """
  if not factor > 0:
    raise errors.UserError(f"discriminative: factor is {factor}, must be > 0.")
  return tuple(
      dataclasses.replace(group, lr_mult=group.lr_mult / factor ** below)
      for below, group in enumerate(_groups(target)))


def gradual_unfreezing(target: Target, every: int) -> tuple[plan_lib.Group, ...]:
  """Lets the top learn from the first step, and one more layer every `every` steps.

  From ULMFiT (Howard and Ruder, 2018, section 3.3), which combines it with
  `discriminative`:

  >>> model = config_lib.Decoder(num_layers=2, tied=False)
  >>> groups = gradual_unfreezing(discriminative(model), every=100)
  >>> [group.unfreeze_step for group in groups]
  [0, 100, 200, 300]

  Args:
    target: As for `by_layer`; or groups of another recipe, from the top to the bottom.
      Groups that never learn stay frozen, and the next group takes their turn.
    every: Number of steps between two layers, at least 1.

  Raises:
    errors.UserError: If `every` is not positive.
  """
  if every < 1:
    raise errors.UserError(f"gradual_unfreezing: every is {every}, must be > 0.")
  groups, turn = [], 0
  for group in _groups(target):
    if group.unfreeze_step is not None:
      group = dataclasses.replace(group, unfreeze_step=turn * every)
      turn += 1
    groups.append(group)
  return tuple(groups)


def low_rank(
    adapters: Sequence[config_adapters.Adapter], ratio: float = 1.0
) -> tuple[plan_lib.Group, ...]:
  """Lets adapters learn and freezes everything else.

  >>> adapters = (config_adapters.LoRA(name="style", params=".*", rank=4),)
  >>> [(group.name, group.lr_mult, group.unfreeze_step)
  ...  for group in low_rank(adapters, ratio=16.0)]
  [('lora_plus', 16.0, 0), ('adapters', 1.0, 0), ('rest', 1.0, None)]

  Args:
    adapters: Adapters of the run.
    ratio: Learning rate of the factors B of `LoRA` divided by that of the factors A,
      above 0; about 16 for wide models: LoRA+ (Hayou et al., 2024).

  Raises:
    errors.UserError: If there are no adapters, or `ratio` is not positive.
  """
  if not adapters:
    raise errors.UserError("low_rank: there are no adapters. Set the run's adapters.")
  fast = "|".join(adapter.leaves_of("b") for adapter in adapters
                  if isinstance(adapter, config_adapters.LoRA))
  groups = (plan_lib.Group(name="adapters", params=config_adapters.leaves(adapters),
                           no_decay=_NO_DECAY), _REST)
  # `resolve` refuses a group that owns no leaf, and only LoRA has factors B.
  if ratio == 1 or not fast:
    return groups
  # Before the group of all adapters, because the first group that matches wins.
  return (plan_lib.Group(name="lora_plus", params=fast, lr_mult=ratio), *groups)


def bitfit() -> tuple[plan_lib.Group, ...]:
  """Lets biases learn and freezes everything else: BitFit (Ben Zaken et al., 2022).

  Biases of norms learn, too.

  >>> [group.name for group in bitfit()]
  ['biases', 'rest']
  """
  return (plan_lib.Group(name="biases", params=names.BIAS), _REST)


def _of_drawings(leaves: Sequence[str]) -> tuple[plan_lib.Group, ...]:
  own = {name: params for name, params in names.DRAWN.items() if _any(params, leaves)}
  return (plan_lib.Group(name="head", params=f"(?!{'|'.join(own.values())}).*"), *(
      plan_lib.Group(name=name, params=params) for name, params in own.items()))


def _groups(target: Target) -> tuple[plan_lib.Group, ...]:
  # Recipes take each other's groups, which is how they are combined.
  if isinstance(target, Sequence):
    return tuple(target)
  return by_layer(target)


def _any(pattern: str, leaves: Sequence[str]) -> bool:
  return any(tree.match([pattern], leaf) for leaf in leaves)
