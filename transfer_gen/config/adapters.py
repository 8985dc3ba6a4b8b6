"""Adapters: small params beside the kernels of a model, which learn in their place.

Each kind names kernels by a regex over whole leaf names, such as
`layer_0/attn/query/kernel`, and acts on all that it matches. Its own leaves stand
beside the kernel under the kernel's name, with `kernel` replaced. People type these
names as `config.LoRA` and so on.
"""

from collections.abc import Sequence
import dataclasses
import re

from transfer_gen import errors

_NAME = r"[a-z][a-z0-9]*"


class _Adapter:
  """What all kinds have in common: the names of their leaves."""
  PARTS: tuple[str, ...] = ()  # A leaf is `<name>_<part>`.

  @property
  def leaves(self) -> str:
    """Regex for whole names of its leaves."""
    return self.leaves_of(*self.PARTS)

  def leaves_of(self, *parts: str) -> str:
    """Regex for whole names of its leaves of some parts."""
    return (rf"(?:.*/)?(?:input_|recurrent_)?{self.name}_(?:{'|'.join(parts)})"
            r"(?:_\w+)?")

  def leaf(self, kernel: str, part: str) -> str:
    """The name of a leaf that stands beside a kernel: `a/kernel`, `a/lora_b`."""
    head, slash, last = kernel.rpartition("/")
    return head + slash + last.replace("kernel", f"{self.name}_{part}", 1)

  def _check(self, **holds: tuple[bool, str]) -> None:
    wrong = {field: what for field, (good, what) in holds.items() if not good}
    if not re.fullmatch(_NAME, self.name):
      wrong["name"] = "small letters and digits"
    try:
      for pattern in (self.params, getattr(self, "inputs", "")):
        re.compile(pattern)
    except re.error as error:
      raise errors.UserError(
          f"{type(self).__name__}: {pattern!r} is no regular expression:"
          f" {error}.") from error
    for field, what in wrong.items():
      raise errors.UserError(
          f"{type(self).__name__} {self.name!r}: {field} is {getattr(self, field)!r},"
          f" must be {what}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(_Adapter):
  """Low rank: x W becomes x W + s (x A) B, with B zero at first (Hu et al., 2021).

  Attributes:
    params: Regex for names of kernels.
    rank: r, columns of A and rows of B.
    alpha: s is alpha / r.
    dropout: Rate on what A reads, in [0, 1); not on tokens, nor on what recurrent
      cells read.
    scaling: `standard`, or `rslora`: s is alpha / sqrt(r) (Kalajdzievski, 2023).
    dora: Whether the columns of W + s A B are brought to learned norms (Liu et al.,
      2024). What is stored is their difference from the norms of W.
    name: Of its leaves: `lora_a` f32[*inputs, r], `lora_b` f32[r, *outputs], and
      `lora_magnitude` f32[*outputs].
  """
  params: str
  rank: int = 8
  alpha: float = 16.0
  dropout: float = 0.0
  scaling: str = "standard"
  dora: bool = False
  name: str = "lora"

  PARTS = ("a", "b", "magnitude")

  def __post_init__(self):
    self._check(
        rank=(self.rank > 0, "at least 1"), alpha=(self.alpha > 0, "positive"),
        dropout=(0 <= self.dropout < 1, "in [0, 1)"),
        scaling=(self.scaling in ("standard", "rslora"), "'standard' or 'rslora'"))

  @property
  def scale(self) -> float:
    """s."""
    root = self.scaling == "rslora"
    return self.alpha / (self.rank ** 0.5 if root else self.rank)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3(_Adapter):
  """A learned factor on each feature, one at first (Liu et al., 2022).

  Attributes:
    params: Regex for names of kernels whose outputs it scales, biases included.
    inputs: Regex for those whose inputs it scales.
    name: Of its leaf, `ia3_scale` f32[*outputs] or f32[*inputs].
  """
  params: str = r".*/attn/(key|value)/kernel"
  inputs: str = r".*/mlp/down/kernel"
  name: str = "ia3"

  PARTS = ("scale",)

  def __post_init__(self):
    self._check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(_Adapter):
  """A small hidden layer behind a layer: y + up(act(down(y))) (Houlsby et al., 2019).

  Attributes:
    params: Regex for names of the kernels that it stands behind. By habit the last
      one of each attention and of each hidden layer, as there.
    width: F, of the hidden layer.
    activation: `gelu` (by tanh), `relu`, `silu` or `tanh`.
    name: Of its leaves: `bottleneck_down` f32[*outputs, F], `bottleneck_up`
      f32[F, *outputs], zero at first, and their biases, `bottleneck_down_bias` and
      `bottleneck_up_bias`.
  """
  params: str = r".*/(attn/out|mlp/down)/kernel"
  width: int = 64
  activation: str = "gelu"
  name: str = "bottleneck"

  PARTS = ("down", "up")  # Their biases' names go on behind.

  def __post_init__(self):
    known = ("gelu", "relu", "silu", "tanh")
    self._check(width=(self.width > 0, "at least 1"), activation=(
        self.activation in known, f"one of {', '.join(known)}"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix(_Adapter):
  """Learned keys and values that every position sees (Li and Liang, 2021).

  They are params themselves, not the outputs of a further network. They take no
  positions: those of the text stay as they are.

  Attributes:
    params: Regex for names of the key kernels of attentions of a Decoder.
    length: P, how many.
    name: Of its leaves, `prefix_key` and `prefix_value` f32[P, G, K]; they belong to
      the attention: `layer_0/attn/prefix_key`.
  """
  params: str = r".*/attn/key/kernel"
  length: int = 16
  name: str = "prefix"

  PARTS = ("key", "value")

  def __post_init__(self):
    self._check(length=(self.length > 0, "at least 1"))

  def leaf(self, kernel: str, part: str) -> str:
    """The name of a leaf that belongs to the attention of a key kernel."""
    return f"{kernel.rpartition('/key/')[0]}/{self.name}_{part}"


KINDS = (LoRA, IA3, Bottleneck, Prefix)
Adapter = LoRA | IA3 | Bottleneck | Prefix


def leaves(adapters: Sequence[Adapter]) -> str:
  """Regex for whole names of the leaves of all of them."""
  return "|".join(adapter.leaves for adapter in adapters) or r"(?!)"
