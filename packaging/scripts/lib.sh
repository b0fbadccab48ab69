# What the packages' scripts share; build.sh puts it at the head of each.
#
# dpkg calls them with a word (configure, remove, upgrade, purge), rpm with the number of versions that are left (0, 1, 2).

# booted says whether systemd is what started this system: not in a chroot, and not in an image that is being made.
booted() { [ -d /run/systemd/system ]; }

# have says whether there is such a program.
have() { command -v "$1" >/dev/null 2>&1; }

# invoke asks systemd for something, where there is one, and where the administrator's policy (policy-rc.d) does not forbid it.
invoke() {
	booted || return 0
	if have deb-systemd-invoke; then
		deb-systemd-invoke "$@" || true
	else
		systemctl "$@" || true
	fi
}

# enable has systemd start a unit at boot, as the distribution likes it: on Debian at the first installation, elsewhere by its presets.
enable() {
	if have deb-systemd-helper; then
		deb-systemd-helper unmask "$1" >/dev/null || true
		if deb-systemd-helper --quiet was-enabled "$1"; then
			deb-systemd-helper enable "$1" >/dev/null || true
		else
			deb-systemd-helper update-state "$1" >/dev/null || true
		fi
	elif have systemctl; then
		systemctl --quiet preset "$1" || true
	fi
}

# reload has systemd read its units.
reload() { if booted; then systemctl daemon-reload || true; fi; }
