import os

# With the TPU compiler installed, JAX would look for a TPU, loudly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
