package agent

import (
	"path/filepath"
	"slices"
	"strings"
)

// volumePlugins are the names of the plugins beside the container engine, where it looks for them: sockets in
// /run/docker/plugins, and files that name an address in /etc/docker/plugins and /usr/lib/docker/plugins, each there or in a
// directory of its own name. The engine itself lists such a plugin only once it was used. Which of them keep volumes only
// asking them would tell; as with Amazon ECS all are advertised.
func volumePlugins(root string) (names []string) {
	for dir, suffixes := range map[string][]string{"run/docker/plugins": {".sock"}, "etc/docker/plugins": {".spec", ".json"}, "usr/lib/docker/plugins": {".spec", ".json"}} {
		for _, suffix := range suffixes {
			plain, _ := filepath.Glob(filepath.Join(root, dir, "*"+suffix))
			nested, _ := filepath.Glob(filepath.Join(root, dir, "*", "*"+suffix))
			for _, path := range plain {
				names = append(names, strings.TrimSuffix(filepath.Base(path), suffix))
			}
			for _, path := range nested {
				if name := strings.TrimSuffix(filepath.Base(path), suffix); name == filepath.Base(filepath.Dir(path)) {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
