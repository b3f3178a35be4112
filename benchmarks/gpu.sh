#!/usr/bin/env bash
# Takes a machine with a GPU and this checkout to tables of its speed, in about 25 minutes.
#
#     benchmarks/gpu.sh [--dry-run] [FOLDER]
#
# FOLDER (default: outputs/gpu) gets a table after each part, results.md with all of them, and a log. A part that fails
# or takes too long does not end the plan. --dry-run tries the plan on the CPU, with small networks, and installs
# nothing. PYTHON names the interpreter (default: python3).
set -u
cd "$(dirname "$0")/.."

dry_run=()
if [[ ${1:-} == --help ]]; then sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0; fi
if [[ ${1:-} == --dry-run ]]; then dry_run=(--dry-run); shift; fi
if [[ ${1:-} == -* ]]; then echo "unknown option $1; see --help" >&2; exit 2; fi
folder=${1:-outputs/gpu}
python=${PYTHON:-python3}
mkdir -p "$folder"
log="$folder/log.txt"
failed=0

if [[ ${#dry_run[@]} -eq 0 ]]; then
    # The system's torch is kept if there is one, because it suits the machine's driver.
    "$python" -m venv --system-site-packages "$folder/venv" || exit 1
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet '.[training,test]' 2>&1 | tee -a "$log"
    [[ ${PIPESTATUS[0]} -eq 0 ]] || exit 1
fi

gather() {
    cat "$folder"/{machine,equality,network,decode,training}-*.md "$folder/tests.md" > "$folder/results.md" 2> /dev/null
}

part() { # SECONDS NAME MODEL
    echo "== $2 ($3)" | tee -a "$log"
    timeout --foreground "$1" "$python" benchmarks/gpu.py "$2" --model "$3" --output "$folder" "${dry_run[@]}" \
        >> "$log" 2>&1 || { echo "$2 ($3) failed or took longer than $1 s; see $log" >&2; failed=1; }
    gather
}

part 120 machine student
part 180 equality student
part 300 network student
part 180 decode student
part 120 training student
part 120 equality teacher
part 300 network teacher
part 120 training teacher

echo "== tests" | tee -a "$log"
if [[ ${#dry_run[@]} -eq 0 ]]; then selection=(tests/diffusers_suites tests/models); else selection=(tests/test_layout.py); fi
timeout --foreground 300 "$python" -m pytest -q -m "not slow" "${selection[@]}" > "$folder/tests.txt" 2>&1 || failed=1
{ echo "### Tests (${selection[*]})"; echo; tail -1 "$folder/tests.txt"; } > "$folder/tests.md"
gather
echo "results: $folder/results.md"
exit $failed
