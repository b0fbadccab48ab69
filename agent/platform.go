package agent

import (
	"os"
	"path/filepath"
	"strings"
)

// notEC2 says what the kernel knows that rules out that this host is an EC2 instance; empty when nothing does. It costs a few
// reads below /sys, where asking the instance metadata service costs a host that has none a second of silence.
//
// What an EC2 instance shows of itself, as its user guide has it ("Detect whether a host is an EC2 instance") and as
// systemd-detect-virt and cloud-init read it:
//
//	Nitro and metal   DMI sys_vendor "Amazon EC2", the instance's id as board_asset_tag
//	Xen               /sys/hypervisor/uuid, or DMI product_uuid, begins with "ec2"; the latter in either byte order;
//	                  bios_version ends in ".amazon"
//
// What can't be read rules nothing out, and neither does Xen's own vendor name. A kernel without any DMI tables (each EC2
// instance has them, but for paravirtual Xen) is believed only where the firmware says whose machine it is: a device tree, or the
// ACPI tables of a virtual machine monitor that EC2 doesn't have.
func notEC2(root string) string {
	read := func(name string) string { return sysFile(root, name) }
	dmi := func(name string) string { return read("class/dmi/id/" + name) }
	if mayBeEC2(root) {
		return ""
	}
	for _, name := range []string{"sys_vendor", "board_vendor", "bios_vendor", "chassis_vendor"} {
		if vendor := dmi(name); strings.HasPrefix(vendor, "Amazon") || vendor == "Xen" {
			return ""
		}
	}
	if read("hypervisor/type") == "xen" && dmi("product_uuid") == "" {
		return ""
	}
	if vendor := dmi("sys_vendor"); vendor != "" {
		return "/sys/class/dmi/id/sys_vendor is " + vendor
	}
	if maker := acpiMaker(filepath.Join(root, "sys/firmware/acpi/tables/FACP")); maker != "" {
		for _, monitor := range []string{"FIRECK", "CLOUDH", "BOCHS"} { // Firecracker, Cloud Hypervisor, QEMU
			if maker == monitor {
				return "/sys/firmware/acpi/tables/FACP is by " + maker + ", and there is no DMI"
			}
		}
		return ""
	}
	if model := strings.Trim(read("firmware/devicetree/base/model"), "\x00"); model != "" {
		return "/sys/firmware/devicetree/base/model is " + model
	}
	return ""
}

// mayBeEC2 tells whether the kernel knows of something that EC2 instances have; a UUID may begin like theirs by chance.
func mayBeEC2(root string) bool {
	return saysEC2(root) || ec2UUID(sysFile(root, "class/dmi/id/product_uuid"))
}

// saysEC2 tells whether the kernel knows for certain that this is an EC2 instance.
func saysEC2(root string) bool {
	dmi := func(name string) string { return sysFile(root, "class/dmi/id/"+name) }
	return dmi("sys_vendor") == "Amazon EC2" || ec2UUID(sysFile(root, "hypervisor/uuid")) || strings.Contains(strings.ToLower(dmi("bios_version")), "amazon")
}

// shownInstance is the id of the EC2 instance as its firmware shows it, which Nitro's does; empty elsewhere.
func shownInstance(root string) string {
	if id := sysFile(root, "class/dmi/id/board_asset_tag"); saysEC2(root) && strings.HasPrefix(id, "i-") {
		return id
	}
	return ""
}

// sysFile is a small file below /sys; empty if it can't be read.
func sysFile(root, name string) string {
	data, err := os.ReadFile(filepath.Join(root, "sys", name))
	if err != nil || len(data) > 4096 {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// ec2UUID tells whether a UUID is of those that EC2 gives on Xen. SMBIOS has the first group's four bytes in either order.
func ec2UUID(uuid string) bool {
	uuid = strings.ToLower(uuid)
	return strings.HasPrefix(uuid, "ec2") || len(uuid) >= 8 && uuid[6:8] == "ec" && uuid[4] == '2'
}

// acpiMaker is the OEM ID of an ACPI table: the 6 bytes from 10 (ACPI specification, section 5.2.6); empty without one.
func acpiMaker(name string) string {
	data, err := os.ReadFile(name)
	if err != nil || len(data) < 16 {
		return ""
	}
	return strings.TrimRight(string(data[10:16]), " \x00")
}
