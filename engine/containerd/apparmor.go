package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"go.uber.org/zap"
)

// appArmorName is the profile of containers that name none. It is loaded by this process, as dockerd loads its own.
const appArmorName = "longshore-default"

// appArmorProfile leaves a container the network, its capabilities and its files, and denies what seccomp and read-only paths deny too, for
// those who get around them: to mount, to change the kernel through /proc and /sys, and to reach processes outside (apparmor.d(5)).
const appArmorProfile = `#include <tunables/global>

profile ` + appArmorName + ` flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send, receive) peer=` + appArmorName + `,
  ptrace (trace, read, tracedby, readby) peer=` + appArmorName + `,
  deny mount,

  # Of /proc: processes' own folders, and the sizes of shared memory.
  deny @{PROC}/* w,
  deny @{PROC}/{acpi,asound,bus,driver,dynamic_debug,fs,irq,scsi,tty}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/[^s]** w,
  deny @{PROC}/sys/kernel/s[^h]** w,
  deny @{PROC}/sys/kernel/sh[^m]** w,
  deny @{PROC}/{kcore,kmem,mem,sysrq-trigger} rwklx,

  # Of /sys: control groups.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/{firmware,kernel/security}/** rwklx,
}
`

func appArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// appArmor is the profile that containers get; empty where the kernel has no AppArmor, or the profile can't be loaded.
func (r *Runtime) appArmor() string {
	r.armor.Do(func() {
		if !appArmorEnabled() {
			return
		}
		if err := loadAppArmor(); err != nil {
			r.log.Warn("The kernel has AppArmor, and containers run without a profile of it: theirs can't be loaded (the package apparmor has the program)", zap.Error(err))
			return
		}
		r.armored = appArmorName
	})
	return r.armored
}

// loadAppArmor puts the profile into the kernel, in the place of an older one.
func loadAppArmor(options ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apparmor_parser", append([]string{"--skip-cache", "--replace"}, options...)...)
	cmd.Stdin = strings.NewReader(appArmorProfile)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apparmor_parser: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
