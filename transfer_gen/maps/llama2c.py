"""llama2.c: Llama whose layers are stacked and whose rotary pairs lie side by side."""

import struct

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds
from transfer_gen.formats import llama2c_bin
from transfer_gen.maps import architecture
from transfer_gen.maps import layouts

_BOS, _EOS = 1, 2
_BYTES = 2**27


def _model(raw: architecture.Raw) -> config_lib.Decoder:
  sizes = raw.facts
  return config_lib.Decoder(
      vocab_size=sizes["vocab_size"], num_layers=sizes["n_layers"], width=sizes["dim"],
      num_heads=sizes["n_heads"], num_kv_heads=sizes["n_kv_heads"],
      mlp_width=sizes["hidden_dim"], position="rotary", max_length=sizes["seq_len"],
      norm="rms", norm_epsilon=1e-5, activation="swiglu",
      tied=sizes["shared_classifier"], bias=False)


def _lines(raw: architecture.Raw, model: config_lib.Decoder) -> architecture.Map:
  del raw
  size = model.width // model.num_heads
  transpose = layouts.Transpose(perm=(1, 0))
  heads = lambda dim, count: layouts.Unflatten(dim=dim, shape=(count, size))
  # llama2.c turns neighbouring features, as Meta's own code does; here the two of a
  # pair lie half a head apart. Values have no positions and stay as they are.
  turned = layouts.Halve(dim=2)
  leaves = {
      "attn/query/kernel": ("wq", transpose, heads(1, model.num_heads), turned),
      "attn/key/kernel": ("wk", transpose, heads(1, model.num_kv_heads), turned),
      "attn/value/kernel": ("wv", transpose, heads(1, model.num_kv_heads)),
      "attn/out/kernel": ("wo", transpose, heads(0, model.num_heads)),
      # run.c computes w2(silu(w1 x) * w3 x), so w1 is the gate and w3 is `up`.
      "mlp/gate/kernel": ("w1", transpose), "mlp/down/kernel": ("w2", transpose),
      "mlp/up/kernel": ("w3", transpose), "attn_norm/scale": ("rms_att_weight",),
      "mlp_norm/scale": ("rms_ffn_weight",)}
  lines = [
      architecture.Line(
          target=f"layer_{layer}/{ours}", source=source,
          layout=layouts.Chain(parts=(layouts.Unstack(index=layer), *parts)))
      for ours, (source, *parts) in leaves.items() for layer in range(model.num_layers)]
  lines += [
      architecture.Line(target="embed/embedding", source="token_embedding_table"),
      architecture.Line(target="final_norm/scale", source="rms_final_weight")]
  if not model.tied:
    lines.append(architecture.Line(
        target="head/kernel", source="wcls", layout=transpose))
  # Sines and cosines of the rotary angles, which every model computes.
  return architecture.Map(lines=tuple(lines), unused=("freq_cis_(real|imag)",))


def _tokenizer(raw: architecture.Raw, model: config_lib.Decoder, repair: bool):
  del repair
  path = next((path for name in (f"tok{model.vocab_size}.bin", "tokenizer.bin")
               if (path := architecture.beside(raw, name))), None)
  if path is None:
    return None
  with architecture.malformed(path, "llama2.c tokenizer"):
    pieces = _pieces(path, model.vocab_size)
  return tokenizer_kinds.HuggingFace(_bpe(pieces)), ()


def _pieces(path: epath.Path, size: int) -> list[tuple[str, float]]:
  """Returns text and score of each token; the file has score, length, bytes of each."""
  if path.stat().length > _BYTES:
    raise errors.UserError(f"it is larger than {_BYTES} bytes.")
  # The first four bytes give the length of the longest token, which only C needs.
  data, at, pieces = architecture.read_bytes(path), 4, []
  for _ in range(size):
    score, length = struct.unpack_from("<fi", data, at)
    at += 8 + length
    if length < 0 or at > len(data):
      raise errors.UserError("a token's length leads out of the file.")
    pieces.append((data[at - length:at].decode("utf-8"), score))
  if at != len(data):
    raise errors.UserError(f"it has more tokens than the model's {size}.")
  return pieces


def _bpe(pieces: list[tuple[str, float]]):
  """Returns a BPE that merges by score, falls back to bytes, and prepends a space."""
  import tokenizers
  names = {0: "<unk>", _BOS: "<s>", _EOS: "</s>"}
  texts = [names.get(i, text) for i, (text, _) in enumerate(pieces)]
  ids = {text: i for i, text in enumerate(texts)}
  if len(ids) < len(texts):
    twice = next(text for i, text in enumerate(texts) if ids[text] != i)
    raise errors.UserError(f"the token {twice!r} stands there twice.")
  merges = []
  # llama2.c merges the pair whose result has the highest score. A BPE takes the first
  # merge of a list, so that merges in order of their scores do the same.
  for i in np.argsort([-score for _, score in pieces], kind="stable").tolist():
    # Special tokens and bytes (`<0x0A>`) are never the result of a merge.
    if i in names or (len(texts[i]) == 6 and texts[i].startswith("<0x")):
      continue
    splits = [(texts[i][:k], texts[i][k:]) for k in range(1, len(texts[i]))]
    merges += sorted((s for s in splits if s[0] in ids and s[1] in ids),
                     key=lambda s: (ids[s[0]], ids[s[1]]))
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
  bpe.normalizer = tokenizers.normalizers.Prepend(" ")
  bpe.decoder = tokenizers.decoders.Sequence([
      tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
      tokenizers.decoders.Strip(" ", 1, 0)])
  bpe.add_special_tokens(list(names.values()))
  return bpe


MAP = architecture.Architecture(
    name="llama2c", what="llama2.c .bin files, with tok<size>.bin or tokenizer.bin",
    recognizes=lambda raw: raw.kind == llama2c_bin.KIND, model=_model, lines=_lines,
    tokenizer=_tokenizer)
