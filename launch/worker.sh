#!/usr/bin/env bash
# The worker's part of launch/tpu_vm.sh: worker.sh install | run FLAGS… | status | stop SECONDS
#
# Whoever works holds a lock for as long as it lives, which says more than a pid: a pid may be
# another process's after a reboot, and a lock is held by training's children too.
set -euo pipefail

code=$HOME/epsilon_vae
venv=$HOME/epsilon_vae_venv
state=$HOME/epsilon_vae_run # log, pid, exit_code, stopped
uv=$HOME/.local/bin/uv

die() {
  echo "worker.sh on $(hostname): $*" >&2
  exit 1
}

take_lock() {
  exec 9>"$state/lock"
  flock --nonblock 9 || die "training runs already; stop it first"
}

is_running() { ! flock --nonblock "$state/lock" true; }

# The images of TPU VMs bring Python 3.10, and we need 3.11 or newer. uv brings one without root and
# without apt, whose lock a fresh VM's own upgrades hold for minutes.
install() {
  take_lock
  rm -rf "$code" "$state/pid"
  mv "$HOME/epsilon_vae.new" "$code"
  python3 -m pip install --user --quiet uv
  "$uv" venv --quiet --allow-existing --python 3.12 "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --editable "${code}[tpu,gcs]"
}

run() {
  [[ -x $venv/bin/python ]] || die "nothing is installed; run launch/tpu_vm.sh install first"
  take_lock
  rm -f "$state/pid" "$state/exit_code" "$state/stopped"
  setsid nohup bash "$code/launch/worker.sh" supervise "$@" >>"$state/log" 2>&1 </dev/null &
}

# Outlives a SIGTERM, as a shutdown sends it to all processes, to write down how training ended.
supervise() {
  trap : TERM
  cd "$code"
  echo "== $(date): $*"
  local exit_code=0
  # shellcheck disable=SC2016 # the inner shell is to expand these
  bash -c 'echo $$ >"$0" && exec "$@"' "$state/pid" \
    "$venv/bin/python" -m epsilon_vae.main "$@" || exit_code=$?
  echo "$exit_code" >"$state/exit_code"
  echo "== $(date): exit code $exit_code"
}

status() {
  local training
  if is_running; then
    training=running
  elif [[ -e $state/stopped && $(cat "$state/exit_code" 2>/dev/null) =~ ^(0|75)$ ]]; then
    training=stopped # by hand, and saved
  elif [[ -e $state/exit_code ]]; then
    training="ended $(<"$state/exit_code")"
  elif [[ -e $state/log ]]; then
    training=lost # the host went down under it
  else
    training=idle
  fi
  echo "training on $(hostname): $training"
}

# Lets training save, and waits until it ended.
stop() {
  touch "$state/stopped" # a watch is not to start it again, also if it just ended
  if is_running; then
    [[ ! -e $state/pid ]] || kill -TERM "$(<"$state/pid")"
    flock --wait "$1" "$state/lock" true || die "training still runs $1 s after SIGTERM"
  fi
  status
}

case ${1:-} in
  install | run | supervise | status | stop) mkdir -p "$state" && "$@" ;;
  *) die "'${1:-}' is not a command: install, run, status or stop" ;;
esac
