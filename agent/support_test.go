package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/protocol/join"
)

// secret is one that is planted at a place, and is like no other.
func secret(place string) string { return "S3cr+t/" + place + "?é\"=q" }

// unpack reads an archive.
func unpack(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	zipped, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		files[name] = string(data)
	}
}

var (
	encoded = regexp.MustCompile(`[A-Za-z0-9+/_-]{8,}`)
	escape  = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// readings are a text as it is, and as it is once its escapes are undone, and what is base64 in it is decoded at each place where that may begin.
func readings(text string) []string {
	plain := escape.ReplaceAllStringFunc(text, func(s string) string {
		if u, err := url.PathUnescape(s); err == nil {
			return u
		}
		return s
	})
	all := []string{text, plain, strings.ReplaceAll(text, `\`, ""), strings.ReplaceAll(plain, "+", " ")}
	var decoded strings.Builder
	for _, run := range encoded.FindAllString(text+"\n"+plain, -1) {
		run = strings.NewReplacer("-", "+", "_", "/").Replace(run)
		for skip := range 4 {
			part := run[skip:]
			if raw, err := base64.RawStdEncoding.DecodeString(part[:len(part)-len(part)%4]); err == nil {
				decoded.Write(raw)
				decoded.WriteByte('\n')
			}
		}
	}
	return append(all, decoded.String())
}

// search fails for each secret that is somewhere. The middle of a secret is what is looked for: a part of it gives it away too.
func search(t *testing.T, files map[string]string, places []string) {
	t.Helper()
	for name, text := range files {
		for _, reading := range readings(text) {
			for _, p := range places {
				s := secret(p)
				if i := strings.Index(reading, s[4:len(s)-8]); i >= 0 {
					t.Errorf("%s has the secret of %s: %q", name, p, reading[max(0, i-60):min(len(reading), i+60)])
				}
			}
		}
	}
}

// logLines are lines with secrets, some known by value elsewhere on this host, some only by what stands around them.
func logLines() (lines string, places []string) {
	line := func(place, format string, args ...any) {
		places = append(places, place)
		lines += fmt.Sprintf("level=info time=%s msg=\"", time.Now().UTC().Format(time.RFC3339)) + fmt.Sprintf(format, args...) + "\"\n"
	}
	quote := func(s string) string { raw, _ := json.Marshal(s); return string(raw) }
	known := secret("the settings")
	line("the settings", "in clear %s, in JSON %s, in a query %s, in a path %s", known, quote(known), url.QueryEscape(known), url.PathEscape(known))
	line("the settings", "in base64 %s and with others %s %s", base64.StdEncoding.EncodeToString([]byte(known)), base64.URLEncoding.EncodeToString([]byte("u:"+known)), base64.StdEncoding.EncodeToString([]byte(`{"a":`+quote(known)+`}`)))
	line("a log line", `password=%s`, "'"+secret("a log line")+"'")
	line("a log line in JSON", `{"db_password":%s}`, quote(secret("a log line in JSON")))
	line("an argument", `started with --db-password '%s'`, secret("an argument"))
	line("a header", "Authorization: Bearer %s", base64.RawURLEncoding.EncodeToString([]byte(secret("a header"))))
	line("a URL in a log line", "pull from https://user:%s@registry.example/v2/", url.QueryEscape(secret("a URL in a log line")))
	line("a private key", "-----BEGIN RSA PRIVATE KEY-----\n%s\n-----END RSA PRIVATE KEY-----", base64.StdEncoding.EncodeToString([]byte(secret("a private key"))))
	token := join.Token{AccessKeyID: "AKIAAAAAAAAAAAAAAAAA", SecretAccessKey: base64.StdEncoding.EncodeToString([]byte(secret("a join token")))}
	line("a join token", "longshore-agent join https://control.example.com --token %s; %s", token, token)
	return lines, places
}

func TestNoSecretOfAHostIsInItsBundle(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	dockerConfig := t.TempDir()
	quote := func(s string) string { raw, _ := json.Marshal(s); return string(raw) }
	writeFile(t, filepath.Join(dockerConfig, "config.json"), `{"auths":{"registry.example":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("user:"+secret("docker's config")))+`","identitytoken":`+quote(secret("an identity token"))+`}}}`)
	h.env = append(h.env, "AWS_SESSION_TOKEN="+secret("the settings"), "HTTPS_PROXY=http://user:"+url.QueryEscape(secret("a proxy"))+"@127.0.0.1:9", "ECS_ENGINE_AUTH_TYPE=docker",
		`ECS_ENGINE_AUTH_DATA={"registry.example":{"username":"u","password":`+quote(secret("engine auth"))+`}}`, "DOCKER_CONFIG="+dockerConfig, "ECS_LOGLEVEL=debug", "DB_PASSWORD="+secret("the environment"))
	leave := h.start()
	c.expect("connected " + first)
	c.sendWith(first, task1, "RUNNING", "")
	c.raw(fmt.Sprintf(`{"type":"PayloadMessage","message":{"clusterArn":"c","containerInstanceArn":%q,"messageId":"n","seqNum":2,"tasks":[
		{"arn":%q,"taskClusterArn":"c","family":"planted","version":"1","desiredStatus":"RUNNING","containers":[{"name":"web","image":"nowhere.example/none:1","essential":true,"memory":16,
		"environment":{"DB_PASSWORD":%s,"DATABASE_URL":%s},"command":["--token",%s],"dockerConfig":{"config":%s,"hostConfig":%s}}]}]}}`, first, task1+"x", quote(secret("a variable")), quote("postgres://u:"+url.QueryEscape(secret("a database URL"))+"@db/x"),
		quote(secret("a command")), quote(`{"Labels":{"db.password":`+quote(secret("a label"))+`}}`), quote(`{"LogConfig":{"Type":"splunk","Config":{"splunk-token":`+quote(secret("a log option"))+`}}}`)))
	c.expect("submit "+task1+" RUNNING", "submit "+task1+"x STOPPED")

	planted := []string{"the settings", "docker's config", "an identity token", "a proxy", "engine auth", "the environment", "a variable", "a database URL", "a command", "a label", "a log option"}
	search(t, map[string]string{"the log itself": h.log()}, planted)
	opt := BundleOptions{Options: h.options(), Since: time.Hour, Name: "bundle"}
	writeFile(t, opt.Config.File, "ANOTHERS_PASSWORD='"+secret("an unknown setting")+"'\nECS_LOG_OPTS={\"splunk-token\":"+quote(secret("log options"))+"}\n")
	lines, places := logLines()
	f, err := os.OpenFile(filepath.Join(h.dir, "agent.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteString(lines + "level=info time=2020-01-01T00:00:00Z msg=\"long ago\"\n"); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	places = append(append(places, planted...), "an unknown setting", "log options", "the host's key", "a profile")

	take := func() map[string]string {
		t.Helper()
		var out bytes.Buffer
		opt.Out = &out
		if _, err := Bundle(t.Context(), opt); err != nil {
			t.Fatal(err)
		}
		files := unpack(t, &out)
		search(t, files, places)
		return files
	}
	files := take()
	for name, want := range map[string]string{"settings.txt": "ECS_CLUSTER=daemonset (the environment)", "state/tasks.json": task1, "state/records.json": "planted", "tasks/t1x/explain.txt": "CannotPull",
		"logs/agent.log": "Registered", "contents.txt": "doctor.txt", "kernel/proc.txt": "MemTotal", "network/nftables.txt": "nft list ruleset", "engine/containers.json": task1, "doctor.txt": "configuration", "versions.txt": "0.1.0"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, files[name])
		}
	}
	if strings.Contains(files["logs/agent.log"], "long ago") {
		t.Error("a line is older than was asked for")
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}

	// With nothing that answers, it is made all the same.
	key, err := json.Marshal(map[string]any{"version": 1, "current": hostkey.Key{AccessKeyID: "AKIAOWN", SecretAccessKey: secret("the host's key")}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(h.dir, hostkey.FileName), string(key))
	profile := filepath.Join(t.TempDir(), "credentials")
	writeFile(t, profile, "[default]\naws_secret_access_key = "+secret("a profile")+"\n")
	opt.Config.Environ = append(opt.Config.Environ, "AWS_SHARED_CREDENTIALS_FILE="+profile)
	known, err := os.OpenFile(filepath.Join(h.dir, "agent.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = fmt.Fprintf(known, "time=%s msg=\"seen %s and %s\"\n", time.Now().UTC().Format(time.RFC3339), secret("the host's key"), secret("a profile")); err != nil || known.Close() != nil {
		t.Fatal(err)
	}
	h.engine.Down()
	files = take()
	for name, want := range map[string]string{"state/tasks.json": "FAILED: no agent answers", "engine/info.json": "FAILED", "state/records.json": task1, "logs/agent.log": "seen [hidden]", "contents.txt": "FAILED"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, files[name])
		}
	}
}

// A configuration that an agent does not start with is what a bundle is wanted for.
func TestABundleIsMadeWithABrokenConfiguration(t *testing.T) {
	h := newTestHost(t, nil)
	opt := BundleOptions{Options: h.options(), Since: time.Hour, Name: "bundle"}
	opt.Config.Environ = append(h.env, "ECS_HOST_VOLUME_CHECK=perhaps")
	var out bytes.Buffer
	opt.Out = &out
	failed, err := Bundle(t.Context(), opt)
	if err != nil || failed == 0 {
		t.Fatal(failed, err)
	}
	if files := unpack(t, &out); !strings.Contains(files["settings.txt"], "perhaps") || !strings.Contains(files["kernel/proc.txt"], "MemTotal") {
		t.Errorf("%s", files["settings.txt"])
	}
}
