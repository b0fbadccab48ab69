# One purpose a target; `make` lists them.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Without grpcnotrace the linker keeps half of grpc's tracing alive; see docs/decisions.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags "-s -w -X github.com/longshore-project/longshore/internal/version.Version=$(VERSION)"
GOLANGCI = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help build up down test test-unit test-engines test-loss test-replicas test-containerd test-vm test-packages test-image test-upgrade packages lint fuzz bench need clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the programs in bin/, static
	$(BUILD) -o bin/ ./cmd/longshore-agent ./cmd/longshore-control ./cmd/longshore-log
	$(BUILD) -tags grpcnotrace,containerd -o bin/longshore-agent-containerd ./cmd/longshore-agent

up: ## the whole of Longshore on this machine, with a DAEMON service that runs; HOSTS=3 for three simulated hosts
	@test/up/up.sh

down: ## take back everything that make up made
	@test/up/down.sh

# Tests wait more than they compute, so more packages run at once than there are cores. What runs alone: the first has worlds of both engines
# side by side, the second compares the whole machine before and after, and the third has a killed agent be done within seconds.
ALONE = ./test/e2e ./test/readme ./test/kill
# These have worlds of both engines, too, which bear each other's company.
WORLDS = ./test/failures ./test/fields

test: need ## every test, engines included
	$(GO) test -race -timeout 15m -p 4 $$($(GO) list ./... | grep -v /test/)
	$(GO) test -race -timeout 20m -p 1 $(ALONE)
	$(GO) test -race -timeout 20m -p 2 $(WORLDS)
	$(GO) test -race -timeout 20m -p 3 $$($(GO) list ./test/... | grep -v $(foreach room,$(ALONE) $(WORLDS),-e '$(room:.%=%)$$'))

test-engines: need ## the tests that build and run a current dockerd: minutes of CPU the first time, then some minutes each
	$(GO) test -race -tags engines -count=1 -timeout 40m -v ./test/engines

test-containerd: need ## all that must hold with containerd (suite, faults, every walk, every field) on a current containerd and runc, built the first time; the suite with crun
	PATH=$$(test/engines/build.sh containerd):$$PATH $(GO) test -race -count=1 -timeout 10m ./engine/containerd
	TEST_OCI_RUNTIME=$(CURDIR)/engine/containerd/testdata/crun $(GO) test -race -count=1 -timeout 10m ./engine/containerd
	HOSTS_CONTAINERD=$$(test/engines/build.sh containerd)/containerd $(GO) test -race -count=1 -timeout 20m -p 1 -run '^Test/^containerd$$' ./test/e2e ./test/fields

packages: ## deb and rpm of both programs, for amd64 and arm64, in dist/
	packaging/build.sh $(VERSION)

test-packages: need ## install the packages in a Debian system with systemd, in a container: some minutes, more the first time
	$(GO) test -tags packages -count=1 -timeout 30m -v ./test/packages

test-image: need ## bake an image in a chroot, and make machines from it: two minutes
	$(GO) test -tags image -count=1 -timeout 20m -v ./test/image

test-upgrade: need ## programs of an older commit (PREVIOUS=<rev>) beside today's, and replaced by them in place under writes; some minutes
	PREVIOUS=$(PREVIOUS) $(GO) test -race -tags upgrade -count=1 -timeout 20m -v -run TestProgramsOfTwoVersions ./test/upgrade

test-vm: ## the tests that need control groups v2 and systemd, on an emulated machine: some minutes, more the first time
	@test/vm/run.sh

test-kill: ## kill the agent ROUNDS times (default 10000) with 50 tasks on their way, on an engine in memory; some 15 minutes
	STORM_KILLS=$(or $(ROUNDS),10000) $(GO) test -count=1 -timeout 10h -v ./test/kill/storm

test-loss: ## records deleted and restored under twenty daemons on a real engine
	$(GO) test -race -tags loss -count=1 -timeout 20m -run TestTheControlPlanesRecordsAreLost ./test/e2e

test-replicas: ## three control planes on three members of etcd under load for FOR (default 10m), processes killed and links cut; histories checked
	REPLICAS_FOR=$(or $(FOR),10m) $(GO) test -count=1 -timeout 2h -v -run "TestForLong|Quota" ./test/replicas

test-unit: ## the tests that need no engine, no root and no network namespaces
	$(GO) test -race ./protocol/... ./controlplane/... ./statemgr/... ./imagecache/... ./agent/config/... ./agent/logging/...

need: ## install and start what the tests need (Debian packages, a Docker engine)
	@test/need.sh

lint: ## formatting, vet, the import direction and other house rules
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	$(GOLANGCI) run --allow-parallel-runners ./...

fuzz: ## each fuzz target for FUZZTIME (default 20s)
	@test/fuzz.sh $(or $(FUZZTIME),20s)

bench: need ## time, memory and CPU beside the engine's own floor, measured in the same run
	@bench/run.sh

clean: ## remove what was built
	rm -rf bin
