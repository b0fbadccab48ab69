case "$1" in
remove | 0)
	if have deb-systemd-helper; then deb-systemd-helper mask longshore-agent.service >/dev/null || true; fi
	rmdir /run/longshore/leases /run/longshore 2>/dev/null || true # where no containers are left
	reload
	;;
purge)
	if have deb-systemd-helper; then
		deb-systemd-helper purge longshore-agent.service >/dev/null || true
		deb-systemd-helper unmask longshore-agent.service >/dev/null || true
	fi
	# With containerd, containers outlive the package, and their folders and the data of volumes are in the state directory: what is not
	# empty there stays.
	for f in /var/lib/ecs/data/*; do
		[ "$f" = /var/lib/ecs/data/containerd ] || [ "$f" = /var/lib/ecs/data/agent.db ] || rm -rf --one-file-system "$f"
	done
	for d in data/containerd/containers data/containerd/volumes data/containerd data; do
		rmdir "/var/lib/ecs/$d" 2>/dev/null || true
	done
	rmdir /var/lib/ecs 2>/dev/null || true
	rm -rf --one-file-system /run/longshore 2>/dev/null || true # namespaces of what still runs are mounted there
	rm -f /var/log/ecs/ecs-agent.log* /var/log/ecs/audit.log* /etc/ecs/ecs.config /etc/ecs/longshore-ca.pem
	rmdir --ignore-fail-on-non-empty /var/log/ecs /etc/ecs 2>/dev/null || true
	reload
	;;
esac
