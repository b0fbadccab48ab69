#!/bin/bash
# User data as for Amazon's ECS images: the agent's unit starts when cloud-init is done, and finds this.
cat >>/etc/ecs/ecs.config <<'CONFIG'
ECS_CLUSTER=production
ECS_CONTAINER_INSTANCE_TAGS={"team":"platform"}
ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM=ec2_instance
ECS_ENABLE_SPOT_INSTANCE_DRAINING=true
CONFIG
