"""Compares the decoder with Hugging Face's GPT-2 in PyTorch: training and generation.

Both sides have the same architecture, random weights, shapes and number of threads.
Training uses no dropout, cross-entropy over all positions, gradients clipped by their
global norm, and AdamW.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional
import transformers

from benchmarks import our_step
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.generate import sampling
from transfer_gen.models import registry

GPT2_SMALL = config_lib.Decoder(
    vocab_size=50257, num_layers=12, width=768, num_heads=12, max_length=1024)
DECODER_256 = config_lib.Decoder(
    vocab_size=8192, num_layers=4, width=256, num_heads=4, max_length=256)
THREADS = 2

_RATE, _DECAY, _CLIP = 1e-4, 0.01, 1.0


def gpt2_small_over_torch() -> timing.Comparison:
  """Compares the time of a training step on 4 x 128 tokens."""
  return _compare_steps(GPT2_SMALL, (4, 128), rounds=7)


def decoder_256_over_torch() -> timing.Comparison:
  """Compares the time of a training step on 16 x 128 tokens."""
  return _compare_steps(DECODER_256, (16, 128), rounds=31)


def generate_256_over_hf() -> timing.Comparison:
  """Compares the time of generating 128 greedy tokens after a prompt of 16."""
  return _compare_generation(DECODER_256, rounds=9)


def generate_gpt2_small_over_hf() -> timing.Comparison:
  """Compares the time of generating 128 greedy tokens after a prompt of 16."""
  return _compare_generation(GPT2_SMALL, rounds=5)


def _compare_steps(config, shape, rounds):
  batch = our_step.random_batch(config.vocab_size, *shape)
  return timing.in_turns(
      our_step.make(config, batch), peer_step(peer(config), batch), rounds)


def peer_step(
    model: torch.nn.Module, batch: Mapping[str, np.ndarray]
) -> Callable[[], float]:
  """Returns a function that trains the peer for one step and returns the loss."""
  learning = [param for param in model.train().parameters() if param.requires_grad]
  optimizer = torch.optim.AdamW(learning, lr=_RATE, weight_decay=_DECAY)
  inputs, targets = (
      torch.from_numpy(batch[name].astype(np.int64)) for name in ("inputs", "targets"))

  def run():
    optimizer.zero_grad()
    logits = model(inputs, use_cache=False).logits
    loss = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learning, _CLIP)
    optimizer.step()
    return loss.item()  # Reading the value waits until the step is done.
  return run


def _compare_generation(config, rounds):
  prompt = np.random.default_rng(0).integers(0, config.vocab_size, 16).tolist()
  module = registry.build(config)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  nested = jax.tree.map(jnp.asarray, tree.unflatten(params))
  model = peer(config).eval()
  inputs = torch.tensor([prompt])

  def generate():
    [new] = sampling.generate(
        module, nested, [prompt], decoding=config_lib.Decoding(max_tokens=128))
    assert len(new) == 128

  def generate_as_peer():
    with torch.no_grad():
      text = model.generate(
          inputs, attention_mask=torch.ones_like(inputs), do_sample=False,
          min_new_tokens=128, max_new_tokens=128, use_cache=True, pad_token_id=0)
    assert text.shape == (1, 144)
  return timing.in_turns(generate, generate_as_peer, rounds)


def peer(config: config_lib.Decoder) -> transformers.GPT2LMHeadModel:
  """Returns the peer's model of the same sizes with random weights."""
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  return transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=config.vocab_size, n_positions=config.max_length,
      n_embd=config.width, n_layer=config.num_layers, n_head=config.num_heads,
      resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, eos_token_id=None,
      bos_token_id=None))
