case "$1" in
remove | 0)
	if have deb-systemd-helper; then deb-systemd-helper mask longshore-agent.service >/dev/null || true; fi
	reload
	;;
purge)
	if have deb-systemd-helper; then
		deb-systemd-helper purge longshore-agent.service >/dev/null || true
		deb-systemd-helper unmask longshore-agent.service >/dev/null || true
	fi
	rm -rf /var/lib/ecs /run/longshore
	rm -f /var/log/ecs/ecs-agent.log* /var/log/ecs/audit.log* /etc/ecs/ecs.config /etc/ecs/longshore-ca.pem
	rmdir --ignore-fail-on-non-empty /var/log/ecs /etc/ecs 2>/dev/null || true
	reload
	;;
esac
