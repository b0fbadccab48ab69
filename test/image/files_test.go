// Package image_test holds what is in packaging/image to what is said of it. What needs a system to bake into is in bake_test.go, and is run
// by make test-image.
package image_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const dir = "../../packaging/image/"

func TestShellcheckHasNothingToSayAgainstTheScripts(t *testing.T) {
	tool, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Fatalf("%v; install it with: apt-get install -y shellcheck", err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, dir+"bake.sh", dir+"user-data/ecs-config.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestThePackerTemplateIsSoundAndBakesWithTheScript(t *testing.T) {
	text, err := os.ReadFile(dir + "longshore.pkr.hcl")
	if err != nil {
		t.Fatal(err)
	}
	file, problems := hclsyntax.ParseConfig(text, "longshore.pkr.hcl", hcl.InitialPos)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		t.Fatalf("%T", file.Body)
	}
	var blocks, variables, used []string
	for _, b := range body.Blocks {
		blocks = append(blocks, b.Type)
		if b.Type == "variable" {
			variables = append(variables, b.Labels[0])
		}
	}
	for _, want := range []string{"packer", "source", "build"} {
		if !slices.Contains(blocks, want) {
			t.Errorf("it has no block %s", want)
		}
	}
	if problems := hclsyntax.VisitAll(body, func(n hclsyntax.Node) hcl.Diagnostics {
		if e, ok := n.(*hclsyntax.ScopeTraversalExpr); ok && e.Traversal.RootName() == "var" {
			if name, ok := e.Traversal[1].(hcl.TraverseAttr); ok {
				used = append(used, name.Name)
			}
		}
		return nil
	}); problems.HasErrors() {
		t.Fatal(problems)
	}
	slices.Sort(used)
	slices.Sort(variables)
	if got := slices.Compact(used); !slices.Equal(got, variables) {
		t.Errorf("variables %q are declared, and %q used", variables, got)
	}
	if !strings.Contains(string(text), "bash /tmp/bake.sh --package") {
		t.Error("it does not call the script")
	}
}

func TestTheExampleOfJSONUserDataIsOne(t *testing.T) {
	text, err := os.ReadFile(dir + "user-data/agent.json")
	var document struct {
		ECSAgentConfiguration map[string]any
	}
	if err != nil || json.Unmarshal(text, &document) != nil || document.ECSAgentConfiguration["Cluster"] == "" {
		t.Errorf("%v %s", err, text)
	}
}

func TestTheScriptRefusesWhatItCanNotDoBeforeItDoesAnything(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "--package, or its --binaries"},
		{[]string{"--package", "/none.deb"}, "there is no file /none.deb"},
		{[]string{"--binaries", root, "--root", root}, "is no root directory of a system"},
		{[]string{"--binaries", root, "--package", dir + "bake.sh"}, "name one"},
		{[]string{"--frobnicate"}, "unknown argument --frobnicate"},
	} {
		out, err := exec.CommandContext(t.Context(), "bash", append([]string{dir + "bake.sh"}, c.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%q: %v\n%s", c.args, err, out)
		}
	}
	if left, err := filepath.Glob(filepath.Join(root, "*")); err != nil || len(left) > 0 {
		t.Errorf("%q %v", left, err)
	}
}
