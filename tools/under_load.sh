#!/usr/bin/env bash
# Runs the tests on a machine that is busy otherwise: no test may depend on how fast it is.
#
#   tools/under_load.sh [pytest's arguments]     TIMES=3 runs, LOOPS=2 busy loops, PYTHON=.venv/bin/python
#
# The loops end with it, however it ends, and after an hour at the latest.
set -euo pipefail
cd "$(dirname "$0")/.."

loops=()
trap 'kill "${loops[@]}" 2> /dev/null || true' EXIT
for _ in $(seq "${LOOPS:-2}"); do
  timeout 3600 sh -c 'while :; do :; done' &
  loops+=($!)
done
for run in $(seq "${TIMES:-3}"); do
  echo "run $run of ${TIMES:-3}, beside ${LOOPS:-2} busy loops"
  "${PYTHON:-.venv/bin/python}" -m pytest -q "$@"
done
