#!/bin/bash
# Runs the measurements and prints them as a table, with floors, aims and the load of the machine. What may be set:
#
#   PARTS       join,boot,update,start,many,rest,asked,restart,pull,containerd,net,replicas   which of them; the control plane's fleet only where it is not set
#   ROUNDS      40      how often each start is measured
#   BEHAVIOURS  prefer-cached,once,default,always   with which pull behaviours
#   CONTAINERS  100     how many tasks run at once
#   MANY        5       how often so many are started and stopped
#   MODES       host,bridge   in which network modes
#   PARALLEL            how many containers the bare client makes at a time; what is best is found out where it is not set
#   IDLE        60      seconds for which the agent rests before its memory is read
#   RESTARTS    7       how often the agent is killed
#   PROFILE             a folder for CPU profiles
#   FLEET       100,1000,10000   how many instances are played for the control plane; where it is set, only that is measured
#   STEPS               everywhere,picky,joiners,gate-off,pressure,strategies,replicas   which measurements of the fleet, after gathering it; all where it is not set
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${FLEET:-} && ${PARTS:-net} == *net* ]]; then
	go test -tags bench -count=1 -timeout 30m -v -run '^TestNet$' ./bench
fi
if [[ ${PARTS:-} == *replicas* ]]; then
	go test -tags bench -count=1 -timeout 30m -v -run '^TestReplicas$' ./bench
fi
if [[ -z ${FLEET:-} && ${PARTS:-} != net && ${PARTS:-} != replicas ]]; then
	go test -tags bench -count=1 -timeout 90m -v -run '^TestBench$' ./bench
fi
if [[ -z ${PARTS:-} ]]; then
	exec go test -tags bench -count=1 -timeout 60m -v -run '^(TestFleet|TestReplicas)$' ./bench
fi
