package config

import (
	"slices"
	"testing"
)

func TestCredentialHelpersGetNothingButPathsAndProxies(t *testing.T) {
	t.Setenv("HOME", "/home/agent")
	t.Setenv("PATH", "/opt/bin")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "planted")
	c := &Config{EngineAuthData: "planted"}
	if got, want := c.HelperEnvironment(), []string{"HOME=/home/agent", "DOCKER_CONFIG=/home/agent/.docker", "PATH=/opt/bin"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.DockerConfig, c.Proxy.HTTPS = "/etc/docker-of-agent", "http://proxy.example:3128"
	t.Setenv("PATH", "")
	t.Setenv("HOME", "")
	want := []string{
		"HOME=/root", "DOCKER_CONFIG=/etc/docker-of-agent", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HTTPS_PROXY=http://proxy.example:3128", "https_proxy=http://proxy.example:3128",
	}
	if got := c.HelperEnvironment(); !slices.Equal(got, want) || c.DockerConfigFile() != "/etc/docker-of-agent/config.json" {
		t.Errorf("got %q, want %q", got, want)
	}
}
