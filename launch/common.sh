# shellcheck shell=bash
# What tpu_vm.sh and gke.sh share.

dry_run=false

# die CODE MESSAGE
die() {
  echo "${0##*/}: ${*:2}" >&2
  exit "$1"
}

need() { command -v "$1" >/dev/null || die 2 "$1 is missing: install it"; }

# The words as a shell reads them back, quoted only where they must be.
quote() {
  local word words=()
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@,+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  echo "${words[*]}"
}

# Runs a command, or prints it so that it can be pasted.
execute() {
  if $dry_run; then quote "$@"; else "$@"; fi
}

# check_flags FLAG…: what epsilon_vae.main would refuse anyway, but only once a TPU is paid for.
check_flags() {
  [[ " $*" == *" --config="* ]] ||
    die 2 "--config is missing: name a config after --, as -- --config=configs/sd_m.py"
  [[ " $*" == *" --workdir="* ]] ||
    die 2 "--workdir is missing: name a folder after --, as -- --workdir=gs://BUCKET/sd_m"
}

# check_name NAME COMMAND
check_name() {
  [[ $1 =~ ^[a-z][a-z0-9-]*$ ]] ||
    die 2 "'$1' is not a name: lower-case letters, digits and -, as launch/${0##*/} $2 sd-m"
}

# set_number --OPTION=VALUE: sets the variable `option`.
set_number() {
  [[ $1 =~ ^--([a-z-]+)=([0-9]{1,9})$ ]] || die 2 "$1 must be a whole number below 10^9"
  printf -v "${BASH_REMATCH[1]//-/_}" %s "$((10#${BASH_REMATCH[2]}))" # 08 is not octal
}
