#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster that has JobSet. See usage below, and launch/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'USAGE'
launch/gke.sh COMMAND NAME [OPTION…] [-- FLAGS of epsilon_vae.main]

  build    the image, and push it         apply    start training, or resume it
  log      follow the first pod's log     status   of the JobSet and its pods
  delete   SIGTERM, so that training saves; then the pods are gone and apply resumes

  --image=IMAGE             as us-docker.pkg.dev/PROJECT/REPOSITORY/epsilon-vae:TAG; build, apply
  --extras=tpu,gcs          what the image installs
  --service-account=NAME    Kubernetes' name of who trains (default)
  --accelerator=TYPE        tpu-v5-lite-podslice
  --topology=AxB            4x4
  --hosts=N                 4; of a slice
  --chips=N                 4; of a host
  --slices=N                1
  --max-restarts=N          10; after a failure, which exit code 75 is not
  --dry-run                 print every command, with its manifest, and run none
USAGE
}

need_image() { [[ -n $image ]] || die 2 "--image is missing: name where to push to and pull from"; }

# The image has no .git: its commit, which versions.json tells, travels as an argument.
build() {
  need_image
  local commit
  commit=$(git describe --always --abbrev=40 --dirty=+ --exclude='*' || echo unknown)
  execute docker build --file=launch/Dockerfile --build-arg=EXTRAS="$extras" \
    --build-arg=GIT_COMMIT="$commit" --tag="$image" .
  execute docker push "$image"
}

# Flags as a JSON list, which YAML reads; $(…) is Kubernetes' own syntax, and $$(…) escapes it.
json() {
  # shellcheck disable=SC2016 # Python's dollars
  python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]).replace("$(", "$$("))' "$@"
}

apply() {
  need_image
  check_flags "${flags[@]}"
  need envsubst
  local manifest
  manifest=$(NAME=$name IMAGE=$image ACCELERATOR=$accelerator TOPOLOGY=$topology HOSTS=$hosts \
    CHIPS=$chips SLICES=$slices SERVICE_ACCOUNT=$service_account MAX_RESTARTS=$max_restarts \
    FLAGS=$(json "${flags[@]}") envsubst <launch/gke.yaml)
  if $dry_run; then
    printf "kubectl apply --filename=- <<'MANIFEST'\n%s\nMANIFEST\n" "$manifest"
  else
    kubectl apply --filename=- <<<"$manifest"
  fi
}

log() {
  local of=jobset.sigs.k8s.io/jobset-name=$name
  of+=,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0
  execute kubectl logs --follow --tail=100 --selector="$of"
}

status() {
  execute kubectl get jobset "$name"
  execute kubectl get pods --selector=jobset.sigs.k8s.io/jobset-name="$name"
}

delete() { execute kubectl delete jobset "$name" --cascade=foreground; }

command=${1:-}
case $command in
  build | apply | log | status | delete) ;;
  help | -h | --help) usage && exit ;;
  *) die 2 "'$command' is not a command: see launch/gke.sh --help" ;;
esac
name=${2:-}
check_name "$name" "$command"
shift 2

image='' accelerator=tpu-v5-lite-podslice topology=4x4 hosts=4 chips=4 slices=1
service_account=default max_restarts=10 extras=tpu,gcs flags=()
while (($#)); do
  case $1 in
    --image=*) image=${1#*=} ;;
    --extras=*) extras=${1#*=} ;;
    --service-account=*) service_account=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --hosts=* | --chips=* | --slices=* | --max-restarts=*) set_number "$1" ;;
    --dry-run) dry_run=true ;;
    --) flags=("${@:2}") && break ;;
    *) die 2 "$1 is not an option: see launch/gke.sh --help" ;;
  esac
  shift
done
if ! $dry_run; then
  if [[ $command == build ]]; then need docker; else need kubectl; fi
fi

"$command"
