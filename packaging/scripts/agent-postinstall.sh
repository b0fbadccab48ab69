unit=longshore-agent.service
case "$1" in
configure) [ -n "$2" ] && upgrade=yes || upgrade= ;;
1) upgrade= ;;
2) upgrade=yes ;;
*) exit 0 ;;
esac
[ -n "$upgrade" ] && ! have deb-systemd-helper || enable "$unit"
reload
if booted; then systemctl kill --signal=HUP systemd-logind.service 2>/dev/null || true; fi # it reads how long shutdowns may wait
if [ -n "$upgrade" ]; then
	invoke try-restart "$unit" # containers don't notice
elif [ -s /etc/ecs/ecs.config ]; then
	invoke start "$unit"
elif booted; then
	echo "longshore-agent is not started, as there is no /etc/ecs/ecs.config: longshore-agent join URL --token TOKEN writes one and starts it."
fi
