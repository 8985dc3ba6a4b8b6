"""Greedy generation beside Hugging Face's `generate`: 128 tokens after 16, one row.

Run: python -m benchmarks.generation (about 2 minutes on 2 cores). A table, then one
line of JSON with the ratios of times, ours over the peer's.
"""

from benchmarks import decoder_peer
from benchmarks import timing


def main() -> None:
  """Measures and prints."""
  timing.report(
      decoder_peer.generate_256_over_hf, decoder_peer.generate_gpt2_small_over_hf)


if __name__ == "__main__":
  main()
