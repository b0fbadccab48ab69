unit=longshore-control.service
case "$1" in
configure) [ -n "$2" ] && upgrade=yes || upgrade= ;;
1) upgrade= ;;
2) upgrade=yes ;;
*) exit 0 ;;
esac
if have systemd-sysusers; then
	systemd-sysusers /usr/lib/sysusers.d/longshore-control.conf
elif ! getent passwd longshore >/dev/null; then
	useradd --system --user-group --home-dir /var/lib/longshore --no-create-home --shell /usr/sbin/nologin longshore
fi
chgrp longshore /etc/longshore/control.env
[ -n "$upgrade" ] && ! have deb-systemd-helper || enable "$unit"
reload
if [ -n "$upgrade" ]; then
	invoke try-restart "$unit"
elif booted; then
	echo "longshore-control is not started: see /etc/longshore/control.env, then systemctl start longshore-control."
fi
