package secrets

import "strings"

// parseEnvFile reads a file of variables in ECS's form: VARIABLE=VALUE on each line, with blanks and quotation marks a part of
// the value, and "=" too. Empty lines, lines that begin with '#', and those without a name, a "=" or a value say
// nothing; skipped are the numbers of the latter. Of two lines with one variable the later counts.
func parseEnvFile(data []byte) (variables map[string]string, skipped []int) {
	variables = map[string]string{}
	text := strings.TrimPrefix(string(data), "\ufeff")
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(line, "=")
		if name == "" || value == "" || strings.Contains(line, "\x00") {
			skipped = append(skipped, i+1)
			continue
		}
		variables[name] = value
	}
	return variables, skipped
}
