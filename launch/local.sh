#!/usr/bin/env bash
# Several processes of one jaxalign command on this machine: launch/local.sh -n 2 -d 4 -- experiment=demo
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/local.sh -n PROCESSES [-d DEVICES_PER_PROCESS] [-l LOG_FOLDER] [--dry-run] -- ARGUMENTS OF JAXALIGN

Process 0 writes here, the others to LOG_FOLDER/process-N.log. SIGTERM and SIGINT reach all as SIGTERM: each finishes its
unit, and the same command resumes. Exit code: the largest of the processes' failures; 75 if some were preempted and none
failed; 0 if all are done. JAXALIGN=COMMAND runs another jaxalign, JAX_PLATFORMS another platform than cpu.
TEXT
}

fail() { echo "launch/local.sh: $*" >&2; exit 2; }

processes="" devices=1 logs="" dry_run=""
while (($#)); do
  case $1 in
    -n|-d|-l) (($# > 1)) || fail "$1 needs a value" ;;&
    -n) processes=$2; shift 2 ;;
    -d) devices=$2; shift 2 ;;
    -l) logs=$2; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    -h|--help) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1; jaxalign's own arguments come after --" ;;
  esac
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "-n '$processes': give how many processes, 1 or more"
[[ $devices =~ ^[1-9][0-9]*$ ]] || fail "-d '$devices': give how many devices each process has, 1 or more"

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$checkout/.venv/bin
jaxalign=${JAXALIGN:-$([[ -x $here/jaxalign ]] && echo "$here/jaxalign" || echo jaxalign)}
python=$([[ -x $here/python ]] && echo "$here/python" || echo python3)

if [[ $dry_run ]]; then
  port=PORT
else
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  logs=${logs:-$(mktemp -d "${TMPDIR:-/tmp}/jaxalign-logs.XXXXXX")}
  mkdir -p "$logs"
fi

# JAX refuses a number of devices that is given twice.
flags=$(sed 's/--xla_force_host_platform_device_count=[0-9]*//g' <<<"${XLA_FLAGS:-}")

settings_of() {
  echo "JAXALIGN_COORDINATOR=127.0.0.1:$port" "JAXALIGN_N_PROCESSES=$processes" "JAXALIGN_PROCESS_ID=$1" \
    "JAX_NUM_CPU_DEVICES=$devices" "JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}"
}

if [[ $dry_run ]]; then
  for ((i = 0; i < processes; i++)); do
    printf '%s' "env $(settings_of "$i") $jaxalign"
    (($#)) && printf ' %q' "$@"
    printf '%s\n' "$( ((i)) && echo " >${logs:-LOG_FOLDER}/process-$i.log 2>&1")"
  done
  exit 0
fi

children=() interrupted=""
# A background process of a shell ignores SIGINT, so SIGTERM stands for both.
pass_on() { interrupted=1; ((${#children[@]} == 0)) || kill -TERM "${children[@]}" 2>/dev/null || true; }
trap pass_on TERM INT

for ((i = 0; i < processes; i++)); do
  read -ra settings <<<"$(settings_of "$i")"
  if ((i == 0)); then
    env "${settings[@]}" XLA_FLAGS="$flags" "$jaxalign" "$@" &
  else
    env "${settings[@]}" XLA_FLAGS="$flags" "$jaxalign" "$@" >"$logs/process-$i.log" 2>&1 &
  fi
  children+=($!)
done

# A trap ends `wait` before the process ends: ask again until the answer is the process's own.
code_of() {
  local now
  while :; do
    interrupted=""
    now=0
    wait "$1" || now=$?
    ((now == 127)) && [[ ${code:-} ]] || code=$now
    [[ $interrupted ]] || break
  done
}

failed=0 killed=0 preempted=0
for ((i = 0; i < processes; i++)); do
  code=""
  code_of "${children[i]}"
  ((code == 0)) || echo "launch/local.sh: process $i of $processes ended with $code$( ((i)) && echo "; see $logs/process-$i.log")" >&2
  # When one fails, JAX kills the others (134): the code of the one that failed says more.
  if ((code == 75)); then preempted=75; elif ((code >= 128)); then ((code > killed)) && killed=$code; elif ((code > failed)); then failed=$code; fi
done
((failed)) && exit "$failed"
((killed)) && exit "$killed"
exit "$preempted"
