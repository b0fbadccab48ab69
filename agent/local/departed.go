package local

// Departed is the answer of POST /v1/depart: this host's tasks have stopped, but for the problem.
type Departed struct {
	Problem string `json:"problem,omitempty"`
}
