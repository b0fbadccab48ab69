#!/bin/bash
# Runs the measurements. PARTS (default join,start,many,rest,restart) chooses some of them. ROUNDS (default 40) is how often each
# start is measured, CONTAINERS (default 100) how many run at once, MANY (default 5) how often they are started and stopped,
# in the network modes MODES (default host,bridge), beside a bare client that makes PARALLEL (default: what is best) at a time, IDLE
# (default 60) how many seconds the agent rests before its memory is read, RESTARTS (default 7) how often it is killed. PROFILE names
# a folder for CPU profiles of the agent. FLEET (default 100,1000,10000) is how many instances are played for the control plane; where
# it is set, only that is measured, and where PARTS is, that is not.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${FLEET:-} ]]; then
	go test -tags bench -count=1 -timeout 90m -v -run '^TestBench$' ./bench
fi
if [[ -z ${PARTS:-} ]]; then
	exec go test -tags bench -count=1 -timeout 30m -v -run '^TestFleet$' ./bench
fi
