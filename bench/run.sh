#!/bin/bash
# Runs the measurements. ROUNDS (default 40) is how often each start is measured, CONTAINERS (default 50) how many are watched,
# IDLE (default 60s) how long the agent rests before its memory is read. FLEET (default 100,1000,10000) is how many instances
# are played for the control plane; where it is set, only that is measured.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${FLEET:-} ]]; then
	go test -tags bench -count=1 -timeout 60m -v -run '^TestBench$' ./bench
fi
exec go test -tags bench -count=1 -timeout 30m -v -run '^TestFleet$' ./bench
