#!/bin/bash
# Runs the measurements. ROUNDS (default 40) is how often each start is measured, CONTAINERS (default 50) how many are watched,
# IDLE (default 60s) how long the agent rests before its memory is read.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go test -tags bench -count=1 -timeout 60m -v -run TestBench ./bench
