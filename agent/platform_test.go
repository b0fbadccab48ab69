package agent

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// acpi is a table's header by a maker.
func acpi(maker string) string {
	return "FACP\x14\x01\x00\x00\x06\x66" + (maker + "      ")[:6] + "TABLE   "
}

func TestTheKernelRulesOutThatAHostIsAnEC2Instance(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		not   string // why it is none; empty: it may be one
	}{
		"nothing is known":                     {},
		"Nitro":                                {files: map[string]string{"class/dmi/id/sys_vendor": "Amazon EC2\n", "class/dmi/id/board_asset_tag": "i-0123456789abcdef0\n"}},
		"Nitro, firmware only":                 {files: map[string]string{"firmware/acpi/tables/FACP": acpi("AMAZON")}},
		"metal":                                {files: map[string]string{"class/dmi/id/sys_vendor": "Amazon EC2\n", "class/dmi/id/product_name": "m5.metal\n"}},
		"Xen":                                  {files: map[string]string{"hypervisor/uuid": "ec2e1916-9099-7caf-fd21-012345abcdef\n", "class/dmi/id/sys_vendor": "Xen\n"}},
		"Xen, paravirtual":                     {files: map[string]string{"hypervisor/uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n", "hypervisor/type": "xen\n"}},
		"Xen, by SMBIOS":                       {files: map[string]string{"class/dmi/id/sys_vendor": "Somebody\n", "class/dmi/id/product_uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n"}},
		"Xen, by SMBIOS, swapped":              {files: map[string]string{"class/dmi/id/sys_vendor": "Somebody\n", "class/dmi/id/product_uuid": "45E12AEC-DCD1-B213-94ED-012345ABCDEF\n"}},
		"Xen, by its BIOS":                     {files: map[string]string{"class/dmi/id/sys_vendor": "Somebody\n", "class/dmi/id/bios_version": "4.11.amazon\n"}},
		"Xen that does not show itself":        {files: map[string]string{"class/dmi/id/sys_vendor": "Xen\n"}},
		"an unknown maker and no DMI":          {files: map[string]string{"firmware/acpi/tables/FACP": acpi("ALASKA")}},
		"a rack server":                        {files: map[string]string{"class/dmi/id/sys_vendor": "Dell Inc.\n", "class/dmi/id/product_uuid": "4c4c4544-0042-3510-8051-b4c04f4d3332\n"}, not: "sys_vendor is Dell Inc."},
		"QEMU":                                 {files: map[string]string{"class/dmi/id/sys_vendor": "QEMU\n"}, not: "sys_vendor is QEMU"},
		"another cloud":                        {files: map[string]string{"class/dmi/id/sys_vendor": "Google\n", "class/dmi/id/bios_vendor": "Google\n"}, not: "sys_vendor is Google"},
		"Firecracker":                          {files: map[string]string{"firmware/acpi/tables/FACP": acpi("FIRECK")}, not: "FACP is by FIRECK, and there is no DMI"},
		"a board with a device tree":           {files: map[string]string{"firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\x00"}, not: "model is Raspberry Pi 5 Model B Rev 1.0"},
		"a table that was cut off":             {files: map[string]string{"firmware/acpi/tables/FACP": "FACP"}},
		"a vendor's name of a million letters": {files: map[string]string{"class/dmi/id/sys_vendor": strings.Repeat("x", 1_000_000)}},
	} {
		root := t.TempDir()
		for file, content := range c.files {
			path := filepath.Join(root, "sys", file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := notEC2(root); !strings.Contains(got, c.not) || (got == "") != (c.not == "") {
			t.Errorf("%s: %q, want %q", name, got, c.not)
		}
	}
}

// asksMetadata lets the host's agents ask the instance metadata service at an address.
func (h *testHost) asksMetadata(address string) {
	h.env = append(slices.DeleteFunc(h.env, func(s string) bool { return strings.HasPrefix(s, "AWS_EC2_METADATA_") }), "AWS_EC2_METADATA_SERVICE_ENDPOINT="+address)
}

func TestWhatNeedsNoInstanceMetadataDoesNotWaitForIt(t *testing.T) {
	release, silent := make(chan struct{}), atomic.Bool{}
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if silent.Load() {
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		body, ok := map[string]string{
			"/latest/api/token": "token", "/latest/dynamic/instance-identity/signature": "c2ln",
			"/latest/dynamic/instance-identity/document": `{"instanceId":"i-1","region":"us-west-2","availabilityZone":"us-west-2b"}`,
		}[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
		_, _ = w.Write([]byte(body))
	}))
	defer imds.Close()
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.asksMetadata(imds.URL)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	silent.Store(true)
	states, err := h.engine.List(t.Context())
	if err != nil || len(states) != 1 {
		t.Fatalf("%v %v", states, err)
	}
	if err := h.engine.Stop(t.Context(), states[0].ID, 0); err != nil {
		t.Fatal(err)
	}
	leave = h.start()
	got := c.expect("submit " + task1 + " STOPPED") // found and told, while nobody answers who this host is
	if slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "register") }) {
		t.Errorf("it registered without knowing who it is: %q", got)
	}
	close(release)
	c.expect("register "+first+" as "+first, "connected "+first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(h.log(), "This is an EC2 instance"); n != 2 {
		t.Errorf("it was known as an EC2 instance %d times:\n%s", n, h.log())
	}
}

func TestAnOwnHostDoesNotAskForInstanceMetadata(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.env = slices.DeleteFunc(h.env, func(s string) bool { return strings.HasPrefix(s, "AWS_EC2_METADATA_") })
	dmi := filepath.Join(h.root, "sys/class/dmi/id")
	if err := os.MkdirAll(dmi, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dmi, "sys_vendor"), []byte("Dell Inc.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	leave := h.start()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.log(), "not asked") || !strings.Contains(h.log(), "sys_vendor is Dell Inc.") {
		t.Error(h.log())
	}
}

func TestAnInstancesRoleIsWaitedForByWhoNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, done := &lookout{answered: make(chan struct{})}, atomic.Bool{}
		var err error
		go func() {
			_, err = l.Retrieve(t.Context())
			done.Store(true)
		}()
		if synctest.Wait(); done.Load() {
			t.Fatalf("it did not wait: %v", err)
		}
		close(l.answered)
		if synctest.Wait(); err == nil || !strings.Contains(err.Error(), "it is no EC2 instance") {
			t.Error(err)
		}
	})
}
