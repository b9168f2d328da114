#!/usr/bin/env bash
# The whole road on one machine: an autoencoder, its latents, a generator of them, samples, a page.
#
#   examples/end_to_end.sh DIR [short]
#
# Trains on the embedded photos: some 33 minutes of CPU time, on two cores under 30 by the clock; short
# shows in some 3 that all parts work together, and no more. Stopped, it resumes when called again.
set -euo pipefail
cd "$(dirname "$0")/.."
directory="${1:?a folder to write: examples/end_to_end.sh DIR [short]}"

autoencoder_steps=1000 generator_steps=3000 num_images=256
if [[ "${2:-}" == short ]]; then
  autoencoder_steps=20 generator_steps=20 num_images=20
fi

python -m epsilon_vae.main --config=configs/tiny.py --workdir="$directory/tiny" \
  --config.num_steps="$autoencoder_steps"
python -m epsilon_vae.encode --workdir="$directory/tiny" --data=photos --output="$directory/latents"
python -m epsilon_vae.main --config=configs/dit_tiny.py --workdir="$directory/dit_tiny" \
  --config.num_steps="$generator_steps" --config.data.path="$directory/latents" \
  --config.autoencoder.workdir="$directory/tiny"
python -m epsilon_vae.generate --workdir="$directory/dit_tiny" --num="$num_images" \
  --output="$directory/samples"
python -m epsilon_vae.evaluate --samples="$directory/samples/images" --reference=photos \
  --protocol=local,features=alexnet --output="$directory/evaluation"
