#!/usr/bin/env bash
# Everything that wants a GPU, meant for half an hour: benchmarks/gpu.sh OUT [PART…]
#
# Parts, all by default: start (seconds to the first step, twice), train, torch (against PyTorch),
# kernels (each with its operation), decode, parity. OUT/log.txt has what they print, OUT/trace
# the kernels' trace. CONFIG=sd_m and BATCH_SIZES=64,128,256 can be set; PyTorch, diffusers and
# pytest are needed for torch, decode and parity. A part that fails does not stop the next one.
set -uo pipefail

out="$(realpath -m "${1:?benchmarks/gpu.sh OUT [PART…]}")"
shift
mkdir -p "$out"
cd "$(dirname "$0")/.." || exit
exec > >(tee -a "$out/log.txt") 2>&1
config="${CONFIG:-sd_m}" sizes="${BATCH_SIZES:-64,128,256}"
batch="$(cut -d, -f2 <<<"$sizes,$sizes")"  # the second size, or the only one
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

run() {  # SECONDS COMMAND…
  echo "== ${*:2}"
  local started=$SECONDS
  timeout "$1" "${@:2}"
  echo "== code $?, $((SECONDS - started)) s"
}
train() {  # SECONDS FLAGS…
  run "$1" python3 -m benchmarks.train_speed --config="$config" "${@:2}"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
programs="${XDG_CACHE_HOME:-$out/cache}"
for part in "${@:-start train torch kernels decode parity}"; do
  for name in $part; do
    export XDG_CACHE_HOME="$programs"
    case "$name" in
      start)
        XDG_CACHE_HOME="$(mktemp -d)"
        train 300 --batch_sizes="$batch" --rounds=3 --longest=0
        train 120 --batch_sizes="$batch" --rounds=3 --longest=0
        ;;
      train) train 540 --batch_sizes="$sizes" ;;
      torch) train 480 --batch_sizes="$batch" --rounds=20 --longest=0 --against=torch ;;
      kernels)
        # What a CUDA graph starts does not say of which operation it is.
        XLA_FLAGS="--xla_gpu_enable_command_buffer=" \
          train 360 --batch_sizes="$batch" --longest=60 --trace="$out/trace"
        ;;
      decode) run 580 python3 -m benchmarks.decode_speed ;;
      parity) run 400 python3 -m pytest -q -p no:cacheprovider tests/parity ;;
      *) echo "no such part: $name" ;;
    esac
  done
done
