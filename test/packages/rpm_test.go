//go:build packages

package packages_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// programs are both packages' names.
var programs = []string{"longshore-agent", "longshore-control"}

// buildRPMs builds the rpms of a version, with something added to the control plane's configuration as it comes, and returns the file of each.
func buildRPMs(t *testing.T, version, added string) map[string]string {
	t.Helper()
	source, out := t.TempDir(), t.TempDir()
	must(t, "sh", "-ec", `cd ../..; git ls-files -z | tar -c --null --files-from=- | tar -x -C "$1"; printf %s "$2" >>"$1/packaging/control.env"`, "sh", source, added)
	must(t, "env", "OUT="+out, "FORMATS=rpm", "ARCHES="+must(t, "go", "env", "GOARCH"), "SOURCE_DATE_EPOCH=1700000000", filepath.Join(source, "packaging/build.sh"), version)
	files := map[string]string{}
	for _, p := range programs {
		found, err := filepath.Glob(filepath.Join(out, p+"-"+version+"-1.*.rpm"))
		if err != nil || len(found) != 1 {
			t.Fatal(p, found, err)
		}
		files[p] = found[0]
	}
	return files
}

// rpmTools fails where a tool is missing.
func rpmTools(t *testing.T) {
	t.Helper()
	if out, err := run(t, "", "sh", "-c", "command -v rpm && command -v rpmlint && test -x /bin/busybox && command -v systemd-sysusers"); err != nil {
		t.Fatalf("the tests of the rpms need more: apt-get install -y --no-install-recommends rpm rpmlint busybox-static systemd\n%s", out)
	}
}

// says compares what a command prints, its lines in order, with what it is to print.
func says(t *testing.T, want []string, name string, args ...string) {
	t.Helper()
	got := slices.DeleteFunc(strings.Split(must(t, name, args...), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("%s %s prints %q, not %q", name, strings.Join(args, " "), got, want)
	}
}

func TestTheRPMsSayWhatTheyAre(t *testing.T) {
	rpmTools(t)
	files := buildRPMs(t, "0.1.0", "")
	agent, control := files[programs[0]], files[programs[1]]
	for p, f := range files {
		if out := must(t, "rpm", "-K", f); !strings.HasSuffix(out, "digests OK") {
			t.Error(out)
		}
		says(t, []string{p + "|0.1.0|1|Apache-2.0|longshore"}, "rpm", "-qp", "--queryformat", "%{NAME}|%{VERSION}|%{RELEASE}|%{LICENSE}|%{BUILDHOST}\n", f)
		says(t, []string{"/usr/share/licenses/" + p + "/LICENSE"}, "rpm", "-qp", "--licensefiles", f)
		if docs := must(t, "rpm", "-qp", "--docfiles", f); !strings.Contains(docs, "/usr/share/man/man8/"+p+".8.gz") || !strings.Contains(docs, "/usr/share/doc/"+p+"/") {
			t.Errorf("the manual page of %s is not among its documentation:\n%s", p, docs)
		}
		says(t, nil, "rpm", "-qp", "--obsoletes", f) // an update of the system must not change the agent
		scripts := must(t, "rpm", "-qp", "--scripts", f)
		for _, s := range []string{"postinstall", "preuninstall", "postuninstall"} {
			if !strings.Contains(scripts, s+" scriptlet (using /bin/sh):") {
				t.Errorf("%s has no %s scriptlet", p, s)
			}
		}
		if strings.Contains(scripts, "preinstall scriptlet") || strings.Contains(scripts, "posttrans") {
			t.Errorf("%s has scriptlets that nothing says what they do:\n%s", p, scripts)
		}
	}
	says(t, []string{"amazon-ecs-init"}, "rpm", "-qp", "--conflicts", agent)
	says(t, []string{"amazon-ecs-init", "longshore-agent = 0.1.0-1"}, "rpm", "-qp", "--provides", agent)
	says(t, nil, "rpm", "-qp", "--conflicts", control)
	says(t, []string{"longshore-control = 0.1.0-1"}, "rpm", "-qp", "--provides", control)
	says(t, []string{"containerd"}, "rpm", "-qp", "--recommends", agent)
	says(t, []string{"shadow-utils"}, "rpm", "-qp", "--requires", control)
	says(t, nil, "rpm", "-qp", "--configfiles", agent) // nobody has joined yet
	says(t, []string{"/etc/longshore/control.env"}, "rpm", "-qp", "--configfiles", control)
	kept := must(t, "rpm", "-qp", "--queryformat", "[%{FILEFLAGS:fflags} %{FILEMODES:perms} %{FILENAMES}\n]", control)
	if !strings.Contains(kept, "cn -rw-r----- /etc/longshore/control.env") {
		t.Errorf("the configuration is not %%config(noreplace), or not for root alone:\n%s", kept)
	}
	// rpmlint ends with 0 on warnings: what it prints counts.
	if out := must(t, "rpmlint", "-c", "../../packaging/rpmlint.toml", agent, control); !strings.Contains(out, " 0 errors, 0 warnings") {
		t.Error(out)
	}
}

// root is a folder that rpm installs into: a shell, and what the scriptlets call.
type root struct {
	t   *testing.T
	dir string
}

// newRoot makes one: with systemctl, which writes down what it is asked, or without; and as one that systemd has booted, or as an image that is
// being made.
func newRoot(t *testing.T, systemctl, booted bool) *root {
	t.Helper()
	r := &root{t, t.TempDir()}
	must(t, "sh", "-ec", `cd "$1"
mkdir -p bin sbin dev etc run tmp usr/bin usr/lib var/lib/rpm
cp /bin/busybox bin/ && chroot . /bin/busybox --install -s /bin
mknod -m 666 dev/null c 1 3
echo root:x:0:0:root:/root:/bin/sh >etc/passwd; echo root:x:0: >etc/group; : >etc/shadow; : >etc/gshadow
for f in $(command -v systemd-sysusers) $(ldd "$(command -v systemd-sysusers)" | grep -o '/[^ ]*'); do mkdir -p ".${f%/*}"; cp -L "$f" ".$f"; done`, "sh", r.dir)
	if systemctl {
		r.write("usr/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/tmp/asked\n")
	}
	if booted {
		must(t, "mkdir", "-p", filepath.Join(r.dir, "run/systemd/system"))
	}
	must(t, "rpm", "--root", r.dir, "--dbpath", "/var/lib/rpm", "--initdb")
	return r
}

func (r *root) write(name, text string) {
	r.t.Helper()
	name = filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { //nolint:gosec // as in a system
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil { //nolint:gosec // programs
		r.t.Fatal(err)
	}
}

// rpm calls rpm on the folder, in a network of its own, as the agent's scriptlets take the host's rules away. What scriptlets print counts:
// where one fails, rpm says so and goes on.
func (r *root) rpm(args ...string) string {
	r.t.Helper()
	out := must(r.t, "unshare", append([]string{"--net", "rpm", "--root", r.dir, "--dbpath", "/var/lib/rpm"}, args...)...)
	if strings.Contains(out, "scriptlet failed") || strings.Contains(out, "warning:") && !strings.Contains(out, ".rpmnew") && !strings.Contains(out, ".rpmsave") ||
		strings.Contains(out, "not found") {
		r.t.Errorf("rpm %s says\n%s", strings.Join(args, " "), out)
	}
	return out
}

// asked is what systemctl was asked since the last time.
func (r *root) asked() []string {
	r.t.Helper()
	file := filepath.Join(r.dir, "tmp/asked")
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// files are all that are in the folder, but rpm's own and those of users and groups, which outlive packages.
func (r *root) files() []string {
	r.t.Helper()
	var all []string
	err := filepath.WalkDir(r.dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, r.dir)
		if name == "/var/lib/rpm" {
			return fs.SkipDir
		}
		for _, users := range []string{"passwd", "group", "shadow", "gshadow", ".pwd.lock"} {
			if strings.TrimSuffix(name, "-") == "/etc/"+users {
				return nil
			}
		}
		if name != "" {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *root) read(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// without are those that are not among others.
func without(all, others []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(f string) bool { return slices.Contains(others, f) })
}

func TestTheRPMsAreInstalledUpgradedAndErased(t *testing.T) {
	rpmTools(t)
	first, second := buildRPMs(t, "0.1.0", ""), buildRPMs(t, "0.2.0", "# new\n")
	for _, c := range []struct {
		name                          string
		systemctl, booted, configured bool
		install, upgrade, erase       []string // what systemctl is asked
	}{
		{name: "an image without systemd"},
		{name: "an image with systemd", systemctl: true,
			install: []string{"--quiet preset longshore-agent.service", "--quiet preset longshore-control.service"},
			erase:   []string{"--quiet disable longshore-agent.service", "--quiet disable longshore-control.service"}},
		{name: "an image with a configuration", systemctl: true, configured: true,
			install: []string{"--quiet preset longshore-agent.service", "--quiet preset longshore-control.service"},
			erase:   []string{"--quiet disable longshore-agent.service", "--quiet disable longshore-control.service"}},
		{name: "a host that was told nothing", systemctl: true, booted: true,
			install: []string{"--quiet preset longshore-agent.service", "daemon-reload", "kill --signal=HUP systemd-logind.service", "--quiet preset longshore-control.service", "daemon-reload"},
			upgrade: []string{"daemon-reload", "kill --signal=HUP systemd-logind.service", "try-restart longshore-agent.service", "daemon-reload", "try-restart longshore-control.service"},
			erase: []string{"stop longshore-control.service", "--quiet disable longshore-control.service", "daemon-reload",
				"stop longshore-agent.service longshore-drain.service", "--quiet disable longshore-agent.service", "daemon-reload"}},
		{name: "a host that is configured", systemctl: true, booted: true, configured: true,
			install: []string{"--quiet preset longshore-agent.service", "daemon-reload", "kill --signal=HUP systemd-logind.service", "start longshore-agent.service",
				"--quiet preset longshore-control.service", "daemon-reload"},
			upgrade: []string{"daemon-reload", "kill --signal=HUP systemd-logind.service", "try-restart longshore-agent.service", "daemon-reload", "try-restart longshore-control.service"},
			erase: []string{"stop longshore-control.service", "--quiet disable longshore-control.service", "daemon-reload",
				"stop longshore-agent.service longshore-drain.service", "--quiet disable longshore-agent.service", "daemon-reload"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRoot(t, c.systemctl, c.booted)
			if c.configured {
				r.write("etc/ecs/ecs.config", "ECS_CLUSTER=x\n")
			}
			before := r.files()
			asked := func(when string, want []string) {
				t.Helper()
				got := r.asked()
				// In which order rpm takes two packages is its own affair.
				slices.Sort(got)
				if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
					t.Errorf("%s systemctl is asked %q, not %q", when, got, want)
				}
			}
			r.rpm("-i", "--nodeps", first[programs[0]], first[programs[1]])
			asked("at the installation", c.install)
			owned := strings.Split(r.rpm("-ql", programs[0], programs[1]), "\n")
			for _, f := range without(without(r.files(), before), owned) {
				if info, err := os.Lstat(filepath.Join(r.dir, f)); err != nil || !info.IsDir() { // folders of the distribution's packages, that are not here
					t.Errorf("%s was written and is in no package (%v)", f, err)
				}
			}
			if group := must(t, "stat", "-c", "%a %g", filepath.Join(r.dir, "etc/longshore/control.env")); !strings.HasPrefix(group, "640 ") || group == "640 0" {
				t.Errorf("the configuration is of mode and group %s, not of 640 and the control plane's", group)
			}
			if !strings.Contains(r.read("etc/passwd"), "longshore:") {
				t.Error("the control plane has no user")
			}

			r.write("etc/longshore/control.env", "# mine\n")
			r.rpm("-U", "--nodeps", second[programs[0]], second[programs[1]])
			asked("at the upgrade", c.upgrade)
			says(t, []string{"longshore-agent-0.2.0-1", "longshore-control-0.2.0-1"}, "rpm", "--root", r.dir, "--dbpath", "/var/lib/rpm", "-qa", "--queryformat", "%{NAME}-%{VERSION}-%{RELEASE}\n")
			if mine, come := r.read("etc/longshore/control.env"), r.read("etc/longshore/control.env.rpmnew"); mine != "# mine\n" || !strings.HasSuffix(come, "# new\n") {
				t.Errorf("after the upgrade the configuration is %q, and beside it is %q", mine, come)
			}

			r.rpm("-e", programs[0], programs[1])
			asked("at the erasure", c.erase)
			// The folders of the distribution's own packages are not ours to take away.
			left := slices.DeleteFunc(without(r.files(), before), func(f string) bool {
				info, err := os.Lstat(filepath.Join(r.dir, f))
				return err == nil && info.IsDir() && !strings.Contains(f, "longshore") && !strings.Contains(f, "ecs")
			})
			if want := []string{"/etc/longshore", "/etc/longshore/control.env.rpmnew", "/etc/longshore/control.env.rpmsave"}; !slices.Equal(left, want) {
				t.Errorf("this is left: %q", left)
			}
			if r.read("etc/longshore/control.env.rpmsave") != "# mine\n" {
				t.Error("the changed configuration was not kept")
			}
			if gone := without(before, r.files()); len(gone) != 0 {
				t.Errorf("this was not theirs, and is gone: %q", gone)
			}
		})
	}
}

// TestAnRPMOfAmazonsAgentAndOursExcludeEachOther has an rpm with the name of Amazon's be there first.
func TestAnRPMOfAmazonsAgentAndOursExcludeEachOther(t *testing.T) {
	rpmTools(t)
	r := newRoot(t, false, false)
	dir := t.TempDir()
	spec := filepath.Join(dir, "nfpm.yaml")
	if err := os.WriteFile(spec, []byte("name: amazon-ecs-init\nversion: 1.2.3\narch: all\nmaintainer: a <a@b.example>\ndescription: stands for Amazon's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nfpm := strings.Fields(must(t, "sed", "-n", `s/^NFPM="\(.*\)"/\1/p`, "../../packaging/build.sh"))
	must(t, nfpm[0], append(nfpm[1:], "package", "--config", spec, "--packager", "rpm", "--target", dir)...)
	theirs, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil || len(theirs) != 1 {
		t.Fatal(theirs, err)
	}
	r.rpm("-i", theirs[0])
	ours := buildRPMs(t, "0.1.0", "")[programs[0]]
	for _, how := range []string{"-i", "-U"} {
		out, err := run(t, "", "rpm", "--root", r.dir, "--dbpath", "/var/lib/rpm", how, "--test", ours)
		if err == nil || !strings.Contains(out, "amazon-ecs-init conflicts with longshore-agent-0.1.0-1") {
			t.Errorf("beside Amazon's rpm %s says %v: %s", how, err, out)
		}
	}
	r.rpm("-e", "amazon-ecs-init")
	r.rpm("-i", ours)
}
