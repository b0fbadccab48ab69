case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the agent that runs is replaced when the new one is there
esac
if booted; then
	systemctl stop longshore-agent.service longshore-drain.service || true # containers go on
	# The host's rules and the address that containers ask: not from a chroot, which has the network of a host that is not its own.
	longshore-agent cleanup >/dev/null 2>&1 || true
fi
if ! have deb-systemd-helper && have systemctl; then
	systemctl --quiet disable longshore-agent.service || true
fi
