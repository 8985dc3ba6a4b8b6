"""Eight simulated devices, strict ranks, one compilation cache, the same examples."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis  # pylint: disable=wrong-import-position
import jax  # pylint: disable=wrong-import-position

hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    str(pathlib.Path(__file__).parent.parent / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
