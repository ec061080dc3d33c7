#!/usr/bin/env bash
# TPU VMs through queued resources: up, run, status, down. A preempted TPU is deleted, asked for again, and the run resumed.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh up|run|status|down --name NAME --zone ZONE [options] [-- ARGUMENTS OF JAXALIGN]

  up      ask for the TPU and wait until it is ACTIVE; delete and ask again when the request is SUSPENDED or FAILED
  run     up, copy this checkout (its last commit) to all workers, install, run; when the TPU goes away or the run says 75, again
  status  state of the request
  down    delete the request and its machines

  --type TYPE       accelerator type, such as v5litepod-16 or v6e-16 (up, run)
  --version VERSION runtime version of the machines, such as v2-alpha-tpuv5-lite (up, run)
  --project PROJECT else that of gcloud's configuration
  --spot            a TPU that may be taken away
  --retries N       how often to begin again (20)
  --poll SECONDS    between two looks at the state (30)
  --setup COMMAND   run on every worker before jaxalign, such as the mount of the shared disk
  --dry-run         print the commands, run none

The output folder and the store must lie on a disk that all workers share and that outlives them (--setup mounts it).
TEXT
}

fail() { echo "launch/tpu_vm.sh: $*" >&2; exit 2; }
say() { echo "launch/tpu_vm.sh: $*" >&2; }

name="" zone="" type="" version="" project=() spot=() retries=20 poll=30 setup=":" dry_run=""
verb=${1:-}
[[ $verb == -h || $verb == --help ]] && { usage; exit 0; }
case $verb in up|run|status|down) shift ;; *) fail "first word '$verb': give up, run, status or down (--help says more)" ;; esac
while (($#)); do
  case $1 in
    --name|--zone|--type|--version|--project|--retries|--poll|--setup) (($# > 1)) || fail "$1 needs a value" ;;&
    --name) name=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --version) version=$2; shift 2 ;;
    --project) project=("--project=$2"); shift 2 ;;
    --retries) retries=$2; shift 2 ;;
    --poll) poll=$2; shift 2 ;;
    --setup) setup=$2; shift 2 ;;
    --spot) spot=(--spot); shift ;;
    --dry-run) dry_run=1; shift ;;
    -h|--help) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1; jaxalign's own arguments come after --" ;;
  esac
done
[[ $name && $zone ]] || fail "--name and --zone are needed"
[[ $verb == status || $verb == down || ($type && $version) ]] || fail "$verb needs --type and --version"
[[ $verb != run || $# -gt 0 ]] || fail "run needs the arguments of jaxalign after --"
where=("--zone=$zone" "${project[@]}")
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

command_of() { printf '%q ' "$@" | sed 's/ $//'; }
do_it() { if [[ $dry_run ]]; then command_of "$@"; echo; else "$@"; fi; }

look=(gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)')
state() { "${look[@]}" 2>/dev/null || echo ABSENT; }

create() {
  do_it gcloud compute tpus queued-resources create "$name" "--node-id=$name" "${where[@]}" \
    "--accelerator-type=$type" "--runtime-version=$version" "${spot[@]}"
}

delete() { do_it gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }

# A request that was SUSPENDED or FAILED is never filled again.
up() {
  local left=$retries now
  if [[ $dry_run ]]; then
    create
    do_it "${look[@]}"
    return 0
  fi
  while :; do
    now=$(state)
    case $now in
      ACTIVE) return 0 ;;
      ABSENT) create ;;
      SUSPENDED|FAILED)
        ((left-- > 0)) || { say "$name is $now after $retries retries: try another zone, type or time"; return 1; }
        say "$name is $now: deleting it and asking again ($left retries left)"
        delete
        create
        ;;
      *) say "$name is $now"; sleep "$poll" ;;
    esac
  done
}

copy() {
  local archive=jaxalign.tar.gz
  if [[ ! $dry_run ]]; then
    archive=$(mktemp -d)/jaxalign.tar.gz
    git -C "$checkout" archive --format=tar.gz --output="$archive" HEAD
  fi
  do_it gcloud compute tpus tpu-vm scp "$archive" "$name:jaxalign.tar.gz" "${where[@]}" --worker=all --quiet
}

on_workers() { do_it gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --quiet "--command=$1"; }

prepare() {
  on_workers "set -e; mkdir -p jaxalign; tar -xzf jaxalign.tar.gz -C jaxalign; cd jaxalign; make setup; \
.venv/bin/python -m pip install --quiet --constraint requirements.lock '.[tpu]'; $setup"
}

# gcloud answers 1 for whatever happened on a worker, so each worker says its own code.
attempt() {
  on_workers "cd jaxalign; code=0; .venv/bin/jaxalign $(command_of "$@") || code=\$?; echo jaxalign-exit-code=\$code; exit \$code"
}

run() {
  local left=$retries log code codes
  log=$(mktemp)
  while :; do
    up || return 1
    code=0
    { copy && prepare && attempt "$@"; } 2>&1 | tee "$log" || code=$?
    ((code)) || { rm -f "$log"; return 0; }
    # 134 and 137 are processes that ended because another one did.
    codes=$(sed -n 's/.*jaxalign-exit-code=\([0-9]*\).*/\1/p' "$log" | grep -vE '^(0|75|134|137)$' | sort -n | tail -1 || true)
    if [[ $codes && $(state) == ACTIVE ]]; then return "$codes"; fi
    if [[ $(state) == ACTIVE ]] && ! grep -q 'jaxalign-exit-code=75' "$log"; then return "$code"; fi
    ((left-- > 0)) || { say "interrupted $((retries + 1)) times: giving up; the same command resumes"; return 75; }
    say "interrupted: the same command again ($left retries left)"
  done
}

case $verb in
  up) up ;;
  run) run "$@" ;;
  status) do_it "${look[@]}" ;;
  down) delete ;;
esac
