case "$1" in
remove | 0)
	if have deb-systemd-helper; then deb-systemd-helper mask longshore-control.service >/dev/null || true; fi
	reload
	;;
purge)
	if have deb-systemd-helper; then
		deb-systemd-helper purge longshore-control.service >/dev/null || true
		deb-systemd-helper unmask longshore-control.service >/dev/null || true
	fi
	rm -rf /var/lib/longshore /etc/longshore
	reload
	;;
esac
