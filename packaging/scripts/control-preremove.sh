case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if booted; then systemctl stop longshore-control.service || true; fi
if ! have deb-systemd-helper && have systemctl; then
	systemctl --quiet disable longshore-control.service || true
fi
