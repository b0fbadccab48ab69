package auth

import "net/http"

// ClaimedKey is the id of the access key that a request says it was signed with, whether it was or not; empty where it says
// none. It is for logs only.
func ClaimedKey(r *http.Request) string {
	a, refusal := parseAuthorization(r.Header.Get("Authorization"))
	if refusal != nil {
		return ""
	}
	return a.accessKeyID
}
