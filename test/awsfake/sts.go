package awsfake

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Session is what AssumeRole gave.
type Session struct {
	Role, Name string
	aws.Credentials
}

// Sessions are the sessions of a role so far, the last one last.
func (s *Server) Sessions(role string) (out []Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		if role == "" || x.Role == role {
			out = append(out, x)
		}
	}
	return out
}

var sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// sts answers the Security Token Service's operations, which are forms and XML.
func (s *Server) sts(w http.ResponseWriter, call Call) {
	form, err := url.ParseQuery(call.Body)
	if err != nil || form.Get("Version") != "2011-06-15" {
		stsFail(w, http.StatusBadRequest, "InvalidAction", "no form of the version 2011-06-15")
		return
	}
	if call.Operation != "AssumeRole" {
		stsFail(w, http.StatusBadRequest, "InvalidAction", "Could not find operation "+call.Operation)
		return
	}
	role, name := form.Get("RoleArn"), form.Get("RoleSessionName")
	seconds, err := strconv.Atoi(form.Get("DurationSeconds"))
	life, known := s.Roles[role]
	switch {
	case !sessionName.MatchString(name):
		stsFail(w, http.StatusBadRequest, "ValidationError", "1 validation error detected: Value '"+name+"' at 'roleSessionName' failed to satisfy constraint")
		return
	case err != nil || seconds < 900 || seconds > 43200:
		stsFail(w, http.StatusBadRequest, "ValidationError", "1 validation error detected: Value at 'durationSeconds' failed to satisfy constraint")
		return
	case !known:
		stsFail(w, http.StatusForbidden, "AccessDenied", "User: arn:aws:iam::123456789012:user/control is not authorized to perform: sts:AssumeRole on resource: "+role)
		return
	}
	if life == 0 {
		life = time.Duration(seconds) * time.Second
	}
	var random [10]byte
	rand.Read(random[:])
	x := Session{Role: role, Name: name, Credentials: aws.Credentials{
		AccessKeyID: fmt.Sprintf("ASIA%X", random[:8]), SecretAccessKey: "planted-secret-" + hex.EncodeToString(random[:]), SessionToken: "planted-token-" + hex.EncodeToString(random[:]) + "//==",
		CanExpire: true, Expires: time.Now().Add(life).UTC().Truncate(time.Second),
	}}
	s.sessions = append(s.sessions, x)
	s.Keys = append(s.Keys, x.Credentials)
	type credentials struct {
		AccessKeyID     string `xml:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}
	w.Header().Set("Content-Type", "text/xml")
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName   xml.Name    `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
		Keys      credentials `xml:"AssumeRoleResult>Credentials"`
		Arn       string      `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
		ID        string      `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
		RequestID string      `xml:"ResponseMetadata>RequestId"`
	}{Keys: credentials{x.AccessKeyID, x.SecretAccessKey, x.SessionToken, x.Expires.Format(time.RFC3339)}, Arn: role + "/" + name, ID: "AROAEXAMPLE:" + name, RequestID: "req-1"})
}

func stsFail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	type problem struct{ Type, Code, Message string }
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Error     problem
		RequestID string `xml:"RequestId"`
	}{Error: problem{"Sender", code, message}, RequestID: "req-1"})
}
