#!/usr/bin/env bash
# Trains on Cloud TPU VMs. See usage below, and launch/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'USAGE'
launch/tpu_vm.sh COMMAND NAME [OPTION…] [-- FLAGS of epsilon_vae.main]

  create    make a TPU now          install  this commit onto all workers, in a venv
  queue     ask for one, and wait   run      start training on all workers, detached
  delete    delete it               log      follow a worker's log
                                    status   of the TPU and of training on each worker
                                    stop     SIGTERM, so that training saves; wait for its end
  watch     queue, install, run; again whenever the TPU is preempted (exit code 75); at most
            --max-failures times after another failure; never after 0 or 2

  --zone=ZONE               or CLOUDSDK_COMPUTE_ZONE
  --project=PROJECT         or gcloud's own
  --accelerator-type=TYPE   as v5litepod-16; for create, queue, watch
  --runtime-version=IMAGE   what goes with the type unless given
  --spot                    cheap, and taken away at any time
  --slices=N                1; more need queue or watch, and the same --slices with every command
  --service-account=EMAIL   who the workers are
  --gcloud-flag=FLAG        a further flag for gcloud's create, as --gcloud-flag=--internal-ips
  --worker=N                0; for log
  --stop-seconds=N          600; how long stop waits
  --max-failures=N          10
  --poll-seconds=N          60; between two looks at a TPU
  --delete                  watch deletes the TPU in the end, whatever it is
  --dry-run                 print every command and run none, as if all went well
USAGE
}

say() { echo "tpu_vm.sh: $name: $*" >&2; }

# Sets `answer` to what a command prints; a dry run takes the next answer of its `rehearsal`.
ask() {
  if $dry_run; then
    quote "$@"
    answer=${rehearsal[0]}
    rehearsal=("${rehearsal[@]:1}")
  else
    answer=$("$@")
  fi
}

pause() { $dry_run || sleep "$poll_seconds"; }

runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

creation_flags() {
  [[ -n $accelerator_type ]] ||
    die 2 "--accelerator-type is missing: name one, as --accelerator-type=v5litepod-16"
  : "${runtime_version:=$(runtime_of "$accelerator_type")}"
  creation=(--accelerator-type="$accelerator_type" "${gcloud_flags[@]}")
  ! $spot || creation+=(--spot)
  [[ -z $service_account ]] || creation+=(--service-account="$service_account"
    --scopes=https://www.googleapis.com/auth/cloud-platform)
}

create() {
  ((slices == 1)) || die 2 "create makes one slice, not --slices=$slices: use queue"
  creation_flags
  execute gcloud compute tpus tpu-vm create "$name" "${place[@]}" \
    --version="$runtime_version" "${creation[@]}"
}

request() {
  local nodes=(--node-id="$name")
  ((slices == 1)) || nodes=(--node-count="$slices" --node-prefix="$name")
  execute gcloud compute tpus queued-resources create "$name" "${place[@]}" "${nodes[@]}" \
    --runtime-version="$runtime_version" "${creation[@]}"
}

# A list is empty where there is none, and fails only where the cloud does not answer.
ask_queue() {
  ask gcloud compute tpus queued-resources list "${place[@]}" \
    --filter="name~/$name\$" --format='value(state.state)'
}

queue() {
  creation_flags
  request
  local seen=none
  rehearsal=(ACTIVE)
  while true; do
    ask_queue || answer="the cloud does not answer"
    [[ $answer == "$seen" ]] || say "${answer:-not queued yet}"
    seen=$answer
    [[ $answer != ACTIVE ]] || return 0
    [[ $answer != FAILED && $answer != SUSPEND* ]] ||
      die 1 "$name is $answer: delete it, and queue it again"
    pause
  done
}

delete() {
  rehearsal=(ACTIVE)
  ask_queue
  if [[ -n $answer ]]; then unqueue; fi
  if $dry_run; then echo "# or, where it was not queued but created:"; fi
  if [[ -z $answer ]] || $dry_run; then
    execute gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
  fi
}

unqueue() {
  execute gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

# Words of the command that runs a command on a worker, or on all of them.
ssh_to() {
  if ((slices == 1)); then
    ssh=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1")
  else
    ssh=(gcloud compute tpus queued-resources ssh "$name" "${place[@]}" --worker="$1"
      --node="${2:-all}" --batch-size=all)
  fi
}

on_all_workers() {
  ssh_to all
  execute "${ssh[@]}" --command="$*"
}

# A bundle carries the commit with its name, which versions.json then tells.
pack() {
  git rev-parse --quiet --verify HEAD >/dev/null || die 2 "$PWD is not a git clone: clone it"
  git diff --quiet HEAD ||
    die 2 "uncommitted changes would not travel to $name: commit or stash them"
  bundle=$(git rev-parse --git-path "$name.bundle")
  $dry_run || trap 'rm -f "$bundle"' EXIT
  execute git bundle create --quiet "$bundle" HEAD
}

# Functions on the left of && or || run without `set -e`: hence the chains.
unpack() {
  local to=("$bundle" "$name:epsilon_vae.bundle" "${place[@]}" --worker=all)
  if ((slices == 1)); then
    execute gcloud compute tpus tpu-vm scp "${to[@]}"
  else
    execute gcloud compute tpus queued-resources scp "${to[@]}" --node=all --batch-size=all
  fi &&
    on_all_workers "rm -rf epsilon_vae.new &&" \
      "git -c advice.detachedHead=false clone --quiet epsilon_vae.bundle epsilon_vae.new &&" \
      "bash epsilon_vae.new/launch/worker.sh install"
}

install() {
  pack
  unpack
}

start() { on_all_workers "bash epsilon_vae/launch/worker.sh run $(quote "${flags[@]}")"; }

# Sets `answer` to what the workers' trainings add up to.
ask_training() {
  ssh_to all
  ask "${ssh[@]}" --command="if [ -d epsilon_vae ]; then bash epsilon_vae/launch/worker.sh status;\
 else echo \"training on \$(hostname): not installed\"; fi" || return
  local state states
  states=$(sed -n 's/^training on [^:]*: //p' <<<"$answer")
  # One that runs says that it is not over; one 2, that all would fail again; one 75, why the
  # others, whose peer was gone, failed.
  for state in running "not installed" idle stopped "ended 2" "ended 75"; do
    if [[ $'\n'$states$'\n' == *$'\n'$state$'\n'* ]]; then
      answer=$state
      return
    fi
  done
  answer=$(grep --max-count=1 --invert-match '^ended 0$' <<<"$states" || echo "ended 0")
}

run() {
  check_flags "${flags[@]}"
  rehearsal=("training on worker: idle")
  ask_training
  [[ $answer != running ]] || die 1 "training runs already on $name: stop it first"
  [[ $answer != "not installed" ]] ||
    die 1 "nothing is installed on $name: launch/tpu_vm.sh install $name first"
  start
}

log() {
  ssh_to "$worker" 0
  execute "${ssh[@]}" --command="tail -n 100 -F epsilon_vae_run/log"
}

status() {
  local filter="name~\"/$name(-[0-9]+)?\$\""
  execute gcloud compute tpus queued-resources list "${place[@]}" --filter="$filter"
  execute gcloud compute tpus tpu-vm list "${place[@]}" --filter="$filter"
  on_all_workers "bash epsilon_vae/launch/worker.sh status"
}

stop() { on_all_workers "bash epsilon_vae/launch/worker.sh stop $stop_seconds"; }

# Sets `answer` to where things stand: the state of the queue or, once ACTIVE, of training.
look() {
  ask_queue || { answer="the cloud does not answer" && return; }
  if [[ -z $answer ]]; then
    answer=absent
  elif [[ $answer == ACTIVE ]]; then
    ask_training || ask_nodes
  fi
}

# Where no worker answers: a node may be preempted before its queued resource says so.
ask_nodes() {
  ask gcloud compute tpus tpu-vm list "${place[@]}" \
    --filter="name~\"/$name(-[0-9]+)?\$\"" --format='value(state)' || answer=
  if grep --quiet --line-regexp --extended-regexp 'PREEMPTED|TERMINATED' <<<"$answer"; then
    answer=PREEMPTED
  else
    answer="the workers do not answer"
  fi
}

watch() {
  check_flags "${flags[@]}"
  [[ " ${flags[*]}" == *" --workdir=gs://"* ]] ||
    die 2 "--workdir must be a gs:// path for watch: a TPU that is preempted takes its disk along"
  creation_flags
  local config
  config=$(printf '%s\n' "${flags[@]}" | sed -n 's/^--config=\([^:]*\).*/\1/p')
  git cat-file -e "HEAD:$config" 2>/dev/null ||
    die 2 "--config=$config is not in the commit that would be installed: commit it"
  pack # once: what started is what is resumed
  rehearsal=("" ACTIVE "training on worker: not installed" ACTIVE "training on worker: ended 0")
  local failures=0 silent_looks=0 ours=false seen=
  while true; do
    look
    [[ $answer == "$seen" ]] || say "$answer"
    seen=$answer
    # Fresh workers are silent for minutes, those whose key or firewall is wrong for ever.
    if [[ $answer == "the workers do not answer" ]]; then
      silent_looks=$((silent_looks + 1))
      ((silent_looks % 20)) || failures=$((failures + 1))
    else
      silent_looks=0
    fi
    # What ended before we came says nothing of our command.
    if ! $ours && [[ $answer =~ ^(stopped|ended|lost) ]]; then answer=idle; fi
    case $answer in
      absent) request || failures=$((failures + 1)) ;;
      SUSPENDED | PREEMPTED) unqueue || true ;;
      FAILED)
        failures=$((failures + 1))
        unqueue || true
        ;;
      "not installed" | idle) if unpack && start; then ours=true; else failures=$((failures + 1)); fi ;;
      running) ours=true ;;
      "ended 0") finish 0 "training is done" ;;
      "ended 2") finish 2 "the command or its config cannot run; its log says why" ;;
      stopped) finish 0 "training was stopped and saved" ;;
      "ended 75") start || true ;; # where that fails, the TPU is about to go
      ended* | lost)
        failures=$((failures + 1))
        ((failures > max_failures)) || start || true
        ;;
    esac
    ((failures <= max_failures)) ||
      finish 1 "failed more often than --max-failures=$max_failures"
    pause
  done
}

finish() {
  say "$2"
  if $delete_in_the_end; then
    ssh_to 0 0
    execute "${ssh[@]}" --command="tail -n 100 epsilon_vae_run/log" || true
    unqueue || say "could not be deleted, is still there and costs"
  else
    say "the TPU is still there and costs: launch/tpu_vm.sh delete $name ${place[*]}"
  fi
  exit "$1"
}

command=${1:-}
case $command in
  create | queue | delete | install | run | log | status | stop | watch) ;;
  help | -h | --help) usage && exit ;;
  *) die 2 "'$command' is not a command: see launch/tpu_vm.sh --help" ;;
esac
name=${2:-}
check_name "$name" "$command"
shift 2

zone=${CLOUDSDK_COMPUTE_ZONE:-} project='' accelerator_type='' runtime_version=''
service_account='' worker=0 slices=1 stop_seconds=600 max_failures=10 poll_seconds=60
spot=false delete_in_the_end=false
gcloud_flags=() flags=()
while (($#)); do
  case $1 in
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --accelerator-type=*) accelerator_type=${1#*=} ;;
    --runtime-version=*) runtime_version=${1#*=} ;;
    --service-account=*) service_account=${1#*=} ;;
    --gcloud-flag=*) gcloud_flags+=("${1#*=}") ;;
    --worker=* | --slices=* | --stop-seconds=* | --max-failures=* | --poll-seconds=*) set_number "$1" ;;
    --spot) spot=true ;;
    --delete) delete_in_the_end=true ;;
    --dry-run) dry_run=true ;;
    --) flags=("${@:2}") && break ;;
    *) die 2 "$1 is not an option: see launch/tpu_vm.sh --help" ;;
  esac
  shift
done
[[ -n $zone ]] || die 2 "--zone is missing: name one, as --zone=us-west4-a"
((slices > 0)) || die 2 "--slices=$slices must be at least 1"
place=(--zone="$zone")
[[ -z $project ]] || place+=(--project="$project")
$dry_run || need gcloud

"$command"
