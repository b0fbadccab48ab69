#!/bin/bash
# make up: Longshore on this machine, from nothing to a DAEMON service that runs, in one command. HOSTS=N: on N simulated hosts,
# each with its own network namespace and Docker engine. Repeating it is harmless; make down takes everything back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
HOSTS=${HOSTS:-}

# --- what must be true before anything is changed -------------------------------------------------------------------
unmet=()
PATH=$PATH:/usr/local/go/bin
[ "$(id -u)" = 0 ] || unmet+=("must run as root: the agent mounts, pulls and starts containers (sudo make up)")
[[ $HOSTS =~ ^([1-9]|[1-9][0-9])?$ ]] || unmet+=("HOSTS=$HOSTS is not a number from 1 to 99")
if ! command -v go >/dev/null; then
  unmet+=("Go 1.26 or newer is not installed (not in PATH, not in /usr/local/go/bin)")
elif [ "$(printf '%s\n' go1.26 "$(cd / && GOTOOLCHAIN=local go env GOVERSION)" | sort -V | head -1)" != go1.26 ]; then
  unmet+=("Go 1.26 or newer is needed; $(command -v go) is $(cd / && GOTOOLCHAIN=local go env GOVERSION)")
fi
command -v apt-get >/dev/null || unmet+=("apt-get is missing: this script installs Debian packages (the README lists what it needs elsewhere)")
if [ -e "$RUN/mode" ] && [ "$(cat "$RUN/mode")" != "hosts=$HOSTS" ]; then
  unmet+=("an earlier 'make up' with $(cat "$RUN/mode") is still there: run 'make down' first")
fi
port() { # PORT PROCESS WHAT
  if listening "$1" && ! alive "$2"; then unmet+=("port $1 is taken by another process; $3 needs it (ss -ltnp 'sport = :$1' names it)"); fi
}
port 8480 control "the control plane"
port 5480 demo "the local registry"
[ -n "$HOSTS" ] || port 51678 agent "the agent's introspection endpoint"
for exe in /proc/[0-9]*/exe; do
  case $(readlink "$exe" 2>/dev/null) in */amazon-ecs-agent | */amazon-ecs-init)
    unmet+=("an amazon-ecs-agent runs here (process $(basename "$(dirname "$exe")")); two agents can't share an engine: stop it first")
  esac
done
if command -v docker >/dev/null && [ -n "$(docker ps -q --filter name='^/?ecs-agent$' 2>/dev/null)" ]; then
  unmet+=("an amazon-ecs-agent runs here (container ecs-agent); two agents can't share an engine: stop it first")
fi
if [ ${#unmet[@]} -gt 0 ]; then
  printf 'make up: %s unmet; nothing was changed:\n' "$([ ${#unmet[@]} = 1 ] && echo 'one need is' || echo "${#unmet[@]} needs are")" >&2
  printf '  - %s\n' "${unmet[@]}" >&2
  exit 1
fi

mkdir -p "$RUN/bin" "$RUN/before"
chmod 700 "$RUN"
echo "hosts=$HOSTS" >"$RUN/mode"
trap 'code=$?; [ $code = 0 ] || { echo "make up: stopped with an error; the logs are in $RUN/*.log; \"make down\" takes everything back" >&2; }' EXIT

# --- packages, engine -----------------------------------------------------------------------------------------------
missing=()
want() { [ -e "$1" ] || missing+=("$2"); }
want /usr/sbin/dockerd docker.io
want /usr/bin/docker docker.io
want /bin/busybox busybox-static
want /usr/sbin/iptables iptables
want /usr/sbin/nft nftables
command -v ip >/dev/null || missing+=(iproute2)
command -v aws >/dev/null || missing+=(awscli)
[ -z "$HOSTS" ] || want /usr/bin/tini tini
if [ ! -e "$RUN/before/recorded" ]; then
  # what was there, so that make down can put it back
  cat /proc/sys/net/ipv4/ip_forward >"$RUN/before/ip_forward"
  links >"$RUN/before/links"
  { command -v nft >/dev/null && nft list tables || true; } >"$RUN/before/tables"
  [ ! -d /var/lib/docker ] && touch "$RUN/before/no-docker-data"
  docker version >/dev/null 2>&1 && touch "$RUN/before/docker-ran" || true
  touch "$RUN/before/recorded"
fi
if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  step "installing ${missing[*]}"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$RUN/apt.log" 2>&1 ||
    fail "apt-get could not install ${missing[*]}: $(tail -3 "$RUN/apt.log")"
fi
if [ -z "$HOSTS" ] && ! docker version >/dev/null 2>&1; then
  step "starting a Docker engine"
  if [ -d /run/systemd/system ]; then
    systemctl start docker || fail "systemctl start docker failed; see journalctl -u docker"
    touch "$RUN/started-docker-unit"
  else
    launch dockerd dockerd
  fi
  await 30 "the engine answers" docker version || fail "Docker does not answer: $(tail -3 "$RUN/dockerd.log" 2>/dev/null)"
fi

# --- binaries -------------------------------------------------------------------------------------------------------
step "building both binaries (a minute or two the first time)"
(cd "$ROOT" && make -s build && CGO_ENABLED=0 go build -o "$RUN/bin/demo" ./test/up/demo)
cp -f "$ROOT/bin/longshore-agent" "$ROOT/bin/longshore-control" "$ROOT/bin/longshore-log" "$ROOT/bin/longshore-agent-containerd" "$RUN/bin/"

# --- control plane, registry, hosts ---------------------------------------------------------------------------------
if ! alive control; then
  step "starting longshore-control on $API"
  launch control "$RUN/bin/longshore-control" run --data-dir "$RUN/control" --listen "$API" --region "$REGION" --account-id "$ACCOUNT"
fi
await 30 "the control plane is ready" "$RUN/bin/demo" ready "http://$API/healthz" || fail "the control plane did not become ready: $(tail -3 "$RUN/control.log")"

image=$REGISTRY/logging-agent:1 endpoint=http://$API logs=$RUN/host-logs
forward=()
if [ -n "$HOSTS" ]; then
  image=$LAN:5480/logging-agent:1 endpoint=http://$LAN:8480 logs=/tmp/host/logs
  forward=(--namespace "/run/netns/${HOSTS_NAME}lan" --forward "$LAN:8480=$API" --forward "$LAN:5480=$REGISTRY")
  step "starting $HOSTS hosts, each with its own Docker engine"
  "$HOSTS_SH" up "$HOSTS"
fi
if ! alive demo; then
  step "building the image logging-agent:1 and serving it from a registry on $REGISTRY"
  launch demo "$RUN/bin/demo" serve --listen "$REGISTRY" "${forward[@]}"
fi
await 30 "the registry is ready" "$RUN/bin/demo" ready "http://$REGISTRY/v2/" || fail "the registry did not start: $(tail -3 "$RUN/demo.log")"

. "$RUN/control/admin.env"
admin_id=$AWS_ACCESS_KEY_ID admin_secret=$AWS_SECRET_ACCESS_KEY
. "$RUN/control/host.env"
agent_env=(ECS_BACKEND_HOST="$endpoint" ECS_CLUSTER="$CLUSTER" AWS_DEFAULT_REGION="$REGION"
  AWS_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" AWS_SECRET_ACCESS_KEY="$AWS_SECRET_ACCESS_KEY")

real_aws=$(PATH=${PATH//$RUN\/bin:/} command -v aws)
cat >"$RUN/bin/aws" <<W
#!/bin/sh
# Debian's aws 2.9 ignores AWS_ENDPOINT_URL and would call the real service; this one never does.
exec "$real_aws" --endpoint-url http://$API "\$@"
W
chmod 755 "$RUN/bin/aws"
(umask 077; cat >"$RUN/env" <<E
# source this: the stock aws CLI then talks to the control plane that 'make up' started
export AWS_ENDPOINT_URL=http://$API
export AWS_REGION=$REGION AWS_DEFAULT_REGION=$REGION
export AWS_ACCESS_KEY_ID=$admin_id
export AWS_SECRET_ACCESS_KEY=$admin_secret
export AWS_PAGER= AWS_EC2_METADATA_DISABLED=true
unset AWS_PROFILE AWS_SESSION_TOKEN
${HOSTS:+# on a host: }export ECS_DATADIR=$RUN/agent ECS_BACKEND_HOST=$endpoint ECS_CLUSTER=$CLUSTER # for longshore-agent status, tasks, explain, doctor
case ":\$PATH:" in *":$RUN/bin:"*) ;; *) export PATH="$RUN/bin:\$PATH" ;; esac
E
)
. "$RUN/env"
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null

# --- the cluster, then the hosts in it ------------------------------------------------------------------------------
step "creating the cluster $CLUSTER ($(aws --version 2>&1 | cut -d' ' -f1))"
aws ecs create-cluster --cluster-name "$CLUSTER" --query cluster.clusterArn --output text
if [ -z "$HOSTS" ]; then
  if ! alive agent; then
    step "starting longshore-agent against this machine's Docker"
    install -d -m 700 "$RUN/agent"
    install -d -m 755 -o 1000 -g 1000 "$logs"
    echo "a line of an application on this host" >"$logs/app.log"
    launch agent env "${agent_env[@]}" ECS_DATADIR="$RUN/agent" ECS_LOGFILE="$RUN/agent/ecs-agent.log" ECS_AUDIT_LOGFILE="$RUN/agent/audit.log" "$RUN/bin/longshore-agent" run
  fi
  hosts=1
else
  hosts=$HOSTS
  for i in $(seq "$HOSTS"); do
    "$HOSTS_SH" exec "$i" test -e /run/longshore-agent.up 2>/dev/null && continue
    step "starting longshore-agent on host $i"
    "$HOSTS_SH" exec "$i" sh -c 'touch /run/longshore-agent.up; mkdir -p /var/lib/ecs/data; install -d -m 755 -o 1000 -g 1000 /tmp/host/logs
      echo "a line of an application on host $(hostname)" >/tmp/host/logs/app.log'
    "$HOSTS_SH" exec "$i" setsid -f env "${agent_env[@]}" ECS_DATADIR=/var/lib/ecs/data ECS_LOGFILE=/var/log/ecs/ecs-agent.log \
      "$RUN/bin/longshore-agent" run >>"$RUN/agent-$i.log" 2>&1 </dev/null
  done
fi
registered() { [ "$(aws ecs list-container-instances --cluster "$CLUSTER" --filter 'agentConnected==true' --query 'length(containerInstanceArns)')" -ge "$hosts" ]; }
await 60 "$hosts container instance(s) registered and connected" registered || {
  tail -n 5 "$RUN"/agent*.log "$RUN"/agent/ecs-agent.log "$HOSTS_DIR"/h*/disk/var/log/ecs/ecs-agent.log >&2 2>/dev/null || true
  fail "the agent did not register; the last lines of its log are above"
}

# --- the main job: one logging agent on every host ------------------------------------------------------------------
sed -e "s|@IMAGE@|$image|" -e "s|@LOGS@|$logs|" "$ROOT/test/up/logging-agent.json" >"$RUN/logging-agent.json"
status=$(aws ecs describe-services --cluster "$CLUSTER" --services "$SERVICE" --query 'services[0].status' --output text)
if [ "$status" != ACTIVE ]; then
  step "registering the task definition $SERVICE (host network, a host volume, user 1000)"
  aws ecs register-task-definition --cli-input-json "file://$RUN/logging-agent.json" --query taskDefinition.taskDefinitionArn --output text
  step "creating the DAEMON service $SERVICE"
  aws ecs create-service --cluster "$CLUSTER" --service-name "$SERVICE" --launch-type EC2 --scheduling-strategy DAEMON \
    --task-definition "$SERVICE" --query 'service.{service:serviceName,status:status,desired:desiredCount}' --output table
fi
running() { [ "$(aws ecs describe-services --cluster "$CLUSTER" --services "$SERVICE" --query 'services[0].runningCount')" -ge "$hosts" ]; }
if ! await 120 "one task is RUNNING on every host" running; then
  aws ecs describe-services --cluster "$CLUSTER" --services "$SERVICE" --query 'services[0].events[:5].message' --output text >&2
  fail "the service did not come up; its events are above"
fi

step "aws ecs list-container-instances --cluster $CLUSTER"
aws ecs list-container-instances --cluster "$CLUSTER" --output table
step "aws ecs list-tasks --cluster $CLUSTER"
aws ecs list-tasks --cluster "$CLUSTER" --output table
step "what the container writes, read through the mount"
if [ -z "$HOSTS" ]; then
  await 20 "a first line" grep -qrs . "$logs/collected"
  tail -n 3 "$logs"/collected/*
else
  for i in $(seq "$HOSTS"); do
    await 20 "a first line on host $i" "$HOSTS_SH" exec "$i" grep -qrs . "$logs/collected"
    "$HOSTS_SH" exec "$i" sh -c "tail -n 2 $logs/collected/*"
  done
fi
cat <<N

Longshore is up. Next:

  source .run/env
  aws ecs describe-services --cluster $CLUSTER --services $SERVICE
  aws ecs put-attributes --cluster $CLUSTER --attributes name=env,value=prod,targetType=container-instance,targetId=<id>
  curl -s 127.0.0.1:51678/v1/tasks$([ -z "$HOSTS" ] || echo "            # on a host: $HOSTS_SH exec 1 curl …")
  $([ -z "$HOSTS" ] && echo "longshore-agent status" || echo "$HOSTS_SH exec 1 env ECS_DATADIR=/var/lib/ecs/data $RUN/bin/longshore-agent status")
  make down

Logs: .run/control.log, $([ -z "$HOSTS" ] && echo ".run/agent/ecs-agent.log" || echo "/var/log/ecs/ecs-agent.log on each host (.run/hosts/hN/disk/var/log/ecs)")
N
